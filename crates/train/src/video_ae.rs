//! Training of the video autoencoder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::{Cancel, Frame, Progress};
use gallop_kernels::Precision;
use gallop_model::video_ae::{
    GROUP, VideoAe, VideoAeConfig, clips_to_groups, groups_to_patches, start_as_transform,
};
use gallop_model::{Vars, WeightFiles, Weights};
use gallop_world::Split;
use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::align::Alignment;
use crate::data::{Moving, View, WorldRecipe, choose_by, cut, moves, pixel_size};
use crate::error::{Result, TrainError};
use crate::export::{export_with, measure, open, start_from};
use crate::loss::{clip_loss, latent_noise, moving_weights};
use crate::metrics::Metrics;
use crate::photos::Photos;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::rng::{Purpose, stream};
use crate::sheet::write_sheet;
use crate::stream::MakeBatch;
use crate::trainer::{Outcome, Run, StepLoss, Task, metrics, train_vars};

/// Batches that the latents' mean and spread are measured on.
const STATISTICS_BATCHES: u64 = 24;
/// Where those batches are in the stream of data: beyond any training.
const STATISTICS_AT: u64 = 1 << 40;
/// How latents are turned, and turned back, in a file of weights.
const MIX: &str = "latents.mix";
const UNMIX: &str = "latents.unmix";
/// Root mean square that latents start with, well within their bounds, and the least it is measured as.
const LATENT_SIZE: f32 = 0.8;
const LEAST_SIZE: f32 = 1e-3;
/// Frames of a clip that a sheet shows.
const SHOWN: usize = 6;

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
    /// Weights to begin with, of the same widths and depths; the cosine transform if missing.
    pub start: Option<PathBuf>,
    /// Weights whose latents these are turned towards when they are written, so that a transformer that learned those has the
    /// less to learn; without it axes are as they come, and what `start` may say of them is forgotten unless its encoder is
    /// frozen.
    pub align: Option<PathBuf>,
    /// Widths and depths.
    #[serde(default)]
    pub model: VideoAeConfig,
    /// The part of the world it learns from.
    pub world: WorldRecipe,
    /// Folders of photographs, for the views that show them.
    pub photos: Option<PhotoFolders>,
    /// Sizes and lengths.
    pub views: Vec<View>,
    /// What the pictures are judged by.
    pub loss: VideoLoss,
    /// What it is validated on.
    pub validation: View,
}

/// Where photographs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhotoFolders {
    /// Those it learns from.
    pub train: PathBuf,
    /// Those it is validated on.
    pub held_out: PathBuf,
}

/// What the pictures are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoLoss {
    /// Weight of the mean absolute difference.
    pub absolute: f32,
    /// Weight of the mean squared difference.
    pub squared: f32,
    /// Weight of what the error changes from one frame to the next; 0 does not look.
    #[serde(default)]
    pub change: f64,
    /// How much more pixels count that change from frame to frame, 0 for not at all: see `moving_weights`. A ball is a
    /// hundredth of a picture, and most of what is looked at. A step's own `loss` and `psnr` count them so too.
    #[serde(default)]
    pub moving: f64,
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
    source: Arc<Source>,
    ae: VideoAe,
    held_out: Vec<Vec<Frame>>,
    held_out_photos: Vec<Vec<Frame>>,
    device: Device,
}

/// Where batches come from.
struct Source {
    recipe: VideoAeRecipe,
    photos: Option<Photos>,
}

/// Trains the video autoencoder in `folder` and leaves `video_ae.safetensors` there.
///
/// # Errors
/// If the recipe cannot be followed, or files or tensors fail.
pub fn train_video_ae(
    recipe: &VideoAeRecipe,
    folder: &Path,
    device: &Device,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Outcome> {
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(recipe.run.seed), device);
    let ae = VideoAe::new(&recipe.model, &weights, Precision::Bf16)?;
    let photos = recipe.photos.as_ref();
    let mut task = VideoTask {
        source: Arc::new(Source {
            recipe: recipe.clone(),
            photos: photos.map(|p| Photos::read(&p.train)).transpose()?,
        }),
        ae,
        held_out: held_out(recipe)?,
        held_out_photos: match photos {
            Some(photos) => held_out_photos(recipe, &Photos::read(&photos.held_out)?),
            None => Vec::new(),
        },
        device: device.clone(),
    };
    match &recipe.start {
        Some(path) => start_from(&vars, path, &[])?,
        None => {
            start_as_transform(&recipe.model, &vars)?;
            task.calibrate(&vars)?;
        }
    }
    let frozen: &[&str] = match recipe.freeze_encoder {
        true => &["latents.", "encoder."],
        false => &["latents."],
    };
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe.run,
        optimiser: &recipe.optimiser,
        progress,
        cancel,
    };
    let file = folder.join("video_ae.safetensors");
    train_vars(&mut task, (&vars, frozen), &run, |task| {
        task.export(&vars, &file)
    })
}

fn held_out(recipe: &VideoAeRecipe) -> Result<Vec<Vec<Frame>>> {
    let view = &recipe.validation;
    (0..view.clips)
        .map(|i| {
            let mut rng = stream(recipe.run.seed, Purpose::Validation, i as u64);
            let clip = (rng.random(), pixel_size(view.size));
            view.render(&recipe.world, clip, Split::Heldout)
        })
        .collect()
}

/// One clip of each photograph.
fn held_out_photos(recipe: &VideoAeRecipe, photos: &Photos) -> Vec<Vec<Frame>> {
    let view = &recipe.validation;
    (0..photos.len())
        .map(|i| {
            let mut rng = stream(recipe.run.seed, Purpose::Validation, i as u64);
            photos.clip_of(i, pixel_size(view.size), view.frames, &mut rng)
        })
        .collect()
}

fn make_batch(source: &Source, index: u64) -> Result<VideoBatch> {
    let recipe = &source.recipe;
    let mut rng = stream(recipe.run.seed, Purpose::Data, index);
    let view = choose_by(&recipe.views, |view| view.weight, &mut rng)?;
    let mut clips = Vec::with_capacity(view.clips * view.crops);
    for _ in 0..view.clips {
        let frames = source.frames(view, &mut rng)?;
        let moving = view.crop_moving.then(|| Moving::of(&frames));
        for _ in 0..view.crops {
            let frames = match (view.crop.map(pixel_size), &moving) {
                (Some(crop), Some(moving)) => moving.cut(crop, &mut rng)?,
                (Some(crop), None) => cut(&frames, crop, &mut rng),
                (None, _) => frames.clone(),
            };
            clips.push(frames);
        }
    }
    let clips: Vec<&[Frame]> = clips.iter().map(Vec::as_slice).collect();
    let groups = clips_to_groups(&clips, true, &Device::Cpu)?;
    Ok(VideoBatch { groups, index })
}

impl Source {
    /// A clip of a view.
    fn frames(&self, view: &View, rng: &mut Pcg64) -> Result<Vec<Frame>> {
        let size = pixel_size(view.size);
        if view.photos {
            let photos = self.photos.as_ref();
            let missing = "a view shows photographs, but the recipe names no folders in [photos]";
            let photos = photos.ok_or_else(|| TrainError::Setting(missing.into()))?;
            return Ok(photos.clip(size, view.frames, rng));
        }
        view.render(&self.recipe.world, (rng.random(), size), Split::Train)
    }
}

impl Task for VideoTask {
    type Batch = VideoBatch;

    fn make_batch(&self) -> MakeBatch<VideoBatch> {
        let source = self.source.clone();
        Arc::new(move |index| make_batch(&source, index))
    }

    fn loss(&mut self, batch: VideoBatch, _step: u64) -> Result<StepLoss> {
        let loss = self.source.recipe.loss;
        let groups = batch.groups.to_device(&self.device)?;
        let latents = self.ae.encode_groups(&groups, None)?;
        let latents = match self.source.recipe.freeze_encoder {
            true => latents.detach(),
            false => latents,
        };
        let noise = self.noise(&latents, batch.index)?;
        let predicted = self.ae.decode_groups(&(&latents + noise)?, None)?;
        let target = groups_to_patches(&groups)?;
        // The first group of a clip stands for one frame, which is its last.
        let weights = ([loss.absolute, loss.squared], loss.change);
        let (predicted, target) = match loss.moving > 0.0 {
            true => {
                let counts = moving_weights(&target, loss.moving)?;
                ((predicted * &counts)?, (target * counts)?)
            }
            false => (predicted, target),
        };
        let errors = clip_loss(&predicted, &target, GROUP - 1, weights)?;
        let size = latents.sqr()?.mean_all()?;
        let spread = f64::from(size.to_scalar::<f32>()?).sqrt();
        Ok(StepLoss {
            metrics: metrics([
                ("loss", errors.value),
                ("psnr", errors.psnr()),
                ("latent_rms", spread),
            ]),
            total: (errors.total + (size * loss.latent_size)?)?,
            operations: 0.0,
        })
    }

    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics> {
        let mut found = Metrics::new();
        let mut rows: Vec<[Vec<Frame>; 2]> = Vec::new();
        for (name, clips) in [
            ("psnr", &self.held_out),
            ("psnr_photos", &self.held_out_photos),
        ] {
            if clips.is_empty() {
                continue;
            }
            let mut sum = 0.0;
            let mut moving = (0.0, 0.0);
            for frames in clips {
                let back = self.ae.decode(&self.ae.encode(frames)?, frames[0].size)?;
                sum += psnr(frames, &back);
                let (error, count) = moving_errors(frames, &back);
                moving = (moving.0 + error, moving.1 + count);
                let pick = |frames: &[Frame]| -> Vec<Frame> {
                    let every = frames.len().div_ceil(SHOWN).max(1);
                    frames.iter().step_by(every).cloned().collect()
                };
                rows.push([pick(frames), pick(&back)]);
            }
            found.extend(metrics([(name, sum / clips.len() as f64)]));
            if moving.1 > 0.0 {
                let name = format!("{name}_moving");
                found.extend(metrics([(name.as_str(), decibels(moving.0 / moving.1))]));
            }
        }
        let rows: Vec<Vec<&Frame>> = (rows.iter().flatten())
            .map(|row| row.iter().collect())
            .collect();
        write_sheet(&folder.join(format!("sheet-{step:06}.png")), &rows)?;
        Ok(found)
    }
}

impl VideoTask {
    fn noise(&self, latents: &Tensor, index: u64) -> Result<Tensor> {
        let mut rng = stream(self.source.recipe.run.seed, Purpose::Noise, index);
        latent_noise(latents, self.source.recipe.loss.latent_noise, &mut rng)
    }

    /// Clips that no training sees, a batch at a time.
    fn groups(&self) -> impl Iterator<Item = Result<Tensor>> {
        (0..STATISTICS_BATCHES).map(|i| {
            let batch = make_batch(&self.source, STATISTICS_AT + i)?;
            Ok(batch.groups.to_device(&self.device)?)
        })
    }

    /// Their latents, one tensor a batch.
    fn latents(&self) -> Result<Vec<Tensor>> {
        self.groups()
            .map(|groups| Ok(self.ae.encode_groups(&groups?, None)?.detach()))
            .collect()
    }

    /// Before training: makes all channels of the latents equally large.
    fn calibrate(&self, vars: &Vars) -> Result<()> {
        let channels = self.source.recipe.model.latent_channels;
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
        let sizes = Tensor::from_iter(sizes, &self.device)?;
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
        let recipe = &self.source.recipe;
        let beside = match (&recipe.align, &recipe.start) {
            (Some(other), _) => self.align(vars, other)?,
            (None, Some(start)) if recipe.freeze_encoder => mixing(start, &self.device)?,
            _ => {
                measure(vars, &self.latents()?)?;
                Vec::new()
            }
        };
        export_with(vars, beside, &recipe.model, path)
    }

    /// Turns latents towards those of other weights; what does that.
    fn align(&self, vars: &Vars, other: &Path) -> Result<Vec<(String, Tensor)>> {
        let (config, weights) = open::<VideoAeConfig>(other, &self.device)?;
        let other = VideoAe::new(&config, &weights, Precision::Bf16)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for groups in self.groups() {
            let groups = groups?;
            ours.push(self.ae.encode_groups(&groups, None)?.detach());
            theirs.push(other.normalise(&other.encode_groups(&groups, None)?)?);
        }
        let alignment = Alignment::between(&ours, &theirs)?;
        tracing::info!(
            "latents are {:.0}% of the variance apart from those of `align`",
            100.0 * alignment.apart
        );
        let [mean, mix, unmix] = alignment.tensors(&self.device)?;
        let ones = mean.ones_like()?;
        for (name, value) in [("latents.mean", mean), ("latents.std", ones)] {
            if let Some(var) = vars.get(name) {
                var.set(&value)?;
            }
        }
        Ok(vec![(MIX.into(), mix), (UNMIX.into(), unmix)])
    }
}

/// How weights turn their latents, if they do.
fn mixing(path: &Path, device: &Device) -> Result<Vec<(String, Tensor)>> {
    let files = WeightFiles::open(path)?;
    let found = [MIX, UNMIX].into_iter().filter(|name| files.contains(name));
    found
        .map(|name| Ok((name.to_string(), files.load(name, device)?)))
        .collect()
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
    decibels(sum / count.max(1.0))
}

fn decibels(mse: f64) -> f64 {
    (10.0 * (255.0 * 255.0 / mse).log10()).min(99.0)
}

/// Sum of the squared errors of values that are not what they were in the frame before, and how many there are.
fn moving_errors(one: &[Frame], other: &[Frame]) -> (f64, f64) {
    let frames = one.windows(2).zip(&other[1..]);
    let values = frames.flat_map(|(a, b)| {
        let both = a[0].rgb.iter().zip(&a[1].rgb).zip(&b.rgb);
        both.filter(|((before, now), _)| moves(**before, **now))
            .map(|((_, now), made)| f64::from(*now) - f64::from(*made))
    });
    values.fold((0.0, 0.0), |(sum, count), d| (sum + d * d, count + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_shows_its_own_part_of_the_world() -> Result<()> {
        let text = include_str!("../../../recipes/tiny-video-ae.toml");
        let own = "crops = 2\n[views.world]\nfamilies = [\"face\"]\n";
        let source = |text: &str| Source {
            recipe: toml::from_str(text).expect("a recipe"),
            photos: None,
        };
        let frames = |source: &Source, seed| {
            let mut rng = stream(seed, Purpose::Data, 0);
            source.frames(&source.recipe.views[0], &mut rng)
        };
        let (of_all, of_one) = (source(text), source(&text.replace("crops = 2\n", own)));
        let faces = source(&text.replace("[\"ball\"]", "[\"face\"]"));
        for seed in 0..3 {
            let seen = frames(&of_one, seed)?;
            assert!(seen != frames(&of_all, seed)?);
            assert!(seen == frames(&faces, seed)?);
        }
        Ok(())
    }
}
