//! Progress and cancellation, handed down together.

use gallop_core::{Cancel, Progress};

use crate::error::{EngineError, Result};

/// Where to report, and whether to go on.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Hears of stages and steps.
    pub progress: &'a dyn Progress,
    /// Says whether the user wants to stop.
    pub cancel: &'a Cancel,
}

impl Watch<'_> {
    /// Begins a stage of `total` steps.
    ///
    /// # Errors
    /// When the user asked to stop.
    pub(super) fn stage(&self, name: &str, total: usize) -> Result<()> {
        self.go_on()?;
        self.progress.stage(name, total as u64);
        Ok(())
    }

    /// # Errors
    /// When the user asked to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(EngineError::Cancelled),
            false => Ok(()),
        }
    }

    /// A failure that may be no more than the user's wish to stop.
    pub(super) fn or_cancelled(&self, error: impl Into<EngineError>) -> EngineError {
        match self.cancel.is_cancelled() {
            true => EngineError::Cancelled,
            false => error.into(),
        }
    }
}
