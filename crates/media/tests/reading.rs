//! Our reader: what we write, and what other programs write.

#![cfg(feature = "aac")]

mod common;

use common::*;
use gallop_core::{Audio, Clip, PixelSize};
use gallop_media::{read_audio, read_clip, write_audio, write_clip};

const SIZE: PixelSize = PixelSize::new(128, 96);

#[test]
fn an_mp4_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.mp4");
    for (frames, sound) in [(1, true), (50, true), (25, false)] {
        let clip = clip(SIZE, frames, sound);
        write_clip(&path, &clip).unwrap();
        let read = read_clip(&path).unwrap();
        assert_eq!(read.frames.len(), frames);
        let quality = psnr(&read.frames, &clip.frames);
        assert!(quality > 34.0, "{quality}");
        assert_eq!(read.audio.is_some(), sound);
        if let (Some(read), Some(wrote)) = (read.audio, clip.audio) {
            assert_eq!(read.len(), frames * 2000);
            let error = read
                .left
                .iter()
                .zip(&wrote.left)
                .map(|(a, b)| (a - b).powi(2));
            let error = (error.sum::<f32>() / read.len() as f32).sqrt();
            assert!(error < 0.02, "{error}");
        }
    }
    let flash = flash_and_click(SIZE, 60, 31);
    write_clip(&path, &flash).unwrap();
    let read = read_clip(&path).unwrap();
    let offset = offset_ms(&read.frames, read.audio.as_ref().unwrap());
    assert!(offset.abs() < 0.1, "{offset}");
}

#[test]
fn pictures_and_wav_come_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(PixelSize::new(31, 17), 5, true);
    for name in ["new/", "x-%03d.png"] {
        let path = folder.path().join(name);
        write_clip(&path, &clip).unwrap();
        let read = read_clip(&path).unwrap();
        assert_eq!(read.frames, clip.frames);
        let (a, b) = (read.audio.unwrap(), clip.audio.as_ref().unwrap());
        assert!(
            a.left
                .iter()
                .zip(&b.left)
                .all(|(a, b)| (a - b).abs() < 1e-4)
        );
    }
    assert!(folder.path().join("new/frame-0005.png").is_file());
    assert!(folder.path().join("new/sound.wav").is_file());
    let one = Clip {
        frames: clip.frames[..1].to_vec(),
        audio: None,
    };
    let path = folder.path().join("one.png");
    write_clip(&path, &one).unwrap();
    assert_eq!(read_clip(&path).unwrap(), one);
    assert!(
        write_clip(&path, &clip)
            .unwrap_err()
            .to_string()
            .contains("one picture")
    );
}

#[test]
fn reordered_pictures_of_other_rates_are_read() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.mp4");
    // Two seconds; a white square jumps in at 1 s, with a click.
    for (rate, codec) in [
        ("24", "libx264 -bf 3 -b_strategy 0 -g 30"),
        ("30", "libx264 -bf 2 -b_strategy 0"),
        ("30000/1001", "libx264"),
        (
            "60",
            "libx264 -bf 3 -profile:v high -x264-params ref=4:b-pyramid=normal",
        ),
        ("12", "libx264 -bf 0"),
    ] {
        let video = format!(
            "color=black:s=128x96:r={rate}:d=2,drawbox=c=white:t=fill:enable='gte(t,0.999)'"
        );
        let args = format!(
            "-v error -y -f lavfi -i {video} -f lavfi -i aevalsrc=if(lt(abs(t-1.00005)\\,0.0001)\\,1\\,0):s=44100:d=2 -pix_fmt yuv420p -c:v {codec} -c:a aac -b:a 192k {}",
            path.display()
        );
        run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
        let clip = read_clip(&path).unwrap();
        let white = clip.frames.iter().position(|f| f.pixel(60, 40)[0] > 128);
        assert_eq!((clip.frames.len(), white), (48, Some(24)), "{rate} {codec}");
        let mono = clip.audio.unwrap().mono();
        let loudest = (0..mono.len()).max_by(|&a, &b| mono[a].abs().total_cmp(&mono[b].abs()));
        let offset = loudest.unwrap() as f64 / 48.0 - 1000.0;
        assert!(offset.abs() < 1.0, "{rate}: {offset} ms");
    }
}

#[test]
fn colours_follow_what_the_stream_says() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.mp4");
    for (matrix, range) in [
        ("bt709", "tv"),
        ("smpte170m", "tv"),
        ("bt709", "pc"),
        ("", "tv"),
    ] {
        let out = if matrix.is_empty() {
            "smpte170m"
        } else {
            matrix
        };
        let mut args = format!(
            "-v error -y -f lavfi -i color=0xC87828:s=64x64:r=24:d=0.2,format=gbrp -vf scale=out_color_matrix={out}:out_range={range} -pix_fmt yuv420p -c:v libx264 -qp 4 -color_range {range} "
        );
        if !matrix.is_empty() {
            args += &format!("-colorspace {matrix} -color_primaries {matrix} -color_trc {matrix} ");
        }
        args += path.to_str().unwrap();
        run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
        let pixel = read_clip(&path).unwrap().frames[2].pixel(30, 30);
        let near = pixel
            .iter()
            .zip([0xC8, 0x78, 0x28])
            .all(|(a, b)| a.abs_diff(b) <= 3);
        assert!(near, "{matrix} {range}: {pixel:?}");
    }
}

#[test]
fn turned_and_trimmed_films_are_read_as_shown() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [long, cut, turned] = ["long.mp4", "cut.mp4", "turned.mp4"].map(|n| folder.path().join(n));
    write_clip(&long, &flash_and_click(SIZE, 72, 40)).unwrap();
    let [long_name, cut_name, turned_name] = [&long, &cut, &turned].map(|p| p.to_str().unwrap());
    // Cut without decoding: an edit list hides what lies before the half second.
    let args = format!("-v error -y -ss 0.5 -i {long_name} -c copy {cut_name}");
    run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
    let clip = read_clip(&cut).unwrap();
    assert_eq!(clip.frames.len(), 60);
    let offset = offset_ms(&clip.frames, clip.audio.as_ref().unwrap());
    assert!(offset.abs() < 1.0, "{offset}");
    let args = format!("-v error -y -i {long_name} -c copy -metadata:s:v rotate=90 {turned_name}");
    run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
    let clip = read_clip(&turned).unwrap();
    assert_eq!(clip.frames[0].size, PixelSize::new(96, 128));
}

#[test]
fn every_kind_of_sound_is_read_without_delay() {
    if !have_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let wav = folder.path().join("a.wav");
    let mut audio = Audio::silence(96_000);
    for i in 0..200 {
        let x = (i as f32 * 0.4).sin() * (1.0 - i as f32 / 200.0);
        audio.left[48_000 + i] = x;
        audio.right[48_000 + i] = 0.5 * x;
    }
    write_audio(&wav, &audio).unwrap();
    for (name, options, tolerance) in [
        ("b.wav", "-c:a pcm_s24le", 0),
        ("c.wav", "-c:a pcm_f32le -ar 44100", 1),
        ("d.wav", "-c:a pcm_u8", 0),
        ("e.flac", "-c:a flac", 0),
        ("f.flac", "-c:a flac -ar 96000", 1),
        ("g.mp3", "-c:a libmp3lame -b:a 320k", 24),
        ("h.ogg", "-c:a libvorbis -q:a 8", 24),
        ("i.m4a", "-c:a aac -b:a 320k", 24),
        ("j.aiff", "-c:a pcm_s16be", 0),
        ("k.webm", "-c:a libvorbis -q:a 8", 48),
        ("l.wav", "-c:a pcm_s16le -ac 1 -ar 22050", 3),
    ] {
        let path = folder.path().join(name);
        let args = format!(
            "-v error -y -i {} {options} {}",
            wav.display(),
            path.display()
        );
        run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
        let read = read_audio(&path).unwrap();
        // The lag at which the sound fits best.
        let mono = read.mono();
        let at = |lag: i64| -> f32 {
            (0..200)
                .map(|i| {
                    audio.left[48_000 + i]
                        * mono.get((48_000 + i as i64 + lag) as usize).unwrap_or(&0.0)
                })
                .sum()
        };
        let lag = (-4000..4000)
            .max_by(|&a, &b| at(a).total_cmp(&at(b)))
            .unwrap();
        println!("{name}: {} samples, lag {lag}", read.len());
        assert!(lag.abs() <= tolerance, "{name}: {lag}");
        assert!(read.len().abs_diff(96_000) < 2600, "{name}: {}", read.len());
    }
}

#[test]
fn what_cannot_be_read_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let says = |words: &str| {
        let said = read_clip(&path).unwrap_err().to_string();
        assert!(said.contains(words) && said.contains("a.mp4"), "{said}");
        assert!(!said.contains('\n'));
    };
    says("check the name");
    std::fs::write(&path, b"").unwrap();
    says("is empty");
    std::fs::write(&path, b"this is a text and no film").unwrap();
    says("is no MP4");
    write_clip(&path, &clip(SIZE, 10, true)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for part in [2, 3, 10] {
        std::fs::write(&path, &whole[..whole.len() - whole.len() / part]).unwrap();
        says("cut short");
    }
    let wav = folder.path().join("a.wav");
    std::fs::write(&wav, b"RIFF\x24\0\0\0WAVE").unwrap();
    assert!(read_audio(&wav).unwrap_err().to_string().contains("a.wav"));
    if !have_ffmpeg() {
        return;
    }
    for (codec, words) in [
        ("mpeg4", "mp4v"),
        ("libx264 -movflags frag_keyframe+empty_moov", "fragmented"),
    ] {
        let args = format!(
            "-v error -y -f lavfi -i color=red:s=64x64:d=0.2 -c:v {codec} {}",
            path.display()
        );
        run("ffmpeg", &args.split(' ').collect::<Vec<_>>());
        says(words);
    }
}
