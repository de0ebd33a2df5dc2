//! What fewer bits do to a transformer as a whole.

use candle_core::{Device, Tensor};
use gallop_core::LatentShape;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

use crate::{
    dit::{Batch, Dit, DitConfig, Outputs, Text},
    error::Result,
    tokens::{SampleSpec, TokenSequence},
    weights::Weights,
};

/// Text tokens of the input.
const TEXT: usize = 8;
/// Latents of the input.
const LATENTS: LatentShape = LatentShape {
    frames: 3,
    height: 8,
    width: 8,
    audio: 12,
};

/// How far the velocities of two transformers are apart on one random input, as a share of the first one's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VelocityError {
    /// Of video.
    pub video: f64,
    /// Of audio.
    pub audio: f64,
}

/// Compares two sets of weights of a transformer that reads text features, each read layer by layer. `progress` hears
/// of every layer of both, and stops the work by an error.
///
/// # Errors
/// When a weight cannot be read, or by `progress`.
pub fn velocity_error(
    config: &DitConfig,
    exact: &Weights,
    other: &Weights,
    progress: &mut dyn FnMut() -> Result<()>,
) -> Result<VelocityError> {
    let mut rng = Pcg64::seed_from_u64(0);
    let mut noise = |shape: &[usize]| {
        let numbers = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut rng));
        Tensor::from_vec(numbers.collect::<Vec<f32>>(), shape, &Device::Cpu)
    };
    let patch = config.patch;
    let latents = LatentShape {
        frames: LATENTS.frames.next_multiple_of(patch[0]),
        height: LATENTS.height.next_multiple_of(patch[1]),
        width: LATENTS.width.next_multiple_of(patch[2]),
        ..LATENTS
    };
    let video = noise(&[
        latents.frames,
        latents.height,
        latents.width,
        config.video_channels,
    ])?;
    let spec = SampleSpec::public(latents, TEXT);
    let sequence = TokenSequence::new(config, &[spec], &Device::Cpu)?;
    let batch = Batch {
        sequence: &sequence,
        video: sequence.video_tokens(&[video])?,
        audio: Some(noise(&[latents.audio, config.audio_channels])?),
        text: Some(Text::Features(noise(&[TEXT, config.text.channels])?)),
        predict_text: false,
    };
    let mut run = |weights| -> Result<Outputs> {
        Dit::streamed(config, weights)?.forward_watched(&batch, &mut |_| progress())
    };
    let (exact, other) = (run(exact)?, run(other)?);
    Ok(VelocityError {
        video: relative(exact.video, other.video)?,
        audio: relative(exact.audio, other.audio)?,
    })
}

fn relative(exact: Option<Tensor>, other: Option<Tensor>) -> Result<f64> {
    let (Some(exact), Some(other)) = (exact, other) else {
        return Ok(0.0);
    };
    let length = |x: &Tensor| -> Result<f64> {
        Ok(f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
    };
    Ok(length(&(&exact - &other)?)? / length(&exact)?.max(f64::MIN_POSITIVE))
}
