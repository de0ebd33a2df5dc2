//! The `moov` box: what an MP4 holds, and where.

use gallop_core::{PixelSize, SAMPLE_RATE};

use crate::boxes::Boxes;
use crate::spool::Packet;

/// Units a second of the whole file: one frame is 2000 of them, one sample is one.
const MOVIE_SCALE: u32 = SAMPLE_RATE as u32;
/// Units of one picture; a second of pictures has this many for each of its pictures.
pub(crate) const VIDEO_FRAME: u32 = 1000;

/// What a track's decoder needs.
pub(crate) enum Codec {
    /// H.264: the coded size and both parameter sets.
    H264 {
        size: PixelSize,
        sps: Vec<u8>,
        pps: Vec<u8>,
    },
    /// AAC-LC: the AudioSpecificConfig and the bits a second.
    #[cfg_attr(not(feature = "aac"), allow(dead_code))]
    Aac { config: Vec<u8>, bits: u32 },
}

/// One track, all its packets known.
pub(crate) struct Track {
    pub codec: Codec,
    /// Units a second of this track.
    pub scale: u32,
    /// Units before the first one that is shown or heard.
    pub delay: u32,
    pub packets: Vec<Packet>,
    /// Index of the first packet and number of packets of each chunk.
    pub chunks: Vec<(usize, usize)>,
    /// Where each chunk lies in the file.
    pub offsets: Vec<u64>,
}

impl Track {
    fn is_video(&self) -> bool {
        matches!(self.codec, Codec::H264 { .. })
    }

    /// Units from the first packet to the end of the last.
    fn duration(&self) -> u64 {
        self.packets.iter().map(|p| u64::from(p.duration)).sum()
    }

    /// What is shown or heard, in units of the movie.
    fn shown(&self) -> u32 {
        let units = self.duration().saturating_sub(u64::from(self.delay));
        (units * u64::from(MOVIE_SCALE) / u64::from(self.scale)) as u32
    }
}

/// The whole box; tracks are numbered from 1 in their order.
pub(crate) fn moov(tracks: &[Track]) -> Vec<u8> {
    let mut boxes = Boxes::default();
    let longest = tracks.iter().map(Track::shown).max().unwrap_or(0);
    boxes.nest(b"moov", |b| {
        b.full(b"mvhd", 0, 0, |b| {
            // No times of making: equal clips are equal files.
            b.u32(0).u32(0).u32(MOVIE_SCALE).u32(longest);
            b.u32(0x10000).u16(0x100).zeros(10);
            matrix(b).zeros(24).u32(tracks.len() as u32 + 1);
        });
        for (index, track) in tracks.iter().enumerate() {
            trak(b, index as u32 + 1, track);
        }
    });
    boxes.0
}

/// No rotation.
fn matrix(b: &mut Boxes) -> &mut Boxes {
    for value in [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000] {
        b.u32(value);
    }
    b
}

fn trak(b: &mut Boxes, id: u32, track: &Track) {
    b.nest(b"trak", |b| {
        // Flags: enabled, in the movie, in the preview.
        b.full(b"tkhd", 0, 7, |b| {
            b.u32(0).u32(0).u32(id).u32(0).u32(track.shown());
            b.zeros(8).u16(0).u16(if track.is_video() { 0 } else { 1 });
            b.u16(if track.is_video() { 0 } else { 0x100 }).u16(0);
            let size = match &track.codec {
                Codec::H264 { size, .. } => *size,
                Codec::Aac { .. } => PixelSize::new(0, 0),
            };
            matrix(b).u32((size.width as u32) << 16);
            b.u32((size.height as u32) << 16);
        });
        b.nest(b"edts", |b| {
            b.full(b"elst", 0, 0, |b| {
                b.u32(1).u32(track.shown()).u32(track.delay).u32(0x10000);
            });
        });
        b.nest(b"mdia", |b| mdia(b, track));
    });
}

fn mdia(b: &mut Boxes, track: &Track) {
    b.full(b"mdhd", 0, 0, |b| {
        b.u32(0).u32(0).u32(track.scale);
        // Language: undetermined.
        b.u32(track.duration() as u32).u16(0x55c4).u16(0);
    });
    let (kind, name): (&[u8; 4], &[u8]) = match track.is_video() {
        true => (b"vide", b"VideoHandler\0"),
        false => (b"soun", b"SoundHandler\0"),
    };
    b.full(b"hdlr", 0, 0, |b| {
        b.u32(0).bytes(kind).zeros(12).bytes(name);
    });
    b.nest(b"minf", |b| {
        match track.is_video() {
            true => b.full(b"vmhd", 0, 1, |b| {
                b.zeros(8);
            }),
            false => b.full(b"smhd", 0, 0, |b| {
                b.zeros(4);
            }),
        };
        b.nest(b"dinf", |b| {
            b.full(b"dref", 0, 0, |b| {
                b.u32(1).full(b"url ", 0, 1, |_| ());
            });
        });
        b.nest(b"stbl", |b| stbl(b, track));
    });
}

fn stbl(b: &mut Boxes, track: &Track) {
    b.full(b"stsd", 0, 0, |b| {
        b.u32(1);
        match &track.codec {
            Codec::H264 { size, sps, pps } => avc1(b, *size, sps, pps),
            Codec::Aac { config, bits } => mp4a(b, config, *bits),
        }
    });
    stts(b, &track.packets);
    if track.is_video() {
        stss(b, &track.packets);
    }
    stsc(b, &track.chunks);
    b.full(b"stsz", 0, 0, |b| {
        b.u32(0).u32(track.packets.len() as u32);
        for packet in &track.packets {
            b.u32(packet.size);
        }
    });
    match track.offsets.iter().all(|&at| at <= u64::from(u32::MAX)) {
        true => b.full(b"stco", 0, 0, |b| {
            b.u32(track.offsets.len() as u32);
            for &at in &track.offsets {
                b.u32(at as u32);
            }
        }),
        false => b.full(b"co64", 0, 0, |b| {
            b.u32(track.offsets.len() as u32);
            for &at in &track.offsets {
                b.u64(at);
            }
        }),
    };
    if !track.is_video() {
        roll(b, track.packets.len() as u32);
    }
}

/// Says that an AAC frame sounds right only after the one before it was decoded.
fn roll(b: &mut Boxes, packets: u32) {
    b.full(b"sgpd", 1, 0, |b| {
        b.bytes(b"roll").u32(2).u32(1).u16(-1i16 as u16);
    });
    b.full(b"sbgp", 0, 0, |b| {
        b.bytes(b"roll").u32(1).u32(packets).u32(1);
    });
}

fn stts(b: &mut Boxes, packets: &[Packet]) {
    let runs: Vec<_> = packets
        .chunk_by(|a, b| a.duration == b.duration)
        .map(|run| (run.len() as u32, run[0].duration))
        .collect();
    b.full(b"stts", 0, 0, |b| {
        b.u32(runs.len() as u32);
        for (count, duration) in runs {
            b.u32(count).u32(duration);
        }
    });
}

fn stss(b: &mut Boxes, packets: &[Packet]) {
    let keys: Vec<_> = (1u32..).zip(packets).filter(|(_, p)| p.key).collect();
    b.full(b"stss", 0, 0, |b| {
        b.u32(keys.len() as u32);
        for (number, _) in keys {
            b.u32(number);
        }
    });
}

fn stsc(b: &mut Boxes, chunks: &[(usize, usize)]) {
    let numbered: Vec<_> = (1u32..).zip(chunks).collect();
    let runs: Vec<_> = numbered
        .chunk_by(|(_, a), (_, b)| a.1 == b.1)
        .map(|run| (run[0].0, run[0].1.1 as u32))
        .collect();
    b.full(b"stsc", 0, 0, |b| {
        b.u32(runs.len() as u32);
        for (first, count) in runs {
            b.u32(first).u32(count).u32(1);
        }
    });
}

/// ISO/IEC 14496-15.
fn avc1(b: &mut Boxes, size: PixelSize, sps: &[u8], pps: &[u8]) {
    b.nest(b"avc1", |b| {
        b.zeros(6).u16(1).zeros(16);
        b.u16(size.width as u16).u16(size.height as u16);
        b.u32(0x48_0000).u32(0x48_0000).u32(0).u16(1);
        b.zeros(32).u16(24).u16(0xffff);
        b.nest(b"avcC", |b| {
            b.u8(1).bytes(&sps[1..4]);
            // Lengths of four bytes, one sequence parameter set.
            b.u8(0xff).u8(0xe1).u16(sps.len() as u16).bytes(sps);
            b.u8(1).u16(pps.len() as u16).bytes(pps);
        });
        b.nest(b"colr", |b| {
            // BT.709 primaries, transfer and matrix, limited range.
            b.bytes(b"nclx").u16(1).u16(1).u16(1).u8(0);
        });
        b.nest(b"pasp", |b| {
            b.u32(1).u32(1);
        });
    });
}

/// ISO/IEC 14496-14.
fn mp4a(b: &mut Boxes, config: &[u8], bits: u32) {
    b.nest(b"mp4a", |b| {
        b.zeros(6).u16(1).zeros(8);
        b.u16(2).u16(16).u32(0).u32((SAMPLE_RATE as u32) << 16);
        b.full(b"esds", 0, 0, |b| {
            b.descriptor(3, |b| {
                b.u16(0).u8(0);
                b.descriptor(4, |b| {
                    // MPEG-4 audio, an audio stream; buffer size unknown.
                    b.u8(0x40).u8(0x15).zeros(3).u32(bits).u32(bits);
                    b.descriptor(5, |b| {
                        b.bytes(config);
                    });
                });
                b.descriptor(6, |b| {
                    b.u8(2);
                });
            });
        });
    });
}
