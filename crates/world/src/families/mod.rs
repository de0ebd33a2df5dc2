//! The families, one file or folder each.

mod ball;

pub use ball::Ball;
