//! The text encoder: the encoder half of T5Gemma, and its tokenizer.
//!
//! Layers are read from the checkpoint when they are used and let go afterwards, so that an encoder of
//! 9 billion weights runs in the memory of one layer; several texts share one pass over the layers.

mod config;
mod layer;
mod tokenizer;

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
pub use config::T5GemmaConfig;
use gallop_kernels::{AttentionPlan, Precision, Segments, rms_norm};
use layer::{Layer, Rotation, plan};
pub use tokenizer::GemmaTokenizer;

use super::{
    error::{PublicError, Result},
    source::{Checkpoint, TensorSource},
};

/// The most tokens of a text that the full-size transformer is given.
pub const MAX_TEXT_TOKENS: usize = 640;

/// The text encoder over a checkpoint.
pub struct T5GemmaEncoder<'a> {
    weights: Checkpoint<'a>,
    config: T5GemmaConfig,
    precision: Precision,
}

/// A text of tokens, some of which may be padding.
#[derive(Clone, Debug)]
pub struct Text {
    ids: Vec<u32>,
    /// Runs of tokens that count.
    valid: Vec<Range<usize>>,
}

impl Text {
    /// A text all of whose tokens count.
    pub fn new(ids: Vec<u32>) -> Self {
        let all = 0..ids.len();
        Self {
            ids,
            valid: Vec::from([all]),
        }
    }

    /// A text with padding: tokens where `mask` is false are seen by none.
    ///
    /// # Errors
    /// When the mask has another length, or no token counts.
    pub fn masked(ids: Vec<u32>, mask: &[bool]) -> Result<Self> {
        let mut valid: Vec<Range<usize>> = Vec::new();
        for (i, _) in mask.iter().enumerate().filter(|&(_, &counts)| counts) {
            match valid.last_mut() {
                Some(run) if run.end == i => run.end += 1,
                _ => valid.push(i..i + 1),
            }
        }
        if mask.len() != ids.len() || valid.is_empty() {
            let what = "a mask needs one truth value a token, and one that is true";
            return Err(PublicError::Input(what.into()));
        }
        Ok(Self { ids, valid })
    }
}

/// The features of a text while it goes through the layers.
struct Passage {
    x: Tensor,
    rotation: Rotation,
    valid: Vec<Range<usize>>,
}

impl Passage {
    fn plan(&self, layer: usize, config: &T5GemmaConfig) -> Result<AttentionPlan> {
        let tokens = self.x.dim(0)?;
        Ok(plan(tokens, &self.valid, config.window(layer), config))
    }
}

impl<'a> T5GemmaEncoder<'a> {
    /// An encoder over `encoder.*` or `model.encoder.*`.
    ///
    /// # Errors
    /// When the checkpoint holds no such encoder of this configuration's width.
    pub fn new(
        source: &'a dyn TensorSource,
        config: T5GemmaConfig,
        precision: Precision,
    ) -> Result<Self> {
        let all = Checkpoint::new(source);
        let inner = all.at("model").at("encoder");
        let weights = match inner.has("embed_tokens.weight") {
            true => inner,
            false => all.at("encoder"),
        };
        let shape = [config.vocab_size, config.hidden_size];
        weights.expect("embed_tokens.weight", &shape)?;
        Ok(Self {
            weights,
            config,
            precision,
        })
    }

    /// The same encoder, computing on a device.
    pub fn on(self, device: &Device) -> Self {
        Self {
            weights: self.weights.on(device),
            ..self
        }
    }

    /// The last hidden state `[L, D]` of each text.
    ///
    /// # Errors
    /// When a text is empty or has a token beyond the vocabulary, or a weight is missing, of a wrong
    /// shape, or not finite.
    pub fn encode(&self, texts: &[Text]) -> Result<Vec<Tensor>> {
        let passages = texts.iter().map(|text| self.begin(text));
        let mut passages = passages.collect::<Result<Vec<_>>>()?;
        for i in 0..self.config.num_hidden_layers {
            let weights = self.weights.at("layers").at(i);
            let layer = Layer::load(&weights, &self.config, self.precision)?;
            for passage in &mut passages {
                let plan = passage.plan(i, &self.config)?;
                passage.x = layer.apply(&passage.x, &passage.rotation, &plan, &self.config)?;
            }
        }
        let norm = self
            .weights
            .f32_of("norm.weight", &[self.config.hidden_size])?;
        let finish = |passage: Passage| {
            let all = Segments::single(passage.x.dim(0)?);
            Ok(rms_norm(&passage.x, &norm, &all, self.config.rms_norm_eps)?)
        };
        passages.into_iter().map(finish).collect()
    }

    fn begin(&self, text: &Text) -> Result<Passage> {
        let beyond = |&id: &u32| id as usize >= self.config.vocab_size;
        if text.ids.is_empty() || text.ids.iter().any(beyond) {
            let what = "a text without tokens, or with one beyond the vocabulary";
            return Err(PublicError::Input(what.into()));
        }
        let rows = self.weights.rows("embed_tokens.weight", &text.ids)?;
        let scale = (self.config.hidden_size as f64).sqrt();
        Ok(Passage {
            x: (rows * scale)?,
            rotation: Rotation::new(text.ids.len(), &self.config, self.weights.device())?,
            valid: text.valid.clone(),
        })
    }
}

/// Features `[L, D]` as the full-size transformer is given them: rounded to 16-bit floats, and cut or
/// filled with zeros to `length` rows; and how many rows count.
///
/// # Errors
/// When memory runs out.
pub fn pad_features(features: &Tensor, length: usize) -> Result<(Tensor, usize)> {
    let (tokens, width) = features.dims2()?;
    let device = features.device();
    let features = features.to_device(&Device::Cpu)?;
    let features = features.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
    let counted = tokens.min(length);
    let features = features.narrow(0, 0, counted)?;
    let rest = Tensor::zeros((length - counted, width), DType::F32, &Device::Cpu)?;
    let padded = Tensor::cat(&[features, rest], 0)?;
    Ok((padded.to_device(device)?, counted))
}
