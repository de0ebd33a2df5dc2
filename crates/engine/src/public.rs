//! The full-size model of the public weights: from a request to a clip, stage by stage.
//!
//! Text is encoded, then a first picture and a given sound, then the transformer denoises, another one
//! refines to a larger size if that is asked for, and the decoders give sound and pictures. Each stage's
//! weights are loaded when it begins and let go when it ends, so that no two stages are in memory at once.
//!
//! Everything follows the public code (`GAIR-NLP/daVinci-MagiHuman`, `inference/pipeline`); noise comes in
//! from outside, so that two programs given the same noise can be compared.

mod bench;
mod estimate;
mod field;
mod pipeline;
mod plan;
mod prompt;
mod sound;
mod transformer;
mod watch;

pub use bench::{Case, Timed, Timing};
pub use estimate::{Estimate, StageEstimate, operations_per_second};
pub use pipeline::{Inputs, Latents, Noise, PublicPipeline, check_parts, gaussian_noise};
pub use plan::{
    AUDIO_CHANNELS, Decoder, PublicPlan, PublicRequest, REFINE_STEPS, Refine, base_size,
    picture_sizes,
};
pub use prompt::{Line, NEGATIVE_PROMPT, assemble};
pub use sound::{sound_for_encoder, wave_to_audio};
pub use transformer::{LoadTransformer, Planned, Transformer};
pub use watch::Watch;

/// Frames, and audio latents, a second of the full-size model.
pub const PUBLIC_FPS: usize = 25;
