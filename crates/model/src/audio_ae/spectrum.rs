//! Sound <-> the levels that the audio autoencoder reads and writes.
//!
//! Levels are logarithms of the magnitudes of a short-time Fourier transform of the left and the right
//! channel. Phases are not among them: half the numbers, of which the ear hears little, and which a
//! network learns last. [`super::phase`] finds phases that fit the levels.

use std::sync::{Arc, OnceLock};

use gallop_core::{Audio, SAMPLES_PER_FRAME};
use rayon::prelude::*;
use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::phase;

/// Samples of a window (Hann).
pub(super) const WINDOW: usize = 1000;
/// Samples from one window to the next.
pub(super) const HOP: usize = 250;
/// Windows a latent.
pub const HOPS: usize = SAMPLES_PER_FRAME / HOP;
/// Frequencies of a window, 48 Hz apart.
pub const BINS: usize = WINDOW / 2 + 1;
/// Numbers a window: the levels of the left channel, then of the right.
pub const FEATURES: usize = 2 * BINS;
/// Samples before the first window's middle and the same after the last: windows are centred in
/// their hops.
const MARGIN: usize = (WINDOW - HOP) / 2;
/// A sine of amplitude 1 has magnitude 1.
const SCALE: f32 = 4.0 / WINDOW as f32;
/// Added to magnitudes before the logarithm: what is quieter than -74 dB is silence.
const FLOOR: f32 = 2e-4;
/// Levels are logarithms moved and divided by these, to be numbers about 1.
const MIDDLE: f32 = -6.0;
const SPREAD: f32 = 2.0;
/// Greatest logarithm of a magnitude that is believed.
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

/// The spectra `[8 count, BINS]` of `2000 count` samples; what is missing of them is silence.
pub(super) fn transform(signal: &[f32], count: usize) -> Vec<Complex<f32>> {
    let plans = plans();
    let mut padded = vec![0.0; MARGIN];
    padded.extend(&signal[..signal.len().min(count * SAMPLES_PER_FRAME)]);
    padded.resize(count * SAMPLES_PER_FRAME + 2 * MARGIN, 0.0);
    let mut spectra = vec![Complex::default(); count * HOPS * BINS];
    spectra
        .par_chunks_exact_mut(BINS)
        .enumerate()
        .for_each(|(hop, spectrum)| {
            let mut windowed: Vec<f32> = (padded[hop * HOP..].iter().zip(&plans.window))
                .map(|(s, w)| s * w * SCALE)
                .collect();
            (plans.forward)
                .process(&mut windowed, spectrum)
                .expect("the buffers are the plan's own sizes");
        });
    spectra
}

/// The signal whose [`transform`] is nearest to `spectra`.
pub(super) fn inverse(spectra: &[Complex<f32>]) -> Vec<f32> {
    let plans = plans();
    let hops = spectra.len() / BINS;
    let windows: Vec<Vec<f32>> = (spectra.par_chunks_exact(BINS))
        .map(|spectrum| {
            let mut spectrum = spectrum.to_vec();
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
        })
        .collect();
    let length = hops * HOP + 2 * MARGIN;
    let (mut signal, mut cover) = (vec![0.0; length], vec![0.0; length]);
    for (hop, window) in windows.iter().enumerate() {
        let at = hop * HOP;
        for (i, (value, w)) in window.iter().zip(&plans.window).enumerate() {
            signal[at + i] += value;
            cover[at + i] += w * w;
        }
    }
    (MARGIN..MARGIN + hops * HOP)
        .map(|i| signal[i] / f32::max(cover[i], LEAST_COVER))
        .collect()
}

/// The levels of `count` latents' worth of sound: `[8 count, FEATURES]`.
///
/// Sound that is missing at the end is silence.
pub fn analyse(audio: &Audio, count: usize) -> Vec<f32> {
    let spectra = [&audio.left, &audio.right].map(|channel| transform(channel, count));
    let mut levels = vec![0.0; count * HOPS * FEATURES];
    for (hop, levels) in levels.chunks_exact_mut(FEATURES).enumerate() {
        for (spectra, levels) in spectra.iter().zip(levels.chunks_exact_mut(BINS)) {
            let spectrum = &spectra[hop * BINS..][..BINS];
            for (level, x) in levels.iter_mut().zip(spectrum) {
                *level = ((x.norm() + FLOOR).ln() - MIDDLE) / SPREAD;
            }
        }
    }
    levels
}

/// The magnitude that a level stands for.
pub fn magnitude(level: f32) -> f32 {
    let log = (level * SPREAD + MIDDLE).min(LOUDEST);
    (log.exp() - FLOOR).max(0.0)
}

/// The derivative of [`magnitude`].
pub fn magnitude_slope(level: f32) -> f32 {
    let log = level * SPREAD + MIDDLE;
    match log > FLOOR.ln() && log < LOUDEST {
        true => SPREAD * log.exp(),
        false => 0.0,
    }
}

/// A sound that has these levels, `[8 A, FEATURES]`, or nearly: `2000 A` samples. Each frequency is
/// multiplied by its `gain`, `[BINS]`.
///
/// Both channels have the same phases, so that what is heard from one side stays there.
pub fn synthesise(levels: &[f32], gain: &[f32]) -> Audio {
    let magnitudes = [0, 1].map(|channel| -> Vec<f32> {
        (levels.chunks_exact(FEATURES))
            .flat_map(|hop| hop[channel * BINS..][..BINS].iter().zip(gain))
            .map(|(level, gain)| gain * magnitude(*level))
            .collect()
    });
    let both = magnitudes[0].iter().zip(&magnitudes[1]);
    let middle: Vec<f32> = both.map(|(l, r)| 0.5 * (l + r)).collect();
    let phases = phase::reconstruct(&middle);
    let [left, right] = magnitudes.map(|magnitudes| {
        let spectra: Vec<Complex<f32>> = (magnitudes.iter().zip(&phases))
            .map(|(magnitude, phase)| phase * magnitude)
            .collect();
        inverse(&spectra)
    });
    Audio { left, right }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: usize = 12 * SAMPLES_PER_FRAME;

    fn round_trip(signal: &[f32]) -> Vec<f32> {
        let audio = Audio {
            left: signal.to_vec(),
            right: signal.iter().map(|s| 0.25 * s).collect(),
        };
        let back = synthesise(&analyse(&audio, SAMPLES / SAMPLES_PER_FRAME), &[1.0; BINS]);
        assert_eq!((back.left.len(), back.right.len()), (SAMPLES, SAMPLES));
        // The second channel is the first one, quieter, as it was.
        let energy = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
        let ratio = (energy(&back.right) / energy(&back.left)).sqrt();
        assert!((ratio - 0.25).abs() < 0.03, "{ratio}");
        back.left
    }

    /// How far the magnitudes of two signals are apart, as a share of the first one's.
    fn convergence(one: &[f32], other: &[f32]) -> f32 {
        let magnitudes = |x| transform(x, SAMPLES / SAMPLES_PER_FRAME);
        let (one, other) = (magnitudes(one), magnitudes(other));
        let pairs = one.iter().zip(&other);
        let difference: f32 = pairs.map(|(a, b)| (a.norm() - b.norm()).powi(2)).sum();
        (difference / one.iter().map(|a| a.norm_sqr()).sum::<f32>()).sqrt()
    }

    #[test]
    fn the_transform_has_an_inverse() {
        let signal: Vec<f32> = (0..SAMPLES)
            .map(|n| (n as f32 * 0.03).sin() * 0.5)
            .collect();
        let back = inverse(&transform(&signal, SAMPLES / SAMPLES_PER_FRAME));
        for (a, b) in signal.iter().zip(&back) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn a_chord_that_glides_comes_back() {
        let signal: Vec<f32> = (0..SAMPLES)
            .map(|n| {
                let t = n as f32 / 48_000.0;
                let voice = |f: f32| (std::f32::consts::TAU * f * (t + 0.1 * t * t)).sin();
                0.2 * (voice(220.0) + voice(331.0) + 0.5 * voice(1500.0))
            })
            .collect();
        let error = convergence(&signal, &round_trip(&signal));
        assert!(error < 0.12, "{error}");
    }

    #[test]
    fn a_blow_stays_where_it_is_and_as_loud() {
        let at = 5 * SAMPLES_PER_FRAME + 777;
        let signal: Vec<f32> = (0..SAMPLES)
            .map(|n| match n.checked_sub(at) {
                Some(n) => (-(n as f32) / 900.0).exp() * (n as f32 * 0.05).cos(),
                None => 0.0,
            })
            .collect();
        let back = round_trip(&signal);
        let error = convergence(&signal, &back);
        assert!(error < 0.15, "{error}");
        let loudest = back.iter().fold(0f32, |most, v| most.max(v.abs()));
        let onset = back.iter().position(|v| v.abs() > 0.3 * loudest).unwrap();
        assert!(
            onset.abs_diff(at) < 120,
            "{} samples off",
            onset as i64 - at as i64
        );
        let energy = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
        let ratio = (energy(&back) / energy(&signal)).sqrt();
        assert!((ratio - 1.0).abs() < 0.1, "{ratio}");
    }

    #[test]
    fn silence_is_silent() {
        let back = synthesise(&analyse(&Audio::silence(4000), 2), &[1.0; BINS]);
        // But for the rounding of a logarithm and back.
        let both = back.left.iter().chain(&back.right);
        assert!(both.fold(0f32, |most, v| most.max(v.abs())) < 1e-8);
    }
}
