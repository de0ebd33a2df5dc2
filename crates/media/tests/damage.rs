//! Whatever the bytes: an error that names the file, never a panic.

mod common;

use std::path::Path;
use std::sync::OnceLock;

use gallop_core::PixelSize;
use gallop_media::{read_audio, read_clip, read_image, write_audio, write_clip, write_image};
use proptest::prelude::*;

/// Files of every kind that is read, small enough to try thousands of damages.
fn samples() -> &'static [(&'static str, Vec<u8>)] {
    static SAMPLES: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let clip = common::clip(PixelSize::new(32, 32), 6, true);
        write_clip(&path("a.mp4"), &clip).unwrap();
        write_clip(&path("a.webm"), &clip).unwrap();
        write_audio(&path("a.wav"), clip.audio.as_ref().unwrap()).unwrap();
        write_image(&path("a.png"), &clip.frames[0]).unwrap();
        let frame = &clip.frames[0];
        let picture = image::RgbImage::from_raw(32, 32, frame.rgb.clone()).unwrap();
        let mut names = vec!["a.mp4", "a.webm", "a.wav", "a.png"];
        for name in ["a.jpg", "b.webp", "a.gif", "a.bmp"] {
            picture.save(path(name)).unwrap();
            names.push(name);
        }
        if common::have_ffmpeg() {
            for (name, options) in [
                ("a.mp3", "-c:a libmp3lame"),
                ("a.flac", "-c:a flac"),
                ("a.ogg", "-c:a libvorbis"),
                ("a.aiff", "-c:a pcm_s16be"),
                ("b.m4a", "-c:a aac"),
            ] {
                let args = format!(
                    "-v error -i {} {options} {}",
                    path("a.wav").display(),
                    path(name).display()
                );
                common::run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
                names.push(name);
            }
            let args = format!(
                "-v error -i {} -c:v libx264 -bf 2 -c:a aac {}",
                path("a.mp4").display(),
                path("c.mp4").display()
            );
            common::run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
            names.push("c.mp4");
        }
        names
            .into_iter()
            .map(|name| (name, std::fs::read(path(name)).unwrap()))
            .collect()
    })
}

/// Reads bytes as everything they might be; errors must be one line and name the file.
fn read_all(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let check = |said: Option<gallop_core::UserError>| {
        if let Some(said) = said.map(|said| said.to_string()) {
            assert!(said.contains(name) && !said.contains('\n'), "{said}");
        }
    };
    check(read_image(&path).err());
    check(read_audio(&path).err());
    check(read_clip(&path).err());
}

#[test]
fn the_samples_themselves_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in samples() {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let read = match Path::new(name).extension().unwrap().to_str().unwrap() {
            "mp4" => read_clip(&path).map(|_| ()),
            "png" | "jpg" | "webp" | "gif" | "bmp" => read_image(&path).map(|_| ()),
            _ => read_audio(&path).map(|_| ()),
        };
        assert!(read.is_ok(), "{name}: {read:?}");
    }
}

/// As many damages as `PROPTEST_CASES` says, else 400 of each kind.
fn cases() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 400;
    }
    config
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000), name in "[a-z]\\.(mp4|png|wav)") {
        read_all(&name, &bytes);
    }

    #[test]
    fn random_bytes_behind_a_true_beginning(
        index: prop::sample::Index, keep in 4usize..200,
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let (name, whole) = index.get(samples());
        let mut file = whole[..keep.min(whole.len())].to_vec();
        file.extend(bytes);
        read_all(name, &file);
    }

    #[test]
    fn files_cut_short(index: prop::sample::Index, share in 0.0..1.0) {
        let (name, whole) = index.get(samples());
        read_all(name, &whole[..(whole.len() as f64 * share) as usize]);
    }

    #[test]
    fn flipped_bits(
        index: prop::sample::Index,
        flips in proptest::collection::vec((0.0..1.0, 0u8..8), 1..12),
        near_start: bool,
    ) {
        let (name, whole) = index.get(samples());
        let mut file = whole.clone();
        let reach = if near_start { file.len().min(1500) } else { file.len() };
        for (place, bit) in flips {
            file[(reach as f64 * place) as usize] ^= 1 << bit;
        }
        read_all(name, &file);
    }

    #[test]
    fn numbers_gone_wild(
        index: prop::sample::Index, place in 0.0..1.0,
        value in prop::sample::select(vec![0u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x0100_0000]),
    ) {
        let (name, whole) = index.get(samples());
        let mut file = whole.clone();
        let at = (file.len().min(1500).saturating_sub(4) as f64 * place) as usize;
        file[at..at + 4].copy_from_slice(&value.to_be_bytes());
        read_all(name, &file);
    }
}
