//! What a horse looks like from the side.

use rand::RngExt;

use super::gait::{Gait, Leg};
use super::head::{head, neck_top, tail};
use crate::WorldRng;
use crate::attributes::Colour;
use crate::render::{
    Limb, Painter, Rgb, Shadow, Surface, light_of, mix, normalised, scale, smooth_outline,
};

/// From hoof to ear.
pub const HEIGHT: f64 = 0.66;
/// From tail to muzzle.
pub const LENGTH: f64 = 0.92;
/// Height of hip and shoulder joints.
const HIP: f64 = 0.315;
/// Upper and lower part of a leg.
const BONES: (f64, f64) = (0.175, 0.175);

/// The colours of one horse.
#[derive(Clone, Copy, Debug)]
pub struct Coat {
    /// Most of it.
    pub body: Rgb,
    /// Mane and tail.
    pub mane: Rgb,
    hoof: Rgb,
    socks: bool,
    /// Whether there is a white stripe down the face.
    pub blaze: bool,
}

impl Coat {
    /// A coat of that colour.
    pub fn new(colour: Colour, rng: &mut WorldRng) -> Self {
        let body = light_of(match colour {
            Colour::Black => [44, 40, 42],
            Colour::White => [236, 232, 224],
            Colour::Grey => [150, 152, 156],
            _ => [138, 80, 40],
        });
        let mane = match colour {
            Colour::White => [206, 200, 188],
            Colour::Grey => [84, 86, 92],
            Colour::Black => [20, 18, 20],
            _ => [48, 28, 18],
        };
        Self {
            body,
            mane: light_of(mane),
            hoof: light_of([52, 46, 42]),
            socks: colour != Colour::White && rng.random_bool(0.4),
            blaze: colour != Colour::White && rng.random_bool(0.4),
        }
    }

    /// The lower legs: white where the horse wears socks.
    fn shank(&self) -> Rgb {
        if self.socks {
            mix(self.body, light_of([230, 226, 218]), 0.85)
        } else {
            self.body
        }
    }
}

/// Where the horse is.
#[derive(Clone, Copy, Debug)]
pub struct Pose {
    /// Its middle.
    pub x: f64,
    /// Its middle line.
    pub z: f64,
    /// 1 goes right, -1 left.
    pub sign: f64,
    /// Seconds.
    pub time: f64,
}

/// Projects points of the horse's side view.
pub(super) struct Frame<'a> {
    /// Where the horse is.
    pub pose: &'a Pose,
    /// How far the body is above its middle height.
    pub bob: f64,
    /// How steeply it points up.
    pub pitch: f64,
}

impl Frame<'_> {
    /// A point of the body, which bobs and pitches.
    pub fn body(&self, painter: &Painter, [forward, up]: [f64; 2]) -> [f32; 2] {
        let lift = self.bob + self.pitch * forward;
        self.ground(painter, [forward, up + lift], 0.0)
    }

    /// A point that does not move with the body, `side` to the left of the horse.
    fn ground(&self, painter: &Painter, [forward, up]: [f64; 2], side: f64) -> [f32; 2] {
        let x = self.pose.x + self.pose.sign * forward;
        let spot = painter.project([x, up, self.pose.z + side]);
        [spot.x, spot.y]
    }
}

/// Draws the horse and its shadow.
pub fn draw(painter: &mut Painter, pose: &Pose, gait: &Gait, coat: &Coat) {
    let stride = std::f64::consts::TAU * gait.at(pose.time);
    let frame = Frame {
        pose,
        bob: gait.bob(pose.time),
        pitch: gait.pitch * (stride + 0.6).sin(),
    };
    shadows(painter, &frame, gait);
    let far = |c: Rgb| scale(c, 0.55);
    let shaded = Coat {
        body: far(coat.body),
        mane: far(coat.mane),
        hoof: far(coat.hoof),
        ..*coat
    };
    let far_left = pose.sign > 0.0;
    for leg in Leg::ALL.into_iter().filter(|l| l.left() == far_left) {
        draw_leg(painter, &frame, (gait, leg), (&shaded, 0.05));
    }
    tail(painter, &frame, gait, coat);
    trunk(painter, &frame, coat);
    head(painter, &frame, stride, (gait, coat));
    for leg in Leg::ALL.into_iter().filter(|l| l.left() != far_left) {
        draw_leg(painter, &frame, (gait, leg), (coat, -0.05));
    }
}

fn shadows(painter: &mut Painter, frame: &Frame, gait: &Gait) {
    painter.shadow(Shadow {
        x: frame.pose.x as f32,
        z: frame.pose.z as f32,
        height: 0.16,
        half: [0.42, 0.13],
        strength: 1.0,
    });
    for leg in Leg::ALL {
        let foot = gait.foot(leg, frame.pose.time);
        painter.shadow(Shadow {
            x: (frame.pose.x + frame.pose.sign * foot.forward) as f32,
            z: frame.pose.z as f32 + if leg.left() { 0.05 } else { -0.05 },
            height: foot.up as f32,
            half: [0.04, 0.03],
            strength: 0.8,
        });
    }
}

/// A leg from joint to hoof, bent where a horse's bends: knees forward, hocks backward.
fn draw_leg(
    painter: &mut Painter,
    frame: &Frame,
    (gait, leg): (&Gait, Leg),
    (coat, side): (&Coat, f64),
) {
    let foot = gait.foot(leg, frame.pose.time);
    let forward = Gait::root(leg);
    let root = [forward, HIP + frame.bob + frame.pitch * forward];
    let fetlock = [foot.forward - 0.012 - 0.02 * foot.swing, foot.up + 0.035];
    let bend = if leg.fore() { 1.0 } else { -1.0 };
    let joint = elbow(root, fetlock, bend);
    // The hoof points forward, and folds back while it is in the air.
    let fold = (std::f64::consts::PI * foot.swing).sin() * 0.03;
    let toe = [
        fetlock[0] + 0.022 - 1.6 * fold,
        fetlock[1] - 0.022 + 0.2 * fold,
    ];
    let [root, joint, fetlock, toe] =
        [root, joint, fetlock, toe].map(|p| frame.ground(painter, p, side));
    let at = [frame.pose.x, 0.0, frame.pose.z + side];
    let unit = painter.project(at).scale;
    let (hip, knee) = if leg.fore() {
        (0.050, 0.026)
    } else {
        (0.066, 0.028)
    };
    let mut bone = |[from, to]: [[f32; 2]; 2], radius: [f32; 2], albedo: Rgb| {
        let radius = radius.map(|r| r * unit);
        let surface = Surface {
            albedo,
            gloss: 0.15,
        };
        painter.limb(Limb { from, to, radius }, surface);
    };
    bone([root, joint], [hip, knee], coat.body);
    bone([joint, fetlock], [0.92 * knee, 0.019], coat.shank());
    bone([fetlock, toe], [0.018, 0.024], coat.hoof);
}

/// The joint between two bones, bent forward (`side` 1) or backward (-1).
fn elbow(root: [f64; 2], end: [f64; 2], side: f64) -> [f64; 2] {
    let (dx, dy) = (end[0] - root[0], end[1] - root[1]);
    let far = (dx * dx + dy * dy).sqrt().max(1e-6);
    let (a, b) = BONES;
    let along = ((far * far + a * a - b * b) / (2.0 * far)).min(a);
    let out = (a * a - along * along).max(0.0).sqrt();
    // Forward of a bone that points down.
    let (ux, uy) = (dx / far, dy / far);
    [
        root[0] + ux * along - uy * out * side,
        root[1] + uy * along + ux * out * side,
    ]
}

/// The outline of the trunk and the neck, whose top is at `nod`.
fn side_view(nod: [f64; 2]) -> [[f64; 2]; 17] {
    [
        [-0.300, 0.345],
        [-0.312, 0.415],
        [-0.260, 0.470],
        [-0.150, 0.475],
        [-0.020, 0.452],
        [0.110, 0.470],
        [0.200, 0.510],
        [0.275, 0.575],
        [nod[0] - 0.045, nod[1] + 0.028],
        [nod[0] + 0.035, nod[1] - 0.050],
        [0.325, 0.475],
        [0.285, 0.395],
        [0.240, 0.320],
        [0.150, 0.278],
        [0.000, 0.268],
        [-0.120, 0.285],
        [-0.225, 0.290],
    ]
}

/// Barrel, croup, shoulder and neck as one smooth form.
fn trunk(painter: &mut Painter, frame: &Frame, coat: &Coat) {
    let side = side_view(neck_top(frame));
    let corners: Vec<[f32; 2]> = side.iter().map(|&p| frame.body(painter, p)).collect();
    let points = smooth_outline(&corners, 5);
    let surface = Surface {
        albedo: coat.body,
        gloss: 0.25,
    };
    let (low, high) = points
        .iter()
        .fold((f32::MAX, f32::MIN), |(l, h), p| (l.min(p[1]), h.max(p[1])));
    let back = frame.body(painter, [0.0, 0.475])[1];
    let span = (high - back).max(1.0);
    let middle = frame.body(painter, [-0.2, 0.4])[0];
    let unit = painter.view.unit();
    let sign = frame.pose.sign as f32;
    painter.polygon(&points, |light, x, y| {
        // Round from back to belly; rounder still over haunch and shoulder.
        let t = ((y - back.max(low)) / span).clamp(-0.3, 1.0);
        let along = (x - middle) * sign / unit;
        let swell = 0.22 * (along * 9.0).cos();
        let normal = normalised([
            -0.35 * sign * (along * 9.0).sin() * 0.6,
            0.95 - 1.75 * t + swell * 0.3,
            -0.85,
        ]);
        light.shade(surface, normal)
    });
    painter.outline(&points, coat.body);
}
