//! WAV files: 16-bit stereo.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use gallop_core::{Audio, Result, SAMPLE_RATE};

use crate::output::PartFile;

/// Bytes of the header that is written first.
const HEADER: u64 = 44;
/// Bytes of one sample of both channels.
const BLOCK: u32 = 4;

/// A WAV being written.
pub(crate) struct WavWriter {
    part: PartFile,
    samples: u64,
}

impl WavWriter {
    /// An empty file for `path`, its part in `folder`.
    pub fn create_in(folder: &Path, path: &Path) -> Result<Self> {
        let mut part = PartFile::create_in(folder, path)?;
        let start = part.file().seek(SeekFrom::Start(HEADER));
        start.map_err(|error| part.error(&error))?;
        Ok(Self { part, samples: 0 })
    }

    /// Appends sound.
    pub fn push(&mut self, audio: &Audio) -> Result<()> {
        let written = write(self.part.file(), audio);
        written.map_err(|error| self.part.error(&error))?;
        self.samples += audio.len() as u64;
        Ok(())
    }

    /// Cuts to `samples` samples or fills up with silence, and completes the header.
    pub fn finish(mut self, samples: Option<u64>) -> Result<PartFile> {
        let samples = samples.unwrap_or(self.samples);
        let done = complete(self.part.file(), samples);
        done.map_err(|error| self.part.error(&error))?;
        Ok(self.part)
    }
}

fn write(file: impl Write, audio: &Audio) -> std::io::Result<()> {
    let mut out = BufWriter::new(file);
    for (&left, &right) in audio.left.iter().zip(&audio.right) {
        for sample in [left, right] {
            let sixteen = (sample.clamp(-1.0, 1.0) * 32767.0).round() as i16;
            out.write_all(&sixteen.to_le_bytes())?;
        }
    }
    out.flush()
}

fn complete(file: &mut std::fs::File, samples: u64) -> std::io::Result<()> {
    let bytes = samples * u64::from(BLOCK);
    file.set_len(HEADER + bytes)?;
    let bytes = u32::try_from(bytes + HEADER)
        .map_err(|_| std::io::Error::other("longer than a WAV can be"))?
        - HEADER as u32;
    let rate = SAMPLE_RATE as u32;
    let mut head = Vec::with_capacity(HEADER as usize);
    head.extend(b"RIFF");
    head.extend((bytes + HEADER as u32 - 8).to_le_bytes());
    head.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0");
    head.extend(rate.to_le_bytes());
    head.extend((rate * BLOCK).to_le_bytes());
    head.extend(b"\x04\0\x10\0data");
    head.extend(bytes.to_le_bytes());
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)
}
