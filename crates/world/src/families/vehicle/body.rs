//! What vehicles and roads look like.

use rand::RngExt;

use super::shapes::{BUS, CAR, Shape, Side, TRUCK};
use crate::WorldRng;
use crate::attributes::{Colour, Look, pick};
use crate::render::{
    Ellipse, Painter, Rgb, Shadow, Surface, add, light_of, mix, normalised, scale, smooth,
    smooth_outline,
};

/// A side view, and its paint.
#[derive(Clone, Debug)]
pub struct Model {
    shape: &'static Shape,
    paint: Rgb,
    trim: Rgb,
}

/// Where a vehicle is.
#[derive(Clone, Copy, Debug)]
pub struct Pose {
    /// Its middle.
    pub x: f64,
    /// How far its springs lift it.
    pub lift: f64,
    /// Its near side.
    pub z: f64,
    /// 1 drives to the right, -1 to the left.
    pub sign: f64,
    /// Whether its lights are on.
    pub night: bool,
}

impl Model {
    /// The model of `subject`, painted in `colour`.
    pub fn new(subject: &str, colour: Colour, rng: &mut WorldRng) -> Self {
        let trims = [[214, 214, 210], [92, 96, 104]];
        Self {
            shape: match subject {
                "bus" => &BUS,
                "truck" => &TRUCK,
                _ => &CAR,
            },
            paint: light_of(colour.srgb()),
            trim: light_of(pick(rng, &trims)),
        }
        .with_contrast(rng)
    }

    /// A trim that is not the paint's own tone.
    fn with_contrast(mut self, rng: &mut WorldRng) -> Self {
        let tone = rng.random_range(0.9..1.1);
        self.trim = scale(self.trim, tone);
        if (crate::render::luma(self.paint) - crate::render::luma(self.trim)).abs() < 0.12 {
            self.trim = light_of([54, 56, 62]);
        }
        self
    }

    /// What it is called in the truth.
    pub fn label(&self) -> &'static str {
        self.shape.label
    }

    /// Units.
    pub fn length(&self) -> f64 {
        f64::from(self.shape.length)
    }

    /// Units.
    pub fn height(&self) -> f64 {
        f64::from(self.shape.height)
    }

    /// Draws it and its shadow.
    pub fn draw(&self, painter: &mut Painter, pose: &Pose) {
        let shape = self.shape;
        painter.shadow(Shadow {
            x: pose.x as f32,
            z: pose.z as f32 + 0.16,
            height: 0.02,
            half: [0.52 * shape.length, 0.24],
            strength: 1.0,
        });
        if pose.night {
            self.beam(painter, pose);
        }
        self.underside(painter, pose);
        self.volume(painter, pose, shape.body);
        if !shape.cab.is_empty() {
            self.volume(painter, pose, shape.cab);
        }
        self.trimmings(painter, pose);
        for window in shape.windows {
            self.window(painter, pose, window);
        }
        for &wheel in shape.wheels {
            self.wheel(painter, pose, wheel);
        }
        self.lamps(painter, pose);
    }

    fn points(&self, painter: &Painter, pose: &Pose, side: &Side) -> Vec<[f32; 2]> {
        side.iter()
            .map(|&[forward, up]| {
                let x = pose.x + pose.sign * f64::from(forward);
                let spot = painter.project([x, f64::from(up) + pose.lift, pose.z]);
                [spot.x, spot.y]
            })
            .collect()
    }

    /// A painted volume: curved a little from top to bottom, so that sky and road show in it.
    fn volume(&self, painter: &mut Painter, pose: &Pose, side: &Side) {
        let mut points = self.points(painter, pose, side);
        if self.shape.rounding > 1 {
            points = smooth_outline(&points, self.shape.rounding);
        }
        let (top, bottom) = rows(&points);
        let surface = Surface {
            albedo: self.paint,
            gloss: 0.7,
        };
        let round = if self.shape.rounding > 1 { 1.0 } else { 0.5 };
        painter.polygon(&points, |light, _, y| {
            let t = (y - top) / (bottom - top).max(1.0);
            let tilt = round * (1.0 - 1.9 * t + 0.5 * (t - 0.55).max(0.0));
            let body = light.shade(surface, normalised([0.0, tilt, -1.0]));
            scale(body, 1.0 - 0.35 * smooth(0.8, 1.0, t))
        });
        painter.outline(&points, self.paint);
    }

    /// The dark under the body.
    fn underside(&self, painter: &mut Painter, pose: &Pose) {
        let half = 0.44 * self.shape.length;
        let side = [[-half, 0.06], [-half, 0.16], [half, 0.16], [half, 0.06]];
        let points = self.points(painter, pose, &side);
        painter.polygon(&points, |_, _, _| [0.008, 0.008, 0.01]);
    }

    /// Bands and joints that make it a car, a bus, a truck.
    fn trimmings(&self, painter: &mut Painter, pose: &Pose) {
        let trim = Surface::matt(self.trim);
        let strips: &[&Side] = match self.shape.label {
            "bus" => &[&[[-0.80, 0.235], [-0.80, 0.26], [0.80, 0.26], [0.80, 0.235]]],
            "truck" => &[
                &[[-0.81, 0.15], [-0.81, 0.175], [0.36, 0.175], [0.36, 0.15]],
                &[[-0.42, 0.20], [-0.42, 0.58], [-0.41, 0.58], [-0.41, 0.20]],
                &[[-0.03, 0.20], [-0.03, 0.58], [-0.02, 0.58], [-0.02, 0.20]],
            ],
            _ => &[
                &[
                    [-0.055, 0.10],
                    [-0.055, 0.24],
                    [-0.050, 0.24],
                    [-0.050, 0.10],
                ],
                &[[-0.53, 0.11], [-0.53, 0.125], [0.53, 0.125], [0.53, 0.11]],
            ],
        };
        for strip in strips {
            let points = self.points(painter, pose, strip);
            let lit = painter.light.shade(trim, normalised([0.0, 0.1, -1.0]));
            painter.polygon(&points, |_, _, _| lit);
        }
    }

    fn window(&self, painter: &mut Painter, pose: &Pose, side: &Side) {
        let points = self.points(painter, pose, side);
        let (top, bottom) = rows(&points);
        let lit = pose.night && self.shape.label == "bus";
        painter.polygon(&points, |light, x, y| {
            let t = (y - top) / (bottom - top).max(1.0);
            if lit {
                return scale([1.0, 0.82, 0.48], 0.95 - 0.35 * t);
            }
            if light.look == Look::Neon {
                return [0.02, 0.03, 0.05];
            }
            // The sky in the glass, with an oblique gleam.
            let sky = scale(light.sky_at(0.7 - 0.6 * t), 0.42);
            let gleam = smooth(0.0, 2.0, ((x + y) * 0.07).sin() + 0.6);
            mix(
                [0.02, 0.025, 0.03],
                sky,
                0.75 * (1.0 - 0.6 * t) * (0.6 + 0.4 * gleam),
            )
        });
        painter.outline(&points, [0.3, 0.4, 0.5]);
    }

    fn wheel(&self, painter: &mut Painter, pose: &Pose, forward: f32) {
        let x = pose.x + pose.sign * f64::from(forward);
        let radius = self.shape.wheel;
        let spot = painter.project([x, f64::from(radius), pose.z - 0.01]);
        let pixels = radius * spot.scale;
        let round = |k: f32| Ellipse {
            x: spot.x,
            y: spot.y,
            rx: k * pixels,
            ry: k * pixels,
        };
        painter.disc(round(1.16), [0.006, 0.006, 0.008], 1.0);
        painter.ellipsoid(round(1.0), Surface::matt([0.02, 0.02, 0.022]));
        // Rolling without slip.
        let turn = -(x / f64::from(radius)) as f32;
        let rim = light_of([196, 200, 206]);
        painter.ball(round(0.62), rim, |light, n| {
            let angle = n[1].atan2(n[0]) - turn;
            let away = (n[0] * n[0] + n[1] * n[1]).sqrt();
            let spoke = smooth(0.15, 0.45, (2.5 * angle).cos().abs());
            let open = spoke * smooth(0.22, 0.32, away) * smooth(0.92, 0.84, away);
            let metal = light.shade(
                Surface {
                    albedo: rim,
                    gloss: 0.4,
                },
                [0.3 * n[0], 0.3 * n[1], -0.9],
            );
            mix(metal, [0.012, 0.012, 0.014], open)
        });
    }

    fn lamps(&self, painter: &mut Painter, pose: &Pose) {
        let half = 0.5 * self.length() - 0.02;
        let up = if self.shape.label == "car" {
            0.17
        } else {
            0.18
        };
        let night = if pose.night { 1.0 } else { 0.0 };
        for (end, colour) in [(1.0, [1.0, 0.93, 0.70]), (-1.0, [1.0, 0.08, 0.04])] {
            let x = pose.x + pose.sign * end * half;
            let spot = painter.project([x, up + pose.lift, pose.z]);
            let e = Ellipse {
                x: spot.x,
                y: spot.y,
                rx: 0.020 * spot.scale,
                ry: 0.024 * spot.scale,
            };
            painter.disc(e, scale(colour, 0.55 + 0.9 * night), 1.0);
            if pose.night {
                let reach = if end > 0.0 { 0.30 } else { 0.16 };
                painter
                    .canvas
                    .glow(spot.x, spot.y, reach * spot.scale, scale(colour, 0.8));
                painter
                    .canvas
                    .glow(spot.x, spot.y, 0.06 * spot.scale, scale(colour, 1.4));
            }
        }
    }

    /// Light on the road before it.
    fn beam(&self, painter: &mut Painter, pose: &Pose) {
        let from = pose.x + pose.sign * 0.5 * self.length();
        for step in 0..7 {
            let ahead = 0.10 + 0.13 * f64::from(step);
            let spot = painter.project([from + pose.sign * ahead, 0.0, pose.z + 0.05]);
            let reach = (0.12 + 0.03 * step as f32) * spot.scale;
            let level = 0.16 / (1.0 + 0.25 * step as f32);
            ground_glow(
                painter,
                (spot.x, spot.y),
                reach,
                scale([1.0, 0.9, 0.66], level),
            );
        }
    }
}

/// A glow that lies flat on the road.
fn ground_glow(painter: &mut Painter, (x, y): (f32, f32), reach: f32, colour: Rgb) {
    let area = painter.canvas.area(x, y, reach, 0.35 * reach);
    let inverse = 1.0 / reach.max(1.0);
    for row in area.y0..area.y1 {
        for column in area.x0..area.x1 {
            let dx = (column as f32 + 0.5 - x) * inverse;
            let dy = (row as f32 + 0.5 - y) * inverse / 0.35;
            let t = (1.0 - dx * dx - dy * dy).max(0.0);
            let was = painter.canvas.get(column, row);
            let lit = add(was, scale(colour, t * t));
            painter.canvas.blend(column, row, lit, 1.0);
        }
    }
}

/// The first and last row of a polygon.
fn rows(points: &[[f32; 2]]) -> (f32, f32) {
    points.iter().fold((f32::MAX, f32::MIN), |(low, high), p| {
        (low.min(p[1]), high.max(p[1]))
    })
}
