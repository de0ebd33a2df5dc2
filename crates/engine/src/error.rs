//! What can go wrong between a plan and its clip.

use gallop_core::UserError;
use gallop_model::{ModelError, public::PublicError};
use thiserror::Error;

/// `Result` with an [`EngineError`].
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why no clip was made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// Something the user can mend.
    #[error(transparent)]
    User(#[from] UserError),
    /// Weights that are missing, broken or of another model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A part of the public model that is missing, broken or of another shape.
    #[error(transparent)]
    Public(#[from] PublicError),
    /// An operation failed: a size that does not fit, no memory.
    #[error("the computation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The user asked to stop.
    #[error("stopped; nothing was written")]
    Cancelled,
}
