//! The land and the sky: what is behind the subject in the open.

use super::backdrop::{Backdrop, Brush};
use super::canvas::{Rgb, add, light_of, mix, scale, smooth, tint};
use super::noise::{grain_at, hash2, split};
use crate::attributes::{Look, TimeOfDay};

/// Pixels per unit at depth one over pixels per unit at the subject's: how far the eye is.
const LENS: f32 = 3.2;

impl Brush<'_> {
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
            let c = tint(light_of(colour), l.flat_tint());
            return mix(c, l.horizon, 0.6 * far);
        }
        let lit = tint(light_of(colour), add(scale(l.sky, 0.8), scale(l.key, 0.65)));
        mix(lit, l.sky_at(0.06), 0.72 * far)
    }

    /// Height of a rolling skyline.
    fn ridge(&self, x: f32, stretch: f32, row: f32) -> f32 {
        grain_at(
            x * stretch + row * 71.0 + self.seed as f32 * 13.0,
            row * 37.0 + 5.0,
        )
    }

    /// Hills behind hills.
    pub fn hills(&self, x: f32, y: f32) -> Rgb {
        let depth = Backdrop::Hills.depth() + 3.2;
        let (ax, up) = (x / depth, (y - self.eye) / depth);
        let mut c = self.sky(ax, up);
        let rows = [
            ([112, 132, 150], 0.85, 0.066, 340.0),
            ([104, 136, 112], 0.55, 0.042, 520.0),
            ([84, 128, 66], 0.2, 0.020, 700.0),
        ];
        for (i, (colour, far, high, stretch)) in rows.into_iter().enumerate() {
            // No crest is higher: most of the sky needs no ridge.
            if up > 1.4 * high {
                continue;
            }
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

    /// A hedge and trees.
    pub fn garden(&self, x: f32, y: f32) -> Rgb {
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
        // No crown is higher.
        if up > 0.25 {
            return behind;
        }
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

    /// The sea.
    pub fn beach(&self, x: f32, y: f32) -> Rgb {
        let depth = Backdrop::Beach.depth() + 3.2;
        let (ax, up) = (x / depth, (y - self.eye) / depth);
        let sky = self.sky(ax, up);
        if up > 0.0005 {
            return sky;
        }
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

    /// Two rows of houses.
    pub fn city(&self, x: f32, y: f32) -> Rgb {
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
        let edge = self.soft / (Backdrop::City.depth() + 3.2);
        // No roof is higher.
        if up > high + edge {
            return behind;
        }
        let (house, across) = split(x / width);
        let (number, inside_x) = (house + 50 * row + self.seed, across * width);
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
}
