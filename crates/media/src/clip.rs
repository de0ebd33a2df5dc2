//! Reading clips: MP4 with H.264 and AAC, or numbered pictures.

use std::path::Path;

use gallop_core::{Audio, Clip, FPS, Frame, PixelSize, Result, SAMPLES_PER_FRAME, UserError};
use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use crate::demux::{CodecIn, Movie, TrackIn, movie};
use crate::fail::{bad_file, guarded};
use crate::frames::FrameNames;
use crate::listen::{aac_track, read_audio};
use crate::parts::Wrong;
use crate::picture::{read_file, read_image};
use crate::sps;
use crate::tables::PacketIn;
use crate::yuv::{Matrix, Planes, to_rgb};

/// Longest file taken, in bytes.
pub(crate) const MAX_BYTES: u64 = 2 << 30;
/// Most bytes of decoded pictures: 90 seconds at 1280x720.
const MAX_MEMORY: usize = 6 << 30;

/// Reads a clip at 24 frames a second and 48 kHz; the sound is as long as the pictures.
///
/// `path` is an MP4 with H.264 and, if it has sound, AAC; or what [`crate::ClipWriter`] writes as PNG:
/// a folder of `frame-0001.png` ... with `sound.wav`, a pattern, or a single picture.
/// Edit lists and rotation are applied; of another frame rate, each moment shows the picture
/// that was on screen then.
///
/// # Errors
/// A file that is missing, damaged, cut short, of another format or codec, or too long for memory.
pub fn read_clip(path: &Path) -> Result<Clip> {
    let ending = path.extension().map(|e| e.to_ascii_lowercase());
    if path.is_dir() {
        return read_pictures(path, &FrameNames::in_folder(path));
    }
    if ending.is_some_and(|ending| ending == "png") {
        return read_pictures(path, &FrameNames::from_pattern(path)?);
    }
    let data = read_file(path, MAX_BYTES)?;
    guarded(path, || {
        let movie = read_movie(path, &data)?;
        let video = movie
            .video
            .ok_or_else(|| bad_file(path, "has no H.264 video", "use an MP4 with H.264 video"))?;
        let frames = Pictures::new(path, &data, &video).decode()?;
        let samples = frames.len() * SAMPLES_PER_FRAME;
        let audio = match &movie.audio {
            Some(track) => Some(fit_sound(aac_track(path, &data, track)?, samples)),
            None => None,
        };
        Ok(Clip { frames, audio })
    })
}

/// The tracks of an MP4, or why it cannot be read.
pub(crate) fn read_movie(path: &Path, data: &[u8]) -> Result<Movie> {
    const CONVERT: &str = "convert it: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p -c:a aac OUT.mp4";
    movie(data).map_err(|wrong| match wrong {
        Wrong::CutShort => bad_file(path, "is cut short", "copy it again, or use another file"),
        Wrong::Damaged => bad_file(path, "is damaged", "use a file that other programs open"),
        Wrong::NotMp4 => bad_file(path, "is no MP4", CONVERT),
        Wrong::Fragmented => bad_file(
            path,
            "is a fragmented MP4",
            "rewrite it: ffmpeg -i IN -c copy OUT.mp4",
        ),
        Wrong::Codec(name) => bad_file(path, format!("holds `{name}`"), CONVERT),
    })
}

fn fit_sound(mut audio: Audio, samples: usize) -> Audio {
    audio.left.resize(samples, 0.0);
    audio.right.resize(samples, 0.0);
    audio
}

fn read_pictures(path: &Path, names: &FrameNames) -> Result<Clip> {
    let mut frames: Vec<Frame> = Vec::new();
    while let Ok(next) = names.path(frames.len() + 1) {
        if !frames.is_empty() && !next.is_file() {
            break;
        }
        let frame = read_image(&next)?;
        if let Some(first) = frames.first().filter(|first| first.size != frame.size) {
            let wrong = format!("is not {}x{}", first.size.width, first.size.height);
            return Err(bad_file(&next, wrong, "make all pictures of one size"));
        }
        frames.push(frame);
        check_memory(path, frames[0].size, frames.len())?;
    }
    let sound = names.sound();
    let samples = frames.len() * SAMPLES_PER_FRAME;
    let audio = match sound.is_file() {
        true => Some(fit_sound(read_audio(&sound)?, samples)),
        false => None,
    };
    Ok(Clip { frames, audio })
}

fn check_memory(path: &Path, size: PixelSize, frames: usize) -> Result<()> {
    let bytes = size.width.saturating_mul(size.height).saturating_mul(3);
    if bytes.saturating_mul(frames) <= MAX_MEMORY {
        return Ok(());
    }
    Err(UserError::new(
        format!("`{}` is too long for its size", path.display()),
        "cut it, or scale it down",
    ))
}

/// Decodes the pictures of a track.
struct Pictures<'a> {
    path: &'a Path,
    data: &'a [u8],
    track: &'a TrackIn,
    /// How often each picture, in order of showing, appears at 24 frames a second.
    repeats: Vec<usize>,
    /// Pictures decoded so far.
    decoded: usize,
    frames: Vec<Frame>,
}

impl<'a> Pictures<'a> {
    fn new(path: &'a Path, data: &'a [u8], track: &'a TrackIn) -> Self {
        Self {
            path,
            data,
            track,
            repeats: repeats(track),
            decoded: 0,
            frames: Vec::new(),
        }
    }

    fn damaged(&self) -> UserError {
        let wrong = format!("is damaged after picture {}", self.decoded);
        bad_file(self.path, wrong, "use a file that other programs play")
    }

    fn decode(mut self) -> Result<Vec<Frame>> {
        let CodecIn::H264 {
            sets,
            length_size,
            matrix,
        } = &self.track.codec
        else {
            return Err(self.damaged());
        };
        let matrix = matrix
            .or_else(|| sets.iter().find_map(|set| sps::matrix(set)))
            .unwrap_or(Matrix::BT601);
        // Pictures come out in order of showing; flushing after each would lose reordered ones.
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let mut decoder = Decoder::with_api_config(OpenH264API::from_source(), config)
            .map_err(|_| self.damaged())?;
        let mut unit = Vec::new();
        for set in sets {
            append_unit(&mut unit, set);
        }
        let data = self.data;
        for packet in &self.track.packets {
            let packet = &data[packet.offset..packet.offset + packet.size];
            annex_b(packet, *length_size, &mut unit).ok_or_else(|| self.damaged())?;
            let picture = decoder.decode(&unit).map_err(|_| self.damaged())?;
            if let Some(picture) = picture {
                self.keep(&picture, matrix)?;
            }
            unit.clear();
        }
        for picture in decoder.flush_remaining().map_err(|_| self.damaged())? {
            self.keep(&picture, matrix)?;
        }
        if self.decoded != self.track.packets.len() || self.frames.is_empty() {
            return Err(self.damaged());
        }
        Ok(self.frames)
    }

    /// Converts a picture if it is shown, as often as it is shown.
    fn keep(&mut self, picture: &DecodedYUV, matrix: Matrix) -> Result<()> {
        let times = self.repeats.get(self.decoded).copied().unwrap_or(0);
        let damaged = self.damaged();
        self.decoded += 1;
        if times == 0 {
            return Ok(());
        }
        let (width, height) = picture.dimensions();
        let (luma, chroma, _) = picture.strides();
        let planes = Planes {
            size: PixelSize::new(width, height),
            data: [picture.y(), picture.u(), picture.v()],
            stride: [luma, chroma],
        };
        check_memory(self.path, planes.size, self.frames.len() + times)?;
        let frame = to_rgb(&planes, matrix).ok_or_else(|| damaged.clone())?;
        let frame = turned(frame, self.track.turns);
        if self
            .frames
            .first()
            .is_some_and(|first| first.size != frame.size)
        {
            return Err(damaged);
        }
        self.frames.extend(std::iter::repeat_n(frame, times));
        Ok(())
    }
}

/// How often each picture, in order of showing, appears at 24 frames a second.
fn repeats(track: &TrackIn) -> Vec<usize> {
    let seconds = |units: i64| units as f64 / f64::from(track.scale);
    let shown = |time: i64| seconds(time.saturating_sub(track.edit.start)) + track.edit.delay;
    let mut packets: Vec<PacketIn> = track.packets.clone();
    packets.sort_by_key(|packet| packet.time);
    let Some(last) = packets.last() else {
        return Vec::new();
    };
    let mut end = shown(last.time.saturating_add(i64::from(last.duration)));
    if let Some(length) = track.edit.length {
        end = end.min(length + track.edit.delay);
    }
    // More than an hour does not fit into memory at any size worth having.
    let count = ((end * FPS as f64).round() as usize).clamp(1, 3600 * FPS);
    let mut repeats = vec![0; packets.len()];
    let mut index = 0;
    for frame in 0..count {
        // A millisecond's grace for times that were rounded.
        let now = frame as f64 / FPS as f64 + 0.001;
        while index + 1 < packets.len() && shown(packets[index + 1].time) <= now {
            index += 1;
        }
        repeats[index] += 1;
    }
    repeats
}

fn append_unit(out: &mut Vec<u8>, unit: &[u8]) {
    out.extend([0, 0, 0, 1]);
    out.extend(unit);
}

/// Units with lengths before them, as units with start codes; `None` where lengths do not fit.
fn annex_b(mut packet: &[u8], length_size: usize, out: &mut Vec<u8>) -> Option<()> {
    while !packet.is_empty() {
        let length = packet.get(..length_size)?;
        let length = length.iter().fold(0usize, |n, &b| n << 8 | usize::from(b));
        let end = length_size.checked_add(length)?;
        append_unit(out, packet.get(length_size..end)?);
        packet = &packet[end..];
    }
    Some(())
}

/// A frame turned clockwise by quarter turns.
fn turned(frame: Frame, turns: u8) -> Frame {
    let (w, h) = (frame.size.width, frame.size.height);
    let size = match turns {
        1 | 3 => PixelSize::new(h, w),
        2 => frame.size,
        _ => return frame,
    };
    let mut out = Frame::black(size);
    for (i, pixel) in out.rgb.chunks_exact_mut(3).enumerate() {
        let (x, y) = (i % size.width, i / size.width);
        let (x, y) = match turns {
            1 => (y, h - 1 - x),
            2 => (w - 1 - x, h - 1 - y),
            _ => (w - 1 - y, x),
        };
        pixel.copy_from_slice(&frame.pixel(x, y));
    }
    out
}
