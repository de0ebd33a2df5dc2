//! A picture made ready for the video encoder as the public code does it: cropped about its centre to the
//! wanted shape, resized with a Lanczos filter in 8-bit steps, and brought to -1..1.

use candle_core::{Device, Tensor};

use super::error::{PublicError, Result};

/// Bits of the filter's weights after the point; leaves room for sums of 8-bit pixels.
const WEIGHT_BITS: u32 = 22;
/// Lobes of the filter on either side.
const LOBES: f64 = 3.0;

/// An RGB picture, rows from the top, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// From `width * height` pixels of three bytes.
    ///
    /// # Errors
    /// When there is another number of bytes, or none.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        if pixels.is_empty() || width.checked_mul(height * 3) != Some(pixels.len()) {
            let what = format!("{} bytes for a picture of {width}x{height}", pixels.len());
            return Err(PublicError::Input(what));
        }
        Ok(Self {
            width,
            height,
            pixels,
        })
    }

    /// The pixels, three bytes each.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The largest centred part of the shape of `width` by `height`, resized to it.
    pub fn fit(&self, width: usize, height: usize) -> Self {
        self.crop_to(width, height).resize(width, height)
    }

    /// As the video encoder takes it: `[1, H, W, 3]` in -1 to 1.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let values = self
            .pixels
            .iter()
            .map(|&p| f32::from(p) / 255.0 * 2.0 - 1.0);
        let shape = (1, self.height, self.width, 3);
        Ok(Tensor::from_vec(values.collect(), shape, &Device::Cpu)?)
    }

    fn crop_to(&self, width: usize, height: usize) -> Self {
        if (self.width, self.height) == (width, height) {
            return self.clone();
        }
        let (w, h) = (self.width as f64, self.height as f64);
        let (target_w, target_h) = (width as f64, height as f64);
        let (new_w, new_h) = if h / w > target_h / target_w {
            (w, (w * target_h / target_w).trunc())
        } else {
            ((h * target_w / target_h).trunc(), h)
        };
        // Halves go to the even side, which can make the part one pixel wider than meant.
        let side = |whole: f64, part: f64| {
            let start = ((whole - part) / 2.0).round_ties_even();
            let end = ((whole + part) / 2.0).round_ties_even();
            (
                start as usize,
                (end as usize).min(whole as usize).max(start as usize + 1),
            )
        };
        let (left, right) = side(w, new_w);
        let (top, bottom) = side(h, new_h);
        let rows = (top..bottom).flat_map(|y| {
            let row = y * self.width * 3;
            &self.pixels[row + left * 3..row + right * 3]
        });
        Self {
            width: right - left,
            height: bottom - top,
            pixels: rows.copied().collect(),
        }
    }

    fn resize(&self, width: usize, height: usize) -> Self {
        let rows = |picture: Self| match picture.width == width {
            true => picture,
            false => picture.resize_rows(&taps(picture.width, width)),
        };
        let columns = |picture: Self| match picture.height == height {
            true => picture,
            false => picture.resize_columns(&taps(picture.height, height)),
        };
        // Between the two, pixels are rounded, so their order shows. The library under the public code
        // begins with the columns of tall pictures whose height shrinks the most.
        let tall = self.height > self.width
            && height < self.height
            && height * self.width < self.height * width;
        match tall {
            true => rows(columns(self.clone())),
            false => columns(rows(self.clone())),
        }
    }

    fn resize_rows(&self, taps: &[Tap]) -> Self {
        let rows = self.pixels.chunks_exact(self.width * 3);
        let pixels = rows.flat_map(|row| {
            let channel = |tap: &Tap, c: usize| tap.apply(|i| row[i * 3 + c]);
            let pixel = move |tap| [0, 1, 2].map(|c| channel(tap, c));
            taps.iter().flat_map(pixel).collect::<Vec<_>>()
        });
        Self {
            width: taps.len(),
            height: self.height,
            pixels: pixels.collect(),
        }
    }

    fn resize_columns(&self, taps: &[Tap]) -> Self {
        let stride = self.width * 3;
        let row = |tap: &Tap| {
            let number = |x: usize| tap.apply(|i| self.pixels[i * stride + x]);
            (0..stride).map(number).collect::<Vec<_>>()
        };
        Self {
            width: self.width,
            height: taps.len(),
            pixels: taps.iter().flat_map(row).collect(),
        }
    }
}

/// Where one output pixel comes from: neighbouring inputs and their fixed-point weights.
struct Tap {
    start: usize,
    weights: Vec<i32>,
}

impl Tap {
    fn apply(&self, input: impl Fn(usize) -> u8) -> u8 {
        let terms = self.weights.iter().enumerate();
        let terms = terms.map(|(i, &weight)| i32::from(input(self.start + i)) * weight);
        let sum = (1 << (WEIGHT_BITS - 1)) + terms.sum::<i32>();
        (sum >> WEIGHT_BITS).clamp(0, 255) as u8
    }
}

/// The filter for every output of a change from `from` to `to` pixels.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let spread = scale.max(1.0);
    let support = LOBES * spread;
    let tap = |out: usize| {
        let center = (out as f64 + 0.5) * scale;
        let start = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let at = |i: usize| lanczos((i as f64 - center + 0.5) / spread);
        let total: f64 = (start..end).map(at).sum();
        let fixed = |i| (at(i) / total * f64::from(1 << WEIGHT_BITS)).round() as i32;
        Tap {
            start,
            weights: (start..end).map(fixed).collect(),
        }
    };
    (0..to).map(tap).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    if (-LOBES..LOBES).contains(&x) {
        sinc(x) * sinc(x / LOBES)
    } else {
        0.0
    }
}
