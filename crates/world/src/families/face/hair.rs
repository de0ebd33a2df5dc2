//! Hair and hats.

use super::draw::{Frame, Looks, Style};
use crate::render::{Ellipse, Painter, Surface, scale, smooth_outline};

/// Outlines of hair behind the head.
const LONG: &[[f32; 2]] = &[
    [-0.27, 0.10],
    [-0.22, 0.31],
    [0.0, 0.40],
    [0.22, 0.31],
    [0.27, 0.10],
    [0.30, -0.18],
    [0.29, -0.42],
    [0.16, -0.47],
    [0.0, -0.42],
    [-0.16, -0.47],
    [-0.29, -0.42],
    [-0.30, -0.18],
];
const BUN: &[[f32; 2]] = &[
    [-0.265, 0.0],
    [-0.24, 0.24],
    [0.0, 0.37],
    [0.24, 0.24],
    [0.265, 0.0],
    [0.18, -0.12],
    [-0.18, -0.12],
];
const SHORT: &[[f32; 2]] = &[
    [-0.268, -0.02],
    [-0.265, 0.16],
    [-0.18, 0.31],
    [0.0, 0.365],
    [0.18, 0.31],
    [0.265, 0.16],
    [0.268, -0.02],
    [0.0, -0.10],
];

/// What hangs behind the head.
pub fn behind(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    let hair = surface(looks);
    match looks.style {
        Style::Long => {
            fill(painter, frame, LONG, dull(hair));
        }
        Style::Curly => curls(painter, frame, hair, true),
        Style::Bun => {
            ball(painter, frame, [0.0, 0.37], 0.10, hair);
            fill(painter, frame, BUN, dull(hair));
        }
        Style::Short => {
            fill(painter, frame, SHORT, dull(hair));
        }
    }
}

/// What falls over the brow.
pub fn before(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    let hair = surface(looks);
    if looks.style == Style::Curly {
        curls(painter, frame, hair, false);
        return;
    }
    let part = looks.parting;
    let points = [
        [-0.258, 0.06],
        [-0.262, 0.19],
        [-0.19, 0.315],
        [0.0, 0.375],
        [0.19, 0.315],
        [0.262, 0.19],
        [0.258, 0.06],
        [0.215, 0.17],
        [0.10 + part, 0.225],
        [part, 0.245],
        [-0.10 + part, 0.20],
        [-0.215, 0.15],
    ];
    fill(painter, frame, &points, hair);
}

/// A hat with a brim, in the colour of the shirt.
pub fn hat(painter: &mut Painter, frame: &Frame, looks: &Looks) {
    let felt = Surface {
        albedo: looks.hat,
        gloss: 0.15,
    };
    let crown = [
        [-0.215, 0.20],
        [-0.20, 0.33],
        [-0.13, 0.405],
        [0.0, 0.41],
        [0.13, 0.405],
        [0.20, 0.33],
        [0.215, 0.20],
        [0.0, 0.17],
    ];
    fill(painter, frame, &crown, felt);
    let brim = [
        [-0.36, 0.20],
        [-0.20, 0.245],
        [0.0, 0.25],
        [0.20, 0.245],
        [0.36, 0.20],
        [0.20, 0.165],
        [0.0, 0.15],
        [-0.20, 0.165],
    ];
    let under = Surface {
        albedo: scale(looks.hat, 0.75),
        ..felt
    };
    fill(painter, frame, &brim, under);
}

fn surface(looks: &Looks) -> Surface {
    Surface {
        albedo: looks.hair,
        gloss: 0.35,
    }
}

/// Hair in the shade of the head.
fn dull(hair: Surface) -> Surface {
    Surface {
        albedo: scale(hair.albedo, 0.72),
        gloss: 0.0,
    }
}

/// A smooth closed shape, lit as a part of the round head.
fn fill(painter: &mut Painter, frame: &Frame, points: &[[f32; 2]], of: Surface) {
    let outline = frame.all(&smooth_outline(points, 5));
    painter.polygon(&outline, |light, px, py| {
        light.shade(of, frame.normal(px, py))
    });
    painter.outline(&outline, of.albedo);
}

fn ball(painter: &mut Painter, frame: &Frame, at: [f32; 2], radius: f32, of: Surface) {
    let [x, y] = frame.at(at);
    let r = radius * frame.unit;
    painter.ellipsoid(Ellipse { x, y, rx: r, ry: r }, of);
}

/// Locks all around the head, or those over the brow.
fn curls(painter: &mut Painter, frame: &Frame, of: Surface, behind: bool) {
    let (count, from, to) = if behind {
        (13, -0.75, 3.9)
    } else {
        (9, 0.22, 2.92)
    };
    for i in 0..count {
        let angle = from + (to - from) * i as f32 / (count - 1) as f32;
        let wobble = 0.012 * ((7 * i) as f32).sin();
        let (rx, ry, radius) = if behind {
            (0.265, 0.30, 0.088)
        } else {
            (0.235, 0.29, 0.068)
        };
        let at = [
            angle.cos() * (rx + wobble),
            0.015 + angle.sin() * (ry + wobble),
        ];
        ball(painter, frame, at, radius + wobble, of);
    }
}
