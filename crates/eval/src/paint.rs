//! What a thing is painted in, whatever its shape: the colours inside its outline and around it.

use crate::features::{HUES, tally};
use crate::namer::{Cut, SIDE};

/// Pixels at least this far inside ([`Cut::inside`]) belong to the thing for sure.
const WITHIN: f32 = 0.35;
/// Pixels between these are what is around it.
const BESIDE: std::ops::Range<f32> = -1.6..-0.3;
/// Where in the order from dark to bright the thing's colour is read.
const LEVELS: [f32; 3] = [0.15, 0.5, 0.85];
/// How many numbers describe a thing's paint.
pub const LENGTH: usize = 3 * LEVELS.len() + 3 + HUES + 3;

/// Of each cut-out the thing's colour where it is darkest, medium and brightest, the mean colour
/// beside it, and shares of hues, black, grey and white; the mean over the cut-outs.
pub fn paint(cuts: &[Cut]) -> Vec<f32> {
    let mut out = vec![0.0; LENGTH];
    for cut in cuts {
        for (sum, v) in out.iter_mut().zip(one(cut)) {
            *sum += v / cuts.len() as f32;
        }
    }
    out
}

fn one(cut: &Cut) -> Vec<f32> {
    let (mut inside, mut beside) = (Vec::new(), ([0.0f32; 3], 1e-3));
    for i in 0..SIDE * SIDE {
        let colour = [0, 1, 2].map(|c| f32::from(cut.rgb[c * SIDE * SIDE + i]) / 255.0);
        let depth = cut.inside(i / SIDE, i % SIDE);
        if depth >= WITHIN {
            inside.push(colour);
        } else if BESIDE.contains(&depth) {
            beside.0 = [0, 1, 2].map(|c| beside.0[c] + colour[c]);
            beside.1 += 1.0;
        }
    }
    let luma = |c: &[f32; 3]| 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
    inside.sort_by(|a, b| luma(a).total_cmp(&luma(b)));
    let mut out = Vec::with_capacity(LENGTH);
    for level in LEVELS {
        let at = (level * inside.len() as f32) as usize;
        // A few neighbours in the order, so that no single pixel decides.
        let near = at.saturating_sub(2)..(at + 3).min(inside.len());
        let n = near.len().max(1) as f32;
        for c in 0..3 {
            out.push(inside[near.clone()].iter().map(|v| v[c]).sum::<f32>() / n);
        }
    }
    out.extend(beside.0.map(|v| v / beside.1));
    let mut bins = [0.0f32; HUES + 3];
    for colour in &inside {
        tally(*colour, &mut bins);
    }
    let n = inside.len().max(1) as f32;
    out.extend(bins.map(|b| (b / n).sqrt()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namer::cut_out;
    use gallop_core::{Frame, PixelSize};

    #[test]
    fn a_thin_thing_has_its_own_colour_and_not_that_behind_it() {
        let size = PixelSize::new(80, 60);
        let mut frame = Frame::black(size);
        for y in 0..60 {
            for x in 0..80 {
                let (dx, dy) = (
                    (x as f32 + 0.5 - 40.0) / 24.0,
                    (y as f32 + 0.5 - 30.0) / 5.0,
                );
                let colour = if dx * dx + dy * dy < 1.0 {
                    [20, 40, 220]
                } else {
                    [200, 30, 30]
                };
                frame.rgb[(y * 80 + x) * 3..][..3].copy_from_slice(&colour);
            }
        }
        let told = paint(&[cut_out(&frame, [40.0, 30.0], [24.0, 5.0])]);
        assert_eq!(told.len(), LENGTH);
        assert!(told[5] > 0.8 && told[3] < 0.15, "{:?}", &told[3..6]);
        assert!(told[9] > 0.7 && told[11] < 0.2, "{:?}", &told[9..12]);
    }
}
