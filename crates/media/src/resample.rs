//! Sound of any rate and any number of channels to stereo at 48 kHz.

use std::f64::consts::PI;

use gallop_core::{Audio, SAMPLE_RATE};

/// Zero crossings of the kernel on each side.
const CROSSINGS: f64 = 32.0;
/// Share of the narrower band that passes; the rest is the slope of the filter.
const PASS: f64 = 0.95;
/// Of the Kaiser window: about 100 dB of attenuation.
const BETA: f64 = 10.0;
/// Highest rate taken.
pub(crate) const MAX_RATE: u32 = 384_000;

/// Resamples one channel from `rate` to [`SAMPLE_RATE`] by a windowed sinc, without delay:
/// `samples.len() * 48000 / rate` samples, rounded up.
pub(crate) fn resample(samples: &[f32], rate: u32) -> Vec<f32> {
    let out_rate = SAMPLE_RATE as u32;
    if rate == out_rate || samples.is_empty() {
        return samples.to_vec();
    }
    let common = gcd(rate, out_rate);
    let (step, phases) = (u64::from(rate / common), u64::from(out_rate / common));
    let table = kernel(step, phases);
    let taps = table.len() / phases as usize;
    let before = taps as i64 / 2 - 1;
    let length = (samples.len() as u64 * phases).div_ceil(step);
    (0..length)
        .map(|n| {
            let (whole, phase) = (n * step / phases, n * step % phases);
            let weights = &table[phase as usize * taps..][..taps];
            let start = whole as i64 - before;
            // Silence lies before the first sample and after the last.
            let skip = (-start).clamp(0, taps as i64) as usize;
            let from = (start + skip as i64) as usize;
            let known = samples.get(from..).unwrap_or(&[]);
            let pairs = weights[skip..].iter().zip(known);
            pairs.map(|(w, s)| w * s).sum()
        })
        .collect()
}

/// The kernel at each of the `phases` places between two input samples; each sums to one.
fn kernel(step: u64, phases: u64) -> Vec<f32> {
    let cutoff = PASS * (phases as f64 / step as f64).min(1.0);
    let half = (CROSSINGS / cutoff).ceil() as i64;
    let mut table = Vec::with_capacity((phases as i64 * 2 * half) as usize);
    for phase in 0..phases {
        let shift = phase as f64 / phases as f64;
        let at = |tap: i64| {
            let x = (tap - half + 1) as f64 - shift;
            let window = 1.0 - (x / half as f64).powi(2);
            sinc(x * cutoff) * bessel(BETA * window.max(0.0).sqrt())
        };
        let total: f64 = (0..2 * half).map(at).sum();
        table.extend((0..2 * half).map(|tap| (at(tap) / total) as f32));
    }
    table
}

fn sinc(x: f64) -> f64 {
    match x.abs() < 1e-12 {
        true => 1.0,
        false => (PI * x).sin() / (PI * x),
    }
}

/// The modified Bessel function of order zero, by its series.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..40 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}

fn gcd(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// Two channels out of any number: one is both, of more the centre and the back are mixed into the sides.
pub(crate) fn stereo(mut channels: Vec<Vec<f32>>) -> Audio {
    const QUIETER: f32 = std::f32::consts::FRAC_1_SQRT_2;
    match channels.len() {
        0 => Audio::default(),
        1 => {
            let left = channels.swap_remove(0);
            let right = left.clone();
            Audio { left, right }
        }
        2 => {
            let right = channels.swap_remove(1);
            let left = channels.swap_remove(0);
            Audio { left, right }
        }
        count => {
            // Orders of WAV and FLAC: L R C; L R Ls Rs; L R C Ls Rs; L R C LFE Ls Rs ...
            let centre = if count == 4 { None } else { Some(2) };
            let back = match count {
                3 => None,
                4 => Some(2),
                5 => Some(3),
                _ => Some(4),
            };
            let side = |own: usize| -> Vec<f32> {
                let back = back.map(|first| first + own);
                let extra: Vec<_> = [centre, back].into_iter().flatten().collect();
                let gain = 1.0 / (1.0 + QUIETER * extra.len() as f32);
                let mix = |i: usize| {
                    let more: f32 = extra.iter().map(|&c| channels[c][i]).sum();
                    gain * (channels[own][i] + QUIETER * more)
                };
                (0..channels[own].len()).map(mix).collect()
            };
            Audio {
                left: side(0),
                right: side(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_keep_pitch_place_and_strength() {
        for rate in [8_000u32, 22_050, 44_100, 96_000, 47_999] {
            let pitch = 1000.0 * std::f64::consts::TAU;
            let tone = |rate: u32, n: usize| -> Vec<f32> {
                (0..n)
                    .map(|i| (pitch * i as f64 / f64::from(rate)).sin() as f32)
                    .collect()
            };
            let got = resample(&tone(rate, rate as usize / 2), rate);
            let want = tone(48_000, 24_000);
            assert!(got.len().abs_diff(24_000) <= 4, "{rate}: {}", got.len());
            for i in 4000..20_000 {
                assert!((got[i] - want[i]).abs() < 2e-4, "{rate}: {i}");
            }
        }
    }

    #[test]
    fn what_is_above_the_band_is_gone() {
        let pitch = 30_000.0 * std::f64::consts::TAU / 96_000.0;
        let high: Vec<f32> = (0..48_000)
            .map(|i| (pitch * f64::from(i)).sin() as f32)
            .collect();
        let got = resample(&high, 96_000);
        let loudest = got[2000..20_000].iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(loudest < 1e-4, "{loudest}");
    }

    #[test]
    fn a_click_stays_where_it_was() {
        let mut click = vec![0.0; 44_100];
        click[11_025] = 1.0;
        let got = resample(&click, 44_100);
        let at = (0..got.len()).max_by(|&a, &b| got[a].total_cmp(&got[b]));
        assert_eq!(at, Some(12_000));
    }

    #[test]
    fn any_channels_become_two() {
        for count in 1..9 {
            let audio = stereo(vec![vec![0.5; 10]; count]);
            assert_eq!((audio.left.len(), audio.right.len()), (10, 10));
            assert!(audio.left.iter().all(|x| (x - 0.5).abs() < 1e-6), "{count}");
        }
    }
}
