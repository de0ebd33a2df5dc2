//! What can be wrong with an evaluation.

use std::path::PathBuf;

use gallop_world::WorldError;
use thiserror::Error;

/// Why detectors cannot be had.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The world cannot draw the clips.
    #[error(transparent)]
    World(#[from] WorldError),
    /// A file that cannot be read or written.
    #[error("cannot use `{path}`: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a file of detectors, or one of another release.
    #[error(
        "`{name}` does not hold detectors of this release ({what}); make it anew with `gallop eval --fit FILE`"
    )]
    Format {
        /// The file.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A clip could not be coded.
    #[error("cannot code a clip: {0}")]
    Coding(Box<dyn std::error::Error + Send + Sync>),
    /// No clip shows what is to be learnt.
    #[error("no clip that shows anything to learn from; give more clips")]
    Nothing,
}
