//! What a person looks like, and how they are drawn.

use rand::RngExt;

use super::{hair, mouth};
use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Look, pick};
use crate::render::{
    Dir, Ellipse, Limb, Painter, Rgb, Surface, add, light_of, mix, normalised, scale,
    smooth_outline,
};
use crate::speech::Mouth;

/// Half the width and the height of a head, in units at scale one.
pub const HEAD: [f64; 2] = [0.25, 0.325];
/// Height of the middle of the head.
const MIDDLE: f64 = 0.455;

const SKINS: &[[u8; 3]] = &[
    [255, 222, 194],
    [244, 200, 162],
    [224, 172, 126],
    [188, 130, 86],
    [138, 88, 56],
    [120, 78, 54],
];
const EYES: &[[u8; 3]] = &[[92, 58, 32], [54, 112, 190], [66, 132, 76], [96, 104, 112]];

/// How hair is worn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Short,
    Long,
    Curly,
    Bun,
}

/// What a person looks like.
#[derive(Clone, Debug)]
pub struct Looks {
    pub scale: f64,
    pub x: f64,
    pub skin: Rgb,
    pub hair: Rgb,
    pub style: Style,
    pub eyes: Rgb,
    pub shirt: Rgb,
    pub hat: Rgb,
    pub lipstick: f32,
    pub parting: f32,
    pub wear: Option<String>,
    pub child: bool,
    pub freckles: bool,
}

impl Looks {
    /// As the attributes say, the rest by chance; `room` is half the width and the height there
    /// is.
    pub fn new(a: &Attributes, room: (f64, f64), rng: &mut WorldRng) -> Self {
        let style = match a.details.get("style").map(String::as_str) {
            Some("long") => Style::Long,
            Some("curly") => Style::Curly,
            Some("bun") => Style::Bun,
            _ => Style::Short,
        };
        let colour = a.details.get("hair_colour").map_or("brown", String::as_str);
        let scale = (room.0 / 0.36).min(room.1 / 0.88).min(1.3) * rng.random_range(0.94..1.0);
        let loose = (room.0 - 0.36 * scale).clamp(0.0, 0.25);
        Self {
            scale,
            x: a.aside(rng.random_range(-loose..=loose)),
            skin: light_of(pick(rng, SKINS)),
            hair: light_of(hair_colour(colour)),
            style,
            eyes: light_of(pick(rng, EYES)),
            shirt: light_of(pick(rng, Colour::PAINTS).srgb()),
            hat: light_of(pick(rng, Colour::PAINTS).srgb()),
            lipstick: if a.subject == "woman" { 0.85 } else { 0.42 },
            parting: rng.random_range(-0.08..0.08),
            wear: a.details.get("wear").cloned(),
            child: a.subject == "child",
            freckles: a.subject == "child" && rng.random_bool(0.5),
        }
    }

    /// Where a point of the head is in the scene.
    pub fn head_at(&self, pose: &Pose, [x, y]: [f32; 2]) -> [f64; 2] {
        let (sin, cos) = (f64::from(pose.tilt.sin()), f64::from(pose.tilt.cos()));
        let (x, y) = (f64::from(x), f64::from(y));
        [
            self.x + (pose.x + x * cos + y * sin) * self.scale,
            (MIDDLE + pose.y - x * sin + y * cos) * self.scale,
        ]
    }
}

fn hair_colour(name: &str) -> [u8; 3] {
    match name {
        "black" => [34, 30, 34],
        "blond" => [240, 206, 110],
        "red" => [206, 74, 28],
        "white" => [232, 232, 236],
        "blue" => [52, 104, 220],
        "pink" => [246, 118, 178],
        "green" => [56, 168, 84],
        _ => [104, 62, 34],
    }
}

/// Everything about a person that moves.
#[derive(Clone, Copy, Debug)]
pub struct Pose {
    /// Of the head, units.
    pub x: f64,
    /// Of the head, units.
    pub y: f64,
    /// Of the head, radians.
    pub tilt: f32,
    /// 0 open, 1 shut.
    pub blink: f32,
    /// Of the pupils, units.
    pub gaze: [f32; 2],
    /// How far the brows are raised, units.
    pub brows: f32,
    pub mouth: Mouth,
}

/// The head's own coordinates in the picture: X right, Y up, in units at scale one.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    middle: [f32; 2],
    sin: f32,
    cos: f32,
    /// Pixels a unit.
    pub unit: f32,
}

impl Frame {
    /// The pixel of a point of the head.
    pub fn at(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        [
            self.middle[0] + self.unit * (x * self.cos + y * self.sin),
            self.middle[1] + self.unit * (x * self.sin - y * self.cos),
        ]
    }

    /// The pixels of many points.
    pub fn all(&self, points: &[[f32; 2]]) -> Vec<[f32; 2]> {
        points.iter().map(|&p| self.at(p)).collect()
    }

    /// The point of the head at a pixel.
    pub fn inverse(&self, px: f32, py: f32) -> [f32; 2] {
        let (dx, dy) = (
            (px - self.middle[0]) / self.unit,
            (py - self.middle[1]) / self.unit,
        );
        [dx * self.cos + dy * self.sin, dx * self.sin - dy * self.cos]
    }

    /// The way a round head faces at a pixel.
    pub fn normal(&self, px: f32, py: f32) -> Dir {
        let [x, y] = self.inverse(px, py);
        let (nx, ny) = (x / 0.30, y / 0.40);
        let r2 = (nx * nx + ny * ny).min(0.96);
        let k = (r2 / (nx * nx + ny * ny).max(1e-6)).sqrt().min(1.0);
        [nx * k, ny * k, -(1.0 - r2).sqrt()]
    }
}

/// Draws a person.
pub fn portrait(painter: &mut Painter, looks: &Looks, pose: &Pose) {
    let [x, y] = looks.head_at(pose, [0.0, 0.0]);
    let spot = painter.project([x, y, 0.0]);
    let (sin, cos) = pose.tilt.sin_cos();
    let frame = Frame {
        middle: [spot.x, spot.y],
        sin,
        cos,
        unit: spot.scale * looks.scale as f32,
    };
    hair::behind(painter, &frame, looks);
    body(painter, &frame, looks);
    head(painter, &frame, looks, pose);
    eyes(painter, &frame, looks, pose);
    nose(painter, &frame, looks);
    mouth::draw(painter, &frame, looks, &pose.mouth);
    hair::before(painter, &frame, looks);
    match looks.wear.as_deref() {
        Some("glasses") => glasses(painter, &frame),
        Some(_) => hair::hat(painter, &frame, looks),
        None => {}
    }
}

/// Neck and shoulders; they stay while the head moves.
fn body(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    let (k, view) = (looks.scale, painter.view);
    let at = |x: f64, y: f64| {
        let spot = view.project([looks.x + x * k, y * k, 0.0]);
        [spot.x, spot.y]
    };
    let (wide, low) = (if looks.child { 0.33 } else { 0.42 }, -0.7);
    let shape = [
        at(-0.10, 0.10),
        at(-0.24, 0.05),
        at(-wide, -0.06),
        at(-wide - 0.04, low),
        at(wide + 0.04, low),
        at(wide, -0.06),
        at(0.24, 0.05),
        at(0.10, 0.10),
        at(0.0, 0.045),
    ];
    let neck = Limb {
        from: at(0.0, 0.02),
        to: frame.at([0.0, -0.22]),
        radius: [0.095 * frame.unit; 2],
    };
    let shade = Surface::matt(scale(looks.skin, 0.78));
    painter.limb(neck, shade);
    let cloth = Surface {
        albedo: looks.shirt,
        gloss: 0.05,
    };
    let outline = smooth_outline(&shape, 5);
    let (middle, half) = (at(0.0, 0.0), frame.unit * wide as f32 * 1.3);
    painter.polygon(&outline, |light, x, y| {
        let nx = ((x - middle[0]) / half).clamp(-0.9, 0.9);
        let up = (0.5 - (y - middle[1]) / (0.35 * frame.unit)).clamp(0.0, 0.7);
        light.shade(cloth, normalised([nx, up, -0.8]))
    });
    painter.outline(&outline, cloth.albedo);
}

/// Ears, face and cheeks.
fn head(painter: &mut Painter, frame: &Frame, looks: &Looks, pose: &Pose) {
    let skin = Surface {
        albedo: looks.skin,
        gloss: 0.12,
    };
    ears(painter, frame, looks);
    // The chin goes down with the jaw.
    let jaw = 0.075 * pose.mouth.open;
    let wide = if looks.child { 0.195 } else { 0.18 };
    let shape = [
        [0.0, 0.325],
        [0.155, 0.285],
        [0.243, 0.14],
        [0.248, -0.04],
        [wide + 0.028, -0.19 - 0.5 * jaw],
        [0.105, -0.292 - jaw],
        [0.0, -0.322 - jaw],
        [-0.105, -0.292 - jaw],
        [-wide - 0.028, -0.19 - 0.5 * jaw],
        [-0.248, -0.04],
        [-0.243, 0.14],
        [-0.155, 0.285],
    ];
    let outline = frame.all(&smooth_outline(&shape, 5));
    let blush = mix(looks.skin, light_of([236, 96, 92]), 0.5);
    painter.polygon(&outline, |light, px, py| {
        let [x, y] = frame.inverse(px, py);
        let cheek = ((x.abs() - 0.155) / 0.075).powi(2) + ((y + 0.085) / 0.055).powi(2);
        let albedo = mix(skin.albedo, blush, 0.55 * (1.0 - cheek).max(0.0));
        light.shade(Surface { albedo, ..skin }, frame.normal(px, py))
    });
    painter.outline(&outline, skin.albedo);
    if looks.freckles {
        freckles(painter, frame, looks);
    }
}

fn ears(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    let skin = Surface::matt(scale(looks.skin, 0.9));
    for side in [-1.0, 1.0] {
        let [x, y] = frame.at([0.247 * side, 0.0]);
        let (rx, ry) = (0.042 * frame.unit, 0.060 * frame.unit);
        painter.ellipsoid(Ellipse { x, y, rx, ry }, skin);
    }
}

fn freckles(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    const PLACES: [[f32; 2]; 5] = [
        [0.10, -0.06],
        [0.13, -0.085],
        [0.155, -0.055],
        [0.12, -0.11],
        [0.18, -0.08],
    ];
    let r = 0.006 * frame.unit;
    for [x, y] in PLACES.into_iter().flat_map(|[x, y]| [[-x, y], [x, y]]) {
        let [x, y] = frame.at([x, y]);
        let spot = Ellipse { x, y, rx: r, ry: r };
        painter.disc(spot, scale(looks.skin, 0.45), 0.5);
    }
}

fn nose(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    let [x, y] = frame.at([0.0, -0.042]);
    let size = if looks.child { 0.8 } else { 1.0 };
    let tip = Surface {
        albedo: mix(scale(looks.skin, 0.92), light_of([226, 104, 92]), 0.22),
        gloss: 0.35,
    };
    let (rx, ry) = (0.036 * size * frame.unit, 0.030 * size * frame.unit);
    painter.ellipsoid(Ellipse { x, y, rx, ry }, tip);
}

fn eyes(painter: &mut Painter, frame: &Frame, looks: &Looks, pose: &Pose) {
    let lit = |c: Rgb| {
        if painter.light.look == Look::Neon {
            return scale(c, 0.7);
        }
        let shade = painter.light.shade(Surface::matt(c), [0.0, 0.1, -0.995]);
        add(scale(shade, 0.85), scale(c, 0.12))
    };
    let size = if looks.child { 1.18 } else { 1.0 };
    let (white, iris) = (lit([0.95, 0.95, 0.95]), lit(looks.eyes));
    let (black, lash) = (lit([0.01; 3]), lit([0.03; 3]));
    let brow = Surface::matt(scale(mix(looks.hair, [0.12, 0.08, 0.05], 0.45), 0.7));
    let open = (1.0 - pose.blink).clamp(0.0, 1.0);
    for side in [-1.0, 1.0] {
        let at = [0.102 * side, 0.055];
        let (rx, ry) = (0.056 * size, 0.044 * size * open);
        let ellipse = |[x, y]: [f32; 2], rx: f32, ry: f32| {
            let [x, y] = frame.at([x, y]);
            let (rx, ry) = (rx * frame.unit, ry * frame.unit);
            Ellipse { x, y, rx, ry }
        };
        let look = [at[0] + pose.gaze[0], at[1] + pose.gaze[1]];
        if open > 0.15 {
            let r = 0.031 * size;
            painter.disc(ellipse(at, rx + 0.005, ry + 0.005), lash, 1.0);
            painter.disc(ellipse(at, rx, ry), white, 1.0);
            painter.disc(ellipse(look, r, r.min(ry)), iris, 1.0);
            painter.disc(ellipse(look, 0.5 * r, (0.5 * r).min(ry)), black, 1.0);
            let glint = [look[0] - 0.35 * r, look[1] + 0.35 * r];
            if ry > r {
                painter.disc(ellipse(glint, 0.28 * r, 0.28 * r), [0.9; 3], 0.9);
            }
        } else {
            let lid = [-rx, rx].map(|x| frame.at([at[0] + x, at[1] - 0.006]));
            painter.line(lid, 0.005 * frame.unit, lash);
        }
        eyebrow(
            painter,
            frame,
            brow,
            (side, 0.125 * size.sqrt() + pose.brows),
        );
    }
}

fn eyebrow(painter: &mut Painter, frame: &Frame, brow: Surface, (side, high): (f32, f32)) {
    painter.limb(
        Limb {
            from: frame.at([0.158 * side, high - 0.008]),
            to: frame.at([0.052 * side, high - 0.006]),
            radius: [0.009 * frame.unit, 0.013 * frame.unit],
        },
        brow,
    );
}

fn glasses(painter: &mut Painter, frame: &Frame) {
    let black = Surface::matt([0.03, 0.03, 0.035]);
    let ink = painter.light.shade(black, [0.0, 0.0, -1.0]);
    let half = (0.008 * frame.unit).max(0.6);
    for side in [-1.0, 1.0] {
        let ring: Vec<[f32; 2]> = (0..24)
            .map(|i| {
                let (sin, cos) = (std::f32::consts::TAU * i as f32 / 24.0).sin_cos();
                frame.at([0.102 * side + 0.082 * cos, 0.05 + 0.070 * sin])
            })
            .collect();
        for i in 0..ring.len() {
            painter.line([ring[i], ring[(i + 1) % ring.len()]], half, ink);
        }
        let arm = [[0.184 * side, 0.06], [0.25 * side, 0.05]].map(|p| frame.at(p));
        painter.line(arm, half, ink);
    }
    painter.line(
        [[-0.02, 0.06], [0.02, 0.06]].map(|p| frame.at(p)),
        half,
        ink,
    );
}
