//! Training of the audio autoencoder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::{Audio, Cancel, PixelSize, Progress, SAMPLES_PER_FRAME};
use gallop_kernels::Precision;
use gallop_model::audio_ae::{
    AudioAe, AudioAeConfig, FEATURES, HOPS, analyse, synthesise_gradient, synthesise_middle_side,
};
use gallop_model::{Vars, Weights};
use gallop_world::Split;
use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::{ClipOf, WorldRecipe};
use crate::error::Result;
use crate::export::{export, start_from};
use crate::loss::Graded;
use crate::metrics::Metrics;
use crate::optimiser::Optimiser;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::rng::{Purpose, stream};
use crate::stft_loss::StftLoss;
use crate::stream::MakeBatch;
use crate::trainer::{Outcome, Run, StepLoss, Task, metrics, train};

/// Batches that the latents' mean and spread are measured on.
const STATISTICS_BATCHES: u64 = 24;
/// Where those batches are in the stream of data: beyond any training.
const STATISTICS_AT: u64 = 1 << 40;
/// The picture costs nothing when none is looked at.
const SMALLEST: PixelSize = PixelSize::new(16, 16);
/// Pairs of held-out sounds written as WAV files.
const HEARD: usize = 4;

/// Everything about a training of the audio autoencoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioAeRecipe {
    /// Length, threads, intervals.
    pub run: RunRecipe,
    /// Learning rates.
    pub optimiser: OptimiserRecipe,
    /// Whether the encoder stays as it is in the checkpoint, so that latents do not change while the
    /// decoder goes on learning.
    #[serde(default)]
    pub freeze_encoder: bool,
    /// Weights to begin with, of the same widths and depths; random if missing.
    pub start: Option<PathBuf>,
    /// Widths and depths.
    #[serde(default)]
    pub model: AudioAeConfig,
    /// The part of the world it learns from.
    pub world: WorldRecipe,
    /// Frames' worth of sound of a clip.
    pub frames: usize,
    /// Clips of a batch.
    pub clips: usize,
    /// Held-out clips it is validated on.
    pub held_out: usize,
    /// What the sound is judged by.
    pub loss: AudioLoss,
}

/// What the sound is judged by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioLoss {
    /// Windows of the short-time Fourier transforms, in samples.
    pub windows: Vec<usize>,
    /// Weight of the mean absolute difference of samples.
    pub wave: f32,
    /// Highest standard deviation of the noise added to latents; each clip draws one below it.
    pub latent_noise: f64,
    /// Weight of the latents' mean square, which keeps them from their bounds.
    pub latent_size: f64,
}

/// Sounds of one length.
pub struct AudioBatch {
    /// `[B, 8 A, FEATURES]`.
    spectra: Tensor,
    /// Middle and side of each clip.
    targets: Vec<[Vec<f32>; 2]>,
    index: u64,
}

struct AudioTask {
    recipe: Arc<AudioAeRecipe>,
    ae: AudioAe,
    stft: StftLoss,
    held_out: Vec<Audio>,
}

/// Trains the audio autoencoder in `folder` and leaves `audio_ae.safetensors` there.
///
/// # Errors
/// If the recipe cannot be followed, or files or tensors fail.
pub fn train_audio_ae(
    recipe: &AudioAeRecipe,
    folder: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Outcome> {
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(recipe.run.seed), &Device::Cpu);
    let held_out = (0..recipe.held_out)
        .map(|i| {
            let mut rng = stream(recipe.run.seed, Purpose::Validation, i as u64);
            sound(recipe, rng.random(), Split::Heldout)
        })
        .collect::<Result<_>>()?;
    let mut task = AudioTask {
        recipe: Arc::new(recipe.clone()),
        ae: AudioAe::new(&recipe.model, &weights, Precision::Bf16)?,
        stft: StftLoss::new(&recipe.loss.windows),
        held_out,
    };
    if let Some(path) = &recipe.start {
        start_from(&vars, path)?;
    }
    let mut optimiser = Optimiser::new(&recipe.optimiser, &vars, &["latents."])?;
    progress.note(&format!("{} weights", optimiser.parameters()));
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe.run,
        optimiser: &recipe.optimiser,
        progress,
        cancel,
    };
    let outcome = train(&mut task, &mut optimiser, &run)?;
    optimiser.with_ema(|| task.export(&vars, &folder.join("audio_ae.safetensors")))?;
    Ok(outcome)
}

fn sound(recipe: &AudioAeRecipe, seed: u64, split: Split) -> Result<Audio> {
    let what = ClipOf {
        seed,
        size: SMALLEST,
        frames: recipe.frames,
        audio: true,
    };
    let clip = recipe.world.render(what, split)?.clip;
    let samples = recipe.frames * SAMPLES_PER_FRAME;
    Ok(clip.audio.unwrap_or_else(|| Audio::silence(samples)))
}

fn middle_side(audio: &Audio) -> [Vec<f32>; 2] {
    [1.0, -1.0].map(|sign| {
        let pairs = audio.left.iter().zip(&audio.right);
        pairs.map(|(l, r)| 0.5 * (l + sign * r)).collect()
    })
}

fn make_batch(recipe: &AudioAeRecipe, index: u64) -> Result<AudioBatch> {
    let mut rng = stream(recipe.run.seed, Purpose::Data, index);
    let mut spectra = Vec::new();
    let mut targets = Vec::new();
    for _ in 0..recipe.clips {
        let audio = sound(recipe, rng.random(), Split::Train)?;
        spectra.extend(analyse(&audio, recipe.frames));
        targets.push(middle_side(&audio));
    }
    let shape = (recipe.clips, recipe.frames * HOPS, FEATURES);
    Ok(AudioBatch {
        spectra: Tensor::from_vec(spectra, shape, &Device::Cpu)?,
        targets,
        index,
    })
}

impl Task for AudioTask {
    type Batch = AudioBatch;

    fn make_batch(&self) -> MakeBatch<AudioBatch> {
        let recipe = self.recipe.clone();
        Arc::new(move |index| make_batch(&recipe, index))
    }

    fn loss(&mut self, batch: AudioBatch, _step: u64) -> Result<StepLoss> {
        let latents = self.ae.encode_spectra(&batch.spectra)?;
        let latents = match self.recipe.freeze_encoder {
            true => latents.detach(),
            false => latents,
        };
        let noise = self.noise(&latents, batch.index)?;
        let predicted = self.ae.decode_spectra(&(&latents + noise)?)?;
        let head = predicted.flatten_all()?.to_vec1::<f32>()?;
        let each = head.len() / batch.targets.len();
        let judged: Vec<Judged> = head
            .par_chunks(each)
            .zip(&batch.targets)
            .map(|(head, target)| self.judge(head, target))
            .collect();
        let clips = judged.len() as f64;
        let mean = |f: fn(&Judged) -> f64| judged.iter().map(f).sum::<f64>() / clips;
        let graded = Graded {
            value: mean(|j| j.graded.value),
            gradient: (judged.iter().flat_map(|j| &j.graded.gradient))
                .map(|g| g / clips as f32)
                .collect(),
        };
        let size = latents.sqr()?.mean_all()?;
        let spread = f64::from(size.to_scalar::<f32>()?).sqrt();
        Ok(StepLoss {
            metrics: metrics([
                ("loss", graded.value),
                ("log_distance", mean(|j| j.log_distance)),
                ("wave", mean(|j| j.wave)),
                ("latent_rms", spread),
            ]),
            total: (graded.attach(&predicted)? + (size * self.recipe.loss.latent_size)?)?,
        })
    }

    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics> {
        let mut sums = [0.0; 2];
        for (i, audio) in self.held_out.iter().enumerate() {
            let back = self.ae.decode(&self.ae.encode(audio)?)?;
            let (target, heard) = (middle_side(audio), middle_side(&back));
            for (target, heard) in target.iter().zip(&heard) {
                let errors = self.stft.compare(heard, target, false);
                sums[0] += 0.5 * errors.value;
                sums[1] += 0.5 * errors.log_distance;
            }
            if i < HEARD {
                let name = |what: &str| folder.join(format!("{what}-{i}-{step:06}.wav"));
                gallop_media::write_audio(&name("decoded"), &back)?;
                gallop_media::write_audio(&folder.join(format!("original-{i}.wav")), audio)?;
            }
        }
        let [stft, log] = sums.map(|sum| sum / self.held_out.len().max(1) as f64);
        Ok(metrics([("loss", stft), ("log_distance", log)]))
    }
}

/// One clip's errors.
struct Judged {
    graded: Graded,
    log_distance: f64,
    wave: f64,
}

impl AudioTask {
    fn judge(&self, head: &[f32], target: &[Vec<f32>; 2]) -> Judged {
        let predicted = synthesise_middle_side(head);
        let mut judged = Judged {
            graded: Graded {
                value: 0.0,
                gradient: Vec::new(),
            },
            log_distance: 0.0,
            wave: 0.0,
        };
        let mut gradients: [Vec<f32>; 2] = Default::default();
        for ((predicted, target), gradient) in predicted.iter().zip(target).zip(&mut gradients) {
            let errors = self.stft.compare(predicted, target, true);
            let count = predicted.len() as f32;
            let slope = 0.5 * self.recipe.loss.wave / count;
            let differences = || predicted.iter().zip(target).map(|(p, t)| p - t);
            let wave = differences().map(|d| f64::from(d.abs())).sum::<f64>() / f64::from(count);
            *gradient = (errors.gradient.iter().zip(differences()))
                .map(|(g, d)| 0.5 * g + slope * d.signum())
                .collect();
            judged.graded.value += 0.5 * (errors.value + f64::from(self.recipe.loss.wave) * wave);
            judged.log_distance += 0.5 * errors.log_distance;
            judged.wave += 0.5 * wave;
        }
        judged.graded.gradient = synthesise_gradient(head, [&gradients[0], &gradients[1]]);
        judged
    }

    fn noise(&self, latents: &Tensor, index: u64) -> Result<Tensor> {
        let mut rng = stream(self.recipe.run.seed, Purpose::Noise, index);
        crate::loss::latent_noise(latents, self.recipe.loss.latent_noise, &mut rng)
    }

    fn export(&self, vars: &Vars, path: &Path) -> Result<()> {
        let latents = (0..STATISTICS_BATCHES).map(|i| {
            let batch = make_batch(&self.recipe, STATISTICS_AT + i)?;
            Ok(self.ae.encode_spectra(&batch.spectra)?)
        });
        let latents = latents.collect::<Result<Vec<_>>>()?;
        export(vars, &latents, &self.recipe.model, path)
    }
}
