//! The networks: the transformer and its tokens, the autoencoders, the tokenizers, and their weights.
//!
//! Knows no schedule and no file but weights. Shapes in comments: B batch, L tokens, D width, N heads,
//! K head dim, C channels, F/H/W latent grid, A audio latents.
#![warn(missing_docs)]

mod ae_layers;
pub mod audio_ae;
pub mod disk;
pub mod dit;
mod error;
pub mod lora;
pub mod memory;
mod numbers;
pub mod pickle;
pub mod positions;
pub mod public;
pub mod quant;
pub mod text;
pub mod tokens;
pub mod upscaler;
pub mod video_ae;
mod weights;

pub use error::{ModelError, Result};
pub use text::{Special, TextTokenizer};
pub use weights::{Init, MappedMatrix, Vars, WeightFiles, Weights, save_weights};
