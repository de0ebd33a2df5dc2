//! The blocks of the video VAE. Each works on a run of frames and remembers the last few that it
//! saw, so that a clip can go through in runs of any length with the same result.

use candle_core::{DType, Tensor};
use gallop_kernels::{AttentionBlock, AttentionPlan, Precision, Then, attention, upsample_nearest};

use super::pixels::Shortcut;
use crate::public::{
    error::Result,
    layers::{Conv, Linear, RmsNorm},
    source::Checkpoint,
};

/// Hands out places in the [`Memory`] while blocks are loaded.
pub(super) struct Loader {
    pub(super) precision: Precision,
    pub(super) slots: usize,
}

/// The frames that each convolution still needs of the past.
#[derive(Default)]
pub(super) struct Memory {
    slots: Vec<Option<Tensor>>,
}

impl Memory {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: vec![None; slots],
        }
    }
}

/// A convolution that sees its frame and earlier ones only.
pub(super) struct CausalConv {
    conv: Conv,
    slot: usize,
    history: usize,
    /// What frames that are remembered can be rounded to without changing a product.
    kept: DType,
}

impl CausalConv {
    /// A 3x3x3 convolution, or one over time alone (3x1x1), by the weights' shape.
    pub(super) fn load(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        let conv = Conv::load(weights, loader.precision)?;
        let sides = [conv.taps(1) / 2, conv.taps(2) / 2];
        let history = conv.taps(0) - 1;
        let slot = loader.slots;
        loader.slots += 1;
        Ok(Self {
            conv: conv.padded(&[(0, 0), (sides[0], sides[0]), (sides[1], sides[1])]),
            slot,
            history,
            kept: match loader.precision {
                Precision::Bf16 => DType::BF16,
                _ => DType::F32,
            },
        })
    }

    /// Halves the frame rate: the run's frames come in pairs, after one frame of the past.
    fn halving(self) -> Self {
        Self {
            conv: self.conv.strided(&[2, 1, 1]),
            history: 1,
            ..self
        }
    }

    /// `x` `[1, T, H, W, C]` after the frames remembered, zeros before the clip's start.
    pub(super) fn apply(&self, x: &Tensor, memory: &mut Memory) -> Result<Tensor> {
        let (_, t, h, w, c) = x.dims5()?;
        let past = match memory.slots[self.slot].take() {
            Some(past) => past.to_dtype(x.dtype())?,
            None => Tensor::zeros((1, self.history, h, w, c), x.dtype(), x.device())?,
        };
        let joined = Tensor::cat(&[&past, x], 1)?;
        // A copy, so that the memory does not keep the whole run alive.
        let last = joined.narrow(1, t, self.history)?.force_contiguous()?;
        memory.slots[self.slot] = Some(last.to_dtype(self.kept)?);
        self.conv.apply(&joined)
    }

    /// Remembers the last frame of `x` without convolving.
    fn skip(&self, x: &Tensor, memory: &mut Memory) -> Result<()> {
        let last = x.narrow(1, x.dim(1)? - 1, 1)?.force_contiguous()?;
        memory.slots[self.slot] = Some(last.to_dtype(self.kept)?);
        Ok(())
    }
}

/// Two causal convolutions beside a shortcut.
pub(super) struct Residual {
    norms: [RmsNorm; 2],
    convs: [CausalConv; 2],
    shortcut: Option<Linear>,
}

impl Residual {
    pub(super) fn load(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        let parts = weights.at("residual");
        let shortcut = weights.at("shortcut");
        Ok(Self {
            norms: [
                RmsNorm::gamma(&parts.at(0), loader.precision)?,
                RmsNorm::gamma(&parts.at(3), loader.precision)?,
            ],
            convs: [
                CausalConv::load(&parts.at(2), loader)?,
                CausalConv::load(&parts.at(6), loader)?,
            ],
            shortcut: match shortcut.has("weight") {
                true => Some(Linear::from_conv(&shortcut, loader.precision)?),
                false => None,
            },
        })
    }

    fn out_channels(&self) -> usize {
        self.convs[1].conv.out_channels()
    }

    pub(super) fn apply(&self, x: &Tensor, memory: &mut Memory) -> Result<Tensor> {
        let mut y = x.clone();
        for (norm, conv) in self.norms.iter().zip(&self.convs) {
            y = conv.apply(&norm.then(&y, Then::Silu)?, memory)?;
        }
        Ok(match &self.shortcut {
            Some(shortcut) => (y + shortcut.apply(x)?)?,
            None => (y + x)?,
        })
    }
}

/// One-headed attention among the places of each frame.
pub(super) struct FrameAttention {
    norm: RmsNorm,
    qkv: Linear,
    out: Linear,
    precision: Precision,
}

impl FrameAttention {
    pub(super) fn load(weights: &Checkpoint, loader: &Loader) -> Result<Self> {
        let precision = loader.precision;
        Ok(Self {
            norm: RmsNorm::gamma(&weights.at("norm"), precision)?,
            qkv: Linear::from_conv(&weights.at("to_qkv"), precision)?,
            out: Linear::from_conv(&weights.at("proj"), precision)?,
            precision,
        })
    }

    /// `x` `[1, T, H, W, C]` to the same shape.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (_, t, h, w, c) = x.dims5()?;
        let tokens = t * h * w;
        let qkv = self.qkv.apply(&self.norm.apply(x)?)?;
        let qkv = qkv.reshape((tokens, 3, c))?;
        // [L, 1, C]: one head
        let part = |i| qkv.narrow(1, i, 1)?.contiguous();
        let blocks = (0..t).map(|frame| {
            let place = frame * h * w..(frame + 1) * h * w;
            AttentionBlock {
                q: place.clone(),
                k: vec![place],
                causal: false,
            }
        });
        let plan = AttentionPlan {
            blocks: blocks.collect(),
            scale: 1.0 / (c as f32).sqrt(),
            softcap: None,
        };
        let y = attention(&part(0)?, &part(1)?, &part(2)?, &plan, self.precision)?;
        let y = self.out.apply(&y.reshape((1, t, h, w, c))?)?;
        Ok((y + x)?)
    }
}

/// A change of resolution between stages.
pub(super) struct Resample {
    space: Conv,
    time: Option<CausalConv>,
}

impl Resample {
    /// Doubles height and width, and the frame rate where there is a `time_conv`.
    fn doubling(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        let space = Conv::load(&weights.at("resample").at(1), loader.precision)?;
        Ok(Self {
            space: space.padded(&[(1, 1), (1, 1)]),
            time: Self::time(weights, loader)?,
        })
    }

    /// Halves height and width, and the frame rate where there is a `time_conv`.
    fn halving(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        let space = Conv::load(&weights.at("resample").at(1), loader.precision)?;
        Ok(Self {
            space: space.padded(&[(0, 1), (0, 1)]).strided(&[2, 2]),
            time: Self::time(weights, loader)?.map(CausalConv::halving),
        })
    }

    fn time(weights: &Checkpoint, loader: &mut Loader) -> Result<Option<CausalConv>> {
        let time = weights.at("time_conv");
        match time.has("weight") {
            true => Ok(Some(CausalConv::load(&time, loader)?)),
            false => Ok(None),
        }
    }

    fn up(&self, x: &Tensor, first: bool, memory: &mut Memory) -> Result<Tensor> {
        let x = match &self.time {
            // The first frame stands alone: neither doubled nor seen by those after it.
            Some(time) if !first => {
                let (_, t, h, w, c) = x.dims5()?;
                let pairs = time.apply(x, memory)?.reshape((t, h, w, 2, c))?;
                let pairs = pairs.permute((0, 3, 1, 2, 4))?;
                pairs.reshape((1, 2 * t, h, w, c))?
            }
            _ => x.clone(),
        };
        let frames = upsample_nearest(&x.squeeze(0)?, &[2, 2])?;
        Ok(self.space.apply(&frames)?.unsqueeze(0)?)
    }

    fn down(&self, x: &Tensor, first: bool, memory: &mut Memory) -> Result<Tensor> {
        let x = self.space.apply(&x.squeeze(0)?)?.unsqueeze(0)?;
        match &self.time {
            Some(time) if first => {
                time.skip(&x, memory)?;
                Ok(x)
            }
            Some(time) => time.apply(&x, memory),
            None => Ok(x),
        }
    }
}

/// Residual blocks, then a change of resolution, beside a shortcut without weights.
pub(super) struct Stage {
    blocks: Vec<Residual>,
    resample: Option<Resample>,
    shortcut: Shortcut,
}

impl Stage {
    /// A decoder's stage.
    pub(super) fn up(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        Self::load(&weights.at("upsamples"), loader, Resample::doubling)
    }

    /// An encoder's stage.
    pub(super) fn down(weights: &Checkpoint, loader: &mut Loader) -> Result<Self> {
        Self::load(&weights.at("downsamples"), loader, Resample::halving)
    }

    fn load(
        weights: &Checkpoint,
        loader: &mut Loader,
        resample: impl Fn(&Checkpoint, &mut Loader) -> Result<Resample>,
    ) -> Result<Self> {
        let count = weights.count("residual.2.weight");
        let blocks = (0..count).map(|i| Residual::load(&weights.at(i), loader));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let last = weights.at(count);
        let resample = match last.has("resample.1.weight") {
            true => Some(resample(&last, loader)?),
            false => None,
        };
        let doubles_time = resample.as_ref().is_some_and(|r| r.time.is_some());
        let shortcut = Shortcut {
            time: if doubles_time { 2 } else { 1 },
            space: if resample.is_some() { 2 } else { 1 },
            out_channels: blocks.last().map_or(0, Residual::out_channels),
        };
        Ok(Self {
            blocks,
            resample,
            shortcut,
        })
    }

    /// `x` `[1, T, H, W, C]` towards pixels; `first`: it is the clip's first frame.
    pub(super) fn raise(&self, x: &Tensor, first: bool, memory: &mut Memory) -> Result<Tensor> {
        let y = self.run(x, memory)?;
        match &self.resample {
            Some(resample) => {
                let y = resample.up(&y, first, memory)?;
                Ok((y + self.shortcut.repeat(x, first)?)?)
            }
            None => Ok(y),
        }
    }

    /// `x` `[1, T, H, W, C]` towards latents; `first`: it is the clip's first frame.
    pub(super) fn lower(&self, x: &Tensor, first: bool, memory: &mut Memory) -> Result<Tensor> {
        let y = self.run(x, memory)?;
        let y = match &self.resample {
            Some(resample) => resample.down(&y, first, memory)?,
            None => y,
        };
        Ok((y + self.shortcut.average(x)?)?)
    }

    fn run(&self, x: &Tensor, memory: &mut Memory) -> Result<Tensor> {
        let mut blocks = self.blocks.iter();
        blocks.try_fold(x.clone(), |x, block| block.apply(&x, memory))
    }
}
