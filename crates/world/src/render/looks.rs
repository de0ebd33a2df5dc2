//! What a look does to the finished picture: paper, glow, large pixels.

use gallop_core::{Frame, PixelSize};

use super::canvas::{Canvas, luma, mix, smooth};
use super::noise::grain;
use crate::attributes::Look;

/// How many real pixels make one large pixel of the pixel look.
pub fn block(look: Look, size: PixelSize) -> usize {
    if look != Look::Pixel {
        return 1;
    }
    let unit = size.width.min(size.height);
    if unit < 8 { 1 } else { (unit / 64).max(2) }
}

/// Applies the look to the light, before it is developed.
pub fn finish(canvas: &mut Canvas, look: Look, unit: f32) {
    match look {
        Look::Pencil => pencil(canvas, unit),
        Look::Neon => bloom(canvas, 0.8, unit),
        Look::Soft3d => vignette(canvas),
        Look::Flat | Look::Pixel => {}
    }
}

/// The corners a little darker.
fn vignette(canvas: &mut Canvas) {
    let (w, h) = (canvas.width as f32, canvas.height as f32);
    for y in 0..canvas.height {
        let dy = (y as f32 + 0.5) / h - 0.5;
        for plane in canvas.row(y) {
            for (x, pixel) in plane.iter_mut().enumerate() {
                let dx = (x as f32 + 0.5) / w - 0.5;
                *pixel *= 1.0 - 0.42 * (dx * dx + dy * dy);
            }
        }
    }
}

/// Strokes of pigment that catch on the grain of the paper.
fn pencil(canvas: &mut Canvas, unit: f32) {
    let paper = [0.93, 0.91, 0.86];
    let fine = (300.0 / unit.max(16.0)).clamp(1.0, 6.0);
    for y in 0..canvas.height {
        for x in 0..canvas.width {
            let c = canvas.get(x, y);
            let (gx, gy) = ((x as f32 * fine) as i32, (y as f32 * fine) as i32);
            let tooth = grain(gx * 3, gy * 3) - 0.5 + 0.6 * (grain(gx * 2 + 7, gy * 2) - 0.5);
            // Long strokes from lower left to upper right.
            let stroke = grain((gx + gy) * 4, (gx - gy) / 3) - 0.5;
            let dark = 1.0 - luma(c).sqrt();
            let pigment = 0.52 + 0.55 * dark + 1.3 * tooth + 0.9 * stroke;
            let cover = smooth(0.0, 0.9, pigment);
            let lighter = mix(c, paper, 0.06);
            canvas.blend(x, y, mix(paper, lighter, cover), 1.0);
        }
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
        for y in 0..canvas.height {
            let v = ((y as f32 + 0.5) / STEP as f32 - 0.5).max(0.0);
            let (y0, fy) = (v as usize, v - v.floor());
            let y1 = (y0 + 1).min(h - 1);
            let row = &mut plane[y * canvas.width..(y + 1) * canvas.width];
            for (x, pixel) in row.iter_mut().enumerate() {
                let u = ((x as f32 + 0.5) * (1.0 / STEP as f32) - 0.5).max(0.0);
                let x0 = u as usize;
                let (x1, fx) = ((x0 + 1).min(w - 1), u - x0 as f32);
                let top = small[y0 * w + x0] + (small[y0 * w + x1] - small[y0 * w + x0]) * fx;
                let low = small[y1 * w + x0] + (small[y1 * w + x1] - small[y1 * w + x0]) * fx;
                *pixel += strength * (top + (low - top) * fy);
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

/// Enlarges a small picture by whole blocks and leaves few tones a channel.
pub fn enlarge(small: &Frame, size: PixelSize, block: usize) -> Frame {
    const TONES: f32 = 11.0;
    let tone: Vec<u8> = (0..256)
        .map(|v| ((v as f32 / 255.0 * TONES).round() / TONES * 255.0).round() as u8)
        .collect();
    let mut frame = Frame::black(size);
    let stride = size.width * 3;
    for (y, row) in frame.rgb.chunks_exact_mut(stride).enumerate() {
        let from = &small.rgb[(y / block) * small.size.width * 3..][..small.size.width * 3];
        for (pixels, source) in row.chunks_mut(3 * block).zip(from.chunks_exact(3)) {
            for pixel in pixels.chunks_exact_mut(3) {
                for c in 0..3 {
                    pixel[c] = tone[source[c] as usize];
                }
            }
        }
    }
    frame
}
