//! What the transformer makes of held-out prompts, as a picture.

use std::path::Path;

use candle_core::Tensor;
use gallop_core::Frame;
use gallop_diffusion::{Field, Guidance, euler, flow_sigmas, gaussian, shifted};
use gallop_model::dit::{Batch, Dit, Text};
use gallop_model::tokens::{Modality, SampleSpec, Task, TokenSequence};

use crate::dit_data::{EncodedClip, Source};
use crate::error::Result;
use crate::rng::{Purpose, stream};
use crate::sheet::write_sheet;

/// Sampling steps.
const STEPS: usize = 16;
/// Shift of their noise levels.
const SHIFT: f64 = 2.0;
/// Classifier-free guidance.
const GUIDANCE: f64 = 3.0;
/// Frames of a clip that the sheet shows.
const SHOWN: usize = 6;

/// Samples under the clips' own captions; each clip is two rows of the sheet, the real one above.
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
    let uncond = clips
        .iter()
        .map(|c| spec(c, 0))
        .collect::<Result<Vec<_>>>()?;
    let cond = TokenSequence::new(dit.config(), &cond, &source.device)?;
    let uncond = TokenSequence::new(dit.config(), &uncond, &source.device)?;
    let ids = Tensor::new(prompts.concat(), &source.device)?;

    let mut rng = stream(source.recipe.run.seed, Purpose::Validation, u64::MAX - 1);
    let mut x = Vec::new();
    for clip in clips {
        x.push(gaussian(&mut rng, clip.video.shape(), &source.device)?);
    }
    for audio in clips.iter().filter_map(|clip| clip.audio.as_ref()) {
        x.push(gaussian(&mut rng, audio.shape(), &source.device)?);
    }
    let mut field = Clips {
        dit,
        cond: (cond, ids),
        uncond,
        guidance: Guidance::constant(GUIDANCE, x.len()),
        audio_shift: source.recipe.audio_shift,
    };
    let mut x = euler(&mut field, x, &flow_sigmas(STEPS, SHIFT))?;
    x.truncate(clips.len());
    Ok(x)
}

/// Clips under their captions, with guidance; the state is all videos, then all sounds.
struct Clips<'a> {
    dit: &'a Dit,
    cond: (TokenSequence, Tensor),
    uncond: TokenSequence,
    guidance: Guidance,
    audio_shift: f64,
}

impl Field for Clips<'_> {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> candle_core::Result<Vec<Tensor>> {
        let (sequence, ids) = &self.cond;
        let cond = velocity(self.dit, sequence, x, Some(ids))?;
        let uncond = velocity(self.dit, &self.uncond, x, None)?;
        self.guidance.apply(&cond, &uncond, sigma)
    }

    fn level(&self, part: usize, sigma: f64) -> f64 {
        if part < self.uncond.samples().len() {
            sigma
        } else {
            shifted(sigma, self.audio_shift)
        }
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
