//! The floor: a tiling material seen in exact perspective, filtered row by row.
//!
//! The camera never rolls, so a row of the picture sees one depth of the floor. Each row's strip
//! of material is averaged over the depth that the row covers (differences of prefix sums), then
//! over the width that a pixel covers (halved strips): no shimmer at any distance, for little.

use std::sync::OnceLock;

use super::canvas::{Canvas, Rgb, light_of, mix, scale, tint};
use super::light::Light;
use super::noise::{grain, hash2};
use super::view::View;
use crate::attributes::Look;

/// What one stands on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// Polished boards.
    Wood,
    /// Square tiles.
    Stone,
    /// Sand.
    Sand,
    /// Grass.
    Grass,
    /// Snow.
    Snow,
    /// A road along X, with a verge behind and before it.
    Asphalt,
    /// One colour: a stage, a carpet, a table.
    Plain(Rgb),
}

impl Floor {
    /// The floor of that name in the grammar; unknown names are wood.
    pub fn from_key(key: &str) -> Self {
        match key {
            "stone" => Self::Stone,
            "sand" => Self::Sand,
            "grass" => Self::Grass,
            "snow" => Self::Snow,
            "asphalt" => Self::Asphalt,
            _ => Self::Wood,
        }
    }

    /// How much it mirrors what stands on it.
    pub fn mirror(self) -> f32 {
        match self {
            Self::Wood => 0.20,
            Self::Stone => 0.12,
            Self::Plain(_) => 0.08,
            _ => 0.0,
        }
    }

    /// Its mean colour.
    pub fn colour(self) -> Rgb {
        light_of(match self {
            Self::Wood => [196, 142, 88],
            Self::Stone => [150, 150, 152],
            Self::Sand => [222, 196, 146],
            Self::Grass => [92, 142, 58],
            Self::Snow => [232, 238, 246],
            Self::Asphalt => [84, 86, 92],
            Self::Plain(colour) => return colour,
        })
    }

    /// The material at texel (`x`, `y`) of `side`, as light.
    fn texel(self, x: usize, y: usize, side: usize) -> Rgb {
        let step = (super::noise::TILE / side) as i32;
        let (gx, gy) = (x as i32 * step, y as i32 * step);
        let base = self.colour();
        match self {
            Self::Wood => wood(base, gx, gy),
            Self::Stone => stone(base, gx, gy),
            Self::Sand => {
                let ripple = grain(gx, gy * 2) - 0.5;
                let fine = hash2(x as i32, y as i32) - 0.5 + grain(gx * 6, gy * 6) - 0.5;
                scale(base, 1.0 + 0.45 * ripple + 0.30 * fine)
            }
            Self::Grass => {
                let blade = grain(gx * 7, gy * 2) - 0.5;
                let patch = grain(gx, gy) - 0.5;
                let lit = scale(base, 1.0 + 1.5 * blade + 0.8 * patch);
                mix(
                    lit,
                    [lit[0] * 1.4, lit[1] * 1.12, lit[2] * 0.6],
                    (patch + 0.3).max(0.0),
                )
            }
            Self::Snow => scale(base, 0.95 + 0.22 * (grain(gx, gy) - 0.5)),
            Self::Asphalt => {
                let grit = hash2(gx, gy) - 0.5;
                scale(base, 1.0 + 0.25 * grit + 0.6 * (grain(gx, gy) - 0.5))
            }
            Self::Plain(_) => scale(base, 1.0 + 0.12 * (grain(gx * 3, gy * 3) - 0.5)),
        }
    }
}

/// Boards along X, each with its own tone and grain.
fn wood(base: Rgb, x: i32, y: i32) -> Rgb {
    const BOARD: i32 = 64;
    let board = y.div_euclid(BOARD);
    let length = 256;
    let along = x + (hash2(board, 7) * 512.0) as i32;
    let piece = along.rem_euclid(512) / length;
    let tone = hash2(board * 5 + piece, 3) - 0.5;
    let fibre = grain(x / 3 + board * 91, y * 4 + piece * 57) - 0.5;
    let fine = grain(x + piece * 33, y * 11) - 0.5;
    let in_board = y.rem_euclid(BOARD);
    let gap = in_board < 3 || along.rem_euclid(length) < 3;
    let k = (1.0 + 0.34 * tone + 0.75 * fibre + 0.3 * fine) * if gap { 0.35 } else { 1.0 };
    let warm = [1.0, 1.0 - 0.10 * tone, 1.0 - 0.22 * tone];
    scale(tint(base, warm), k)
}

/// Square tiles with dark joints, cloudy inside.
fn stone(base: Rgb, x: i32, y: i32) -> Rgb {
    const SIDE: i32 = 128;
    let (tx, ty) = (x.div_euclid(SIDE), y.div_euclid(SIDE));
    let tone = hash2(tx * 3 + 1, ty * 7 + 2) - 0.5;
    let joint = x.rem_euclid(SIDE) < 5 || y.rem_euclid(SIDE) < 5;
    let cloud = grain(x + tx * 77, y + ty * 131) - 0.5;
    let speck = grain(x * 6, y * 6) - 0.5;
    let k = (1.0 + 0.4 * tone + 1.1 * cloud + 0.35 * speck) * if joint { 0.4 } else { 1.0 };
    scale(base, k.max(0.05))
}

/// A floor ready to be drawn in one look and light.
#[derive(Clone, Debug)]
pub struct Ground {
    floor: Floor,
    side: usize,
    /// Units that one repetition covers.
    period: f32,
    /// For each channel, `side + 1` rows of sums of all rows before, of the plain material.
    sums: &'static [Vec<f32>; 3],
    /// What the material's light is multiplied by, then what is added, for this look and colour.
    tone: [Rgb; 2],
    /// Where the material lies, in units along X and Z.
    shift: [f32; 2],
    /// The strip of the row at work, and its first texel again.
    strip: [Vec<f32>; 3],
    /// For every column of that row: texel and fraction.
    columns: Vec<(u32, f32)>,
    /// For every column of that row: how near it is to the pool of light.
    pool: Vec<f32>,
}

/// Units that one repetition of the material covers.
const PERIOD: f32 = 3.2;

/// The sums of a material: the same for every clip, so they are worked out once.
fn material(floor: Floor, side: usize) -> &'static [Vec<f32>; 3] {
    const KINDS: usize = 7;
    static SUMS: [OnceLock<[Vec<f32>; 3]>; 2 * KINDS] = [const { OnceLock::new() }; 2 * KINDS];
    let (kind, floor) = match floor {
        Floor::Wood => (0, floor),
        Floor::Stone => (1, floor),
        Floor::Sand => (2, floor),
        Floor::Grass => (3, floor),
        Floor::Snow => (4, floor),
        Floor::Asphalt => (5, floor),
        Floor::Plain(_) => (6, Floor::Plain([1.0; 3])),
    };
    let slot = 2 * kind + usize::from(side == 512);
    SUMS[slot].get_or_init(|| {
        let mut sums = std::array::from_fn(|_| vec![0.0; (side + 1) * side]);
        for y in 0..side {
            for x in 0..side {
                for (sums, value) in sums.iter_mut().zip(floor.texel(x, y, side)) {
                    sums[(y + 1) * side + x] = sums[y * side + x] + value;
                }
            }
        }
        sums
    })
}

impl Ground {
    /// Prepares `floor` for pictures `width` pixels wide; `unit` is pixels per unit, which sets
    /// the detail, and `seed` says where boards and tiles begin.
    pub fn new(floor: Floor, look: Look, (unit, width): (f32, usize), seed: u32) -> Self {
        let side = if unit > 150.0 { 512 } else { 256 };
        let texture = match look {
            Look::Flat => 0.12,
            Look::Pencil => 0.45,
            Look::Neon => 0.0,
            Look::Pixel => 0.6,
            Look::Soft3d => 1.0,
        };
        // A plain floor's material is made in white, and coloured here.
        let paint = match floor {
            Floor::Plain(colour) => colour,
            _ => [1.0; 3],
        };
        let shift = |salt: i32| (hash2(seed as i32, salt) * 64.0).floor() * PERIOD / 64.0;
        Self {
            floor,
            side,
            period: PERIOD,
            sums: material(floor, side),
            tone: [scale(paint, texture), scale(floor.colour(), 1.0 - texture)],
            shift: [shift(1), shift(2)],
            strip: std::array::from_fn(|_| vec![0.0; side + 1]),
            columns: vec![(0, 0.0); width],
            pool: vec![0.0; width],
        }
    }

    /// Draws all rows from `top` down.
    pub fn draw(&mut self, canvas: &mut Canvas, view: &View, light: &Light, top: usize) {
        let first = (view.horizon.max(0.0).floor() as usize).max(top);
        for y in first..canvas.height {
            let below = y as f32 + 0.5 - view.horizon;
            if below < 0.25 {
                continue;
            }
            let depth = view.y * view.focal / below;
            self.draw_row(canvas, view, light, (y, depth));
        }
    }

    fn draw_row(&mut self, canvas: &mut Canvas, view: &View, light: &Light, row: (usize, f32)) {
        let (y, depth) = row;
        let z = view.z + depth;
        let units_per_pixel = depth / view.focal;
        // Depth that the row covers: the derivative of y*focal/below.
        let covered = depth * depth / (view.y * view.focal);
        let level = self.fill_strip(z, covered, units_per_pixel);
        let cells = self.side >> level;
        let texels = cells as f32 / self.period;
        let left = view.x + self.shift[0] + (0.5 - view.centre) * units_per_pixel;
        let start = (left * texels - 0.5).rem_euclid(cells as f32);
        let step = units_per_pixel * texels;
        self.place_columns(start, step, cells);
        let lamp = RowLight::new(light, view, z, units_per_pixel);
        lamp.fill(&mut self.pool);
        let fog = (-light.fog * depth.min(200.0)).exp();
        for (channel, plane) in canvas.row(y).into_iter().enumerate() {
            let strip = &self.strip[channel][..=cells];
            let air = light.fog_colour[channel] * (1.0 - fog);
            let (base, pool) = (lamp.base[channel] * fog, lamp.pool[channel] * fog);
            let columns = self.columns.iter().zip(&self.pool);
            for (pixel, (&(at, part), near)) in plane.iter_mut().zip(columns) {
                let (a, b) = (strip[at as usize], strip[at as usize + 1]);
                *pixel = (a + (b - a) * part) * (base + pool * near) + air;
            }
        }
        if light.look == Look::Neon {
            grid(canvas, view, y, (z, covered));
        }
    }

    /// For every column the texel to its left, and how far it is to the next.
    fn place_columns(&mut self, start: f32, step: f32, cells: usize) {
        for (x, column) in self.columns.iter_mut().enumerate() {
            let u = start + step * x as f32;
            // `u` is never negative: truncation is the floor.
            let whole = u as i32;
            *column = (whole as u32 & (cells as u32 - 1), u - whole as f32);
        }
    }

    /// The strip at depth `z`, averaged over `covered` units of depth and halved until a texel is
    /// no finer than a pixel. Returns how often it was halved.
    fn fill_strip(&mut self, z: f32, covered: f32, units_per_pixel: f32) -> usize {
        let (side, rows) = (self.side, self.side as f32);
        let per_unit = rows / self.period;
        let span = (covered * per_unit).clamp(1.0, rows);
        let from = ((z + self.shift[1]) * per_unit - 0.5 * span).rem_euclid(rows);
        let finest = units_per_pixel * per_unit;
        let level = (finest.max(1.0).log2().round() as usize).min(side.ilog2() as usize - 2);
        for (channel, (sums, strip)) in self.sums.iter().zip(&mut self.strip).enumerate() {
            integrate(sums, strip, (from, span), side);
            for halving in 0..level {
                for i in 0..side >> (halving + 1) {
                    strip[i] = 0.5 * (strip[2 * i] + strip[2 * i + 1]);
                }
            }
            let [gain, lift] = self.tone.map(|tone| tone[channel]);
            for texel in &mut strip[..side >> level] {
                *texel = *texel * gain + lift;
            }
            // One more than there are: interpolation never wraps.
            strip[side >> level] = strip[0];
        }
        level
    }

    /// What it is made of.
    pub fn floor(&self) -> Floor {
        self.floor
    }
}

/// Mean of the rows `from .. from + span` (fractional, repeating) of a tile given as prefix sums.
fn integrate(sums: &[f32], strip: &mut [f32], (from, span): (f32, f32), side: usize) {
    let end = from + span;
    let inverse = 1.0 / span;
    // Each bound as the two sums beside it; a bound beyond the tile wraps and adds a whole tile.
    let bound = |at: f32| {
        let row = at.floor() as usize;
        let (turns, row) = (row / side, row % side);
        (turns as f32, row * side, (row + 1) * side, at - at.floor())
    };
    let (turns_a, a0, a1, fa) = bound(from);
    let (turns_b, b0, b1, fb) = bound(end);
    let whole = &sums[side * side..][..side];
    let (a0, a1) = (&sums[a0..][..side], &sums[a1..][..side]);
    let (b0, b1) = (&sums[b0..][..side], &sums[b1..][..side]);
    for x in 0..side {
        let low = a0[x] + (a1[x] - a0[x]) * fa + turns_a * whole[x];
        let high = b0[x] + (b1[x] - b0[x]) * fb + turns_b * whole[x];
        strip[x] = (high - low) * inverse;
    }
}

/// The light on one row of the floor: even, plus a pool about the subject.
struct RowLight {
    base: Rgb,
    pool: Rgb,
    start: f32,
    step: f32,
    depth: f32,
}

impl RowLight {
    fn new(light: &Light, view: &View, z: f32, units_per_pixel: f32) -> Self {
        // How much is even light, and how wide the pool is.
        let (even, width) = match (light.look, light.indoor) {
            (Look::Flat | Look::Pencil, _) => (1.0, 4.0),
            (_, true) => (0.42, 1.5),
            (_, false) => (0.72, 3.0),
        };
        let full = match light.look {
            Look::Flat => light.flat_tint(),
            Look::Neon => scale(light.fog_colour, 0.6),
            _ => super::canvas::add(light.sky, scale(light.key, light.sun[1])),
        };
        let k = 1.0 / width;
        Self {
            base: scale(full, even),
            pool: scale(full, 1.08 - even),
            start: (view.x + (0.5 - view.centre) * units_per_pixel) * k - view.x * k,
            step: units_per_pixel * k,
            depth: (z * k) * (z * k),
        }
    }
}

impl RowLight {
    /// How near every column is to the pool's middle: 1 there, 0 far away.
    fn fill(&self, pool: &mut [f32]) {
        for (x, near) in pool.iter_mut().enumerate() {
            let dx = self.start + self.step * x as f32;
            *near = 1.0 / (1.0 + self.depth + dx * dx);
        }
    }
}

/// Glowing lines on the floor of the neon look.
fn grid(canvas: &mut Canvas, view: &View, y: usize, (z, covered): (f32, f32)) {
    const CELL: f32 = 0.5;
    let line = light_of([200, 40, 190]);
    let units_per_pixel = (z - view.z) / view.focal;
    let fade = 1.0 / (1.0 + 0.05 * (z - view.z) * (z - view.z));
    let across = coverage(z / CELL, covered / CELL);
    let columns: Vec<f32> = (0..canvas.width)
        .map(|x| {
            let u = view.x + (x as f32 + 0.5 - view.centre) * units_per_pixel;
            let along = coverage(u / CELL, units_per_pixel / CELL);
            0.5 * fade * (across + along).min(1.0)
        })
        .collect();
    for (plane, line) in canvas.row(y).into_iter().zip(line) {
        for (pixel, cover) in plane.iter_mut().zip(&columns) {
            *pixel += line * cover;
        }
    }
}

/// How much of a pixel of the given footprint a line at whole numbers covers.
#[inline(always)]
fn coverage(at: f32, footprint: f32) -> f32 {
    const HALF: f32 = 0.022;
    // Rounding by truncation of a positive number: quick where there is no rounding instruction.
    let up = at + 4096.5;
    let distance = (up - (up as i32) as f32 - 0.5).abs();
    let soft = footprint.max(0.012);
    let edge = ((HALF + 0.5 * soft - distance) / soft).clamp(0.0, 1.0);
    edge * (2.0 * HALF / soft).min(1.0)
}
