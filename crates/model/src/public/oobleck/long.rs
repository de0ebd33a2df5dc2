//! Sound longer than the encoder is given at once.

use candle_core::{DType, Tensor};

use super::OobleckEncoder;
use crate::public::{error::Result, resample::MODEL_RATE};

/// Samples that are encoded at once: 29 seconds.
const WINDOW: usize = 29 * MODEL_RATE;

/// Latents `[A, C]` of a wave `[T, 2]` of any length, drawn with `noise`, which gives `[A, C]` standard
/// normal numbers. Up to 29 seconds are encoded at once; longer waves in windows that overlap by half,
/// each drawn by itself, and blended from one into the next.
///
/// # Errors
/// When the wave is shorter than one latent, or memory runs out.
pub fn encode_wave(
    encoder: &OobleckEncoder,
    wave: &Tensor,
    noise: &mut dyn FnMut(&[usize]) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut draw = |wave: &Tensor| {
        let moments = encoder.encode(wave)?;
        moments.sample(&noise(moments.mean.dims())?)
    };
    let samples = wave.dim(0)?;
    if samples <= WINDOW {
        return draw(wave);
    }
    let mut runs = Vec::new();
    for start in (0..samples).step_by(WINDOW / 2) {
        let length = WINDOW.min(samples - start);
        let run = wave.narrow(0, start, length)?;
        let silence = Tensor::zeros((WINDOW - length, run.dim(1)?), DType::F32, wave.device())?;
        runs.push(draw(&Tensor::cat(&[run, silence], 0)?)?);
        if start + length == samples {
            break;
        }
    }
    let latents = blend(&runs)?;
    let counted = (samples * runs[0].dim(0)?).div_ceil(WINDOW);
    Ok(latents.narrow(0, 0, counted.min(latents.dim(0)?))?)
}

/// Runs `[A, C]` of one length, each beginning half a length after the one before, as one: where two
/// overlap, the first fades into the second.
fn blend(runs: &[Tensor]) -> Result<Tensor> {
    let mut all = runs[0].clone();
    let length = all.dim(0)?;
    let overlap = length / 2;
    let share: Vec<f32> = (0..overlap).map(|i| i as f32 / overlap as f32).collect();
    let share = Tensor::from_vec(share, (overlap, 1), all.device())?;
    let rest = (1.0 - &share)?;
    for run in &runs[1..] {
        let kept = all.dim(0)? - overlap;
        let fading = all.narrow(0, kept, overlap)?.broadcast_mul(&rest)?;
        let coming = run.narrow(0, 0, overlap)?.broadcast_mul(&share)?;
        let after = run.narrow(0, overlap, length - overlap)?;
        all = Tensor::cat(&[all.narrow(0, 0, kept)?, (fading + coming)?, after], 0)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn overlapping_runs_fade_into_each_other() {
        let run = |value: f32| Tensor::full(value, (5, 1), &Device::Cpu).unwrap();
        let all = blend(&[run(1.), run(3.), run(5.)]).unwrap();
        let all: Vec<f32> = all.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(all, [1., 1., 1., 1., 2., 3., 3., 4., 5., 5., 5.]);
    }
}
