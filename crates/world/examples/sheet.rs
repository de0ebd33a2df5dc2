//! A contact sheet of the world, and how fast it is drawn:
//! `cargo run --release -p gallop-world --example sheet -- ball /tmp/sheet.png`.

use std::time::Instant;

use gallop_core::PixelSize;
use gallop_world::{Look, WorldConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let family = args.next().unwrap_or_default();
    let path = args.next().unwrap_or_else(|| "/tmp/sheet.png".into());
    let (columns, rows) = (4usize, 5usize);
    let size = PixelSize::new(448, 256);
    let mut sheet =
        image::RgbImage::new((columns * size.width) as u32, (rows * size.height) as u32);
    for row in 0..rows {
        for column in 0..columns {
            let config = WorldConfig {
                families: if family.is_empty() {
                    vec![]
                } else {
                    vec![family.clone()]
                },
                looks: vec![Look::ALL[if rows == 5 { (row + 1) % 5 } else { 1 }]],
                sizes: vec![size],
                frames: vec![25],
                ..WorldConfig::default()
            };
            let start = Instant::now();
            let rendered = config.render((row * columns + column) as u64)?;
            let fps = 25.0 / start.elapsed().as_secs_f64();
            println!("{fps:6.0} fps {}", rendered.captions[2].text);
            let frame = &rendered.clip.frames[8];
            for y in 0..size.height {
                for x in 0..size.width {
                    let at = (
                        (column * size.width + x) as u32,
                        (row * size.height + y) as u32,
                    );
                    sheet.put_pixel(at.0, at.1, image::Rgb(frame.pixel(x, y)));
                }
            }
        }
    }
    sheet.save(path)?;
    Ok(())
}
