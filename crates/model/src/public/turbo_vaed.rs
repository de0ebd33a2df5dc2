//! TurboVAED: the fast decoder for the latents of the Wan2.2 video VAE.
//!
//! Not causal: a clip goes through in windows of a few latent frames, each seeing one frame more on
//! either side, whose pictures are thrown away.

mod blocks;
mod config;

use std::ops::Range;

pub(super) use blocks::run_bytes;
use blocks::{Block, Loader, Memory, NORM_EPS, Run, TimeConv};
use candle_core::Tensor;
use config::Enlarge;
pub use config::TurboConfig;
use gallop_kernels::{Precision, Then};

use super::{
    error::{PublicError, Result},
    layers::{Conv, RmsNorm},
    source::{Checkpoint, Renamed, TensorSource},
    wan_vae::{LatentStats, unpatchify},
};

/// The fast decoder.
pub struct TurboDecoder {
    input: TimeConv,
    middle: Block,
    blocks: Vec<Block>,
    /// One more enlargement, in decoders whose last convolution gives no patches.
    shuffle: Option<(RmsNorm, Conv)>,
    norm: RmsNorm,
    output: TimeConv,
    stats: LatentStats,
    config: TurboConfig,
    slots: usize,
    run_bytes: u64,
}

/// One window on its way through the decoder.
struct Pass<'a> {
    memory: Memory,
    /// Takes pictures `[t, H, W, 3]`, in order.
    sink: &'a mut dyn FnMut(Tensor) -> Result<()>,
}

/// One window of a clip: which latent frames go in, and which pictures of the result count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    latents: Range<usize>,
    /// Pictures to drop at either end.
    drop: (usize, usize),
}

/// The tensors of a checkpoint under the decoder's own names: the training run's averaged weights,
/// without the wrapper's prefix.
pub fn unwrap_checkpoint<S: TensorSource>(checkpoint: S) -> Renamed<S> {
    Renamed::new(checkpoint, |name| {
        let name = name.strip_prefix("ema_state_dict.")?;
        let name = name.strip_prefix("module.").unwrap_or(name);
        let whole = ["decoder.", "encoder."];
        match whole.iter().any(|prefix| name.starts_with(prefix)) {
            true => Some(name.into()),
            false => Some(format!("decoder.{name}")),
        }
    })
}

impl TurboDecoder {
    /// Loads `decoder.*`.
    ///
    /// # Errors
    /// When a weight is missing, of a wrong shape, or not finite.
    pub fn load(
        weights: &Checkpoint,
        config: TurboConfig,
        stats: LatentStats,
        precision: Precision,
    ) -> Result<Self> {
        let mut loader = Loader {
            precision,
            shortcut_eps: config.resnet_norm_eps,
            slots: 0,
        };
        let weights = weights.at("decoder");
        let middle = config.middle();
        let mut channels = middle.out_channels;
        let mut blocks = Vec::new();
        for (i, block) in config.blocks().into_iter().enumerate() {
            let weights = weights.at("up_blocks").at(i);
            blocks.push(Block::load(&weights, channels, block, &mut loader)?);
            channels = block.out_channels;
        }
        let mut shuffle = None;
        if !config.use_unpatchify {
            let conv = Conv::load(&weights.at("upsampler2d_1").at("conv"), precision)?;
            let norm = RmsNorm::plain(channels, NORM_EPS, precision, weights.device())?;
            shuffle = Some((norm, conv.padded(&[(1, 1), (1, 1)])));
            channels /= config.patch_size * config.patch_size;
        }
        let (first, outputs) = (weights.at("mid_block"), middle.out_channels);
        Ok(Self {
            input: TimeConv::load(&weights.at("conv_in"), false, &mut loader)?,
            middle: Block::load(&first, outputs, middle, &mut loader)?,
            blocks,
            shuffle,
            norm: RmsNorm::plain(channels, NORM_EPS, precision, weights.device())?,
            output: TimeConv::load(&weights.at("conv_out"), false, &mut loader)?,
            stats: stats.on(weights.device())?,
            config,
            slots: loader.slots,
            run_bytes: run_bytes(weights.device()),
        })
    }

    /// Normalised latents `[C, F, h, w]` to pictures `[T, H, W, 3]`, about -1 to 1, not clamped;
    /// T = 4 (F - 1) + 1.
    ///
    /// # Errors
    /// When the latents have another number of channels, or memory runs out.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let mut pictures = Vec::new();
        self.decode_each(latents, &mut |run| {
            pictures.push(run);
            Ok(())
        })?;
        Ok(Tensor::cat(&pictures, 0)?)
    }

    /// As [`TurboDecoder::decode`], but hands over pictures `[t, H, W, 3]` as soon as they are done.
    /// Few frames are in memory at a time, so that it does not grow with the clip.
    ///
    /// # Errors
    /// As [`TurboDecoder::decode`], and what `sink` returns.
    pub fn decode_each(
        &self,
        latents: &Tensor,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let (channels, frames, _, _) = latents.dims4()?;
        if channels != self.config.latent_channels || frames == 0 {
            let what = format!("latents {:?} for the fast decoder", latents.dims());
            return Err(PublicError::Input(what));
        }
        let z = latents.permute((1, 2, 3, 0))?.unsqueeze(0)?.contiguous()?;
        let z = self.stats.denormalize(&z)?;
        let (windows, padding) = windows(frames, &self.config);
        let z = match padding {
            0 => z,
            padding => {
                let last = z.narrow(1, frames - 1, 1)?;
                Tensor::cat(&[vec![z], vec![last; padding]].concat(), 1)?
            }
        };
        let mut left = (frames - 1) * self.config.temporal_compression_ratio + 1;
        for (i, window) in windows.iter().enumerate() {
            let run = z.narrow(1, window.latents.start, window.latents.len())?;
            let all = self.pictures(window.latents.len(), i == 0);
            let counted = window.drop.0..all - window.drop.1;
            let mut at = 0;
            self.window(&run.contiguous()?, i == 0, &mut |pictures| {
                let here = at..at + pictures.dim(0)?;
                at = here.end;
                let from = here.start.max(counted.start);
                let count = here.end.min(counted.end).saturating_sub(from).min(left);
                left -= count;
                match count {
                    0 => Ok(()),
                    _ => sink(pictures.narrow(0, from - here.start, count)?.contiguous()?),
                }
            })?;
        }
        Ok(())
    }

    /// Operations of decoding so many latent frames of this height and width, an addition and a multiplication being
    /// two.
    pub fn operations(&self, [frames, height, width]: [usize; 3]) -> f64 {
        let (windows, _) = windows(frames, &self.config);
        let each = windows.iter().enumerate().map(|(i, window)| {
            let mut size = [window.latents.len(), height, width];
            let mut sum = self.input.operations(size.iter().product());
            for block in std::iter::once(&self.middle).chain(&self.blocks) {
                sum += block.operations(&mut size, i == 0);
            }
            let positions = size.iter().product::<usize>();
            let (shuffle, scale) = match &self.shuffle {
                Some((_, conv)) => (conv.operations(positions), 4),
                None => (0.0, 1),
            };
            sum + shuffle + self.output.operations(positions * scale)
        });
        each.sum()
    }

    /// Pictures of a window of so many latent frames.
    fn pictures(&self, latents: usize, first: bool) -> usize {
        let blocks = self.config.blocks().into_iter();
        let doubled = blocks.filter(|block| block.enlarge == Enlarge::SpaceAndTime);
        doubled.fold(latents, |frames, _| 2 * frames - usize::from(first))
    }

    /// `z` `[1, F, h, w, C]` to pictures.
    fn window(
        &self,
        z: &Tensor,
        first: bool,
        sink: &mut dyn FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        let memory = Memory::new(self.slots, first);
        let mut pass = Pass { memory, sink };
        let z = Run {
            frames: Some(z.clone()),
            last: true,
        };
        for run in z.parts(self.run_bytes)? {
            let run = self.input.apply(run, &mut pass.memory)?;
            let run = self.middle.apply(run, &mut pass.memory)?;
            for part in run.parts(self.run_bytes)? {
                self.finish(part, 0, &mut pass)?;
            }
        }
        Ok(())
    }

    /// Takes frames from block `at` to pictures, a few at a time: the late blocks, whose frames are largest, never hold
    /// many.
    fn finish(&self, run: Run, at: usize, pass: &mut Pass) -> Result<()> {
        if let Some(block) = self.blocks.get(at) {
            let run = block.apply(run, &mut pass.memory)?;
            for part in run.parts(self.run_bytes)? {
                self.finish(part, at + 1, pass)?;
            }
            return Ok(());
        }
        let run = run.map(|x| {
            let x = match &self.shuffle {
                Some((norm, conv)) => {
                    let frames = norm.then(x, Then::Silu)?.squeeze(0)?;
                    shuffle(&conv.apply(&frames)?)?.unsqueeze(0)?
                }
                None => x.clone(),
            };
            self.norm.then(&x, Then::Silu)
        })?;
        let run = self.output.apply(run, &mut pass.memory)?;
        match run.frames {
            Some(x) if self.config.use_unpatchify => (pass.sink)(unpatchify(&x)?),
            Some(x) => (pass.sink)(x.squeeze(0)?),
            None => Ok(()),
        }
    }
}

/// `[T, H, W, C*4]` to `[T, 2H, 2W, C]`, channels in the order (C, y, x).
fn shuffle(x: &Tensor) -> Result<Tensor> {
    let (t, h, w, c) = x.dims4()?;
    let split = x.reshape(vec![t, h, w, c / 4, 2, 2])?;
    let spread = split.permute(vec![0, 1, 4, 2, 5, 3])?;
    Ok(spread.reshape((t, 2 * h, 2 * w, c / 4))?)
}

/// The windows over a clip of `frames` latent frames, and by how many copies of its last frame it is
/// to be extended so that they fit.
fn windows(frames: usize, config: &TurboConfig) -> (Vec<Window>, usize) {
    let (first, step) = (config.first_chunk_size, config.step_size);
    let overlap = config.temporal_compression_ratio;
    let steps = frames.saturating_sub(first).div_ceil(step);
    let total = first + steps * step;
    let count = |more: bool| if more { overlap } else { 0 };
    let mut windows = vec![Window {
        latents: 0..first + usize::from(steps > 0),
        drop: (0, count(steps > 0)),
    }];
    for start in (first..total).step_by(step) {
        let more = start + step < total;
        windows.push(Window {
            latents: start - 1..start + step + usize::from(more),
            drop: (overlap, count(more)),
        });
    }
    (windows, total - frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(frames: usize) -> (Vec<Window>, usize) {
        let config = TurboConfig {
            first_chunk_size: 3,
            step_size: 2,
            ..TurboConfig::default()
        };
        windows(frames, &config)
    }

    #[test]
    fn runs_of_one_frame_give_the_same_pictures() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let files = crate::WeightFiles::open(&folder.join("turbo_vaed.safetensors")).unwrap();
        let json = std::fs::read_to_string(folder.join("turbo_vaed.json")).unwrap();
        let config = TurboConfig::parse(&json).unwrap();
        let weights = Renamed::new(files, |name| Some(name.strip_prefix("weights.")?.into()));
        let device = candle_core::Device::Cpu;
        let latents = Tensor::randn(0f32, 1.0, (48, 6, 3, 4), &device).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let stats = LatentStats::public().unwrap();
            let weights = Checkpoint::new(&weights);
            let mut decoder =
                TurboDecoder::load(&weights, config.clone(), stats, precision).unwrap();
            let whole = decoder.decode(&latents).unwrap();
            let [one, two] = [3, 6].map(|height| decoder.operations([6, height, 4]));
            assert!(one > 0.0 && (two / one - 2.0).abs() < 1e-9);
            for bytes in [1, 20_000] {
                decoder.run_bytes = bytes;
                let runs = decoder.decode(&latents).unwrap();
                assert_eq!(runs.dims(), whole.dims());
                let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>();
                let error = norm(&(&runs - &whole).unwrap()).unwrap() / norm(&whole).unwrap();
                assert!(error.sqrt() < 1e-6, "{precision:?} {bytes}: {error}");
            }
        }
    }

    #[test]
    fn short_clips_are_one_window_without_context() {
        let whole = Window {
            latents: 0..3,
            drop: (0, 0),
        };
        assert_eq!(spans(1), (vec![whole.clone()], 2));
        assert_eq!(spans(3), (vec![whole], 0));
    }

    #[test]
    fn inner_windows_see_one_frame_more_on_either_side() {
        let (windows, padding) = spans(6);
        let spans: Vec<_> = windows
            .iter()
            .map(|w| (w.latents.clone(), w.drop))
            .collect();
        assert_eq!(spans, [(0..4, (0, 4)), (2..6, (4, 4)), (4..7, (4, 0))]);
        assert_eq!(padding, 1);
    }
}
