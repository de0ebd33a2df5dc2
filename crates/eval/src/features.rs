//! A clip as one list of numbers that says what it shows, how it is drawn and how it moves.

use gallop_core::{Clip, Frame, PixelSize};

use crate::blobs::{Blob, Path, blobs, paths};
use crate::motion::Moving;
use crate::plane::{Plane, luma, shrink};

/// Moments that are looked at, spread evenly over the clip.
const MOMENTS: usize = 4;
/// Cells of the coarse picture.
const COARSE: PixelSize = PixelSize::new(12, 8);
/// Bins of hue; three more hold what is black, grey and white.
const HUES: usize = 18;
/// Bins of gradient magnitude.
const EDGES: usize = 10;

/// Everything measured once on a clip and used by several metrics.
pub struct Seen {
    /// Small planes and camera motion.
    pub moving: Moving,
    /// Paths of what moves.
    pub paths: Vec<Path>,
    /// The features of this module, a fixed number whatever the clip's size and length.
    pub features: Vec<f32>,
}

impl Seen {
    /// Looks at a clip that has at least one frame.
    pub fn new(clip: &Clip) -> Self {
        let moving = Moving::new(clip);
        let found = blobs(&moving);
        let paths = paths(&found);
        let mut features = Vec::new();
        for frame in moments(clip) {
            features.extend(coarse(frame));
            features.extend(edges(frame));
            features.extend(histogram(
                &shrink(frame, crate::motion::small(frame.size)),
                |_| true,
            ));
        }
        features.extend(camera(&moving));
        features.extend(movers(&moving, &found, &paths));
        Self {
            moving,
            paths,
            features,
        }
    }
}

fn moments(clip: &Clip) -> impl Iterator<Item = &Frame> {
    let n = clip.frames.len();
    (0..MOMENTS).map(move |m| &clip.frames[(2 * m + 1) * n / (2 * MOMENTS)])
}

/// Red, green and blue in each cell.
fn coarse(frame: &Frame) -> Vec<f32> {
    // Upright pictures are laid on their side, so that a cell is about square in both.
    let size = if frame.size.width >= frame.size.height {
        COARSE
    } else {
        PixelSize::new(COARSE.height, COARSE.width)
    };
    shrink(frame, size)
        .into_iter()
        .flat_map(|plane| plane.values)
        .collect()
}

/// How sharp, grainy and blocky the picture is: gradients at full size, as square roots of shares.
fn edges(frame: &Frame) -> Vec<f32> {
    let plane = luma(&shrink(frame, frame.size));
    let (w, h) = (plane.size.width, plane.size.height);
    let mut bins = [0.0f32; 2 * EDGES];
    let mut flat = [0.0f32; 4];
    for y in 0..h.saturating_sub(1) {
        for x in 0..w.saturating_sub(1) {
            let here = plane.values[y * w + x];
            let right = (plane.values[y * w + x + 1] - here).abs();
            let down = (plane.values[(y + 1) * w + x] - here).abs();
            let bin = |d: f32| (((d * 255.0 + 1.0).log2() * 1.25) as usize).min(EDGES - 1);
            bins[bin(right)] += 1.0;
            bins[EDGES + bin(down)] += 1.0;
            // Square pixels leave edges only on the lines of their grid.
            if right > 0.02 {
                flat[x % 4] += 1.0;
            }
        }
    }
    let n = (w.max(2) - 1) as f32 * (h.max(2) - 1) as f32;
    bins.iter().chain(&flat).map(|b| (b / n).sqrt()).collect()
}

/// Shares of hues, black, grey and white among the pixels that `keep` picks; square roots.
fn histogram(rgb: &[Plane; 3], keep: impl Fn(usize) -> bool) -> Vec<f32> {
    let mut bins = [0.0f32; HUES + 3];
    let mut total = 1e-6;
    for i in (0..rgb[0].values.len()).filter(|&i| keep(i)) {
        let colour = [0, 1, 2].map(|c| rgb[c].values[i]);
        tally(colour, 1.0, &mut bins);
        total += 1.0;
    }
    bins.iter().map(|b| (b / total).sqrt()).collect()
}

/// Adds a colour to the bins: by saturation to a hue, the rest to black, grey or white.
fn tally(colour: [f32; 3], weight: f32, bins: &mut [f32; HUES + 3]) {
    let high = colour.iter().fold(0.0f32, |m, &c| m.max(c));
    let low = colour.iter().fold(1.0f32, |m, &c| m.min(c));
    let saturation = (high - low) / (high + 0.05);
    let vivid = ((saturation - 0.15) / 0.3).clamp(0.0, 1.0);
    let tone = if high < 0.25 {
        0
    } else if high < 0.7 {
        1
    } else {
        2
    };
    bins[HUES + tone] += weight * (1.0 - vivid);
    let hue = hue(colour, high, low) * HUES as f32;
    let (bin, part) = (hue as usize % HUES, hue.fract());
    bins[bin] += weight * vivid * (1.0 - part);
    bins[(bin + 1) % HUES] += weight * vivid * part;
}

/// Hue in [0, 1), red at 0.
fn hue([r, g, b]: [f32; 3], high: f32, low: f32) -> f32 {
    let range = (high - low).max(1e-6);
    let sixth = if high == r {
        (g - b) / range
    } else if high == g {
        2.0 + (b - r) / range
    } else {
        4.0 + (r - g) / range
    };
    (sixth / 6.0).rem_euclid(1.0)
}

/// Mean shift and growth a second, how much both shake, and how steady they are.
fn camera(moving: &Moving) -> Vec<f32> {
    let steps = &moving.steps[1.min(moving.steps.len())..];
    let n = steps.len().max(1) as f32;
    let series: [Vec<f32>; 3] = [
        steps.iter().map(|s| s.dx).collect(),
        steps.iter().map(|s| s.dy).collect(),
        steps.iter().map(|s| s.zoom).collect(),
    ];
    let mut out = Vec::new();
    for values in &series {
        let mean = values.iter().sum::<f32>() / n;
        let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        let turn = values.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<f32>() / n;
        let moved = values.iter().filter(|v| v.abs() > 0.001).count() as f32 / n;
        out.extend([squash(mean), squash(spread), squash(turn), moved]);
    }
    out
}

/// Small motions count as much as large ones: a signed square root.
fn squash(v: f32) -> f32 {
    10.0 * v.signum() * v.abs().sqrt()
}

/// How many things move, how large, where to, and of what colours.
fn movers(moving: &Moving, found: &[Vec<Blob>], paths: &[Path]) -> Vec<f32> {
    let frames = found.len().max(1) as f32;
    let mut counts = [0.0f32; 6];
    for blobs in found {
        counts[blobs.len().min(5)] += 1.0 / frames;
    }
    let mut bins = [0.0f32; HUES + 3];
    let (mut total, mut area, mut travel, mut rise, mut weight) = (1e-6, 0.0, 0.0, 0.0, 1e-6);
    for path in paths {
        for (_, blob) in path {
            tally(blob.colour, blob.area, &mut bins);
            total += blob.area;
        }
        let (Some((f0, first)), Some((f1, last))) = (path.first(), path.last()) else {
            continue;
        };
        let mass: f32 = path.iter().map(|(_, b)| b.area).sum();
        travel += mass * (last.at[0] - first.at[0]) / (f1 - f0).max(1) as f32;
        rise += path
            .windows(2)
            .map(|w| (w[1].1.at[1] - w[0].1.at[1]).abs())
            .sum::<f32>()
            * mass
            / path.len() as f32;
        area += mass;
        weight += mass;
    }
    let mut out: Vec<f32> = bins.iter().map(|b| (b / total).sqrt()).collect();
    out.extend(counts);
    out.extend([
        squash(travel / weight),
        squash(rise / weight),
        (area / frames).sqrt(),
    ]);
    out.push(paths.len() as f32 * 24.0 / frames);
    out.extend(activity(moving));
    out
}

/// Where in the picture things change: mean absolute difference of successive frames in each of
/// 6 x 4 cells, as square roots.
fn activity(moving: &Moving) -> Vec<f32> {
    let (columns, rows) = (6, 4);
    let mut cells = vec![0.0f32; columns * rows];
    for pair in moving.rgb.windows(2) {
        let size = pair[0][1].size;
        for (i, (a, b)) in pair[0][1].values.iter().zip(&pair[1][1].values).enumerate() {
            let (x, y) = (
                i % size.width * columns / size.width,
                i / size.width * rows / size.height,
            );
            cells[y * columns + x] += (a - b).abs();
        }
    }
    let n = moving.rgb.len().max(2) as f32 - 1.0;
    let pixels = moving.rgb.first().map_or(1, |p| p[0].values.len()) as f32 / cells.len() as f32;
    cells.iter().map(|c| (c / (n * pixels)).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disc(colour: [u8; 3], frames: usize, size: PixelSize) -> Clip {
        let frames = (0..frames)
            .map(|f| {
                let mut frame = Frame::black(size);
                frame.rgb.fill(120);
                for y in 0..size.height {
                    for x in 0..size.width {
                        let (dx, dy) = (x as f32 - 20.0 - 3.0 * f as f32, y as f32 - 40.0);
                        if dx.hypot(dy) < 12.0 {
                            let i = (y * size.width + x) * 3;
                            frame.rgb[i..i + 3].copy_from_slice(&colour);
                        }
                    }
                }
                frame
            })
            .collect();
        Clip {
            frames,
            audio: None,
        }
    }

    #[test]
    fn every_clip_has_as_many_features() {
        let lengths: Vec<usize> = [(224, 128, 24), (128, 224, 30), (16, 16, 1), (33, 17, 2)]
            .map(|(w, h, n)| {
                Seen::new(&disc([200, 0, 0], n, PixelSize::new(w, h)))
                    .features
                    .len()
            })
            .to_vec();
        assert!(lengths.windows(2).all(|w| w[0] == w[1]), "{lengths:?}");
    }

    #[test]
    fn a_moving_disc_is_followed_with_its_colour() {
        let seen = Seen::new(&disc([220, 30, 30], 24, PixelSize::new(224, 128)));
        assert_eq!(seen.paths.len(), 1);
        let path = &seen.paths[0];
        let (first, last) = (path[0].1, path[path.len() - 1].1);
        assert!(last.at[0] - first.at[0] > 0.2);
        assert!(last.colour[0] > 0.8 && last.colour[1] < 0.2);
    }
}
