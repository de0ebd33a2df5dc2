//! The Oobleck audio autoencoder of Stable Audio Open: stereo sound and 64 channels of latents.
//!
//! Works on waves `[T, 2]` and latents `[A, 64]`. Made for 44.1 kHz and 2048 samples a latent; the
//! full-size model runs it at 51.2 kHz, so that 25 latents make a second
//! ([`super::resample`] brings its waves back).

mod blocks;
mod long;

use blocks::{DecoderBlock, EncoderBlock, Snake, conv};
use candle_core::Tensor;
use gallop_kernels::Precision;
pub use long::encode_wave;
use serde::Deserialize;

use super::{
    error::{PublicError, Result},
    layers::Conv,
    manifest::AudioWidths,
    source::Checkpoint,
};
use crate::error::ModelError;

/// Half the taps of the first and last convolutions, less one.
const OUTER_REACH: usize = 3;

/// The autoencoder's configuration: the `pretransform.config` of the public `model_config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct OobleckConfig {
    encoder: Half,
    decoder: Half,
    /// Samples a latent.
    pub downsampling_ratio: usize,
    /// Channels of the latents.
    pub latent_dim: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Half {
    #[serde(rename = "type")]
    kind: String,
    config: HalfConfig,
}

/// One direction of the autoencoder.
#[derive(Clone, Debug, Deserialize)]
struct HalfConfig {
    #[serde(alias = "in_channels", alias = "out_channels", default = "stereo")]
    wave_channels: usize,
    channels: usize,
    latent_dim: usize,
    c_mults: Vec<usize>,
    strides: Vec<usize>,
    #[serde(default)]
    use_snake: bool,
    #[serde(default = "yes")]
    final_tanh: bool,
    #[serde(default)]
    use_nearest_upsample: bool,
}

fn yes() -> bool {
    true
}

fn stereo() -> usize {
    2
}

impl HalfConfig {
    fn widths(&self) -> AudioWidths {
        let multiples = std::iter::once(&1).chain(&self.c_mults);
        AudioWidths {
            stages: multiples.map(|m| m * self.channels).collect(),
            strides: self.strides.clone(),
            wave: self.wave_channels,
            latents: self.latent_dim,
        }
    }
}

impl OobleckConfig {
    /// From a `model_config.json`: the whole diffusion model's, or the autoencoder's alone.
    ///
    /// # Errors
    /// When it is no such configuration, or one that is not known here.
    pub fn parse(json: &str) -> Result<Self> {
        let fail = |what: String| ModelError::Config(format!("audio autoencoder: {what}"));
        let json: serde_json::Value =
            serde_json::from_str(json).map_err(|e| fail(e.to_string()))?;
        let model = json.pointer("/model/pretransform/config");
        let model = model.or(json.get("model"));
        let model = model.ok_or_else(|| fail("it has no `model`".into()))?;
        let config = Self::deserialize(model).map_err(|e| fail(e.to_string()))?;
        for half in [&config.encoder, &config.decoder] {
            let known = half.kind == "oobleck"
                && half.config.use_snake
                && !half.config.use_nearest_upsample;
            let fits = half.config.strides.len() == half.config.c_mults.len();
            if !known || !fits || half.config.strides.contains(&0) {
                return Err(fail("only `oobleck` halves with snake activations".into()).into());
            }
        }
        Ok(config)
    }

    /// The public model's `model_config.json`, as far as the autoencoder needs it.
    pub const PUBLIC_JSON: &str = include_str!("oobleck/public.json");

    /// The public model's configuration.
    pub fn public() -> Self {
        Self::parse(Self::PUBLIC_JSON).expect("the embedded configuration is known here")
    }

    /// Samples that each stage shortens by, from the wave's side.
    pub(super) fn strides(&self) -> Vec<usize> {
        self.decoder.config.strides.clone()
    }

    pub(super) fn encoder_widths(&self) -> AudioWidths {
        self.encoder.config.widths()
    }

    pub(super) fn decoder_widths(&self) -> AudioWidths {
        self.decoder.config.widths()
    }
}

/// Waves to latents.
pub struct OobleckEncoder {
    input: Conv,
    blocks: Vec<EncoderBlock>,
    snake: Snake,
    output: Conv,
    ratio: usize,
}

/// Latents' means and the raw scales of their noise.
pub struct AudioMoments {
    /// `[A, C]`.
    pub mean: Tensor,
    /// `[A, C]`, before softplus.
    pub scale: Tensor,
}

impl AudioMoments {
    /// Latents drawn from the distribution: `mean + (softplus(scale) + 1e-4) * noise`, with `noise`
    /// `[A, C]` standard normal.
    ///
    /// # Errors
    /// When the noise has another shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        // log(1 + e^s), written so that a large s does not overflow
        let positive = self.scale.relu()?;
        let soft = (positive + (self.scale.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        Ok((&self.mean + ((soft + 1e-4)? * noise)?)?)
    }
}

impl OobleckEncoder {
    /// Loads `encoder.*`.
    ///
    /// # Errors
    /// When a weight is missing, of a wrong shape, or not finite.
    pub fn load(
        weights: &Checkpoint,
        config: &OobleckConfig,
        precision: Precision,
    ) -> Result<Self> {
        let weights = weights.at("encoder").at("layers");
        let strides = &config.encoder.config.strides;
        let blocks = strides.iter().enumerate().map(|(i, &stride)| {
            EncoderBlock::load(&weights.at(i + 1).at("layers"), stride, precision)
        });
        let last = strides.len() + 1;
        Ok(Self {
            input: conv(&weights.at(0), precision)?.padded(&[(OUTER_REACH, OUTER_REACH)]),
            blocks: blocks.collect::<Result<_>>()?,
            snake: Snake::load(&weights.at(last))?,
            output: conv(&weights.at(last + 1), precision)?.padded(&[(1, 1)]),
            ratio: strides.iter().product(),
        })
    }

    /// A wave `[T, 2]` to what its latents are drawn from. Where T is no multiple of the ratio, the
    /// last latent sees silence after the wave, or what is left of the wave is dropped.
    ///
    /// # Errors
    /// When the wave is shorter than one latent, or memory runs out.
    pub fn encode(&self, wave: &Tensor) -> Result<AudioMoments> {
        let (samples, _) = wave.dims2()?;
        if samples < self.ratio {
            return Err(PublicError::Input(format!(
                "{samples} samples of sound: the audio encoder needs {} or more",
                self.ratio
            )));
        }
        let mut x = self.input.apply(&wave.unsqueeze(0)?)?;
        for block in &self.blocks {
            x = block.apply(&x)?;
        }
        let moments = self.output.apply(&self.snake.apply(&x)?)?.squeeze(0)?;
        let channels = moments.dim(1)? / 2;
        Ok(AudioMoments {
            mean: moments.narrow(1, 0, channels)?.contiguous()?,
            scale: moments.narrow(1, channels, channels)?.contiguous()?,
        })
    }
}

/// Latents to waves.
pub struct OobleckDecoder {
    input: Conv,
    blocks: Vec<DecoderBlock>,
    snake: Snake,
    output: Conv,
    tanh: bool,
}

impl OobleckDecoder {
    /// Loads `decoder.*`.
    ///
    /// # Errors
    /// When a weight is missing, of a wrong shape, or not finite.
    pub fn load(
        weights: &Checkpoint,
        config: &OobleckConfig,
        precision: Precision,
    ) -> Result<Self> {
        let weights = weights.at("decoder").at("layers");
        let half = &config.decoder.config;
        // The strides are listed from the wave's side.
        let strides = half.strides.iter().rev();
        let blocks = strides.enumerate().map(|(i, &stride)| {
            DecoderBlock::load(&weights.at(i + 1).at("layers"), stride, precision)
        });
        let last = half.strides.len() + 1;
        let outer = [(OUTER_REACH, OUTER_REACH)];
        Ok(Self {
            input: conv(&weights.at(0), precision)?.padded(&outer),
            blocks: blocks.collect::<Result<_>>()?,
            snake: Snake::load(&weights.at(last))?,
            output: conv(&weights.at(last + 1), precision)?.padded(&outer),
            tanh: half.final_tanh,
        })
    }

    /// Operations of decoding so many latents, an addition and a multiplication being two.
    pub fn operations(&self, latents: usize) -> f64 {
        let mut samples = latents;
        let input = self.input.operations(samples);
        let blocks = self.blocks.iter();
        let blocks: f64 = blocks.map(|block| block.operations(&mut samples)).sum();
        input + blocks + self.output.operations(samples)
    }

    /// Latents `[A, C]` to a wave `[A * ratio, 2]`.
    ///
    /// # Errors
    /// When the latents have another number of channels, or memory runs out.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.input.apply(&latents.unsqueeze(0)?)?;
        for block in &self.blocks {
            x = block.apply(&x)?;
        }
        let wave = self.output.apply(&self.snake.apply(&x)?)?.squeeze(0)?;
        Ok(if self.tanh { wave.tanh()? } else { wave })
    }
}
