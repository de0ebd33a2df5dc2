//! From a plan to a clip: condition, sample, decode.
//!
//! Knows no flag and nothing of training.
#![warn(missing_docs)]

mod denoiser;
mod detail;
mod error;
mod foal;
mod generate;
pub mod public;

pub use error::{EngineError, Result};
pub use foal::{Foal, FoalInfo, Part, SECONDS, Sampler, Sampling, Trained, parts};
pub use generate::{Sink, chunk_starts, generate, latent_starts, reconstruct, sound_for};
