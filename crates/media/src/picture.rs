//! Reading pictures: PNG, JPEG, WebP, GIF and BMP, of any depth and any colour model, as 8-bit sRGB.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use gallop_core::{Frame, PixelSize, Result, UserError};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::fail::{bad_file, cannot_read, guarded};

/// Most pixels taken; the largest cameras make 61 million.
const MAX_PIXELS: u64 = 64_000_000;
/// Longest file taken, in bytes.
const MAX_BYTES: u64 = 512 << 20;
/// Memory that a decoder may use, in bytes.
const MAX_MEMORY: u64 = 1 << 30;

const USE_ANOTHER: &str = "use a PNG, JPEG, WebP, GIF or BMP that other programs open";

/// Reads a picture: turned upright as its EXIF says, alpha laid over white, the first of an animation.
///
/// Colour profiles are not applied; CMYK is converted without one.
///
/// # Errors
/// A file that is missing, damaged, cut short, no picture, or larger than 64 million pixels.
pub fn read_image(path: &Path) -> Result<Frame> {
    let bytes = read_file(path, MAX_BYTES)?;
    guarded(path, || decode(path, &bytes))
}

/// The bytes of a file of at most `most` bytes.
pub(crate) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let mut bytes = Vec::new();
    BufReader::new(file)
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_read(path, &error))?;
    if bytes.is_empty() {
        return Err(bad_file(path, "is empty", "use another file"));
    }
    if bytes.len() as u64 > most {
        let wrong = format!("is longer than {} MB", most >> 20);
        return Err(bad_file(path, wrong, "use a smaller file"));
    }
    Ok(bytes)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Frame> {
    let damaged = |error| {
        let wrong = format!("cannot be decoded ({})", one_line(&error));
        bad_file(path, wrong, USE_ANOTHER)
    };
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| cannot_read(path, &error))?;
    if reader.format().is_none() {
        return Err(bad_file(path, "is no picture that is known", USE_ANOTHER));
    }
    let jpeg = reader.format() == Some(image::ImageFormat::Jpeg);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(path, width, height)?;
    // The JPEG decoder fills what is missing with grey instead of complaining.
    if jpeg && !ends(bytes) {
        return Err(bad_file(path, "is cut short", USE_ANOTHER));
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    Ok(over_white(picture))
}

fn check_size(path: &Path, width: u32, height: u32) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(bad_file(path, "has no pixel", USE_ANOTHER));
    }
    if pixels > MAX_PIXELS {
        return Err(UserError::new(
            format!("`{}` is {width}x{height} pixels", path.display()),
            "scale it down to at most 64 megapixels (8000x8000)",
        ));
    }
    Ok(())
}

/// Whether a JPEG's end marker follows its last scan; inside a scan, that marker cannot occur.
fn ends(jpeg: &[u8]) -> bool {
    let last = |marker: u8| jpeg.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(0xd9) > last(0xda)
}

fn over_white(picture: DynamicImage) -> Frame {
    let size = PixelSize::new(picture.width() as usize, picture.height() as usize);
    let rgb = match picture.color().has_alpha() {
        false => picture.into_rgb8().into_raw(),
        true => {
            let over = |c: u8, a: u8| {
                let (c, a) = (u32::from(c), u32::from(a));
                ((c * a + 255 * (255 - a) + 127) / 255) as u8
            };
            let rgba = picture.into_rgba8();
            rgba.pixels()
                .flat_map(|p| [0, 1, 2].map(|i| over(p[i], p[3])))
                .collect()
        }
    };
    Frame { size, rgb }
}

/// An error's first line, shortened.
fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines()
        .next()
        .unwrap_or("")
        .chars()
        .take(120)
        .collect()
}
