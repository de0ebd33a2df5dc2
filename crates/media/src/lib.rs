//! Pictures, sound and video to files and back; nothing else in Gallop knows a codec.
#![warn(missing_docs)]

#[cfg(feature = "aac")]
mod aac;
mod av1;
mod boxes;
mod clip;
mod demux;
mod ebml;
mod fail;
mod fit;
mod frames;
mod h264;
mod listen;
mod moov;
mod mp4;
mod output;
mod parts;
mod picture;
mod png;
mod resample;
mod sheet;
#[cfg_attr(not(feature = "aac"), path = "silent.rs")]
mod sound;
mod spool;
mod sps;
mod tables;
mod vorbis;
mod wav;
mod webm;
mod writer;
mod yuv;

pub use clip::read_clip;
pub use fit::{fit_image, surround_image};
pub use frames::FrameNames;
pub use listen::read_audio;
pub use output::{Format, check_output};
pub use picture::read_image;
pub use png::write_image;
pub use sheet::{contact_sheet, overview, spectrogram, waveform};
pub use writer::{ClipWriter, holds_sound, write_audio, write_clip};
