//! What balls look like.

use rand::RngExt;

use super::One;
use crate::WorldRng;
use crate::attributes::{Colour, Look};
use crate::render::{
    Dir, Ellipse, Light, Painter, Rgb, Shadow, Surface, add, dot, grain_at, light_of, mirrored,
    mix, normalised, scale, smooth, tint,
};

/// What the surface of a ball is like.
#[derive(Clone, Copy, Debug)]
pub struct Skin {
    kind: Kind,
    colour: Rgb,
    /// A fixed tilt, so that the pattern is not seen straight on.
    tilt: (f32, f32),
    spin: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Basketball,
    Rubber,
    Steel,
    Glass,
}

impl Skin {
    /// The skin of `subject` in `colour`.
    pub fn new(subject: &str, colour: Colour, rng: &mut WorldRng) -> Self {
        Self {
            kind: match subject {
                "basketball" => Kind::Basketball,
                "rubber_ball" => Kind::Rubber,
                "steel_ball" => Kind::Steel,
                _ => Kind::Glass,
            },
            colour: light_of(colour.srgb()),
            tilt: (rng.random_range(0.3..0.9), rng.random_range(-0.7..0.7)),
            spin: rng.random_range(-1.6..1.6),
        }
    }

    #[inline]
    fn shade(&self, light: &Light, n: Dir, turn: &Turn) -> Rgb {
        let p = turn.apply(n);
        match self.kind {
            Kind::Basketball => self.basketball(light, n, p),
            Kind::Rubber => {
                let band = smooth(0.22, 0.19, p[1].abs());
                let white = mix(self.colour, [0.9, 0.9, 0.88], 0.8);
                let albedo = mix(self.colour, white, band * 0.85);
                light.shade(Surface { albedo, gloss: 0.9 }, n)
            }
            Kind::Steel => self.steel(light, n, p),
            Kind::Glass => self.glass(light, n, p),
        }
    }

    fn basketball(&self, light: &Light, n: Dir, p: Dir) -> Rgb {
        // Two great circles and two curves that bend away from the poles.
        let bent = (p[0].abs() - 0.82 + 0.42 * p[2] * p[2]).abs();
        let seam = p[0].abs().min(p[1].abs()).min(bent);
        let line = smooth(0.055, 0.03, seam);
        let pebble = match light.look {
            Look::Soft3d | Look::Pixel => {
                0.88 + 0.24 * grain_at(p[0] * 150.0 + 300.0, (p[1] + 0.7 * p[2]) * 150.0)
            }
            _ => 1.0,
        };
        let dark = if self.colour[1] < 0.03 && self.colour[0] < 0.03 {
            [0.30, 0.30, 0.30]
        } else {
            [0.018, 0.016, 0.016]
        };
        let albedo = mix(scale(self.colour, pebble), dark, line);
        light.shade(
            Surface {
                albedo,
                gloss: 0.30 * (1.0 - line),
            },
            n,
        )
    }

    fn steel(&self, light: &Light, n: Dir, p: Dir) -> Rgb {
        let metal = mix(self.colour, [0.62, 0.64, 0.68], 0.10);
        // A fine engraved ring shows the turning.
        let ring =
            smooth(0.035, 0.015, (p[1] - 0.15).abs()) + smooth(0.035, 0.015, (p[1] + 0.15).abs());
        let metal = scale(metal, 1.0 - 0.45 * ring.min(1.0));
        if matches!(light.look, Look::Flat | Look::Neon) {
            return light.shade(
                Surface {
                    albedo: metal,
                    gloss: 1.0,
                },
                n,
            );
        }
        let r = mirrored(n);
        let around = room_light(light, r);
        let glint = dot(r, light.sun).max(0.0);
        let (g2, g4) = (glint * glint, glint.powi(4));
        let spot = g4 * g4 * g4 * g4 * g4 * g4 * g2;
        let fresnel = (1.0 + n[2]).powi(3);
        let body = tint(metal, scale(around, 1.55));
        add(
            mix(body, around, 0.3 * fresnel),
            scale(light.key, 1.8 * spot + 0.10 * g4),
        )
    }

    fn glass(&self, light: &Light, n: Dir, p: Dir) -> Rgb {
        // A ribbon twisted through the middle, seen through the curved front.
        let swirl = (p[0] * 2.4 + 1.7 * (p[1] * 3.1).sin()).sin();
        let ribbon = smooth(0.35, 0.1, swirl.abs()) * smooth(1.0, 0.75, p[2].abs());
        let pale = mix(self.colour, [0.95, 0.95, 0.92], 0.55);
        let albedo = mix(self.colour, pale, 0.75 * ribbon);
        if matches!(light.look, Look::Flat | Look::Neon) {
            return light.shade(Surface { albedo, gloss: 1.0 }, n);
        }
        let s = light.sun;
        // Light that went through gathers on the side away from the lamp.
        let through = (-(n[0] * s[0] + n[1] * s[1])).max(0.0) * (0.35 - 0.65 * n[2]);
        let inner = 0.30 + 0.95 * through * through + 0.25 * ribbon;
        let level = add(scale(light.sky, 0.9), scale(light.key, 0.75));
        let body = tint(albedo, scale(level, inner));
        let r = mirrored(n);
        let fresnel = 0.04 + 0.55 * (1.0 + n[2]).powi(4);
        let glint = dot(r, s).max(0.0);
        let g4 = glint.powi(4);
        let g16 = g4 * g4 * g4 * g4;
        let spot = g16 * g16 * g16;
        // And a small second light inside, opposite.
        let second = dot(r, normalised([-s[0], -0.8 * s[1], s[2]]))
            .max(0.0)
            .powi(16);
        add(
            mix(body, room_light(light, r), fresnel),
            scale(light.key, 2.0 * spot + 0.22 * second),
        )
    }
}

/// What a mirror sees in direction `r`: sky or ceiling, a bright band, the floor.
fn room_light(light: &Light, r: Dir) -> Rgb {
    let sky = if light.indoor {
        let ceiling = add(scale(light.sky, 0.55), scale(light.key, 0.2));
        let window = smooth(0.25, 0.4, r[1])
            * smooth(0.85, 0.7, r[1])
            * smooth(0.0, 0.25, (r[0] * 3.0).sin());
        add(ceiling, scale(light.key, 0.75 * window))
    } else {
        mix(
            scale(light.horizon, 0.9),
            light.zenith,
            r[1].max(0.0).sqrt(),
        )
    };
    let floor = scale(
        add(light.bounce, scale(light.key, 0.25)),
        0.55 + 0.4 * r[1].max(-1.0),
    );
    mix(floor, sky, smooth(-0.12, 0.10, r[1]))
}

/// How a ball is turned: its fixed tilt and its rolling.
struct Turn {
    rows: [Dir; 3],
}

impl Turn {
    fn new((a, b): (f32, f32), roll: f32) -> Self {
        let (sr, cr) = roll.sin_cos();
        let (sa, ca) = a.sin_cos();
        let (sb, cb) = b.sin_cos();
        // Undo the roll about Z, then tilt about X, then about Y.
        let roll = [[cr, sr, 0.0], [-sr, cr, 0.0], [0.0, 0.0, 1.0]];
        let tilt_x = [[1.0, 0.0, 0.0], [0.0, ca, sa], [0.0, -sa, ca]];
        let tilt_y = [[cb, 0.0, sb], [0.0, 1.0, 0.0], [-sb, 0.0, cb]];
        Self {
            rows: times(&tilt_y, &times(&tilt_x, &roll)),
        }
    }

    #[inline(always)]
    fn apply(&self, n: Dir) -> Dir {
        [
            dot(self.rows[0], n),
            dot(self.rows[1], n),
            dot(self.rows[2], n),
        ]
    }
}

fn times(a: &[Dir; 3], b: &[Dir; 3]) -> [Dir; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

/// The shadow of a ball, and the dent it makes in a trampoline.
pub fn shadow(painter: &mut Painter, ball: &One, time: f64, trampoline: bool) {
    let pose = ball.bounce.pose(time);
    let lowest = (pose.y - pose.half_y) as f32;
    let half = [pose.half_x as f32, ball.radius as f32];
    let (x, z) = (ball.lane.x(time) as f32, ball.z as f32);
    let glass = ball.skin.kind == Kind::Glass;
    painter.shadow(Shadow {
        x,
        z,
        height: lowest,
        half,
        strength: if glass { 0.75 } else { 1.0 },
    });
    if trampoline && lowest < 0.0 {
        let dent = (-lowest / 0.13).min(1.0);
        painter.shadow(Shadow {
            x,
            z,
            height: 0.0,
            half: [half[0] * (1.3 + dent), half[1] * (1.2 + dent)],
            strength: 0.8 * dent,
        });
    }
}

/// A ball, and its mirror image in a polished floor.
pub fn ball(painter: &mut Painter, ball: &One, time: f64) {
    let pose = ball.bounce.pose(time);
    let x = ball.lane.x(time);
    let spot = painter.project([x, pose.y, ball.z]);
    let e = Ellipse {
        x: spot.x,
        y: spot.y,
        rx: pose.half_x as f32 * spot.scale,
        ry: pose.half_y as f32 * spot.scale,
    };
    let turned = ball.skin.spin - (x / ball.radius) as f32 - ball.skin.spin * 1.5 * time as f32;
    let turn = Turn::new(ball.skin.tilt, turned);
    mirror_image(painter, ball, &pose, e, &turn);
    let skin = ball.skin;
    painter.ball(e, skin.colour, |light, n| skin.shade(light, n, &turn));
}

/// The image in the floor: upside down, fading with height.
fn mirror_image(
    painter: &mut Painter,
    ball: &One,
    pose: &super::motion::Pose,
    e: Ellipse,
    turn: &Turn,
) {
    let lowest = (pose.y - pose.half_y).max(0.0) as f32;
    let strength = painter.mirror / (1.0 + 2.5 * lowest);
    if strength < 0.02 || matches!(painter.light.look, Look::Flat | Look::Pencil) {
        return;
    }
    let below = painter.project([ball.lane.x(0.0), 0.0, ball.z]).y;
    let middle = 2.0 * below - e.y;
    let light = painter.light;
    let area = painter.canvas.area(e.x, middle, e.rx, e.ry);
    let skin = ball.skin;
    painter.canvas.paint(area, |x, y| {
        let (nx, ny) = ((x - e.x) / e.rx, (y - middle) / e.ry);
        let r2 = nx * nx + ny * ny;
        if r2 >= 1.0 || y < below {
            return None;
        }
        let deep = (y - below) / (3.0 * e.ry);
        let fade = strength * (1.0 - deep).clamp(0.0, 1.0) * smooth(1.0, 0.85, r2);
        Some((skin.shade(&light, [nx, ny, -(1.0 - r2).sqrt()], turn), fade))
    });
}

/// A sprung mat set into the ground, as wide as the picture.
pub fn trampoline(painter: &mut Painter, half_width: f64) {
    let rim = outline(painter, half_width + 0.30, 0.92);
    let mat = outline(painter, half_width + 0.16, 0.74);
    let pad = Surface::matt(light_of([36, 92, 176]));
    painter.panel(&rim, pad, [0.0, 1.0, -0.2]);
    let cloth = Surface::matt(light_of([62, 64, 72]));
    let lit = painter.light.shade(cloth, normalised([0.0, 1.0, -0.15]));
    let sheen = scale(lit, 1.35);
    let (top, bottom) = (painter.view.floor_row(1.0), painter.view.floor_row(-0.5));
    painter.polygon(&mat, |_, _, y| mix(sheen, lit, (y - top) / (bottom - top)));
    painter.outline(&mat, cloth.albedo);
}

/// An ellipse on the floor about the balls' lanes, projected.
fn outline(painter: &Painter, half_x: f64, half_z: f64) -> Vec<[f32; 2]> {
    const CORNERS: usize = 40;
    (0..CORNERS)
        .map(|i| {
            let angle = i as f64 / CORNERS as f64 * std::f64::consts::TAU;
            // Fuller than an ellipse: straight sides, round corners.
            let bulge = |v: f64| v.signum() * v.abs().powf(0.6);
            let at = [
                half_x * bulge(angle.cos()),
                0.0,
                0.25 + half_z * bulge(angle.sin()),
            ];
            let spot = painter.project(at);
            [spot.x, spot.y]
        })
        .collect()
}
