//! What instruments look like, and how a stroke shakes them.

use std::f64::consts::TAU;

use super::One;
use super::xylophone::{FAR, NEAR, XYLOPHONE};
use crate::attributes::{Colour, Look};
use crate::render::{
    Ellipse, Light, Limb, Painter, Rgb, Shadow, Surface, add, light_of, normalised, scale, smooth,
};
use crate::sound::Instrument;

/// Radius of a mallet's head at scale one.
pub const HEAD: f64 = 0.036;
/// How far a flat round top leans toward the camera.
const LEAN: f64 = 0.20;
/// A drum: radius, height of its lower and of its upper edge.
const DRUM: (f64, f64, f64) = (0.27, 0.03, 0.40);
/// A cymbal: radius and height.
const CYMBAL: (f64, f64) = (0.32, 0.46);
/// A bell: half its width at the rim, height of rim and of crown.
const BELL: (f64, f64, f64) = (0.25, 0.17, 0.62);
const STEEL: [u8; 3] = [188, 192, 200];
pub const TIMBER: [u8; 3] = [112, 70, 40];

/// Seconds since the last stroke and its strength.
pub type Since = Option<(f64, f32)>;

/// A damped oscillation that starts with a jerk.
pub fn shake(since: Since, hz: f64, seconds: f64) -> f64 {
    since.map_or(0.0, |(t, strength)| {
        f64::from(strength) * (TAU * hz * t).cos() * (-t / seconds).exp()
    })
}

/// How much of the flash of a stroke is left: 1 at once, 0 later.
pub fn flash(since: Since) -> f32 {
    since.map_or(0.0, |(t, strength)| strength * (-(t as f32) / 0.10).exp())
}

/// Where a mallet meets a drum, bell or cymbal.
pub fn contact(one: &One) -> [f64; 3] {
    let (x, y) = match one.instrument {
        Instrument::Bell => (0.84 * BELL.0, BELL.1 + 0.07),
        Instrument::Cymbal => (0.62 * CYMBAL.0, CYMBAL.1 + 0.005),
        _ => (0.18 * DRUM.0, DRUM.2 + 0.002),
    };
    [one.x + x * one.scale, y * one.scale, 0.0]
}

/// Half the extent and the height of the middle of what is struck.
pub fn body(one: &One) -> ([f64; 2], f64) {
    let (half, low, high) = match one.instrument {
        Instrument::Bell => BELL,
        Instrument::Cymbal => (CYMBAL.0, CYMBAL.1 - 0.05, CYMBAL.1 + 0.05),
        Instrument::Xylophone => (XYLOPHONE, NEAR[0], FAR[0]),
        _ => DRUM,
    };
    let k = one.scale;
    ([half * k, 0.5 * (high - low) * k], 0.5 * (low + high) * k)
}

/// How far a raised mallet is from where it strikes, to the right and up.
pub fn rise(instrument: Instrument) -> (f64, f64) {
    match instrument {
        // From the side.
        Instrument::Bell => (0.16, 0.10),
        Instrument::Xylophone => (0.03, 0.17),
        _ => (0.05, 0.24),
    }
}

/// Where the head of the mallet is, `lift` above `at`.
pub fn head(one: &One, at: [f64; 3], lift: f64) -> [f64; 3] {
    let k = one.scale;
    let (dx, dy) = rise(one.instrument);
    // It touches with its edge.
    let touch = match one.instrument {
        Instrument::Bell => [HEAD, 0.0],
        _ => [0.0, HEAD * 0.8],
    };
    [
        at[0] + (touch[0] + dx * lift) * k,
        at[1] + (touch[1] + dy * lift) * k,
        at[2] - 0.03 * lift,
    ]
}

/// The shadow on the floor.
pub fn shadow(painter: &mut Painter, one: &One) {
    let ([half, _], _) = body(one);
    let (wide, deep) = match one.instrument {
        Instrument::Xylophone => (half, 0.30 * one.scale),
        Instrument::Bell => (1.35 * half, 0.14 * one.scale),
        _ => (0.95 * half, 0.6 * half),
    };
    painter.shadow(Shadow {
        x: one.x as f32,
        z: 0.03,
        height: 0.0,
        half: [wide as f32, deep as f32],
        strength: 0.85,
    });
}

/// A drum, bell or cymbal.
pub fn instrument(painter: &mut Painter, one: &One, since: Since) {
    match one.instrument {
        Instrument::Bell => bell(painter, one, since),
        Instrument::Cymbal => cymbal(painter, one, since),
        _ => drum(painter, one, since),
    }
}

/// A level circle, leaning a little toward the camera, projected; it starts at the right.
fn circle(painter: &Painter, [x, y, z]: [f64; 3], radius: f64, lean: f64) -> Vec<[f32; 2]> {
    const CORNERS: usize = 40;
    (0..CORNERS)
        .map(|i| {
            let (sin, cos) = (TAU * i as f64 / CORNERS as f64).sin_cos();
            let at = [x + radius * cos, y + radius * sin * lean, z + radius * sin];
            let spot = painter.project(at);
            [spot.x, spot.y]
        })
        .collect()
}

pub fn surface(colour: Colour, gloss: f32) -> Surface {
    Surface {
        albedo: light_of(colour.srgb()),
        gloss,
    }
}

/// Shades a polygon as the side of an upright cylinder about column `middle`.
fn column(painter: &mut Painter, points: &[[f32; 2]], (middle, half): (f32, f32), of: Surface) {
    painter.polygon(points, |light, x, _| {
        let nx = ((x - middle) / half).clamp(-0.98, 0.98);
        light.shade(of, [nx, 0.0, -(1.0 - nx * nx).sqrt()])
    });
    painter.outline(points, of.albedo);
}

/// The band of a cylinder between two levels, as a polygon.
fn band(painter: &Painter, one: &One, (low, high): (f64, f64), radius: f64) -> Vec<[f32; 2]> {
    let at = |y: f64| circle(painter, [one.x, y, 0.0], radius, LEAN);
    let (lower, upper) = (at(low), at(high));
    // The near halves: from the left end round to the right, and back above.
    let near = lower.len() / 2;
    let mut points: Vec<[f32; 2]> = lower[near..].to_vec();
    points.push(lower[0]);
    points.push(upper[0]);
    points.extend(upper[near..].iter().rev());
    points
}

fn drum(painter: &mut Painter, one: &One, since: Since) {
    let k = one.scale;
    // The blow pushes the drum together; it springs back.
    let squash = 1.0 - 0.05 * shake(since, 11.0, 0.10);
    let (radius, low, high) = (DRUM.0 * k, DRUM.1 * k, DRUM.2 * k * squash);
    let middle = painter.project([one.x, 0.0, 0.0]);
    let across = (middle.x, radius as f32 * middle.scale);
    let shell = band(painter, one, (low, high), radius);
    column(painter, &shell, across, surface(one.colour, 0.7));
    let steel = Surface {
        albedo: light_of(STEEL),
        gloss: 0.9,
    };
    for i in 0..7 {
        let angle = TAU * (0.5 + (i as f64 + 0.5) / 14.0);
        let (x, z) = (one.x + radius * angle.cos(), radius * angle.sin());
        let foot = |y: f64| painter.project([x, y + LEAN * z, z]);
        let (a, b) = (foot(low + 0.02 * k), foot(high - 0.02 * k));
        painter.line(
            [[a.x, a.y], [b.x, b.y]],
            0.006 * k as f32 * a.scale,
            scale(steel.albedo, 0.8),
        );
    }
    // Lines of light keep the colour of the drum.
    let hoops = match painter.light.look {
        Look::Neon => surface(one.colour, 0.5),
        _ => steel,
    };
    for level in [low, high - 0.035 * k] {
        let hoop = band(painter, one, (level, level + 0.04 * k), 1.035 * radius);
        let wide = (across.0, 1.035 * across.1);
        column(painter, &hoop, wide, hoops);
    }
    skin(painter, one, (radius, high), since);
}

/// The drum's skin, with rings that run outward after a stroke.
fn skin(painter: &mut Painter, one: &One, (radius, high): (f64, f64), since: Since) {
    let rim = circle(painter, [one.x, high + 0.006, 0.0], 1.03 * radius, LEAN);
    let steel = Surface {
        albedo: light_of(STEEL),
        gloss: 0.6,
    };
    painter.panel(&rim, steel, [0.0, 1.0, -0.3]);
    let points = circle(painter, [one.x, high + 0.008, 0.0], 0.96 * radius, LEAN);
    let cream = Surface::matt(light_of([244, 238, 222]));
    let lit = painter.light.shade(cream, normalised([0.0, 1.0, -0.25]));
    let (cx, cy) = (0.5 * (points[0][0] + points[20][0]), points[0][1]);
    let rx = 0.5 * (points[0][0] - points[20][0]).max(1.0);
    let ry = 0.5 * (points[30][1] - points[10][1]).abs().max(0.5);
    let wave = shake(since, 13.0, 0.13) as f32;
    let bright = 1.0 + 0.25 * flash(since);
    painter.polygon(&points, |_, x, y| {
        let r = (((x - cx) / rx).powi(2) + ((y - cy) / ry).powi(2)).sqrt();
        let ring = wave * (9.0 * r).cos() * (1.0 - r).max(0.0);
        scale(lit, bright * (1.0 - 0.10 * r * r) * (1.0 + 0.45 * ring))
    });
    painter.outline(&points, cream.albedo);
}

/// Half the width of a bell at `t` from the rim (0) to the crown (1), as a share of the rim's.
fn profile(t: f32) -> f32 {
    let flare = (-(t * 6.5)).exp() * 0.42;
    let barrel = 0.60 - 0.10 * t;
    let crown = (1.0 - ((t - 0.72) / 0.29).max(0.0).powi(2)).max(0.0).sqrt();
    (flare + barrel) * crown
}

fn bell(painter: &mut Painter, one: &One, since: Since) {
    let k = one.scale;
    frame(painter, one);
    let (rim, crown) = (BELL.1 * k, BELL.2 * k);
    let pivot = painter.project([one.x, crown + 0.05 * k, 0.0]);
    let unit = pivot.scale;
    // Knocked to the left, it swings.
    let swing = since.map_or(0.0, |(t, s)| {
        0.20 * f64::from(s) * (TAU * 1.9 * t).sin() * (-t / 0.8).exp()
    }) as f32;
    let hum = 0.03 * shake(since, 19.0, 0.25) as f32;
    let (sin, cos) = swing.sin_cos();
    let (half, height) = ((BELL.0 * k) as f32 * unit, (crown - rim) as f32 * unit);
    let hang = 0.05 * k as f32 * unit;
    let turn = |x: f32, y: f32| [pivot.x + x * cos - y * sin, pivot.y + x * sin + y * cos];
    let side = |t: f32| {
        (
            half * profile(t) * (1.0 + hum * (1.0 - t)),
            hang + height * (1.0 - t),
        )
    };
    const STEPS: usize = 22;
    let mut points = Vec::with_capacity(2 * STEPS + 2);
    for i in 0..=STEPS {
        let (x, y) = side(i as f32 / STEPS as f32);
        points.push(turn(x, y));
    }
    for i in (0..=STEPS).rev() {
        let (x, y) = side(i as f32 / STEPS as f32);
        points.push(turn(-x, y));
    }
    clapper(painter, turn(0.0, hang + 1.04 * height), 0.16 * half);
    let of = surface(one.colour, 1.0);
    let bright = 1.0 + 0.45 * flash(since);
    painter.polygon(&points, |light, x, y| {
        let (dx, dy) = (x - pivot.x, y - pivot.y);
        let (lx, ly) = (dx * cos + dy * sin, dy * cos - dx * sin);
        let t = (1.0 - (ly - hang) / height).clamp(0.0, 1.0);
        metal(light, of, (lx / (half * profile(t)).max(1.0), t), bright)
    });
    painter.outline(&points, of.albedo);
}

/// The metal of a bell at `across` (-1 to 1) and `t` up from its rim.
fn metal(light: &Light, of: Surface, (across, t): (f32, f32), bright: f32) -> Rgb {
    let nx = across.clamp(-0.98, 0.98);
    let up = 0.25 + 0.5 * smooth(0.7, 1.0, t) - 0.3 * smooth(0.25, 0.0, t);
    let body = light.shade(of, normalised([nx, up, -(1.0 - nx * nx).sqrt()]));
    let groove = smooth(0.014, 0.0, (t - 0.13).abs()) + smooth(0.014, 0.0, (t - 0.68).abs());
    let dark = 1.0 - 0.4 * groove.min(1.0);
    // A soft streak of light down the barrel.
    let streak = (1.0 - ((nx + 0.38) / 0.16).powi(2)).max(0.0);
    let shine = if light.look == Look::Soft3d {
        0.22
    } else {
        0.10
    };
    add(
        scale(body, bright * dark),
        scale(light.key, shine * streak * streak),
    )
}

fn clapper(painter: &mut Painter, [x, y]: [f32; 2], radius: f32) {
    let iron = Surface {
        albedo: light_of([70, 66, 64]),
        gloss: 0.6,
    };
    let ball = Ellipse {
        x,
        y,
        rx: radius,
        ry: radius,
    };
    painter.ellipsoid(ball, iron);
}

/// Two posts and a beam.
fn frame(painter: &mut Painter, one: &One) {
    let k = one.scale;
    let wood = Surface {
        albedo: light_of(TIMBER),
        gloss: 0.2,
    };
    let (half, top) = (0.36 * k, 0.70 * k);
    let corner = |x: f64, y: f64| {
        let spot = painter.project([one.x + x, y, 0.0]);
        [spot.x, spot.y]
    };
    let thick = 0.022 * k as f32 * painter.project([one.x, 0.0, 0.0]).scale;
    let bars = [
        (corner(-half, 0.02 * k), corner(-half, top)),
        (corner(half, 0.02 * k), corner(half, top)),
        (corner(-1.15 * half, top), corner(1.15 * half, top)),
        (corner(0.0, top), corner(0.0, BELL.2 * k)),
    ];
    for (i, (from, to)) in bars.into_iter().enumerate() {
        let radius = if i == 3 { [0.5 * thick; 2] } else { [thick; 2] };
        painter.limb(Limb { from, to, radius }, wood);
    }
}

fn cymbal(painter: &mut Painter, one: &One, since: Since) {
    let k = one.scale;
    stand(painter, one);
    // It dips where it is struck and rocks.
    let rock = since.map_or(0.0, |(t, s)| {
        -0.34 * f64::from(s) * (TAU * 3.2 * t).cos() * (-t / 0.45).exp() * smooth_start(t)
    });
    let (radius, high) = (CYMBAL.0 * k, CYMBAL.1 * k);
    let disc = |size: f64, lift: f64| -> Vec<[f32; 2]> {
        circle(painter, [one.x, high + lift, 0.0], size * radius, LEAN)
            .into_iter()
            .map(|[x, y]| {
                let spot = painter.project([one.x, high, 0.0]);
                [x, y - (x - spot.x) * rock as f32]
            })
            .collect()
    };
    let (plate, edge, bell) = (disc(1.0, 0.0), disc(1.0, -0.014 * k), disc(0.26, 0.03 * k));
    let of = surface(one.colour, 1.0);
    painter.panel(
        &edge,
        Surface::matt(scale(of.albedo, 0.45)),
        [0.0, 0.2, -1.0],
    );
    let middle = painter.project([one.x, high, 0.0]);
    let rx = 0.5 * (plate[0][0] - plate[20][0]).abs().max(1.0);
    let ry = 0.5 * (plate[30][1] - plate[10][1]).abs().max(0.5);
    let blur = shake(since, 17.0, 0.5) as f32;
    let bright = 1.0 + 0.6 * flash(since);
    painter.polygon(&plate, |light, x, y| {
        let dx = (x - middle.x) / rx;
        let dy = (y - middle.y + (x - middle.x) * rock as f32) / ry;
        scale(brass(light, of, (dx, dy), blur), bright)
    });
    painter.outline(&plate, of.albedo);
    painter.panel(&bell, of, [-0.2, 1.0, -0.6]);
}

/// Rises from 0 to 1 within two hundredths of a second, so that nothing jumps.
fn smooth_start(t: f64) -> f64 {
    (t / 0.02).min(1.0)
}

/// A turned plate: fine rings, and two fans of light that tremble while it rings.
fn brass(light: &Light, of: Surface, (dx, dy): (f32, f32), blur: f32) -> Rgb {
    let r = (dx * dx + dy * dy).sqrt();
    let base = light.shade(of, normalised([0.15 * dx, 1.0, -0.35 - 0.15 * dy]));
    if light.look == Look::Neon {
        return base;
    }
    let ring = 1.0 + 0.10 * (r * 60.0).sin();
    let angle = dy.atan2(dx) + 0.6 + 0.25 * blur;
    let fan = (2.0 * angle).cos().max(0.0).powi(4);
    let level = if light.look == Look::Flat { 0.15 } else { 0.5 };
    add(
        scale(base, ring * (0.85 + 0.4 * fan)),
        scale(light.key, 0.16 * level * fan),
    )
}

/// A pole on three feet.
fn stand(painter: &mut Painter, one: &One) {
    let k = one.scale;
    let steel = Surface {
        albedo: light_of([120, 124, 132]),
        gloss: 0.8,
    };
    let at = |x: f64, y: f64, z: f64| {
        let spot = painter.project([one.x + x * k, y * k, z * k]);
        [spot.x, spot.y]
    };
    let thick = 0.013 * k as f32 * painter.project([one.x, 0.0, 0.0]).scale;
    let limbs = [
        (at(0.0, 0.16, 0.0), at(-0.17, 0.015, -0.05)),
        (at(0.0, 0.16, 0.0), at(0.17, 0.015, -0.05)),
        (at(0.0, 0.16, 0.0), at(0.02, 0.015, 0.16)),
        (at(0.0, 0.06, 0.0), at(0.0, CYMBAL.1 + 0.06, 0.0)),
    ];
    for (from, to) in limbs {
        let radius = [thick; 2];
        painter.limb(Limb { from, to, radius }, steel);
    }
}

/// A mallet whose head is at `head`; the handle leads up and away to the right.
pub fn mallet(painter: &mut Painter, one: &One, head: [f64; 3]) {
    let k = one.scale;
    let (dx, dy) = match one.instrument {
        Instrument::Bell => (0.20, 0.20),
        _ => (0.24, 0.20),
    };
    let grip = painter.project([head[0] + dx * k, head[1] + dy * k, head[2] - 0.1]);
    let spot = painter.project(head);
    let unit = k as f32 * spot.scale;
    let wood = Surface {
        albedo: light_of([206, 168, 110]),
        gloss: 0.4,
    };
    painter.limb(
        Limb {
            from: [spot.x, spot.y],
            to: [grip.x, grip.y],
            radius: [0.011 * unit, 0.014 * unit],
        },
        wood,
    );
    let radius = HEAD as f32 * unit;
    let ball = Ellipse {
        x: spot.x,
        y: spot.y,
        rx: radius,
        ry: radius,
    };
    painter.ellipsoid(ball, felt(one.instrument));
}

/// What the head of a mallet is covered with.
fn felt(instrument: Instrument) -> Surface {
    let (colour, gloss) = match instrument {
        Instrument::Drum => ([232, 226, 214], 0.1),
        Instrument::Cymbal => ([196, 148, 90], 0.5),
        _ => ([196, 40, 44], 0.5),
    };
    Surface {
        albedo: light_of(colour),
        gloss,
    }
}
