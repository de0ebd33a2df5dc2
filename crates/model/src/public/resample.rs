//! Sound at another rate, through its spectrum: exact for what both rates can carry.
//!
//! The audio autoencoder is trained at 44.1 kHz and run as if its waves were at 51.2 kHz, so that 25
//! latents make a second. Its waves are then shortened by 441/512, and are at 44.1 kHz again.

use candle_core::{Device, Tensor};
use realfft::{RealFftPlanner, num_complex::Complex};

use super::error::Result;

/// The rate that the audio autoencoder is run at, in samples a second.
pub const MODEL_RATE: usize = 51_200;
/// The rate of the waves that [`to_playback`] gives.
pub const PLAYBACK_RATE: usize = 44_100;

/// A decoded wave `[T, C]` at [`MODEL_RATE`] to one `[T * 441 / 512, C]` at [`PLAYBACK_RATE`].
///
/// # Errors
/// When memory runs out.
pub fn to_playback(wave: &Tensor) -> Result<Tensor> {
    let (samples, channels) = wave.dims2()?;
    let length = samples * PLAYBACK_RATE / MODEL_RATE;
    let mut out = Vec::with_capacity(channels);
    for channel in 0..channels {
        let values: Vec<f32> = wave.narrow(1, channel, 1)?.flatten_all()?.to_vec1()?;
        let values = resample(&values, length);
        out.push(Tensor::from_vec(values, (length, 1), &Device::Cpu)?);
    }
    Ok(Tensor::cat(&out, 1)?)
}

/// `length` samples of the wave that `samples` describe over the same time, taken as periodic. Higher
/// frequencies than the new rate can carry are dropped.
pub fn resample(samples: &[f32], length: usize) -> Vec<f32> {
    if samples.is_empty() || length == 0 {
        return vec![0.0; length];
    }
    let mut planner = RealFftPlanner::<f64>::new();
    let forward = planner.plan_fft_forward(samples.len());
    let mut wave: Vec<f64> = samples.iter().copied().map(f64::from).collect();
    let mut spectrum = forward.make_output_vec();
    forward
        .process(&mut wave, &mut spectrum)
        .expect("the buffers have the lengths that the plan asks for");
    let backward = planner.plan_fft_inverse(length);
    let mut spectrum = fit(spectrum, samples.len(), length);
    let mut wave = backward.make_output_vec();
    // Its only complaint is an imaginary part at the ends, which it drops.
    let _ = backward.process(&mut spectrum, &mut wave);
    let scale = 1.0 / samples.len() as f64;
    wave.into_iter().map(|x| (x * scale) as f32).collect()
}

/// The spectrum of `from` samples, cut or filled up to that of `to` samples.
fn fit(mut spectrum: Vec<Complex<f64>>, from: usize, to: usize) -> Vec<Complex<f64>> {
    let kept = from.min(to);
    spectrum.truncate(kept / 2 + 1);
    // The middle frequency of an even length stands for both signs of itself.
    if kept.is_multiple_of(2) && from != to {
        spectrum[kept / 2] *= if to < from { 2.0 } else { 0.5 };
    }
    spectrum.resize(to / 2 + 1, Complex::default());
    spectrum
}

#[cfg(test)]
mod tests {
    use super::*;

    // scipy.signal.resample of `WAVE` to so many numbers.
    const WAVE: [f32; 10] = [0.3, -0.7, 1.1, 0.4, -0.2, 0.9, -1.3, 0.6, 0.05, -0.45];
    const TO_8: &[f32] = &[
        0.38,
        -0.533_788_8,
        1.343_159_6,
        -0.472_224_8,
        0.82,
        -1.149_201_7,
        0.943_465_6,
        -0.771_409_9,
    ];
    const TO_7: &[f32] = &[
        -0.421_656_3,
        0.370_431_2,
        0.477_772_5,
        0.245_871_2,
        -0.273_306_1,
        -0.031_064_8,
        0.121_952_3,
    ];
    const TO_13: &[f32] = &[
        0.3,
        -0.654_826_8,
        0.077_267_7,
        1.410_371,
        0.215_091_8,
        -0.437_474_5,
        0.970_814_4,
        0.009_039_3,
        -1.293_910_3,
        0.424_762,
        0.690_543_9,
        -0.703_289_9,
        -0.098_388_6,
    ];

    fn tone(samples: usize, cycles: f64) -> Vec<f32> {
        let angle = |i| std::f64::consts::TAU * cycles * f64::from(i) / samples as f64;
        (0..samples as u32)
            .map(|i| (0.3 + angle(i)).sin() as f32)
            .collect()
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn a_tone_stays_the_same_tone() {
        for (from, to) in [
            (2048, 1764),
            (1024, 882),
            (512, 441),
            (441, 512),
            (99, 100),
            (7, 7),
        ] {
            let got = resample(&tone(from, 3.0), to);
            assert!(
                largest_difference(&got, &tone(to, 3.0)) < 1e-6,
                "{from} to {to}"
            );
        }
    }

    #[test]
    fn what_the_new_rate_cannot_carry_is_dropped() {
        let got = resample(&tone(512, 240.0), 441);
        assert!(got.iter().all(|x| x.abs() < 1e-6));
    }

    #[test]
    fn agrees_with_the_public_code() {
        for want in [TO_8, TO_7, TO_13] {
            let got = resample(&WAVE, want.len());
            assert!(largest_difference(&got, want) < 1e-6, "{got:?}");
        }
    }
}
