//! What of a sound is left after coding it: when its onsets come, and what spectra it has.

use gallop_core::Audio;
use realfft::RealFftPlanner;
use serde::{Deserialize, Serialize};

use crate::measure::pair;
use crate::rises::rises;

/// An onset further than this from where it was, in seconds, is another one.
const MATCH: f64 = 0.05;
/// An onset is kept if it is no further than this from where it was, in milliseconds.
pub const KEPT_MS: f64 = 5.0;
/// Limits for onsets of the coded sound, over those of the original: what just passes there may just fail here.
const LEAVE: f32 = 0.6;
/// Windows of the spectra, in samples at 48 kHz: 5 to 43 ms.
const WINDOWS: [usize; 4] = [256, 512, 1024, 2048];
/// Windows that a hop moves on by, as a part of the window.
const HOPS_A_WINDOW: usize = 4;
/// Added to magnitudes before the logarithm; a sine of amplitude 1 has magnitude 1.
const FLOOR: f32 = 1e-4;

/// A sound beside what coding made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Onsets of the sound: places where its envelope grows by 6 dB or more.
    pub onsets: usize,
    /// For each that is heard again: by how much it is late, in milliseconds.
    pub shifts_ms: Vec<f64>,
    /// Mean difference of log magnitudes over windows of several lengths, in nats.
    pub spectrum: f64,
}

impl Kept {
    /// Compares a sound with what coding made of it; what is longer in one of them does not count.
    pub fn new(original: &Audio, coded: &Audio) -> Self {
        let (before, after) = (rises(original, 1.0), rises(coded, LEAVE));
        let channels = [
            distance(&original.left, &coded.left),
            distance(&original.right, &coded.right),
        ];
        Self {
            onsets: before.len(),
            shifts_ms: pair(&before, &after, MATCH),
            spectrum: channels.iter().sum::<f64>() / 2.0,
        }
    }

    /// Onsets that are heard within [`KEPT_MS`] of where they were.
    pub fn kept(&self) -> usize {
        let near = |shift: &&f64| shift.abs() <= KEPT_MS;
        self.shifts_ms.iter().filter(near).count()
    }
}

/// The mean over window lengths of the mean difference of log magnitudes.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let len = a.len().min(b.len());
    let differences = WINDOWS.map(|length| {
        let (a, b) = (
            log_spectra(&a[..len], length),
            log_spectra(&b[..len], length),
        );
        let sum: f64 = a
            .iter()
            .zip(&b)
            .map(|(a, b)| f64::from((a - b).abs()))
            .sum();
        sum / a.len() as f64
    });
    differences.iter().sum::<f64>() / WINDOWS.len() as f64
}

/// Log magnitudes of all windows of a sound, half a window of silence put before it.
fn log_spectra(sound: &[f32], length: usize) -> Vec<f32> {
    let hop = length / HOPS_A_WINDOW;
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(length);
    let turn = std::f32::consts::TAU / length as f32;
    let window: Vec<f32> = (0..length)
        .map(|n| 4.0 / length as f32 * (0.5 - 0.5 * (turn * n as f32).cos()))
        .collect();
    let (mut input, mut output) = (fft.make_input_vec(), fft.make_output_vec());
    let mut logs = Vec::new();
    for first in (0..sound.len() + length / 2).step_by(hop) {
        for (n, x) in input.iter_mut().enumerate() {
            let at = (first + n).checked_sub(length / 2);
            *x = at.and_then(|at| sound.get(at)).copied().unwrap_or(0.0) * window[n];
        }
        // Lengths match by construction, the only thing that process can object to.
        let _ = fft.process(&mut input, &mut output);
        logs.extend(output.iter().map(|x| (x.norm() + FLOOR).ln()));
    }
    logs
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::SAMPLE_RATE;

    /// Strikes of a bell at `times`, `gain` loud.
    fn strikes(times: &[f64], gain: f32) -> Audio {
        let mut wave = vec![0.0f32; 2 * SAMPLE_RATE];
        for &time in times {
            let first = (time * SAMPLE_RATE as f64) as usize;
            for (i, x) in wave[first..].iter_mut().enumerate() {
                let t = i as f32 / SAMPLE_RATE as f32;
                *x += gain * (-t * 12.0).exp() * (t * 700.0 * std::f32::consts::TAU).cos();
            }
        }
        Audio {
            left: wave.clone(),
            right: wave,
        }
    }

    #[test]
    fn a_sound_is_kept_by_doing_nothing() {
        let sound = strikes(&[0.3, 0.9, 1.4], 0.5);
        let kept = Kept::new(&sound, &sound);
        assert_eq!((kept.onsets, kept.kept()), (3, 3));
        assert_eq!(kept.shifts_ms, [0.0; 3]);
        assert_eq!(kept.spectrum, 0.0);
    }

    #[test]
    fn late_and_lost_onsets_are_told_apart() {
        let kept = Kept::new(
            &strikes(&[0.3, 0.9, 1.4], 0.5),
            &strikes(&[0.303, 0.93], 0.5),
        );
        assert_eq!((kept.onsets, kept.kept()), (3, 1));
        let mut shifts = kept.shifts_ms.clone();
        shifts.sort_by(f64::total_cmp);
        assert_eq!(shifts.len(), 2);
        assert!(
            (shifts[0] - 3.0).abs() < 0.5 && (shifts[1] - 30.0).abs() < 0.5,
            "{shifts:?}"
        );
    }

    #[test]
    fn half_as_loud_is_the_logarithm_of_two_away() {
        // Noise has no quiet places that the floor would hide.
        let noise = |gain: f32| {
            let mut state = 1u32;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                gain * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
            };
            let wave: Vec<f32> = (0..SAMPLE_RATE).map(|_| draw()).collect();
            Audio {
                left: wave.clone(),
                right: wave,
            }
        };
        let distance = Kept::new(&noise(1.0), &noise(0.5)).spectrum;
        assert!((distance - 2f64.ln()).abs() < 0.02, "{distance}");
    }
}
