//! Sound into the public audio encoder and out of its decoder.

use candle_core::{Device, Tensor};
use gallop_core::{Audio, SAMPLE_RATE};
use gallop_model::public::resample::{MODEL_RATE, PLAYBACK_RATE, resample, to_playback};

use super::plan::samples;
use crate::error::Result;

/// The steps of 16-bit sound, which the public code reads every file as.
const STEPS: f32 = 32_768.0;

/// Sound as the audio encoder is given it, `[T, 2]` at 51.2 kHz: the mean of both channels on both, in steps
/// of 16 bits, at most `seconds` of it.
///
/// # Errors
/// When memory runs out.
pub fn sound_for_encoder(audio: &Audio, seconds: f64) -> Result<Tensor> {
    let mono = audio.mono();
    let length = mono.len() * MODEL_RATE / SAMPLE_RATE;
    let mut wave = resample(&mono, length);
    wave.truncate(samples(seconds));
    for sample in &mut wave {
        *sample = (*sample * STEPS)
            .round_ties_even()
            .clamp(-STEPS, STEPS - 1.0)
            / STEPS;
    }
    let both: Vec<f32> = wave.iter().flat_map(|&sample| [sample, sample]).collect();
    Ok(Tensor::from_vec(both, (wave.len(), 2), &Device::Cpu)?)
}

/// A decoded wave `[T, 2]` at 51.2 kHz as sound: brought to 44.1 kHz as in the public code, and from there to
/// the rate of Gallop's files.
///
/// # Errors
/// When memory runs out.
pub fn wave_to_audio(wave: &Tensor) -> Result<Audio> {
    let wave = to_playback(wave)?;
    let length = wave.dim(0)? * SAMPLE_RATE / PLAYBACK_RATE;
    let channel = |i: usize| -> Result<Vec<f32>> {
        let values: Vec<f32> = wave.narrow(1, i, 1)?.flatten_all()?.to_vec1()?;
        Ok(resample(&values, length))
    };
    Ok(Audio {
        left: channel(0)?,
        right: channel(wave.dim(1)? - 1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: usize, samples: usize) -> Vec<f32> {
        let angle = |i: usize| std::f64::consts::TAU * 100.0 * i as f64 / rate as f64;
        (0..samples)
            .map(|i| (0.5 * angle(i).sin()) as f32)
            .collect()
    }

    #[test]
    fn sound_goes_in_at_the_encoders_rate() {
        let audio = Audio {
            left: tone(SAMPLE_RATE, 48_000),
            right: vec![0.0; 48_000],
        };
        let wave = sound_for_encoder(&audio, 0.5).unwrap();
        assert_eq!(wave.dims(), [25_600, 2]);
        let rows = wave.to_vec2::<f32>().unwrap();
        for (row, want) in rows.iter().zip(tone(MODEL_RATE, 25_600)) {
            assert_eq!(row[0], row[1]);
            assert!((row[0] - want / 2.0).abs() < 1.0 / STEPS);
        }
    }

    #[test]
    fn a_latent_comes_out_as_long_as_a_frame() {
        let wave = tone(MODEL_RATE, 25 * 2048);
        let wave = Tensor::new(wave, &Device::Cpu)
            .unwrap()
            .unsqueeze(1)
            .unwrap();
        let audio = wave_to_audio(&wave).unwrap();
        assert_eq!((audio.left.len(), audio.right.len()), (48_000, 48_000));
        for (got, want) in audio.left.iter().zip(tone(SAMPLE_RATE, 48_000)) {
            assert!((got - want).abs() < 1e-5);
        }
    }
}
