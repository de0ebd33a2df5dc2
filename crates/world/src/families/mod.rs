//! The families, one file or folder each.

mod ambience;
mod ball;
mod instrument;

pub use ball::Ball;
pub use instrument::Struck;

pub(crate) use ambience::ambience;
