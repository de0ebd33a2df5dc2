//! Pictures, sound and video to files and back; nothing else in Gallop knows a codec.
#![warn(missing_docs)]

#[cfg(feature = "aac")]
mod aac;
mod boxes;
mod fail;
mod frames;
mod h264;
mod moov;
mod mp4;
mod output;
mod png;
#[cfg_attr(not(feature = "aac"), path = "silent.rs")]
mod sound;
mod spool;
mod wav;
mod writer;
mod yuv;

pub use frames::FrameNames;
pub use output::{Format, check_output};
pub use png::write_image;
pub use writer::{ClipWriter, holds_sound, write_audio, write_clip};
