//! foal's audio autoencoder: 2000 stereo samples, the length of a video frame, to one latent of 64
//! channels.
//!
//! The encoder reads the levels of a short-time Fourier transform (eight windows a latent), the decoder
//! writes them, both with ConvNeXt blocks at 24 and 96 steps a second (as Siuzdak 2023, "Vocos");
//! phases are found to fit. Latent `i` stands for the samples `[2000 i, 2000 (i + 1))`.

mod phase;
mod spectrum;

use candle_core::{DType, Device, Tensor};
use gallop_core::{Audio, SAMPLES_PER_FRAME};
use gallop_kernels::Precision;
use serde::{Deserialize, Serialize};

use crate::ae_layers::{Conv, ConvShape, Linear, Norm};
use crate::{Init, ModelError, Result, Weights};

pub use spectrum::{BINS, FEATURES, HOPS, analyse, magnitude, magnitude_slope, synthesise};

/// Latents stay within plus and minus this.
const BOUND: f64 = 3.0;
/// Windows a step of the 96-a-second stages.
const FINE: usize = 2;
/// Steps of the 96-a-second stages a latent.
const COARSE: usize = HOPS / FINE;
/// Taps of the depthwise convolutions.
const TAPS: usize = 7;
/// Hidden width of a block over its width.
const EXPANSION: usize = 3;

/// Widths and depths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioAeConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels at 24, 96 and 192 steps a second.
    pub widths: [usize; 3],
    /// Blocks of the encoder at 96, then 24 steps a second.
    pub encoder_blocks: [usize; 2],
    /// Blocks of the decoder at 24, then 96 steps a second.
    pub decoder_blocks: [usize; 2],
}

impl Default for AudioAeConfig {
    fn default() -> Self {
        Self {
            latent_channels: 64,
            widths: [320, 256, 192],
            encoder_blocks: [2, 2],
            decoder_blocks: [2, 4],
        }
    }
}

struct Encoder {
    embed: Linear,
    fine: Linear,
    stage96: Vec<Block>,
    coarse: Linear,
    stage24: Vec<Block>,
    norm: Norm,
    head: Linear,
}

struct Decoder {
    embed: Linear,
    stage24: Vec<Block>,
    fine: Linear,
    stage96: Vec<Block>,
    norm: Norm,
    windows: Linear,
    head: Linear,
}

/// The audio autoencoder.
pub struct AudioAe {
    config: AudioAeConfig,
    precision: Precision,
    device: Device,
    encoder: Encoder,
    decoder: Decoder,
    mean: Tensor,
    std: Tensor,
    /// What a decoder that guesses low in doubt lacks in loudness, a factor a frequency `[BINS]`.
    gain: Tensor,
}

impl AudioAe {
    /// Builds it from weights.
    ///
    /// # Errors
    /// If a weight is missing or has another shape.
    pub fn new(config: &AudioAeConfig, weights: &Weights, precision: Precision) -> Result<Self> {
        let latents = weights.at("latents");
        Ok(Self {
            config: config.clone(),
            precision,
            device: weights.device().clone(),
            encoder: Encoder::new(config, &weights.at("encoder"))?,
            decoder: Decoder::new(config, &weights.at("decoder"))?,
            mean: latents.get_f32(config.latent_channels, "mean", Init::Zeros)?,
            std: latents.get_f32(config.latent_channels, "std", Init::Ones)?,
            gain: weights.at("levels").get_f32(BINS, "gain", Init::Ones)?,
        })
    }

    /// Its widths and depths.
    pub fn config(&self) -> &AudioAeConfig {
        &self.config
    }

    /// What each channel of bounded latents is divided by to be normalised, `[C]`.
    pub fn spread(&self) -> &Tensor {
        &self.std
    }

    /// Levels `[B, 8 A, FEATURES]` to bounded latents `[B, A, C]`, as trained (not normalised).
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn encode_levels(&self, levels: &Tensor) -> Result<Tensor> {
        self.encoder.forward(levels, self.precision)
    }

    /// Bounded latents `[B, A, C]` to the levels that [`synthesise`] reads, `[B, 8 A, FEATURES]`.
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn decode_levels(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.forward(latents, self.precision)
    }

    /// Sound to normalised latents `[A, C]`; silence is added up to a whole number of latents.
    ///
    /// # Errors
    /// If there is no sound.
    pub fn encode(&self, audio: &Audio) -> Result<Tensor> {
        Ok(self.encode_clips(&[audio])?.squeeze(0)?)
    }

    /// [`Self::encode`] of several sounds of one length together: `[B, A, C]`.
    ///
    /// # Errors
    /// If there is no sound, or lengths differ.
    pub fn encode_clips(&self, sounds: &[&Audio]) -> Result<Tensor> {
        let length = sounds.first().map_or(0, |audio| audio.len());
        if length == 0 {
            return Err(ModelError::Config("there is no sound to encode".into()));
        }
        if sounds.iter().any(|audio| audio.len() != length) {
            let what = "sounds that are encoded together differ in length";
            return Err(ModelError::Config(what.into()));
        }
        let count = length.div_ceil(SAMPLES_PER_FRAME);
        let levels: Vec<f32> = (sounds.iter())
            .flat_map(|audio| analyse(audio, count))
            .collect();
        let shape = (sounds.len(), count * HOPS, FEATURES);
        let mut levels = Tensor::from_vec(levels, shape, &Device::Cpu)?;
        if self.precision == Precision::Bf16 && !self.device.is_cpu() {
            // The first product rounds them anyway; half the bytes go to the GPU.
            levels = levels.to_dtype(DType::BF16)?;
        }
        let levels = levels.to_device(&self.device)?.to_dtype(DType::F32)?;
        let latents = self.encode_levels(&levels)?;
        Ok(latents
            .broadcast_sub(&self.mean)?
            .broadcast_div(&self.std)?)
    }

    /// Normalised latents `[A, C]` to `2000 A` samples.
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn decode(&self, latents: &Tensor) -> Result<Audio> {
        let latents = latents
            .broadcast_mul(&self.std)?
            .broadcast_add(&self.mean)?;
        let levels = self.decode_levels(&latents.unsqueeze(0)?)?;
        let levels = levels.flatten_all()?.to_vec1::<f32>()?;
        Ok(synthesise(&levels, &self.gain.to_vec1::<f32>()?))
    }
}

impl Encoder {
    fn new(config: &AudioAeConfig, weights: &Weights) -> Result<Self> {
        let [w24, w96, w192] = config.widths;
        let [blocks96, blocks24] = config.encoder_blocks;
        Ok(Self {
            embed: Linear::new(&weights.at("embed"), [FEATURES, w192], 1.0)?,
            fine: Linear::new(&weights.at("fine"), [FINE * w192, w96], 1.0)?,
            stage96: stage(&weights.at("stage96"), w96, blocks96)?,
            coarse: Linear::new(&weights.at("coarse"), [COARSE * w96, w24], 1.0)?,
            stage24: stage(&weights.at("stage24"), w24, blocks24)?,
            norm: Norm::new(&weights.at("norm"), w24)?,
            head: Linear::new(&weights.at("head"), [w24, config.latent_channels], 1.0)?,
        })
    }

    fn forward(&self, levels: &Tensor, precision: Precision) -> Result<Tensor> {
        let x = gallop_kernels::silu(&self.embed.forward(levels, precision)?)?;
        let x = self.fine.forward(&group(&x, FINE)?, precision)?;
        let x = run(&self.stage96, x, precision)?;
        let x = self.coarse.forward(&group(&x, COARSE)?, precision)?;
        let x = run(&self.stage24, x, precision)?;
        let x = self.head.forward(&self.norm.forward(&x)?, precision)?;
        Ok(((x / BOUND)?.tanh()? * BOUND)?)
    }
}

impl Decoder {
    fn new(config: &AudioAeConfig, weights: &Weights) -> Result<Self> {
        let [w24, w96, w192] = config.widths;
        let [blocks24, blocks96] = config.decoder_blocks;
        let latent = config.latent_channels;
        Ok(Self {
            embed: Linear::new(&weights.at("embed"), [latent, w24], 1.0)?,
            stage24: stage(&weights.at("stage24"), w24, blocks24)?,
            fine: Linear::new(&weights.at("fine"), [w24, COARSE * w96], 1.0)?,
            stage96: stage(&weights.at("stage96"), w96, blocks96)?,
            norm: Norm::new(&weights.at("norm"), w96)?,
            windows: Linear::new(&weights.at("windows"), [w96, FINE * w192], 1.4)?,
            head: Linear::new(&weights.at("head"), [w192, FEATURES], 1.0)?,
        })
    }

    fn forward(&self, latents: &Tensor, precision: Precision) -> Result<Tensor> {
        let x = self.embed.forward(latents, precision)?;
        let x = run(&self.stage24, x, precision)?;
        let x = ungroup(&self.fine.forward(&x, precision)?, COARSE)?;
        let x = run(&self.stage96, x, precision)?;
        let x = self.windows.forward(&self.norm.forward(&x)?, precision)?;
        let x = gallop_kernels::silu(&ungroup(&x, FINE)?)?;
        self.head.forward(&x, precision)
    }
}

/// `[B, n A, C]` to `[B, A, n C]`.
fn group(x: &Tensor, n: usize) -> Result<Tensor> {
    let (b, a, c) = x.dims3()?;
    Ok(x.reshape((b, a / n, n * c))?)
}

/// `[B, A, n C]` to `[B, n A, C]`.
fn ungroup(x: &Tensor, n: usize) -> Result<Tensor> {
    let (b, a, c) = x.dims3()?;
    Ok(x.reshape((b, a * n, c / n))?)
}

fn stage(weights: &Weights, width: usize, blocks: usize) -> Result<Vec<Block>> {
    (0..blocks)
        .map(|i| Block::new(&weights.at(i), width))
        .collect()
}

fn run(blocks: &[Block], x: Tensor, precision: Precision) -> Result<Tensor> {
    blocks
        .iter()
        .try_fold(x, |x, block| block.forward(&x, precision))
}

/// ConvNeXt: x + shrink(silu(widen(norm(depthwise(x))))).
struct Block {
    depthwise: Conv,
    norm: Norm,
    widen: Linear,
    shrink: Linear,
}

impl Block {
    fn new(weights: &Weights, width: usize) -> Result<Self> {
        let depthwise = ConvShape {
            channels: [width, width],
            taps: &[TAPS],
            groups: width,
            gain: 1.0,
        };
        let hidden = EXPANSION * width;
        Ok(Self {
            depthwise: Conv::new(&weights.at("depthwise"), depthwise)?,
            norm: Norm::new(&weights.at("norm"), width)?,
            widen: Linear::new(&weights.at("widen"), [width, hidden], 1.4)?,
            shrink: Linear::new(&weights.at("shrink"), [hidden, width], 0.2)?,
        })
    }

    fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        let y = self.norm.forward(&self.depthwise.forward(x, precision)?)?;
        let y = gallop_kernels::silu(&self.widen.forward(&y, precision)?)?;
        Ok((x + self.shrink.forward(&y, precision)?)?)
    }
}

#[cfg(test)]
mod tests;
