//! The blocks of the fast decoder: convolutions that see both ways in time.

use candle_core::Tensor;
use gallop_kernels::{Precision, silu, upsample_nearest};

use super::config::{BlockConfig, Enlarge};
use crate::public::{
    error::Result,
    layers::{Conv, RmsNorm},
    source::Checkpoint,
};

/// Guards the norms of the main path.
pub(super) const NORM_EPS: f64 = 1e-8;

/// What all blocks of a decoder share.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub(super) precision: Precision,
    pub(super) shortcut_eps: f64,
}

/// A convolution over time and space; time is padded by repeating the first and last frame.
pub(super) struct TimeConv {
    /// One convolution, or a depthwise one and one over channels alone.
    convs: Vec<Conv>,
    reach: usize,
}

impl TimeConv {
    pub(super) fn load(
        weights: &Checkpoint,
        depthwise: bool,
        precision: Precision,
    ) -> Result<Self> {
        let first = match depthwise {
            true => Conv::load(&weights.at("depthwise_conv"), precision)?.depthwise(),
            false => Conv::load(&weights.at("conv"), precision)?,
        };
        let (reach, h, w) = (first.taps(0) / 2, first.taps(1) / 2, first.taps(2) / 2);
        let mut convs = vec![first.padded(&[(0, 0), (h, h), (w, w)])];
        if depthwise {
            convs.push(Conv::load(&weights.at("pointwise_conv"), precision)?);
        }
        Ok(Self { convs, reach })
    }

    /// `x` `[1, T, H, W, Cin]` to `[1, T, H, W, Cout]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = match self.reach {
            0 => x.clone(),
            reach => {
                let first = x.narrow(1, 0, 1)?;
                let last = x.narrow(1, x.dim(1)? - 1, 1)?;
                let mut frames = vec![first; reach];
                frames.push(x.clone());
                frames.extend(std::iter::repeat_n(last, reach));
                Tensor::cat(&frames, 1)?
            }
        };
        for conv in &self.convs {
            y = conv.apply(&y)?;
        }
        Ok(y)
    }
}

/// Two convolutions beside a shortcut.
pub(super) struct Residual {
    norms: [RmsNorm; 2],
    convs: [TimeConv; 2],
    shortcut: Option<(RmsNorm, TimeConv)>,
    /// Layers after an enlargement begin with ReLU in place of SiLU.
    relu_first: bool,
}

impl Residual {
    fn load(
        weights: &Checkpoint,
        channels: (usize, usize),
        block: BlockConfig,
        common: Common,
    ) -> Result<Self> {
        let conv = |name| TimeConv::load(&weights.at(name), block.depthwise, common.precision);
        Ok(Self {
            norms: [
                RmsNorm::plain(channels.0, NORM_EPS)?,
                RmsNorm::plain(channels.1, NORM_EPS)?,
            ],
            convs: [conv("conv1")?, conv("conv2")?],
            shortcut: match channels.0 == channels.1 {
                true => None,
                false => Some((
                    RmsNorm::plain(channels.0, common.shortcut_eps)?,
                    conv("conv_shortcut")?,
                )),
            },
            relu_first: false,
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.norms[0].apply(x)?;
        let y = if self.relu_first {
            y.relu()?
        } else {
            silu(&y)?
        };
        let y = self.convs[0].apply(&y)?;
        let y = self.convs[1].apply(&silu(&self.norms[1].apply(&y)?)?)?;
        Ok(match &self.shortcut {
            Some((norm, conv)) => (y + conv.apply(&norm.apply(x)?)?)?,
            None => (y + x)?,
        })
    }
}

/// Doubles height and width, and the frame rate where it has a convolution for that.
struct Doubling {
    time: Option<TimeConv>,
    space: Conv,
}

impl Doubling {
    fn load(weights: &Checkpoint, enlarge: Enlarge, precision: Precision) -> Result<Self> {
        let space = Conv::load(&weights.at("resample").at(1), precision)?;
        Ok(Self {
            time: match enlarge {
                Enlarge::SpaceAndTime => {
                    Some(TimeConv::load(&weights.at("time_conv"), false, precision)?)
                }
                _ => None,
            },
            space: space.padded(&[(1, 1), (1, 1)]),
        })
    }

    /// `x` `[1, T, H, W, C]`; the clip's very first frame gives one frame, every other two.
    fn apply(&self, x: &Tensor, first: bool) -> Result<Tensor> {
        let x = match &self.time {
            Some(time) => {
                let (_, t, h, w, c) = x.dims5()?;
                let pairs = time.apply(x)?.reshape((t, h, w, 2, c))?;
                let frames = pairs.permute((0, 3, 1, 2, 4))?.reshape((2 * t, h, w, c))?;
                let skip = usize::from(first);
                frames.narrow(0, skip, 2 * t - skip)?.contiguous()?
            }
            None => x.squeeze(0)?,
        };
        let frames = upsample_nearest(&x, &[2, 2])?;
        Ok(self.space.apply(&frames)?.unsqueeze(0)?)
    }
}

/// A change of channels, an enlargement, residual layers: each but the last optional.
pub(super) struct Block {
    widen: Option<Residual>,
    enlarge: Option<Doubling>,
    layers: Vec<Residual>,
}

impl Block {
    pub(super) fn load(
        weights: &Checkpoint,
        in_channels: usize,
        block: BlockConfig,
        common: Common,
    ) -> Result<Self> {
        let out = block.out_channels;
        let layers = (0..block.layers).map(|i| {
            let layer = Residual::load(&weights.at("resnets").at(i), (out, out), block, common)?;
            Ok(Residual {
                relu_first: block.enlarge != Enlarge::Nothing,
                ..layer
            })
        });
        let widen = weights.at("conv_in");
        let doubling = weights.at("upsamplers").at(0);
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            widen: match in_channels == out {
                true => None,
                false => Some(Residual::load(&widen, (in_channels, out), block, common)?),
            },
            enlarge: match block.enlarge {
                Enlarge::Nothing => None,
                enlarge => Some(Doubling::load(&doubling, enlarge, common.precision)?),
            },
        })
    }

    /// `x` `[1, T, H, W, C]`; `first`: the run begins with the clip's first frame.
    pub(super) fn apply(&self, x: &Tensor, first: bool) -> Result<Tensor> {
        let mut x = x.clone();
        if let Some(widen) = &self.widen {
            x = widen.apply(&x)?;
        }
        if let Some(enlarge) = &self.enlarge {
            x = enlarge.apply(&x, first)?;
        }
        for layer in &self.layers {
            x = layer.apply(&x)?;
        }
        Ok(x)
    }
}
