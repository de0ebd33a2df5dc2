//! The pictures of one clip as raw RGB on standard output, for a player or an encoder:
//! `... --example raw -- ball 7 49 448 256 | ffplay -f rawvideo -pixel_format rgb24 -video_size 448x256 -`.

use std::io::Write;

use gallop_core::PixelSize;
use gallop_world::WorldConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(or);
    let config = WorldConfig {
        families: args.first().cloned().into_iter().collect(),
        sizes: vec![PixelSize::new(number(3, 448), number(4, 256))],
        frames: vec![number(2, 121)],
        audio: false,
        ..WorldConfig::default()
    };
    let rendered = config.render(number(1, 0) as u64)?;
    eprintln!(
        "{}",
        rendered
            .to_json()
            .lines()
            .take(40)
            .collect::<Vec<_>>()
            .join("\n")
    );
    let mut out = std::io::stdout().lock();
    for frame in &rendered.clip.frames {
        out.write_all(&frame.rgb)?;
    }
    Ok(())
}
