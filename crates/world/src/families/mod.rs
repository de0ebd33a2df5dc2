//! The families, one file or folder each.

mod ambience;
mod ball;
mod face;
mod fireworks;
mod horse;
mod instrument;
mod vehicle;

pub use ball::Ball;
pub use face::Face;
pub use fireworks::Fireworks;
pub use horse::Horse;
pub use instrument::Struck;
pub use vehicle::Vehicle;

pub(crate) use ambience::ambience;
