//! Stands where the AAC encoder would, in a build without it: MP4 files have no sound.

use std::io::Error;

use gallop_core::{Audio, Result as UserResult};

use crate::moov::Track;
use crate::spool::Spool;

/// Never made.
pub(crate) enum SoundTrack {}

impl SoundTrack {
    /// No track.
    pub fn new() -> UserResult<Option<Self>> {
        Ok(None)
    }

    /// Not reached.
    pub fn push(&mut self, _audio: &Audio, _spool: &mut Spool) -> Result<(), Error> {
        match *self {}
    }

    /// Not reached.
    pub fn finish(self, _samples: usize, _spool: &mut Spool) -> Result<Track, Error> {
        match self {}
    }
}
