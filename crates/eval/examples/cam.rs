//! temp
use gallop_core::PixelSize;
use gallop_eval::Seen;
use gallop_eval::Detectors;
use gallop_world::{Look, Split, WorldConfig};
fn main() {
    let world = WorldConfig {
        families: vec!["ball".into()],
        looks: vec![Look::Soft3d, Look::Flat],
        sizes: vec![PixelSize::new(128, 80)],
        frames: vec![49],
        audio: false,
        split: Split::Train,
    };
    let finder = Detectors::from_bytes(&std::fs::read(std::env::args().nth(1).unwrap()).unwrap(), "f").unwrap().finder;
    for i in 0..60u64 {
        let r = world.render(7_000_000_000 + i).unwrap();
        let s = Seen::new(&r.clip, &finder);
        let a = &r.truth.attributes;
        let last = s.moving.to_first.last().unwrap();
        let spread: f32 = s.moving.steps.iter().map(|m| m.dx.abs() + m.dy.abs()).sum();
        let zero = s.moving.steps.iter().filter(|m| m.dx == 0.0 && m.zoom == 0.0).count();
        println!("{:10} {:8} {:10} {:10} {:?} dx {:+.3} dy {:+.3} zoom {:+.3} lean {:+.3} way {:.3} rest {}",
          a.camera.key(), a.look.key(), a.place, a.floor.clone().unwrap_or_default(), a.weather, last.dx, last.dy, last.zoom, last.lean, spread, zero);
    }
}
