//! Clips to files, frame by frame.

use std::path::{Path, PathBuf};

use gallop_core::{Audio, Clip, FPS, Frame, PixelSize, Result, SAMPLE_RATE, UserError};

use crate::fail::folder_of;
use crate::mp4::Mp4Writer;
use crate::output::{Format, check_output};
use crate::png::{PngWriter, no_frames};
use crate::wav::WavWriter;
use crate::webm::WebmWriter;

/// A clip being written. Pictures and sound come in any order and any pieces; memory stays bounded.
///
/// The sound is cut or filled with silence to the length of the pictures.
/// Nothing is to be seen at the path before [`ClipWriter::finish`]; a writer dropped before leaves nothing.
pub struct ClipWriter {
    path: PathBuf,
    size: PixelSize,
    fps: usize,
    frames: usize,
    kind: Kind,
}

enum Kind {
    Mp4(Box<Mp4Writer>),
    Webm(Box<WebmWriter>),
    Wav(WavWriter),
    Png(PngWriter),
}

impl ClipWriter {
    /// A writer for pictures of `size` at [`FPS`], in the format that the name of `path` asks for.
    ///
    /// Without the feature `aac` an MP4 has no sound whatever `sound` says ([`holds_sound`] tells).
    /// Odd sides of MP4 pictures grow by one column or row, sides under 16 to 16, repeating the edge.
    ///
    /// # Errors
    /// An unknown ending, a path that cannot be written, a size that the format cannot hold.
    pub fn create(path: &Path, size: PixelSize, sound: bool) -> Result<Self> {
        Self::create_at(path, size, FPS, sound)
    }

    /// As [`ClipWriter::create`], for `fps` pictures a second: a divisor of [`SAMPLE_RATE`], so that a
    /// picture lasts a whole number of samples.
    ///
    /// # Errors
    /// As [`ClipWriter::create`], and another `fps`.
    pub fn create_at(path: &Path, size: PixelSize, fps: usize, sound: bool) -> Result<Self> {
        if fps == 0 || !SAMPLE_RATE.is_multiple_of(fps) {
            let what = format!("`{}` would have {fps} pictures a second", path.display());
            return Err(UserError::new(
                what,
                "use a divisor of 48000, such as 24 or 25",
            ));
        }
        if size.width == 0 || size.height == 0 {
            return Err(no_frames(path));
        }
        let kind = match check_output(path)? {
            Format::Mp4 => Kind::Mp4(Box::new(Mp4Writer::create(path, size, fps, sound)?)),
            Format::Webm => Kind::Webm(Box::new(WebmWriter::create(path, size, fps, sound)?)),
            Format::Wav => Kind::Wav(WavWriter::create_in(folder_of(path), path)?),
            Format::Png(names) => Kind::Png(PngWriter::create(names, fps, sound)?),
        };
        Ok(Self {
            path: path.to_path_buf(),
            size,
            fps,
            frames: 0,
            kind,
        })
    }

    /// Appends a picture.
    ///
    /// # Errors
    /// A picture of another size; a failed write.
    pub fn push_frame(&mut self, frame: &Frame) -> Result<()> {
        if frame.size != self.size || frame.rgb.len() != self.size.width * self.size.height * 3 {
            let (got, want) = (frame.size, self.size);
            return Err(UserError::new(
                format!(
                    "picture {} is {}x{}",
                    self.frames + 1,
                    got.width,
                    got.height
                ),
                format!("make it {}x{} like the others", want.width, want.height),
            ));
        }
        self.frames += 1;
        match &mut self.kind {
            Kind::Mp4(writer) => writer.push_frame(frame),
            Kind::Webm(writer) => writer.push_frame(frame),
            Kind::Png(writer) => writer.push_frame(frame),
            Kind::Wav(_) => Ok(()),
        }
    }

    /// Appends sound.
    ///
    /// # Errors
    /// A failed write.
    pub fn push_audio(&mut self, audio: &Audio) -> Result<()> {
        match &mut self.kind {
            Kind::Mp4(writer) => writer.push_audio(audio),
            Kind::Webm(writer) => writer.push_audio(audio),
            Kind::Png(writer) => writer.push_audio(audio),
            Kind::Wav(writer) => writer.push(audio),
        }
    }

    /// Completes the file and puts it in its place, over an older one.
    ///
    /// # Errors
    /// A clip without pictures (a WAV needs none); a failed write.
    pub fn finish(self) -> Result<()> {
        if let Kind::Wav(writer) = self.kind {
            let samples = (self.frames * SAMPLE_RATE / self.fps) as u64;
            let length = (self.frames > 0).then_some(samples);
            return writer.finish(length)?.commit();
        }
        if self.frames == 0 {
            return Err(no_frames(&self.path));
        }
        match self.kind {
            Kind::Mp4(writer) => writer.finish(),
            Kind::Webm(writer) => writer.finish(),
            Kind::Png(writer) => writer.finish(),
            Kind::Wav(_) => Ok(()),
        }
    }
}

/// Whether a file at `path` would hold sound in this build.
pub fn holds_sound(path: &Path) -> bool {
    !matches!(Format::of(path), Ok(Format::Mp4)) || cfg!(feature = "aac")
}

/// Writes a whole clip; see [`ClipWriter`].
///
/// # Errors
/// As those of [`ClipWriter`].
pub fn write_clip(path: &Path, clip: &Clip) -> Result<()> {
    let size = clip.frames.first().map(|frame| frame.size);
    let size = size.ok_or_else(|| no_frames(path))?;
    let mut writer = ClipWriter::create(path, size, clip.audio.is_some())?;
    for frame in &clip.frames {
        writer.push_frame(frame)?;
    }
    if let Some(audio) = &clip.audio {
        writer.push_audio(audio)?;
    }
    writer.finish()
}

/// Writes sound alone as WAV.
///
/// # Errors
/// A path that cannot be written.
pub fn write_audio(path: &Path, audio: &Audio) -> Result<()> {
    let mut writer = WavWriter::create_in(folder_of(path), path)?;
    writer.push(audio)?;
    writer.finish(None)?.commit()
}
