//! WebM files as ffmpeg sees them.

mod common;

use common::*;
use gallop_core::{Clip, Frame, PixelSize};
use gallop_media::{read_audio, write_clip};

#[test]
fn streams_are_what_players_expect() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let size = PixelSize::new(224, 128);
    let path = folder.path().join("clip.webm");
    let clip = clip(size, 60, true);
    write_clip(&path, &clip).unwrap();
    let probe = probe(&path);
    let video = stream(&probe, "video").unwrap();
    for (key, value) in [
        ("codec_name", "av1"),
        ("pix_fmt", "yuv420p"),
        ("color_range", "tv"),
        ("color_space", "bt709"),
        ("color_transfer", "bt709"),
        ("color_primaries", "bt709"),
        ("r_frame_rate", "24/1"),
        ("avg_frame_rate", "24/1"),
        ("nb_read_frames", "60"),
        ("start_time", "0.000000"),
    ] {
        assert_eq!(video[key], value, "{key}");
    }
    let audio = stream(&probe, "audio").unwrap();
    assert_eq!(audio["codec_name"], "vorbis");
    assert_eq!(audio["sample_rate"], "48000");
    assert!((number(&probe["format"]["duration"]) - 2.5).abs() < 0.001);
    let sound = decode_audio(&path);
    assert!(sound.len().abs_diff(120_000) < 2000, "{}", sound.len());
    let quality = psnr(&decode_frames(&path, size), &clip.frames);
    println!(
        "PSNR {quality:.1} dB in RGB, {} bytes",
        path.metadata().unwrap().len()
    );
    assert!(quality > 34.0, "{quality}");
    // Our own reader takes the sound out of it.
    let read = read_audio(&path).unwrap();
    assert!(read.len().abs_diff(120_000) < 2000, "{}", read.len());
}

#[test]
fn sound_is_within_a_millisecond_of_the_picture() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let size = PixelSize::new(64, 48);
    for (frames, at) in [(72, 24), (30, 1), (150, 139)] {
        let path = folder.path().join(format!("{at}.webm"));
        write_clip(&path, &flash_and_click(size, frames, at)).unwrap();
        let decoded = decode_frames(&path, size);
        assert_eq!(decoded.len(), frames);
        let offset = offset_ms(&decoded, &decode_audio(&path));
        println!("flash and click at frame {at}: {offset:+.3} ms");
        assert!(offset.abs() < 1.0, "{offset}");
    }
}

#[test]
fn odd_sizes_short_and_silent_clips_and_colours() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (width, height, frames, sound) in [(17, 33, 5, true), (1, 1, 1, true), (64, 36, 1, false)] {
        let path = folder.path().join(format!("{width}x{height}.webm"));
        let size = PixelSize::new(width, height);
        let frame = Frame {
            size,
            rgb: [200, 120, 40].repeat(width * height),
        };
        let clip = Clip {
            frames: vec![frame; frames],
            audio: sound.then(|| gallop_core::Audio::silence(10)),
        };
        write_clip(&path, &clip).unwrap();
        let probe = probe(&path);
        let video = stream(&probe, "video").unwrap();
        assert_eq!(video["width"], width.max(16));
        assert_eq!(video["height"], height.max(16));
        assert_eq!(video["nb_read_frames"], frames.to_string());
        assert_eq!(stream(&probe, "audio").is_some(), sound);
        let shown = PixelSize::new(width.max(16), height.max(16));
        for frame in decode_frames(&path, shown) {
            let near = |p: &[u8]| {
                p.iter()
                    .zip([200u8, 120, 40])
                    .all(|(a, b)| a.abs_diff(b) <= 3)
            };
            assert!(frame.rgb.chunks_exact(3).all(near), "{width}x{height}");
        }
    }
}

#[test]
fn equal_clips_are_equal_files_and_a_dropped_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(PixelSize::new(96, 64), 30, true);
    let [a, b] = ["a.webm", "b.webm"].map(|name| {
        let path = folder.path().join(name);
        write_clip(&path, &clip).unwrap();
        std::fs::read(path).unwrap()
    });
    assert!(a == b);
    let path = folder.path().join("c.webm");
    let mut writer = gallop_media::ClipWriter::create(&path, PixelSize::new(96, 64), true).unwrap();
    writer.push_frame(&clip.frames[0]).unwrap();
    drop(writer);
    assert_eq!(folder.path().read_dir().unwrap().count(), 2);
}
