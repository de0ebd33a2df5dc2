//! What can go wrong in a training.

use std::path::PathBuf;

use thiserror::Error;

/// `Result` with a [`TrainError`].
pub type Result<T> = std::result::Result<T, TrainError>;

/// What can go wrong in a training.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A recipe that cannot be read.
    #[error("recipe: {0}")]
    Recipe(#[from] toml::de::Error),
    /// A recipe that can be read but not followed.
    #[error("recipe: {0}")]
    Setting(String),
    /// A checkpoint that is not of this training.
    #[error("checkpoint {path}: {what}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A network or its weights.
    #[error(transparent)]
    Model(#[from] gallop_model::ModelError),
    /// A picture that cannot be written.
    #[error(transparent)]
    Media(#[from] gallop_core::UserError),
    /// The training data could not be made.
    #[error("data: {0}")]
    Data(String),
    /// The loss stopped being a number.
    #[error("the loss is {loss} at step {step}; lower the learning rate")]
    Diverged {
        /// Where.
        step: u64,
        /// What it is.
        loss: f64,
    },
}

impl TrainError {
    /// For `map_err` on a file's operations.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
