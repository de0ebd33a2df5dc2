//! What the video autoencoder loses of a given first picture, given back where the clip stands still.

use gallop_core::Frame;

/// How far, in steps of 8-bit colour, a place may be from where it was in the first frame and still count half.
const STILL: f32 = 6.0;
/// Pixels to each side that a place is compared with its surroundings over.
const REACH: usize = 3;

/// A given first picture beside what the autoencoder makes of it.
///
/// The picture itself begins the clip. After it, each place gets back what coding lost of it as long as it looks as it
/// did in the first frame: a wall keeps its grain, and what moves is the autoencoder's alone.
pub(crate) struct Detail {
    /// The first frame as decoded.
    decoded: Frame,
    /// Given minus decoded.
    lost: Vec<i16>,
}

impl Detail {
    /// From the picture as given and as decoded, which are of one size.
    pub(crate) fn new(given: &Frame, decoded: &Frame) -> Self {
        let both = given.rgb.iter().zip(&decoded.rgb);
        Self {
            lost: both.map(|(g, d)| i16::from(*g) - i16::from(*d)).collect(),
            decoded: decoded.clone(),
        }
    }

    /// Gives a frame of the same clip its detail back.
    pub(crate) fn restore(&self, frame: &mut Frame) {
        let change: Vec<f32> = (frame
            .rgb
            .chunks_exact(3)
            .zip(self.decoded.rgb.chunks_exact(3)))
        .map(|(now, then)| {
            let apart = now.iter().zip(then).map(|(a, b)| f32::from(a.abs_diff(*b)));
            apart.sum::<f32>() / 3.0
        })
        .collect();
        let (width, height) = (frame.size.width, frame.size.height);
        let change = blurred(&change, width, height);
        let places = frame.rgb.chunks_exact_mut(3).zip(self.lost.chunks_exact(3));
        for ((pixel, lost), change) in places.zip(change) {
            let share = 1.0 / (1.0 + (change / STILL).powi(4));
            for (value, lost) in pixel.iter_mut().zip(lost) {
                *value = (f32::from(*value) + share * f32::from(*lost)).round() as u8;
            }
        }
    }
}

/// The mean over a square of [`REACH`] to each side, or what of it lies in the picture.
fn blurred(plane: &[f32], width: usize, height: usize) -> Vec<f32> {
    // Along rows, then along columns.
    let along = |plane: &[f32], (n, step): (usize, usize), start: usize, out: &mut [f32]| {
        for i in 0..n {
            let near = i.saturating_sub(REACH)..(i + REACH + 1).min(n);
            let of = near.len() as f32;
            let sum: f32 = near.map(|k| plane[start + k * step]).sum();
            out[start + i * step] = sum / of;
        }
    };
    let mut rows = vec![0.0; plane.len()];
    for y in 0..height {
        along(plane, (width, 1), y * width, &mut rows);
    }
    let mut both = vec![0.0; plane.len()];
    for x in 0..width {
        along(&rows, (height, width), x, &mut both);
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::PixelSize;

    /// Stripes that are `level` apart, a square of `square` at column `at`.
    fn striped(level: u8, at: usize, square: u8) -> Frame {
        let size = PixelSize::new(48, 32);
        let mut frame = Frame::black(size);
        for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = (i % size.width, i / size.width);
            let inside = (at..at + 8).contains(&x) && (8..16).contains(&y);
            let value = if inside {
                square
            } else {
                100 + level * (x % 2) as u8
            };
            pixel.fill(value);
        }
        frame
    }

    #[test]
    fn the_first_frame_is_the_picture_itself() {
        let (given, decoded) = (striped(20, 4, 250), striped(0, 4, 180));
        let mut frame = decoded.clone();
        Detail::new(&given, &decoded).restore(&mut frame);
        assert_eq!(frame, given);
    }

    #[test]
    fn what_stands_still_keeps_its_detail_and_what_moves_is_left() {
        let (given, decoded) = (striped(20, 4, 250), striped(0, 4, 180));
        let detail = Detail::new(&given, &decoded);
        let moved = striped(0, 30, 180);
        let mut frame = moved.clone();
        detail.restore(&mut frame);
        // Far from the square, where it was and where it is.
        for (x, y) in [(20, 28), (21, 28), (45, 2)] {
            assert_eq!(frame.pixel(x, y), given.pixel(x, y));
        }
        for (x, y) in [(8, 12), (34, 12)] {
            assert_eq!(frame.pixel(x, y), moved.pixel(x, y));
        }
    }
}
