//! The public transformer as the field that a sampler follows.

use candle_core::{Device, Result, Tensor};
use gallop_core::LatentShape;
use gallop_diffusion::{Field, Guidance};
use gallop_model::dit::{Batch, Text};
use gallop_model::tokens::{Modality, SampleSpec, TokenSequence};

use super::transformer::Transformer;
use super::watch::Watch;

/// Tokens up to which a guided step runs both its prompts in one pass over the weights.
const ONE_PASS: usize = 1 << 14;

/// What is given beside the noise.
#[derive(Clone, Default)]
pub(super) struct Given {
    /// The first latent frame `[1, H, W, C]`.
    pub first: Option<Tensor>,
    /// Audio latents `[A, C]`, which are then no part of the state.
    pub audio: Option<Tensor>,
}

/// Clips that go through the transformer together, the same latents under one or two prompts.
struct Pass {
    sequence: TokenSequence,
    /// `[Lt, D]`, all prompts.
    text: Tensor,
}

/// Velocities of one clip. The state is video latents `[F, H, W, C]` and, unless it is given, audio latents
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
                sequence: TokenSequence::new(transformer.config(), &specs, &Device::Cpu)?,
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
        })
    }
}

/// The velocities of every clip of a pass, all at the state `x`; `audio` has its audio latents.
fn forward(
    transformer: &mut dyn Transformer,
    pass: &Pass,
    x: &[Tensor],
    audio: &Tensor,
) -> gallop_model::Result<Vec<Vec<Tensor>>> {
    let sequence = &pass.sequence;
    let clips = sequence.samples().len();
    let outputs = transformer.forward(&Batch {
        sequence,
        video: sequence.video_tokens(&vec![x[0].clone(); clips])?,
        audio: sequence.pack(Modality::Audio, &vec![audio.clone(); clips])?,
        text: Some(Text::Features(pass.text.clone())),
        predict_text: false,
    })?;
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
        for pass in passes {
            if self.watch.cancel.is_cancelled() {
                candle_core::bail!("cancelled");
            }
            let made = forward(self.transformer, pass, x, audio);
            clips.extend(made.map_err(candle_core::Error::wrap)?);
        }
        self.steps += 1;
        self.watch.progress.at(self.steps);
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
