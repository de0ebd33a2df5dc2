//! What a voice is like: its pitch, and its spectrum over all that is loud.

use gallop_core::{Audio, SAMPLE_RATE};

use crate::timbre::{BANDS, bands};

/// Samples of which one is kept to look for a pitch: 8 kHz are enough.
const KEEP: usize = 6;
/// Samples at 8 kHz that are compared, and between two looks: 40 and 20 ms.
const WINDOW: usize = 320;
const HOP: usize = 160;
/// Periods that are tried, samples at 8 kHz: 400 down to 73 Hz.
const PERIODS: std::ops::Range<usize> = 20..110;
/// How like the sound must be to itself a period later to have a pitch.
const PERIODIC: f32 = 0.6;
/// A period is taken before a longer one that fits better by no more than this share: every
/// multiple of a period fits as well.
const SHORTER: f32 = 0.88;
/// Windows with less than this share of the loudest one's energy count as silence.
const LOUD: f32 = 0.05;
/// How many numbers describe a clip's voice.
pub const LENGTH: usize = 5 + BANDS;

/// Octaves of the pitch above 200 Hz (its lower fifth, median and upper fifth), the share of loud
/// windows that have one, how periodic they are; then the mean log energies of the bands where it
/// is loud, their mean taken out. All zero without sound.
pub fn voice(audio: Option<&Audio>) -> Vec<f32> {
    let mut out = vec![0.0; LENGTH];
    let Some(audio) = audio else {
        return out;
    };
    let mono = audio.mono();
    let coarse: Vec<f32> = mono
        .chunks_exact(KEEP)
        .map(|part| part.iter().sum::<f32>() / KEEP as f32)
        .collect();
    let (mut pitches, mut likeness, loud) = pitches(&coarse);
    if loud.is_empty() {
        return out;
    }
    if !pitches.is_empty() {
        pitches.sort_by(f32::total_cmp);
        for (to, share) in out.iter_mut().zip([0.2, 0.5, 0.8]) {
            *to = pitches[(share * (pitches.len() - 1) as f32) as usize];
        }
        likeness /= pitches.len() as f32;
    }
    out[3] = pitches.len() as f32 / loud.len() as f32;
    out[4] = likeness;
    for from in loud.iter().step_by(2) {
        let energies = bands(&mono, (from * KEEP) as isize);
        for (sum, energy) in out[5..].iter_mut().zip(energies) {
            *sum += (energy + 1e-9).ln();
        }
    }
    let n = loud.len().div_ceil(2) as f32;
    let mean = out[5..].iter().sum::<f32>() / BANDS as f32;
    out[5..].iter_mut().for_each(|v| *v = (*v - mean) / n);
    out
}

/// Pitches of the loud windows that have one, how periodic those are together, and where the loud
/// windows begin.
fn pitches(coarse: &[f32]) -> (Vec<f32>, f32, Vec<usize>) {
    let reach = WINDOW + PERIODS.end;
    let starts: Vec<usize> = (0..coarse.len().saturating_sub(reach))
        .step_by(HOP)
        .collect();
    let energy = |from: usize| -> f32 { coarse[from..from + WINDOW].iter().map(|x| x * x).sum() };
    let most = starts.iter().map(|&s| energy(s)).fold(0.0, f32::max);
    let loud: Vec<usize> = starts
        .into_iter()
        .filter(|&s| energy(s) > LOUD * most)
        .collect();
    let mut likeness = 0.0;
    let pitches = loud
        .iter()
        .filter_map(|&from| {
            let (period, like) = period(&coarse[from..from + reach])?;
            likeness += like;
            let hz = SAMPLE_RATE as f32 / (KEEP * period) as f32;
            Some((hz / 200.0).log2())
        })
        .collect();
    (pitches, likeness, loud)
}

/// The shortest period after which the sound is most like itself, and how like.
fn period(part: &[f32]) -> Option<(usize, f32)> {
    let like = |lag: usize| {
        let (mut xy, mut xx, mut yy) = (0.0, 1e-9, 1e-9);
        for (x, y) in part[..WINDOW].iter().zip(&part[lag..]) {
            xy += x * y;
            xx += x * x;
            yy += y * y;
        }
        xy / (xx * yy).sqrt()
    };
    let all: Vec<f32> = (PERIODS.start - 1..=PERIODS.end).map(like).collect();
    let inside = &all[1..all.len() - 1];
    let best = inside.iter().copied().fold(f32::MIN, f32::max);
    if best < PERIODIC {
        return None;
    }
    let first = (1..all.len() - 1)
        .find(|&i| all[i] >= SHORTER * best && all[i] >= all[i - 1] && all[i] >= all[i + 1])?;
    Some((PERIODS.start - 1 + first, all[first]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pulses through one resonance: as coarse a voice as there can be.
    fn vowel(hz: f32, formant: f32) -> Audio {
        let n = SAMPLE_RATE;
        let mut wave = vec![0.0f32; n];
        let (r, w) = (
            0.985f32,
            std::f32::consts::TAU * formant / SAMPLE_RATE as f32,
        );
        let (mut phase, mut a, mut b) = (0.0f32, 0.0f32, 0.0f32);
        for x in wave.iter_mut().take(n * 3 / 4).skip(n / 4) {
            phase += hz / SAMPLE_RATE as f32;
            let pulse = if phase >= 1.0 { 1.0 } else { 0.0 };
            phase = phase.fract();
            let y = pulse + 2.0 * r * w.cos() * a - r * r * b;
            (b, a) = (a, y);
            *x = 0.05 * y;
        }
        Audio {
            left: wave.clone(),
            right: wave,
        }
    }

    #[test]
    fn the_pitch_is_that_of_the_pulses_whatever_the_vowel() {
        for hz in [100.0f32, 205.0, 290.0] {
            for formant in [400.0, 900.0] {
                let told = voice(Some(&vowel(hz, formant)));
                let want = (hz / 200.0).log2();
                assert!((told[1] - want).abs() < 0.06, "{hz}: {}", told[1]);
                assert!(told[3] > 0.8, "{hz}: {}", told[3]);
            }
        }
        let (low, high) = (
            voice(Some(&vowel(100.0, 400.0))),
            voice(Some(&vowel(100.0, 3000.0))),
        );
        let tilt = |v: &[f32]| v[5 + BANDS * 2 / 3] - v[5 + BANDS / 3];
        assert!(tilt(&high) > tilt(&low) + 1.0);
    }

    #[test]
    fn noise_and_silence_have_no_pitch() {
        let mut noise = crate::net::Noise::new(3);
        let wave: Vec<f32> = (0..SAMPLE_RATE).map(|_| 0.2 * noise.gaussian()).collect();
        let hiss = Audio {
            left: wave.clone(),
            right: wave,
        };
        assert!(voice(Some(&hiss))[3] < 0.05);
        assert!(voice(None).iter().all(|&v| v == 0.0));
        let silence = voice(Some(&Audio::silence(SAMPLE_RATE)));
        assert!(silence.iter().all(|&v| v == 0.0));
    }
}
