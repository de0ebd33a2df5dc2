//! Training of the transformer: flow matching on video and audio, next token on text.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use gallop_core::{Cancel, Progress};
use gallop_diffusion::{Levels, SigmaDistribution, flow_matching, next_token, shifted};
use gallop_kernels::Precision;
use gallop_model::audio_ae::AudioAe;
use gallop_model::dit::{AttentionKind, Batch, Dit, DitConfig, Outputs, Text, VIDEO_SHIFTS, Work};
use gallop_model::tokens::Modality;
use gallop_model::video_ae::VideoAe;
use gallop_model::{TextTokenizer, Vars, Weights, save_weights};
use gallop_world::{Split, WorldRng, captions};
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::data::WorldRecipe;
use crate::dit_data::{DitBatch, DitView, EncodedClip, Source};
use crate::dit_sample::sample_sheet;
use crate::error::{Result, TrainError};
use crate::export::{open, small, start_from};
use crate::importance::{channel_shifts, importance};
use crate::metrics::Metrics;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::rng::{Purpose, stream};
use crate::stream::MakeBatch;
use crate::teacher::{Teacher, TeacherRecipe};
use crate::throughput::FORWARD_AND_BACK;
use crate::trainer::{Outcome, Run, StepLoss, Task, metrics, pool, train_vars};

/// Clips whose captions the tokenizer learns from.
const TOKENIZER_CLIPS: u64 = 3000;
/// Noise levels that validation looks at, one a clip in turn.
const LEVELS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];
/// Parts of (0, 1) that losses are logged for.
const BUCKETS: usize = 4;
/// Clips that the importance of channels is measured on.
const WEIGHED: usize = 3;
/// Prompts that a sheet shows.
const SHOWN: usize = 6;

/// Everything about a training of the transformer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitRecipe {
    /// Folder of `video_ae.safetensors` and `audio_ae.safetensors`.
    pub autoencoders: PathBuf,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Languages of captions, and how often each is chosen.
    pub languages: BTreeMap<String, f64>,
    /// How often the caption is left out, for guidance.
    pub caption_dropout: f64,
    /// How often a caption has words in it that mean nothing, so that words which it does not know tell the network nothing.
    #[serde(default)]
    pub strange_words: f64,
    /// How often the first latent frame is given.
    pub first_frame: f64,
    /// How often the whole clip is given, and its caption is what is learned.
    pub describe: f64,
    /// Weight of the audio loss; that of video is 1.
    pub audio_weight: f64,
    /// Weight of the next-token loss.
    pub text_weight: f64,
    /// How much more the channels of a video latent count that make more of the picture: 0 for all
    /// alike, 1 in proportion to the pixels' mean squared change.
    #[serde(default)]
    pub importance: f64,
    /// How much earlier those channels of a video latent come out of the noise that make more of the picture: 0 for all at
    /// once, 1 as if each were as large as the change of the pixels that it makes. Latents that are all alike hide what is
    /// coarse as long as what is fine, and a picture's parts are then made without regard to each other.
    #[serde(default)]
    pub spectrum: f64,
    /// Shift of the sound's noise level against the picture's, as in sampling: above 1 the picture is
    /// ahead.
    #[serde(default = "crate::data::one")]
    pub audio_shift: f64,
    /// The share of clips whose picture is nearly clear, and whose sound has a noise level of its own: when a sound
    /// comes is learned where the picture says it.
    #[serde(default)]
    pub apart: f64,
    /// How much more tokens of the picture count that move, 0 for not at all: see `motion.rs`.
    #[serde(default)]
    pub motion: f64,
    /// The most that each latent frame is ahead of the next in log-SNR: a clip has any lead from none to this. What a
    /// thing does next is learned where the picture says what it did.
    #[serde(default)]
    pub lead: f64,
    /// How often a clip is used.
    pub reuse: f64,
    /// Clips that a batch draws from.
    pub window: u64,
    /// Who says what velocities clips have, if not they themselves.
    #[serde(default)]
    pub teacher: Option<TeacherRecipe>,
    /// Weights to begin with, of the same size, their `tokenizer.json` beside them; random if missing.
    pub start: Option<PathBuf>,
    /// Length, threads, intervals.
    pub run: RunRecipe,
    /// Learning rates.
    pub optimiser: OptimiserRecipe,
    /// Width and depth.
    pub model: DitSize,
    /// Noise levels.
    pub sigma: SigmaDistribution,
    /// The part of the world it learns from.
    pub world: WorldRecipe,
    /// What it sees when.
    pub stages: Vec<Stage>,
    /// What it is validated on.
    pub validation: DitView,
}

/// The size of a transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DitSize {
    /// D.
    pub width: usize,
    /// Layers.
    pub depth: usize,
    /// Layers at each end with weights of their own a modality.
    pub outer: usize,
    /// Numbers a head, which divide the width; 32, or 64 from a width of 256 on, where nothing is said. With a multiple of
    /// eight heads every product of a GPU has sizes that it is fast at.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Layers, counted from 0, in which sound sees of the picture only what it is heard with.
    #[serde(default)]
    pub in_step: Vec<usize>,
    /// The base of the rotary bands; that of the public weights where nothing is said.
    #[serde(default)]
    pub rope_theta: Option<u32>,
}

impl DitSize {
    fn config(&self, vocabulary: usize) -> Result<DitConfig> {
        let mut config = DitConfig::small(self.width, self.depth, self.outer, vocabulary);
        if let Some(head_dim) = self.head_dim {
            if head_dim == 0 || !self.width.is_multiple_of(head_dim) {
                let what = format!(
                    "head_dim {head_dim} does not divide the width {}",
                    self.width
                );
                return Err(TrainError::Setting(what));
            }
            config = config.with_heads_of(head_dim);
        }
        config.rope_theta = self.rope_theta.unwrap_or(config.rope_theta);
        for &i in &self.in_step {
            let what = || TrainError::Setting(format!("in_step: no layer {i} of {}", self.depth));
            config.layers.get_mut(i).ok_or_else(what)?.attention = AttentionKind::InStep;
        }
        Ok(config)
    }
}

/// A part of the curriculum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The share of the steps after which the next stage begins.
    pub until: f64,
    /// What is seen.
    pub views: Vec<DitView>,
}

struct DitTask {
    source: Arc<Source>,
    dit: Dit,
    held_out: Vec<EncodedClip>,
    /// Square roots of the weights of a video latent's channels, `[C]`.
    importance: Tensor,
    teacher: Option<Teacher>,
}

/// Trains the transformer in `folder` and leaves `dit.safetensors` and `tokenizer.json` there.
///
/// # Errors
/// If the recipe cannot be followed, or files or tensors fail.
pub fn train_dit(
    recipe: &DitRecipe,
    folder: &Path,
    device: &Device,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Outcome> {
    std::fs::create_dir_all(folder).map_err(TrainError::file(folder))?;
    let texts = texts(recipe)?;
    let tokenizer = match &recipe.start {
        Some(weights) => {
            let mut tokenizer = TextTokenizer::load(&weights.with_file_name("tokenizer.json"))?;
            tokenizer.learn_characters(&texts)?;
            tokenizer
        }
        None => TextTokenizer::train(&texts, recipe.vocabulary)?,
    };
    let path = folder.join("tokenizer.json");
    std::fs::write(&path, tokenizer.to_json()?).map_err(TrainError::file(&path))?;
    let config = recipe.model.config(tokenizer.vocabulary())?;
    let mut source = source(recipe, config.clone(), (tokenizer, device))?;
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(recipe.run.seed), device);
    let held_out = held_out(&source)?;
    let clips = (held_out.iter().take(WEIGHED)).map(|clip| clip.video.to_device(device));
    let clips = clips.collect::<candle_core::Result<Vec<_>>>()?;
    let clips: Vec<&Tensor> = clips.iter().collect();
    let mut rng = stream(recipe.run.seed, Purpose::Validation, u64::MAX - 1);
    let importance = importance(&source.video_ae, &clips, recipe.importance, &mut rng)?;
    let teacher = (recipe.teacher.as_ref())
        .map(|teacher| Teacher::new(teacher, &config, device))
        .transpose()?;
    source.levels.video = match &teacher {
        Some(teacher) => teacher.shifts.clone(),
        None => channel_shifts(&source.video_ae, &clips, recipe.spectrum, &mut rng)?,
    };
    let mut about = BTreeMap::from([("config".to_string(), to_json(&config))]);
    if !source.levels.video.is_empty() {
        about.insert(VIDEO_SHIFTS.to_string(), to_json(&source.levels.video));
    }
    let mut task = DitTask {
        dit: Dit::new(&config, &weights)?,
        held_out,
        source: Arc::new(source),
        importance: importance.sqrt()?,
        teacher,
    };
    if let Some(path) = &recipe.start {
        start_from(&vars, path, &["adapter.audio_phase.weight"])?;
    }
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe.run,
        optimiser: &recipe.optimiser,
        progress,
        cancel,
    };
    let file = folder.join("dit.safetensors");
    train_vars(&mut task, (&vars, &[]), &run, |_| {
        Ok(save_weights(&file, small(&vars)?, &about)?)
    })
}

fn to_json(what: &impl Serialize) -> String {
    serde_json::to_string(what).expect("configurations and numbers are plain data")
}

/// Captions such as training will show, for the tokenizer.
fn texts(recipe: &DitRecipe) -> Result<Vec<String>> {
    let config = recipe.world.config(Split::Train);
    let mut texts = Vec::new();
    for i in 0..TOKENIZER_CLIPS {
        let seed = stream(recipe.run.seed, Purpose::Clips, i).random();
        let spec = config
            .spec(seed)
            .map_err(|e| TrainError::Data(e.to_string()))?;
        let mut rng = WorldRng::seed_from_u64(seed);
        let captions = captions(&spec.attributes, Split::Train, &mut rng);
        let known = captions
            .into_iter()
            .filter(|c| recipe.languages.contains_key(&c.lang));
        texts.extend(known.map(|caption| caption.text));
    }
    Ok(texts)
}

fn source(
    recipe: &DitRecipe,
    config: DitConfig,
    (tokenizer, device): (TextTokenizer, &Device),
) -> Result<Source> {
    let pool = pool("workers", recipe.run.worker_threads())?;
    let (video_ae, audio_ae) = autoencoders(&recipe.autoencoders, device)?;
    let before = match &recipe.teacher {
        Some(TeacherRecipe::Transfer(known)) => Some(autoencoders(&known.autoencoders, device)?),
        _ => None,
    };
    Ok(Source {
        before,
        recipe: recipe.clone(),
        config,
        video_ae,
        audio_ae,
        device: device.clone(),
        tokenizer,
        levels: Levels {
            video: Vec::new(),
            lead: 0.0,
            audio: recipe.audio_shift,
        },
        pool,
        ready: Mutex::new(HashMap::new()),
    })
}

/// Those of a folder.
fn autoencoders(folder: &Path, device: &Device) -> Result<(VideoAe, AudioAe)> {
    let (video, weights) = open(&folder.join("video_ae.safetensors"), device)?;
    let video = VideoAe::new(&video, &weights, Precision::Bf16)?;
    let (audio, weights) = open(&folder.join("audio_ae.safetensors"), device)?;
    Ok((video, AudioAe::new(&audio, &weights, Precision::Bf16)?))
}

fn held_out(source: &Source) -> Result<Vec<EncodedClip>> {
    let view = &source.recipe.validation;
    (0..view.clips)
        .map(|i| {
            let mut rng = stream(source.recipe.run.seed, Purpose::Validation, i as u64);
            source.held_out(view, rng.random())
        })
        .collect()
}

impl Task for DitTask {
    type Batch = DitBatch;

    fn make_batch(&self) -> MakeBatch<DitBatch> {
        let source = self.source.clone();
        Arc::new(move |index| source.batch(index))
    }

    fn loss(&mut self, mut batch: DitBatch, _step: u64) -> Result<StepLoss> {
        self.aim(&mut batch)?;
        let outputs = forward(&self.dit, &batch)?;
        self.judge(&batch, &outputs)
    }

    /// Beside the losses: how much larger the picture's is beside a clear sound whose halves are exchanged than beside
    /// the right one (`heard`), and the sound's beside a clear picture whose halves are (`seen`): 0 where the one is
    /// made without regard to when the other happens.
    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics> {
        let own = |sigma| [sigma, shifted(sigma, self.source.levels.audio)];
        let mut metrics = self.at_levels(own, None)?;
        for (name, part, [picture, sound], other) in [
            ("heard", "video", [1.0, 0.0], Modality::Audio),
            ("seen", "audio", [0.0, 1.0], Modality::Video),
        ] {
            let levels = |sigma| [sigma * picture, sigma * sound];
            let [own, late] = [
                self.at_levels(levels, None)?,
                self.at_levels(levels, Some(other))?,
            ];
            if let (Some(own), Some(late)) = (own.get(part), late.get(part)) {
                metrics.insert(name.to_string(), late / own - 1.0);
            }
        }
        let shown = &self.held_out[..self.held_out.len().min(SHOWN)];
        let path = folder.join(format!("sheet-{step:06}.png"));
        sample_sheet(&self.source, &self.dit, shown, &path)?;
        Ok(metrics)
    }
}

fn forward(dit: &Dit, batch: &DitBatch) -> Result<Outputs> {
    Ok(dit.forward(&Batch {
        sequence: &batch.sequence,
        video: batch.video.clone(),
        audio: batch.audio.clone(),
        text: batch.ids.clone().map(Text::Ids),
        predict_text: batch.ids.is_some(),
    })?)
}

impl DitTask {
    /// Where there is a teacher, its velocities become what the network should say.
    fn aim(&self, batch: &mut DitBatch) -> Result<()> {
        if let (Some(teacher), Some(beside)) = (&self.teacher, batch.beside.take()) {
            [batch.video_target, batch.audio_target] = teacher.velocities(batch, beside)?;
        }
        Ok(())
    }

    /// The losses of held-out clips at the noise levels that `levels` makes of each in turn, with the halves of the part
    /// that is `late` exchanged.
    fn at_levels(
        &self,
        levels: impl Fn(f64) -> [f64; 2],
        late: Option<Modality>,
    ) -> Result<Metrics> {
        let sigmas = LEVELS.iter().cycle().take(self.held_out.len());
        let sigmas = sigmas.map(|&sigma| levels(sigma).into()).collect();
        let mut batch = self.source.fixed(&self.held_out, sigmas, late)?;
        self.aim(&mut batch)?;
        let outputs = forward(&self.dit, &batch)?;
        Ok(self.judge(&batch, &outputs)?.metrics)
    }

    /// Video velocities `[Lv, patch * C]`, each channel by the root of its weight.
    fn weighed(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        let channels = self.importance.dim(0)?;
        let latents = x.reshape((rows, columns / channels, channels))?;
        Ok(latents
            .broadcast_mul(&self.importance)?
            .reshape((rows, columns))?)
    }

    fn judge(&self, batch: &DitBatch, outputs: &Outputs) -> Result<StepLoss> {
        let (recipe, device) = (&self.source.recipe, &self.source.device);
        let sequence = &batch.sequence;
        let mut total = Tensor::new(0f32, device)?;
        let mut found = Metrics::new();
        let parts = [
            (Modality::Video, &outputs.video, &batch.video_target, 1.0),
            (
                Modality::Audio,
                &outputs.audio,
                &batch.audio_target,
                recipe.audio_weight,
            ),
        ];
        for (modality, predicted, target, share) in parts {
            let (Some(predicted), Some(target)) = (predicted, target) else {
                continue;
            };
            let weight = match modality {
                Modality::Audio => sequence.audio_weight(device)?,
                _ => (sequence.video_weight(device)? * &batch.motion)?,
            };
            let loss = match modality {
                Modality::Video => {
                    let weighed = |x: &Tensor| self.weighed(x);
                    flow_matching(&weighed(predicted)?, &weighed(target)?, &weight)?
                }
                _ => flow_matching(predicted, target, &weight)?,
            };
            found.extend(by_sigma(batch, modality, [predicted, target, &weight])?);
            total = (total + (loss * share)?)?;
        }
        if let (Some(logits), Some(ids)) = (&outputs.text_logits, &batch.ids) {
            let (next, weight) = sequence.next_text(ids)?;
            let loss = next_token(logits, &next, &weight)?;
            found.extend(metrics([("text", f64::from(loss.to_scalar::<f32>()?))]));
            total = (total + (loss * recipe.text_weight)?)?;
        }
        found.extend(metrics([("loss", f64::from(total.to_scalar::<f32>()?))]));
        Ok(StepLoss {
            total,
            metrics: found,
            operations: FORWARD_AND_BACK * Work::new(self.dit.config(), sequence).operations(),
        })
    }
}

/// The mean squared error of a modality, over all and by noise level.
fn by_sigma(
    batch: &DitBatch,
    modality: Modality,
    [predicted, target, weight]: [&Tensor; 3],
) -> Result<Metrics> {
    let errors = (predicted.detach() - target)?
        .sqr()?
        .mean(1)?
        .to_vec1::<f32>()?;
    let weight = weight.to_vec1::<f32>()?;
    let name = format!("{modality:?}").to_lowercase();
    let mut sums: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for (i, sigma) in batch.sigmas.iter().enumerate() {
        let sigma = match modality {
            Modality::Audio => sigma.audio,
            _ => sigma.video,
        };
        let bucket = ((sigma * BUCKETS as f64) as usize).min(BUCKETS - 1);
        for row in batch.sequence.local_rows(i, modality) {
            for key in [name.clone(), format!("{name}_{bucket}")] {
                let sum = sums.entry(key).or_default();
                sum[0] += f64::from(errors[row] * weight[row]);
                sum[1] += f64::from(weight[row]);
            }
        }
    }
    let seen = sums.into_iter().filter(|(_, [_, count])| *count > 0.0);
    Ok(seen.map(|(key, [sum, count])| (key, sum / count)).collect())
}
