//! Metrics over finished clips: what a viewer sees and hears, never how it was made.
//!
//! Knows no tensor and no model.
#![warn(missing_docs)]

pub mod blobs;
pub mod detector;
mod detectors;
pub mod features;
pub mod impacts;
mod lips;
mod measure;
pub mod motion;
pub mod onsets;
pub mod plane;
mod report;

pub use detectors::{ATTRIBUTES, Detectors, label};
pub use lips::{Lips, lips};
pub use measure::{Measures, Named, Sync, measure};
pub use report::{Row, table};
