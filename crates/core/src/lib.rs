//! What every other crate speaks of: clips, shapes, requests, plans, progress, and the errors a user sees.
//!
//! Knows no tensor, no file format and no flag.
#![warn(missing_docs)]

mod clip;
mod error;
mod progress;
mod request;
mod shape;

pub use clip::{Audio, Clip, Frame};
pub use error::{Result, UserError};
pub use progress::{Cancel, Progress, Silent};
pub use request::{
    DURATIONS, Plan, Ratio, Request, Resolution, base_size, check_lines, check_range,
};
pub use shape::{ClipShape, LatentShape, PixelSize, Strides};

/// Frames a second of every clip Gallop makes.
pub const FPS: usize = 24;
/// Samples a second and channel of every clip Gallop makes.
pub const SAMPLE_RATE: usize = 48_000;
/// Samples a channel that last as long as one frame.
pub const SAMPLES_PER_FRAME: usize = SAMPLE_RATE / FPS;
