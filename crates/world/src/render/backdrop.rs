//! What stands behind the floor: a wall, or the land and the sky.
//!
//! It is painted once a clip onto a plate a little larger than the picture, which the camera then
//! sees from wherever it is.

use super::canvas::{Canvas, Rgb, luma, mix, scale, smooth};
use super::light::Light;
use super::noise::{hash2, split};
use super::view::View;
use crate::attributes::{Look, TimeOfDay};

/// What is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backdrop {
    /// A sports hall: padded wall, high windows.
    Court,
    /// A stone hall with columns.
    Hall,
    /// A papered room with a window and a picture.
    Room,
    /// A hedge, trees, the sky.
    Garden,
    /// The sea and the sky.
    Beach,
    /// Hills, one behind the other.
    Hills,
    /// Houses against the sky.
    City,
    /// A dark curtain with a pool of light.
    Stage,
}

impl Backdrop {
    /// The backdrop of that name in the grammar; unknown names are hills.
    pub fn from_key(key: &str) -> Self {
        match key {
            "court" => Self::Court,
            "hall" => Self::Hall,
            "room" => Self::Room,
            "garden" => Self::Garden,
            "beach" => Self::Beach,
            "city" => Self::City,
            "stage" => Self::Stage,
            _ => Self::Hills,
        }
    }

    /// Whether there is a roof.
    pub fn indoor(self) -> bool {
        matches!(self, Self::Court | Self::Hall | Self::Room | Self::Stage)
    }

    /// How far behind the subject it stands, in units.
    pub fn depth(self) -> f32 {
        match self {
            Self::Court => 2.6,
            Self::Hall => 3.4,
            Self::Room => 1.7,
            Self::Stage => 2.0,
            Self::Garden => 9.0,
            Self::Beach | Self::Hills => 40.0,
            Self::City => 14.0,
        }
    }
}

/// A backdrop painted for one clip.
#[derive(Clone, Debug)]
pub struct Plate {
    depth: f32,
    /// Plate pixels per unit at its depth.
    density: f32,
    /// Unit coordinates (X, height) of the plate's top left corner.
    origin: (f32, f32),
    width: usize,
    height: usize,
    planes: [Vec<f32>; 3],
}

/// What a painter of backdrops needs to know.
pub(super) struct Brush<'a> {
    /// The light and the look.
    pub light: &'a Light,
    /// Varies what is painted; small.
    pub seed: i32,
    /// Size of a plate pixel, for soft edges.
    pub soft: f32,
    /// Height of the eye, which is the height of the horizon.
    pub eye: f32,
}

impl Plate {
    /// Paints the backdrop so that it fills every one of `views`.
    pub fn new(backdrop: Backdrop, light: &Light, views: &[View], seed: u32) -> Self {
        let depth = backdrop.depth();
        let mut bounds = [f32::MAX, f32::MIN, f32::MIN, f32::MIN];
        for view in views {
            let density = view.focal / (depth - view.z);
            bounds[0] = bounds[0].min(view.x - view.centre / density);
            bounds[1] = bounds[1].max(view.x + (view.width - view.centre) / density);
            bounds[2] = bounds[2].max(view.y + view.horizon / density);
            bounds[3] = bounds[3].max(density);
        }
        let [left, right, top, density] = bounds;
        let limit = 4.0 * views.first().map_or(1.0, |v| v.width);
        let width = (((right - left) * density).min(limit).ceil() as usize + 3).max(4);
        let height = ((top.max(0.0) * density).ceil() as usize + 3).max(4);
        let mut plate = Self {
            depth,
            density,
            origin: (left - 1.0 / density, top + 1.0 / density),
            width,
            height,
            planes: std::array::from_fn(|_| vec![0.0; width * height]),
        };
        let eye = views.first().map_or(0.5, |v| v.y);
        let brush = Brush {
            light,
            // Small: it is added to coordinates, whose fractions must survive.
            seed: (seed % 997) as i32,
            soft: 1.0 / density,
            eye,
        };
        plate.paint(backdrop, &brush);
        plate
    }

    fn paint(&mut self, backdrop: Backdrop, brush: &Brush) {
        let fog = 1.0 - (-brush.light.fog * (self.depth + 3.2)).exp();
        for y in 0..self.height {
            for x in 0..self.width {
                let at_x = self.origin.0 + x as f32 / self.density;
                let at_y = self.origin.1 - y as f32 / self.density;
                let colour = brush.colour(backdrop, at_x, at_y);
                let colour = if brush.light.indoor {
                    colour
                } else {
                    // Mist lies low: the sky above keeps some of its colour.
                    let up = smooth(0.0, 0.5, (at_y - brush.eye) / self.depth);
                    mix(colour, brush.light.fog_colour, fog * (1.0 - 0.6 * up))
                };
                for (plane, value) in self.planes.iter_mut().zip(brush.in_look(colour)) {
                    plane[y * self.width + x] = value;
                }
            }
        }
    }

    /// Draws what the camera sees of it; returns the first row of the floor.
    pub fn draw(&self, canvas: &mut Canvas, view: &View) -> usize {
        let foot = view.floor_row(self.depth);
        let rows = (foot.ceil().max(0.0) as usize).min(canvas.height);
        let density = view.focal / (self.depth - view.z);
        let step = self.density / density;
        let left = ((view.x - self.origin.0) - (view.centre - 0.5) / density) * self.density;
        let columns = self.columns(left, step, canvas.width);
        let mut blended = vec![0.0; self.width];
        for y in 0..rows {
            let height = view.y + (view.horizon - y as f32 - 0.5) / density;
            let v = ((self.origin.1 - height) * self.density).clamp(0.0, self.height as f32 - 1.01);
            let (row, fy) = (v as usize, v - (v as usize) as f32);
            for (plane, out) in self.planes.iter().zip(canvas.row(y)) {
                let (top, bottom) =
                    plane[row * self.width..][..2 * self.width].split_at(self.width);
                for ((c, a), b) in blended.iter_mut().zip(top).zip(bottom) {
                    *c = a + (b - a) * fy;
                }
                resample(&blended, &columns, out);
            }
        }
        (foot.floor().max(0.0) as usize).min(canvas.height)
    }

    /// For every column of the picture the plate's, and how far it is to the next.
    fn columns(&self, left: f32, step: f32, width: usize) -> Columns {
        let last = self.width as f32 - 1.01;
        let inside = left >= 0.0 && left + width as f32 <= last;
        if (step - 1.0).abs() < 1e-5 && inside {
            return Columns::Shifted(left as usize, left - (left as usize) as f32);
        }
        let at = |x: usize| (left + step * x as f32).clamp(0.0, last);
        Columns::Scaled((0..width).map(|x| (at(x) as u32, at(x).fract())).collect())
    }
}

/// Which columns of a plate a row of the picture shows.
enum Columns {
    /// Plate and picture have one scale: from a column on, and a fraction.
    Shifted(usize, f32),
    /// A column and a fraction for each.
    Scaled(Vec<(u32, f32)>),
}

fn resample(row: &[f32], columns: &Columns, out: &mut [f32]) {
    match columns {
        Columns::Shifted(from, part) => {
            let (a, b) = (&row[*from..], &row[from + 1..]);
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = a + (b - a) * part;
            }
        }
        Columns::Scaled(columns) => {
            for (out, &(at, part)) in out.iter_mut().zip(columns) {
                let (a, b) = (row[at as usize], row[at as usize + 1]);
                *out = a + (b - a) * part;
            }
        }
    }
}

impl Brush<'_> {
    /// The colour at X = `x`, `y` units above the floor, at the backdrop's depth.
    fn colour(&self, backdrop: Backdrop, x: f32, y: f32) -> Rgb {
        match backdrop {
            Backdrop::Court => self.court(x, y),
            Backdrop::Hall => self.hall(x, y),
            Backdrop::Room => self.room(x, y),
            Backdrop::Stage => self.stage(x, y),
            Backdrop::Garden => self.garden(x, y),
            Backdrop::Beach => self.beach(x, y),
            Backdrop::Hills => self.hills(x, y),
            Backdrop::City => self.city(x, y),
        }
    }

    /// Pencil leaves paper, neon leaves the dark, posters leave few tones.
    fn in_look(&self, c: Rgb) -> Rgb {
        match self.light.look {
            Look::Pencil => {
                let bare = if self.light.time == TimeOfDay::Night {
                    0.04
                } else {
                    0.25
                };
                mix(c, [0.92, 0.90, 0.84], bare)
            }
            Look::Neon => {
                let level = luma(c).sqrt();
                mix(scale(c, 0.10), scale(self.light.fog_colour, level), 0.55)
            }
            Look::Flat | Look::Soft3d | Look::Pixel => c,
        }
    }

    /// Inside `|v| < half`, with an edge one pixel soft.
    pub fn band(&self, v: f32, half: f32) -> f32 {
        smooth(half + 0.5 * self.soft, half - 0.5 * self.soft, v.abs())
    }

    /// One above `level`, zero below it.
    pub fn above(&self, y: f32, level: f32) -> f32 {
        smooth(level - 0.5 * self.soft, level + 0.5 * self.soft, y)
    }

    /// One of the colours, by the clip's seed.
    pub fn choice(&self, from: &[[u8; 3]]) -> [u8; 3] {
        from[(hash2(self.seed, 77) * from.len() as f32) as usize % from.len()]
    }
}

/// `x` folded into `[-period/2, period/2)`.
pub(super) fn wrapped(x: f32, period: f32) -> f32 {
    let (turns, _) = split(x / period + 0.5);
    x - turns as f32 * period
}
