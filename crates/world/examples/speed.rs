//! Frames a second on one core, by family and look, sound included:
//! `cargo run --release -p gallop-world --example speed -- [frames] [width] [height] [family]`.

use std::time::Instant;

use gallop_core::PixelSize;
use gallop_world::{Look, WorldConfig, registry};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let (frames, size) = (
        number(0, 121),
        PixelSize::new(number(1, 448), number(2, 256)),
    );
    let clips = (484 / frames).clamp(2, 64) as u64;
    for family in registry() {
        if args.get(3).is_some_and(|name| name != family.name()) {
            continue;
        }
        for &look in Look::ALL {
            for audio in [false, true] {
                let config = WorldConfig {
                    families: vec![family.name().into()],
                    looks: vec![look],
                    sizes: vec![size],
                    frames: vec![frames],
                    audio,
                    ..WorldConfig::default()
                };
                config.render(99)?;
                let start = processor_seconds().ok_or(());
                let wall = Instant::now();
                for seed in 0..clips {
                    config.render(seed)?;
                }
                let wall = wall.elapsed().as_secs_f64();
                let spent = match (start, processor_seconds()) {
                    (Ok(start), Some(end)) => end - start,
                    _ => wall,
                };
                let sound = if audio { "with sound" } else { "pictures" };
                let fps = clips as f64 * frames as f64 / spent;
                println!(
                    "{:10} {:8} {sound:10} {fps:6.0} frames/s",
                    family.name(),
                    look.key()
                );
            }
        }
    }
    Ok(())
}

/// Seconds that this thread has really computed: other programs' work does not count (Linux).
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let spent: f64 = stat.split_whitespace().next()?.parse().ok()?;
    Some(spent / 1e9)
}
