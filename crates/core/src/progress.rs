//! Progress and cancellation, as libraries see them: they report, the binary draws.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a long piece of work reports how far it is.
pub trait Progress: Send + Sync {
    /// A stage of `total` steps begins; it ends where the next begins.
    fn stage(&self, name: &str, total: u64);
    /// `done` steps of the stage are done.
    fn at(&self, done: u64);
    /// Something the user should know, in one line.
    fn note(&self, message: &str);
}

/// Reports nothing.
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &str, _total: u64) {}
    fn at(&self, _done: u64) {}
    fn note(&self, _message: &str) {}
}

/// A wish to stop, shared by all who hold a clone.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks all holders to stop at the next good place.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
