//! Small grey and colour planes: what the picture detectors look at.

use gallop_core::{Frame, PixelSize};

/// A plane of numbers, rows from the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Columns and rows.
    pub size: PixelSize,
    /// `width * height` values.
    pub values: Vec<f32>,
}

impl Plane {
    /// The value at (`x`, `y`) between the pixels, edges repeated.
    pub fn sample(&self, x: f32, y: f32) -> f32 {
        let (w, h) = (self.size.width, self.size.height);
        let x = x.clamp(0.0, (w - 1) as f32);
        let y = y.clamp(0.0, (h - 1) as f32);
        let (x0, y0) = (x as usize, y as usize);
        let (x1, y1) = ((x0 + 1).min(w - 1), (y0 + 1).min(h - 1));
        let (fx, fy) = (x - x0 as f32, y - y0 as f32);
        let v = |x: usize, y: usize| self.values[y * w + x];
        let top = v(x0, y0) + (v(x1, y0) - v(x0, y0)) * fx;
        let bottom = v(x0, y1) + (v(x1, y1) - v(x0, y1)) * fx;
        top + (bottom - top) * fy
    }
}

/// Red, green and blue of a frame in [0, 1], each pixel of `size` the mean of what it covers.
pub fn shrink(frame: &Frame, size: PixelSize) -> [Plane; 3] {
    let across = coverage(frame.size.width, size.width);
    let down = coverage(frame.size.height, size.height);
    // Rows first, so that columns are summed once.
    let mut rows = vec![[0.0f32; 3]; frame.size.height * size.width];
    for (y, row) in rows.chunks_exact_mut(size.width).enumerate() {
        let from = &frame.rgb[y * frame.size.width * 3..(y + 1) * frame.size.width * 3];
        for (out, (first, weights)) in row.iter_mut().zip(&across) {
            for (pixel, w) in from[first * 3..].chunks_exact(3).zip(weights) {
                for c in 0..3 {
                    out[c] += w * f32::from(pixel[c]);
                }
            }
        }
    }
    let mut planes = [0, 1, 2].map(|_| Plane {
        size,
        values: vec![0.0; size.width * size.height],
    });
    for (y, (first, weights)) in down.iter().enumerate() {
        for (k, w) in weights.iter().enumerate() {
            let row = &rows[(first + k) * size.width..(first + k + 1) * size.width];
            for (c, plane) in planes.iter_mut().enumerate() {
                let to = &mut plane.values[y * size.width..(y + 1) * size.width];
                for (out, value) in to.iter_mut().zip(row) {
                    *out += w / 255.0 * value[c];
                }
            }
        }
    }
    planes
}

/// For each of `to` pixels: the first of `from` that it covers, and the shares of that and the next.
fn coverage(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let step = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let (left, right) = (i as f64 * step, (i + 1) as f64 * step);
            let first = (left as usize).min(from - 1);
            let last = (right.ceil() as usize).clamp(first + 1, from);
            let share = |k: usize| (right.min(k as f64 + 1.0) - left.max(k as f64)) / step;
            let weights = (first..last).map(|k| share(k).max(0.0) as f32).collect();
            (first, weights)
        })
        .collect()
}

/// Luma (BT.709 weights) of three colour planes.
pub fn luma(rgb: &[Plane; 3]) -> Plane {
    let values = (0..rgb[0].values.len())
        .map(|i| 0.2126 * rgb[0].values[i] + 0.7152 * rgb[1].values[i] + 0.0722 * rgb[2].values[i])
        .collect();
    Plane {
        size: rgb[0].size,
        values,
    }
}

/// Structural similarity of two frames' luma (Wang et al. 2004; 8x8 windows, step 4), 1 when equal.
///
/// The second frame is compared at the first one's size.
pub fn ssim(a: &Frame, b: &Frame) -> f64 {
    let (x, y) = (luma(&shrink(a, a.size)), luma(&shrink(b, a.size)));
    let (w, h) = (a.size.width, a.size.height);
    let window = 8.min(w).min(h);
    let (mut total, mut count) = (0.0, 0);
    for top in (0..=h - window).step_by(4) {
        for left in (0..=w - window).step_by(4) {
            total += ssim_window(&x, &y, (left, top), window);
            count += 1;
        }
    }
    total / f64::from(count)
}

fn ssim_window(x: &Plane, y: &Plane, (left, top): (usize, usize), window: usize) -> f64 {
    const C1: f64 = 0.01 * 0.01;
    const C2: f64 = 0.03 * 0.03;
    let mut s = [0.0f64; 5];
    for row in top..top + window {
        for column in left..left + window {
            let i = row * x.size.width + column;
            let (p, q) = (f64::from(x.values[i]), f64::from(y.values[i]));
            for (sum, term) in s.iter_mut().zip([p, q, p * p, q * q, p * q]) {
                *sum += term;
            }
        }
    }
    let n = (window * window) as f64;
    let [mx, my, xx, yy, xy] = s.map(|v| v / n);
    let (vx, vy, cov) = (xx - mx * mx, yy - my * my, xy - mx * my);
    ((2.0 * mx * my + C1) * (2.0 * cov + C2)) / ((mx * mx + my * my + C1) * (vx + vy + C2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(size: PixelSize, phase: usize) -> Frame {
        let mut frame = Frame::black(size);
        for (i, v) in frame.rgb.iter_mut().enumerate() {
            *v = (((i / 3) * 7 + phase * 31) % 251) as u8;
        }
        frame
    }

    #[test]
    fn equal_frames_have_ssim_one_and_unlike_ones_less() {
        let a = gradient(PixelSize::new(33, 17), 0);
        assert!((ssim(&a, &a) - 1.0).abs() < 1e-6);
        assert!(ssim(&a, &gradient(a.size, 3)) < 0.8);
        let tiny = Frame::black(PixelSize::new(1, 1));
        assert!((ssim(&tiny, &tiny) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn shrinking_keeps_the_mean() {
        let frame = gradient(PixelSize::new(64, 32), 1);
        let mean = |p: &Plane| p.values.iter().sum::<f32>() / p.values.len() as f32;
        let (fine, coarse) = (
            luma(&shrink(&frame, frame.size)),
            luma(&shrink(&frame, PixelSize::new(15, 9))),
        );
        assert!((mean(&fine) - mean(&coarse)).abs() < 1e-4);
        assert!((fine.sample(1.5, 0.0) - 0.5 * (fine.values[1] + fine.values[2])).abs() < 1e-6);
    }
}
