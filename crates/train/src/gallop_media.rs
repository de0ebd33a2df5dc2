#![allow(missing_docs)]
use gallop_core::*;
use std::path::Path;
pub fn write_image(path: &Path, f: &Frame) -> gallop_core::Result<()> {
    let mut b = format!("P6 {} {} 255\n", f.size.width, f.size.height).into_bytes();
    b.extend(&f.rgb);
    std::fs::write(path.with_extension("ppm"), b).map_err(|e| UserError::new(e.to_string(), ""))
}
pub fn write_audio(path: &Path, a: &Audio) -> gallop_core::Result<()> {
    let b: Vec<u8> = a.interleaved().iter().flat_map(|x| ((x.clamp(-1.0, 1.0) * 32767.0) as i16).to_le_bytes()).collect();
    std::fs::write(path.with_extension("s16"), b).map_err(|e| UserError::new(e.to_string(), ""))
}
