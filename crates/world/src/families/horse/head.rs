//! Head, mane and tail.

use super::body::{Coat, Frame};
use super::gait::Gait;
use crate::render::{
    Ellipse, Limb, Painter, Rgb, Surface, mix, normalised, scale, smooth, smooth_outline,
};

/// Where the neck meets the head; it nods with the stride.
pub fn neck_top(frame: &Frame) -> [f64; 2] {
    [
        0.355 - 0.4 * frame.pitch,
        0.605 - 1.2 * frame.pitch - 0.4 * frame.bob,
    ]
}

/// Ears, head, eye and mane.
pub fn head(painter: &mut Painter, frame: &Frame, stride: f64, (gait, coat): (&Gait, &Coat)) {
    let top = neck_top(frame);
    let muzzle = [top[0] + 0.135, top[1] - 0.115];
    // Ears, then the head over them.
    for (dx, shade) in [(-0.004, 0.7), (-0.03, 1.0)] {
        let ear = [
            [top[0] + dx, top[1] + 0.01],
            [top[0] + dx + 0.004, top[1] + 0.062],
        ];
        bar(
            painter,
            frame,
            (ear, [0.016, 0.004]),
            scale(coat.body, shade),
        );
    }
    let skull = [[top[0] + 0.002, top[1] - 0.018], muzzle];
    bar(painter, frame, (skull, [0.052, 0.030]), coat.body);
    let dark = Surface::matt(mix(coat.body, [0.05, 0.045, 0.045], 0.6));
    let nose = [muzzle[0] + 0.008, muzzle[1] - 0.006];
    painter.ellipsoid(round(painter, frame, nose, 0.027), dark);
    if coat.blaze {
        let from = frame.body(painter, [top[0] + 0.055, top[1] - 0.012]);
        let to = frame.body(painter, [muzzle[0] + 0.012, muzzle[1] + 0.03]);
        let chalk = Surface::matt([0.85, 0.83, 0.78]);
        let white = painter.light.shade(chalk, normalised([0.0, 0.4, -1.0]));
        painter.line([from, to], 0.008 * painter.view.unit(), white);
    }
    let eye = [top[0] + 0.035, top[1] - 0.022];
    painter.disc(
        round(painter, frame, eye, 0.0085),
        [0.004, 0.003, 0.003],
        1.0,
    );
    let gleam = [eye[0] - 0.002, eye[1] + 0.003];
    painter.disc(round(painter, frame, gleam, 0.003), [0.7, 0.7, 0.7], 0.9);
    mane(painter, frame, (top, stride), (gait, coat));
}

/// A round bar of the head, its ends and radii in units.
fn bar(
    painter: &mut Painter,
    frame: &Frame,
    (ends, radius): ([[f64; 2]; 2], [f32; 2]),
    albedo: Rgb,
) {
    let [from, to] = ends.map(|p| frame.body(painter, p));
    let unit = painter.view.unit();
    let radius = radius.map(|r| r * unit);
    painter.limb(Limb { from, to, radius }, Surface { albedo, gloss: 0.2 });
}

/// A circle of the head, its radius in units.
fn round(painter: &Painter, frame: &Frame, at: [f64; 2], radius: f32) -> Ellipse {
    let [x, y] = frame.body(painter, at);
    let pixels = radius * painter.view.unit();
    Ellipse {
        x,
        y,
        rx: pixels,
        ry: pixels,
    }
}

/// Locks along the neck that stream back with speed.
fn mane(
    painter: &mut Painter,
    frame: &Frame,
    (top, stride): ([f64; 2], f64),
    (gait, coat): (&Gait, &Coat),
) {
    const LOCKS: usize = 7;
    let wind = 0.03 + 0.045 * (gait.speed / 2.1);
    let mut crest = vec![[top[0] + 0.02, top[1] + 0.012]];
    let mut tips = Vec::new();
    for lock in 0..LOCKS {
        let t = lock as f64 / (LOCKS - 1) as f64;
        let droop = 0.115 * t + 0.02 * t * (1.0 - t);
        let root = [top[0] - 0.02 - 0.165 * t, top[1] + 0.046 - droop];
        let wave = 0.012 * (stride + 4.0 * t).sin();
        let tip = [root[0] - wind, root[1] - 0.048 + wave + 0.35 * wind];
        crest.push(root);
        tips.push(tip);
        // A notch between two locks.
        tips.push([
            root[0] - 0.65 * wind,
            root[1] - 0.050 + 0.5 * wave + 0.2 * wind,
        ]);
    }
    tips.reverse();
    crest.extend(tips);
    hair(painter, frame, &crest, coat);
}

/// A tail that hangs when the horse walks and streams when it gallops.
pub fn tail(painter: &mut Painter, frame: &Frame, gait: &Gait, coat: &Coat) {
    const PARTS: usize = 6;
    let speed = gait.speed / 2.1;
    let stride = std::f64::consts::TAU * gait.at(frame.pose.time);
    let mut at = [-0.285, 0.440];
    let mut angle = -0.35 - (1.0 - speed);
    let (mut upper, mut lower) = (Vec::new(), Vec::new());
    for part in 0..=PARTS {
        let t = part as f64 / PARTS as f64;
        let wave = 0.22 * (stride - 1.1 * part as f64).sin() * (0.3 + speed);
        let (sin, cos) = (angle + wave).sin_cos();
        let thick = 0.014 + 0.026 * smooth(0.0, 0.5, t as f32) as f64
            - 0.036 * smooth(0.55, 1.0, t as f32) as f64;
        upper.push([at[0] + sin * thick, at[1] + cos * thick]);
        lower.push([at[0] - sin * thick, at[1] - cos * thick]);
        at = [at[0] - 0.055 * cos, at[1] + 0.055 * sin];
        angle -= 0.20 * (1.0 - 0.5 * speed);
    }
    lower.reverse();
    upper.extend(lower);
    hair(painter, frame, &upper, coat);
}

/// A smooth dark form, lit from above.
fn hair(painter: &mut Painter, frame: &Frame, outline: &[[f64; 2]], coat: &Coat) {
    let corners: Vec<[f32; 2]> = outline.iter().map(|&p| frame.body(painter, p)).collect();
    let points = smooth_outline(&corners, 4);
    painter.panel(&points, Surface::matt(coat.mane), [0.0, 0.5, -0.8]);
}
