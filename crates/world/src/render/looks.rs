//! What a look does to the finished picture: paper, glow, large pixels.

use gallop_core::{Frame, PixelSize};

use super::canvas::{Canvas, luma};
use super::noise::{grain, hash2};
use crate::attributes::Look;

/// How many real pixels make one large pixel of the pixel look.
pub fn block(look: Look, size: PixelSize) -> usize {
    if look != Look::Pixel {
        return 1;
    }
    let unit = size.width.min(size.height);
    if unit < 8 { 1 } else { (unit / 64).max(2) }
}

/// What a look does to every picture of a clip, prepared once.
#[derive(Clone, Debug)]
pub struct Finish {
    look: Look,
    unit: f32,
    /// The paper's grain (pencil) or the lens's darkening (soft 3-D), one value a pixel.
    mask: Vec<f32>,
}

impl Finish {
    /// Prepares the look for pictures of that size; `unit` is pixels per unit.
    pub fn new(look: Look, (width, height): (usize, usize), unit: f32) -> Self {
        let mut mask = Vec::new();
        if matches!(look, Look::Pencil | Look::Soft3d) {
            mask.reserve(width * height);
            for y in 0..height {
                for x in 0..width {
                    mask.push(match look {
                        Look::Pencil => tooth(x, y, unit),
                        _ => vignette((x, width), (y, height)),
                    });
                }
            }
        }
        Self { look, unit, mask }
    }

    /// Applies the look to the light, before it is developed.
    pub fn apply(&self, canvas: &mut Canvas) {
        match self.look {
            Look::Pencil => pencil(canvas, &self.mask),
            Look::Neon => bloom(canvas, 0.8, self.unit),
            Look::Soft3d => {
                for plane in &mut canvas.planes {
                    for (pixel, by) in plane.iter_mut().zip(&self.mask) {
                        *pixel *= by;
                    }
                }
            }
            Look::Flat | Look::Pixel => {}
        }
    }
}

/// The corners a little darker.
fn vignette((x, width): (usize, usize), (y, height): (usize, usize)) -> f32 {
    let dx = (x as f32 + 0.5) / width as f32 - 0.5;
    let dy = (y as f32 + 0.5) / height as f32 - 0.5;
    1.0 - 0.42 * (dx * dx + dy * dy)
}

/// How readily the paper takes pigment at a pixel: its grain, and strokes from lower left to
/// upper right.
fn tooth(x: usize, y: usize, unit: f32) -> f32 {
    let fine = (280.0 / unit.max(16.0)).clamp(0.25, 6.0);
    let (gx, gy) = ((x as f32 * fine) as i32, (y as f32 * fine) as i32);
    let grains = hash2(gx, gy) - 0.5 + 1.4 * (grain(gx * 5, gy * 5) - 0.5);
    let stroke = grain((gx + gy) * 2, (gx - gy) * 9) - 0.5;
    0.78 + 0.20 * grains + 0.55 * stroke
}

/// Strokes of pigment that catch on the grain of the paper.
fn pencil(canvas: &mut Canvas, tooth: &[f32]) {
    let paper = [0.93, 0.91, 0.86];
    let [r, g, b] = &mut canvas.planes;
    for (((r, g), b), tooth) in r.iter_mut().zip(g).zip(b).zip(tooth) {
        let dark = 1.0 - luma([*r, *g, *b]).sqrt();
        let cover = (tooth + 0.5 * dark).clamp(0.0, 1.0);
        *r = paper[0] + (*r - paper[0]) * cover;
        *g = paper[1] + (*g - paper[1]) * cover;
        *b = paper[2] + (*b - paper[2]) * cover;
    }
}

/// Light spills over: a blurred quarter-size copy added on top.
fn bloom(canvas: &mut Canvas, strength: f32, unit: f32) {
    const STEP: usize = 4;
    let (w, h) = (canvas.width.div_ceil(STEP), canvas.height.div_ceil(STEP));
    let radius = ((unit * 0.022) / STEP as f32 * 2.0).round().max(1.0) as usize;
    for plane in &mut canvas.planes {
        let mut small = shrink(plane, (canvas.width, canvas.height), STEP);
        for _ in 0..2 {
            blur_rows(&mut small, w, radius);
            small = transposed(&small, w, h);
            blur_rows(&mut small, h, radius);
            small = transposed(&small, h, w);
        }
        let mut blended = vec![0.0; w + 2];
        for (y, row) in plane.chunks_exact_mut(canvas.width).enumerate() {
            let v = ((y as f32 + 0.5) / STEP as f32 - 0.5).max(0.0);
            let y0 = v as usize;
            let (y1, fy) = ((y0 + 1).min(h - 1), v - y0 as f32);
            let (top, low) = (&small[y0 * w..][..w], &small[y1 * w..][..w]);
            for ((c, a), b) in blended[1..].iter_mut().zip(top).zip(low) {
                *c = strength * (a + (b - a) * fy);
            }
            (blended[0], blended[w + 1]) = (blended[1], blended[w]);
            // Within a block of four the weights of left, middle and right are fixed.
            for (pixels, near) in row.chunks_mut(STEP).zip(blended.windows(3)) {
                let values = [
                    0.375 * near[0] + 0.625 * near[1],
                    0.125 * near[0] + 0.875 * near[1],
                    0.875 * near[1] + 0.125 * near[2],
                    0.625 * near[1] + 0.375 * near[2],
                ];
                for (pixel, value) in pixels.iter_mut().zip(values) {
                    *pixel += value;
                }
            }
        }
    }
}

/// The mean of each `step` x `step` block.
fn shrink(plane: &[f32], (width, height): (usize, usize), step: usize) -> Vec<f32> {
    let (w, h) = (width.div_ceil(step), height.div_ceil(step));
    let mut small = vec![0.0; w * h];
    for y in 0..height {
        let row = &plane[y * width..(y + 1) * width];
        let out = &mut small[y / step * w..][..w];
        for (block, sum) in row.chunks(step).zip(out) {
            *sum += block.iter().sum::<f32>() / (step * step) as f32;
        }
    }
    small
}

/// A running mean over `2 * radius + 1` pixels of each row.
fn blur_rows(plane: &mut [f32], width: usize, radius: usize) {
    let mut copy = vec![0.0; width];
    let inverse = 1.0 / (2 * radius + 1) as f32;
    for row in plane.chunks_exact_mut(width) {
        copy.copy_from_slice(row);
        let at = |i: isize| copy[i.clamp(0, width as isize - 1) as usize];
        let mut sum: f32 = (-(radius as isize)..=radius as isize).map(at).sum();
        for (x, out) in row.iter_mut().enumerate() {
            *out = sum * inverse;
            sum += at(x as isize + radius as isize + 1) - at(x as isize - radius as isize);
        }
    }
}

fn transposed(plane: &[f32], width: usize, height: usize) -> Vec<f32> {
    let mut out = vec![0.0; plane.len()];
    for y in 0..height {
        for x in 0..width {
            out[x * height + y] = plane[y * width + x];
        }
    }
    out
}

/// Enlarges a small picture by whole blocks, in few tones: brightness goes in steps, and colour
/// with it, so that no hue is shifted.
pub fn enlarge(small: &Frame, size: PixelSize, block: usize) -> Frame {
    const TONES: f32 = 12.0;
    // For each brightest channel the factor, in 1/256, that takes it to the nearest tone.
    let factor: Vec<u32> = (0..256)
        .map(|v| {
            let tone = (v as f32 / 255.0 * TONES).round() / TONES * 255.0;
            (tone / (v as f32).max(1.0) * 256.0).round() as u32
        })
        .collect();
    let mut frame = Frame::black(size);
    let mut row = vec![0u8; size.width * 3];
    for (y, from) in small.rgb.chunks_exact(small.size.width * 3).enumerate() {
        for (pixels, source) in row.chunks_mut(3 * block).zip(from.chunks_exact(3)) {
            let most = source[0].max(source[1]).max(source[2]);
            let k = factor[most as usize];
            let toned = [0, 1, 2].map(|c| ((u32::from(source[c]) * k) >> 8).min(255) as u8);
            for pixel in pixels.chunks_exact_mut(3) {
                pixel.copy_from_slice(&toned);
            }
        }
        let rows = frame.rgb.chunks_exact_mut(size.width * 3);
        for out in rows.skip(y * block).take(block) {
            out.copy_from_slice(&row);
        }
    }
    frame
}
