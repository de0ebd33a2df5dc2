//! From tokens to the stream and back. All of it in f32, as in the public code.

use candle_core::{Result, Tensor, bail};
use gallop_kernels::{Precision, Segments, linear, rms_norm};

use super::block::NORM_EPS;
use super::{Batch, DitConfig, Outputs, Text};
use crate::error;
use crate::tokens::Modality;
use crate::weights::{Init, Weights};

/// Tokens of each modality -> the stream.
pub(super) struct Embedders {
    video: Embedder,
    audio: Embedder,
    text: Embedder,
    /// [vocabulary, channels].
    table: Option<Tensor>,
    /// What an audio token is told of its place within a video latent, [phases, D].
    phases: Option<Tensor>,
}

struct Embedder {
    weight: Tensor,
    bias: Tensor,
}

impl Embedder {
    fn new(weights: &Weights, name: &str, size: (usize, usize)) -> error::Result<Self> {
        let weights = weights.at("adapter").at(name);
        let init = Init::Normal(1.0 / (size.1 as f64).sqrt());
        Ok(Self {
            weight: weights.get_f32(size, "weight", init)?,
            bias: weights.get_f32(size.0, "bias", Init::Zeros)?,
        })
    }

    /// [l, C] -> [l, D].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = Segments::single(x.dim(0)?);
        linear(x, &self.weight, Some(&self.bias), &rows, Precision::F32)
    }
}

impl Embedders {
    pub(super) fn new(config: &DitConfig, weights: &Weights) -> error::Result<Self> {
        let new = |name, channels| Embedder::new(weights, name, (config.width, channels));
        let table = config.text.vocabulary.map(|vocabulary| {
            let size = (vocabulary, config.text.channels);
            weights.get_f32(size, "text_embedding.weight", Init::Normal(1.0))
        });
        // From zeros, so that a transformer that had none goes on as it was.
        let phases = config.audio_phases().map(|phases| {
            let size = (phases, config.width);
            weights.get_f32(size, "adapter.audio_phase.weight", Init::Zeros)
        });
        Ok(Self {
            video: new("video_embedder", config.video_token_channels())?,
            audio: new("audio_embedder", config.audio_channels)?,
            text: new("text_embedder", config.text.channels)?,
            table: table.transpose()?,
            phases: phases.transpose()?,
        })
    }

    /// [L, D].
    pub(super) fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let text = match (&batch.text, &self.table) {
            (Some(Text::Ids(ids)), Some(table)) => Some(table.index_select(ids, 0)?),
            (Some(Text::Ids(_)), None) => bail!("this transformer takes text features, not ids"),
            (Some(Text::Features(_)), Some(_)) => bail!("this transformer takes text ids"),
            (Some(Text::Features(features)), None) => Some(features.clone()),
            (None, _) => None,
        };
        let parts = [
            (Modality::Video, &batch.video, &self.video),
            (Modality::Audio, &batch.audio, &self.audio),
            (Modality::Text, &text, &self.text),
        ];
        let mut embedded = Vec::with_capacity(parts.len());
        for (modality, tokens, embedder) in parts {
            let count = tokens.as_ref().map_or(Ok(0), |t| t.dim(0))?;
            if count != batch.sequence.count(modality) {
                let want = batch.sequence.count(modality);
                bail!("{count} {modality:?} tokens in a sequence with {want}");
            }
            let Some(tokens) = tokens.as_ref().filter(|_| count > 0) else {
                continue;
            };
            let mut stream = embedder.forward(tokens)?;
            let told = (&self.phases, &batch.sequence.audio_phases);
            if let (Modality::Audio, (Some(phases), Some(own))) = (modality, told) {
                stream = (stream + phases.index_select(own, 0)?)?;
            }
            embedded.push(stream);
        }
        Tensor::cat(&embedded, 0)
    }
}

/// The stream -> velocities and logits.
pub(super) struct Heads {
    video: Head,
    audio: Head,
    text: Option<Head>,
}

struct Head {
    norm: Tensor,
    linear: Tensor,
}

impl Head {
    /// `channels` outputs; a head begins at zero, so that the first steps of training do no harm.
    fn new(weights: &Weights, modality: &str, size: (usize, usize)) -> error::Result<Self> {
        let norm = weights.at(format!("final_norm_{modality}"));
        let linear = weights.at(format!("final_linear_{modality}"));
        Ok(Self {
            norm: norm.get_f32(size.1, "weight", Init::Zeros)?,
            linear: linear.get_f32(size, "weight", Init::Zeros)?,
        })
    }

    /// [l, D] -> [l, C].
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = Segments::single(x.dim(0)?);
        let x = rms_norm(x, &self.norm, &rows, NORM_EPS)?;
        linear(&x, &self.linear, None, &rows, Precision::F32)
    }
}

impl Heads {
    pub(super) fn new(config: &DitConfig, weights: &Weights) -> error::Result<Self> {
        let new = |modality, channels| Head::new(weights, modality, (channels, config.width));
        Ok(Self {
            video: new("video", config.video_token_channels())?,
            audio: new("audio", config.audio_channels)?,
            text: config.text.vocabulary.map(|v| new("text", v)).transpose()?,
        })
    }

    /// From the stream [L, D].
    pub(super) fn forward(&self, x: &Tensor, batch: &Batch) -> Result<Outputs> {
        let sequence = batch.sequence;
        let part = |modality, head: Option<&Head>| {
            let rows = sequence.rows(modality);
            match head.filter(|_| !rows.is_empty()) {
                None => Ok(None),
                Some(head) => head
                    .forward(&x.narrow(0, rows.start, rows.len())?)
                    .map(Some),
            }
        };
        let text = self.text.as_ref().filter(|_| batch.predict_text);
        Ok(Outputs {
            video: part(Modality::Video, Some(&self.video))?,
            audio: part(Modality::Audio, Some(&self.audio))?,
            text_logits: part(Modality::Text, text)?,
        })
    }
}
