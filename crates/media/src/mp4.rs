//! MP4 files: H.264 and AAC, the index before the data, sound and picture interleaved by half seconds.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use gallop_core::{Audio, Frame, PixelSize, Result, SAMPLE_RATE, UserError};

use crate::boxes::Boxes;
use crate::fail::{cannot_write, folder_of};
use crate::h264::{self, MAX_SIDES};
use crate::moov::{Codec, Track, VIDEO_FRAME, moov};
use crate::output::PartFile;
use crate::sound::SoundTrack;
use crate::spool::{Packet, Spool};
use crate::yuv::{coded_size, from_rgb};

/// Chunks a second and track.
const CHUNKS_PER_SECOND: u64 = 2;

/// An MP4 being written: packets wait in a nameless file until all are known.
pub(crate) struct Mp4Writer {
    path: PathBuf,
    size: PixelSize,
    fps: usize,
    video: h264::Encoder,
    frames: Vec<Packet>,
    sound: Option<SoundTrack>,
    spool: Spool,
}

impl Mp4Writer {
    /// A file for `fps` pictures a second of `size`, with sound or without.
    pub fn create(path: &Path, size: PixelSize, fps: usize, sound: bool) -> Result<Self> {
        let coded = coded_size(size);
        let [long, short] = MAX_SIDES;
        if coded.width.max(coded.height) > long || coded.width.min(coded.height) > short {
            return Err(UserError::new(
                format!("H.264 here cannot hold {}x{}", size.width, size.height),
                format!("use at most {long}x{short}, or write .webm"),
            ));
        }
        let spool = Spool::create(folder_of(path)).map_err(|e| cannot_write(path, &e))?;
        let video = h264::Encoder::new(coded, fps).map_err(|code| encoder_failed(path, code))?;
        Ok(Self {
            path: path.to_path_buf(),
            size: coded,
            fps,
            video,
            frames: Vec::new(),
            sound: if sound { SoundTrack::new()? } else { None },
            spool,
        })
    }

    /// Appends a picture.
    pub fn push_frame(&mut self, frame: &Frame) -> Result<()> {
        let encoded = self
            .video
            .encode(&from_rgb(frame))
            .map_err(|code| encoder_failed(&self.path, code))?;
        let packet = self
            .spool
            .push(&encoded.data, VIDEO_FRAME, encoded.key)
            .map_err(|error| cannot_write(&self.path, &error))?;
        self.frames.push(packet);
        Ok(())
    }

    /// Appends sound.
    pub fn push_audio(&mut self, audio: &Audio) -> Result<()> {
        let path = &self.path;
        match &mut self.sound {
            Some(sound) => sound
                .push(audio, &mut self.spool)
                .map_err(|error| cannot_write(path, &error)),
            None => Ok(()),
        }
    }

    /// Writes the file and puts it in its place.
    pub fn finish(mut self) -> Result<()> {
        let samples = self.frames.len() * SAMPLE_RATE / self.fps;
        let mut tracks = vec![Track {
            codec: Codec::H264 {
                size: self.size,
                sps: std::mem::take(&mut self.video.sps),
                pps: std::mem::take(&mut self.video.pps),
            },
            scale: self.fps as u32 * VIDEO_FRAME,
            delay: 0,
            packets: std::mem::take(&mut self.frames),
            chunks: Vec::new(),
            offsets: Vec::new(),
        }];
        if let Some(sound) = self.sound.take() {
            let track = sound
                .finish(samples, &mut self.spool)
                .map_err(|error| cannot_write(&self.path, &error))?;
            tracks.push(track);
        }
        let mut part = PartFile::create(&self.path)?;
        let written = write(part.file(), &mut tracks, &mut self.spool);
        written.map_err(|error| part.error(&error))?;
        part.commit()
    }
}

fn encoder_failed(path: &Path, code: i32) -> UserError {
    UserError::new(
        format!(
            "cannot write `{}` (the H.264 encoder says {code})",
            path.display()
        ),
        "try another size, or write .webm",
    )
}

/// Which track's which chunk comes next in the file.
fn interleave(tracks: &mut [Track]) -> Vec<(usize, usize)> {
    for track in tracks.iter_mut() {
        let scale = u64::from(track.scale);
        let mut time = 0u64;
        let mut last = None;
        for (index, packet) in track.packets.iter().enumerate() {
            // Sound is filed by when it is heard, not when it is decoded.
            let chunk = time.saturating_sub(u64::from(track.delay)) * CHUNKS_PER_SECOND / scale;
            match track.chunks.last_mut() {
                Some(run) if last == Some(chunk) => run.1 += 1,
                _ => track.chunks.push((index, 1)),
            }
            last = Some(chunk);
            time += u64::from(packet.duration);
        }
        track.offsets = vec![0; track.chunks.len()];
    }
    let most = tracks.iter().map(|t| t.chunks.len()).max().unwrap_or(0);
    (0..most)
        .flat_map(|chunk| (0..tracks.len()).map(move |track| (track, chunk)))
        .filter(|&(track, chunk)| chunk < tracks[track].chunks.len())
        .collect()
}

fn write(file: impl Write, tracks: &mut [Track], spool: &mut Spool) -> std::io::Result<()> {
    let order = interleave(tracks);
    let mut head = Boxes::default();
    head.nest(b"ftyp", |b| {
        b.bytes(b"isom").u32(0x200).bytes(b"isomiso2avc1mp41");
    });
    let data: u64 = tracks
        .iter()
        .flat_map(|t| &t.packets)
        .map(|p| u64::from(p.size))
        .sum();
    // 64-bit offsets appear where the file is too long for 32, and make the index longer: ask twice.
    let header = if data > u64::from(u32::MAX) - 16 {
        16
    } else {
        8
    };
    place(tracks, &order, head.0.len() as u64 + header + data);
    let index = moov(tracks).len() as u64;
    place(tracks, &order, head.0.len() as u64 + index + header);
    head.bytes(&moov(tracks));
    match header {
        8 => head.u32(data as u32 + 8).bytes(b"mdat"),
        _ => head.u32(1).bytes(b"mdat").u64(data + 16),
    };
    let mut out = BufWriter::with_capacity(1 << 18, file);
    out.write_all(&head.0)?;
    for (track, chunk) in order {
        let (first, count) = tracks[track].chunks[chunk];
        spool.copy(&tracks[track].packets[first..first + count], &mut out)?;
    }
    out.flush()
}

/// Gives every chunk its place, the first at `start`.
fn place(tracks: &mut [Track], order: &[(usize, usize)], start: u64) {
    let mut at = start;
    for &(track, chunk) in order {
        let track = &mut tracks[track];
        let (first, count) = track.chunks[chunk];
        track.offsets[chunk] = at;
        let packets = &track.packets[first..first + count];
        at += packets.iter().map(|p| u64::from(p.size)).sum::<u64>();
    }
}
