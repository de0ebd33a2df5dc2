//! The transformer: one sequence of video, audio and text tokens, self-attention only.
//!
//! No timestep enters: the noise level is read from the latents. The output is the velocity of video and
//! audio, and, for models with a vocabulary, the next text token. Weights have the names of the public
//! checkpoint.

mod block;
mod config;
mod heads;
mod matrix;
mod residency;
mod store;
mod work;

use std::sync::Arc;

use candle_core::Tensor;
use gallop_kernels::Precision;

pub(crate) use config::AUDIO_A_FRAME;
pub use config::{
    AttentionKind, DitConfig, LayerKind, MlpKind, PositionStyle, ROPE_THETA, TextConfig,
    VIDEO_SHIFTS, sandwich, video_shifts,
};
pub use matrix::Form;
pub use residency::{MemoryPlan, MemoryRequest};
pub use work::{Attended, Product, Work};

use crate::error::Result;
use crate::tokens::TokenSequence;
use crate::weights::Weights;
use block::Block;
use heads::{Embedders, Heads};
use matrix::MatrixSource;
use store::{Loaded, Store};

/// The text of a batch.
#[derive(Clone, Debug)]
pub enum Text {
    /// Ids (u32) [Lt], for models with a vocabulary.
    Ids(Tensor),
    /// Features of a text encoder [Lt, channels].
    Features(Tensor),
}

/// The numbers of a packed sequence; a part is there if the sequence has such tokens.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// The structure of the sequence.
    pub sequence: &'a TokenSequence,
    /// [Lv, C * patch], as [`TokenSequence::video_tokens`] makes them.
    pub video: Option<Tensor>,
    /// [La, C].
    pub audio: Option<Tensor>,
    /// The text.
    pub text: Option<Text>,
    /// Whether the next text tokens are wanted too.
    pub predict_text: bool,
}

/// What the transformer says of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Velocity [Lv, patch * C], in the order of [`TokenSequence::video_targets`].
    pub video: Option<Tensor>,
    /// Velocity [La, C].
    pub audio: Option<Tensor>,
    /// Logits of the next token [Lt, vocabulary], if wanted.
    pub text_logits: Option<Tensor>,
}

/// The layers, all in memory, or such as stay and such as are read anew each time they are used.
enum Layers {
    Resident(Vec<Arc<Block>>),
    Stored(Store),
}

/// The transformer.
pub struct Dit {
    config: DitConfig,
    precision: Precision,
    embedders: Embedders,
    layers: Layers,
    heads: Heads,
}

impl Dit {
    /// A transformer with all its weights in memory. Matrices keep their stored number type; products are
    /// of bf16 inputs, or as [`Self::with_precision`] says.
    ///
    /// # Errors
    /// When the configuration is not possible, or a weight is missing or of a wrong shape.
    pub fn new(config: &DitConfig, weights: &Weights) -> Result<Self> {
        config.check()?;
        let source = MatrixSource {
            weights: weights.clone(),
            form: None,
            look: false,
        };
        let blocks = (0..config.layers.len())
            .map(|i| Block::new(config, i, &source).map(Arc::new))
            .collect::<Result<Vec<_>>>()?;
        Self::of(config, weights, Layers::Resident(blocks))
    }

    /// A transformer that reads each layer when it comes to it and forgets it after: for models larger
    /// than the memory.
    ///
    /// # Errors
    /// As [`Self::new`], but faults of the layers are found on the way.
    pub fn streamed(config: &DitConfig, weights: &Weights) -> Result<Self> {
        config.check()?;
        let stays = vec![false; config.layers.len()];
        let store = Store::new(config, weights, Form::Stored, stays)?;
        Self::of(config, weights, Layers::Stored(store))
    }

    /// A transformer kept in memory as `plan` says, which was made for the same weights. Matrices of files are used
    /// where they lie, in the number type that they have there; the next layer is read while one is in use.
    /// The numbers that come out do not depend on which layers stay.
    ///
    /// # Errors
    /// As [`Self::new`], but faults of the layers are found on the way: numbers that are not finite too.
    pub fn planned(config: &DitConfig, weights: &Weights, plan: &MemoryPlan) -> Result<Self> {
        config.check()?;
        let stays = (0..config.layers.len()).map(|i| plan.stays(i)).collect();
        let store = Store::new(config, weights, plan.form(), stays)?;
        Self::of(config, weights, Layers::Stored(store))
    }

    fn of(config: &DitConfig, weights: &Weights, layers: Layers) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            precision: Precision::Bf16,
            embedders: Embedders::new(config, weights)?,
            layers,
            heads: Heads::new(config, weights)?,
        })
    }

    /// The same transformer with another precision of its matrix products.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Its configuration.
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// Velocities, and logits of the next text tokens if wanted.
    ///
    /// # Errors
    /// When the batch does not have the tokens that its sequence says, or a streamed layer cannot be read.
    pub fn forward(&self, batch: &Batch) -> Result<Outputs> {
        self.forward_watched(batch, &mut |_| Ok(()))
    }

    /// As [`Self::forward`], for large models: `watch` hears of each layer before it is run, and stops the work by an
    /// error.
    ///
    /// # Errors
    /// As [`Self::forward`], and by `watch`.
    pub fn forward_watched(
        &self,
        batch: &Batch,
        watch: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Outputs> {
        let mut x = self.embedders.forward(batch)?;
        for i in 0..self.config.layers.len() {
            watch(i)?;
            let layer = self.layer(i)?;
            let precision = self.layer_precision(i);
            x = layer.block()?.forward(&x, batch.sequence, precision)?;
        }
        Ok(self.heads.forward(&x, batch)?)
    }

    /// The first and the last layer bear 8-bit floats badly, and do not get them.
    fn layer_precision(&self, i: usize) -> Precision {
        match i == 0 || i + 1 == self.config.layers.len() {
            true => self.precision.wider(),
            false => self.precision,
        }
    }

    fn layer(&self, i: usize) -> Result<Loaded> {
        match &self.layers {
            Layers::Resident(blocks) => Ok(Loaded::Kept(blocks[i].clone())),
            Layers::Stored(store) => store.layer(i),
        }
    }
}
