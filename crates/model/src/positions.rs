//! Where tokens are in time and space, and the rotary angles that follow.

use crate::dit::{AUDIO_A_FRAME, PositionStyle};

/// The nine numbers of a token: t, h, w; sizes T, H, W; reference sizes.
pub type Coordinates = [f32; 9];

/// A box of tokens, its time beginning at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// T, H, W in tokens.
    pub size: [usize; 3],
    /// The size that positions are stretched to.
    pub reference: [usize; 3],
    /// The t of the first token.
    pub start: i64,
}

impl Grid {
    /// Video tokens, F x H x W.
    pub fn video(size: [usize; 3]) -> Self {
        Self {
            size,
            reference: size,
            start: 0,
        }
    }

    /// `length` audio tokens beside `frames` video frames.
    ///
    /// In style v2 four audio latents last as long as one video latent, whatever the video.
    pub fn audio(style: PositionStyle, length: usize, frames: usize) -> Self {
        let reference = match style {
            PositionStyle::V1 => frames,
            PositionStyle::V2 => length.saturating_sub(1) / AUDIO_A_FRAME + 1,
        };
        Self {
            size: [length, 1, 1],
            reference: [reference, 1, 1],
            start: 0,
        }
    }

    /// `length` text tokens: before the clip's time in style v2, squeezed into its start in v1.
    pub fn text(style: PositionStyle, length: usize) -> Self {
        let (reference, start) = match style {
            PositionStyle::V1 => (2, 0),
            PositionStyle::V2 => (1, -(length as i64)),
        };
        Self {
            size: [length, 1, 1],
            reference: [reference, 1, 1],
            start,
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.size.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of every token, w fastest, then h, then t.
    pub fn coordinates(&self) -> impl Iterator<Item = Coordinates> + '_ {
        let [frames, height, width] = self.size;
        (0..frames * height * width).map(move |i| {
            let t = (i / (height * width)) as i64 + self.start;
            let mut c = [0.0; 9];
            c[0] = t as f32;
            c[1] = (i / width % height) as f32;
            c[2] = (i % width) as f32;
            for axis in 0..3 {
                c[3 + axis] = self.size[axis] as f32;
                c[6 + axis] = self.reference[axis] as f32;
            }
            c
        })
    }
}

/// `theta^(-i / (head_dim / 8))` for i < head_dim / 8, in radians a position.
fn bands(head_dim: usize, theta: u32) -> Vec<f32> {
    let n = head_dim / 8;
    (0..n)
        .map(|i| (theta as f32).powf(-(i as f32) / n as f32))
        .collect()
}

/// Appends the 3 x head_dim / 8 angles of one token, in radians: the bands of t, of h, of w.
///
/// h and w are centred, t is not; positions are stretched by (reference - 1) / (size - 1).
fn push_angles(c: &Coordinates, bands: &[f32], angles: &mut Vec<f32>) {
    for axis in 0..3 {
        let (size, reference) = (c[3 + axis], c[6 + axis]);
        let centre = if axis == 0 { 0.0 } else { (size - 1.0) / 2.0 };
        // A single token has nothing to stretch; the public code divides by zero unless the reference is 1.
        let stretch = if size == 1.0 {
            1.0
        } else {
            (reference - 1.0) / (size - 1.0)
        };
        let position = (c[axis] - centre) * stretch;
        angles.extend(bands.iter().map(|band| position * band));
    }
}

/// Sines and cosines, each L x 3 * head_dim / 8, row-major.
pub fn rope_tables(
    coordinates: impl Iterator<Item = Coordinates>,
    head_dim: usize,
    theta: u32,
) -> (Vec<f32>, Vec<f32>) {
    let bands = bands(head_dim, theta);
    let mut angles = Vec::new();
    for c in coordinates {
        push_angles(&c, &bands, &mut angles);
    }
    angles.into_iter().map(f32::sin_cos).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dit::ROPE_THETA;

    #[test]
    fn audio_is_in_step_with_video() {
        let (frames, bands) = (31, bands(64, ROPE_THETA));
        let angle = |grid: Grid, i: usize| {
            let mut angles = Vec::new();
            push_angles(&grid.coordinates().nth(i).unwrap(), &bands, &mut angles);
            angles[0]
        };
        let audio = Grid::audio(PositionStyle::V2, (frames - 1) * 4 + 1, frames);
        for frame in 0..frames {
            let video = angle(Grid::video([frames, 1, 1]), frame);
            assert!((angle(audio, 4 * frame) - video).abs() < 1e-4);
        }
    }

    #[test]
    fn single_tokens_have_finite_angles() {
        for style in [PositionStyle::V1, PositionStyle::V2] {
            for grid in [Grid::audio(style, 1, 5), Grid::text(style, 1)] {
                let (sin, cos) = rope_tables(grid.coordinates(), 32, ROPE_THETA);
                assert!(sin.iter().chain(&cos).all(|x| x.is_finite()));
            }
        }
    }
}
