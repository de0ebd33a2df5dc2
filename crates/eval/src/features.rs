//! A clip as one list of numbers that says what it shows, how it is drawn and how it moves.

use gallop_core::{Clip, Frame, PixelSize};

use crate::finder::{Finder, Found};
use crate::lips::{Talk, talk};
use crate::motion::{Moving, small_frames};
use crate::namer::{Cut, Thing, cut_out};
use crate::paint::paint;
use crate::plane::{Plane, luma, shrink};
use crate::timbre::timbre;
use crate::tracks::{Path, paths};
use crate::voice::voice;

/// Moments that are looked at, spread evenly over the clip.
const MOMENTS: usize = 4;
/// Cells of the coarse picture.
const COARSE: PixelSize = PixelSize::new(6, 4);
/// Bins of hue; three more hold what is black, grey and white.
pub(crate) const HUES: usize = 18;
/// Bins of gradient magnitude.
const EDGES: usize = 10;
/// The same, in the small picture.
const SHADES: usize = 14;
/// Things that are looked at, at most, and cut-outs of each.
const THINGS: usize = 6;
const CUTS: usize = 8;
/// How sure a thing must be to be counted: at each of these levels.
const SURE: [f32; 4] = [0.25, 0.4, 0.55, 0.7];
/// Things are counted up to here.
const MANY: usize = 5;
/// Paths whose ways are told.
const WAYS: usize = 3;

/// Everything measured once on a clip and used by several metrics.
pub struct Seen {
    /// Small planes and camera motion.
    pub moving: Moving,
    /// Paths of the things in it, the longest first.
    pub paths: Vec<Path>,
    /// What its attributes are named from.
    pub features: Features,
    /// Mouth and voice, if the longest seen thing were a head; `None` without either.
    pub talk: Option<Talk>,
}

/// A clip as a few lists of numbers and cut-outs, each list as long whatever the clip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// How it is drawn: gradients, colours.
    pub picture: Vec<f32>,
    /// How the camera moves.
    pub camera: Vec<f32>,
    /// Where the things go.
    pub ways: Vec<f32>,
    /// How many things there seem to be.
    pub number: Vec<f32>,
    /// What it sounds like where something begins to sound.
    pub timbre: Vec<f32>,
    /// What its voice is like, if it is one.
    pub voice: Vec<f32>,
    /// The light: mean colours of coarse cells.
    pub light: Vec<f32>,
    /// The things, the longest seen first.
    pub things: Vec<Thing>,
}

impl Seen {
    /// Looks at a clip that has at least one frame.
    pub fn new(clip: &Clip, finder: &Finder) -> Self {
        let rgb = small_frames(clip);
        let found = finder.find(&rgb);
        let moving = Moving::behind(rgb, |frame, at| !found[frame].iter().any(|f| hides(f, at)));
        let size = moving.rgb[0][0].size;
        let paths = paths(&found, &moving.to_first, size);
        let features = Features {
            picture: picture(clip, &moving),
            camera: camera(&moving),
            ways: ways(&paths, moving.rgb.len()),
            number: number(&found, &paths),
            timbre: timbre(clip.audio.as_ref()),
            voice: voice(clip.audio.as_ref()),
            light: light(clip),
            things: paths.iter().take(THINGS).map(|p| thing(clip, p)).collect(),
        };
        Self {
            talk: paths.first().and_then(|head| talk(clip, head)),
            moving,
            paths,
            features,
        }
    }
}

/// Whether a pixel belongs to a thing, or to its shadow or mirror image somewhere beneath.
fn hides(found: &Found, at: [f32; 2]) -> bool {
    let [x, y] = [0, 1].map(|k| (at[k] + 0.5 - found.at[k]) / (1.4 * found.half[k] + 1.0));
    x.abs() < 1.0 && y > -1.0
}

fn picture(clip: &Clip, moving: &Moving) -> Vec<f32> {
    let mut out = Vec::new();
    for (index, frame) in moments(clip) {
        out.extend(edges(frame));
        out.extend(shades(&moving.rgb[index]));
        out.extend(histogram(&moving.rgb[index]));
    }
    out
}

/// Mean colours of coarse cells in the middle of the clip.
pub(crate) fn light(clip: &Clip) -> Vec<f32> {
    let frame = &clip.frames[clip.frames.len() / 2];
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

/// Cut-outs of one thing from where it is surest in each stretch of its path.
fn thing(clip: &Clip, path: &Path) -> Thing {
    let size = clip.frames[0].size;
    let long = size.width.max(size.height) as f32;
    let stretch = path.len().div_ceil(CUTS);
    let cuts: Vec<Cut> = path
        .chunks(stretch)
        .filter_map(|part| part.iter().max_by(|a, b| a.1.score.total_cmp(&b.1.score)))
        .map(|(frame, spot)| {
            let middle = [size.width, size.height].map(|s| 0.5 * s as f32);
            let at = [0, 1].map(|k| middle[k] + spot.seen[k] * long);
            cut_out(&clip.frames[*frame], at, spot.half.map(|r| r * long))
        })
        .collect();
    Thing {
        paint: paint(&cuts),
        cuts,
        frames: path.len(),
    }
}

fn moments(clip: &Clip) -> impl Iterator<Item = (usize, &Frame)> {
    let n = clip.frames.len();
    (0..MOMENTS)
        .map(move |m| (2 * m + 1) * n / (2 * MOMENTS))
        .map(|index| (index, &clip.frames[index]))
}

/// How sharp, grainy and blocky the picture is: gradients at full size, as square roots of shares.
fn edges(frame: &Frame) -> Vec<f32> {
    // Those to the right, those down, and edges by their column.
    let mut bins = [0.0f32; 2 * EDGES + 4];
    let bin = |d: f32| (((d * 255.0 + 1.0).log2() * 1.25) as usize).min(EDGES - 1);
    slopes(
        &luma(&shrink(frame, frame.size)),
        &mut bins,
        |bins, x, slope| {
            let [right, down] = slope.map(f32::abs);
            bins[bin(right)] += 1.0;
            bins[EDGES + bin(down)] += 1.0;
            // Square pixels leave edges only on the lines of their grid.
            if right > 0.02 {
                bins[2 * EDGES + x % 4] += 1.0;
            }
        },
    )
}

/// How shaded the picture is: gradients of the small picture, in which what coding adds has gone, as square roots of
/// shares.
fn shades(rgb: &[Plane; 3]) -> Vec<f32> {
    slopes(&luma(rgb), &mut [0.0; SHADES], |bins, _, [right, down]| {
        let bin = (right.hypot(down) * 1024.0 + 1.0).log2() * 1.5;
        bins[(bin as usize).min(SHADES - 1)] += 1.0;
    })
}

/// Tallies how much each pixel's right and lower neighbours differ from it, by its column: bins as square roots of shares.
fn slopes(
    plane: &Plane,
    bins: &mut [f32],
    tally: impl Fn(&mut [f32], usize, [f32; 2]),
) -> Vec<f32> {
    let (w, h) = (plane.size.width, plane.size.height);
    for y in 0..h.saturating_sub(1) {
        for x in 0..w.saturating_sub(1) {
            let at = |x: usize, y: usize| plane.values[y * w + x];
            let here = at(x, y);
            tally(bins, x, [at(x + 1, y) - here, at(x, y + 1) - here]);
        }
    }
    let n = (w.max(2) - 1) as f32 * (h.max(2) - 1) as f32;
    bins.iter().map(|b| (b / n).sqrt()).collect()
}

/// Shares of hues, black, grey and white; square roots.
fn histogram(rgb: &[Plane; 3]) -> Vec<f32> {
    let mut bins = [0.0f32; HUES + 3];
    let pixels = rgb[0].values.len();
    for i in 0..pixels {
        tally([0, 1, 2].map(|c| rgb[c].values[i]), &mut bins);
    }
    bins.iter().map(|b| (b / pixels as f32).sqrt()).collect()
}

/// Adds a colour to the bins: by saturation to a hue, the rest to black, grey or white.
pub(crate) fn tally(colour: [f32; 3], bins: &mut [f32; HUES + 3]) {
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
    bins[HUES + tone] += 1.0 - vivid;
    let hue = hue(colour, high, low) * HUES as f32;
    let (bin, part) = (hue as usize % HUES, hue.fract());
    bins[bin] += vivid * (1.0 - part);
    bins[(bin + 1) % HUES] += vivid * part;
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

/// Of each part of the camera's motion: how far it goes in all and in each quarter of the clip,
/// how much it shakes, turns, and how often it moves at all; and how far it has gone in the end, a second.
fn camera(moving: &Moving) -> Vec<f32> {
    let steps = &moving.steps[1.min(moving.steps.len())..];
    let n = steps.len().max(1) as f32;
    let mut out = Vec::new();
    for part in 0..4 {
        let values: Vec<f32> = steps.iter().map(|s| s.parts()[part]).collect();
        let sum = values.iter().sum::<f32>();
        let mean = sum / n;
        let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        let turn = values.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<f32>() / n;
        let moved = values.iter().filter(|v| v.abs() > 0.001).count() as f32 / n;
        let forward = values.iter().filter(|v| **v > 0.0003).count() as f32 / n;
        let back = values.iter().filter(|v| **v < -0.0003).count() as f32 / n;
        let mut sorted = values.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        out.extend([squash(mean), squash(median), squash(spread), squash(turn)]);
        out.extend([sum, moved, forward, back]);
        for quarter in values.chunks(values.len().div_ceil(4).max(1)).take(4) {
            out.push(squash(quarter.iter().sum::<f32>() / quarter.len() as f32));
        }
        out.resize((part + 1) * 12, 0.0);
    }
    let last = moving.to_first.last().copied().unwrap_or_default();
    out.extend((last.parts()).map(|v| v / moving.rgb.len() as f32 * 24.0));
    out
}

/// Small motions count as much as large ones: a signed square root.
fn squash(v: f32) -> f32 {
    10.0 * v.signum() * v.abs().sqrt()
}

/// Where the longest paths lead, in the picture and against what lies behind, and all together.
fn ways(paths: &[Path], frames: usize) -> Vec<f32> {
    let frames = frames as f32;
    let mut out = Vec::new();
    let (mut all, mut total) = ([0.0f32; 2], 1e-6);
    for path in paths {
        let way = [slope(path, |s| s.1.seen[0]), slope(path, |s| s.1.at[0])];
        all = [0, 1].map(|k| all[k] + way[k] * path.len() as f32);
        total += path.len() as f32;
        if out.len() < 4 * WAYS {
            let length = path.len() as f32 / frames;
            out.extend([way[0] * 24.0, way[1] * 24.0, squash(way[0]), length]);
        }
    }
    out.resize(4 * WAYS, 0.0);
    out.extend(all.map(|sum| squash(sum / total)));
    out.extend(all.map(|sum| sum / total * 24.0));
    out
}

/// The least-squares slope of `value` over a path, a frame.
fn slope(path: &Path, value: impl Fn(&(usize, crate::tracks::Spot)) -> f32) -> f32 {
    let n = path.len() as f32;
    let mean_t = path.iter().map(|s| s.0 as f32).sum::<f32>() / n;
    let mean_v = path.iter().map(&value).sum::<f32>() / n;
    let (mut up, mut down) = (0.0, 1e-6);
    for spot in path {
        let t = spot.0 as f32 - mean_t;
        up += t * (value(spot) - mean_v);
        down += t * t;
    }
    up / down
}

/// In which share of the frames there are at least so many things, at each level of sureness; and
/// how many paths last at least so long.
fn number(found: &[Vec<Found>], paths: &[Path]) -> Vec<f32> {
    let frames = found.len().max(1) as f32;
    let mut out = Vec::new();
    for sure in SURE {
        let counts: Vec<usize> = found
            .iter()
            .map(|f| f.iter().filter(|f| f.score >= sure).count())
            .collect();
        for many in 1..=MANY {
            let share = counts.iter().filter(|c| **c >= many).count() as f32 / frames;
            out.push(share);
        }
    }
    for share in [0.15, 0.3, 0.5, 0.7, 0.9] {
        let lasting = paths.iter().filter(|p| p.len() as f32 >= share * frames);
        out.push(lasting.count().min(2 * MANY) as f32);
    }
    out
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
        let lengths: Vec<[usize; 7]> = [(224, 128, 24), (128, 224, 30), (16, 16, 1), (33, 17, 2)]
            .map(|(w, h, n)| {
                let clip = disc([200, 0, 0], n, PixelSize::new(w, h));
                let f = Seen::new(&clip, &Finder::new()).features;
                [
                    &f.picture, &f.camera, &f.ways, &f.number, &f.timbre, &f.voice, &f.light,
                ]
                .map(Vec::len)
            })
            .to_vec();
        assert!(lengths.windows(2).all(|w| w[0] == w[1]), "{lengths:?}");
    }
}
