//! MP4 files as ffmpeg sees them.

#![cfg(feature = "aac")]

mod common;

use common::*;
use gallop_core::{Clip, Frame, PixelSize};
use gallop_media::{ClipWriter, write_clip};

const SIZE: PixelSize = PixelSize::new(448, 256);

#[test]
fn streams_are_what_players_expect() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    let clip = clip(SIZE, 49, true);
    write_clip(&path, &clip).unwrap();
    let probe = probe(&path);
    let video = stream(&probe, "video").unwrap();
    for (key, value) in [
        ("codec_name", "h264"),
        ("pix_fmt", "yuv420p"),
        ("color_range", "tv"),
        ("color_space", "bt709"),
        ("color_transfer", "bt709"),
        ("color_primaries", "bt709"),
        ("r_frame_rate", "24/1"),
        ("avg_frame_rate", "24/1"),
        ("nb_read_frames", "49"),
        ("start_time", "0.000000"),
        ("profile", "Main"),
    ] {
        assert_eq!(video[key], value, "{key}");
    }
    assert_eq!(
        (&video["width"], &video["height"]),
        (&448.into(), &256.into())
    );
    assert_eq!(video["has_b_frames"], 0);
    let audio = stream(&probe, "audio").unwrap();
    for (key, value) in [
        ("codec_name", "aac"),
        ("profile", "LC"),
        ("sample_rate", "48000"),
        ("start_time", "0.000000"),
    ] {
        assert_eq!(audio[key], value, "{key}");
    }
    assert_eq!(audio["channels"], 2);
    for length in [
        &video["duration"],
        &audio["duration"],
        &probe["format"]["duration"],
    ] {
        assert!((number(length) - 49.0 / 24.0).abs() < 0.001, "{length}");
    }
    // ffmpeg plays the last AAC frame to its end, whatever the edit list says.
    assert!((98_000..98_000 + 1024).contains(&decode_audio(&path).len()));
    let quality = psnr(&decode_frames(&path, SIZE), &clip.frames);
    println!(
        "PSNR {quality:.1} dB in RGB, {} bytes",
        path.metadata().unwrap().len()
    );
    assert!(quality > 38.0, "{quality}");
}

#[test]
fn sound_is_within_a_millisecond_of_the_picture() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (frames, at) in [(72, 24), (30, 1), (361, 355)] {
        let path = folder.path().join(format!("{at}.mp4"));
        write_clip(&path, &flash_and_click(PixelSize::new(64, 48), frames, at)).unwrap();
        let decoded = decode_frames(&path, PixelSize::new(64, 48));
        let audio = decode_audio(&path);
        let offset = offset_ms(&decoded, &audio);
        println!("flash and click at frame {at}: {offset:+.3} ms");
        assert!(offset.abs() < 1.0, "{offset}");
        assert_eq!(decoded.len(), frames);
        let probe = probe(&path);
        let [video, audio] =
            ["video", "audio"].map(|k| number(&stream(&probe, k).unwrap()["duration"]));
        assert!((video - audio).abs() < 1.0 / 24.0);
    }
}

#[test]
fn flat_colours_are_right_to_three_steps() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let size = PixelSize::new(64, 64);
    for (i, colour) in [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [200, 120, 40],
        [128, 128, 128],
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(format!("{i}.mp4"));
        let frame = Frame {
            size,
            rgb: colour.repeat(64 * 64),
        };
        let clip = Clip {
            frames: vec![frame; 3],
            audio: None,
        };
        write_clip(&path, &clip).unwrap();
        for frame in decode_frames(&path, size) {
            for pixel in frame.rgb.chunks_exact(3) {
                let near = pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 3);
                assert!(near, "{pixel:?} for {colour:?}");
            }
        }
    }
}

#[test]
fn odd_small_short_and_long_clips_are_whole() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (width, height, frames, sound) in [
        (17, 33, 5, true),
        (1, 1, 1, true),
        (448, 256, 1, false),
        (2, 100, 2, true),
        (64, 36, 360, true),
    ] {
        let path = folder.path().join(format!("{width}x{height}.mp4"));
        write_clip(&path, &clip(PixelSize::new(width, height), frames, sound)).unwrap();
        let probe = probe(&path);
        let video = stream(&probe, "video").unwrap();
        let even = |n: usize| n.next_multiple_of(2).max(16);
        assert_eq!(video["width"], even(width));
        assert_eq!(video["height"], even(height));
        assert_eq!(video["nb_read_frames"], frames.to_string());
        assert_eq!(video["avg_frame_rate"], "24/1");
        assert!((number(&video["duration"]) - frames as f64 / 24.0).abs() < 0.001);
        match stream(&probe, "audio") {
            Some(audio) => {
                assert!(sound);
                assert!((number(&audio["duration"]) - frames as f64 / 24.0).abs() < 0.001);
            }
            None => assert!(!sound),
        }
    }
}

#[test]
fn sound_is_cut_or_filled_to_the_pictures() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    for seconds in [0.1, 5.0] {
        let mut clip = clip(PixelSize::new(32, 32), 24, true);
        let audio = clip.audio.as_mut().unwrap();
        let samples = (seconds * 48_000.0) as usize;
        audio.left.resize(samples, 0.1);
        audio.right.resize(samples, 0.1);
        write_clip(&path, &clip).unwrap();
        assert!((48_000..48_000 + 1024).contains(&decode_audio(&path).len()));
    }
}

#[test]
fn the_index_comes_before_the_data_and_equal_clips_are_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(PixelSize::new(160, 96), 50, true);
    let [a, b] = ["a.mp4", "b.mp4"].map(|name| {
        let path = folder.path().join(name);
        write_clip(&path, &clip).unwrap();
        std::fs::read(path).unwrap()
    });
    assert_eq!(a, b);
    let at = |kind: &[u8]| a.windows(4).position(|w| w == kind).unwrap();
    assert!(at(b"ftyp") < at(b"moov") && at(b"moov") < at(b"mdat"));
    // The same clip pushed in pieces, the sound last, in another order of calls.
    let path = folder.path().join("c.mp4");
    let mut writer = ClipWriter::create(&path, PixelSize::new(160, 96), true).unwrap();
    let audio = clip.audio.as_ref().unwrap();
    for piece in (0..audio.len()).step_by(777) {
        let end = (piece + 777).min(audio.len());
        let piece = gallop_core::Audio {
            left: audio.left[piece..end].to_vec(),
            right: audio.right[piece..end].to_vec(),
        };
        writer.push_audio(&piece).unwrap();
    }
    for frame in &clip.frames {
        writer.push_frame(frame).unwrap();
    }
    writer.finish().unwrap();
    assert!(std::fs::read(path).unwrap() == a, "pieces change the file");
}

#[test]
fn a_dropped_or_failed_writer_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.wav", "a-%d.png", "frames/"] {
        let path = folder.path().join(name);
        let size = PixelSize::new(32, 32);
        let mut writer = ClipWriter::create(&path, size, true).unwrap();
        writer.push_frame(&picture(size, 0)).unwrap();
        let wrong = writer.push_frame(&picture(PixelSize::new(16, 32), 1));
        assert!(wrong.unwrap_err().to_string().contains("16x32"));
        drop(writer);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{name}");
    }
    let empty = write_clip(&folder.path().join("a.mp4"), &Clip::default());
    assert!(empty.unwrap_err().to_string().contains("no picture"));
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    let huge = ClipWriter::create(
        &folder.path().join("a.mp4"),
        PixelSize::new(5000, 100),
        true,
    );
    assert!(huge.err().unwrap().to_string().contains("5000x100"));
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    // A file system of our own needs the rights to mount one.
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs", at])
        .output();
    if !mount.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: no right to mount a small file system");
        return;
    }
    for name in ["a.mp4", "a.wav", "a-%d.png"] {
        let written = write_clip(&folder.path().join(name), &clip(SIZE, 24, true));
        let said = written.map_err(|error| error.to_string());
        let left = folder.path().read_dir().unwrap().count();
        if !said.as_ref().is_err_and(|s| s.contains("free some space")) || left != 0 {
            run("umount", &[at]);
            panic!("{name}: {said:?}, {left} files left");
        }
    }
    run("umount", &[at]);
}
