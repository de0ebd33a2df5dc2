//! One packed sequence of tokens: which there are, where they are, what each sees.
//!
//! All video tokens come first, then all audio, then all text, and within each the samples in turn: every
//! modality is one run of rows whatever the number of samples, and a single sample has the order of the
//! public weights. Samples do not see each other.
//!
//! A task is data: which latents are given. Given latents enter as they are, the others as noise; nothing
//! marks them, since the network reads the noise level from the latents themselves. Their loss has weight
//! 0, and a sampler puts them back before each step.

mod patches;
mod plan;
mod spec;

use std::ops::Range;

use candle_core::{DType, Device, Tensor, bail};
use gallop_kernels::{AttentionPlan, Segments};

pub use patches::{PatchOrder, patchify, unpatchify};
pub use spec::{SampleSpec, Task, TextRole};

use crate::dit::{AttentionKind, DitConfig};
use crate::error::{ModelError, Result};
use crate::positions::{Coordinates, Grid, rope_tables};

/// What a token is of; the number is its group of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// A patch of video latents.
    Video = 0,
    /// An audio latent.
    Audio = 1,
    /// A piece of text.
    Text = 2,
}

impl Modality {
    /// In the order of the sequence.
    pub const ALL: [Self; 3] = [Self::Video, Self::Audio, Self::Text];
}

/// Where one sample's tokens are among all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it was made from.
    pub spec: SampleSpec,
    /// Rows of each modality.
    pub rows: [Range<usize>; 3],
    /// Frames, rows and columns of video tokens.
    pub grid: [usize; 3],
}

/// The structure of a packed sequence of samples, without their numbers.
#[derive(Clone, Debug)]
pub struct TokenSequence {
    samples: Vec<Sample>,
    patch: [usize; 3],
    counts: [usize; 3],
    /// The rows of each modality, as groups of weights.
    pub(crate) by_modality: Segments,
    /// All rows as one group.
    pub(crate) shared: Segments,
    pub(crate) full: AttentionPlan,
    pub(crate) local: Option<AttentionPlan>,
    pub(crate) in_step: Option<AttentionPlan>,
    /// Which audio latent of its video latent each audio token is, `[La]`, where there are any that are told.
    pub(crate) audio_phases: Option<Tensor>,
    /// [L, 3 * K / 8].
    pub(crate) sin: Tensor,
    /// [L, 3 * K / 8].
    pub(crate) cos: Tensor,
}

impl TokenSequence {
    /// Packs samples for a transformer of this configuration.
    ///
    /// # Errors
    /// When there is no token, or a latent grid is not a multiple of the patch.
    pub fn new(config: &DitConfig, specs: &[SampleSpec], device: &Device) -> Result<Self> {
        let samples = place(config, specs)?;
        let counts = [0, 1, 2].map(|m| samples.iter().map(|s| s.rows[m].len()).sum::<usize>());
        let rows = counts.iter().sum();
        if rows == 0 {
            return Err(ModelError::Config("a sequence without tokens".into()));
        }
        let (sin, cos) = rope_tables(
            coordinates(config, &samples),
            config.head_dim,
            config.rope_theta,
        );
        let shape = (rows, 3 * (config.head_dim / 8));
        let mut parts = Vec::new();
        let mut at = 0;
        for (group, count) in counts.into_iter().enumerate() {
            parts.push((at..at + count, group));
            at += count;
        }
        let of_kind = |kind| {
            let any = config.layers.iter().any(|layer| layer.attention == kind);
            any.then(|| plan::attention(config, &samples, kind))
        };
        let told = config.audio_phases().filter(|_| counts[1] > 0);
        let audio_phases = told.map(|phases| {
            let lengths = samples
                .iter()
                .map(|s| s.rows[Modality::Audio as usize].len());
            let own = lengths.flat_map(|length| (0..length).map(|i| (i % phases) as u32));
            Tensor::from_iter(own, device)
        });
        Ok(Self {
            patch: config.patch,
            counts,
            by_modality: Segments::new(parts)?,
            shared: Segments::single(rows),
            full: plan::attention(config, &samples, AttentionKind::Full),
            local: of_kind(AttentionKind::Local),
            in_step: of_kind(AttentionKind::InStep),
            audio_phases: audio_phases.transpose()?,
            sin: Tensor::from_vec(sin, shape, device)?,
            cos: Tensor::from_vec(cos, shape, device)?,
            samples,
        })
    }

    /// The samples, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// All tokens, L.
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Never: a sequence has tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of one modality, over all samples.
    pub fn count(&self, modality: Modality) -> usize {
        self.counts[modality as usize]
    }

    /// The rows of a modality, over all samples.
    pub fn rows(&self, modality: Modality) -> Range<usize> {
        let start = self.counts[..modality as usize].iter().sum();
        start..start + self.count(modality)
    }

    /// The rows of a sample within the tensor of one modality.
    pub fn local_rows(&self, sample: usize, modality: Modality) -> Range<usize> {
        let rows = &self.samples[sample].rows[modality as usize];
        let offset = self.rows(modality).start;
        rows.start - offset..rows.end - offset
    }

    /// Video latents, one [F, H, W, C] a sample, as the network's input tokens [Lv, C * patch].
    pub fn video_tokens(&self, latents: &[Tensor]) -> candle_core::Result<Option<Tensor>> {
        self.pack_video(latents, PatchOrder::Input)
    }

    /// Video latents, one [F, H, W, C] a sample, in the order of the network's output: for targets of the
    /// loss.
    pub fn video_targets(&self, latents: &[Tensor]) -> candle_core::Result<Option<Tensor>> {
        self.pack_video(latents, PatchOrder::Output)
    }

    fn pack_video(
        &self,
        latents: &[Tensor],
        order: PatchOrder,
    ) -> candle_core::Result<Option<Tensor>> {
        let tokens = latents
            .iter()
            .map(|x| patchify(x, self.patch, order))
            .collect::<candle_core::Result<Vec<_>>>()?;
        self.pack(Modality::Video, &tokens)
    }

    /// The network's video output [Lv, C * patch] as latents [F, H, W, C], one a sample that has video.
    pub fn video_latents(&self, tokens: &Tensor) -> candle_core::Result<Vec<Tensor>> {
        (0..self.samples.len())
            .filter(|&i| !self.local_rows(i, Modality::Video).is_empty())
            .map(|i| {
                let rows = self.local_rows(i, Modality::Video);
                let tokens = tokens.narrow(0, rows.start, rows.len())?;
                unpatchify(
                    &tokens,
                    self.samples[i].grid,
                    self.patch,
                    PatchOrder::Output,
                )
            })
            .collect()
    }

    /// Audio latents or text, one [length, ...] a sample, joined.
    pub fn pack(
        &self,
        modality: Modality,
        tensors: &[Tensor],
    ) -> candle_core::Result<Option<Tensor>> {
        let some: Vec<&Tensor> = tensors.iter().filter(|t| t.elem_count() > 0).collect();
        let rows: usize = some.iter().map(|t| t.dims()[0]).sum();
        if rows != self.count(modality) {
            bail!("{rows} {modality:?} tokens for {}", self.count(modality));
        }
        match some.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some((*one).clone())),
            many => Ok(Some(Tensor::cat(many, 0)?)),
        }
    }

    /// One tensor a sample that has this modality, from one over all samples.
    pub fn unpack(&self, modality: Modality, tokens: &Tensor) -> candle_core::Result<Vec<Tensor>> {
        (0..self.samples.len())
            .map(|i| self.local_rows(i, modality))
            .filter(|rows| !rows.is_empty())
            .map(|rows| tokens.narrow(0, rows.start, rows.len()))
            .collect()
    }

    /// 1 for each video token to be denoised, 0 for each given one: [Lv].
    pub fn video_weight(&self, device: &Device) -> candle_core::Result<Tensor> {
        let mut weight = Vec::with_capacity(self.count(Modality::Video));
        for sample in &self.samples {
            let [frames, height, width] = sample.grid;
            for frame in 0..frames {
                let noisy = !sample.spec.is_frame_given(frame * self.patch[0]);
                weight.extend(std::iter::repeat_n(
                    f32::from(u8::from(noisy)),
                    height * width,
                ));
            }
        }
        Tensor::new(weight, device)
    }

    /// 1 for each audio token to be denoised, 0 for each given one: [La].
    pub fn audio_weight(&self, device: &Device) -> candle_core::Result<Tensor> {
        let mut weight = Vec::with_capacity(self.count(Modality::Audio));
        for sample in &self.samples {
            let spec = &sample.spec;
            weight.extend((0..spec.latents.audio).map(|i| {
                let noisy = !spec.is_audio_given(i);
                f32::from(u8::from(noisy))
            }));
        }
        Tensor::new(weight, device)
    }

    /// For text `ids` [Lt] (u32): the id that follows each within its sample, and weights [Lt] that are 1
    /// where there is one to predict and the sample's [`TextRole`] allows it.
    pub fn next_text(&self, ids: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let ids = ids.to_dtype(DType::U32)?;
        let mut next = ids.to_vec1::<u32>()?;
        let mut weight = vec![0.0_f32; next.len()];
        for i in 0..self.samples.len() {
            let rows = self.local_rows(i, Modality::Text);
            let predicts = self.samples[i].spec.text_role != TextRole::Everything;
            for row in rows.start..rows.end.saturating_sub(1) {
                next[row] = next[row + 1];
                weight[row] = f32::from(u8::from(predicts));
            }
        }
        Ok((
            Tensor::new(next, ids.device())?,
            Tensor::new(weight, ids.device())?,
        ))
    }

    /// The nine numbers of every token, for checking.
    pub fn coordinates(&self, config: &DitConfig) -> Vec<Coordinates> {
        coordinates(config, &self.samples).collect()
    }

    /// Sines [L, R] and cosines [L, R] of the rotary angles, R = 3 * K / 8.
    pub fn rope(&self) -> (&Tensor, &Tensor) {
        (&self.sin, &self.cos)
    }

    /// What each token sees in a layer of this kind.
    pub fn plan(&self, kind: AttentionKind) -> &AttentionPlan {
        let plan = match kind {
            AttentionKind::Full => None,
            AttentionKind::Local => self.local.as_ref(),
            AttentionKind::InStep => self.in_step.as_ref(),
        };
        plan.unwrap_or(&self.full)
    }
}

/// Gives every sample its rows.
fn place(config: &DitConfig, specs: &[SampleSpec]) -> Result<Vec<Sample>> {
    let mut samples = Vec::with_capacity(specs.len());
    for spec in specs {
        samples.push(Sample {
            spec: spec.clone(),
            rows: [0..0, 0..0, 0..0],
            grid: spec.grid(config.patch)?,
        });
    }
    let mut at = 0;
    for modality in Modality::ALL {
        for sample in &mut samples {
            let count = match modality {
                Modality::Video => sample.grid.iter().product(),
                Modality::Audio => sample.spec.latents.audio,
                Modality::Text => sample.spec.text,
            };
            sample.rows[modality as usize] = at..at + count;
            at += count;
        }
    }
    Ok(samples)
}

fn coordinates<'a>(
    config: &'a DitConfig,
    samples: &'a [Sample],
) -> impl Iterator<Item = Coordinates> + 'a {
    let style = config.positions;
    Modality::ALL.into_iter().flat_map(move |modality| {
        samples.iter().flat_map(move |sample| {
            let grid = match modality {
                Modality::Video => Grid::video(sample.grid),
                Modality::Audio => Grid::audio(style, sample.spec.latents.audio, sample.grid[0]),
                Modality::Text => Grid::text(style, sample.spec.text),
            };
            grid.coordinates().collect::<Vec<_>>()
        })
    })
}
