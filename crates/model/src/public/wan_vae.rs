//! The Wan2.2 video VAE: 48 channels, stride 4x16x16, causal, the first frame alone.
//!
//! Works on pictures `[T, H, W, 3]` in -1 to 1 and normalised latents `[C, F, h, w]`, with
//! T = 4 (F - 1) + 1, H = 16 h and W = 16 w. Widths and depths come from the weights' shapes.

mod blocks;
mod pixels;

use blocks::{CausalConv, FrameAttention, Loader, Memory, Residual, Stage};
use candle_core::{Device, Tensor};
use gallop_kernels::{Precision, Then};
use pixels::patchify;
pub(super) use pixels::unpatchify;

use super::{
    error::{PublicError, Result},
    layers::{Linear, RmsNorm},
    source::Checkpoint,
};

/// Channels of the public latents.
pub const LATENT_CHANNELS: usize = 48;
/// Frames that one latent frame after the first stands for.
pub const TIME_STRIDE: usize = 4;
/// Pixels that one latent stands for, in each direction.
pub const SPACE_STRIDE: usize = 16;

/// The mean of each latent channel over the public model's training data.
pub const LATENT_MEAN: [f32; LATENT_CHANNELS] = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
    0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
    -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313,
    -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
    0.3573, -0.0548, -0.1681, -0.0667,
];

/// The standard deviation of each latent channel over the public model's training data.
pub const LATENT_STD: [f32; LATENT_CHANNELS] = [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
];

/// The mean and deviation by which latents are normalised.
#[derive(Clone, Debug)]
pub struct LatentStats {
    mean: Tensor,
    std: Tensor,
}

impl LatentStats {
    /// From `[C]` means and `[C]` deviations.
    ///
    /// # Errors
    /// When they differ in length.
    pub fn new(mean: &[f32], std: &[f32]) -> Result<Self> {
        if mean.len() != std.len() {
            let what = format!("{} means and {} deviations", mean.len(), std.len());
            return Err(PublicError::Input(what));
        }
        Ok(Self {
            mean: Tensor::new(mean, &Device::Cpu)?,
            std: Tensor::new(std, &Device::Cpu)?,
        })
    }

    /// Those of the public model.
    ///
    /// # Errors
    /// When no memory is left.
    pub fn public() -> Result<Self> {
        Self::new(&LATENT_MEAN, &LATENT_STD)
    }

    /// The same on a device.
    pub(super) fn on(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            mean: self.mean.to_device(device)?,
            std: self.std.to_device(device)?,
        })
    }

    /// `[.., C]` from normalised latents.
    pub(super) fn denormalize(&self, z: &Tensor) -> Result<Tensor> {
        Ok(z.broadcast_mul(&self.std)?.broadcast_add(&self.mean)?)
    }

    /// `[.., C]` to normalised latents.
    fn normalize(&self, z: &Tensor) -> Result<Tensor> {
        Ok(z.broadcast_sub(&self.mean)?.broadcast_div(&self.std)?)
    }
}

/// Residual block, attention within frames, residual block.
struct Middle {
    before: Residual,
    attention: FrameAttention,
    after: Residual,
}

impl Middle {
    fn load(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        Ok(Self {
            before: Residual::load(&weights.at(0), loader)?,
            attention: FrameAttention::load(&weights.at(1), loader)?,
            after: Residual::load(&weights.at(2), loader)?,
        })
    }

    fn apply(&self, x: &Tensor, memory: &mut Memory) -> Result<Tensor> {
        let x = self.before.apply(x, memory)?;
        self.after.apply(&self.attention.apply(&x)?, memory)
    }
}

/// Norm, SiLU, convolution.
struct Head {
    norm: RmsNorm,
    conv: CausalConv,
}

impl Head {
    fn load(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        Ok(Self {
            norm: RmsNorm::gamma(&weights.at(0), loader.precision)?,
            conv: CausalConv::load(&weights.at(2), loader)?,
        })
    }

    fn apply(&self, x: &Tensor, memory: &mut Memory) -> Result<Tensor> {
        self.conv.apply(&self.norm.then(x, Then::Silu)?, memory)
    }
}

/// Pictures to latents.
pub struct WanEncoder {
    input: CausalConv,
    stages: Vec<Stage>,
    middle: Middle,
    head: Head,
    moments: Linear,
    stats: LatentStats,
    slots: usize,
}

impl WanEncoder {
    /// Loads `encoder.*` and `conv1.*`.
    ///
    /// # Errors
    /// When a weight is missing, of a wrong shape, or not finite.
    pub fn load(weights: &Checkpoint, stats: LatentStats, precision: Precision) -> Result<Self> {
        let mut loader = Loader {
            precision,
            slots: 0,
        };
        let encoder = weights.at("encoder");
        let downs = encoder.at("downsamples");
        let count = downs.count("downsamples.0.residual.2.weight");
        let stages = (0..count).map(|i| Stage::down(&downs.at(i), &mut loader));
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
            input: CausalConv::load(&encoder.at("conv1"), &mut loader)?,
            middle: Middle::load(&encoder.at("middle"), &mut loader)?,
            head: Head::load(&encoder.at("head"), &mut loader)?,
            moments: Linear::from_conv(&weights.at("conv1"), precision)?,
            stats: stats.on(weights.device())?,
            slots: loader.slots,
        })
    }

    /// Pictures `[T, H, W, 3]` in -1 to 1 to the normalised means `[C, F, h, w]`. T = 4 (F - 1) + 1;
    /// H and W are multiples of 16.
    ///
    /// # Errors
    /// When the sizes do not fit, or memory runs out.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let (t, h, w, _) = pictures.dims4()?;
        if t % TIME_STRIDE != 1 || h % SPACE_STRIDE != 0 || w % SPACE_STRIDE != 0 {
            return Err(PublicError::Input(format!(
                "{t} frames of {w}x{h}: the video encoder takes 4n+1 frames with sides that are \
                 multiples of 16"
            )));
        }
        let mut memory = Memory::new(self.slots);
        let mut latents = vec![self.step(&pictures.narrow(0, 0, 1)?, true, &mut memory)?];
        for start in (1..t).step_by(TIME_STRIDE) {
            let run = pictures.narrow(0, start, TIME_STRIDE)?;
            latents.push(self.step(&run, false, &mut memory)?);
        }
        let moments = self.moments.apply(&Tensor::cat(&latents, 1)?)?;
        let channels = moments.dim(4)? / 2;
        let mean = moments.narrow(4, 0, channels)?;
        let latents = self.stats.normalize(&mean)?.squeeze(0)?;
        Ok(latents.permute((3, 0, 1, 2))?.contiguous()?)
    }

    fn step(&self, pictures: &Tensor, first: bool, memory: &mut Memory) -> Result<Tensor> {
        let mut x = self.input.apply(&patchify(pictures)?, memory)?;
        for stage in &self.stages {
            x = stage.lower(&x, first, memory)?;
        }
        self.head.apply(&self.middle.apply(&x, memory)?, memory)
    }
}

/// Latents to pictures.
pub struct WanDecoder {
    latents: Linear,
    input: CausalConv,
    middle: Middle,
    stages: Vec<Stage>,
    head: Head,
    stats: LatentStats,
    slots: usize,
}

/// One pass of the decoder over a clip.
struct Pass<'a> {
    memory: Memory,
    /// Takes finished pictures `[1, H, W, 3]`, in order.
    sink: &'a mut dyn FnMut(Tensor) -> Result<()>,
}

impl WanDecoder {
    /// Loads `decoder.*` and `conv2.*`.
    ///
    /// # Errors
    /// When a weight is missing, of a wrong shape, or not finite.
    pub fn load(weights: &Checkpoint, stats: LatentStats, precision: Precision) -> Result<Self> {
        let mut loader = Loader {
            precision,
            slots: 0,
        };
        let decoder = weights.at("decoder");
        let ups = decoder.at("upsamples");
        let count = ups.count("upsamples.0.residual.2.weight");
        let stages = (0..count).map(|i| Stage::up(&ups.at(i), &mut loader));
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
            latents: Linear::from_conv(&weights.at("conv2"), precision)?,
            input: CausalConv::load(&decoder.at("conv1"), &mut loader)?,
            middle: Middle::load(&decoder.at("middle"), &mut loader)?,
            head: Head::load(&decoder.at("head"), &mut loader)?,
            stats: stats.on(weights.device())?,
            slots: loader.slots,
        })
    }

    /// Normalised latents `[C, F, h, w]` to pictures `[T, H, W, 3]`, about -1 to 1, not clamped.
    ///
    /// # Errors
    /// When the latents have another number of channels, or memory runs out.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let mut pictures = Vec::new();
        self.decode_each(latents, &mut |picture| {
            pictures.push(picture);
            Ok(())
        })?;
        Ok(Tensor::cat(&pictures, 0)?)
    }

    /// As [`WanDecoder::decode`], but hands over each picture `[1, H, W, 3]` as soon as it is done.
    /// Frames go through the network one at a time, so memory does not grow with the clip.
    ///
    /// # Errors
    /// As [`WanDecoder::decode`], and what `sink` returns.
    pub fn decode_each(
        &self,
        latents: &Tensor,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let z = latents.permute((1, 2, 3, 0))?.unsqueeze(0)?.contiguous()?;
        let x = self.latents.apply(&self.stats.denormalize(&z)?)?;
        let mut pass = Pass {
            memory: Memory::new(self.slots),
            sink,
        };
        for frame in 0..x.dim(1)? {
            let x = x.narrow(1, frame, 1)?.contiguous()?;
            let x = self.input.apply(&x, &mut pass.memory)?;
            let x = self.middle.apply(&x, &mut pass.memory)?;
            self.finish(&x, 0, frame == 0, &mut pass)?;
        }
        Ok(())
    }

    /// Takes `x` `[1, T, H, W, C]` from stage `at` to pictures, the frames one after the other: the
    /// late stages, whose frames are largest, never hold more than one.
    fn finish(&self, x: &Tensor, at: usize, first: bool, pass: &mut Pass) -> Result<()> {
        let Some(stage) = self.stages.get(at) else {
            let x = self.head.apply(x, &mut pass.memory)?;
            return (pass.sink)(unpatchify(&x)?);
        };
        let x = stage.raise(x, first, &mut pass.memory)?;
        for frame in 0..x.dim(1)? {
            let frame = x.narrow(1, frame, 1)?.contiguous()?;
            self.finish(&frame, at + 1, first, pass)?;
        }
        Ok(())
    }
}
