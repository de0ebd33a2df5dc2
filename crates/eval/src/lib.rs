//! Metrics over finished clips: what a viewer sees and hears, never how it was made.
//!
//! Knows no tensor and no model.

pub mod blobs;
pub mod detector;
pub mod features;
pub mod impacts;
pub mod motion;
pub mod onsets;
pub mod plane;
