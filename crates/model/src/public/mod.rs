//! The parts around the transformer of the public full-size model, each exact to its public code:
//! video autoencoders, audio autoencoder, text encoder, and the folder that they lie in.

mod check;
mod error;
mod folder;
mod init;
mod layers;
pub mod manifest;
mod memory;
pub mod oobleck;
mod picture;
mod preset;
pub mod refine;
pub mod resample;
pub mod source;
mod stages;
pub mod t5gemma;
pub mod turbo_vaed;
pub mod wan_vae;

pub use check::StageWork;
pub use error::{PublicError, Result};
pub use folder::{Inventory, Part, PartState, PublicModel};
pub use init::{RandomModel, RandomPart, write_random_part};
pub use memory::StageBytes;
pub use picture::Picture;
pub use preset::Preset;
pub use stages::TextStage;
