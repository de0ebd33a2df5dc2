//! What the transformer makes of held-out prompts, as a picture.

use std::path::Path;

use candle_core::Tensor;
use gallop_core::Frame;
use gallop_diffusion::{Field, Guidance, Levels, euler, flow_sigmas, gaussian, shifted};
use gallop_model::dit::{Batch, Dit, Text};
use gallop_model::tokens::{Modality, SampleSpec, Task, TokenSequence};

use crate::dit_data::{EncodedClip, Source};
use crate::error::Result;
use crate::rng::{Purpose, stream};
use crate::sheet::write_sheet;

/// Sampling steps.
const STEPS: usize = 16;
/// Classifier-free guidance, of those that learn from clips. One that has a teacher is shown by one evaluation a step: it has
/// learned guidance, or is to.
const GUIDANCE: f64 = 3.0;
/// Frames of a clip that the sheet shows.
const SHOWN: usize = 6;

/// Samples under the captions of clips of one shape; each clip is two rows of the sheet, the real one above.
pub(crate) fn sample_sheet(
    source: &Source,
    dit: &Dit,
    clips: &[EncodedClip],
    path: &Path,
) -> Result<()> {
    let videos = sample(source, dit, clips)?;
    let mut rows: Vec<Vec<Frame>> = Vec::new();
    for (clip, video) in clips.iter().zip(&videos) {
        let made = source.video_ae.decode(video, clip.frames[0].size)?;
        rows.push(pick(&clip.frames));
        rows.push(pick(&made));
    }
    let rows: Vec<Vec<&Frame>> = rows.iter().map(|row| row.iter().collect()).collect();
    write_sheet(path, &rows)
}

fn pick(frames: &[Frame]) -> Vec<Frame> {
    let every = frames.len().div_ceil(SHOWN).max(1);
    frames.iter().step_by(every).cloned().collect()
}

/// Video latents `[F, H, W, C]` for each clip's caption and shape.
fn sample(source: &Source, dit: &Dit, clips: &[EncodedClip]) -> Result<Vec<Tensor>> {
    let prompts = clips.iter().map(|clip| source.prompt(clip));
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let spec = |clip: &EncodedClip, text| -> Result<SampleSpec> {
        Ok(SampleSpec::new(Task::TextToClip, clip.shape()?, text))
    };
    let pairs = || clips.iter().zip(&prompts);
    let cond = pairs()
        .map(|(c, ids)| spec(c, ids.len()))
        .collect::<Result<Vec<_>>>()?;
    let cond = TokenSequence::new(dit.config(), &cond, &source.device)?;
    let uncond = match source.recipe.teacher {
        Some(_) => None,
        None => {
            let specs = clips.iter().map(|clip| spec(clip, 0));
            let specs = specs.collect::<Result<Vec<_>>>()?;
            Some(TokenSequence::new(dit.config(), &specs, &source.device)?)
        }
    };
    let ids = Tensor::new(prompts.concat(), &source.device)?;

    let mut rng = stream(source.recipe.run.seed, Purpose::Validation, u64::MAX - 1);
    let levels = &source.levels;
    let noise = clips.iter().map(|clip| {
        let shape = clip.video.shape();
        gaussian(&mut rng, shape, &source.device)
    });
    let noise = noise.collect::<candle_core::Result<Vec<_>>>()?;
    let (mut x, mut shifts) = (Vec::new(), Vec::new());
    let frames = clips.first().map_or(Ok(1), |clip| clip.video.dim(0))?;
    for noise in &noise {
        x.extend(levels.split(noise)?);
        shifts.extend(levels.shifts(frames));
    }
    let pictures = x.len();
    for audio in clips.iter().filter_map(|clip| clip.audio.as_ref()) {
        x.push(gaussian(&mut rng, audio.shape(), &source.device)?);
        shifts.push(levels.sound(frames));
    }
    let mut field = Clips {
        dit,
        cond: (cond, ids),
        uncond: uncond.map(|sequence| (sequence, Guidance::constant(GUIDANCE, x.len()))),
        levels,
        shifts,
        pictures,
        parts: levels.parts(frames),
    };
    let sigmas = flow_sigmas(STEPS, source.recipe.sigma.shift());
    let x = euler(&mut field, x, &sigmas)?;
    Ok(field.join(&x[..pictures])?)
}

/// Clips of one length under their captions; the state is the parts of all videos, then the sounds.
struct Clips<'a> {
    dit: &'a Dit,
    cond: (TokenSequence, Tensor),
    /// The same without captions, for guidance if there is any.
    uncond: Option<(TokenSequence, Guidance)>,
    levels: &'a Levels,
    /// The shift of each part of the state.
    shifts: Vec<f64>,
    /// Parts of all videos.
    pictures: usize,
    /// Parts of one video.
    parts: usize,
}

impl Clips<'_> {
    fn join(&self, videos: &[Tensor]) -> candle_core::Result<Vec<Tensor>> {
        let videos = videos.chunks(self.parts);
        videos.map(|parts| self.levels.join(parts)).collect()
    }
}

impl Field for Clips<'_> {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> candle_core::Result<Vec<Tensor>> {
        let (videos, sounds) = x.split_at(self.pictures);
        let whole = [&self.join(videos)?, sounds].concat();
        let split = |velocities: Vec<Tensor>| -> candle_core::Result<Vec<Tensor>> {
            let (videos, sounds) = velocities.split_at(self.cond.0.samples().len());
            let parts = videos.iter().map(|video| self.levels.split(video));
            let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
            Ok([&parts.concat(), sounds].concat())
        };
        let (sequence, ids) = &self.cond;
        let cond = split(velocity(self.dit, sequence, &whole, Some(ids))?)?;
        let Some((sequence, guidance)) = &self.uncond else {
            return Ok(cond);
        };
        let uncond = split(velocity(self.dit, sequence, &whole, None)?)?;
        guidance.apply(&cond, &uncond, sigma)
    }

    fn level(&self, part: usize, sigma: f64) -> f64 {
        shifted(sigma, self.shifts[part])
    }
}

/// Velocities of all videos, then of all sounds.
fn velocity(
    dit: &Dit,
    sequence: &TokenSequence,
    x: &[Tensor],
    ids: Option<&Tensor>,
) -> candle_core::Result<Vec<Tensor>> {
    let clips = sequence.samples().len();
    let outputs = dit
        .forward(&Batch {
            sequence,
            video: sequence.video_tokens(&x[..clips])?,
            audio: sequence.pack(Modality::Audio, &x[clips..])?,
            text: ids.cloned().map(Text::Ids),
            predict_text: false,
        })
        .map_err(candle_core::Error::wrap)?;
    let mut velocities = match &outputs.video {
        Some(tokens) => sequence.video_latents(tokens)?,
        None => Vec::new(),
    };
    if let Some(tokens) = &outputs.audio {
        velocities.extend(sequence.unpack(Modality::Audio, tokens)?);
    }
    Ok(velocities.into_iter().map(|v| v.detach()).collect())
}
