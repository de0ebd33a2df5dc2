//! The errors that a user can mend.

use thiserror::Error;

/// `Result` with a [`UserError`].
pub type Result<T> = std::result::Result<T, UserError>;

/// A mistake in what was asked, in one line: what is wrong, and the mend.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what}: {mend}")]
pub struct UserError {
    what: String,
    mend: String,
}

impl UserError {
    /// `what` names the option or file and what is wrong with it; `mend` says what to do instead.
    pub fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: mend.into(),
        }
    }
}
