//! Noise that tiles, and hashes: the grain of every material.

use std::sync::OnceLock;

/// Side of the shared noise tile.
pub const TILE: usize = 512;

/// A hash of two integers to [0, 1).
#[inline(always)]
pub fn hash2(x: i32, y: i32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2C1B_3C6D);
    h ^= h >> 12;
    h = h.wrapping_mul(0x297A_2D39);
    h ^= h >> 15;
    (h >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Smooth noise in [0, 1] with lattice cells of one, repeating after `period` cells.
pub fn value_noise(x: f32, y: f32, period: i32) -> f32 {
    let (xf, yf) = (x.floor(), y.floor());
    let (fx, fy) = (x - xf, y - yf);
    let (sx, sy) = (fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy));
    let (x0, y0) = (
        (xf as i32).rem_euclid(period),
        (yf as i32).rem_euclid(period),
    );
    let (x1, y1) = ((x0 + 1) % period, (y0 + 1) % period);
    let top = hash2(x0, y0) + (hash2(x1, y0) - hash2(x0, y0)) * sx;
    let bottom = hash2(x0, y1) + (hash2(x1, y1) - hash2(x0, y1)) * sx;
    top + (bottom - top) * sy
}

/// The shared tile of fractal noise, `TILE` x `TILE`, values about 0.5, repeating.
pub fn fractal() -> &'static [f32] {
    static FRACTAL: OnceLock<Vec<f32>> = OnceLock::new();
    FRACTAL.get_or_init(|| {
        let mut tile = vec![0.0; TILE * TILE];
        for (octave, weight) in [(8, 0.35), (16, 0.25), (32, 0.18), (64, 0.12), (128, 0.10)] {
            let step = octave as f32 / TILE as f32;
            for (i, value) in tile.iter_mut().enumerate() {
                let (x, y) = ((i % TILE) as f32, (i / TILE) as f32);
                *value += weight * value_noise(x * step, y * step + octave as f32, octave);
            }
        }
        tile
    })
}

/// The shared tile at whole coordinates, repeating.
#[inline(always)]
pub fn grain(x: i32, y: i32) -> f32 {
    fractal()[(y as usize & (TILE - 1)) * TILE + (x as usize & (TILE - 1))]
}

/// The whole number below `x` and what is left. A call of `floor` costs more than all the rest
/// where the processor's rounding instruction cannot be taken for granted.
#[inline(always)]
pub fn split(x: f32) -> (i32, f32) {
    let whole = x as i32 - i32::from(x < 0.0);
    (whole, x - whole as f32)
}

/// The shared tile between its points: `x`, `y` in tile pixels.
pub fn grain_at(x: f32, y: f32) -> f32 {
    let ((xi, fx), (yi, fy)) = (split(x), split(y));
    let top = grain(xi, yi) + (grain(xi + 1, yi) - grain(xi, yi)) * fx;
    let bottom = grain(xi, yi + 1) + (grain(xi + 1, yi + 1) - grain(xi, yi + 1)) * fx;
    top + (bottom - top) * fy
}
