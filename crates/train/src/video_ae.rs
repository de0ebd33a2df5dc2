//! Training of the video autoencoder.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::{Cancel, Frame, PixelSize, Progress};
use gallop_kernels::Precision;
use gallop_model::video_ae::{
    GROUP, VideoAe, VideoAeConfig, frames_to_groups, groups_to_patches, start_as_transform,
};
use gallop_model::{Vars, Weights};
use gallop_world::Split;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::data::{ClipOf, View, WorldRecipe, choose, cut};
use crate::error::Result;
use crate::export::export;
use crate::loss::{latent_noise, pixel_errors};
use crate::metrics::Metrics;
use crate::optimiser::Optimiser;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::rng::{Purpose, stream};
use crate::sheet::write_sheet;
use crate::stream::MakeBatch;
use crate::trainer::{Outcome, Run, StepLoss, Task, metrics, train};

/// Batches that the latents' mean and spread are measured on.
const STATISTICS_BATCHES: u64 = 24;
/// Where those batches are in the stream of data: beyond any training.
const STATISTICS_AT: u64 = 1 << 40;
/// Root mean square that latents start with, well within their bounds, and the least it is measured as.
const LATENT_SIZE: f32 = 0.8;
const LEAST_SIZE: f32 = 1e-3;
/// Frames of a clip that a sheet shows.
const SHOWN: usize = 6;
/// Greatest squared difference of pixels in [-1, 1].
const PEAK: f64 = 4.0;

/// Everything about a training of the video autoencoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoAeRecipe {
    /// Length, threads, intervals.
    pub run: RunRecipe,
    /// Learning rates.
    pub optimiser: OptimiserRecipe,
    /// Whether the encoder stays the cosine transform it starts as, so that latents do not change while
    /// the decoder learns.
    #[serde(default)]
    pub freeze_encoder: bool,
    /// Widths and depths.
    #[serde(default)]
    pub model: VideoAeConfig,
    /// The part of the world it learns from.
    pub world: WorldRecipe,
    /// Sizes and lengths.
    pub views: Vec<View>,
    /// What the pictures are judged by.
    pub loss: VideoLoss,
    /// What it is validated on.
    pub validation: View,
}

/// What the pictures are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoLoss {
    /// Weight of the mean absolute difference.
    pub absolute: f32,
    /// Weight of the mean squared difference.
    pub squared: f32,
    /// Highest standard deviation of the noise added to latents; each clip draws one below it.
    pub latent_noise: f64,
    /// Weight of the latents' mean square, which keeps them from their bounds.
    pub latent_size: f64,
}

/// Pictures as the network reads them: `[B, F, H8, W8, 4*8*8*3]`.
pub struct VideoBatch {
    groups: Tensor,
    index: u64,
}

/// The task of reconstructing clips.
struct VideoTask {
    recipe: Arc<VideoAeRecipe>,
    ae: VideoAe,
    held_out: Vec<Vec<Frame>>,
}

/// Trains the video autoencoder in `folder` and leaves `video_ae.safetensors` there.
///
/// # Errors
/// If the recipe cannot be followed, or files or tensors fail.
pub fn train_video_ae(
    recipe: &VideoAeRecipe,
    folder: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome> {
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(recipe.run.seed), &Device::Cpu);
    let ae = VideoAe::new(&recipe.model, &weights, Precision::Bf16)?;
    start_as_transform(&recipe.model, &vars)?;
    let mut task = VideoTask {
        recipe: Arc::new(recipe.clone()),
        ae,
        held_out: held_out(recipe)?,
    };
    task.calibrate(&vars)?;
    let frozen: &[&str] = match recipe.freeze_encoder {
        true => &["latents.", "encoder."],
        false => &["latents."],
    };
    let mut optimiser = Optimiser::new(&recipe.optimiser, &vars, frozen)?;
    progress.note(&format!("{} weights", optimiser.parameters()));
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe.run,
        optimiser: &recipe.optimiser,
        progress,
        cancel,
    };
    let outcome = train(&mut task, &mut optimiser, &run)?;
    optimiser.with_ema(|| task.export(&vars, &folder.join("video_ae.safetensors")))?;
    Ok(outcome)
}

fn held_out(recipe: &VideoAeRecipe) -> Result<Vec<Vec<Frame>>> {
    let view = &recipe.validation;
    (0..view.clips)
        .map(|i| {
            let mut rng = stream(recipe.run.seed, Purpose::Validation, i as u64);
            let what = ClipOf {
                seed: rng.random(),
                size: pixel_size(view.size),
                frames: view.frames,
                audio: false,
            };
            Ok(recipe.world.render(what, Split::Heldout)?.clip.frames)
        })
        .collect()
}

fn pixel_size([width, height]: [usize; 2]) -> PixelSize {
    PixelSize::new(width, height)
}

fn make_batch(recipe: &VideoAeRecipe, index: u64) -> Result<VideoBatch> {
    let mut rng = stream(recipe.run.seed, Purpose::Data, index);
    let weights: Vec<f64> = recipe.views.iter().map(|view| view.weight).collect();
    let view = &recipe.views[choose(&weights, &mut rng)?];
    let mut clips = Vec::with_capacity(view.clips * view.crops);
    for _ in 0..view.clips {
        let what = ClipOf {
            seed: rng.random(),
            size: pixel_size(view.size),
            frames: view.frames,
            audio: false,
        };
        let frames = recipe.world.render(what, Split::Train)?.clip.frames;
        for _ in 0..view.crops {
            let frames = match view.crop {
                Some(crop) => cut(&frames, pixel_size(crop), &mut rng),
                None => frames.clone(),
            };
            clips.push(frames_to_groups(&frames, true, &Device::Cpu)?);
        }
    }
    let groups = Tensor::cat(&clips, 0)?;
    Ok(VideoBatch { groups, index })
}

impl Task for VideoTask {
    type Batch = VideoBatch;

    fn make_batch(&self) -> MakeBatch<VideoBatch> {
        let recipe = self.recipe.clone();
        Arc::new(move |index| make_batch(&recipe, index))
    }

    fn loss(&mut self, batch: VideoBatch, _step: u64) -> Result<StepLoss> {
        let loss = self.recipe.loss;
        let latents = self.ae.encode_groups(&batch.groups, None)?;
        let latents = match self.recipe.freeze_encoder {
            true => latents.detach(),
            false => latents,
        };
        let noise = self.noise(&latents, batch.index)?;
        let predicted = self.ae.decode_groups(&(&latents + noise)?, None)?;
        let target = groups_to_patches(&batch.groups)?;
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        // The first group of a clip stands for one frame, which is its last.
        let frames = predicted.dim(0)? * predicted.dim(1)?;
        let per_clip = predicted.dim(1)?;
        let kept: Vec<bool> = (0..frames).map(|t| t % per_clip >= GROUP - 1).collect();
        let judged = [loss.absolute, loss.squared];
        let errors = pixel_errors(&flat(&predicted)?, &flat(&target)?, &kept, judged);
        let size = latents.sqr()?.mean_all()?;
        let spread = f64::from(size.to_scalar::<f32>()?).sqrt();
        Ok(StepLoss {
            metrics: metrics([
                ("loss", errors.graded.value),
                ("psnr", 10.0 * (PEAK / errors.mse).log10()),
                ("latent_rms", spread),
            ]),
            total: (errors.graded.attach(&predicted)? + (size * loss.latent_size)?)?,
        })
    }

    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics> {
        let mut sum = 0.0;
        let mut rows: Vec<[Vec<Frame>; 2]> = Vec::new();
        for frames in &self.held_out {
            let back = self.ae.decode(&self.ae.encode(frames)?, frames[0].size)?;
            sum += psnr(frames, &back);
            let pick = |frames: &[Frame]| -> Vec<Frame> {
                let every = frames.len().div_ceil(SHOWN).max(1);
                frames.iter().step_by(every).cloned().collect()
            };
            rows.push([pick(frames), pick(&back)]);
        }
        let rows: Vec<Vec<&Frame>> = (rows.iter().flatten())
            .map(|row| row.iter().collect())
            .collect();
        write_sheet(&folder.join(format!("sheet-{step:06}.png")), &rows)?;
        let count = self.held_out.len().max(1) as f64;
        Ok(metrics([("psnr", sum / count)]))
    }
}

impl VideoTask {
    fn noise(&self, latents: &Tensor, index: u64) -> Result<Tensor> {
        let mut rng = stream(self.recipe.run.seed, Purpose::Noise, index);
        latent_noise(latents, self.recipe.loss.latent_noise, &mut rng)
    }

    /// Latents of clips that no training sees, one tensor a batch.
    fn latents(&self) -> Result<Vec<Tensor>> {
        (0..STATISTICS_BATCHES)
            .map(|i| {
                let batch = make_batch(&self.recipe, STATISTICS_AT + i)?;
                Ok(self.ae.encode_groups(&batch.groups, None)?.detach())
            })
            .collect()
    }

    /// Before training: makes all channels of the latents equally large.
    fn calibrate(&self, vars: &Vars) -> Result<()> {
        let channels = self.recipe.model.latent_channels;
        let mut squares = vec![0f32; channels];
        let latents = self.latents()?;
        for batch in &latents {
            let mean = batch
                .reshape(((), channels))?
                .sqr()?
                .mean(0)?
                .to_vec1::<f32>()?;
            let share = 1.0 / latents.len() as f32;
            squares
                .iter_mut()
                .zip(mean)
                .for_each(|(sum, mean)| *sum += share * mean);
        }
        let sizes = squares
            .iter()
            .map(|s| s.sqrt().max(LEAST_SIZE) / LATENT_SIZE);
        let sizes = Tensor::from_iter(sizes, &Device::Cpu)?;
        let scaled = |name: &str, sizes: &Tensor, divide: bool| -> Result<()> {
            let Some(var) = vars.get(name) else {
                return Ok(());
            };
            Ok(var.set(&match divide {
                true => var.broadcast_div(sizes)?,
                false => var.broadcast_mul(sizes)?,
            })?)
        };
        scaled("encoder.head.weight", &sizes.unsqueeze(1)?, true)?;
        scaled("decoder.embed.weight", &sizes, false)
    }

    fn export(&self, vars: &Vars, path: &Path) -> Result<()> {
        export(vars, &self.latents()?, &self.recipe.model, path)
    }
}

/// Peak signal-to-noise ratio of a clip, in dB; at most 99.
pub fn psnr(one: &[Frame], other: &[Frame]) -> f64 {
    let pairs = one
        .iter()
        .zip(other)
        .flat_map(|(a, b)| a.rgb.iter().zip(&b.rgb));
    let (sum, count) = pairs.fold((0f64, 0f64), |(sum, count), (&a, &b)| {
        let d = f64::from(a) - f64::from(b);
        (sum + d * d, count + 1.0)
    });
    let mse = sum / count.max(1.0);
    (10.0 * (255.0 * 255.0 / mse).log10()).min(99.0)
}
