//! foal's video autoencoder: 4x16x16 pixels to one latent of 48 channels, causal in time.
//!
//! Frames go in groups of four; the first frame is a group of its own (repeated four times on the
//! way in, kept once on the way out), so `n = 4k + 1` frames are `k + 1` latent frames. Most work
//! is done on whole groups at an eighth of the size, where a picture of 128x128 is 256 positions:
//! that is what makes it cheap. No norm stands before a head: from pixels to latents to pixels there is
//! a linear way, by which flat areas are learned at once. Time is mixed only by causal convolutions, whose last inputs are
//! carried from one chunk to the next, so that decoding by chunks equals decoding at once.

mod blocks;
mod pixels;
mod start;

use candle_core::{DType, Device, Tensor};
use gallop_core::{Frame, PixelSize};
use gallop_kernels::{Precision, Segments};
use serde::{Deserialize, Serialize};

use crate::ae_layers::Linear;
use crate::{Init, ModelError, Result, Weights};
use pixels::{PATCH_IN, PATCH_OUT};

pub use blocks::Carry;
pub(crate) use blocks::Stage;
pub use pixels::{
    GROUP, STRIDE, clips_to_groups, frames_to_groups, frames_to_patches, groups_to_patches,
    latent_size, patches_to_frames,
};
pub use start::start_as_transform;

/// Latents stay within plus and minus this.
const BOUND: f64 = 3.0;

/// Widths and depths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoAeConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels at stride 16, 8 and 4.
    pub widths: [usize; 3],
    /// Residual blocks of the encoder at stride 8, then 16.
    pub encoder_blocks: [usize; 2],
    /// Residual blocks of the decoder at stride 16, 8, then 4.
    pub decoder_blocks: [usize; 3],
}

impl Default for VideoAeConfig {
    fn default() -> Self {
        Self {
            latent_channels: 48,
            widths: [256, 160, 48],
            encoder_blocks: [3, 2],
            decoder_blocks: [2, 4, 1],
        }
    }
}

struct Encoder {
    embed: Linear,
    stride8: Stage,
    down: Linear,
    stride16: Stage,
    head: Linear,
    slots: usize,
}

struct Decoder {
    embed: Linear,
    stride16: Stage,
    up: Linear,
    stride8: Stage,
    unfold: Linear,
    stride4: Stage,
    head: Linear,
    slots: usize,
}

/// The video autoencoder.
pub struct VideoAe {
    config: VideoAeConfig,
    precision: Precision,
    device: Device,
    encoder: Encoder,
    decoder: Decoder,
    mean: Tensor,
    std: Tensor,
    mix: Option<Mix>,
}

/// A change of basis after latents are normalised: `latent · there`, and `back` again.
///
/// Another training of an autoencoder gives latents of other axes. In the axes of the one before, as near as they come, a
/// transformer that learned that one's latents has the less to learn.
struct Mix {
    /// As maps' weights are, `[outputs, inputs]`.
    there: Tensor,
    back: Tensor,
}

impl Mix {
    fn new(channels: usize, latents: &Weights) -> Result<Self> {
        let shape = (channels, channels);
        let there = latents.get_f32(shape, "mix", Init::Zeros)?;
        let back = latents.get_f32(shape, "unmix", Init::Zeros)?;
        let [mix, unmix] = [&there, &back].map(|matrix| matrix.to_device(&Device::Cpu));
        let apart = (mix?.matmul(&unmix?)? - Tensor::eye(channels, DType::F32, &Device::Cpu)?)?;
        let most = apart.abs()?.max_all()?.to_scalar::<f32>()?;
        if most.is_nan() || most > 1e-2 {
            let (mix, unmix) = (latents.path("mix"), latents.path("unmix"));
            let what = format!("`{unmix}` does not undo `{mix}`: the file is damaged");
            return Err(ModelError::Config(what));
        }
        let [there, back] = [there, back].map(|matrix| matrix.t()?.contiguous());
        Ok(Self {
            there: there?,
            back: back?,
        })
    }
}

impl VideoAe {
    /// Builds it from weights.
    ///
    /// # Errors
    /// If a weight is missing or has another shape.
    pub fn new(config: &VideoAeConfig, weights: &Weights, precision: Precision) -> Result<Self> {
        let latents = weights.at("latents");
        Ok(Self {
            config: config.clone(),
            precision,
            device: weights.device().clone(),
            encoder: Encoder::new(config, &weights.at("encoder"))?,
            decoder: Decoder::new(config, &weights.at("decoder"))?,
            mean: latents.get_f32(config.latent_channels, "mean", Init::Zeros)?,
            std: latents.get_f32(config.latent_channels, "std", Init::Ones)?,
            mix: (latents.contains("mix"))
                .then(|| Mix::new(config.latent_channels, &latents))
                .transpose()?,
        })
    }

    /// Its widths and depths.
    pub fn config(&self) -> &VideoAeConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Groups of pixels `[B, F, H8, W8, 4*8*8*3]` to bounded latents `[B, F, H, W, C]`, as trained
    /// (not normalised). With no carry the time before the first group is zero.
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn encode_groups(&self, groups: &Tensor, carry: Option<&mut Carry>) -> Result<Tensor> {
        self.encoder.forward(groups, carry, self.precision)
    }

    /// Bounded latents `[B, F, H, W, C]` to pixels `[B, 4*F, H4, W4, 4*4*3]` in about [-1, 1].
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn decode_groups(&self, latents: &Tensor, carry: Option<&mut Carry>) -> Result<Tensor> {
        self.decoder.forward(latents, carry, self.precision)
    }

    /// Pictures to normalised latents `[F, H, W, C]`, in one piece.
    ///
    /// The last frame is repeated up to `4k + 1`, and the edges up to a multiple of 16.
    ///
    /// # Errors
    /// If there is no frame or the sizes differ.
    pub fn encode(&self, frames: &[Frame]) -> Result<Tensor> {
        let mut encoder = VideoEncoder::new(self);
        let head = encoder.push(frames)?;
        let tail = encoder.finish()?;
        let parts: Vec<Tensor> = head.into_iter().chain(tail).collect();
        if parts.is_empty() {
            return Err(ModelError::Config("there is no frame to encode".into()));
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// [`Self::encode`] of several clips of one size and one length of `4k + 1` frames, together: `[B, F, H, W, C]`.
    ///
    /// # Errors
    /// If sizes or lengths differ, or a length is another.
    pub fn encode_clips(&self, clips: &[&[Frame]]) -> Result<Tensor> {
        let groups = clips_to_groups(clips, true, &self.device)?;
        self.normalise(&self.encode_groups(&groups, None)?)
    }

    /// Normalised latents `[F, H, W, C]` to `4(F-1) + 1` frames, in one piece.
    ///
    /// `size` cuts the edges off; it must be within the latents' own size.
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn decode(&self, latents: &Tensor, size: PixelSize) -> Result<Vec<Frame>> {
        VideoDecoder::new(self, size).push(latents)
    }

    /// Bounded latents `[.., C]` to normalised ones.
    ///
    /// # Errors
    /// If a size does not fit.
    pub fn normalise(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = latents
            .broadcast_sub(&self.mean)?
            .broadcast_div(&self.std)?;
        match &self.mix {
            Some(mix) => turn(&latents, &mix.there),
            None => Ok(latents),
        }
    }

    fn denormalise(&self, latents: &Tensor) -> Result<Tensor> {
        let turned = match &self.mix {
            Some(mix) => Some(turn(latents, &mix.back)?),
            None => None,
        };
        Ok((turned.as_ref().unwrap_or(latents))
            .broadcast_mul(&self.std)?
            .broadcast_add(&self.mean)?)
    }
}

/// Each latent of `[.., C]` through a map of weights `[C, C]`.
fn turn(latents: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let rows = latents.reshape(((), weights.dim(1)?))?;
    let segments = Segments::single(rows.dim(0)?);
    let turned = gallop_kernels::linear(&rows, weights, None, &segments, Precision::F32)?;
    Ok(turned.reshape(latents.dims())?)
}

/// Encodes a clip of any length in bounded memory.
pub struct VideoEncoder<'a> {
    ae: &'a VideoAe,
    carry: Carry,
    started: bool,
    waiting: Vec<Frame>,
}

impl<'a> VideoEncoder<'a> {
    /// An encoder before its first frame.
    pub fn new(ae: &'a VideoAe) -> Self {
        Self {
            ae,
            carry: Carry::new(ae.encoder.slots),
            started: false,
            waiting: Vec::new(),
        }
    }

    /// Takes the next frames; gives the normalised latents `[F, H, W, C]` of the groups they fill.
    ///
    /// # Errors
    /// If the sizes differ.
    pub fn push(&mut self, frames: &[Frame]) -> Result<Option<Tensor>> {
        self.waiting.extend_from_slice(frames);
        let first = usize::from(!self.started);
        if self.waiting.len() < first || (self.started && self.waiting.len() < GROUP) {
            return Ok(None);
        }
        let take = first + (self.waiting.len() - first) / GROUP * GROUP;
        let rest = self.waiting.split_off(take);
        let frames = std::mem::replace(&mut self.waiting, rest);
        if frames.is_empty() {
            return Ok(None);
        }
        let groups = frames_to_groups(&frames, !self.started, &self.ae.device)?;
        self.started = true;
        let latents = self.ae.encode_groups(&groups, Some(&mut self.carry))?;
        self.ae.normalise(&latents.squeeze(0)?).map(Some)
    }

    /// The latents of what is left, its last frame repeated to fill the group.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Option<Tensor>> {
        let Some(last) = self.waiting.last().cloned() else {
            return Ok(None);
        };
        let missing = GROUP - self.waiting.len() % GROUP;
        self.push(&vec![last; missing])
    }
}

/// Decodes latents of any length in bounded memory.
pub struct VideoDecoder<'a> {
    ae: &'a VideoAe,
    carry: Carry,
    started: bool,
    size: PixelSize,
}

impl<'a> VideoDecoder<'a> {
    /// A decoder before its first latent; its frames will have this size.
    pub fn new(ae: &'a VideoAe, size: PixelSize) -> Self {
        Self {
            ae,
            carry: Carry::new(ae.decoder.slots),
            started: false,
            size,
        }
    }

    /// Normalised latents `[F, H, W, C]`, the next in time, to their frames.
    ///
    /// # Errors
    /// If the size asked for is not within the latents' own.
    pub fn push(&mut self, latents: &Tensor) -> Result<Vec<Frame>> {
        let (_, height, width, _) = latents.dims4()?;
        let covered = PixelSize::new(width * STRIDE, height * STRIDE);
        if latent_size(self.size) != (width, height) {
            let what = format!("latents of {covered:?} do not decode to {:?}", self.size);
            return Err(ModelError::Config(what));
        }
        let latents = self.ae.denormalise(latents)?.unsqueeze(0)?;
        let patches = self.ae.decode_groups(&latents, Some(&mut self.carry))?;
        // Of the first group, which stands for one frame, only the last is kept.
        let skip = if self.started { 0 } else { GROUP - 1 };
        self.started = true;
        patches_to_frames(&patches.squeeze(0)?, skip, self.size)
    }
}

impl Encoder {
    fn new(config: &VideoAeConfig, weights: &Weights) -> Result<Self> {
        let [w16, w8, _] = config.widths;
        let [blocks8, blocks16] = config.encoder_blocks;
        let pixels = GROUP * PATCH_IN * PATCH_IN * 3;
        let latent = config.latent_channels;
        let mut slots = 0;
        Ok(Self {
            embed: Linear::new(&weights.at("embed"), [pixels, w8], 1.0)?,
            stride8: Stage::new(&weights.at("stride8"), [w8, blocks8], Some(&mut slots))?,
            down: Linear::new(&weights.at("down"), [4 * w8, w16], 1.0)?,
            stride16: Stage::new(&weights.at("stride16"), [w16, blocks16], Some(&mut slots))?,
            head: Linear::new(&weights.at("head"), [w16, latent], 1.0)?,
            slots,
        })
    }

    fn forward(
        &self,
        groups: &Tensor,
        mut carry: Option<&mut Carry>,
        precision: Precision,
    ) -> Result<Tensor> {
        let x = self.embed.forward(groups, precision)?;
        let x = (self.stride8).forward(x, carry.as_deref_mut(), precision)?;
        let x = self.down.forward(&fold(&x)?, precision)?;
        let x = self.stride16.forward(x, carry, precision)?;
        let x = self.head.forward(&x, precision)?;
        Ok(((x / BOUND)?.tanh()? * BOUND)?)
    }
}

impl Decoder {
    fn new(config: &VideoAeConfig, weights: &Weights) -> Result<Self> {
        let [w16, w8, w4] = config.widths;
        let [blocks16, blocks8, blocks4] = config.decoder_blocks;
        let pixels = PATCH_OUT * PATCH_OUT * 3;
        let latent = config.latent_channels;
        let mut slots = 0;
        Ok(Self {
            embed: Linear::new(&weights.at("embed"), [latent, w16], 1.0)?,
            stride16: Stage::new(&weights.at("stride16"), [w16, blocks16], Some(&mut slots))?,
            up: Linear::new(&weights.at("up"), [w16, 4 * w8], 1.0)?,
            stride8: Stage::new(&weights.at("stride8"), [w8, blocks8], Some(&mut slots))?,
            unfold: Linear::new(&weights.at("unfold"), [w8, GROUP * 4 * w4], 1.0)?,
            // At stride 4 the frames of a group are apart; mixing them is not worth its cost.
            stride4: Stage::new(&weights.at("stride4"), [w4, blocks4], None)?,
            head: Linear::new(&weights.at("head"), [w4, pixels], 0.5)?,
            slots,
        })
    }

    fn forward(
        &self,
        latents: &Tensor,
        mut carry: Option<&mut Carry>,
        precision: Precision,
    ) -> Result<Tensor> {
        let x = latents.to_dtype(DType::F32)?;
        let x = self.embed.forward(&x, precision)?;
        let x = (self.stride16).forward(x, carry.as_deref_mut(), precision)?;
        let x = unfold(&self.up.forward(&x, precision)?, 1)?;
        let x = (self.stride8).forward(x, carry.as_deref_mut(), precision)?;
        let x = unfold(&self.unfold.forward(&x, precision)?, GROUP)?;
        let x = self.stride4.forward(x, carry, precision)?;
        self.head.forward(&x, precision)
    }
}

/// `[B, T, H, W, C]` to `[B, T, H/2, W/2, 4C]`.
fn fold(x: &Tensor) -> Result<Tensor> {
    let (b, t, h, w, c) = x.dims5()?;
    Ok(x.reshape((b * t * h / 2, 2, w / 2, 2 * c))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((b, t, h / 2, w / 2, 4 * c))?)
}

/// `[B, T, H, W, time*4*C]` to `[B, time*T, 2H, 2W, C]`.
fn unfold(x: &Tensor, time: usize) -> Result<Tensor> {
    let (b, t, h, w, c) = x.dims5()?;
    let c = c / (4 * time);
    Ok(x.reshape(vec![b * t, h, w, time, 2, 2 * c])?
        .permute(vec![0, 3, 1, 4, 2, 5])?
        .contiguous()?
        .reshape((b, t * time, 2 * h, 2 * w, c))?)
}

#[cfg(test)]
mod tests;
