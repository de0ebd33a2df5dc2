//! What can be wrong with public weights.

use thiserror::Error;

use crate::{error::ModelError, pickle::PickleError};

/// `Result` with a [`PublicError`].
pub type Result<T> = std::result::Result<T, PublicError>;

/// Why a public component could not be loaded or run.
#[derive(Debug, Error)]
pub enum PublicError {
    /// A file, weight or configuration does not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A weight that is not a number, or infinite.
    #[error("the weight `{name}` holds a value that is not finite: the file is damaged")]
    NotFinite {
        /// The tensor's full name.
        name: String,
    },
    /// An input that the component cannot take.
    #[error("{0}")]
    Input(String),
    /// A pickle that was refused.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
