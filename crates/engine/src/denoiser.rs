//! The transformer as the field that a sampler follows.

use candle_core::{Result, Tensor};
use gallop_core::{Cancel, LatentShape, Progress};
use gallop_diffusion::{Field, Guidance, Levels, push_is_felt, shifted};
use gallop_model::dit::{Batch, Dit, Text};
use gallop_model::tokens::{Modality, SampleSpec, Task, TokenSequence};

/// Why [`Field::velocity`] stopped when the user asked it to.
pub(crate) const CANCELLED: &str = "cancelled";

/// Velocities of one clip, with or without guidance. The state is what [`Levels::split`] makes of video latents
/// [F, H, W, C] and, unless the clip is silent, audio latents [A, C].
pub(crate) struct Denoiser<'a> {
    pub dit: &'a Dit,
    pub guidance: Guidance,
    /// Where the sound is pushed towards the picture; needs guidance and a sound.
    pub unseen: Option<Unseen>,
    pub levels: &'a Levels,
    /// The shift of each part of the state.
    pub shifts: Vec<f64>,
    /// Parts of the picture.
    pub pictures: usize,
    /// The schedule.
    pub sigmas: &'a [f64],
    /// The clip under its prompt.
    pub cond: TokenSequence,
    /// The clip under its prompt and, beside it, without text.
    pub both: TokenSequence,
    /// [Lt].
    pub ids: Tensor,
    /// The first latent frames [N, H, W, C], if given: one of a picture, all where only the sound is made.
    pub given: Option<Tensor>,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
    pub steps_done: u64,
}

/// A picture that shows nothing, and how far the sound is pushed away from what it would be beside that: guidance by
/// the other modality (LTX-2, arXiv 2601.03233), where the other is hidden by noise, as training does, instead of left out.
pub(crate) struct Unseen {
    pub scale: f64,
    /// Noise, as the state has it.
    pub picture: Vec<Tensor>,
}

/// The two sequences of a [`Denoiser`].
pub(crate) fn sequences(
    dit: &Dit,
    latents: LatentShape,
    ids: &Tensor,
    task: Task,
) -> gallop_model::Result<(TokenSequence, TokenSequence)> {
    let spec = |text| SampleSpec::new(task, latents, text);
    let (text, device) = (ids.dim(0)?, ids.device());
    let cond = TokenSequence::new(dit.config(), &[spec(text)], device)?;
    let both = TokenSequence::new(dit.config(), &[spec(text), spec(0)], device)?;
    Ok((cond, both))
}

impl Denoiser<'_> {
    /// The velocities of every sample of `sequence`, all at the state `x`.
    fn forward(
        &self,
        sequence: &TokenSequence,
        x: &[Tensor],
    ) -> gallop_model::Result<Vec<Vec<Tensor>>> {
        let samples = sequence.samples().len();
        let video = self.levels.join(&x[..self.pictures])?;
        let audio = match x.get(self.pictures) {
            Some(audio) => sequence.pack(Modality::Audio, &vec![audio.clone(); samples])?,
            None => None,
        };
        let outputs = self.dit.forward(&Batch {
            sequence,
            video: sequence.video_tokens(&vec![video; samples])?,
            audio,
            text: Some(Text::Ids(self.ids.clone())),
            predict_text: false,
        })?;
        let video = match &outputs.video {
            Some(tokens) => sequence.video_latents(tokens)?,
            None => Vec::new(),
        };
        let audio = match &outputs.audio {
            Some(tokens) => sequence.unpack(Modality::Audio, tokens)?,
            None => Vec::new(),
        };
        let mut audio = audio.into_iter();
        video
            .into_iter()
            .map(|video| {
                let mut parts = self.levels.split(&video)?;
                parts.extend(audio.next());
                Ok(parts)
            })
            .collect()
    }

    /// Whether a push of the sound in the step that begins at `sigma` does anything.
    fn is_felt(&self, sigma: f64) -> bool {
        let end = self.sigmas.iter().find(|&&later| later < sigma);
        let sound = self.level(self.pictures, end.copied().unwrap_or(0.0));
        push_is_felt(sigma, sound)
    }

    /// Pushes the sound's velocity in `out` towards the picture: away from that beside a hidden one, by as much as `cond`,
    /// that beside the picture of the state `x`, differs from it.
    fn push(
        &self,
        unseen: &Unseen,
        (x, cond): (&[Tensor], &[Tensor]),
        out: &mut [Tensor],
    ) -> Result<()> {
        let hidden = [&unseen.picture, &x[self.pictures..]].concat();
        let hidden = self
            .forward(&self.cond, &hidden)
            .map_err(candle_core::Error::wrap)?;
        for part in self.pictures..out.len() {
            let push = (&cond[part] - &hidden[0][part])?.affine(unseen.scale, 0.0)?;
            out[part] = (&out[part] + push)?;
        }
        Ok(())
    }
}

impl Field for Denoiser<'_> {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
        if self.cancel.is_cancelled() {
            candle_core::bail!("{CANCELLED}");
        }
        let unguided = self.guidance.is_off(sigma);
        let sequence = if unguided { &self.cond } else { &self.both };
        let mut samples = self
            .forward(sequence, x)
            .map_err(candle_core::Error::wrap)?
            .into_iter();
        self.steps_done += 1;
        self.progress.at(self.steps_done);
        match (samples.next(), samples.next()) {
            (Some(cond), None) => Ok(cond),
            (Some(cond), Some(uncond)) => {
                let mut out = self.guidance.apply(&cond, &uncond, sigma)?;
                if let Some(unseen) = self.unseen.as_ref().filter(|_| self.is_felt(sigma)) {
                    self.push(unseen, (x, &cond), &mut out)?;
                }
                Ok(out)
            }
            (None, _) => candle_core::bail!("a clip without video tokens"),
        }
    }

    fn level(&self, part: usize, sigma: f64) -> f64 {
        shifted(sigma, self.shifts[part])
    }

    fn hold(&mut self, mut x: Vec<Tensor>) -> Result<Vec<Tensor>> {
        if let Some(given) = &self.given {
            let frames = given.dim(0)?;
            let video = self.levels.join(&x[..self.pictures])?;
            let video = match video.dim(0)? - frames {
                0 => given.clone(),
                rest => Tensor::cat(&[given, &video.narrow(0, frames, rest)?], 0)?,
            };
            x.splice(..self.pictures, self.levels.split(&video)?);
        }
        Ok(x)
    }
}
