//! Pictures and sound in memory.

use crate::{FPS, PixelSize, SAMPLE_RATE, SAMPLES_PER_FRAME};

/// One picture: 8-bit sRGB, rows from the top, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Width and height in pixels.
    pub size: PixelSize,
    /// `size.width * size.height * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Frame {
    /// A black frame.
    pub fn black(size: PixelSize) -> Self {
        Self {
            size,
            rgb: vec![0; size.width * size.height * 3],
        }
    }

    /// The three bytes of the pixel at column `x`, row `y`.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let i = (y * self.size.width + x) * 3;
        [self.rgb[i], self.rgb[i + 1], self.rgb[i + 2]]
    }
}

/// Stereo sound at [`SAMPLE_RATE`], samples in [-1, 1].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audio {
    /// Left channel.
    pub left: Vec<f32>,
    /// Right channel, as long as the left.
    pub right: Vec<f32>,
}

impl Audio {
    /// `samples` samples of silence.
    pub fn silence(samples: usize) -> Self {
        Self {
            left: vec![0.0; samples],
            right: vec![0.0; samples],
        }
    }

    /// Samples a channel.
    pub fn len(&self) -> usize {
        self.left.len()
    }

    /// Whether it holds no sample.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Length in seconds.
    pub fn seconds(&self) -> f64 {
        self.len() as f64 / SAMPLE_RATE as f64
    }

    /// The mean of both channels.
    pub fn mono(&self) -> Vec<f32> {
        self.left
            .iter()
            .zip(&self.right)
            .map(|(l, r)| 0.5 * (l + r))
            .collect()
    }

    /// Left and right in turn, as most codecs want them.
    pub fn interleaved(&self) -> Vec<f32> {
        self.left
            .iter()
            .zip(&self.right)
            .flat_map(|(&l, &r)| [l, r])
            .collect()
    }
}

/// Pictures at [`FPS`] and the sound that goes with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clip {
    /// The pictures, all of one size.
    pub frames: Vec<Frame>,
    /// The sound; `None` for a silent clip.
    pub audio: Option<Audio>,
}

impl Clip {
    /// Length of the pictures in seconds.
    pub fn seconds(&self) -> f64 {
        self.frames.len() as f64 / FPS as f64
    }

    /// Keeps the first `frames` frames and the sound of the same time.
    pub fn truncate(&mut self, frames: usize) {
        self.frames.truncate(frames);
        if let Some(audio) = &mut self.audio {
            audio.left.truncate(frames * SAMPLES_PER_FRAME);
            audio.right.truncate(frames * SAMPLES_PER_FRAME);
        }
    }
}
