//! A xylophone: bars on a frame.

use super::draw::{Since, TIMBER, flash, shake, surface};
use super::{BARS, One};
use crate::attributes::Colour;
use crate::render::{Ellipse, Limb, Painter, Surface, add, light_of, mix, normalised, scale};

/// A xylophone: half its width; its bars' near and far ends, as height and depth.
pub const XYLOPHONE: f64 = 0.64;
pub const NEAR: [f64; 2] = [0.10, -0.16];
pub const FAR: [f64; 2] = [0.42, 0.22];
/// The colours of a rainbow of bars.
const RAINBOW: [Colour; 8] = [
    Colour::Red,
    Colour::Orange,
    Colour::Yellow,
    Colour::Green,
    Colour::Teal,
    Colour::Blue,
    Colour::Purple,
    Colour::Pink,
];

/// A point of a bar: `across` -0.5 to 0.5 of its width, `along` 0 near to 1 far.
fn on_bar(one: &One, bar: usize, across: f64, along: f64) -> [f64; 3] {
    let k = one.scale;
    let slot = 2.0 * XYLOPHONE / BARS.len() as f64;
    // High notes have short bars.
    let shrink = 0.045 * bar as f64;
    let along = shrink + (1.0 - 2.0 * shrink) * along;
    let x = -XYLOPHONE + slot * (bar as f64 + 0.5 + 0.84 * across);
    let y = NEAR[0] + (FAR[0] - NEAR[0]) * along;
    let z = NEAR[1] + (FAR[1] - NEAR[1]) * along;
    [one.x + x * k, y * k, z * k]
}

/// The middle of a bar, where it is struck.
pub fn bar_middle(one: &One, bar: usize) -> [f64; 3] {
    on_bar(one, bar, 0.0, 0.45)
}

/// Half the extent of a bar in the picture.
pub fn bar_half(one: &One, bar: usize) -> [f64; 2] {
    let (near, far) = (on_bar(one, bar, 0.0, 0.0), on_bar(one, bar, 0.0, 1.0));
    let width = on_bar(one, bar, 0.5, 0.5)[0] - on_bar(one, bar, -0.5, 0.5)[0];
    [0.5 * width, 0.5 * (far[1] - near[1])]
}

/// A xylophone; `since` holds the last stroke on each bar.
pub fn draw(painter: &mut Painter, one: &One, since: &[Since; 8]) {
    rails(painter, one);
    let view = painter.view;
    for (bar, &since) in since.iter().enumerate() {
        let colour = if one.rainbow {
            RAINBOW[bar]
        } else {
            one.colour
        };
        let of = surface(colour, 0.6);
        // Struck, a bar dips and trembles.
        let dip = -0.020 * one.scale * shake(since, 12.0, 0.12);
        let corner = |across: f64, along: f64| {
            let [x, y, z] = on_bar(one, bar, across, along);
            let spot = view.project([x, y + dip, z]);
            [spot.x, spot.y]
        };
        let ends = [
            corner(-0.5, 0.0),
            corner(0.5, 0.0),
            corner(0.5, 1.0),
            corner(-0.5, 1.0),
        ];
        let thick = 0.022 * one.scale as f32 * painter.project([one.x, 0.0, 0.0]).scale;
        let [a, b, ..] = ends;
        let front = [a, b, [b[0], b[1] + thick], [a[0], a[1] + thick]];
        painter.panel(
            &front,
            Surface::matt(scale(of.albedo, 0.55)),
            [0.0, 0.1, -1.0],
        );
        top(painter, &ends, of, flash(since));
        for along in [0.14, 0.86] {
            let [x, y] = corner(0.0, along);
            let r = 0.25 * thick;
            let screw = Ellipse { x, y, rx: r, ry: r };
            painter.disc(screw, scale(of.albedo, 0.25), 0.8);
        }
    }
}

/// The upper face of a bar, brighter where it was just struck.
fn top(painter: &mut Painter, ends: &[[f32; 2]; 4], of: Surface, flash: f32) {
    let lit = painter.light.shade(of, normalised([0.0, 0.78, -0.62]));
    let (left, right) = (ends[0][0], ends[1][0]);
    let glow = add(scale(lit, 0.9), [0.55 * flash, 0.52 * flash, 0.42 * flash]);
    painter.polygon(ends, |_, x, _| {
        let t = ((x - left) / (right - left).max(1.0)).clamp(0.0, 1.0);
        let round = 1.0 - 0.22 * (2.0 * t - 1.0).powi(2);
        scale(mix(lit, glow, flash.min(1.0)), round)
    });
    painter.outline(ends, of.albedo);
}

/// The frame under the bars.
fn rails(painter: &mut Painter, one: &One) {
    let wood = Surface {
        albedo: light_of(TIMBER),
        gloss: 0.25,
    };
    let last = BARS.len() - 1;
    let spot = |bar: usize, across: f64, along: f64, down: f64| {
        let [x, y, z] = on_bar(one, bar, across, along);
        let spot = painter.project([x, y - down * one.scale, z]);
        [spot.x, spot.y]
    };
    let thick = 0.022 * one.scale as f32 * painter.project([one.x, 0.0, 0.0]).scale;
    let mut limbs = Vec::new();
    for along in [0.86, 0.14] {
        limbs.push((spot(0, -0.7, along, 0.02), spot(last, 0.7, along, 0.02)));
    }
    for (bar, across) in [(0, -0.7), (last, 0.7)] {
        limbs.push((spot(bar, across, 0.14, 0.02), spot(bar, across, 0.86, 0.02)));
        for (along, height) in [(0.86, 0.33), (0.14, 0.10)] {
            limbs.push((
                spot(bar, across, along, 0.02),
                spot(bar, across, along, height),
            ));
        }
    }
    for (from, to) in limbs {
        let radius = [thick; 2];
        painter.limb(Limb { from, to, radius }, wood);
    }
}
