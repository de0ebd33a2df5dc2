//! The mouth: lips, teeth and tongue.

use super::draw::{Frame, Looks};
use crate::attributes::Look;
use crate::render::{Painter, Rgb, Surface, add, light_of, mix, scale, smooth, smooth_outline};
use crate::speech::Mouth;

/// Its middle in the head, in units at scale one.
pub const MIDDLE: [f32; 2] = [0.0, -0.168];
/// The dark inside, and what is in it.
const INSIDE: [u8; 3] = [70, 12, 20];
const TEETH: [u8; 3] = [250, 248, 240];
const TONGUE: [u8; 3] = [222, 92, 100];

/// Half the width of the mouth, and the height of its opening, in units at scale one.
pub fn extent(mouth: &Mouth) -> (f32, f32) {
    let round = (-mouth.spread).max(0.0);
    let half = 0.122 * (1.0 + 0.28 * mouth.spread.max(0.0) - 0.48 * round) - 0.010 * mouth.open;
    (half, 0.175 * mouth.open * (1.0 - 0.10 * round))
}

/// The outlines of the lips and of the opening, in the head.
struct Lips {
    outer: Vec<[f32; 2]>,
    inner: Vec<[f32; 2]>,
    /// Heights of the opening's upper and lower edge.
    edges: [f32; 2],
}

fn lips(mouth: &Mouth) -> Lips {
    let (half, open) = extent(mouth);
    let round = (-mouth.spread).max(0.0);
    let [x, y] = MIDDLE;
    // The jaw opens the mouth: the lower lip goes down more than the upper goes up.
    let (top, bottom) = (y + 0.30 * open, y - 0.70 * open);
    let (upper, lower) = (0.017 + 0.008 * round, 0.023 + 0.008 * round);
    let corner = y - 0.14 * open + 0.012 + 0.006 * mouth.spread;
    let inside = 0.86 * half;
    let outer = [
        [x - half, corner],
        [x - 0.55 * half, top + 0.80 * upper],
        [x - 0.18 * half, top + 1.15 * upper],
        [x, top + 0.85 * upper],
        [x + 0.18 * half, top + 1.15 * upper],
        [x + 0.55 * half, top + 0.80 * upper],
        [x + half, corner],
        [x + 0.55 * half, bottom - 0.75 * lower],
        [x, bottom - 1.1 * lower],
        [x - 0.55 * half, bottom - 0.75 * lower],
    ];
    let inner = [
        [x - inside, corner],
        [x - 0.5 * inside, corner + 0.88 * (top - corner)],
        [x, top],
        [x + 0.5 * inside, corner + 0.88 * (top - corner)],
        [x + inside, corner],
        [x + 0.5 * inside, corner + 0.88 * (bottom - corner)],
        [x, bottom],
        [x - 0.5 * inside, corner + 0.88 * (bottom - corner)],
    ];
    Lips {
        outer: smooth_outline(&outer, 4),
        inner: smooth_outline(&inner, 4),
        edges: [top, bottom],
    }
}

/// Draws the mouth.
pub fn draw(painter: &mut Painter, frame: &Frame, looks: &Looks, mouth: &Mouth) {
    let lips = lips(mouth);
    let red = Surface {
        albedo: mix(looks.skin, light_of([190, 44, 58]), looks.lipstick),
        gloss: 0.4,
    };
    let outer = frame.all(&lips.outer);
    let level = painter.light.shade(red, [0.0, 0.25, -0.97]);
    let dark = scale(level, 0.72);
    let middle = frame.at(MIDDLE)[1];
    let reach = (0.03 * frame.unit).max(1.0);
    painter.polygon(&outer, |_, _, y| {
        mix(dark, level, smooth(-reach, reach, y - middle))
    });
    painter.outline(&outer, red.albedo);
    if lips.edges[0] - lips.edges[1] < 0.004 {
        // Closed lips are a line.
        let (half, _) = extent(mouth);
        let ends = [-0.9 * half, 0.9 * half].map(|x| frame.at([x, MIDDLE[1]]));
        let ink = scale(level, 0.35);
        painter.line(ends, (0.004 * frame.unit).max(0.4), ink);
        return;
    }
    inside(painter, frame, mouth, &lips);
}

/// What is seen between the lips.
fn inside(painter: &mut Painter, frame: &Frame, mouth: &Mouth, lips: &Lips) {
    let inner = frame.all(&lips.inner);
    let lit = |c: [u8; 3]| -> Rgb {
        let own = light_of(c);
        if painter.light.look == Look::Neon {
            return scale(own, 0.6);
        }
        let shade = painter.light.shade(Surface::matt(own), [0.0, 0.0, -1.0]);
        // Bright enough to be read in any light.
        add(scale(shade, 0.75), scale(own, 0.2))
    };
    let (hollow, teeth, tongue) = (lit(INSIDE), lit(TEETH), lit(TONGUE));
    let [top, bottom] = lips.edges;
    let open = top - bottom;
    let upper = top - mouth.teeth * (0.020 + 0.16 * open).min(0.6 * open);
    let raised = bottom + (0.20 + 0.42 * mouth.tongue) * open;
    let (half, _) = extent(mouth);
    let soft = 0.7 / frame.unit;
    painter.polygon(&inner, |_, px, py| {
        let [x, y] = frame.inverse(px, py);
        let across = (x / half).powi(2);
        let tongue_edge = raised - 0.30 * open * across;
        let seen = smooth(soft, -soft, y - tongue_edge) * smooth(0.85, 0.6, across);
        let white = smooth(-soft, soft, y - upper - 0.010 * across);
        mix(mix(hollow, tongue, seen), teeth, white)
    });
    painter.outline(&inner, light_of(INSIDE));
}
