//! Metrics over finished clips: what a viewer sees and hears, never how it was made.
//!
//! Knows no tensor library and no model. Its detectors are small networks of its own ([`net`])
//! that learn from clips which the world renders.
#![warn(missing_docs)]

pub mod classifier;
mod detectors;
mod error;
pub mod features;
mod file;
pub mod finder;
mod fit;
pub mod impacts;
mod kept;
mod lessons;
pub mod lips;
mod measure;
pub mod motion;
pub mod namer;
pub mod net;
pub mod onsets;
pub mod paint;
pub mod plane;
mod report;
mod rises;
mod seams;
pub mod timbre;
pub mod tracks;
pub mod voice;

pub use detectors::{ATTRIBUTES, Detectors, label};
pub use error::EvalError;
pub use features::Seen;
pub use fit::{Coding, Course, Effort};
pub use kept::{KEPT_MS, Kept};
pub use lips::{Lips, Reader, Talk};
pub use measure::{Measures, Named, STEPS_SEEN, Sync, measure};
pub use report::{Row, table};
pub use seams::seam_ratio;
