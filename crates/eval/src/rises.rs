//! When a sound grows louder, by its envelope.
//!
//! [`onsets`](crate::onsets) places the attack of a strike to the sample, and hears faint ones. In speech it takes single
//! pulses of the voice for onsets: noise 50 dB below full scale moves one in seven of them by more than 5 ms. The envelope
//! stays where it is under 20 times that, so what codings do to a sound is told by this ruler.

use gallop_core::Audio;

use crate::onsets::{HOP, strongest_apart};

/// Values on either side that a value of the envelope is the root mean square of: 10 ms in all, a period of a low voice.
const HALF: usize = 5;
/// Values over which a rise is measured: 20 ms.
const LAG: usize = 20;
/// What is quieter than this share of the loudest is silence: 34 dB.
const SILENCE: f32 = 0.02;
/// What rises to less than this share of the loudest does not count: 20 dB.
const LOUD: f32 = 0.1;
/// And what rises by less than this, in nepers: 6 dB.
const RISE: f32 = 0.7;

/// Times in seconds at which the level is half-way up a rise of 6 dB or more in 20 ms, in order.
///
/// With `leave` below 1 smaller rises count too, to fainter levels, each limit times `leave`: for finding again in a coded
/// sound what just passed the limits in the original.
pub(crate) fn rises(audio: &Audio, leave: f32) -> Vec<f64> {
    let envelope = envelope(&audio.mono());
    let loudest = envelope.iter().copied().fold(0.0, f32::max);
    if loudest == 0.0 {
        return Vec::new();
    }
    let level = |t: Option<usize>| {
        // Before the first sample there is silence; after the last nothing rises any more.
        let value = t.map_or(0.0, |t| envelope[t.min(envelope.len() - 1)]);
        (value + SILENCE * loudest).ln()
    };
    let rise: Vec<f32> = (0..envelope.len())
        .map(|t| level(Some(t + LAG / 2)) - level(t.checked_sub(LAG / 2)))
        .collect();
    let loud = |t: usize| envelope[(t + LAG).min(envelope.len() - 1)] > leave * LOUD * loudest;
    let steep = |&t: &usize| rise[t] >= leave * RISE && loud(t);
    let found = strongest_apart(&rise, (0..rise.len()).filter(steep).collect());
    found.into_iter().map(|t| half_way(&envelope, t)).collect()
}

/// Root mean squares, one a hop: a millisecond.
fn envelope(mono: &[f32]) -> Vec<f32> {
    let energies: Vec<f32> = mono
        .chunks(HOP)
        .map(|samples| samples.iter().map(|x| x * x).sum())
        .collect();
    (0..energies.len())
        .map(|t| {
            let around = &energies[t.saturating_sub(HALF)..(t + HALF).min(energies.len())];
            (around.iter().sum::<f32>() / (2 * HALF * HOP) as f32).sqrt()
        })
        .collect()
}

/// Seconds at which the envelope is half-way from its least value just before `t` to its greatest just after.
fn half_way(envelope: &[f32], t: usize) -> f64 {
    let from = t.saturating_sub(LAG);
    let to = (t + LAG).min(envelope.len());
    let low = (from..=t).min_by(|&a, &b| envelope[a].total_cmp(&envelope[b]).then(b.cmp(&a)));
    let low = low.unwrap_or(from);
    let high = envelope[t..to].iter().copied().fold(0.0, f32::max);
    let half = 0.5 * (envelope[low] + high);
    let above = (low..to).find(|&i| envelope[i] >= half).unwrap_or(t);
    let between = match above.checked_sub(1) {
        Some(below) if envelope[below] < half => {
            (half - envelope[below]) / (envelope[above] - envelope[below])
        }
        _ => 1.0,
    };
    (above as f64 - 1.0 + f64::from(between)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::SAMPLE_RATE;

    /// A voice of pulses, 110 a second, that begins softly (over 15 ms) at `times` and is over 150 ms later.
    fn syllables(times: &[f64]) -> Audio {
        let wave: Vec<f32> = (0..2 * SAMPLE_RATE)
            .map(|i| {
                let t = i as f64 / SAMPLE_RATE as f64;
                let loud: f64 = (times.iter())
                    .map(|s| {
                        ((t - s) / 0.015).clamp(0.0, 1.0) * ((s + 0.15 - t) / 0.05).clamp(0.0, 1.0)
                    })
                    .sum();
                let pulse: f64 = (1..20)
                    .map(|k| (std::f64::consts::TAU * 110.0 * k as f64 * t).cos())
                    .sum();
                (0.02 * loud * pulse) as f32
            })
            .collect();
        Audio {
            left: wave.clone(),
            right: wave,
        }
    }

    fn with_noise(audio: &Audio, gain: f32) -> Audio {
        let mut state = 1u32;
        let mut add = |x: &f32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x + gain * ((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
        };
        Audio {
            left: audio.left.iter().map(&mut add).collect(),
            right: audio.right.iter().map(&mut add).collect(),
        }
    }

    #[test]
    fn soft_beginnings_are_found_and_noise_does_not_move_them() {
        let begin = [0.2, 0.5, 0.9, 1.33];
        let clean = syllables(&begin);
        let found = rises(&clean, 1.0);
        assert_eq!(found.len(), begin.len(), "{found:?}");
        for (found, begin) in found.iter().zip(begin) {
            // Half-way up the 15 ms, as far as pulses 9 ms apart tell.
            assert!((found - begin - 0.0075).abs() < 0.009, "{found} of {begin}");
        }
        let noisy = rises(&with_noise(&clean, 0.02), 1.0);
        assert_eq!(noisy.len(), begin.len(), "{noisy:?}");
        for (a, b) in found.iter().zip(&noisy) {
            assert!((a - b).abs() < 0.001, "{a} {b}");
        }
    }

    #[test]
    fn what_just_fails_is_found_with_leave() {
        // Grows by 5 dB at one second.
        let wave: Vec<f32> = (0..2 * SAMPLE_RATE)
            .map(|i| {
                let t = i as f32 / SAMPLE_RATE as f32;
                let gain = if t < 1.0 { 0.2 } else { 0.2 * 1.78 };
                gain * (std::f32::consts::TAU * 440.0 * t).sin()
            })
            .collect();
        let audio = Audio {
            left: wave.clone(),
            right: wave,
        };
        let inside = |leave: f32| -> Vec<f64> {
            let found = rises(&audio, leave).into_iter();
            found.filter(|t| *t > 0.5).collect()
        };
        assert!(inside(1.0).is_empty());
        let found = inside(0.7);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!((found[0] - 1.0).abs() < 0.002, "{found:?}");
    }

    #[test]
    fn silence_and_nearly_nothing_have_none() {
        assert!(rises(&Audio::silence(SAMPLE_RATE), 1.0).is_empty());
        assert!(rises(&Audio::silence(3), 1.0).is_empty());
        assert!(rises(&Audio::silence(0), 1.0).is_empty());
    }
}
