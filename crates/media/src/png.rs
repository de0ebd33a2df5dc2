//! PNG pictures, one or many.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use gallop_core::{Audio, Frame, Result, SAMPLE_RATE, UserError};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use crate::fail::cannot_write;
use crate::frames::FrameNames;
use crate::output::{ClosedPart, PartFile};
use crate::wav::WavWriter;

/// Writes one picture as PNG, aside first.
///
/// # Errors
/// A path that cannot be written.
pub fn write_image(path: &Path, frame: &Frame) -> Result<()> {
    let mut part = PartFile::create(path)?;
    encode(part.file(), frame).map_err(|error| part.error(&error))?;
    part.commit()
}

/// Encodes in memory first, so that a failed write is seen as one.
fn encode(file: &mut File, frame: &Frame) -> std::io::Result<()> {
    let mut png = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    let (width, height) = (frame.size.width as u32, frame.size.height as u32);
    encoder
        .write_image(&frame.rgb, width, height, ExtendedColorType::Rgb8)
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    file.write_all(&png)
}

/// Numbered pictures being written, and their sound; all take their places together.
pub(crate) struct PngWriter {
    names: FrameNames,
    fps: usize,
    pictures: Vec<ClosedPart>,
    sound: Option<WavWriter>,
}

impl PngWriter {
    /// Pictures under `names`, `fps` of them a second, with sound or without.
    pub fn create(names: FrameNames, fps: usize, sound: bool) -> Result<Self> {
        let folder = names.nearest_folder();
        let sound = match sound {
            true => Some(WavWriter::create_in(&folder, &names.sound())?),
            false => None,
        };
        Ok(Self {
            names,
            fps,
            pictures: Vec::new(),
            sound,
        })
    }

    /// Appends a picture.
    pub fn push_frame(&mut self, frame: &Frame) -> Result<()> {
        let path = self.names.path(self.pictures.len() + 1)?;
        let mut part = PartFile::create_in(&self.names.nearest_folder(), &path)?;
        encode(part.file(), frame).map_err(|error| part.error(&error))?;
        self.pictures.push(part.close());
        Ok(())
    }

    /// Appends sound.
    pub fn push_audio(&mut self, audio: &Audio) -> Result<()> {
        match &mut self.sound {
            Some(sound) => sound.push(audio),
            None => Ok(()),
        }
    }

    /// Makes the folder if need be and puts everything in its place.
    pub fn finish(self) -> Result<()> {
        let folder = self.names.folder();
        if !folder.is_dir() {
            std::fs::create_dir(folder).map_err(|error| cannot_write(folder, &error))?;
        }
        let samples = self.pictures.len() * SAMPLE_RATE / self.fps;
        if let Some(sound) = self.sound {
            sound.finish(Some(samples as u64))?.commit()?;
        }
        self.pictures.into_iter().try_for_each(ClosedPart::commit)
    }
}

/// The error of a writer that got no picture.
pub(crate) fn no_frames(path: &Path) -> UserError {
    UserError::new(
        format!("`{}` would hold no picture", path.display()),
        "give at least one frame",
    )
}
