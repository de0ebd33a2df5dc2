//! Sound <-> the spectra that the audio autoencoder reads and writes, and the gradient of the way
//! back.

use std::sync::{Arc, OnceLock};

use gallop_core::{Audio, SAMPLES_PER_FRAME};
use rayon::prelude::*;
use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

/// Samples of a window.
const WINDOW: usize = 1000;
/// Samples from one window to the next.
const HOP: usize = 250;
/// Windows a latent.
pub const HOPS: usize = SAMPLES_PER_FRAME / HOP;
/// Frequencies of a window.
const BINS: usize = WINDOW / 2 + 1;
/// Numbers a window that the encoder reads: real and imaginary parts of middle and side.
pub const FEATURES: usize = 4 * BINS;
/// Numbers a window that the decoder writes: log magnitudes and phases of middle and side.
pub const HEAD: usize = 4 * BINS;
/// Samples before the first window's middle and the same after the last: windows are centred in
/// their hops.
const MARGIN: usize = (WINDOW - HOP) / 2;
/// A sine of amplitude 1 has magnitude 1.
const SCALE: f32 = 4.0 / WINDOW as f32;
/// Magnitudes are raised to this before the encoder sees them.
const COMPRESSION: f32 = 0.3;
/// Added to the decoder's log magnitudes: an untrained one is quiet.
const QUIET: f32 = -6.0;
/// Greatest log magnitude.
const LOUDEST: f32 = 3.0;
/// The sum of squared windows is at least this where it divides.
const LEAST_COVER: f32 = 0.05;

struct Plans {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
    window: Vec<f32>,
}

fn plans() -> &'static Plans {
    static PLANS: OnceLock<Plans> = OnceLock::new();
    PLANS.get_or_init(|| {
        let mut planner = RealFftPlanner::new();
        let phase = |n: usize| 2.0 * std::f32::consts::PI * n as f32 / WINDOW as f32;
        Plans {
            forward: planner.plan_fft_forward(WINDOW),
            inverse: planner.plan_fft_inverse(WINDOW),
            window: (0..WINDOW).map(|n| 0.5 - 0.5 * phase(n).cos()).collect(),
        }
    })
}

/// The spectrum of the window that starts at `signal[0]`.
fn forward(signal: &[f32]) -> Vec<Complex<f32>> {
    let plans = plans();
    let mut windowed: Vec<f32> = signal
        .iter()
        .zip(&plans.window)
        .map(|(s, w)| s * w)
        .collect();
    let mut spectrum = plans.forward.make_output_vec();
    (plans.forward)
        .process(&mut windowed, &mut spectrum)
        .expect("the buffers are the plan's own sizes");
    spectrum
}

/// Middle and side.
fn channels(audio: &Audio) -> [Vec<f32>; 2] {
    let mix = |sign: f32| {
        let pairs = audio.left.iter().zip(&audio.right);
        pairs.map(|(l, r)| 0.5 * (l + sign * r)).collect()
    };
    [mix(1.0), mix(-1.0)]
}

/// The compressed spectra of `count` latents' worth of sound: `[8 count, FEATURES]`.
///
/// Sound that is missing at the end is silence.
pub fn analyse(audio: &Audio, count: usize) -> Vec<f32> {
    let padded = channels(audio).map(|channel| {
        let mut padded = vec![0.0; MARGIN];
        padded.extend(&channel[..channel.len().min(count * SAMPLES_PER_FRAME)]);
        padded.resize(count * SAMPLES_PER_FRAME + 2 * MARGIN, 0.0);
        padded
    });
    let mut features = vec![0.0; count * HOPS * FEATURES];
    features
        .par_chunks_exact_mut(FEATURES)
        .enumerate()
        .for_each(|(hop, features)| {
            for (channel, features) in padded.iter().zip(features.chunks_exact_mut(2 * BINS)) {
                let spectrum = forward(&channel[hop * HOP..hop * HOP + WINDOW]);
                for (pair, x) in features.chunks_exact_mut(2).zip(spectrum) {
                    let x = x * SCALE;
                    let shrink = x.norm().max(1e-7).powf(COMPRESSION - 1.0);
                    pair.copy_from_slice(&[x.re * shrink, x.im * shrink]);
                }
            }
        });
    features
}

/// What the decoder wrote, `[8 A, HEAD]`, to `2000 A` samples.
pub fn synthesise(head: &[f32]) -> Audio {
    let [middle, side] = synthesise_middle_side(head);
    let pairs = || middle.iter().zip(&side);
    Audio {
        left: pairs().map(|(m, s)| m + s).collect(),
        right: pairs().map(|(m, s)| m - s).collect(),
    }
}

/// As [`synthesise`], as middle and side.
pub fn synthesise_middle_side(head: &[f32]) -> [Vec<f32>; 2] {
    let hops = head.len() / HEAD;
    let cover = cover(hops);
    [0, 1].map(|channel| {
        let windows: Vec<Vec<f32>> = (0..hops)
            .into_par_iter()
            .map(|hop| inverse(&head[hop * HEAD + channel * 2 * BINS..][..2 * BINS]))
            .collect();
        let mut signal = vec![0.0; hops * HOP + 2 * MARGIN];
        for (hop, window) in windows.iter().enumerate() {
            for (s, w) in signal[hop * HOP..].iter_mut().zip(window) {
                *s += w;
            }
        }
        let inside = signal[MARGIN..MARGIN + hops * HOP].iter().zip(&cover);
        inside.map(|(s, c)| s / c).collect()
    })
}

/// The gradient with respect to `head`, given those with respect to middle and side.
pub fn synthesise_gradient(head: &[f32], gradients: [&[f32]; 2]) -> Vec<f32> {
    let hops = head.len() / HEAD;
    let cover = cover(hops);
    let padded = gradients.map(|gradient| {
        let mut padded = vec![0.0; hops * HOP + 2 * MARGIN];
        for ((p, g), c) in padded[MARGIN..].iter_mut().zip(gradient).zip(&cover) {
            *p = g / c;
        }
        padded
    });
    let mut out = vec![0.0; head.len()];
    out.par_chunks_exact_mut(2 * BINS)
        .zip(head.par_chunks_exact(2 * BINS))
        .enumerate()
        .for_each(|(i, (out, head))| {
            let (hop, channel) = (i / 2, i % 2);
            let spectrum = forward(&padded[channel][hop * HOP..hop * HOP + WINDOW]);
            for (k, g) in spectrum.into_iter().enumerate() {
                // Frequencies inside count twice in a real inverse transform.
                let twice = if k == 0 || k == BINS - 1 { 1.0 } else { 2.0 };
                let g = g * (twice / (SCALE * WINDOW as f32));
                let s = bin(head, k);
                out[BINS + k] = g.im * s.re - g.re * s.im;
                out[k] = if head[k] + QUIET < LOUDEST {
                    g.re * s.re + g.im * s.im
                } else {
                    0.0
                };
            }
        });
    out
}

/// One frequency of what the decoder wrote for a window of one channel.
fn bin(head: &[f32], k: usize) -> Complex<f32> {
    Complex::from_polar((head[k] + QUIET).min(LOUDEST).exp(), head[BINS + k])
}

/// A window of sound, windowed once more.
fn inverse(head: &[f32]) -> Vec<f32> {
    let plans = plans();
    let mut spectrum: Vec<Complex<f32>> = (0..BINS).map(|k| bin(head, k)).collect();
    // A real signal has no imaginary part there.
    spectrum[0].im = 0.0;
    spectrum[BINS - 1].im = 0.0;
    let mut signal = plans.inverse.make_output_vec();
    (plans.inverse)
        .process(&mut spectrum, &mut signal)
        .expect("the buffers are the plan's own sizes");
    let scale = 1.0 / (SCALE * WINDOW as f32);
    (signal.iter().zip(&plans.window))
        .map(|(s, w)| s * w * scale)
        .collect()
}

/// The sum of squared windows over every sample.
fn cover(hops: usize) -> Vec<f32> {
    let mut cover = vec![0.0; hops * HOP + 2 * MARGIN];
    for hop in 0..hops {
        for (c, w) in cover[hop * HOP..].iter_mut().zip(&plans().window) {
            *c += w * w;
        }
    }
    cover[MARGIN..MARGIN + hops * HOP]
        .iter()
        .map(|c| c.max(LEAST_COVER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(count: usize) -> Audio {
        let wave = |f: f32| move |n: usize| (n as f32 * f).sin() * 0.5;
        let samples = count * SAMPLES_PER_FRAME;
        Audio {
            left: (0..samples).map(wave(0.03)).collect(),
            right: (0..samples).map(wave(0.05)).collect(),
        }
    }

    #[test]
    fn a_spectrum_leads_back_to_its_sound() {
        let audio = tone(3);
        let features = analyse(&audio, 3);
        let mut head = vec![0.0; features.len()];
        for (head, features) in head.chunks_mut(2 * BINS).zip(features.chunks(2 * BINS)) {
            for (k, pair) in features.chunks(2).enumerate() {
                let x = Complex::new(pair[0], pair[1]);
                head[k] = x.norm().max(1e-9).ln() / COMPRESSION - QUIET;
                head[BINS + k] = x.arg();
            }
        }
        let back = synthesise(&head);
        assert_eq!(back.len(), audio.len());
        for (a, b) in audio.left.iter().zip(&back.left) {
            assert!((a - b).abs() < 2e-3, "{a} {b}");
        }
        for (a, b) in audio.right.iter().zip(&back.right) {
            assert!((a - b).abs() < 2e-3, "{a} {b}");
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        let head: Vec<f32> = (0..HOPS * HEAD)
            .map(|i| 5.0 + (i as f32 * 0.37).sin())
            .collect();
        let weights: Vec<f32> = (0..SAMPLES_PER_FRAME)
            .map(|i| (i as f32 * 0.11).cos())
            .collect();
        let loss = |head: &[f32]| -> f64 {
            let [middle, side] = synthesise_middle_side(head);
            let dot = |x: &[f32], scale: f64| {
                let products = x.iter().zip(&weights).map(|(a, b)| f64::from(a * b));
                scale * products.sum::<f64>()
            };
            dot(&middle, 1.0) + dot(&side, 0.5)
        };
        let half: Vec<f32> = weights.iter().map(|w| w * 0.5).collect();
        let gradient = synthesise_gradient(&head, [&weights, &half]);
        for i in [
            0,
            17,
            BINS - 1,
            BINS + 40,
            3 * BINS + 5,
            2 * HEAD + 9,
            5 * HEAD + BINS + 77,
        ] {
            let moved = |by: f32| {
                let mut head = head.clone();
                head[i] += by;
                loss(&head)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let error = (slope - f64::from(gradient[i])).abs();
            assert!(
                error < 1e-3 + 0.02 * slope.abs(),
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }
}
