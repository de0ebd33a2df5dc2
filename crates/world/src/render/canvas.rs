//! The picture in the making: three planes of light, and what is laid onto them.

use gallop_core::{Frame, PixelSize};

/// Red, green, blue as amounts of light; 1 is white, more is allowed.
pub type Rgb = [f32; 3];

/// Light from 8-bit sRGB. The curve is a plain square, near enough to sRGB's and its own inverse
/// of a square root.
pub fn light_of([r, g, b]: [u8; 3]) -> Rgb {
    [r, g, b].map(|v| (f32::from(v) / 255.0).powi(2))
}

/// `a` at 0, `b` at 1.
#[inline(always)]
pub fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [
        a[0] + (b[0] - a[0]) * t,
        a[1] + (b[1] - a[1]) * t,
        a[2] + (b[2] - a[2]) * t,
    ]
}

/// Every channel times `k`.
#[inline(always)]
pub fn scale(a: Rgb, k: f32) -> Rgb {
    [a[0] * k, a[1] * k, a[2] * k]
}

/// Channel by channel product.
#[inline(always)]
pub fn tint(a: Rgb, b: Rgb) -> Rgb {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2]]
}

/// Sum.
#[inline(always)]
pub fn add(a: Rgb, b: Rgb) -> Rgb {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

/// How bright it looks, 0 to 1 and more.
#[inline(always)]
pub fn luma(c: Rgb) -> f32 {
    0.25 * c[0] + 0.6 * c[1] + 0.15 * c[2]
}

/// 0 below `a`, 1 above `b`, smooth between.
#[inline(always)]
pub fn smooth(a: f32, b: f32, x: f32) -> f32 {
    let t = ((x - a) / (b - a)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A rectangle of pixels, its end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First column.
    pub x0: usize,
    /// First row.
    pub y0: usize,
    /// One past the last column.
    pub x1: usize,
    /// One past the last row.
    pub y1: usize,
}

/// Three planes of light.
#[derive(Clone, Debug)]
pub struct Canvas {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue, rows from the top.
    pub planes: [Vec<f32>; 3],
}

impl Canvas {
    /// A black canvas.
    pub fn new(size: PixelSize) -> Self {
        let n = size.width * size.height;
        Self {
            width: size.width,
            height: size.height,
            planes: [vec![0.0; n], vec![0.0; n], vec![0.0; n]],
        }
    }

    /// The part of the rectangle around (`x`, `y`) that lies on the canvas.
    pub fn area(&self, x: f32, y: f32, half_width: f32, half_height: f32) -> Area {
        let low = |v: f32, max: usize| v.floor().clamp(0.0, max as f32) as usize;
        let high = |v: f32, max: usize| v.ceil().clamp(0.0, max as f32) as usize;
        Area {
            x0: low(x - half_width, self.width),
            y0: low(y - half_height, self.height),
            x1: high(x + half_width, self.width),
            y1: high(y + half_height, self.height),
        }
    }

    /// The three channels of one row.
    pub fn row(&mut self, y: usize) -> [&mut [f32]; 3] {
        let range = y * self.width..(y + 1) * self.width;
        let [r, g, b] = &mut self.planes;
        [&mut r[range.clone()], &mut g[range.clone()], &mut b[range]]
    }

    /// The light of one pixel.
    #[inline(always)]
    pub fn get(&self, x: usize, y: usize) -> Rgb {
        let i = y * self.width + x;
        [self.planes[0][i], self.planes[1][i], self.planes[2][i]]
    }

    /// Lays `colour` over a pixel with the given opacity.
    #[inline(always)]
    pub fn blend(&mut self, x: usize, y: usize, colour: Rgb, opacity: f32) {
        let i = y * self.width + x;
        for (plane, value) in self.planes.iter_mut().zip(colour) {
            plane[i] += (value - plane[i]) * opacity;
        }
    }

    /// Multiplies a pixel.
    #[inline(always)]
    pub fn darken(&mut self, x: usize, y: usize, by: Rgb) {
        let i = y * self.width + x;
        for (plane, value) in self.planes.iter_mut().zip(by) {
            plane[i] *= value;
        }
    }

    /// Calls `paint` with the centre of every pixel of `area`; it returns colour and opacity.
    #[inline(always)]
    pub fn paint(&mut self, area: Area, mut paint: impl FnMut(f32, f32) -> Option<(Rgb, f32)>) {
        for y in area.y0..area.y1 {
            for x in area.x0..area.x1 {
                if let Some((colour, opacity)) = paint(x as f32 + 0.5, y as f32 + 0.5) {
                    self.blend(x, y, colour, opacity);
                }
            }
        }
    }

    /// Adds a round glow that fades to nothing at `radius` pixels.
    pub fn glow(&mut self, x: f32, y: f32, radius: f32, colour: Rgb) {
        let area = self.area(x, y, radius, radius);
        let inverse = 1.0 / (radius * radius).max(1e-6);
        let width = self.width;
        for py in area.y0..area.y1 {
            let dy = py as f32 + 0.5 - y;
            for (plane, value) in self.planes.iter_mut().zip(colour) {
                let row = &mut plane[py * width + area.x0..py * width + area.x1];
                for (i, pixel) in row.iter_mut().enumerate() {
                    let dx = (area.x0 + i) as f32 + 0.5 - x;
                    let t = (1.0 - (dx * dx + dy * dy) * inverse).max(0.0);
                    *pixel += value * t * t * t;
                }
            }
        }
    }

    /// The picture as 8-bit sRGB: a soft shoulder keeps bright light coloured.
    pub fn develop(&self) -> Frame {
        let mut rgb = vec![0u8; self.width * self.height * 3];
        let mut bytes = [[0u8; CHUNK]; 3];
        for (at, out) in rgb.chunks_mut(3 * CHUNK).enumerate() {
            let count = out.len() / 3;
            for (plane, bytes) in self.planes.iter().zip(&mut bytes) {
                let light = &plane[at * CHUNK..][..count];
                for (byte, &light) in bytes.iter_mut().zip(light) {
                    *byte = developed(light);
                }
            }
            let [r, g, b] = &bytes;
            for (((pixel, r), g), b) in out.chunks_exact_mut(3).zip(r).zip(g).zip(b) {
                pixel[0] = *r;
                pixel[1] = *g;
                pixel[2] = *b;
            }
        }
        Frame {
            size: PixelSize::new(self.width, self.height),
            rgb,
        }
    }
}

/// Pixels developed at a time, one channel after the other.
const CHUNK: usize = 256;

/// Straight up to about two thirds of white, then ever flatter.
#[inline(always)]
fn developed(light: f32) -> u8 {
    let v = light.max(0.0).sqrt();
    let bent = (v - 0.6).max(0.0);
    let v = v.min(0.6) + 0.48 * bent / (0.48 + 0.55 * bent);
    // Below 256 for every input: truncation cannot overflow.
    (v * 255.0 + 0.5).min(255.0) as i32 as u8
}
