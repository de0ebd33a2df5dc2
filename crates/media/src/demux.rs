//! Reading the boxes of MP4 files (ISO/IEC 14496-12): which packets, where, and when.
//!
//! Written here because every count and offset of an untrusted file has to be checked before it is used.

use crate::parts::{Bytes, Read, Wrong, boxes, child};
use crate::tables::{PacketIn, packets};
use crate::yuv::Matrix;

/// Deepest nesting of descriptors that is followed.
const MAX_DEPTH: usize = 4;

/// The tracks that can be decoded.
#[derive(Debug, Default)]
pub(crate) struct Movie {
    pub video: Option<TrackIn>,
    pub audio: Option<TrackIn>,
}

/// A track and all its packets, in order of decoding.
#[derive(Debug, Default)]
pub(crate) struct TrackIn {
    /// Units a second.
    pub scale: u32,
    pub packets: Vec<PacketIn>,
    pub edit: Edit,
    /// Quarter turns clockwise.
    pub turns: u8,
    pub codec: CodecIn,
}

/// Which part of a track is shown, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Edit {
    /// Seconds of nothing first.
    pub delay: f64,
    /// The unit of the track that is shown first.
    pub start: i64,
    /// Seconds shown; `None` for all.
    pub length: Option<f64>,
}

/// What a decoder needs to know.
#[derive(Debug, Default)]
pub(crate) enum CodecIn {
    #[default]
    Unknown,
    /// Parameter sets, bytes of a unit's length, and the colours if the file says them.
    H264 {
        sets: Vec<Vec<u8>>,
        length_size: usize,
        matrix: Option<Matrix>,
    },
    /// AudioSpecificConfig.
    Aac(Vec<u8>),
}

/// Finds the first video and the first audio track.
pub(crate) fn movie(data: &[u8]) -> Read<Movie> {
    if data.len() < 12 || !matches!(&data[4..8], b"ftyp" | b"moov" | b"wide" | b"mdat" | b"free") {
        return Err(Wrong::NotMp4);
    }
    let mut moov = None;
    for part in boxes(data) {
        match part? {
            (b"moov", body) => moov = Some(body),
            (b"moof", _) => return Err(Wrong::Fragmented),
            _ => {}
        }
    }
    let moov = moov.ok_or(Wrong::CutShort)?;
    let header = Bytes(child(moov, b"mvhd")?.ok_or(Wrong::Damaged)?);
    let scale = header.u32(if header.u8(0)? == 1 { 20 } else { 12 })?;
    let mut movie = Movie::default();
    let mut unknown = None;
    for part in boxes(moov) {
        let (b"trak", body) = part? else { continue };
        let track = match trak(body, scale, data.len()) {
            Err(Wrong::Codec(name)) => {
                unknown.get_or_insert(name);
                continue;
            }
            track => track?,
        };
        match track.codec {
            CodecIn::H264 { .. } if movie.video.is_none() => movie.video = Some(track),
            CodecIn::Aac(_) if movie.audio.is_none() => movie.audio = Some(track),
            _ => {}
        }
    }
    match unknown {
        Some(name) if movie.video.is_none() => Err(Wrong::Codec(name)),
        _ => Ok(movie),
    }
}

fn trak(body: &[u8], movie_scale: u32, file: usize) -> Read<TrackIn> {
    let mdia = child(body, b"mdia")?.ok_or(Wrong::Damaged)?;
    let mdhd = Bytes(child(mdia, b"mdhd")?.ok_or(Wrong::Damaged)?);
    let scale = mdhd.u32(if mdhd.u8(0)? == 1 { 20 } else { 12 })?;
    let hdlr = Bytes(child(mdia, b"hdlr")?.ok_or(Wrong::Damaged)?);
    let kind = hdlr.get(8, 4)?;
    if kind != b"vide" && kind != b"soun" {
        return Ok(TrackIn::default());
    }
    if scale == 0 || movie_scale == 0 {
        return Err(Wrong::Damaged);
    }
    let minf = child(mdia, b"minf")?.ok_or(Wrong::Damaged)?;
    let stbl = child(minf, b"stbl")?.ok_or(Wrong::Damaged)?;
    let stsd = Bytes(child(stbl, b"stsd")?.ok_or(Wrong::Damaged)?);
    let codec = entry(stsd.get(8, stsd.0.len().saturating_sub(8))?)?;
    let packets = packets(stbl, file)?;
    let edit = match child(body, b"edts")? {
        Some(edts) => edit(edts, movie_scale)?,
        None => Edit::default(),
    };
    let tkhd = Bytes(child(body, b"tkhd")?.ok_or(Wrong::Damaged)?);
    Ok(TrackIn {
        scale,
        packets,
        edit,
        turns: turns(&tkhd)?,
        codec,
    })
}

/// The rotation of a track header's matrix, where it is a quarter turn.
fn turns(tkhd: &Bytes) -> Read<u8> {
    let at = if tkhd.u8(0)? == 1 { 52 } else { 40 };
    let sign = |index: usize| Ok((tkhd.u32(at + 4 * index)? as i32).signum());
    Ok(match (sign(0)?, sign(1)?, sign(3)?, sign(4)?) {
        (0, 1, -1, 0) => 1,
        (-1, 0, 0, -1) => 2,
        (0, -1, 1, 0) => 3,
        _ => 0,
    })
}

/// The first of the sample descriptions.
fn entry(stsd: &[u8]) -> Read<CodecIn> {
    let (kind, body) = boxes(stsd).next().ok_or(Wrong::Damaged)??;
    match kind {
        b"avc1" | b"avc3" => avc1(Bytes(body)),
        b"mp4a" => mp4a(Bytes(body)),
        _ => Err(Wrong::Codec(String::from_utf8_lossy(kind).trim().into())),
    }
}

fn avc1(body: Bytes) -> Read<CodecIn> {
    let inner = body.from(78)?;
    let config = Bytes(child(inner, b"avcC")?.ok_or(Wrong::Damaged)?);
    let length_size = usize::from(config.u8(4)? & 3) + 1;
    let mut sets = Vec::new();
    let mut at = 5;
    for mask in [31, 255] {
        let count = config.u8(at)? & mask;
        at += 1;
        for _ in 0..count {
            let size = usize::from(config.u16(at)?);
            sets.push(config.get(at + 2, size)?.to_vec());
            at += 2 + size;
        }
    }
    let matrix = match child(inner, b"colr")? {
        Some(colr) if colr.starts_with(b"nclx") => {
            let colr = Bytes(colr);
            Matrix::from_code(colr.u16(8)? as u8, colr.u8(10)? & 0x80 != 0)
        }
        _ => None,
    };
    Ok(CodecIn::H264 {
        sets,
        length_size,
        matrix,
    })
}

fn mp4a(body: Bytes) -> Read<CodecIn> {
    // QuickTime's longer versions put more numbers before the inner boxes.
    let start = match body.u16(8)? {
        0 => 28,
        1 => 44,
        _ => 64,
    };
    let inner = body.from(start)?;
    let found = match child(inner, b"esds")? {
        Some(esds) => Some(esds),
        None => match child(inner, b"wave")? {
            Some(wave) => child(wave, b"esds")?,
            None => None,
        },
    };
    let esds = found.and_then(|esds| esds.get(4..)).ok_or(Wrong::Damaged)?;
    match decoder_config(esds, 0)? {
        // MPEG-4 AAC, or one of the MPEG-2 profiles.
        Some((0x40 | 0x66..=0x68, config)) => Ok(CodecIn::Aac(config)),
        Some((kind, _)) => Err(Wrong::Codec(format!("mp4a.{kind:02x}"))),
        None => Err(Wrong::Damaged),
    }
}

/// Object type and decoder-specific bytes out of nested descriptors (ISO/IEC 14496-1).
fn decoder_config(mut data: &[u8], depth: usize) -> Read<Option<(u8, Vec<u8>)>> {
    while data.len() >= 2 && depth < MAX_DEPTH {
        let tag = data[0];
        let (mut size, mut at) = (0usize, 1);
        loop {
            let byte = *data.get(at).ok_or(Wrong::Damaged)?;
            size = size << 7 | usize::from(byte & 127);
            at += 1;
            if byte & 128 == 0 || at > 4 {
                break;
            }
        }
        let body = data.get(at..at + size).ok_or(Wrong::Damaged)?;
        data = &data[at + size..];
        match tag {
            3 => {
                let flags = *body.get(2).ok_or(Wrong::Damaged)?;
                let skip = 3 + 2 * usize::from(flags >> 7) + 2 * usize::from(flags >> 5 & 1);
                let inner = body.get(skip..).ok_or(Wrong::Damaged)?;
                return decoder_config(inner, depth + 1);
            }
            4 => {
                let kind = *body.first().ok_or(Wrong::Damaged)?;
                let inner = body.get(13..).ok_or(Wrong::Damaged)?;
                let config = decoder_config(inner, depth + 1)?;
                return Ok(Some((kind, config.map_or(Vec::new(), |(_, bytes)| bytes))));
            }
            5 => return Ok(Some((0, body.to_vec()))),
            _ => {}
        }
    }
    Ok(None)
}

/// The first piece of the track that is shown, and what is empty before it.
fn edit(edts: &[u8], movie_scale: u32) -> Read<Edit> {
    let mut edit = Edit::default();
    let Some(elst) = child(edts, b"elst")?.map(Bytes) else {
        return Ok(edit);
    };
    let wide = elst.u8(0)? == 1;
    for index in 0..elst.u32(4)? as usize {
        let (length, start) = match wide {
            true => (elst.u64(8 + 20 * index)?, elst.u64(16 + 20 * index)? as i64),
            false => {
                let start = elst.u32(12 + 12 * index)? as i32;
                (u64::from(elst.u32(8 + 12 * index)?), i64::from(start))
            }
        };
        let seconds = length as f64 / f64::from(movie_scale);
        if start >= 0 {
            edit.start = start;
            edit.length = (length > 0).then_some(seconds);
            break;
        }
        edit.delay += seconds;
    }
    Ok(edit)
}
