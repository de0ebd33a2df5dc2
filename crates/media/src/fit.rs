//! Scaling pictures to the size of a clip.

use gallop_core::{Frame, PixelSize};

/// Lobes of the Lanczos filter on each side.
const LOBES: f64 = 3.0;

/// Scales a picture until it covers `size` and cuts off what sticks out, equally on both sides.
///
/// Lanczos-3 widened to the target's pixels when shrinking, on the sRGB values themselves
/// rather than on linear light: this is how the pictures that models learn from are scaled.
pub fn fit_image(frame: &Frame, size: PixelSize) -> Frame {
    scaled(frame, size, f64::min)
}

/// Scales a picture until it fits inside `size`, in the middle, and repeats its edges where it does not reach: what
/// [`fit_image`] cuts off when it brings the result back to the picture's shape.
pub fn surround_image(frame: &Frame, size: PixelSize) -> Frame {
    scaled(frame, size, f64::max)
}

/// By the ratio of widths or of heights, which of them `pick` says.
fn scaled(frame: &Frame, size: PixelSize, pick: fn(f64, f64) -> f64) -> Frame {
    if frame.size == size {
        return frame.clone();
    }
    let (from, to) = (frame.size, size);
    let scale = pick(
        from.width as f64 / to.width as f64,
        from.height as f64 / to.height as f64,
    );
    let across = Taps::new(from.width, to.width, scale);
    let down = Taps::new(from.height, to.height, scale);
    let middle = scale_rows(frame, &across, down.first()..down.end());
    scale_columns(&middle, &down, size)
}

/// Scales the rows in `rows` across; the others are never read.
fn scale_rows(frame: &Frame, across: &Taps, rows: std::ops::Range<usize>) -> Vec<f32> {
    let stride = across.0.len() * 3;
    let mut middle = vec![0f32; rows.len() * stride];
    for (row, out) in rows.zip(middle.chunks_exact_mut(stride)) {
        let line = &frame.rgb[row * frame.size.width * 3..];
        for (tap, pixel) in across.0.iter().zip(out.chunks_exact_mut(3)) {
            let colours = line[tap.start * 3..].chunks_exact(3);
            for (weight, colour) in tap.weights.iter().zip(colours) {
                for (sum, &value) in pixel.iter_mut().zip(colour) {
                    *sum += weight * f32::from(value);
                }
            }
        }
    }
    middle
}

/// Scales rows of the final width down, the first of them being the first that `down` reads.
fn scale_columns(middle: &[f32], down: &Taps, size: PixelSize) -> Frame {
    let mut fitted = Frame::black(size);
    let stride = size.width * 3;
    let mut sums = vec![0f32; stride];
    let first = down.first();
    for (tap, out) in down.0.iter().zip(fitted.rgb.chunks_exact_mut(stride)) {
        sums.fill(0.0);
        let lines = middle[(tap.start - first) * stride..].chunks_exact(stride);
        for (weight, line) in tap.weights.iter().zip(lines) {
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
        for (byte, sum) in out.iter_mut().zip(&sums) {
            *byte = sum.round().clamp(0.0, 255.0) as u8;
        }
    }
    fitted
}

/// What one output pixel is made of along one axis.
struct Tap {
    start: usize,
    weights: Vec<f32>,
}

struct Taps(Vec<Tap>);

impl Taps {
    /// `scale` input pixels an output pixel, centred; beyond the input is its edge.
    fn new(from: usize, to: usize, scale: f64) -> Self {
        let left = (from as f64 - to as f64 * scale) / 2.0;
        let width = scale.max(1.0);
        let tap = |index: usize| {
            let centre = (left + (index as f64 + 0.5) * scale).clamp(0.0, from as f64);
            let inside = |edge: f64| edge.clamp(0.0, from as f64) as usize;
            let start = inside((centre - LOBES * width).floor()).min(from - 1);
            let end = inside((centre + LOBES * width).ceil()).max(start + 1);
            let weight = |i: usize| lanczos((i as f64 + 0.5 - centre) / width);
            let total: f64 = (start..end).map(weight).sum();
            let weights = (start..end).map(|i| (weight(i) / total) as f32).collect();
            Tap { start, weights }
        };
        Self((0..to).map(tap).collect())
    }

    /// The first input pixel read.
    fn first(&self) -> usize {
        self.0.iter().map(|tap| tap.start).min().unwrap_or(0)
    }

    /// One past the last input pixel read.
    fn end(&self) -> usize {
        let ends = self.0.iter().map(|tap| tap.start + tap.weights.len());
        ends.max().unwrap_or(0)
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| match x.abs() < 1e-9 {
        true => 1.0,
        false => (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x),
    };
    match x.abs() < LOBES {
        true => sinc(x) * sinc(x / LOBES),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(width: usize, height: usize) -> Frame {
        let mut frame = Frame::black(PixelSize::new(width, height));
        for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = (i % width, i / width);
            pixel[0] = (255 * x / width) as u8;
            pixel[1] = (255 * y / height) as u8;
        }
        frame
    }

    #[test]
    fn a_ramp_stays_a_ramp_and_the_middle_stays_in_the_middle() {
        // 400x100 covers 100x100 by its middle quarter.
        let fitted = fit_image(&ramp(400, 100), PixelSize::new(100, 100));
        for x in 5..95 {
            let want = 255.0 * (150.0 + x as f64 + 0.5) / 400.0;
            assert!((f64::from(fitted.pixel(x, 50)[0]) - want).abs() < 1.5);
        }
        let small = fit_image(&ramp(640, 480), PixelSize::new(64, 48));
        for x in 3..61 {
            let want = 255.0 * (x as f64 + 0.5) / 64.0;
            assert!((f64::from(small.pixel(x, 20)[0]) - want).abs() < 1.5);
        }
    }

    #[test]
    fn what_surrounds_a_picture_is_its_edges_and_is_cut_off_again() {
        let picture = ramp(99, 176);
        let wide = surround_image(&picture, PixelSize::new(121, 176));
        for (x, from) in [(0, 0), (10, 0), (11, 0), (60, 49), (109, 98), (120, 98)] {
            assert!(wide.pixel(x, 80)[0].abs_diff(picture.pixel(from, 80)[0]) <= 1);
        }
        assert_eq!(fit_image(&wide, picture.size), picture);
        // Also where it has to be made much larger or smaller.
        let large = surround_image(&ramp(9, 16), PixelSize::new(300, 176));
        assert_eq!(large.pixel(0, 80), large.pixel(99, 80));
        let small = surround_image(&ramp(256, 448), PixelSize::new(104, 176));
        let back = fit_image(&small, PixelSize::new(256, 448));
        for x in [20, 128, 230] {
            assert!(back.pixel(x, 200)[0].abs_diff((255 * x / 256) as u8) <= 2);
        }
    }

    #[test]
    fn fine_stripes_average_instead_of_aliasing() {
        let mut frame = Frame::black(PixelSize::new(512, 64));
        for (i, pixel) in frame.rgb.chunks_exact_mut(3).enumerate() {
            pixel.fill(if i % 2 == 0 { 255 } else { 0 });
        }
        let fitted = fit_image(&frame, PixelSize::new(64, 8));
        for x in 2..62 {
            assert!(fitted.pixel(x, 4)[0].abs_diff(128) <= 3);
        }
    }

    proptest! {
        #[test]
        fn flat_pictures_of_any_size_stay_flat(
            w in 1usize..90, h in 1usize..90, tw in 1usize..90, th in 1usize..90, value: u8,
        ) {
            let size = PixelSize::new(w, h);
            let frame = Frame { size, rgb: vec![value; w * h * 3] };
            for fit in [fit_image, surround_image] {
                let fitted = fit(&frame, PixelSize::new(tw, th));
                prop_assert_eq!(fitted.rgb.len(), tw * th * 3);
                prop_assert!(fitted.rgb.iter().all(|&b| b == value));
            }
        }
    }
}
