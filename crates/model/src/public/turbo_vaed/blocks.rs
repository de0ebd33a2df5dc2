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

    /// Operations of so many outputs.
    pub(super) fn operations(&self, positions: usize) -> f64 {
        self.convs
            .iter()
            .map(|conv| conv.operations(positions))
            .sum()
    }

    /// Rows above and below that an output row sees.
    pub(super) fn rows(&self) -> usize {
        self.convs.iter().map(|conv| conv.taps(1) / 2).sum()
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
                RmsNorm::plain(channels.0, NORM_EPS, weights.device())?,
                RmsNorm::plain(channels.1, NORM_EPS, weights.device())?,
            ],
            convs: [conv("conv1")?, conv("conv2")?],
            shortcut: match channels.0 == channels.1 {
                true => None,
                false => Some((
                    RmsNorm::plain(channels.0, common.shortcut_eps, weights.device())?,
                    conv("conv_shortcut")?,
                )),
            },
            relu_first: false,
        })
    }

    /// Operations of so many outputs.
    fn operations(&self, positions: usize) -> f64 {
        let beside = self.shortcut.iter().map(|(_, conv)| conv);
        let convs = self.convs.iter().chain(beside);
        convs.map(|conv| conv.operations(positions)).sum()
    }

    /// Rows above and below that an output row sees.
    fn rows(&self) -> usize {
        let through: usize = self.convs.iter().map(TimeConv::rows).sum();
        let beside = self.shortcut.as_ref().map_or(0, |(_, conv)| conv.rows());
        through.max(beside)
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        // Each is let go when the next one is there: at the full size of a picture one is several gigabytes.
        let mut y = self.norms[0].apply(x)?;
        y = if self.relu_first {
            y.relu()?
        } else {
            silu(&y)?
        };
        y = self.convs[0].apply(&y)?;
        y = self.norms[1].apply(&y)?;
        y = silu(&y)?;
        y = self.convs[1].apply(&y)?;
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

    /// Rows beyond its input that a part of it must have, for the part's output to have `rows` right ones beyond its own.
    pub(super) fn rows_before(&self, rows: usize) -> usize {
        let mut rows = rows + self.layers.iter().map(Residual::rows).sum::<usize>();
        if let Some(enlarge) = &self.enlarge {
            let time = enlarge.time.as_ref().map_or(0, TimeConv::rows);
            rows = (rows + enlarge.space.taps(0) / 2).div_ceil(2) + time;
        }
        rows + self.widen.as_ref().map_or(0, Residual::rows)
    }

    /// Operations for an input of `size`, frames, height and width, which becomes that of the output.
    pub(super) fn operations(&self, size: &mut [usize; 3], first: bool) -> f64 {
        let positions = |size: &[usize; 3]| size.iter().product::<usize>();
        let mut sum = match &self.widen {
            Some(widen) => widen.operations(positions(size)),
            None => 0.0,
        };
        if let Some(enlarge) = &self.enlarge {
            if let Some(time) = &enlarge.time {
                sum += time.operations(positions(size));
                size[0] = 2 * size[0] - usize::from(first);
            }
            size[1] *= 2;
            size[2] *= 2;
            sum += enlarge.space.operations(positions(size));
        }
        let layers = self.layers.iter();
        sum + layers
            .map(|layer| layer.operations(positions(size)))
            .sum::<f64>()
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
