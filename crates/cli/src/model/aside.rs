//! A folder that exists whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gallop_core::UserError;
use gallop_model::memory::readable;

/// A folder being written as `NAME.part` beside its place; it is removed unless it is finished.
pub struct Aside {
    place: PathBuf,
    part: PathBuf,
    finished: bool,
}

impl Aside {
    /// Begins a folder that will take `bytes`.
    ///
    /// # Errors
    /// When the place is taken, or the disk has too little room.
    pub fn new(place: &Path, bytes: u64) -> Result<Self> {
        let name = place.file_name().map(|name| name.to_string_lossy());
        let Some(name) = name else {
            let what = format!("--output {} names no new folder", place.display());
            return Err(UserError::new(what, "give a name for the folder to be made").into());
        };
        let part = place.with_file_name(format!("{name}.part"));
        for taken in [place, &part] {
            if taken.exists() {
                let what = format!("{} exists already", taken.display());
                return Err(UserError::new(what, "remove it or give another --output").into());
            }
        }
        if let Some(free) = gallop_model::disk::free(&part).filter(|free| *free < bytes) {
            let what = format!(
                "{} takes {}, but the disk has {}",
                place.display(),
                readable(bytes),
                readable(free)
            );
            return Err(
                UserError::new(what, "make room, or choose fewer parts or another disk").into(),
            );
        }
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        Ok(Self {
            place: place.into(),
            part,
            finished: false,
        })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        &self.part
    }

    /// Moves the folder to its place.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn finish(mut self) -> Result<()> {
        let (part, place) = (self.part.display(), self.place.display());
        let failed = || format!("cannot move {part} to {place}");
        fs::rename(&self.part, &self.place).with_context(failed)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is seen by its name.
            let _ = fs::remove_dir_all(&self.part);
        }
    }
}
