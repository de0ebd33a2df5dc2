//! The blocks of the fast decoder: convolutions that see both ways in time.
//!
//! A window's frames come in runs; a layer gives each of its frames as soon as it has seen those after it that it
//! needs, and remembers the few that it needs again. So only runs are in memory, not windows, with the same result.

use candle_core::{DType, Device, Tensor};
use gallop_kernels::{Precision, Then, upsample_nearest};

use super::config::{BlockConfig, Enlarge};
use crate::public::{
    error::Result,
    layers::{Conv, RmsNorm},
    source::Checkpoint,
};

/// Guards the norms of the main path.
pub(super) const NORM_EPS: f64 = 1e-8;

/// What all blocks of a decoder share while they are loaded; hands out places in the [`Memory`].
pub(super) struct Loader {
    pub(super) precision: Precision,
    pub(super) shortcut_eps: f64,
    pub(super) slots: usize,
}

impl Loader {
    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }
}

/// What layers keep of a window whose frames come in several runs.
pub(super) struct Memory {
    frames: Vec<Option<Tensor>>,
    /// Frames that a layer which doubles the frame rate still has to leave out.
    left_out: Vec<usize>,
}

impl Memory {
    /// For a window; the clip's first one begins with a frame that is not doubled.
    pub(super) fn new(slots: usize, first: bool) -> Self {
        Self {
            frames: vec![None; slots],
            left_out: vec![usize::from(first); slots],
        }
    }
}

/// Frames on their way through the layers, in order.
pub(super) struct Run {
    /// `[1, T, H, W, C]`; none where a layer waits for later frames.
    pub(super) frames: Option<Tensor>,
    /// Whether no more come in this window.
    pub(super) last: bool,
}

impl Run {
    /// The frames that `f` makes of these, which are let go.
    pub(super) fn map(self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            frames: self.frames.map(|x| f(&x)).transpose()?,
            last: self.last,
        })
    }

    fn shared(&self) -> Self {
        Self {
            frames: self.frames.clone(),
            last: self.last,
        }
    }

    /// The same frames in runs of at most so many bytes, or of one frame.
    pub(super) fn parts(self, run_bytes: u64) -> Result<Vec<Self>> {
        let Some(x) = &self.frames else {
            return Ok(vec![self]);
        };
        let count = x.dim(1)?;
        let bytes = (x.elem_count() / count * size_of::<f32>()) as u64;
        let most = frames_at_once(bytes, run_bytes).min(count);
        let part = |start: usize| {
            let frames = x.narrow(1, start, most.min(count - start))?;
            Ok(Self {
                frames: Some(frames.contiguous()?),
                last: self.last && start + most >= count,
            })
        };
        (0..count).step_by(most).map(part).collect()
    }
}

/// Bytes of frames that go into a block at once: on a processor larger runs are no faster, and only take memory; a GPU
/// works off small ones faster than they can be queued.
pub(in crate::public) fn run_bytes(device: &Device) -> u64 {
    match device.is_cuda() {
        true => 512 << 20,
        false => 8 << 20,
    }
}

/// How many frames of so many bytes make a run.
pub(super) fn frames_at_once(bytes: u64, run_bytes: u64) -> usize {
    (run_bytes / bytes.max(1)).max(1) as usize
}

/// A convolution over time and space; time is padded by repeating the window's first and last frame.
pub(super) struct TimeConv {
    /// One convolution, or a depthwise one and one over channels alone.
    convs: Vec<Conv>,
    reach: usize,
    slot: usize,
    /// What frames that are kept can be rounded to without changing a product.
    kept: DType,
}

impl TimeConv {
    pub(super) fn load(weights: &Checkpoint, depthwise: bool, loader: &mut Loader) -> Result<Self> {
        let precision = loader.precision;
        let first = match depthwise {
            true => Conv::load(&weights.at("depthwise_conv"), precision)?.depthwise(),
            false => Conv::load(&weights.at("conv"), precision)?,
        };
        let (reach, h, w) = (first.taps(0) / 2, first.taps(1) / 2, first.taps(2) / 2);
        let mut convs = vec![first.padded(&[(0, 0), (h, h), (w, w)])];
        if depthwise {
            convs.push(Conv::load(&weights.at("pointwise_conv"), precision)?);
        }
        Ok(Self {
            convs,
            reach,
            slot: loader.slot(),
            kept: match (precision, depthwise) {
                (Precision::Bf16, false) => DType::BF16,
                _ => DType::F32,
            },
        })
    }

    /// Operations of so many outputs.
    pub(super) fn operations(&self, positions: usize) -> f64 {
        self.convs
            .iter()
            .map(|conv| conv.operations(positions))
            .sum()
    }

    /// Frames of Cin channels to frames of Cout channels, each as soon as those after it that it sees are there.
    pub(super) fn apply(&self, run: Run, memory: &mut Memory) -> Result<Run> {
        if self.reach == 0 {
            return run.map(|x| self.convolve(x));
        }
        let mut parts = Vec::new();
        match (memory.frames[self.slot].take(), &run.frames) {
            (Some(past), run) => {
                let read = run.as_ref().map_or(DType::F32, Tensor::dtype);
                parts.push(past.to_dtype(read)?);
            }
            (None, Some(x)) => parts.extend(vec![x.narrow(1, 0, 1)?; self.reach]),
            (None, None) => return Ok(run),
        }
        let last = run.last;
        parts.extend(run.frames);
        if let (true, Some(end)) = (last, parts.last()) {
            let frame = end.narrow(1, end.dim(1)? - 1, 1)?;
            parts.extend(vec![frame; self.reach]);
        }
        let joined = Tensor::cat(&parts, 1)?;
        drop(parts);
        let count = joined.dim(1)?;
        let seen = (2 * self.reach).min(count);
        if !last {
            // A copy, so that the memory does not keep the whole run alive.
            let end = joined.narrow(1, count - seen, seen)?.force_contiguous()?;
            memory.frames[self.slot] = Some(end.to_dtype(self.kept)?);
        }
        let frames = (count > 2 * self.reach).then(|| self.convolve(&joined));
        Ok(Run {
            frames: frames.transpose()?,
            last,
        })
    }

    fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = self.convs[0].apply(x)?;
        for conv in &self.convs[1..] {
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
    slot: usize,
}

impl Residual {
    fn load(
        weights: &Checkpoint,
        channels: (usize, usize),
        block: BlockConfig,
        loader: &mut Loader,
    ) -> Result<Self> {
        let (eps, precision) = (loader.shortcut_eps, loader.precision);
        let device = weights.device();
        let mut conv = |name| TimeConv::load(&weights.at(name), block.depthwise, loader);
        Ok(Self {
            norms: [
                RmsNorm::plain(channels.0, NORM_EPS, precision, device)?,
                RmsNorm::plain(channels.1, NORM_EPS, precision, device)?,
            ],
            convs: [conv("conv1")?, conv("conv2")?],
            shortcut: match channels.0 == channels.1 {
                true => None,
                false => Some((
                    RmsNorm::plain(channels.0, eps, precision, device)?,
                    conv("conv_shortcut")?,
                )),
            },
            relu_first: false,
            slot: loader.slot(),
        })
    }

    /// Operations of so many outputs.
    fn operations(&self, positions: usize) -> f64 {
        let beside = self.shortcut.iter().map(|(_, conv)| conv);
        let convs = self.convs.iter().chain(beside);
        convs.map(|conv| conv.operations(positions)).sum()
    }

    fn apply(&self, run: Run, memory: &mut Memory) -> Result<Run> {
        let first = match self.relu_first {
            true => Then::Relu,
            false => Then::Silu,
        };
        let y = run.shared().map(|x| self.norms[0].then(x, first))?;
        let y = self.convs[0].apply(y, memory)?;
        let y = y.map(|y| self.norms[1].then(y, Then::Silu))?;
        let y = self.convs[1].apply(y, memory)?;
        let beside = match &self.shortcut {
            Some((norm, conv)) => conv.apply(run.map(|x| norm.apply(x))?, memory)?,
            None => run,
        };
        // Frames of the shortcut wait for those that the convolutions have not given yet.
        let waiting = memory.frames[self.slot].take().into_iter();
        let waiting: Vec<Tensor> = waiting.chain(beside.frames).collect();
        let Some(first) = waiting.first() else {
            return Ok(y);
        };
        let waiting = match waiting.len() {
            1 => first.clone(),
            _ => Tensor::cat(&waiting, 1)?,
        };
        let count = match &y.frames {
            Some(y) => y.dim(1)?,
            None => 0,
        };
        let rest = waiting.dim(1)? - count;
        if rest > 0 {
            memory.frames[self.slot] = Some(waiting.narrow(1, count, rest)?.force_contiguous()?);
        }
        y.map(|y| Ok((y + waiting.narrow(1, 0, count)?)?))
    }
}

/// Doubles height and width, and the frame rate where it has a convolution for that.
struct Doubling {
    time: Option<TimeConv>,
    space: Conv,
    slot: usize,
}

impl Doubling {
    fn load(weights: &Checkpoint, enlarge: Enlarge, loader: &mut Loader) -> Result<Self> {
        let space = Conv::load(&weights.at("resample").at(1), loader.precision)?;
        Ok(Self {
            time: match enlarge {
                Enlarge::SpaceAndTime => {
                    Some(TimeConv::load(&weights.at("time_conv"), false, loader)?)
                }
                _ => None,
            },
            space: space.padded(&[(1, 1), (1, 1)]),
            slot: loader.slot(),
        })
    }

    /// The clip's very first frame gives one frame, every other two.
    fn apply(&self, run: Run, memory: &mut Memory) -> Result<Run> {
        let run = match &self.time {
            Some(time) => {
                let pairs = time.apply(run, memory)?;
                let left_out = &mut memory.left_out[self.slot];
                pairs.map(|pairs| {
                    let (_, t, h, w, c) = pairs.dims5()?;
                    let pairs = pairs
                        .reshape((t, h, w, 2, c / 2))?
                        .permute((0, 3, 1, 2, 4))?;
                    let frames = pairs.reshape((1, 2 * t, h, w, c / 2))?;
                    let skip = std::mem::take(left_out);
                    Ok(frames.narrow(1, skip, 2 * t - skip)?.contiguous()?)
                })?
            }
            None => run,
        };
        run.map(|x| {
            let frames = upsample_nearest(&x.squeeze(0)?, &[2, 2])?;
            Ok(self.space.apply(&frames)?.unsqueeze(0)?)
        })
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
        loader: &mut Loader,
    ) -> Result<Self> {
        let out = block.out_channels;
        let widen = weights.at("conv_in");
        let doubling = weights.at("upsamplers").at(0);
        let layers = (0..block.layers).map(|i| {
            let layer = Residual::load(&weights.at("resnets").at(i), (out, out), block, loader)?;
            Ok(Residual {
                relu_first: block.enlarge != Enlarge::Nothing,
                ..layer
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            widen: match in_channels == out {
                true => None,
                false => Some(Residual::load(&widen, (in_channels, out), block, loader)?),
            },
            enlarge: match block.enlarge {
                Enlarge::Nothing => None,
                enlarge => Some(Doubling::load(&doubling, enlarge, loader)?),
            },
        })
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

    pub(super) fn apply(&self, mut run: Run, memory: &mut Memory) -> Result<Run> {
        if let Some(widen) = &self.widen {
            run = widen.apply(run, memory)?;
        }
        if let Some(enlarge) = &self.enlarge {
            run = enlarge.apply(run, memory)?;
        }
        for layer in &self.layers {
            run = layer.apply(run, memory)?;
        }
        Ok(run)
    }
}
