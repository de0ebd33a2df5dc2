//! Pictures of clips: contact sheets, waveforms, spectrograms.

use gallop_core::{Audio, Clip, Frame, PixelSize, SAMPLE_RATE};
use realfft::RealFftPlanner;

use crate::fit::fit_image;

/// Between and around pictures, in pixels.
const GAP: usize = 4;
const BACKGROUND: [u8; 3] = [18, 18, 22];
const PEAK: [u8; 3] = [58, 110, 165];
const LOUDNESS: [u8; 3] = [130, 190, 240];

/// Samples of one spectrum.
const WINDOW: usize = 2048;
/// Lowest and highest pitch of a spectrogram, in hertz.
const PITCHES: [f64; 2] = [50.0, 20_000.0];
/// Decibels from the darkest to the brightest.
const RANGE_DB: f32 = 80.0;

fn canvas(size: PixelSize) -> Frame {
    Frame {
        size,
        rgb: BACKGROUND.repeat(size.width * size.height),
    }
}

fn paste(onto: &mut Frame, picture: &Frame, left: usize, top: usize) {
    let stride = picture.size.width * 3;
    for (y, line) in picture.rgb.chunks_exact(stride).enumerate() {
        let at = ((top + y) * onto.size.width + left) * 3;
        onto.rgb[at..at + stride].copy_from_slice(line);
    }
}

/// All frames side by side, `columns` in a row (at least one), with gaps between them;
/// frames of other sizes are fitted to the first's. No frames make one dark pixel.
pub fn contact_sheet(frames: &[Frame], columns: usize) -> Frame {
    let Some(first) = frames.first() else {
        return canvas(PixelSize::new(1, 1));
    };
    let columns = columns.clamp(1, frames.len());
    let rows = frames.len().div_ceil(columns);
    let cell = first.size;
    let mut sheet = canvas(PixelSize::new(
        columns * (cell.width + GAP) + GAP,
        rows * (cell.height + GAP) + GAP,
    ));
    for (index, frame) in frames.iter().enumerate() {
        let left = GAP + index % columns * (cell.width + GAP);
        let top = GAP + index / columns * (cell.height + GAP);
        paste(&mut sheet, &fit_image(frame, cell), left, top);
    }
    sheet
}

/// The sound over time: peaks of the mean of both channels, and their loudness brighter inside.
pub fn waveform(audio: &Audio, size: PixelSize) -> Frame {
    let mono = audio.mono();
    let mut picture = canvas(size);
    let middle = size.height as f32 / 2.0;
    for x in 0..size.width {
        let span = mono.len() * x / size.width..(mono.len() * (x + 1)).div_ceil(size.width);
        let part = mono.get(span).unwrap_or(&[]);
        let low = part.iter().fold(0f32, |m, &s| m.min(s));
        let high = part.iter().fold(0f32, |m, &s| m.max(s));
        let power = part.iter().map(|s| s * s).sum::<f32>() / part.len().max(1) as f32;
        let loud = power.sqrt();
        for y in 0..size.height {
            // Loudness from 1 at the top to -1 at the bottom; the middle line is always there.
            let level = (middle - y as f32 - 0.5) / middle;
            let half = 0.5 / middle;
            let colour = if level.abs() <= loud.max(half) {
                LOUDNESS
            } else if (low - half..=high + half).contains(&level) {
                PEAK
            } else {
                continue;
            };
            let at = (y * size.width + x) * 3;
            picture.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }
    picture
}

/// The pitches over time: 50 Hz at the bottom to 20 kHz at the top, evenly by octaves,
/// 80 dB from dark to bright below the loudest.
pub fn spectrogram(audio: &Audio, size: PixelSize) -> Frame {
    let mono = audio.mono();
    let bins: Vec<f64> = (0..size.height)
        .map(|y| {
            let share = 1.0 - (y as f64 + 0.5) / size.height as f64;
            let pitch = PITCHES[0] * (PITCHES[1] / PITCHES[0]).powf(share);
            pitch * WINDOW as f64 / SAMPLE_RATE as f64
        })
        .collect();
    let columns = spectra(&mono, size.width);
    let level = |column: &[f32], bin: f64| {
        // Between two bins at the low end, the strongest of several at the high end.
        let (low, high) = (bin.floor() as usize, (bin * 1.02).ceil() as usize);
        let values = &column[low.min(WINDOW / 2)..=high.min(WINDOW / 2)];
        values.iter().fold(0f32, |m, &v| m.max(v))
    };
    let loudest = columns.iter().flatten().fold(1e-6f32, |m, &v| m.max(v));
    let mut picture = canvas(size);
    for (x, column) in columns.iter().enumerate() {
        for (y, &bin) in bins.iter().enumerate() {
            let db = 20.0 * (level(column, bin) / loudest).max(1e-9).log10();
            let at = (y * size.width + x) * 3;
            let colour = heat(1.0 + db / RANGE_DB);
            picture.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }
    picture
}

/// Magnitudes of `columns` windowed spectra, evenly spaced; each has `WINDOW / 2 + 1` values.
fn spectra(mono: &[f32], columns: usize) -> Vec<Vec<f32>> {
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(WINDOW);
    let mut spectrum = fft.make_output_vec();
    let mut input = fft.make_input_vec();
    let step = mono.len() as f64 / columns.max(1) as f64;
    (0..columns)
        .map(|x| {
            let start = ((x as f64 + 0.5) * step) as i64 - WINDOW as i64 / 2;
            for (i, value) in input.iter_mut().enumerate() {
                let at = usize::try_from(start + i as i64).ok();
                let sample = at.and_then(|at| mono.get(at)).copied().unwrap_or(0.0);
                let phase = std::f32::consts::TAU * (i as f32 + 0.5) / WINDOW as f32;
                *value = sample * (0.5 - 0.5 * phase.cos());
            }
            // The lengths are the planner's own, so the transform cannot refuse them.
            match fft.process(&mut input, &mut spectrum) {
                Ok(()) => spectrum.iter().map(|c| c.norm()).collect(),
                Err(_) => vec![0.0; WINDOW / 2 + 1],
            }
        })
        .collect()
}

/// Dark blue over red to pale yellow, for 0 to 1.
fn heat(value: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 6] = [
        [8.0, 8.0, 20.0],
        [50.0, 18.0, 92.0],
        [128.0, 37.0, 120.0],
        [205.0, 64.0, 94.0],
        [250.0, 146.0, 92.0],
        [252.0, 250.0, 196.0],
    ];
    let place = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let index = (place as usize).min(STOPS.len() - 2);
    let share = place - index as f32;
    [0, 1, 2].map(|c| {
        let (a, b) = (STOPS[index][c], STOPS[index + 1][c]);
        (a + share * (b - a)).round() as u8
    })
}

/// A clip at a glance: `columns` x `rows` frames evenly spaced in time, below them its waveform and spectrogram.
pub fn overview(clip: &Clip, columns: usize, rows: usize) -> Frame {
    let count = (columns.max(1) * rows.max(1)).min(clip.frames.len());
    let shown: Vec<Frame> = (0..count)
        .map(|i| clip.frames[(2 * i + 1) * clip.frames.len() / (2 * count)].clone())
        .collect();
    let sheet = contact_sheet(&shown, columns);
    let Some(audio) = &clip.audio else {
        return sheet;
    };
    let lane = PixelSize::new(
        sheet.size.width.saturating_sub(2 * GAP).max(1),
        (sheet.size.width / 12).clamp(32, 160),
    );
    let height = sheet.size.height + 2 * (lane.height + GAP);
    let mut whole = canvas(PixelSize::new(sheet.size.width, height));
    paste(&mut whole, &sheet, 0, 0);
    if lane.width + 2 * GAP <= whole.size.width {
        paste(&mut whole, &waveform(audio, lane), GAP, sheet.size.height);
        let top = sheet.size.height + lane.height + GAP;
        paste(&mut whole, &spectrogram(audio, lane), GAP, top);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(pitch: f32) -> Audio {
        let samples: Vec<f32> = (0..48_000)
            .map(|i| 0.5 * (i as f32 * pitch * std::f32::consts::TAU / 48_000.0).sin())
            .collect();
        Audio {
            left: samples.clone(),
            right: samples,
        }
    }

    #[test]
    fn every_frame_has_its_cell() {
        let frames: Vec<_> = (0..5u8)
            .map(|i| Frame {
                size: PixelSize::new(10, 6),
                rgb: vec![50 * i + 20; 180],
            })
            .collect();
        let sheet = contact_sheet(&frames, 3);
        assert_eq!(sheet.size, PixelSize::new(3 * 14 + 4, 2 * 10 + 4));
        assert_eq!(sheet.pixel(5, 5), [20; 3]);
        assert_eq!(sheet.pixel(4 + 14 + 9, 4 + 10 + 5), [220; 3]);
        assert_eq!(sheet.pixel(sheet.size.width - 6, 15), BACKGROUND);
        assert_eq!(contact_sheet(&[], 3).size, PixelSize::new(1, 1));
        assert_eq!(contact_sheet(&frames, 0).size.width, 18);
    }

    #[test]
    fn loud_sound_is_tall_and_silence_a_line() {
        let mut audio = tone(200.0);
        audio.left[24_000..].fill(0.0);
        audio.right[24_000..].fill(0.0);
        let picture = waveform(&audio, PixelSize::new(100, 40));
        let tall = |x: usize| {
            (0..40)
                .filter(|&y| picture.pixel(x, y) != BACKGROUND)
                .count()
        };
        assert!((19..=23).contains(&tall(20)), "{}", tall(20));
        assert!((1..=2).contains(&tall(80)), "{}", tall(80));
        waveform(&Audio::default(), PixelSize::new(7, 3));
    }

    #[test]
    fn a_tone_is_a_line_at_its_pitch() {
        let size = PixelSize::new(20, 100);
        let picture = spectrogram(&tone(1000.0), size);
        let bright =
            (0..100).max_by_key(|&y| picture.pixel(10, y).map(u32::from).iter().sum::<u32>());
        let want = 100.0 * (1.0 - (1000f64 / 50.0).ln() / (20_000f64 / 50.0).ln());
        assert!(
            (bright.unwrap() as f64 - want).abs() < 2.5,
            "{bright:?} for {want}"
        );
        spectrogram(&Audio::default(), size);
    }

    #[test]
    fn an_overview_shows_all_of_a_clip() {
        let clip = Clip {
            frames: vec![Frame::black(PixelSize::new(64, 36)); 48],
            audio: Some(tone(440.0)),
        };
        let whole = overview(&clip, 4, 2);
        assert_eq!(whole.size.width, 4 * 68 + 4);
        assert_eq!(whole.rgb.len(), whole.size.width * whole.size.height * 3);
        for (w, h) in [(1, 1), (16, 9)] {
            let small = Clip {
                frames: vec![Frame::black(PixelSize::new(w, h))],
                audio: Some(Audio::silence(3)),
            };
            overview(&small, 0, 0);
        }
        overview(&Clip::default(), 4, 2);
    }
}
