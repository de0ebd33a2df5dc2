//! foal's upscaler: the small pictures that its autoencoder decodes, several times as large.
//!
//! A position is a patch of 2x2 pixels, whose pixels repeated are what the result starts from; blocks like the
//! autoencoder's own say what is to be added to them. Every second block sees the frames before, causally and with the
//! same carry over chunks, so that edges do not swim. It is taught by pairs: a clip of the world through the
//! autoencoder, and the same clip rendered larger.

use candle_core::{Device, Tensor};
use gallop_core::{Frame, PixelSize};
use gallop_kernels::Precision;
use serde::{Deserialize, Serialize};

use crate::ae_layers::Linear;
use crate::video_ae::{Carry, Stage, frames_to_patches, patches_to_frames};
use crate::{Result, Weights};

/// Pixels a side of what is read as one position.
pub const PATCH: usize = 2;

/// How much larger, how wide and deep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpscalerConfig {
    /// Times as wide and as high.
    pub factor: usize,
    /// Channels.
    pub width: usize,
    /// Residual blocks; every second one mixes over time.
    pub blocks: usize,
}

impl Default for UpscalerConfig {
    fn default() -> Self {
        Self {
            factor: 3,
            width: 96,
            blocks: 6,
        }
    }
}

/// The upscaler.
pub struct Upscaler {
    config: UpscalerConfig,
    precision: Precision,
    device: Device,
    embed: Linear,
    stage: Stage,
    head: Linear,
    slots: usize,
}

impl Upscaler {
    /// Builds it from weights. New ones repeat pixels and add almost nothing.
    ///
    /// # Errors
    /// If a weight is missing or has another shape.
    pub fn new(config: &UpscalerConfig, weights: &Weights, precision: Precision) -> Result<Self> {
        let (width, mut slots) = (config.width, 0);
        let pixels = |side: usize| side * side * 3;
        let outputs = pixels(PATCH * config.factor);
        Ok(Self {
            config: config.clone(),
            precision,
            device: weights.device().clone(),
            embed: Linear::new(&weights.at("embed"), [pixels(PATCH), width], 1.0)?,
            stage: Stage::new(
                &weights.at("blocks"),
                [width, config.blocks],
                Some(&mut slots),
            )?,
            head: Linear::new(&weights.at("head"), [width, outputs], 0.1)?,
            slots,
        })
    }

    /// How much larger, how wide and deep.
    pub fn config(&self) -> &UpscalerConfig {
        &self.config
    }

    /// Patches `[B, T, H/2, W/2, 2*2*3]` in [-1, 1] to larger ones, `[B, T, H/2, W/2, (2*factor)^2*3]`. With no carry
    /// the time before the first frame is zero.
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn forward(&self, patches: &Tensor, carry: Option<&mut Carry>) -> Result<Tensor> {
        let (b, t, h, w, _) = patches.dims5()?;
        let x = self.embed.forward(patches, self.precision)?;
        let x = self.stage.forward(x, carry, self.precision)?;
        let added = self.head.forward(&x, self.precision)?;
        let factor = self.config.factor;
        let repeated = patches
            .reshape(vec![b * t * h * w, PATCH, 1, PATCH, 1, 3])?
            .broadcast_as(vec![b * t * h * w, PATCH, factor, PATCH, factor, 3])?
            .reshape(added.shape())?;
        Ok((repeated + added)?)
    }
}

/// Makes the frames of a clip larger, in bounded memory.
pub struct Upscaling<'a> {
    upscaler: &'a Upscaler,
    carry: Carry,
}

impl<'a> Upscaling<'a> {
    /// Before the first frame.
    pub fn new(upscaler: &'a Upscaler) -> Self {
        Self {
            upscaler,
            carry: Carry::new(upscaler.slots),
        }
    }

    /// The next frames, `factor` times as wide and as high.
    ///
    /// # Errors
    /// If their sizes differ, or are other than before.
    pub fn push(&mut self, frames: &[Frame]) -> Result<Vec<Frame>> {
        let Some(first) = frames.first() else {
            return Ok(Vec::new());
        };
        let factor = self.upscaler.config.factor;
        let size = PixelSize::new(first.size.width * factor, first.size.height * factor);
        let patches = frames_to_patches(frames, PATCH, &self.upscaler.device)?.unsqueeze(0)?;
        let larger = self.upscaler.forward(&patches, Some(&mut self.carry))?;
        patches_to_frames(&larger.squeeze(0)?, 0, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vars;

    fn upscaler(head: f64) -> Upscaler {
        let vars = Vars::default();
        let config = UpscalerConfig {
            factor: 3,
            width: 48,
            blocks: 4,
        };
        let weights = Weights::vars(&vars, Some(3), &Device::Cpu);
        let made = Upscaler::new(&config, &weights, Precision::F32).unwrap();
        let weight = vars.get("head.weight").unwrap();
        weight.set(&(weight.as_tensor() * head).unwrap()).unwrap();
        made
    }

    fn clip(frames: usize, size: PixelSize) -> Vec<Frame> {
        let bytes = size.width * size.height * 3;
        (0..frames)
            .map(|t| Frame {
                size,
                rgb: (0..bytes)
                    .map(|i| ((i * 37 + i / 7 * 11 + t * 50) % 251) as u8)
                    .collect(),
            })
            .collect()
    }

    /// With nothing added every pixel is repeated; an odd size too.
    #[test]
    fn it_starts_from_repeated_pixels() {
        let (none, size) = (upscaler(0.0), PixelSize::new(13, 8));
        let frames = clip(3, size);
        let large = Upscaling::new(&none).push(&frames).unwrap();
        assert_eq!(large.len(), 3);
        for (small, large) in frames.iter().zip(&large) {
            assert_eq!(large.size, PixelSize::new(39, 24));
            for (x, y) in [(0, 0), (38, 23), (17, 5), (20, 20)] {
                assert_eq!(large.pixel(x, y), small.pixel(x / 3, y / 3));
            }
        }
    }

    #[test]
    fn chunks_make_the_same_as_the_whole() {
        let (some, size) = (upscaler(20.0), PixelSize::new(16, 10));
        let frames = clip(7, size);
        let whole = Upscaling::new(&some).push(&frames).unwrap();
        let mut parts = Upscaling::new(&some);
        let mut joined = Vec::new();
        for chunk in [&frames[..1], &frames[1..4], &[], &frames[4..]] {
            joined.extend(parts.push(chunk).unwrap());
        }
        assert_eq!(whole, joined);
        let far = |a: &Frame, b: &Frame| a.rgb.iter().zip(&b.rgb).any(|(a, b)| a != b);
        let plain = Upscaling::new(&upscaler(0.0)).push(&frames).unwrap();
        assert!(far(&whole[6], &plain[6]));
        // What was before a frame counts.
        let alone = Upscaling::new(&some).push(&frames[6..]).unwrap();
        assert!(far(&whole[6], &alone[0]));
        let other = clip(1, PixelSize::new(12, 10));
        assert!(parts.push(&other).is_err());
        assert!(parts.push(&[frames[0].clone(), other[0].clone()]).is_err());
    }
}
