//! Pixels and seconds <-> latents: the arithmetic, in one place.

use serde::{Deserialize, Serialize};

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PixelSize {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl PixelSize {
    /// A size of `width` x `height` pixels.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }
}

/// How many pixels, frames and samples one latent stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strides {
    /// Frames a video latent after the first, which stands for one frame alone.
    pub time: usize,
    /// Pixels a side.
    pub space: usize,
    /// Audio latents a frame.
    pub audio_per_frame: usize,
}

impl Strides {
    /// foal's: 4x16x16 and 24 audio latents a second.
    pub const FOAL: Self = Self {
        time: 4,
        space: 16,
        audio_per_frame: 1,
    };
}

/// Frames and size of a clip in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipShape {
    /// Frames.
    pub frames: usize,
    /// Pixels.
    pub size: PixelSize,
}

/// The latent grid of a clip: F x H x W video latents and A audio latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatentShape {
    /// Latent frames, F.
    pub frames: usize,
    /// Latent rows, H.
    pub height: usize,
    /// Latent columns, W.
    pub width: usize,
    /// Audio latents, A.
    pub audio: usize,
}

impl ClipShape {
    /// The smallest latent grid that covers the clip; the rest is cut off after decoding.
    ///
    /// `n` frames with time stride 4 need `ceil((n-1)/4)+1` latent frames.
    pub fn latents(&self, strides: Strides) -> LatentShape {
        let frames = self.frames.max(1);
        LatentShape {
            frames: (frames - 1).div_ceil(strides.time) + 1,
            height: self.size.height.div_ceil(strides.space),
            width: self.size.width.div_ceil(strides.space),
            audio: ((frames - 1).next_multiple_of(strides.time) + 1) * strides.audio_per_frame,
        }
    }
}

impl LatentShape {
    /// What the grid decodes to: `(F-1)*4+1` frames.
    pub fn clip(&self, strides: Strides) -> ClipShape {
        ClipShape {
            frames: (self.frames - 1) * strides.time + 1,
            size: PixelSize::new(self.width * strides.space, self.height * strides.space),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_seconds_at_448x256() {
        let clip = ClipShape {
            frames: 120,
            size: PixelSize::new(448, 256),
        };
        let latents = clip.latents(Strides::FOAL);
        assert_eq!(
            latents,
            LatentShape {
                frames: 31,
                height: 16,
                width: 28,
                audio: 121
            }
        );
        assert_eq!(latents.clip(Strides::FOAL).frames, 121);
    }

    #[test]
    fn a_single_frame_is_a_single_latent_frame() {
        let clip = ClipShape {
            frames: 1,
            size: PixelSize::new(17, 1),
        };
        let latents = clip.latents(Strides::FOAL);
        assert_eq!((latents.frames, latents.height, latents.width), (1, 1, 2));
    }
}
