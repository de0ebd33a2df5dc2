//! What stands behind the floor: a wall, or the land and the sky.
//!
//! It is painted once a clip onto a plate a little larger than the picture, which the camera then
//! sees from wherever it is.

use super::canvas::{Canvas, Rgb, add, light_of, luma, mix, scale, smooth};
use super::light::Light;
use super::noise::{grain_at, hash2};
use super::view::View;
use crate::attributes::{Look, TimeOfDay};

/// Pixels per unit at depth one over pixels per unit at the subject's: how far the eye is.
const LENS: f32 = 3.2;

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
struct Brush<'a> {
    light: &'a Light,
    seed: i32,
    /// Size of a plate pixel, for soft edges.
    soft: f32,
    /// Height of the eye, which is the height of the horizon.
    eye: f32,
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
    fn band(&self, v: f32, half: f32) -> f32 {
        smooth(half + 0.5 * self.soft, half - 0.5 * self.soft, v.abs())
    }

    fn above(&self, y: f32, level: f32) -> f32 {
        smooth(level - 0.5 * self.soft, level + 0.5 * self.soft, y)
    }

    /// Light on a wall: from above, darker to the foot and the corners.
    fn on_wall(&self, colour: Rgb, x: f32, y: f32) -> Rgb {
        if self.light.look == Look::Flat {
            return super::canvas::tint(colour, self.light.flat_tint());
        }
        let l = self.light;
        let foot = 0.62 + 0.38 * smooth(0.0, 0.22, y);
        let pool = 1.0 / (1.0 + 0.16 * x * x + 0.10 * (y - 1.2) * (y - 1.2));
        let lit = add(scale(l.sky, 0.9 * foot), scale(l.key, 0.62 * pool * foot));
        super::canvas::tint(colour, lit)
    }

    /// A window pane: the sky outside.
    fn pane(&self, up: f32) -> Rgb {
        let bright = if self.light.time == TimeOfDay::Night {
            1.2
        } else {
            1.0
        };
        scale(self.light.sky_at(0.15 + 0.6 * up), bright)
    }

    fn court(&self, x: f32, y: f32) -> Rgb {
        let wall = light_of([206, 204, 194]);
        let pad = light_of(self.choice(&[[58, 92, 120], [116, 62, 56], [72, 104, 84]]));
        let seam = self.band(wrapped(x, 0.55), 0.012);
        let padding = scale(mix(pad, scale(pad, 0.55), seam), 0.9 + 0.1 * (1.0 - seam));
        let brick = 1.0
            - 0.10 * self.band(wrapped(y, 0.16), 0.006)
            - 0.05 * self.band(wrapped(x + 0.2 * (y / 0.16).floor(), 0.4), 0.006);
        let mut c = mix(padding, scale(wall, brick), self.above(y, 0.62));
        let stripe = self.band(y - 0.74, 0.035);
        c = mix(c, light_of([228, 170, 60]), stripe * 0.8);
        let lit = self.on_wall(c, x, y);
        let window = self.band(y - 1.55, 0.28) * self.band(wrapped(x + 0.4, 1.3), 0.5);
        let bars = self
            .band(wrapped(x + 0.4, 0.26), 0.014)
            .max(self.band(y - 1.55, 0.012));
        let lit = mix(
            lit,
            mix(self.pane((y - 1.25) / 0.6), scale(lit, 0.6), bars),
            window,
        );
        mix(light_of([58, 40, 26]), lit, self.above(y, 0.06))
    }

    fn hall(&self, x: f32, y: f32) -> Rgb {
        let stone = light_of([176, 166, 150]);
        let grain = 0.86 + 0.28 * grain_at(x * 90.0 + 31.0, y * 90.0);
        let from_column = wrapped(x + 0.35, 1.7);
        let block = self
            .band(wrapped(y, 0.34), 0.008)
            .max(self.band(wrapped(x + 0.31 * (y / 0.34).floor(), 0.8), 0.008));
        let wall = scale(stone, grain * (0.66 - 0.14 * block));
        // A round column: shaded across, with a base.
        let half = if y < 0.16 { 0.27 } else { 0.21 };
        let across = (from_column / half).clamp(-1.0, 1.0);
        let round = (1.0 - across * across).sqrt();
        let side = 0.35
            + 0.65 * (0.75 * round + 0.35 * across * -self.light.sun[0].signum()).clamp(0.0, 1.0);
        let column = scale(stone, grain * side * 1.08);
        let c = mix(wall, column, self.band(from_column, half));
        let lit = self.on_wall(c, x, y);
        // A tall arched window between the columns.
        let dx = wrapped(x + 0.35 + 0.85, 1.7);
        let arch = 1.55 + (0.25f32.powi(2) - dx * dx).max(0.0).sqrt();
        let inside = self.band(dx, 0.25) * self.above(y, 0.75) * (1.0 - self.above(y, arch));
        let bars = self.band(dx, 0.012).max(self.band(wrapped(y, 0.3), 0.010));
        mix(
            lit,
            mix(self.pane((y - 0.8) / 1.1), scale(lit, 0.5), bars),
            inside,
        )
    }

    fn room(&self, x: f32, y: f32) -> Rgb {
        let paper = light_of(self.choice(&[
            [214, 198, 168],
            [172, 196, 204],
            [206, 186, 196],
            [186, 202, 172],
        ]));
        let motif = self.band(wrapped(x, 0.16), 0.03) * 0.10;
        let mut c = scale(paper, 1.0 - motif);
        c = mix(light_of([236, 232, 222]), c, self.above(y, 0.11));
        c = mix(c, light_of([190, 184, 172]), self.band(y - 0.11, 0.008));
        let side = if self.seed & 1 == 0 { 1.0 } else { -1.0 };
        let picture = (x * side + 0.72, y - 0.86);
        let frame = self.band(picture.0, 0.24) * self.band(picture.1, 0.19);
        let canvas = self.band(picture.0, 0.205) * self.band(picture.1, 0.155);
        let painted = mix(
            light_of([120, 150, 110]),
            light_of([176, 206, 226]),
            smooth(-0.05, 0.05, picture.1 + 0.05 * (picture.0 * 9.0).sin()),
        );
        c = mix(c, light_of([96, 62, 36]), frame);
        c = mix(c, painted, canvas);
        let lit = self.on_wall(c, x, y);
        let window = (x * side - 0.62, y - 0.92);
        let sill = self.band(window.0, 0.40) * self.band(window.1, 0.38);
        let glass = self.band(window.0, 0.35) * self.band(window.1, 0.33);
        let bars = self.band(window.0, 0.014).max(self.band(window.1, 0.014));
        let lit = mix(lit, self.on_wall([0.85, 0.84, 0.80], x, y), sill);
        mix(
            lit,
            mix(self.pane(0.4 + window.1), [0.75, 0.74, 0.7], bars),
            glass,
        )
    }

    fn stage(&self, x: f32, y: f32) -> Rgb {
        let cloth = light_of(self.choice(&[[104, 24, 34], [34, 44, 96], [64, 34, 92]]));
        let fold = 0.5 + 0.5 * (x * 21.0 + 1.3 * (x * 6.1).sin() + self.seed as f32).sin();
        let spot = 1.0 / (1.0 + 0.7 * x * x + 0.45 * (y - 0.7) * (y - 0.7));
        let c = scale(cloth, 0.35 + 0.85 * fold);
        let hem = 0.5 + 0.5 * smooth(0.0, 0.12, y);
        if self.light.look == Look::Flat {
            return scale(c, 0.9);
        }
        scale(c, hem * (0.18 + 1.15 * spot))
    }

    /// The sky with the sun or moon and clouds; `x`, `up` as angles from the eye.
    fn sky(&self, x: f32, up: f32) -> Rgb {
        // In picture heights: the same measures whatever the lens.
        let (x, up) = (x * LENS, up * LENS);
        let l = self.light;
        let mut c = l.sky_at(up * 1.6);
        let (sx, sy, size, disc): (f32, f32, f32, Rgb) = match l.time {
            TimeOfDay::Morning => (0.42, 0.22, 0.045, [1.6, 1.4, 1.0]),
            TimeOfDay::Day => (-0.42, 0.34, 0.05, [1.8, 1.75, 1.5]),
            TimeOfDay::Sunset => (-0.30, 0.12, 0.055, [1.7, 0.9, 0.35]),
            TimeOfDay::Night => (0.44, 0.30, 0.036, [0.9, 0.92, 0.85]),
        };
        let away = ((x - sx).powi(2) + (up - sy).powi(2)).sqrt();
        let veil = (1.0 - l.fog * 14.0).clamp(0.0, 1.0);
        if l.time == TimeOfDay::Night {
            c = add(c, scale([0.9, 0.95, 1.0], veil * self.star(x, up)));
        }
        if l.look != Look::Flat {
            c = add(c, scale(disc, veil * 0.22 / (1.0 + 60.0 * away * away)));
        }
        let edge = 0.003;
        c = mix(
            c,
            disc,
            veil * smooth(size + 0.004 + edge, size - 0.004, away),
        );
        let sx = self.seed as f32 * 17.0;
        let cloud = grain_at(x * 110.0 + sx, up * 300.0 + sx) - 0.5
            + 0.4 * (grain_at(x * 300.0, up * 640.0 + sx) - 0.5);
        let cloud = smooth(0.03, 0.20, cloud) * smooth(0.0, 0.25, up) * 0.75;
        let white = add(scale(l.key, 0.55), scale(l.sky, 0.7));
        mix(
            c,
            white,
            if l.time == TimeOfDay::Night {
                0.5 * cloud
            } else {
                cloud
            },
        )
    }

    fn star(&self, x: f32, up: f32) -> f32 {
        const CELL: f32 = 0.03;
        let (cx, cy) = ((x / CELL).floor(), (up / CELL).floor());
        let (ix, iy) = (cx as i32, cy as i32 + self.seed);
        if hash2(ix, iy) > 0.16 {
            return 0.0;
        }
        let (dx, dy) = (
            x / CELL - cx - 0.2 - 0.6 * hash2(ix, iy + 91),
            up / CELL - cy - 0.2 - 0.6 * hash2(ix + 57, iy),
        );
        let glow = (1.0 - 60.0 * (dx * dx + dy * dy)).max(0.0);
        glow * (0.3 + hash2(ix + 13, iy + 5))
    }

    /// A colour of the land in this light, `far` 0 (near) to 1 (blue with distance).
    fn land(&self, colour: [u8; 3], far: f32) -> Rgb {
        let l = self.light;
        if l.look == Look::Flat {
            let c = super::canvas::tint(light_of(colour), l.flat_tint());
            return mix(c, l.horizon, 0.6 * far);
        }
        let lit = super::canvas::tint(light_of(colour), add(scale(l.sky, 0.8), scale(l.key, 0.65)));
        mix(lit, l.sky_at(0.06), 0.72 * far)
    }

    /// Height of a rolling skyline.
    fn ridge(&self, x: f32, stretch: f32, row: f32) -> f32 {
        grain_at(
            x * stretch + row * 71.0 + self.seed as f32 * 13.0,
            row * 37.0 + 5.0,
        )
    }

    fn hills(&self, x: f32, y: f32) -> Rgb {
        let depth = Backdrop::Hills.depth() + 3.2;
        let (ax, up) = (x / depth, (y - self.eye) / depth);
        let mut c = self.sky(ax, up);
        let rows = [
            ([112, 132, 150], 0.85, 0.066, 340.0),
            ([104, 136, 112], 0.55, 0.042, 520.0),
            ([84, 128, 66], 0.2, 0.020, 700.0),
        ];
        for (i, (colour, far, high, stretch)) in rows.into_iter().enumerate() {
            let crest = high * (0.35 + 1.0 * self.ridge(ax, stretch, i as f32));
            let inside = smooth(
                crest + 0.5 * self.soft / depth,
                crest - 0.5 * self.soft / depth,
                up,
            );
            let slope = 0.82 + 0.5 * (self.ridge(ax * 2.0, stretch * 1.6, i as f32 + 3.0) - 0.5);
            let land = self.land(colour, far);
            let toward = if self.light.look == Look::Flat {
                1.0
            } else {
                slope + 0.5 * (crest - up) / high.max(0.01) * 0.3
            };
            c = mix(c, scale(land, toward), inside);
        }
        c
    }

    fn garden(&self, x: f32, y: f32) -> Rgb {
        let depth = Backdrop::Garden.depth() + 3.2;
        let (ax, up) = (x / depth, (y - self.eye) / depth);
        let edge = self.soft / depth;
        let mut c = self.sky(ax, up);
        let far = 0.05 + 0.035 * self.ridge(ax, 240.0, 1.0);
        let far_land = self.land([110, 140, 120], 0.7);
        c = mix(c, far_land, smooth(far + edge, far - edge, up));
        for row in 0..2 {
            c = self.trees(c, (ax, up), (edge, row));
        }
        let hedge = 0.012 + 0.006 * self.ridge(ax, 900.0, 4.0);
        let leaf = self.leaf(x * 1.7 + 3.0, y * 1.7);
        let shade = 0.6 + 0.5 * smooth(-0.01, hedge, up);
        let green = scale(self.land([66, 112, 50], 0.0), leaf * shade);
        mix(c, green, smooth(hedge + edge, hedge - edge, up))
    }

    /// Round crowns on trunks, each lit from its own side.
    fn trees(&self, behind: Rgb, (x, up): (f32, f32), (edge, row): (f32, i32)) -> Rgb {
        let gap = [0.10f32, 0.15][row as usize];
        let far = [0.4f32, 0.08][row as usize];
        let number = (x / gap).floor();
        let mut c = behind;
        for cell in [number - 1.0, number + 1.0, number] {
            let id = cell as i32 * 5 + row * 1000 + self.seed;
            if hash2(id, 1) < 0.25 {
                continue;
            }
            let size = (0.034 + 0.026 * hash2(id, 2)) * (1.0 + 0.5 * row as f32);
            let at = (cell + 0.3 + 0.4 * hash2(id, 3)) * gap;
            let top = size * 1.5;
            let (dx, dy) = ((x - at) / size, (up - top) / (size * 1.12));
            let bump = 0.16 * (self.ridge(x * 3.0 + up, 700.0, id as f32) - 0.5);
            let away = (dx * dx + dy * dy).sqrt() + bump;
            let trunk = smooth(0.09, 0.06, dx.abs()) * smooth(0.2, 0.0, dy);
            c = mix(c, self.land([92, 70, 50], far), trunk);
            let sun = self.light.sun;
            let lit = (0.72 + 0.42 * (dx * sun[0] + dy * sun[1])).max(0.3);
            let lit = if self.light.look == Look::Flat {
                1.0
            } else {
                lit
            };
            let tone = [[74, 128, 58], [98, 140, 62], [58, 112, 70]][(hash2(id, 4) * 3.0) as usize];
            let leaf = self.leaf(x * 12.0, up * 12.0);
            let crown = scale(self.land(tone, far), lit * leaf);
            let soft = edge / size;
            c = mix(c, crown, smooth(1.0 + soft, 1.0 - soft, away));
        }
        c
    }

    /// The unevenness of leaves.
    fn leaf(&self, x: f32, y: f32) -> f32 {
        if self.light.look == Look::Flat {
            return 1.0;
        }
        0.55 + 0.9 * grain_at(x * 150.0, y * 150.0)
    }

    fn beach(&self, x: f32, y: f32) -> Rgb {
        let depth = Backdrop::Beach.depth() + 3.2;
        let (ax, up) = (x / depth, (y - self.eye) / depth);
        let sky = self.sky(ax, up);
        let sea_top = self.land([28, 92, 140], 0.25);
        let sea_low = self.land([84, 176, 180], 0.0);
        let down = (-up / 0.016).clamp(0.0, 1.0);
        let wave = grain_at(ax * 260.0, up * 9000.0);
        let glitter = if self.light.look == Look::Flat {
            0.0
        } else {
            0.5 * (wave - 0.5)
        };
        let sea = scale(mix(sea_top, sea_low, down), 1.0 + glitter);
        mix(sky, sea, smooth(0.0005, -0.0005, up))
    }

    fn city(&self, x: f32, y: f32) -> Rgb {
        let depth = Backdrop::City.depth() + 3.2;
        let (ax, up) = (x / depth, (y - self.eye) / depth);
        let mut c = self.sky(ax, up);
        for (row, (width, high, far)) in [(0.034f32, 0.125f32, 0.65f32), (0.052, 0.088, 0.15)]
            .into_iter()
            .enumerate()
        {
            c = self.houses(c, (ax, up), (width, high, far), row as i32);
        }
        c
    }

    fn houses(
        &self,
        behind: Rgb,
        (x, up): (f32, f32),
        (width, high, far): (f32, f32, f32),
        row: i32,
    ) -> Rgb {
        let number = (x / width).floor() as i32 + 50 * row + self.seed;
        let (inside_x, edge) = (
            x - (x / width).floor() * width,
            self.soft / (Backdrop::City.depth() + 3.2),
        );
        let top = high * (0.35 + 0.65 * hash2(number, 3));
        let walls = [
            [176, 150, 130],
            [150, 156, 166],
            [190, 176, 148],
            [138, 118, 112],
        ];
        let wall = self.land(walls[(hash2(number, 8) * 4.0) as usize % 4], far);
        let (cell_x, cell_y) = (width / 5.0, 0.0125);
        let (wx, wy) = (
            (inside_x / cell_x).fract() - 0.5,
            (up / cell_y).rem_euclid(1.0) - 0.5,
        );
        let soft_x = edge / cell_x;
        let pane = smooth(0.27 + soft_x, 0.27 - soft_x, wx.abs())
            * smooth(0.30 + edge / cell_y, 0.30 - edge / cell_y, wy.abs());
        let lamp = hash2(
            number * 31 + (inside_x / cell_x) as i32,
            (up / cell_y).floor() as i32,
        );
        let glass = match self.light.time {
            TimeOfDay::Night if lamp > 0.55 => [0.95, 0.72, 0.30],
            TimeOfDay::Sunset if lamp > 0.8 => [0.9, 0.6, 0.25],
            _ => scale(self.light.sky_at(0.4), 0.45),
        };
        let house = mix(wall, mix(glass, wall, 0.5 * far), pane * 0.9);
        mix(behind, house, smooth(top + edge, top - edge, up))
    }

    /// One of the colours, by the clip's seed.
    fn choice(&self, from: &[[u8; 3]]) -> [u8; 3] {
        from[(hash2(self.seed, 77) * from.len() as f32) as usize % from.len()]
    }
}

/// `x` folded into `[-period/2, period/2)`.
fn wrapped(x: f32, period: f32) -> f32 {
    x - (x / period).round() * period
}
