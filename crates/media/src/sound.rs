//! The sound track of an MP4: AAC, as long as the pictures to the sample.

use std::io::Error;

use gallop_core::{Audio, Result as UserResult, SAMPLE_RATE, UserError};

use crate::aac;
use crate::moov::{Codec, Track};
use crate::spool::{Packet, Spool};

/// AAC frames being collected.
pub(crate) struct SoundTrack {
    encoder: aac::Encoder,
    packets: Vec<Packet>,
}

/// What can go wrong with a packet of sound, as an I/O error.
struct Failed(Error);

impl From<String> for Failed {
    fn from(message: String) -> Self {
        Self(Error::other(message))
    }
}

impl SoundTrack {
    /// An empty track.
    pub fn new() -> UserResult<Option<Self>> {
        let encoder = aac::Encoder::new().map_err(|message| {
            UserError::new(
                format!("the AAC encoder does not start ({message})"),
                "write .webm, or use --no-audio",
            )
        })?;
        Ok(Some(Self {
            encoder,
            packets: Vec::new(),
        }))
    }

    /// Appends sound.
    pub fn push(&mut self, audio: &Audio, spool: &mut Spool) -> Result<(), Error> {
        let packets = &mut self.packets;
        let keep = |frame: &[u8]| {
            let packet = spool.push(frame, aac::FRAME as u32, true).map_err(Failed)?;
            packets.push(packet);
            Ok(())
        };
        self.encoder
            .push(audio, keep)
            .map_err(|Failed(error)| error)
    }

    /// The finished track: `samples` samples are heard, silence after the last one given.
    pub fn finish(mut self, samples: usize, spool: &mut Spool) -> Result<Track, Error> {
        let total = samples + self.encoder.delay;
        let needed = total.div_ceil(aac::FRAME);
        while self.packets.len() < needed {
            self.push(&Audio::silence(aac::FRAME), spool)?;
        }
        self.packets.truncate(needed);
        if let Some(last) = self.packets.last_mut() {
            last.duration = (total - (needed - 1) * aac::FRAME) as u32;
        }
        Ok(Track {
            codec: Codec::Aac {
                config: self.encoder.config,
                bits: aac::BITS_PER_SECOND,
            },
            scale: SAMPLE_RATE as u32,
            delay: self.encoder.delay as u32,
            packets: self.packets,
            chunks: Vec::new(),
            offsets: Vec::new(),
        })
    }
}
