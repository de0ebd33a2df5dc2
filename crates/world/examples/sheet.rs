//! A contact sheet of the world:
//! `cargo run --release -p gallop-world --example sheet -- sheet.png [family] [seed]`.

use gallop_core::PixelSize;
use gallop_world::{WorldConfig, contact_sheet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "sheet.png".into());
    let families: Vec<String> = args.next().into_iter().collect();
    let seed = args.next().map_or(Ok(0), |s| s.parse())?;
    let config = WorldConfig {
        families,
        sizes: vec![PixelSize::new(448, 256)],
        frames: vec![60],
        ..WorldConfig::default()
    };
    let sheet = contact_sheet(&config, 4, seed)?;
    let (width, height) = (sheet.size.width as u32, sheet.size.height as u32);
    image::save_buffer(path, &sheet.rgb, width, height, image::ColorType::Rgb8)?;
    Ok(())
}
