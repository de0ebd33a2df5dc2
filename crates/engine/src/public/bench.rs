//! How fast the full-size model is: its stages timed on random weights that are made in the device's memory.

use std::time::Instant;

use candle_core::{Device, Tensor};
use gallop_core::LatentShape;
use gallop_diffusion::{Field, Guidance, Scale, flow_sigmas};
use gallop_kernels::{Precision, device_memory, forget_peak};
use gallop_model::Weights;
use gallop_model::dit::{Dit, DitConfig, Work};
use gallop_model::memory::peak;
use gallop_model::public::{Part, Preset};

use super::field::{Given, Velocity};
use super::pipeline::{gaussian_noise, to_frames};
use super::plan::{AUDIO_CHANNELS, REFINE_STEPS};
use super::watch::Watch;
use crate::error::Result;
use crate::foal::Sampler;

/// Channels of a video latent.
const CHANNELS: usize = gallop_model::public::wan_vae::LATENT_CHANNELS;
/// Steps of the distilled transformer.
const BASE_STEPS: usize = 8;
/// Shift of the sigma schedule.
const SHIFT: f64 = 5.0;

/// A stage that can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// The distilled transformer, or a refining one.
    Sampling(Part),
    /// The fast video decoder.
    Decoding,
    /// The audio decoder.
    Sound,
}

/// What is timed, and over which latents.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The sizes of the model.
    pub preset: &'a Preset,
    /// The stage.
    pub stage: Timed,
    /// The latents that it makes, or that it decodes.
    pub latents: LatentShape,
    /// Text tokens.
    pub text: usize,
    /// So many of the transformer's layers, spread over its depth; all if none.
    pub layers: Option<usize>,
    /// The precision of the transformer's products; pictures are made in bf16 at the least, sound in f32.
    pub precision: Precision,
}

/// A stage that was timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Seconds to make the weights; no part of the others.
    pub load: f64,
    /// Seconds of the first run, in which kernels are compiled and memory is taken.
    pub warm_up: f64,
    /// Seconds from the first step to the last, of what was timed.
    pub seconds: f64,
    /// Seconds of each step.
    pub steps: Vec<f64>,
    /// Operations of all steps, of the layers that were timed.
    pub operations: f64,
    /// Operations of all steps of the whole model.
    pub whole: f64,
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes that were held at the most: by tensors on a GPU, else by the process.
    pub peak: u64,
    /// Layers that were timed, and all.
    pub layers: Option<(usize, usize)>,
}

impl Timing {
    /// Seconds of the whole model: those of the layers that were timed, by their share of the operations.
    pub fn whole_seconds(&self) -> f64 {
        self.seconds * (self.whole / self.operations).max(1.0)
    }

    /// Operations a second while it ran.
    pub fn rate(&self) -> f64 {
        self.operations / self.seconds.max(f64::MIN_POSITIVE)
    }
}

impl Case<'_> {
    /// The transformer's configuration, with all its layers.
    pub fn config(&self, part: Part) -> DitConfig {
        self.preset.transformer_of(part)
    }

    /// Steps of the stage.
    pub fn steps(&self) -> usize {
        match self.stage {
            Timed::Sampling(Part::Distilled) => BASE_STEPS,
            Timed::Sampling(_) => REFINE_STEPS,
            _ => 1,
        }
    }

    /// What one run of the transformer multiplies; none for decoders.
    ///
    /// # Errors
    /// Latents that the transformer cannot take.
    pub fn work(&self) -> Result<Option<Work>> {
        let Timed::Sampling(part) = self.stage else {
            return Ok(None);
        };
        self.work_of(&self.config(part)).map(Some)
    }

    fn work_of(&self, config: &DitConfig) -> Result<Work> {
        Ok(Work::of_clip(config, self.latents, self.text)?)
    }

    /// Runs the stage once to warm up and once to be timed.
    ///
    /// # Errors
    /// No memory; a wish to stop.
    pub fn run(&self, device: &Device, watch: Watch) -> Result<Timing> {
        match self.stage {
            Timed::Sampling(part) => self.sampling(part, device, watch),
            Timed::Decoding => {
                let load = Clock::start(device)?;
                let decoder = self
                    .preset
                    .fast_decoder(1, self.precision.wider(), device)?;
                let latents = self
                    .video_noise(device)?
                    .permute((3, 0, 1, 2))?
                    .contiguous()?;
                let [f, h, w] = [self.latents.frames, self.latents.height, self.latents.width];
                let operations = decoder.operations([f, h, w]);
                self.decoding((load, operations), (device, watch), &mut || {
                    Ok(decoder.decode_each(&latents, &mut |pictures| {
                        // Pictures leave the device, as they do on their way into a file.
                        to_frames(&pictures).map(drop)
                    })?)
                })
            }
            Timed::Sound => {
                let load = Clock::start(device)?;
                let decoder = self.preset.audio_decoder(1, Precision::F32, device)?;
                let count = self.latents.audio;
                let latents = gaussian_noise(2)(&[count, AUDIO_CHANNELS])?.to_device(device)?;
                let operations = decoder.operations(count);
                self.decoding((load, operations), (device, watch), &mut || {
                    decoder.decode(&latents)?.to_device(&Device::Cpu)?;
                    Ok(())
                })
            }
        }
    }

    fn video_noise(&self, device: &Device) -> candle_core::Result<Tensor> {
        let l = self.latents;
        gaussian_noise(1)(&[l.frames, l.height, l.width, CHANNELS])?.to_device(device)
    }

    fn decoding(
        &self,
        (load, operations): (Clock, f64),
        (device, watch): (&Device, Watch),
        decode: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Timing> {
        let load = load.stop(device)?;
        let weights = held(device)?;
        watch.stage("warm up", 1)?;
        let clock = Clock::start(device)?;
        decode()?;
        let warm_up = clock.stop(device)?;
        forget_peak(device)?;
        watch.stage("decode", 1)?;
        let clock = Clock::start(device)?;
        decode()?;
        let seconds = clock.stop(device)?;
        watch.progress.at(1);
        Ok(Timing {
            load,
            warm_up,
            seconds,
            steps: vec![seconds],
            operations,
            whole: operations,
            weights,
            peak: most(device)?,
            layers: None,
        })
    }

    fn sampling(&self, part: Part, device: &Device, watch: Watch) -> Result<Timing> {
        let all = self.config(part);
        let config = fewer(&all, self.layers);
        watch.stage("make weights", 1)?;
        let clock = Clock::start(device)?;
        let mut dit =
            Dit::new(&config, &Weights::random(1, device))?.with_precision(self.precision);
        let load = clock.stop(device)?;
        let weights = held(device)?;
        let clock = Clock::start(device)?;
        self.sample((&mut dit, 1, "warm up"), device, watch)?;
        let warm_up = clock.stop(device)?;
        forget_peak(device)?;
        let clock = Clock::start(device)?;
        let steps = self.sample((&mut dit, self.steps(), "sample"), device, watch)?;
        let seconds = clock.stop(device)?;
        let runs = self.steps() as f64;
        Ok(Timing {
            load,
            warm_up,
            seconds,
            steps,
            operations: self.work_of(&config)?.operations() * runs,
            whole: self.work_of(&all)?.operations() * runs,
            weights,
            peak: most(device)?,
            layers: Some((config.layers.len(), all.layers.len())),
        })
    }

    /// Samples as the pipeline does, and says how long each step took.
    fn sample(
        &self,
        (dit, steps, stage): (&mut Dit, usize, &str),
        device: &Device,
        watch: Watch,
    ) -> Result<Vec<f64>> {
        let config = dit.config().clone();
        watch.stage(stage, steps * config.layers.len())?;
        let text = gaussian_noise(3)(&[self.text, config.text.channels])?.to_device(device)?;
        let mut noise = gaussian_noise(4);
        let mut noise = |shape: &[usize]| noise(shape)?.to_device(device);
        let sound = noise(&[self.latents.audio, AUDIO_CHANNELS])?;
        let (mut x, mut given) = (vec![self.video_noise(device)?], Given::default());
        let sampler = match self.stage {
            Timed::Sampling(Part::Distilled) => {
                x.push(sound);
                Sampler::Renoise
            }
            _ => {
                given.audio = Some(sound);
                Sampler::Unipc
            }
        };
        let off = Guidance {
            scales: vec![Scale::constant(1.0); x.len()],
            time_dim: 0,
        };
        let field = Velocity::new(dit, self.latents, &[text], (off, given), watch)?;
        let mut field = Watched {
            field,
            device,
            seconds: Vec::new(),
        };
        let sigmas = flow_sigmas(steps, SHIFT);
        if let Err(error) = sampler.run(&mut field, x, &sigmas, &mut noise) {
            return Err(match field.field.failed.take() {
                Some(why) => watch.or_cancelled(why),
                None => watch.or_cancelled(error),
            });
        }
        Ok(field.seconds)
    }
}

/// The same transformer with so many of its layers, spread over its depth.
fn fewer(config: &DitConfig, layers: Option<usize>) -> DitConfig {
    let all = config.layers.len();
    let count = layers.unwrap_or(all).clamp(1, all);
    // The middle of each of `count` equal parts.
    let chosen = (0..count).map(|i| config.layers[(2 * i + 1) * all / (2 * count)]);
    DitConfig {
        layers: chosen.collect(),
        ..config.clone()
    }
}

/// Seconds on a device: it is let finish before and after.
struct Clock(Instant);

impl Clock {
    fn start(device: &Device) -> Result<Self> {
        device.synchronize()?;
        Ok(Self(Instant::now()))
    }

    fn stop(self, device: &Device) -> Result<f64> {
        device.synchronize()?;
        Ok(self.0.elapsed().as_secs_f64())
    }
}

/// Bytes that are held now.
fn held(device: &Device) -> Result<u64> {
    let memory = device_memory(device)?;
    Ok(memory.map_or_else(gallop_model::memory::in_use, |memory| memory.held))
}

/// The most bytes that were held.
fn most(device: &Device) -> Result<u64> {
    Ok(device_memory(device)?.map_or_else(peak, |memory| memory.peak))
}

/// A field whose every velocity is timed.
struct Watched<'a> {
    field: Velocity<'a>,
    device: &'a Device,
    seconds: Vec<f64>,
}

impl Field for Watched<'_> {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> candle_core::Result<Vec<Tensor>> {
        self.device.synchronize()?;
        let start = Instant::now();
        let velocity = self.field.velocity(x, sigma)?;
        self.device.synchronize()?;
        self.seconds.push(start.elapsed().as_secs_f64());
        Ok(velocity)
    }

    fn hold(&mut self, x: Vec<Tensor>) -> candle_core::Result<Vec<Tensor>> {
        self.field.hold(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::{Cancel, Silent};

    fn case(preset: &Preset, stage: Timed) -> Case<'_> {
        Case {
            preset,
            stage,
            latents: LatentShape {
                frames: 3,
                height: 4,
                width: 4,
                audio: 9,
            },
            text: 5,
            layers: None,
            precision: Precision::Bf16,
        }
    }

    #[test]
    fn every_stage_is_timed_and_counted() {
        let preset = Preset::tiny();
        let cancel = Cancel::default();
        let watch = Watch {
            progress: &Silent,
            cancel: &cancel,
        };
        for (stage, steps) in [
            (Timed::Sampling(Part::Distilled), 8),
            (Timed::Sampling(Part::Super1080p), 5),
            (Timed::Decoding, 1),
            (Timed::Sound, 1),
        ] {
            let timing = case(&preset, stage).run(&Device::Cpu, watch).unwrap();
            assert_eq!(timing.steps.len(), steps, "{stage:?}");
            let sum: f64 = timing.steps.iter().sum();
            assert!(sum > 0.0 && sum <= timing.seconds, "{stage:?}");
            assert!(timing.operations > 0.0 && timing.operations == timing.whole);
            assert_eq!(timing.whole_seconds(), timing.seconds);
        }
    }

    #[test]
    fn fewer_layers_are_spread_and_scaled_by_their_work() {
        let preset = Preset::tiny();
        let all = preset.transformer_of(Part::Distilled);
        assert_eq!(fewer(&all, None), all);
        let some = fewer(&all, Some(3));
        let [first, middle, last] = [0, 1, 2].map(|i| some.layers[i]);
        assert_eq!([first, middle, last], [1, 3, 5].map(|i| all.layers[i]));
        let cancel = Cancel::default();
        let watch = Watch {
            progress: &Silent,
            cancel: &cancel,
        };
        let case = Case {
            layers: Some(3),
            ..case(&preset, Timed::Sampling(Part::Distilled))
        };
        let timing = case.run(&Device::Cpu, watch).unwrap();
        assert_eq!(timing.layers, Some((3, 6)));
        assert!(timing.whole > 1.5 * timing.operations);
        assert!(timing.whole_seconds() > 1.5 * timing.seconds);
    }
}
