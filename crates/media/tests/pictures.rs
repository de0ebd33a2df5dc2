//! Pictures of every kind that people have.

use std::path::{Path, PathBuf};

use gallop_core::PixelSize;
use gallop_media::{fit_image, read_image, write_image};
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, Rgba};
use tempfile::TempDir;

mod common;

/// 30x20: red on the left, blue on the right, the top left corner green.
fn sample() -> DynamicImage {
    let pixel = |x, y| match (x, y) {
        (0..8, 0..8) => Rgb([0, 255, 0]),
        (0..15, _) => Rgb([255, 0, 0]),
        _ => Rgb([0, 0, 255]),
    };
    DynamicImage::ImageRgb8(ImageBuffer::from_fn(30, 20, pixel))
}

fn saved(folder: &TempDir, name: &str, image: &DynamicImage) -> PathBuf {
    let path = folder.path().join(name);
    image.save(&path).unwrap();
    path
}

fn near(a: [u8; 3], b: [u8; 3], by: u8) -> bool {
    a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= by)
}

#[test]
fn every_format_and_depth_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp"] {
        let frame = read_image(&saved(&folder, name, &sample())).unwrap();
        assert_eq!(frame.size, PixelSize::new(30, 20));
        assert!(near(frame.pixel(2, 2), [0, 255, 0], 12), "{name}");
        assert!(near(frame.pixel(4, 15), [255, 0, 0], 12), "{name}");
        assert!(near(frame.pixel(27, 10), [0, 0, 255], 12), "{name}");
    }
    let deep = ImageBuffer::from_pixel(3, 3, Rgb([65535u16, 32896, 0]));
    let frame = read_image(&saved(&folder, "deep.png", &deep.into())).unwrap();
    assert_eq!(frame.pixel(1, 1), [255, 128, 0]);
    let grey = ImageBuffer::from_pixel(3, 3, Luma([77u8]));
    let frame = read_image(&saved(&folder, "grey.png", &grey.into())).unwrap();
    assert_eq!(frame.pixel(1, 1), [77, 77, 77]);
    let one = ImageBuffer::from_pixel(1, 1, Rgb([1u8, 2, 3]));
    let frame = read_image(&saved(&folder, "one.png", &one.into())).unwrap();
    assert_eq!(
        (frame.size, frame.pixel(0, 0)),
        (PixelSize::new(1, 1), [1, 2, 3])
    );
    let fitted = fit_image(&frame, PixelSize::new(448, 256));
    assert!(fitted.rgb.chunks(3).all(|p| p == [1, 2, 3]));
}

#[test]
fn what_is_transparent_is_white() {
    let folder = tempfile::tempdir().unwrap();
    let clear = ImageBuffer::from_pixel(2, 2, Rgba([0u8, 0, 0, 0]));
    let frame = read_image(&saved(&folder, "clear.png", &clear.into())).unwrap();
    assert_eq!(frame.pixel(0, 0), [255, 255, 255]);
    let half = ImageBuffer::from_pixel(2, 2, LumaA([0u16, 32896]));
    let frame = read_image(&saved(&folder, "half.png", &half.into())).unwrap();
    assert_eq!(frame.pixel(0, 0), [127, 127, 127]);
}

#[test]
fn cmyk_is_converted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cmyk.jpg");
    let frame = read_image(&path).unwrap();
    assert!(
        near(frame.pixel(4, 8), [0, 255, 255], 12),
        "{:?}",
        frame.pixel(4, 8)
    );
    assert!(
        near(frame.pixel(28, 8), [255, 0, 0], 12),
        "{:?}",
        frame.pixel(28, 8)
    );
}

/// A JPEG of [`sample`] whose EXIF says `orientation`.
fn turned(orientation: u8) -> Vec<u8> {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    sample().write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut out = jpeg[..2].to_vec();
    out.extend([0xff, 0xe1]);
    out.extend((exif.len() as u16 + 2).to_be_bytes());
    out.extend(exif);
    out.extend(&jpeg[2..]);
    out
}

#[test]
fn pictures_stand_upright() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    // Where the green corner of the stored picture is seen: left, top, and whether sides are swapped.
    for (orientation, left, top, swapped) in [
        (1, true, true, false),
        (2, false, true, false),
        (3, false, false, false),
        (4, true, false, false),
        (5, true, true, true),
        (6, false, true, true),
        (7, false, false, true),
        (8, true, false, true),
    ] {
        std::fs::write(&path, turned(orientation)).unwrap();
        let frame = read_image(&path).unwrap();
        let (w, h) = if swapped { (20, 30) } else { (30, 20) };
        assert_eq!(frame.size, PixelSize::new(w, h), "{orientation}");
        let corner = frame.pixel(if left { 2 } else { w - 3 }, if top { 2 } else { h - 3 });
        assert!(near(corner, [0, 255, 0], 20), "{orientation}: {corner:?}");
    }
}

#[test]
fn what_cannot_be_read_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let says = |path: &Path, words: &str| {
        let said = read_image(path).unwrap_err().to_string();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(words) && said.contains(name), "{said}");
        assert!(!said.contains('\n'), "{said}");
    };
    says(&folder.path().join("none.png"), "check the name");
    says(folder.path(), "cannot read");
    says(&write("empty.png", b""), "is empty");
    says(&write("text.png", b"hello, this is text"), "no picture");
    for name in ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp"] {
        let whole = std::fs::read(saved(&folder, name, &sample())).unwrap();
        says(
            &write(&format!("half-{name}"), &whole[..whole.len() * 2 / 3]),
            "use a PNG",
        );
    }
    // A PNG of 30000x30000 pixels, in 57 bytes: only the header counts.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0".to_vec();
    bomb.extend(crc32(&bomb[12..]).to_be_bytes());
    bomb.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82");
    says(&write("bomb.png", &bomb), "30000x30000");
    let mut huge = std::fs::read(folder.path().join("a.bmp")).unwrap();
    huge[18..22].copy_from_slice(&30_000u32.to_le_bytes());
    huge[22..26].copy_from_slice(&30_000u32.to_le_bytes());
    says(&write("huge.bmp", &huge), "30000x30000");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| match c & 1 {
            1 => c >> 1 ^ 0xedb8_8320,
            _ => c >> 1,
        })
    })
}

#[test]
fn a_written_picture_is_the_same_when_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let frame = common::picture(PixelSize::new(37, 23), 3);
    write_image(&path, &frame).unwrap();
    assert_eq!(read_image(&path).unwrap(), frame);
    let wrong = write_image(&folder.path().join("none/a.png"), &frame).unwrap_err();
    assert!(wrong.to_string().contains("make the folder"), "{wrong}");
}
