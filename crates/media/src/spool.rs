//! Encoded packets kept on disk until the whole clip is known, so that a clip of any length needs little memory.

use std::fs::File;
use std::io::{BufWriter, Read, Result, Seek, SeekFrom, Write};
use std::path::Path;

/// One encoded picture or stretch of sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Where it lies in the spool.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// How long it lasts, in the units of its track.
    pub duration: u32,
    /// Whether decoding can start here.
    pub key: bool,
}

/// A nameless file in a folder: it is gone when closed, however the program ends.
#[derive(Debug)]
pub(crate) struct Spool {
    file: BufWriter<File>,
    end: u64,
}

impl Spool {
    /// An empty spool in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        Ok(Self {
            file: BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder)?),
            end: 0,
        })
    }

    /// Appends a packet.
    pub fn push(&mut self, data: &[u8], duration: u32, key: bool) -> Result<Packet> {
        self.file.write_all(data)?;
        let packet = Packet {
            offset: self.end,
            size: data.len() as u32,
            duration,
            key,
        };
        self.end += data.len() as u64;
        Ok(packet)
    }

    /// Copies packets to `out`, one after the other.
    pub fn copy(&mut self, packets: &[Packet], out: &mut impl Write) -> Result<()> {
        for packet in packets {
            out.write_all(&self.read(packet)?)?;
        }
        Ok(())
    }

    /// The bytes of a packet.
    pub fn read(&mut self, packet: &Packet) -> Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(packet.offset))?;
        let mut data = vec![0; packet.size as usize];
        self.file.get_mut().read_exact(&mut data)?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_any_order_and_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path()).unwrap();
        let a = spool.push(b"first", 1, true).unwrap();
        let b = spool.push(b"second", 1, false).unwrap();
        let mut out = Vec::new();
        spool.copy(&[b, a], &mut out).unwrap();
        assert_eq!(out, b"secondfirst");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
