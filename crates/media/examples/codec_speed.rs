//! How fast and how well clips are written: `cargo run --release -p gallop-media --example codec_speed [448x256.mp4]`.

use std::path::Path;
use std::time::Instant;

use gallop_core::{Audio, FPS, Frame, PixelSize, SAMPLES_PER_FRAME};
use gallop_media::{ClipWriter, read_clip};

/// A textured ground that moves, so that there is something to encode.
fn picture(size: PixelSize, time: usize) -> Frame {
    let mut frame = Frame::black(size);
    let t = time as f32 / FPS as f32;
    for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((i % size.width) as f32, (i / size.width) as f32);
        let ball = (x - 100.0 - 60.0 * t).hypot(y - 100.0 - 30.0 * t) < 60.0;
        let fine = ((x + 30.0 * t) * 0.37).sin() * (y * 0.23).cos() * 40.0;
        let slow = 110.0 + 60.0 * ((x + y) / 90.0 + t).sin();
        let ground = [slow + fine, slow * 0.8 + fine, 200.0 - slow + 0.5 * fine];
        for (value, ground) in pixel.iter_mut().zip(ground) {
            *value = if ball { *value / 2 + 90 } else { ground as u8 };
        }
    }
    frame
}

fn psnr(a: &[Frame], b: &[Frame]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.rgb.iter().zip(&b.rgb));
    let (sum, count) = pairs.fold((0u64, 0u64), |(sum, count), (&a, &b)| {
        (sum + u64::from(a.abs_diff(b)).pow(2), count + 1)
    });
    10.0 * (255.0f64.powi(2) * count as f64 / sum as f64).log10()
}

/// Seconds this thread has been on a processor, where the system says so; other programs do not count.
fn seconds_busy() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some(nanoseconds * 1e-9)
}

/// Writes and reads back one clip and prints how that went.
fn measure(path: &Path, size: PixelSize, count: usize) -> gallop_core::Result<()> {
    let frames: Vec<_> = (0..count).map(|t| picture(size, t)).collect();
    let tone = |step: f32| {
        let samples = 0..count * SAMPLES_PER_FRAME;
        samples.map(|i| (i as f32 * step).sin() * 0.4).collect()
    };
    let (start, busy) = (Instant::now(), seconds_busy());
    let mut writer = ClipWriter::create(path, size, true)?;
    for frame in &frames {
        writer.push_frame(frame)?;
    }
    writer.push_audio(&Audio {
        left: tone(0.05),
        right: tone(0.07),
    })?;
    writer.finish()?;
    let wall = start.elapsed().as_secs_f64();
    let mp4 = path.extension().is_some_and(|ending| ending == "mp4");
    // AV1 is encoded by other threads as well, so only its wall time says anything.
    let wrote = match (busy, seconds_busy()) {
        (Some(before), Some(after)) if mp4 => after - before,
        _ => wall,
    };
    let bytes = path.metadata().map_or(0, |meta| meta.len());
    let mbits = bytes as f64 * 8e-6 * FPS as f64 / count as f64;
    let rate = count as f64 / wrote;
    print!(
        "{}: {rate:.1} frames/s written, {mbits:.1} Mbit/s",
        path.display()
    );
    if mp4 {
        let busy = seconds_busy();
        let read = read_clip(path)?;
        let took = seconds_busy().zip(busy).map_or(f64::NAN, |(b, a)| b - a);
        let quality = psnr(&read.frames, &frames);
        print!(
            ", {:.0} frames/s read, PSNR {quality:.1} dB",
            count as f64 / took
        );
    }
    println!();
    Ok(())
}

fn main() -> gallop_core::Result<()> {
    let folder = std::env::temp_dir().join("gallop-media-speed");
    std::fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    for (width, height, count, ending) in [
        (448, 256, 120, "mp4"),
        (1920, 1088, 48, "mp4"),
        (448, 256, 48, "webm"),
        (1920, 1088, 12, "webm"),
    ] {
        let name = format!("{width}x{height}.{ending}");
        if std::env::args().nth(1).is_none_or(|only| only == name) {
            measure(&folder.join(name), PixelSize::new(width, height), count)?;
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}
