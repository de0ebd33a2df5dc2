//! Reading sound: WAV, FLAC, MP3, Ogg Vorbis, AIFF, AAC, and the sound of MP4 and WebM files.

use std::io::Cursor;
use std::path::Path;

use gallop_core::{Audio, Result, SAMPLE_RATE, UserError};
use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};
use symphonia::default::{get_codecs, get_probe};

use crate::clip::{MAX_BYTES, read_movie};
use crate::demux::{CodecIn, TrackIn};
use crate::fail::{bad_file, guarded};
use crate::picture::read_file;
use crate::resample::{MAX_RATE, resample, stereo};

/// Longest sound taken, in seconds.
const MAX_SECONDS: usize = 900;
const USE_ANOTHER: &str = "use a WAV, FLAC, MP3, Ogg Vorbis or M4A that other programs play";

/// Reads sound as stereo at 48 kHz; delays of encoders and edit lists are cut off.
///
/// # Errors
/// A file that is missing, damaged, without sound, of another format, or longer than 15 minutes.
pub fn read_audio(path: &Path) -> Result<Audio> {
    let data = read_file(path, MAX_BYTES)?;
    guarded(path, || match data.get(4..8) {
        Some(b"ftyp") => {
            let movie = read_movie(path, &data)?;
            let track = movie.audio.as_ref().ok_or_else(|| no_sound(path))?;
            aac_track(path, &data, track)
        }
        _ => probe_and_decode(path, data.clone()),
    })
}

fn no_sound(path: &Path) -> UserError {
    bad_file(path, "has no sound that can be read", USE_ANOTHER)
}

fn damaged(path: &Path, error: &Error) -> UserError {
    bad_file(path, format!("cannot be decoded ({error})"), USE_ANOTHER)
}

fn probe_and_decode(path: &Path, data: Vec<u8>) -> Result<Audio> {
    let source = MediaSourceStream::new(
        Box::new(Cursor::new(data)),
        MediaSourceStreamOptions::default(),
    );
    let mut hint = Hint::new();
    if let Some(ending) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(ending);
    }
    let mut format = get_probe()
        .probe(
            &hint,
            source,
            FormatOptions::default(),
            MetadataOptions::default(),
        )
        .map_err(|_| no_sound(path))?;
    let track = format
        .default_track(TrackType::Audio)
        .ok_or_else(|| no_sound(path))?;
    let Some(CodecParameters::Audio(params)) = &track.codec_params else {
        return Err(no_sound(path));
    };
    let id = track.id;
    let mut decoder = get_codecs()
        .make_audio_decoder(params, &AudioDecoderOptions::default())
        .map_err(|error| damaged(path, &error))?;
    let mut sound = Collected::new(path);
    while let Some(packet) = next_packet(path, &mut *format, sound.is_empty())? {
        if packet.track_id == id {
            let decoded = decoder.decode(&packet);
            sound.append(decoded.map_err(|error| damaged(path, &error))?)?;
        }
    }
    sound.finish()
}

/// The next packet; a file that breaks off after some sound ends there only if its length is open.
fn next_packet(path: &Path, format: &mut dyn FormatReader, first: bool) -> Result<Option<Packet>> {
    match format.next_packet() {
        Ok(packet) => Ok(packet),
        Err(Error::IoError(error))
            if !first && error.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            Ok(None)
        }
        Err(error) => Err(damaged(path, &error)),
    }
}

/// Decodes the AAC track of an MP4, its edit list applied.
pub(crate) fn aac_track(path: &Path, data: &[u8], track: &TrackIn) -> Result<Audio> {
    let CodecIn::Aac(config) = &track.codec else {
        return Err(no_sound(path));
    };
    let mut params = AudioCodecParameters::new();
    params
        .for_codec(CODEC_ID_AAC)
        .with_extra_data(config.clone().into_boxed_slice());
    let mut decoder: Box<dyn AudioDecoder> = get_codecs()
        .make_audio_decoder(&params, &AudioDecoderOptions::default())
        .map_err(|error| damaged(path, &error))?;
    let mut sound = Collected::new(path);
    for packet in &track.packets {
        let packet = Packet::new(
            0,
            Timestamp::new(packet.time),
            Duration::new(u64::from(packet.duration)),
            &data[packet.offset..packet.offset + packet.size],
        );
        let decoded = decoder.decode(&packet);
        sound.append(decoded.map_err(|error| damaged(path, &error))?)?;
    }
    let rate = f64::from(sound.rate);
    let edit = track.edit;
    let skip = (edit.start as f64 / f64::from(track.scale) * rate).round() as usize;
    let keep = edit.length.map(|length| (length * rate).round() as usize);
    let silence = (edit.delay.clamp(0.0, MAX_SECONDS as f64) * rate) as usize;
    for channel in &mut sound.channels {
        channel.drain(..skip.min(channel.len()));
        channel.truncate(keep.unwrap_or(usize::MAX));
        channel.splice(0..0, std::iter::repeat_n(0.0, silence));
    }
    sound.finish()
}

/// Decoded sound of one rate and one number of channels.
struct Collected<'a> {
    path: &'a Path,
    rate: u32,
    channels: Vec<Vec<f32>>,
    block: Vec<Vec<f32>>,
}

impl<'a> Collected<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            rate: 0,
            channels: Vec::new(),
            block: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.channels.iter().all(Vec::is_empty)
    }

    fn append(&mut self, block: GenericAudioBufferRef) -> Result<()> {
        let rate = block.spec().rate();
        if self.rate == 0 {
            self.rate = rate;
            self.channels = vec![Vec::new(); block.num_planes()];
        }
        let same = rate == self.rate && block.num_planes() == self.channels.len();
        if !same || !(1..=MAX_RATE).contains(&rate) {
            return Err(bad_file(
                self.path,
                "changes its rate or channels",
                USE_ANOTHER,
            ));
        }
        self.block.clear();
        block.copy_to_vecs_planar(&mut self.block);
        for (channel, more) in self.channels.iter_mut().zip(&self.block) {
            channel.extend(more);
        }
        let samples = self.channels.first().map_or(0, Vec::len);
        match samples <= MAX_SECONDS * self.rate as usize {
            true => Ok(()),
            false => Err(bad_file(self.path, "is longer than 15 minutes", "cut it")),
        }
    }

    fn finish(self) -> Result<Audio> {
        if self.channels.iter().all(Vec::is_empty) {
            return Err(no_sound(self.path));
        }
        let mut audio = stereo(self.channels);
        for channel in [&mut audio.left, &mut audio.right] {
            // A float file can hold what is no number.
            channel
                .iter_mut()
                .filter(|x| !x.is_finite())
                .for_each(|x| *x = 0.0);
            if self.rate != SAMPLE_RATE as u32 {
                *channel = resample(channel, self.rate);
            }
        }
        Ok(audio)
    }
}
