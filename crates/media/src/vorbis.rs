//! Vorbis, its packets taken out of the Ogg pages that the encoder writes.

use std::io::Write;
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::{Arc, Mutex, PoisonError};

use gallop_core::{Audio, SAMPLE_RATE};
use vorbis_rs::{VorbisBitrateManagementStrategy, VorbisEncoder, VorbisEncoderBuilder};

/// Of 1: about 256 kbit/s.
const QUALITY: f32 = 0.8;
/// Samples handed to the encoder at a time.
const BLOCK: usize = 1024;

/// One packet, and the sample after the last one it completes.
pub(crate) struct Encoded {
    pub data: Vec<u8>,
    pub end: u64,
}

/// A stereo encoder at [`SAMPLE_RATE`], without delay.
pub(crate) struct Encoder {
    raw: VorbisEncoder<Sink>,
    pages: Sink,
    /// What of a page has come so far.
    partial: Vec<u8>,
    clock: Clock,
    /// The three header packets.
    pub headers: Vec<Vec<u8>>,
}

/// Where the encoder writes while we read behind it.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Encoder {
    /// An encoder; the error is the library's message.
    pub fn new() -> Result<Self, String> {
        let pages = Sink::default();
        let rate = NonZeroU32::new(SAMPLE_RATE as u32).ok_or("no rate")?;
        let channels = NonZeroU8::new(2).ok_or("no channels")?;
        let raw = VorbisEncoderBuilder::new_with_serial(rate, channels, pages.clone(), 1)
            .bitrate_management_strategy(VorbisBitrateManagementStrategy::QualityVbr {
                target_quality: QUALITY,
            })
            .build()
            .map_err(|error| error.to_string())?;
        let mut partial = Vec::new();
        let headers = packets(&pages.take(), &mut partial)?;
        let clock = Clock::new(&headers).ok_or("the encoder's headers cannot be read")?;
        Ok(Self {
            raw,
            pages,
            partial,
            clock,
            headers,
        })
    }

    /// Encodes more sound.
    pub fn push(&mut self, audio: &Audio) -> Result<Vec<Encoded>, String> {
        let blocks = audio.left.chunks(BLOCK).zip(audio.right.chunks(BLOCK));
        for (left, right) in blocks {
            self.raw
                .encode_audio_block([left, right])
                .map_err(|error| error.to_string())?;
        }
        let packets = packets(&self.pages.take(), &mut self.partial)?;
        Ok(packets.into_iter().map(|p| self.clock.stamp(p)).collect())
    }

    /// Encodes what is still waiting.
    pub fn finish(mut self) -> Result<Vec<Encoded>, String> {
        self.raw.finish().map_err(|error| error.to_string())?;
        let packets = packets(&self.pages.take(), &mut self.partial)?;
        Ok(packets.into_iter().map(|p| self.clock.stamp(p)).collect())
    }
}

/// Counts samples by the lengths of blocks (Vorbis I specification, 4.2 and 4.3).
struct Clock {
    /// Short and long.
    block_sizes: [u64; 2],
    /// Whether each mode's blocks are long.
    long: Vec<bool>,
    last: Option<u64>,
    end: u64,
}

impl Clock {
    fn new(headers: &[Vec<u8>]) -> Option<Self> {
        let sizes = *headers.first()?.get(28)?;
        Some(Self {
            block_sizes: [1 << (sizes & 15), 1 << (sizes >> 4)],
            long: modes(headers.get(2)?)?,
            last: None,
            end: 0,
        })
    }

    /// Says where a packet ends: half of its block overlaps half of the one before.
    fn stamp(&mut self, data: Vec<u8>) -> Encoded {
        let count = self.long.len();
        let width = usize::BITS - (count - 1).leading_zeros();
        let first = data.first().map_or(0, |&byte| usize::from(byte) >> 1);
        let mode = first & ((1 << width) - 1);
        let size = self.block_sizes[usize::from(self.long.get(mode) == Some(&true))];
        if let Some(last) = self.last {
            self.end += (last + size) / 4;
        }
        self.last = Some(size);
        let end = self.end;
        Encoded { data, end }
    }
}

/// Which modes have long blocks, found from the end of the setup header:
/// what stands before the modes can only be skipped by decoding all of it.
fn modes(setup: &[u8]) -> Option<Vec<bool>> {
    let bits = |at: usize, count: usize| -> Option<usize> {
        (0..count).try_fold(0, |value, i| {
            let byte = setup.get((at + i) / 8)?;
            Some(value | usize::from(byte >> ((at + i) % 8) & 1) << i)
        })
    };
    // The last bit set frames the header; 41 bits a mode lie before it.
    let frame = (0..setup.len() * 8).rfind(|&at| bits(at, 1) == Some(1))?;
    let mut long = Vec::new();
    let mut found = None;
    while long.len() < 64 && frame > 41 * (long.len() + 1) + 6 {
        let at = frame - 41 * (long.len() + 1);
        // Window and transform types are zero.
        if bits(at + 1, 32)? != 0 {
            break;
        }
        long.insert(0, bits(at, 1)? == 1);
        if bits(at - 6, 6)? + 1 == long.len() {
            found = Some(long.clone());
        }
    }
    found
}

/// Packets of whole Ogg pages (RFC 3533); one that goes on in the next page stays in `partial`.
fn packets(mut pages: &[u8], partial: &mut Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
    let broken = || "the encoder's pages cannot be read".to_string();
    let mut all = Vec::new();
    while !pages.is_empty() {
        let count = usize::from(*pages.get(26).ok_or_else(broken)?);
        let lacing = pages.get(27..27 + count).ok_or_else(broken)?;
        pages = &pages[27 + count..];
        for &size in lacing {
            let (segment, rest) = pages.split_at_checked(size.into()).ok_or_else(broken)?;
            partial.extend_from_slice(segment);
            pages = rest;
            if size < 255 {
                all.push(std::mem::take(partial));
            }
        }
    }
    Ok(all)
}

/// Header packets as Matroska wants them: their number less one, all lengths but the last, the packets.
pub(crate) fn private(headers: &[Vec<u8>]) -> Vec<u8> {
    let Some((last, first)) = headers.split_last() else {
        return Vec::new();
    };
    let mut bytes = vec![first.len() as u8];
    for header in first {
        bytes.extend(std::iter::repeat_n(255, header.len() / 255));
        bytes.push((header.len() % 255) as u8);
    }
    first.iter().chain([last]).for_each(|h| bytes.extend(h));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_says_where_it_ends() {
        let mut encoder = Encoder::new().unwrap();
        assert_eq!(encoder.headers.len(), 3);
        assert_eq!(&encoder.headers[0][1..7], b"vorbis");
        let mut all = encoder.push(&Audio::silence(50_000)).unwrap();
        all.extend(encoder.push(&Audio::silence(777)).unwrap());
        all.extend(encoder.finish().unwrap());
        assert_eq!(all[0].end, 0);
        assert!(all.windows(2).all(|pair| pair[0].end < pair[1].end));
        let end = all.last().unwrap().end;
        assert!((50_777..50_777 + 2048).contains(&end), "{end}");
    }
}
