//! When something begins to sound, from the samples alone.

use gallop_core::{Audio, SAMPLE_RATE};
use realfft::RealFftPlanner;

/// Samples between two analysis windows: one millisecond.
pub(crate) const HOP: usize = SAMPLE_RATE / 1000;
/// Samples of an analysis window: 10.7 ms, short enough to place an attack.
const WINDOW: usize = 512;
/// Hops over which a rise is measured.
const LAG: usize = 8;
/// Two onsets are at least this many hops apart.
const APART: usize = 60;
/// An onset's rise, as a share of the strongest rise in the clip, at least.
const RELATIVE: f32 = 0.12;
/// And in absolute terms: mean rise of log magnitude over the bins.
const ABSOLUTE: f32 = 0.12;

/// Onset times in seconds, in order.
///
/// Spectral flux of log magnitudes (Böck & Widmer 2013 without the vibrato filter), its peaks
/// then placed at the half-way point of the rise in level.
pub fn onsets(audio: &Audio) -> Vec<f64> {
    let mono = audio.mono();
    if mono.len() < WINDOW {
        return Vec::new();
    }
    let flux = flux(&mono);
    let strongest = flux.iter().copied().fold(0.0, f32::max);
    let threshold = (strongest * RELATIVE).max(ABSOLUTE);
    peaks(&flux, threshold)
        .into_iter()
        .map(|hop| attack(&mono, hop))
        .collect()
}

/// Rise of the log spectrum over [`LAG`] hops; entry `h` belongs to the window that is centred
/// on sample `h * HOP`.
fn flux(mono: &[f32]) -> Vec<f32> {
    let fft = RealFftPlanner::<f32>::new().plan_fft_forward(WINDOW);
    let window: Vec<f32> = (0..WINDOW)
        .map(|i| 0.5 - 0.5 * (std::f32::consts::TAU * (i as f32 + 0.5) / WINDOW as f32).cos())
        .collect();
    let (mut input, mut output) = (fft.make_input_vec(), fft.make_output_vec());
    let hops = mono.len() / HOP + 1;
    let spectra: Vec<Vec<f32>> = (0..hops)
        .map(|hop| {
            for (i, x) in input.iter_mut().enumerate() {
                let at = (hop * HOP + i).checked_sub(WINDOW / 2);
                *x = at.and_then(|at| mono.get(at)).copied().unwrap_or(0.0) * window[i];
            }
            // Lengths match by construction, the only thing that process can object to.
            let _ = fft.process(&mut input, &mut output);
            output
                .iter()
                .map(|c| (1.0 + 20.0 * c.norm()).ln())
                .collect()
        })
        .collect();
    let bins = spectra[0].len() as f32;
    let rise = |now: &[f32], then: &[f32]| {
        now.iter()
            .zip(then)
            .map(|(a, b)| (a - b).max(0.0))
            .sum::<f32>()
            / bins
    };
    let silence = vec![0.0; spectra[0].len()];
    (0..hops)
        .map(|h| {
            rise(
                &spectra[h],
                if h < LAG { &silence } else { &spectra[h - LAG] },
            )
        })
        .collect()
}

/// Hops of the local maxima of `flux` above `threshold`, strongest first choice within [`APART`].
fn peaks(flux: &[f32], threshold: f32) -> Vec<usize> {
    let near = |hop: usize| hop.saturating_sub(LAG)..(hop + LAG).min(flux.len());
    let local =
        |&hop: &usize| flux[hop] >= threshold && near(hop).all(|other| flux[other] <= flux[hop]);
    strongest_apart(flux, (0..flux.len()).filter(local).collect())
}

/// Of candidates those that are [`APART`], the highest chosen first and of equals the earlier; in order.
pub(crate) fn strongest_apart(heights: &[f32], mut candidates: Vec<usize>) -> Vec<usize> {
    candidates.sort_by(|&a, &b| heights[b].total_cmp(&heights[a]).then(a.cmp(&b)));
    let mut taken: Vec<usize> = Vec::new();
    for t in candidates {
        if taken.iter().all(|&other| other.abs_diff(t) >= APART) {
            taken.push(t);
        }
    }
    taken.sort_unstable();
    taken
}

/// Seconds of the attack near `hop`: where the level first passes half of its local peak.
fn attack(mono: &[f32], hop: usize) -> f64 {
    let from = (hop * HOP).saturating_sub(WINDOW);
    let to = (hop * HOP + WINDOW).min(mono.len());
    let before = from.saturating_sub(WINDOW)..from;
    let rest = mono[before].iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let peak = mono[from..to].iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let threshold = rest + 0.3 * (peak - rest).max(0.0);
    let at = mono[from..to]
        .iter()
        .position(|x| x.abs() >= threshold && x.abs() > 0.0);
    (from + at.unwrap_or(hop * HOP - from)) as f64 / SAMPLE_RATE as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decaying tones at `times`, over a little noise.
    fn strikes(times: &[f64], seconds: f64, pitch: f64) -> Audio {
        let n = (seconds * SAMPLE_RATE as f64) as usize;
        let mut state = 1u32;
        let wave: Vec<f32> = (0..n)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
                let t = i as f64 / SAMPLE_RATE as f64;
                let tone: f64 = times
                    .iter()
                    .filter(|&&s| t >= s)
                    .map(|s| {
                        0.5 * (-(t - s) * 12.0).exp()
                            * ((t - s) * pitch * std::f64::consts::TAU).cos()
                    })
                    .sum();
                tone as f32 + 0.002 * noise
            })
            .collect();
        Audio {
            left: wave.clone(),
            right: wave,
        }
    }

    #[test]
    fn strikes_are_placed_within_three_milliseconds() {
        let times = [0.25, 0.8, 1.1, 1.53];
        for pitch in [110.0, 440.0, 2500.0] {
            let found = onsets(&strikes(&times, 2.0, pitch));
            assert_eq!(found.len(), times.len(), "{pitch} Hz: {found:?}");
            for (a, b) in found.iter().zip(times) {
                assert!((a - b).abs() < 0.003, "{pitch} Hz: {a} for {b}");
            }
        }
    }

    #[test]
    fn silence_and_steady_tones_have_no_onset_inside() {
        assert!(onsets(&Audio::silence(48_000)).is_empty());
        assert!(onsets(&Audio::silence(3)).is_empty());
        let steady: Vec<f32> = (0..96_000).map(|i| 0.3 * (i as f32 * 0.05).sin()).collect();
        let audio = Audio {
            left: steady.clone(),
            right: steady,
        };
        assert!(onsets(&audio).iter().all(|&t| !(0.05..1.95).contains(&t)));
    }
}
