//! Training of the audio autoencoder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::{Audio, Cancel, PixelSize, Progress, SAMPLES_PER_FRAME};
use gallop_kernels::Precision;
use gallop_model::audio_ae::{
    AudioAe, AudioAeConfig, BINS, FEATURES, HOPS, analyse, magnitude, magnitude_slope,
};
use gallop_model::{Vars, WeightFiles, Weights};
use gallop_world::Split;
use rand::RngExt;
use rand_pcg::Pcg64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::{ClipOf, WorldRecipe};
use crate::error::{Result, TrainError};
use crate::export::{export, measure, start_from};
use crate::loss::Graded;
use crate::metrics::Metrics;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::recordings::{RecordingFolders, Recordings};
use crate::rng::{Purpose, stream};
use crate::stft_loss::StftLoss;
use crate::stream::MakeBatch;
use crate::trainer::{Outcome, Run, StepLoss, Task, metrics, train_vars};

/// Batches that the latents' mean and spread are measured on.
const STATISTICS_BATCHES: u64 = 24;
/// Where those batches are in the stream of data: beyond any training.
const STATISTICS_AT: u64 = 1 << 40;
/// The picture costs nothing when none is looked at.
const SMALLEST: PixelSize = PixelSize::new(16, 16);
/// Hertz from one frequency to the next.
const BIN_HERTZ: f32 = 48.0;
/// Where bands begin and end, in frequencies [`BIN_HERTZ`] apart: octaves, then all that is heard.
const BANDS: [[usize; 2]; 9] = [
    [1, 4],
    [4, 8],
    [8, 16],
    [16, 32],
    [32, 64],
    [64, 128],
    [128, 256],
    [256, BINS],
    [1, BINS],
];
/// Added to the root of a band's energy before the logarithm: -60 dB.
const BAND_FLOOR: f32 = 1e-3;
/// Windows on either side that a rise is measured between: 20 ms in all, as `gallop eval` does (`rises.rs` there).
const RISE_SIDE: usize = 2;
/// A rise that counts fully, in nepers: 6 dB.
const RISE: f32 = 0.7;
/// What rises to less than this share of the clip's loudest does not count: 20 dB.
const RISE_LOUD: f32 = 0.1;
/// Most that a frequency is made louder.
const MOST_GAIN: f32 = 3.0;
/// Pairs of held-out sounds of each kind written as WAV files.
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
    /// Recordings beside it.
    pub recordings: Option<RecordingFolders>,
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
    /// Windows of the short-time Fourier transforms that held-out sounds are compared by, in samples.
    pub windows: Vec<usize>,
    /// Frequencies above this count less and less, as they do for the ear, in Hz.
    pub corner: f32,
    /// How much more the loudest places count than silence.
    pub loud: f32,
    /// Highest standard deviation of the noise added to latents; each clip draws one below it.
    pub latent_noise: f64,
    /// Weight of the latents' mean square, which keeps them from their bounds.
    pub latent_size: f64,
    /// How much the levels of bands count beside those of single frequencies: a sound's envelope, which says when it begins,
    /// is no mean of medians of single frequencies.
    #[serde(default)]
    pub bands: f32,
    /// How much more those levels count about a rise of 6 dB in 20 ms: when something begins is said by few windows of many.
    #[serde(default)]
    pub rises: f32,
    /// Weight of the mean square of how far latents (normalised) are from those of the weights it began with. With it what
    /// latents are normalised by stays too, so that a transformer that learned them still knows them.
    #[serde(default)]
    pub anchor: f64,
}

/// Levels of sounds of one length: `[B, 8 A, FEATURES]`.
pub struct AudioBatch {
    levels: Tensor,
    index: u64,
}

struct AudioTask {
    source: Arc<Source>,
    vars: Vars,
    ae: AudioAe,
    /// The weights it began with, where latents are held to theirs.
    anchor: Option<AudioAe>,
    stft: StftLoss,
    held_out: Vec<Audio>,
    held_out_recordings: Vec<Audio>,
    device: Device,
}

/// Where batches come from.
struct Source {
    recipe: AudioAeRecipe,
    recordings: Option<Recordings>,
}

/// Trains the audio autoencoder in `folder` and leaves `audio_ae.safetensors` there.
///
/// # Errors
/// If the recipe cannot be followed, or files or tensors fail.
pub fn train_audio_ae(
    recipe: &AudioAeRecipe,
    folder: &Path,
    device: &Device,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Outcome> {
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(recipe.run.seed), device);
    let held_out = (0..recipe.held_out)
        .map(|i| {
            let mut rng = stream(recipe.run.seed, Purpose::Validation, i as u64);
            sound(recipe, rng.random(), Split::Heldout)
        })
        .collect::<Result<_>>()?;
    let folders = recipe.recordings.as_ref();
    let read = |of: fn(&RecordingFolders) -> &PathBuf| folders.map(|f| Recordings::read(of(f)));
    let held_out_recordings = match read(|folders| &folders.held_out).transpose()? {
        Some(recordings) => (0..recordings.len())
            .map(|i| recordings.clip_of(i, recipe.frames * SAMPLES_PER_FRAME))
            .collect(),
        None => Vec::new(),
    };
    let anchor = match &recipe.start {
        Some(path) if recipe.loss.anchor > 0.0 => {
            let weights = Weights::files(Arc::new(WeightFiles::open(path)?), device);
            Some(AudioAe::new(&recipe.model, &weights, Precision::Bf16)?)
        }
        None if recipe.loss.anchor > 0.0 => {
            let what =
                "`anchor` holds latents to those of the weights it begins with: it needs `start`";
            return Err(TrainError::Setting(what.into()));
        }
        _ => None,
    };
    let mut task = AudioTask {
        vars: vars.clone(),
        anchor,
        source: Arc::new(Source {
            recipe: recipe.clone(),
            recordings: read(|folders| &folders.train).transpose()?,
        }),
        ae: AudioAe::new(&recipe.model, &weights, Precision::Bf16)?,
        stft: StftLoss::new(&recipe.loss.windows),
        held_out,
        held_out_recordings,
        device: device.clone(),
    };
    if let Some(path) = &recipe.start {
        start_from(&vars, path, &[])?;
    }
    let frozen: &[&str] = match recipe.freeze_encoder {
        true => &["latents.", "levels.", "encoder."],
        false => &["latents.", "levels."],
    };
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe.run,
        optimiser: &recipe.optimiser,
        progress,
        cancel,
    };
    let file = folder.join("audio_ae.safetensors");
    train_vars(&mut task, (&vars, frozen), &run, |task| task.export(&file))
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

impl Source {
    /// A clip of recordings or of the world.
    fn clip(&self, rng: &mut Pcg64) -> Result<Audio> {
        if let (Some(folders), Some(recordings)) = (&self.recipe.recordings, &self.recordings)
            && rng.random::<f64>() < folders.share
        {
            return Ok(recordings.clip(self.recipe.frames * SAMPLES_PER_FRAME, rng));
        }
        sound(&self.recipe, rng.random(), Split::Train)
    }

    fn batch(&self, index: u64) -> Result<AudioBatch> {
        let recipe = &self.recipe;
        let mut rng = stream(recipe.run.seed, Purpose::Data, index);
        let mut levels = Vec::new();
        for _ in 0..recipe.clips {
            levels.extend(analyse(&self.clip(&mut rng)?, recipe.frames));
        }
        let shape = (recipe.clips, recipe.frames * HOPS, FEATURES);
        Ok(AudioBatch {
            levels: Tensor::from_vec(levels, shape, &Device::Cpu)?,
            index,
        })
    }
}

fn middle_side(audio: &Audio) -> [Vec<f32>; 2] {
    [1.0, -1.0].map(|sign| {
        let pairs = audio.left.iter().zip(&audio.right);
        pairs.map(|(l, r)| 0.5 * (l + sign * r)).collect()
    })
}

impl Task for AudioTask {
    type Batch = AudioBatch;

    fn make_batch(&self) -> MakeBatch<AudioBatch> {
        let source = self.source.clone();
        Arc::new(move |index| source.batch(index))
    }

    fn loss(&mut self, batch: AudioBatch, _step: u64) -> Result<StepLoss> {
        let recipe = &self.source.recipe;
        let levels = batch.levels.to_device(&self.device)?;
        let latents = self.ae.encode_levels(&levels)?;
        let latents = match recipe.freeze_encoder {
            true => latents.detach(),
            false => latents,
        };
        let noise = self.noise(&latents, batch.index)?;
        let predicted = self.ae.decode_levels(&(&latents + noise)?)?;
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let (heard, target) = (flat(&predicted)?, flat(&batch.levels)?);
        let mut judged = level_errors(&heard, &target, &recipe.loss);
        if recipe.loss.bands > 0.0 {
            let wanted: Vec<f32> = target.par_iter().map(energy).collect();
            let weights = rise_weights(&wanted, recipe.frames * HOPS, recipe.loss.rises);
            judged.add(&band_errors(&heard, &wanted, &weights), recipe.loss.bands);
        }
        let size = latents.sqr()?.mean_all()?;
        let spread = f64::from(size.to_scalar::<f32>()?).sqrt();
        let mut found = metrics([("loss", judged.value), ("latent_rms", spread)]);
        let mut total = (judged.attach(&predicted)? + (size * recipe.loss.latent_size)?)?;
        if let Some(anchor) = &self.anchor {
            let apart = (latents - anchor.encode_levels(&levels)?.detach())?;
            let apart = apart.broadcast_div(anchor.spread())?.sqr()?.mean_all()?;
            found.insert("moved".into(), f64::from(apart.to_scalar::<f32>()?).sqrt());
            total = (total + (apart * recipe.loss.anchor)?)?;
        }
        Ok(StepLoss {
            metrics: found,
            total,
            operations: 0.0,
        })
    }

    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics> {
        self.set_gain()?;
        let mut found = Metrics::new();
        for (kind, sounds) in [
            ("", &self.held_out),
            ("_recordings", &self.held_out_recordings),
        ] {
            if sounds.is_empty() {
                continue;
            }
            let (mut sums, mut compared) = ([0.0; 2], 0);
            for (i, audio) in sounds.iter().enumerate() {
                let back = self.ae.decode(&self.ae.encode(audio)?)?;
                let (target, heard) = (middle_side(audio), middle_side(&back));
                for (target, heard) in target.iter().zip(&heard) {
                    // The side of a recording in mono is silence, of which no error is a share.
                    if target.iter().all(|x| *x == 0.0) {
                        continue;
                    }
                    let errors = self.stft.compare(heard, target, false);
                    sums[0] += errors.value;
                    sums[1] += errors.log_distance;
                    compared += 1;
                }
                if i < HEARD {
                    let path = |name: String| folder.join(format!("{name}.wav"));
                    let decoded = path(format!("decoded{kind}-{i}-{step:06}"));
                    gallop_media::write_audio(&decoded, &back)?;
                    gallop_media::write_audio(&path(format!("original{kind}-{i}")), audio)?;
                }
            }
            for (name, sum) in ["loss", "log_distance"].into_iter().zip(sums) {
                found.insert(format!("{name}{kind}"), sum / f64::from(compared.max(1)));
            }
        }
        Ok(found)
    }
}

/// The weighted mean absolute difference of levels, and its gradient.
fn level_errors(predicted: &[f32], target: &[f32], loss: &AudioLoss) -> Graded {
    // Bins are 48 Hz apart.
    let bins: Vec<f32> = (0..BINS)
        .map(|k| 1.0 / (1.0 + (k as f32 * BIN_HERTZ / loss.corner).powi(2)).sqrt())
        .collect();
    let total = bins.iter().sum::<f32>() / BINS as f32 * predicted.len() as f32;
    let mut gradient = vec![0f32; predicted.len()];
    let sums: Vec<f64> = gradient
        .par_chunks_mut(BINS)
        .zip(predicted.par_chunks(BINS))
        .zip(target.par_chunks(BINS))
        .map(|((gradient, predicted), target)| {
            let mut sum = 0.0;
            for (i, g) in gradient.iter_mut().enumerate() {
                let d = predicted[i] - target[i];
                // Silence is a level of about -1.3, full scale one of 3.
                let loud = 1.0 + loss.loud * (0.25 * (target[i] + 1.0)).clamp(0.0, 1.0);
                let weight = bins[i] * loud / total;
                *g = weight * d.signum();
                sum += f64::from(weight * d.abs());
            }
            sum
        })
        .collect();
    Graded {
        value: sums.iter().sum(),
        gradient,
    }
}

/// The level of a band, from the energies of frequencies.
fn band_level(energies: &[f32], [from, to]: [usize; 2]) -> f32 {
    energies[from..to].iter().sum::<f32>().sqrt() + BAND_FLOOR
}

fn energy(level: &f32) -> f32 {
    magnitude(*level).powi(2)
}

/// What each window of each channel counts, of its energies, in clips of so many windows: 1, and up to `rises` more beside
/// a rise.
fn rise_weights(wanted: &[f32], windows: usize, rises: f32) -> Vec<f32> {
    let levels: Vec<f32> = (wanted.par_chunks(BINS))
        .map(|energies| band_level(energies, [1, BINS]))
        .collect();
    let mut weights = vec![1f32; levels.len()];
    // Channels take turns.
    for (levels, weights) in (levels.chunks(2 * windows)).zip(weights.chunks_mut(2 * windows)) {
        let loudest = levels.iter().copied().fold(0.0, f32::max);
        for channel in 0..2 {
            let at = |t: usize| 2 * t + channel;
            for t in RISE_SIDE..windows - RISE_SIDE {
                let [low, high] = [t - RISE_SIDE, t + RISE_SIDE].map(|t| levels[at(t)]);
                if high < RISE_LOUD * loudest {
                    continue;
                }
                let more = rises * ((high / low).ln() / RISE).clamp(0.0, 1.0);
                for beside in t - RISE_SIDE..=t + RISE_SIDE {
                    let weight = &mut weights[at(beside)];
                    *weight = weight.max(1.0 + more);
                }
            }
        }
    }
    weights
}

/// The mean absolute difference of the bands' levels (nepers of the root of their energy), windows by their weights, and
/// its gradient; of predicted levels and wanted energies.
fn band_errors(predicted: &[f32], wanted: &[f32], weights: &[f32]) -> Graded {
    let mut gradient = vec![0f32; predicted.len()];
    let share = 1.0 / (BANDS.len() as f32 * weights.iter().sum::<f32>());
    let sums: Vec<f64> = (gradient.par_chunks_mut(BINS))
        .zip(predicted.par_chunks(BINS))
        .zip(wanted.par_chunks(BINS))
        .zip(weights)
        .map(|(((gradient, predicted), wanted), weight)| {
            let weight = share * weight;
            let heard: Vec<f32> = predicted.iter().map(energy).collect();
            let mut sum = 0.0;
            for band in BANDS {
                let (a, b) = (band_level(&heard, band), band_level(wanted, band));
                let difference = (a / b).ln();
                sum += f64::from(weight * difference.abs());
                // d ln(r + floor) = dE / (2 r (r + floor)), and of each magnitude m: dE = 2 m dm.
                let root = (a - BAND_FLOOR).max(1e-9);
                let slope = weight * difference.signum() / (root * a);
                let [from, to] = band;
                for (k, g) in gradient.iter_mut().enumerate().take(to).skip(from) {
                    *g += slope * heard[k].sqrt() * magnitude_slope(predicted[k]);
                }
            }
            sum
        })
        .collect();
    Graded {
        value: sums.iter().sum(),
        gradient,
    }
}

impl AudioTask {
    fn noise(&self, latents: &Tensor, index: u64) -> Result<Tensor> {
        let recipe = &self.source.recipe;
        let mut rng = stream(recipe.run.seed, Purpose::Noise, index);
        crate::loss::latent_noise(latents, recipe.loss.latent_noise, &mut rng)
    }

    /// Sets what levels are made louder by to what the decoder lacks in loudness; returns the latents that it was heard on.
    fn set_gain(&self) -> Result<Vec<Tensor>> {
        let mut latents = Vec::new();
        let mut energies = vec![[0f64; 2]; BINS];
        for i in 0..STATISTICS_BATCHES {
            let batch = self.source.batch(STATISTICS_AT + i)?;
            let levels = batch.levels.to_device(&self.device)?;
            let coded = self.ae.encode_levels(&levels)?.detach();
            let decoded = self.ae.decode_levels(&coded)?.flatten_all()?;
            let levels = batch.levels.flatten_all()?;
            let pairs = levels.to_vec1::<f32>()?.into_iter();
            for (k, (target, decoded)) in pairs.zip(decoded.to_vec1::<f32>()?).enumerate() {
                for (sum, level) in energies[k % BINS].iter_mut().zip([target, decoded]) {
                    *sum += f64::from(magnitude(level)).powi(2);
                }
            }
            latents.push(coded);
        }
        // The mean difference of levels is least for a median, which is quieter than the mean energy.
        let gain = energies.iter().map(|[target, decoded]| {
            let gain = (target / decoded.max(1e-12)).sqrt() as f32;
            gain.clamp(1.0, MOST_GAIN)
        });
        if let Some(var) = self.vars.get("levels.gain") {
            var.set(&Tensor::from_iter(gain, &self.device)?)?;
        }
        Ok(latents)
    }

    fn export(&self, path: &Path) -> Result<()> {
        let latents = self.set_gain()?;
        let recipe = &self.source.recipe;
        let as_they_were = recipe.freeze_encoder || self.anchor.is_some();
        if !(as_they_were && recipe.start.is_some()) {
            measure(&self.vars, &latents)?;
        }
        export(&self.vars, &recipe.model, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_levels_agree_with_differences() {
        let loss = AudioLoss {
            windows: vec![256],
            corner: 2000.0,
            loud: 3.0,
            latent_noise: 0.0,
            latent_size: 0.0,
            bands: 0.0,
            rises: 0.0,
            anchor: 0.0,
        };
        check(&|predicted, target| level_errors(predicted, target, &loss));
        let energies = |levels: &[f32]| -> Vec<f32> { levels.iter().map(energy).collect() };
        check(&|predicted, target| band_errors(predicted, &energies(target), &[1.0, 3.0]));
    }

    #[test]
    fn windows_about_a_rise_count_more() {
        // Two clips of 12 windows, two channels; the right one of the second grows louder from window 6 on.
        let windows = 12;
        let mut levels = vec![-1.0; 2 * windows * 2 * BINS];
        for t in 6..windows {
            let row = (windows + t) * 2 + 1;
            levels[row * BINS..][..BINS].fill(1.0);
        }
        let energies: Vec<f32> = levels.iter().map(energy).collect();
        let weights = rise_weights(&energies, windows, 4.0);
        for (row, weight) in weights.into_iter().enumerate() {
            let (clip, t, channel) = (row / 2 / windows, row / 2 % windows, row % 2);
            // Windows 4 to 7 have quiet ones two before them and loud ones two after, or the other way about.
            let near = clip == 1 && channel == 1 && (2..=9).contains(&t);
            assert_eq!(weight, if near { 5.0 } else { 1.0 }, "{clip} {t} {channel}");
        }
    }

    fn check(errors: &dyn Fn(&[f32], &[f32]) -> Graded) {
        let wave = |f: f32| -> Vec<f32> { (0..2 * BINS).map(|i| (i as f32 * f).sin()).collect() };
        let (predicted, target) = (wave(0.3), wave(0.7));
        let gradient = errors(&predicted, &target).gradient;
        for i in [1, 7, 100, BINS - 1, BINS + 3, 2 * BINS - 1] {
            let moved = |by: f32| {
                let mut p = predicted.clone();
                p[i] += by;
                errors(&p, &target).value
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let error = (slope - f64::from(gradient[i])).abs();
            assert!(
                error < 0.02 * slope.abs() + 1e-6,
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }
}
