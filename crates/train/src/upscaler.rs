//! Training of the upscaler: clips of the world through the autoencoder, and the same clips rendered larger.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::{Cancel, Frame, PixelSize, Progress};
use gallop_kernels::Precision;
use gallop_media::fit_image;
use gallop_model::upscaler::{PATCH, Upscaler, UpscalerConfig, Upscaling};
use gallop_model::video_ae::{VideoAe, frames_to_patches};
use gallop_model::{Vars, Weights};
use gallop_world::Split;
use rand::RngExt;
use rand_pcg::Pcg64;
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};

use crate::data::{View, WorldRecipe, choose_by, pixel_size};
use crate::error::Result;
use crate::export::{export, open, start_from};
use crate::loss::{clip_loss, latent_noise};
use crate::metrics::Metrics;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::rng::{Purpose, stream};
use crate::sheet::write_sheet;
use crate::stream::MakeBatch;
use crate::trainer::{Outcome, Run, StepLoss, Task, metrics, pool, train_vars};
use crate::video_ae::psnr;

/// Frames of a clip that a sheet shows.
const SHOWN: usize = 3;

/// Everything about a training of the upscaler.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpscalerRecipe {
    /// Folder with `video_ae.safetensors`, through which small clips go.
    pub autoencoders: PathBuf,
    /// Length, threads, intervals.
    pub run: RunRecipe,
    /// Learning rates.
    pub optimiser: OptimiserRecipe,
    /// Weights to begin with, of the same width and depth.
    pub start: Option<PathBuf>,
    /// How much larger, how wide and deep.
    #[serde(default)]
    pub model: UpscalerConfig,
    /// The part of the world it learns from.
    pub world: WorldRecipe,
    /// Sizes before enlarging, and lengths.
    pub views: Vec<View>,
    /// What the pictures are judged by.
    pub loss: UpscalerLoss,
    /// What it is validated on.
    pub validation: View,
}

/// What the pictures are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpscalerLoss {
    /// Weight of the mean absolute difference.
    pub absolute: f32,
    /// Weight of the mean squared difference.
    pub squared: f32,
    /// Weight of what the error changes from one frame to the next; 0 does not look.
    #[serde(default)]
    pub change: f64,
    /// Highest standard deviation of the noise added to latents before they are decoded; each clip draws one below it.
    pub latent_noise: f64,
}

/// Patches as the network reads them, and as it should write them.
pub struct UpscalerBatch {
    small: Tensor,
    large: Tensor,
}

struct UpscalerTask {
    source: Arc<Source>,
    upscaler: Upscaler,
    /// Small, through the autoencoder, and large.
    held_out: Vec<[Vec<Frame>; 2]>,
    device: Device,
}

/// Where batches come from.
struct Source {
    recipe: UpscalerRecipe,
    video_ae: VideoAe,
    pool: ThreadPool,
}

/// Trains the upscaler in `folder` and leaves `upscaler.safetensors` there.
///
/// # Errors
/// If the recipe cannot be followed, or files or tensors fail.
pub fn train_upscaler(
    recipe: &UpscalerRecipe,
    folder: &Path,
    device: &Device,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Outcome> {
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(recipe.run.seed), device);
    let upscaler = Upscaler::new(&recipe.model, &weights, Precision::Bf16)?;
    if let Some(path) = &recipe.start {
        start_from(&vars, path, &[])?;
    }
    let source = Source::new(recipe)?;
    let held_out = source.held_out()?;
    let mut task = UpscalerTask {
        source: Arc::new(source),
        upscaler,
        held_out,
        device: device.clone(),
    };
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe.run,
        optimiser: &recipe.optimiser,
        progress,
        cancel,
    };
    let file = folder.join("upscaler.safetensors");
    train_vars(&mut task, (&vars, &[]), &run, |_| {
        export(&vars, &recipe.model, &file)
    })
}

impl Source {
    fn new(recipe: &UpscalerRecipe) -> Result<Self> {
        let path = recipe.autoencoders.join("video_ae.safetensors");
        let (config, weights) = open(&path, &Device::Cpu)?;
        Ok(Self {
            recipe: recipe.clone(),
            video_ae: VideoAe::new(&config, &weights, Precision::Bf16)?,
            pool: pool("threads", 1)?,
        })
    }

    /// A clip of a view: small and through the autoencoder, and large.
    fn pair(&self, view: &View, split: Split, rng: &mut Pcg64) -> Result<[Vec<Frame>; 2]> {
        let small = pixel_size(view.size);
        let factor = self.recipe.model.factor;
        let large = PixelSize::new(small.width * factor, small.height * factor);
        let seed = rng.random();
        let render = |size| view.render(&self.recipe.world, (seed, size), split);
        let target = render(large)?;
        // Drawn small, or the large picture made small: people give pictures of either kind.
        let frames = match rng.random_bool(0.5) {
            true => render(small)?,
            false => target.iter().map(|f| fit_image(f, small)).collect(),
        };
        let noise = self.recipe.loss.latent_noise;
        let coded = self.pool.install(|| -> Result<_> {
            let latents = self.video_ae.encode(&frames)?.detach();
            let noise = latent_noise(&latents.unsqueeze(0)?, noise, rng)?.squeeze(0)?;
            Ok(self.video_ae.decode(&(latents + noise)?, small)?)
        })?;
        Ok([coded, target])
    }

    fn held_out(&self) -> Result<Vec<[Vec<Frame>; 2]>> {
        let view = &self.recipe.validation;
        (0..view.clips)
            .map(|i| {
                let seed = self.recipe.run.seed;
                let mut rng = stream(seed, Purpose::Validation, i as u64);
                self.pair(view, Split::Heldout, &mut rng)
            })
            .collect()
    }

    fn batch(&self, index: u64) -> Result<UpscalerBatch> {
        let recipe = &self.recipe;
        let mut rng = stream(recipe.run.seed, Purpose::Data, index);
        let view = choose_by(&recipe.views, |view| view.weight, &mut rng)?;
        let (mut small, mut large) = (Vec::new(), Vec::new());
        let side = PATCH * recipe.model.factor;
        for _ in 0..view.clips {
            let [coded, target] = self.pair(view, Split::Train, &mut rng)?;
            let coded = frames_to_patches(&coded, PATCH, &Device::Cpu)?;
            let target = frames_to_patches(&target, side, &Device::Cpu)?;
            let (_, height, width, _) = coded.dims4()?;
            for _ in 0..view.crops {
                let [w, h] = view.crop.unwrap_or(view.size).map(|side| side / PATCH);
                let (w, h) = (w.clamp(1, width), h.clamp(1, height));
                let [x, y] = [width - w, height - h].map(|most| rng.random_range(0..=most));
                let cut = |x0: &Tensor| x0.narrow(1, y, h)?.narrow(2, x, w)?.contiguous();
                small.push(cut(&coded)?);
                large.push(cut(&target)?);
            }
        }
        Ok(UpscalerBatch {
            small: Tensor::stack(&small, 0)?,
            large: Tensor::stack(&large, 0)?,
        })
    }
}

impl Task for UpscalerTask {
    type Batch = UpscalerBatch;

    fn make_batch(&self) -> MakeBatch<UpscalerBatch> {
        let source = self.source.clone();
        Arc::new(move |index| source.batch(index))
    }

    fn loss(&mut self, batch: UpscalerBatch, _step: u64) -> Result<StepLoss> {
        let loss = self.source.recipe.loss;
        let target = batch.large.to_device(&self.device)?;
        let small = batch.small.to_device(&self.device)?;
        let predicted = self.upscaler.forward(&small, None)?;
        let weights = ([loss.absolute, loss.squared], loss.change);
        let errors = clip_loss(&predicted, &target, 0, weights)?;
        Ok(StepLoss {
            metrics: metrics([("loss", errors.value), ("psnr", errors.psnr())]),
            total: errors.total,
            operations: 0.0,
        })
    }

    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics> {
        let (mut plain, mut sum) = (0.0, 0.0);
        let mut rows: Vec<Vec<Frame>> = Vec::new();
        for [small, large] in &self.held_out {
            let size = large[0].size;
            let filtered: Vec<Frame> = small.iter().map(|f| fit_image(f, size)).collect();
            let made = Upscaling::new(&self.upscaler).push(small)?;
            plain += psnr(large, &filtered);
            sum += psnr(large, &made);
            for frames in [&filtered, &made, large] {
                let every = frames.len().div_ceil(SHOWN);
                rows.push(frames.iter().step_by(every).cloned().collect());
            }
        }
        let rows: Vec<Vec<&Frame>> = rows.iter().map(|row| row.iter().collect()).collect();
        write_sheet(&folder.join(format!("sheet-{step:06}.png")), &rows)?;
        let count = self.held_out.len().max(1) as f64;
        Ok(metrics([
            ("psnr", sum / count),
            // The same small pictures by a filter.
            ("psnr_filter", plain / count),
        ]))
    }
}
