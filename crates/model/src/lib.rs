//! The networks: the transformer and its tokens, the autoencoders, the tokenizers, and their weights.
//!
//! Knows no schedule and no file but weights. Shapes in comments: B batch, L tokens, D width, N heads,
//! K head dim, C channels, F/H/W latent grid, A audio latents.
#![warn(missing_docs)]

pub mod dit;
mod error;
pub mod pickle;
pub mod public;
mod plain;
pub mod positions;
mod text;
pub mod tokens;
mod weights;

pub use error::{ModelError, Result};
pub use text::{Special, TextTokenizer};
pub use weights::{Init, Vars, WeightFiles, Weights, save_weights};
