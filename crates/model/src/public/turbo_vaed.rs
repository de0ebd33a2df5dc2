//! TurboVAED: the fast decoder for the latents of the Wan2.2 video VAE.
//!
//! Not causal: a clip goes through in windows of a few latent frames, each seeing one frame more on
//! either side, whose pictures are thrown away.

mod blocks;
mod config;

use std::ops::Range;

use blocks::{Block, Common, NORM_EPS, TimeConv};
use candle_core::Tensor;
pub use config::TurboConfig;
use gallop_kernels::{Precision, silu};

use super::{
    error::{PublicError, Result},
    layers::{Conv, RmsNorm},
    source::{Checkpoint, Renamed, TensorSource},
    wan_vae::{LatentStats, unpatchify},
};

/// Blocks that are run on a strip of the picture at a time, from the end.
const STRIPPED: usize = 2;
/// Bytes of the widest tensor of a strip; four of them are there at once. At 1080p the 36 pictures of a window make
/// 9.6 GB of 128 channels at half the size, so three strips of 3.2 GB and what they overlap: the decoder then needs
/// 20 GB: 4.8 of 256 channels at a quarter of the size, which the strips are cut from, and 4 x 3.7. It does not depend
/// on the memory that is there.
const STRIP_BYTES: usize = 4 << 30;

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
    strip_bytes: usize,
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
        let common = Common {
            precision,
            shortcut_eps: config.resnet_norm_eps,
        };
        let weights = weights.at("decoder");
        let middle = config.middle();
        let mut channels = middle.out_channels;
        let mut blocks = Vec::new();
        for (i, block) in config.blocks().into_iter().enumerate() {
            let weights = weights.at("up_blocks").at(i);
            blocks.push(Block::load(&weights, channels, block, common)?);
            channels = block.out_channels;
        }
        let mut shuffle = None;
        if !config.use_unpatchify {
            let conv = Conv::load(&weights.at("upsampler2d_1").at("conv"), precision)?;
            let norm = RmsNorm::plain(channels, NORM_EPS, weights.device())?;
            shuffle = Some((norm, conv.padded(&[(1, 1), (1, 1)])));
            channels /= config.patch_size * config.patch_size;
        }
        Ok(Self {
            input: TimeConv::load(&weights.at("conv_in"), false, precision)?,
            middle: Block::load(
                &weights.at("mid_block"),
                middle.out_channels,
                middle,
                common,
            )?,
            blocks,
            shuffle,
            norm: RmsNorm::plain(channels, NORM_EPS, weights.device())?,
            output: TimeConv::load(&weights.at("conv_out"), false, precision)?,
            stats: stats.on(weights.device())?,
            config,
            strip_bytes: STRIP_BYTES,
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

    /// As [`TurboDecoder::decode`], but hands over each window's pictures `[t, H, W, 3]` as soon as
    /// they are done.
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
            let pictures = self.window(&run.contiguous()?, i == 0)?;
            let count = pictures.dim(0)? - window.drop.0 - window.drop.1;
            let count = count.min(left);
            left -= count;
            sink(pictures.narrow(0, window.drop.0, count)?.contiguous()?)?;
        }
        Ok(())
    }

    /// Operations of decoding so many latent frames of this height and width, an addition and a multiplication being
    /// two; what strips compute twice is counted once.
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

    /// `z` `[1, F, h, w, C]` to `[T, H, W, 3]`.
    fn window(&self, z: &Tensor, first: bool) -> Result<Tensor> {
        let mut x = self.input.apply(z)?;
        x = self.middle.apply(&x, first)?;
        let (whole, stripped) = self
            .blocks
            .split_at(self.blocks.len().saturating_sub(STRIPPED));
        for block in whole {
            x = block.apply(&x, first)?;
        }
        let (height, rows) = (x.dim(2)?, self.strip_rows(&x, stripped.len())?);
        if rows >= height {
            return self.finish(x, stripped, first);
        }
        // What lies further from a strip than this does not change it.
        let last = self.output.rows() + self.shuffle.as_ref().map_or(0, |(_, c)| c.taps(0) / 2);
        let beyond = (stripped.iter().rev()).fold(last, |rows, block| block.rows_before(rows));
        let mut strips = Vec::with_capacity(height.div_ceil(rows));
        for start in (0..height).step_by(rows) {
            let end = (start + rows).min(height);
            let (from, to) = (start.saturating_sub(beyond), (end + beyond).min(height));
            let part = x.narrow(2, from, to - from)?.contiguous()?;
            let pictures = self.finish(part, stripped, first)?;
            let scale = pictures.dim(1)? / (to - from);
            let rows = pictures.narrow(1, (start - from) * scale, (end - start) * scale)?;
            strips.push(rows.contiguous()?);
        }
        Ok(Tensor::cat(&strips, 1)?)
    }

    /// Rows of `x` `[1, T, H, W, C]` that make a strip for the last so many blocks.
    fn strip_rows(&self, x: &Tensor, blocks: usize) -> Result<usize> {
        let (_, frames, _, width, _) = x.dims5()?;
        let (mut space, mut time, mut widest) = (1, 1, 1);
        let all = self.config.blocks();
        for block in &all[all.len() - blocks..] {
            let (by, frames) = block.enlarge.factors();
            (space, time) = (space * by, time * frames);
            widest = widest.max(space * space * time * block.out_channels);
        }
        let row = frames * width * widest * size_of::<f32>();
        Ok((self.strip_bytes / row).max(1))
    }

    /// The last blocks, and `x` `[1, T, H, W, C]` to pictures `[T, H, W, 3]`.
    fn finish(&self, mut x: Tensor, blocks: &[Block], first: bool) -> Result<Tensor> {
        for block in blocks {
            x = block.apply(&x, first)?;
        }
        if let Some((norm, conv)) = &self.shuffle {
            let frames = silu(&norm.apply(&x)?)?.squeeze(0)?;
            x = shuffle(&conv.apply(&frames)?)?.unsqueeze(0)?;
        }
        x = self.norm.apply(&x)?;
        x = silu(&x)?;
        let x = self.output.apply(&x)?;
        match self.config.use_unpatchify {
            true => unpatchify(&x),
            false => Ok(x.squeeze(0)?),
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
    fn the_public_decoder_fits_a_small_gpu_at_1080p() {
        let bytes = TurboConfig::public().activation_bytes(68, 120);
        // Four times 36 pictures of 256 channels at a quarter of the size are the least.
        let quarter = 4 * 4 * 36 * 272 * 480 * 256;
        assert!((quarter..24 << 30).contains(&bytes), "{bytes}");
    }

    #[test]
    fn strips_give_the_same_pictures() {
        use crate::public::{Part, Preset, write_random_part};
        let folder = tempfile::tempdir().unwrap();
        let preset = Preset::tiny();
        write_random_part(folder.path(), &preset, Part::FastDecoder, 3, &mut |_| ()).unwrap();
        let model = crate::public::PublicModel::open(folder.path()).unwrap();
        let mut decoder = model.fast_video_decoder(Precision::F32).unwrap();
        let latents = Tensor::randn(0f32, 1., (48, 3, 7, 4), &candle_core::Device::Cpu).unwrap();
        let whole = decoder.decode(&latents).unwrap();
        let (one, two) = (
            decoder.operations([3, 7, 4]),
            decoder.operations([3, 14, 4]),
        );
        assert!(one > 0.0 && (two / one - 2.0).abs() < 1e-9);
        for bytes in [1, 1 << 20] {
            decoder.strip_bytes = bytes;
            let apart = (decoder.decode(&latents).unwrap() - &whole).unwrap();
            let most = apart.abs().unwrap().max_all().unwrap();
            assert!(most.to_scalar::<f32>().unwrap() < 1e-5, "{bytes}: {most}");
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
