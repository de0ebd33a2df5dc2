//! Walls: what is behind the subject under a roof.

use super::backdrop::{Brush, wrapped};
use super::canvas::{Rgb, add, light_of, mix, scale, smooth, tint};
use super::noise::grain_at;
use crate::attributes::{Look, TimeOfDay};

impl Brush<'_> {
    /// Light on a wall: from above, darker to the foot and the corners.
    fn on_wall(&self, colour: Rgb, x: f32, y: f32) -> Rgb {
        if self.light.look == Look::Flat {
            return tint(colour, self.light.flat_tint());
        }
        let l = self.light;
        let foot = 0.62 + 0.38 * smooth(0.0, 0.22, y);
        let pool = 1.0 / (1.0 + 0.16 * x * x + 0.10 * (y - 1.2) * (y - 1.2));
        let lit = add(scale(l.sky, 0.9 * foot), scale(l.key, 0.62 * pool * foot));
        tint(colour, lit)
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

    /// A sports hall: padded wall, high windows.
    pub fn court(&self, x: f32, y: f32) -> Rgb {
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

    /// A stone hall with columns and arched windows.
    pub fn hall(&self, x: f32, y: f32) -> Rgb {
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

    /// A papered room with a window and a picture.
    pub fn room(&self, x: f32, y: f32) -> Rgb {
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

    /// A curtain in a pool of light.
    pub fn stage(&self, x: f32, y: f32) -> Rgb {
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
}
