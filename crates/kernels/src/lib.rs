//! The fast operations, forward and backward, as candle custom ops.

mod conv;
pub mod gemm;
mod isa;
mod linear;
mod segments;
mod storage;

pub use conv::{ConvSpec, Padding, conv};
pub use gemm::Precision;
pub use isa::{Isa, UnsupportedIsa, isa, set_isa};
pub use linear::linear;
pub use segments::Segments;
