//! Another program's view of the files: ffmpeg and ffprobe.
#![allow(dead_code)]

use std::path::Path;
use std::process::Command;

use gallop_core::{Audio, Clip, FPS, Frame, PixelSize, SAMPLES_PER_FRAME};

/// Whether ffmpeg is here; where checks must not be skipped (`CI` is set) its absence is a failure.
pub fn have_ffmpeg() -> bool {
    let here = ["ffmpeg", "ffprobe"]
        .iter()
        .all(|name| Command::new(name).arg("-version").output().is_ok());
    if !here {
        assert!(std::env::var_os("CI").is_none(), "install ffmpeg to test");
        eprintln!("skipped: ffmpeg is not installed");
    }
    here
}

/// What a program prints; panics with its complaints when it fails.
pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(
        out.status.success() && out.stderr.is_empty(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// Streams and format as ffprobe sees them, frames counted.
pub fn probe(path: &Path) -> serde_json::Value {
    let args = "-v error -count_frames -show_streams -show_format -of json";
    let mut args: Vec<_> = args.split(' ').collect();
    args.push(path.to_str().unwrap());
    serde_json::from_slice(&run("ffprobe", &args)).unwrap()
}

/// The stream of a kind, `video` or `audio`.
pub fn stream<'a>(probe: &'a serde_json::Value, kind: &str) -> Option<&'a serde_json::Value> {
    let streams = probe["streams"].as_array().unwrap();
    streams.iter().find(|s| s["codec_type"] == kind)
}

/// A number that ffprobe prints as text.
pub fn number(value: &serde_json::Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

/// Every picture as ffmpeg decodes it to RGB.
pub fn decode_frames(path: &Path, size: PixelSize) -> Vec<Frame> {
    let args = "-v error -i PATH -vf scale=flags=bicubic+accurate_rnd+full_chroma_int -pix_fmt rgb24 -f rawvideo -";
    let args: Vec<_> = args
        .split(' ')
        .map(|a| {
            if a == "PATH" {
                path.to_str().unwrap()
            } else {
                a
            }
        })
        .collect();
    let bytes = run("ffmpeg", &args);
    let frame = size.width * size.height * 3;
    assert_eq!(
        bytes.len() % frame,
        0,
        "{} is no multiple of {frame}",
        bytes.len()
    );
    bytes
        .chunks_exact(frame)
        .map(|rgb| Frame {
            size,
            rgb: rgb.to_vec(),
        })
        .collect()
}

/// The sound as ffmpeg decodes it, from time zero.
pub fn decode_audio(path: &Path) -> Audio {
    let path = path.to_str().unwrap();
    let args = [
        "-v", "error", "-i", path, "-ac", "2", "-ar", "48000", "-f", "f32le", "-",
    ];
    let bytes = run("ffmpeg", &args);
    let mut audio = Audio::default();
    for pair in bytes.chunks_exact(8) {
        audio
            .left
            .push(f32::from_le_bytes(pair[..4].try_into().unwrap()));
        audio
            .right
            .push(f32::from_le_bytes(pair[4..].try_into().unwrap()));
    }
    audio
}

/// Something to look at: a disc of changing colour on a moving gradient.
pub fn picture(size: PixelSize, time: usize) -> Frame {
    let mut frame = Frame::black(size);
    let (w, h) = (size.width as f32, size.height as f32);
    let t = time as f32 / FPS as f32;
    let (cx, cy) = (
        w * (0.5 + 0.3 * (2.0 * t).cos()),
        h * (0.5 + 0.3 * (3.0 * t).sin()),
    );
    for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((i % size.width) as f32, (i / size.width) as f32);
        let edge = (h * 0.2 - (x - cx).hypot(y - cy)).clamp(0.0, 1.0);
        let ground = [x / w, y / h, 0.5 + 0.3 * ((x + y + 40.0 * t) / 20.0).sin()];
        for (c, value) in pixel.iter_mut().enumerate() {
            let ball = [0.9, 0.3, 0.1][c];
            *value = (255.0 * (edge * ball + (1.0 - edge) * ground[c])) as u8;
        }
    }
    frame
}

/// `frames` pictures and a chord.
pub fn clip(size: PixelSize, frames: usize, sound: bool) -> Clip {
    let tone = |pitch: f32| {
        (0..frames * SAMPLES_PER_FRAME)
            .map(|i| 0.3 * (i as f32 * pitch * std::f32::consts::TAU / 48_000.0).sin())
            .collect()
    };
    Clip {
        frames: (0..frames).map(|t| picture(size, t)).collect(),
        audio: sound.then(|| Audio {
            left: tone(440.0),
            right: tone(660.0),
        }),
    }
}

/// Black and silent, but for a white picture and a click at `at`.
pub fn flash_and_click(size: PixelSize, frames: usize, at: usize) -> Clip {
    let mut clip = Clip {
        frames: vec![Frame::black(size); frames],
        audio: Some(Audio::silence(frames * SAMPLES_PER_FRAME)),
    };
    clip.frames[at].rgb.fill(255);
    let audio = clip.audio.as_mut().unwrap();
    for i in 0..8 {
        let value = 0.9 * (1.0 - i as f32 / 8.0) * if i % 2 == 0 { 1.0 } else { -1.0 };
        audio.left[at * SAMPLES_PER_FRAME + i] = value;
        audio.right[at * SAMPLES_PER_FRAME + i] = value;
    }
    clip
}

/// Milliseconds from the brightest picture to the loudest sample.
pub fn offset_ms(frames: &[Frame], audio: &Audio) -> f64 {
    let light = |f: &Frame| f.rgb.iter().map(|&b| u64::from(b)).sum::<u64>();
    let flash = (0..frames.len())
        .max_by_key(|&i| light(&frames[i]))
        .unwrap();
    let mono = audio.mono();
    let click = (0..mono.len())
        .max_by(|&a, &b| mono[a].abs().total_cmp(&mono[b].abs()))
        .unwrap();
    1000.0 * (click as f64 / 48_000.0 - flash as f64 / FPS as f64)
}

/// Peak signal-to-noise ratio in decibels over all pictures.
pub fn psnr(a: &[Frame], b: &[Frame]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (mut sum, mut count) = (0.0, 0usize);
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.size, b.size);
        count += a.rgb.len();
        for (&a, &b) in a.rgb.iter().zip(&b.rgb) {
            sum += f64::from(a.abs_diff(b)).powi(2);
        }
    }
    10.0 * (255.0f64.powi(2) * count as f64 / sum.max(1e-9)).log10()
}
