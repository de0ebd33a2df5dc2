//! What can be wrong with weights and configurations.

use std::path::PathBuf;

/// `Result` with a [`ModelError`].
pub type Result<T> = std::result::Result<T, ModelError>;

/// What can be wrong with weights and configurations.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No weight of this name.
    #[error("the weight `{0}` is missing")]
    Missing(String),
    /// A weight does not fit the configuration.
    #[error("the weight `{name}` has shape {got:?}, the configuration asks for {want:?}")]
    Shape {
        /// The weight.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape asked for.
        want: Vec<usize>,
    },
    /// A configuration contradicts itself.
    #[error("the configuration is not possible: {0}")]
    Config(String),
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The work was given up because somebody asked for that.
    #[error("stopped")]
    Stopped,
    /// The memory that was allowed is too little.
    #[error("{} of memory are too few: at least {} are needed", crate::memory::readable(*allowed), crate::memory::readable(*needed))]
    Memory {
        /// Bytes that were allowed.
        allowed: u64,
        /// Bytes that are needed at least.
        needed: u64,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// An [`ModelError::Io`] about `path`, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A [`ModelError::Format`] about `path`.
    pub fn format(path: impl Into<PathBuf>, why: impl ToString) -> Self {
        Self::Format {
            path: path.into(),
            why: why.to_string(),
        }
    }
}
