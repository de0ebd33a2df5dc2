//! The public transformer as the field that a sampler follows.

use candle_core::{Result, Tensor};
use gallop_core::LatentShape;
use gallop_diffusion::{Field, Guidance};
use gallop_model::ModelError;
use gallop_model::dit::{Batch, Text};
use gallop_model::tokens::{Modality, SampleSpec, TokenSequence};

use super::transformer::Transformer;
use super::watch::Watch;

/// Tokens up to which a guided step runs both its prompts in one pass over the weights.
const ONE_PASS: usize = 1 << 14;

/// Latents of one video token.
const PATCH: usize = 4;

/// What is given beside the noise.
#[derive(Clone, Default)]
pub(super) struct Given {
    /// The first latent frame `[1, H, W, C]`.
    pub first: Option<Tensor>,
    /// Audio latents `[A, C]`, which are then no part of the state.
    pub audio: Option<Tensor>,
}

/// Tokens of the longest sequence that goes through a transformer at once, for prompts of so many tokens: the prompt,
/// and where guidance is wanted the negative one.
pub(super) fn longest(latents: LatentShape, texts: &[usize]) -> usize {
    let others = latents.frames * latents.height * latents.width / PATCH + latents.audio;
    let clips = texts.iter().map(|text| others + text);
    match texts {
        [text, _] if 2 * (others + text) <= ONE_PASS => clips.sum(),
        _ => clips.max().unwrap_or(0),
    }
}

/// Clips that go through the transformer together, the same latents under one or two prompts.
struct Pass {
    sequence: TokenSequence,
    /// `[Lt, D]`, all prompts.
    text: Tensor,
}

/// Velocities of one clip, on the device that its text is on. The state is video latents `[F, H, W, C]` and, unless it is given, audio latents
/// `[A, C]`.
pub(super) struct Velocity<'a> {
    transformer: &'a mut dyn Transformer,
    guidance: Guidance,
    given: Given,
    cond: Pass,
    /// Under the prompt and under the negative one, in one pass or two; none without guidance.
    both: Vec<Pass>,
    watch: Watch<'a>,
    steps: u64,
    /// Why the transformer failed, since samplers only know that it did.
    pub failed: Option<ModelError>,
}

impl<'a> Velocity<'a> {
    /// `text` has the features `[Lt, D]` of the prompt and, where guidance is wanted, of the negative one.
    pub fn new(
        transformer: &'a mut dyn Transformer,
        latents: LatentShape,
        text: &[Tensor],
        (guidance, given): (Guidance, Given),
        watch: Watch<'a>,
    ) -> gallop_model::Result<Self> {
        let pass = |text: &[Tensor]| -> gallop_model::Result<Pass> {
            let specs = text
                .iter()
                .map(|text| Ok(SampleSpec::public(latents, text.dim(0)?)))
                .collect::<Result<Vec<_>>>()?;
            Ok(Pass {
                sequence: TokenSequence::new(transformer.config(), &specs, text[0].device())?,
                text: Tensor::cat(text, 0)?,
            })
        };
        let cond = pass(&text[..1])?;
        let both = match text {
            [_, _] if 2 * cond.sequence.len() <= ONE_PASS => vec![pass(text)?],
            [_, negative] => vec![pass(&text[..1])?, pass(std::slice::from_ref(negative))?],
            _ => Vec::new(),
        };
        Ok(Self {
            transformer,
            guidance,
            given,
            cond,
            both,
            watch,
            steps: 0,
            failed: None,
        })
    }
}

/// The velocities of every clip of a pass, all at the state `x`; `audio` has its audio latents.
fn forward(
    transformer: &mut dyn Transformer,
    pass: &Pass,
    x: &[Tensor],
    audio: &Tensor,
    watch: &mut dyn FnMut(usize) -> gallop_model::Result<()>,
) -> gallop_model::Result<Vec<Vec<Tensor>>> {
    let sequence = &pass.sequence;
    let clips = sequence.samples().len();
    let batch = Batch {
        sequence,
        video: sequence.video_tokens(&vec![x[0].clone(); clips])?,
        audio: sequence.pack(Modality::Audio, &vec![audio.clone(); clips])?,
        text: Some(Text::Features(pass.text.clone())),
        predict_text: false,
    };
    let outputs = transformer.forward(&batch, watch)?;
    let video = outputs.video.map(|tokens| sequence.video_latents(&tokens));
    let audio = match outputs.audio {
        Some(tokens) if x.len() > 1 => sequence.unpack(Modality::Audio, &tokens)?,
        _ => Vec::new(),
    };
    let mut audio = audio.into_iter();
    let video = video.transpose()?.unwrap_or_default().into_iter();
    Ok(video
        .map(|video| std::iter::once(video).chain(audio.next()).collect())
        .collect())
}

impl Field for Velocity<'_> {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
        let audio = self.given.audio.as_ref().or(x.get(1));
        let Some(audio) = audio else {
            candle_core::bail!("a clip without audio latents");
        };
        let passes = match self.guidance.is_off(sigma) {
            true => std::slice::from_ref(&self.cond),
            false => &self.both,
        };
        let mut clips = Vec::with_capacity(2);
        let layers = self.transformer.config().layers.len();
        let (watch, before) = (self.watch, self.steps * layers as u64);
        for (i, pass) in passes.iter().enumerate() {
            // Each pass is its share of the step.
            let mut each = |layer| {
                if watch.cancel.is_cancelled() {
                    return Err(ModelError::Stopped);
                }
                let done = (i * layers + layer) / passes.len();
                if done > 0 {
                    watch.progress.at(before + done as u64);
                }
                Ok(())
            };
            match forward(self.transformer, pass, x, audio, &mut each) {
                Ok(made) => clips.extend(made),
                Err(error) => {
                    self.failed = Some(error);
                    candle_core::bail!("the transformer failed");
                }
            }
        }
        self.steps += 1;
        watch.progress.at(before + layers as u64);
        let mut clips = clips.into_iter();
        match (clips.next(), clips.next()) {
            (Some(cond), None) => Ok(cond),
            (Some(cond), Some(uncond)) => self.guidance.apply(&cond, &uncond, sigma),
            (None, _) => candle_core::bail!("guidance without a negative prompt"),
        }
    }

    fn hold(&mut self, mut x: Vec<Tensor>) -> Result<Vec<Tensor>> {
        if let Some(first) = &self.given.first {
            let rest = x[0].narrow(0, 1, x[0].dim(0)? - 1)?;
            x[0] = Tensor::cat(&[first, &rest], 0)?;
        }
        Ok(x)
    }
}
