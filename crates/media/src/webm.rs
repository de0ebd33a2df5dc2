//! WebM files: AV1 and Vorbis, the index before the data.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use gallop_core::{Audio, Frame, PixelSize, Result, SAMPLE_RATE, UserError};

use crate::av1;
use crate::ebml::Ebml;
use crate::fail::{cannot_write, folder_of};
use crate::output::PartFile;
use crate::spool::{Packet, Spool};
use crate::vorbis;

/// Longest side that is written.
const MAX_SIDE: usize = 8192;
/// Most milliseconds from the start of a cluster to its last block.
const CLUSTER_MS: u64 = 5000;
const VIDEO: u64 = 1;
const SOUND: u64 = 2;

/// A WebM being written: packets wait in a nameless file until all are known.
pub(crate) struct WebmWriter {
    path: PathBuf,
    size: PixelSize,
    fps: usize,
    video: av1::Encoder,
    frames: Vec<Packet>,
    sound: Option<Sound>,
    spool: Spool,
}

struct Sound {
    /// Taken away when the clip ends.
    encoder: Option<vorbis::Encoder>,
    headers: Vec<Vec<u8>>,
    /// Samples taken so far.
    given: usize,
    /// Packets, each with the sample after its last.
    packets: Vec<(Packet, u64)>,
}

/// A packet in its place in time.
struct Block {
    packet: Packet,
    track: u64,
    ms: u64,
    /// Nanoseconds at its end that are not heard.
    discard: i64,
}

impl WebmWriter {
    /// A file for `fps` pictures a second of `size`, with sound or without.
    pub fn create(path: &Path, size: PixelSize, fps: usize, sound: bool) -> Result<Self> {
        let size = PixelSize::new(size.width.max(16), size.height.max(16));
        if size.width.max(size.height) > MAX_SIDE {
            return Err(UserError::new(
                format!("WebM here cannot hold {}x{}", size.width, size.height),
                format!("use at most {MAX_SIDE} pixels a side"),
            ));
        }
        let failed = |message: String| encoder_failed(path, &message);
        let sound = match sound {
            true => {
                let encoder = vorbis::Encoder::new().map_err(failed)?;
                Some(Sound {
                    headers: encoder.headers.clone(),
                    encoder: Some(encoder),
                    given: 0,
                    packets: Vec::new(),
                })
            }
            false => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            size,
            fps,
            video: av1::Encoder::new(size, fps).map_err(failed)?,
            frames: Vec::new(),
            sound,
            spool: Spool::create(folder_of(path)).map_err(|e| cannot_write(path, &e))?,
        })
    }

    /// Appends a picture.
    pub fn push_frame(&mut self, frame: &Frame) -> Result<()> {
        let pushed = self.video.push(frame);
        pushed.map_err(|message| encoder_failed(&self.path, &message))?;
        self.keep_frames()
    }

    fn keep_frames(&mut self) -> Result<()> {
        while let Some(encoded) = self.video.next() {
            let packet = self.spool.push(&encoded.data, 0, encoded.key);
            self.frames
                .push(packet.map_err(|error| cannot_write(&self.path, &error))?);
        }
        Ok(())
    }

    /// Appends sound.
    pub fn push_audio(&mut self, audio: &Audio) -> Result<()> {
        let Some(sound) = &mut self.sound else {
            return Ok(());
        };
        sound.given += audio.len();
        let Some(encoder) = &mut sound.encoder else {
            return Ok(());
        };
        let encoded = encoder.push(audio);
        let encoded = encoded.map_err(|message| encoder_failed(&self.path, &message))?;
        self.keep_sound(encoded)
    }

    fn keep_sound(&mut self, encoded: Vec<vorbis::Encoded>) -> Result<()> {
        let Some(sound) = &mut self.sound else {
            return Ok(());
        };
        for vorbis::Encoded { data, end } in encoded {
            let packet = self.spool.push(&data, 0, true);
            let packet = packet.map_err(|error| cannot_write(&self.path, &error))?;
            sound.packets.push((packet, end));
        }
        Ok(())
    }

    /// Writes the file and puts it in its place.
    pub fn finish(mut self) -> Result<()> {
        let flushed = self.video.flush();
        flushed.map_err(|message| encoder_failed(&self.path, &message))?;
        self.keep_frames()?;
        let samples = self.frames.len() * SAMPLE_RATE / self.fps;
        let given = self.sound.as_ref().map_or(samples, |sound| sound.given);
        if given < samples {
            self.push_audio(&Audio::silence(samples - given))?;
        }
        let encoder = self.sound.as_mut().and_then(|sound| sound.encoder.take());
        if let Some(encoder) = encoder {
            let rest = encoder.finish();
            self.keep_sound(rest.map_err(|message| encoder_failed(&self.path, &message))?)?;
        }
        let (headers, packets) = match self.sound.take() {
            Some(sound) => (sound.headers, sound.packets),
            None => Default::default(),
        };
        let blocks = blocks((self.frames, self.fps), packets, samples as u64);
        let tracks = tracks(self.size, self.fps, &self.video.config(), &headers);
        let mut part = PartFile::create(&self.path)?;
        let written = write(part.file(), (&tracks, self.fps), &blocks, &mut self.spool);
        written.map_err(|error| part.error(&error))?;
        part.commit()
    }
}

fn encoder_failed(path: &Path, message: &str) -> UserError {
    UserError::new(
        format!(
            "cannot write `{}` (the encoder says: {message})",
            path.display()
        ),
        "try another size, or write .mp4",
    )
}

/// All packets in order of time, sound before picture where they are level.
fn blocks(
    (frames, fps): (Vec<Packet>, usize),
    sound: Vec<(Packet, u64)>,
    samples: u64,
) -> Vec<Block> {
    let rate = SAMPLE_RATE as u64;
    let mut blocks = Vec::with_capacity(frames.len() + sound.len());
    let mut start = 0;
    for (packet, end) in sound {
        // The first packet only prepares the second; what begins after the pictures' end is left out.
        if start < samples {
            let late = end.saturating_sub(samples);
            blocks.push(Block {
                packet,
                track: SOUND,
                ms: (start * 1000 + rate / 2) / rate,
                discard: (late * 1_000_000_000 / rate) as i64,
            });
        }
        start = end;
    }
    let rate = fps as u64;
    blocks.extend(frames.into_iter().zip(0u64..).map(|(packet, n)| Block {
        packet,
        track: VIDEO,
        ms: (n * 1000 + rate / 2) / rate,
        discard: 0,
    }));
    blocks.sort_by_key(|block| (block.ms, block.track == VIDEO));
    blocks
}

fn tracks(size: PixelSize, fps: usize, av1: &[u8], headers: &[Vec<u8>]) -> Vec<u8> {
    let mut ebml = Ebml::default();
    ebml.nest(0x1654_ae6b, |e| {
        e.nest(0xae, |e| {
            e.number(0xd7, VIDEO).number(0x73c5, VIDEO).number(0x9c, 0);
            e.number(0x83, 1).text(0x86, "V_AV1").bytes(0x63a2, av1);
            e.number(0x23_e383, (1_000_000_000 + fps as u64 / 2) / fps as u64);
            e.nest(0xe0, |e| {
                e.number(0xb0, size.width as u64);
                e.number(0xba, size.height as u64);
                e.nest(0x55b0, |e| {
                    // BT.709 matrix, transfer and primaries, limited range, chroma on the left.
                    e.number(0x55b1, 1).number(0x55ba, 1).number(0x55bb, 1);
                    e.number(0x55b9, 1).number(0x55b7, 1).number(0x55b8, 2);
                });
            });
        });
        if !headers.is_empty() {
            e.nest(0xae, |e| {
                e.number(0xd7, SOUND).number(0x73c5, SOUND).number(0x9c, 0);
                e.number(0x83, 2).text(0x86, "A_VORBIS");
                e.bytes(0x63a2, &vorbis::private(headers));
                e.nest(0xe1, |e| {
                    e.float(0xb5, SAMPLE_RATE as f64).number(0x9f, 2);
                });
            });
        }
    });
    ebml.0
}

/// Blocks that go into one cluster each: from a picture that can be decoded alone to the next.
fn clusters(blocks: &[Block]) -> Vec<&[Block]> {
    let mut clusters = Vec::new();
    let mut start = 0;
    for (index, block) in blocks.iter().enumerate().skip(1) {
        let key = block.track == VIDEO && block.packet.key;
        if key || block.ms - blocks[start].ms > CLUSTER_MS {
            clusters.push(&blocks[start..index]);
            start = index;
        }
    }
    clusters.push(&blocks[start..]);
    clusters
}

fn write(
    file: impl Write,
    tracks: (&[u8], usize),
    blocks: &[Block],
    spool: &mut Spool,
) -> std::io::Result<()> {
    let clusters = clusters(blocks);
    // All numbers of the index have eight bytes, so its size is known before its values are.
    let mut at = head(tracks, blocks, &vec![(0, 0); clusters.len()]).len() as u64;
    let mut places = Vec::new();
    for part in &clusters {
        places.push((part[0].ms, at));
        let empty: Vec<_> = part
            .iter()
            .map(|b| vec![0; b.packet.size as usize])
            .collect();
        at += cluster(part, &empty).len() as u64;
    }
    let mut start = Ebml::default();
    start.nest(0x1a45_dfa3, |e| {
        e.number(0x4286, 1).number(0x42f7, 1).number(0x42f2, 4);
        e.number(0x42f3, 8).text(0x4282, "webm");
        e.number(0x4287, 4).number(0x4285, 2);
    });
    start.open(0x1853_8067, at);
    let mut out = BufWriter::with_capacity(1 << 18, file);
    out.write_all(&start.0)?;
    out.write_all(&head(tracks, blocks, &places))?;
    for part in clusters {
        let data: std::io::Result<Vec<_>> = part.iter().map(|b| spool.read(&b.packet)).collect();
        out.write_all(&cluster(part, &data?))?;
    }
    out.flush()
}

/// What comes before the clusters; `tracks` come with the pictures a second, `places` are the clusters'
/// times and offsets.
fn head((tracks, fps): (&[u8], usize), blocks: &[Block], places: &[(u64, u64)]) -> Vec<u8> {
    let frames = blocks.iter().filter(|block| block.track == VIDEO).count();
    let mut info = Ebml::default();
    info.nest(0x1549_a966, |e| {
        // Times in milliseconds, as WebM wants them.
        e.number(0x2a_d7b1, 1_000_000);
        e.float(0x4489, frames as f64 * 1000.0 / fps as f64);
        e.text(0x4d80, "gallop").text(0x5741, "gallop");
    });
    let mut cues = Ebml::default();
    cues.nest(0x1c53_bb6b, |e| {
        for &(ms, place) in places {
            e.nest(0xbb, |e| {
                e.number(0xb3, ms).nest(0xb7, |e| {
                    e.number(0xf7, VIDEO).number(0xf1, place);
                });
            });
        }
    });
    let sizes = [info.0.len(), tracks.len()].map(|size| size as u64);
    let mut head = seek_head(seek_head(0, sizes).len() as u64, sizes);
    head.extend(info.0);
    head.extend(tracks);
    head.extend(cues.0);
    head
}

/// Where to find the info at `start`, and the tracks and cues after it; `sizes` are of info and tracks.
fn seek_head(start: u64, sizes: [u64; 2]) -> Vec<u8> {
    let mut seek = Ebml::default();
    let tracks = start + sizes[0];
    seek.nest(0x114d_9b74, |e| {
        for (id, at) in [
            (0x1549_a966u32, start),
            (0x1654_ae6b, tracks),
            (0x1c53_bb6b, tracks + sizes[1]),
        ] {
            e.nest(0x4dbb, |e| {
                e.bytes(0x53ab, &id.to_be_bytes()).number(0x53ac, at);
            });
        }
    });
    seek.0
}

/// One cluster; `data` holds the bytes of each block.
fn cluster(blocks: &[Block], data: &[Vec<u8>]) -> Vec<u8> {
    let start = blocks[0].ms;
    let mut ebml = Ebml::default();
    ebml.nest(0x1f43_b675, |e| {
        e.number(0xe7, start);
        for (block, data) in blocks.iter().zip(data) {
            let mut bytes = vec![0x80 | block.track as u8];
            bytes.extend(((block.ms - start) as u16).to_be_bytes());
            if block.discard > 0 {
                bytes.push(0);
                bytes.extend(data);
                e.nest(0xa0, |e| {
                    e.bytes(0xa1, &bytes).signed(0x75a2, block.discard);
                });
            } else {
                bytes.push(if block.packet.key { 0x80 } else { 0 });
                bytes.extend(data);
                e.bytes(0xa3, &bytes);
            }
        }
    });
    ebml.0
}
