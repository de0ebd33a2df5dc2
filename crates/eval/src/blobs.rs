//! What moves against the background, followed from frame to frame.

use gallop_core::{FPS, PixelSize};
use rayon::prelude::*;

use crate::motion::{Motion, Moving, pixel, place};
use crate::plane::Plane;

/// Frames either side that the background is taken from, and about how many of them are looked at.
const REACH: usize = 32;
const LOOKS: usize = 11;
/// A pixel this far from the background (largest channel) is foreground.
const CONTRAST: f32 = 0.09;
/// Blobs smaller than this share of the picture are noise (rain, snow, sparkle).
const SMALLEST: f32 = 0.003;
/// A blob moves at most this far between frames (longer sides), or it is another one.
const FARTHEST: f32 = 0.12;

/// A connected patch of foreground.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blob {
    /// Middle, in longer sides from the middle of the picture of frame 0 (camera taken out).
    pub at: [f32; 2],
    /// Lowest point, likewise.
    pub bottom: f32,
    /// Share of the picture.
    pub area: f32,
    /// Mean red, green and blue, in [0, 1].
    pub colour: [f32; 3],
}

/// One blob through time: frame index and blob, frames consecutive but for single gaps.
pub type Path = Vec<(usize, Blob)>;

/// The foreground blobs of every frame.
pub fn blobs(moving: &Moving) -> Vec<Vec<Blob>> {
    (0..moving.rgb.len())
        .into_par_iter()
        .map(|frame| {
            let mask = foreground(moving, frame);
            components(&mask, &moving.rgb[frame], moving.to_first[frame])
        })
        .collect()
}

/// Which pixels of `frame` are unlike the median of the frames around it, shadows taken out.
fn foreground(moving: &Moving, frame: usize) -> Vec<bool> {
    let size = moving.rgb[frame][0].size;
    let window = frame.saturating_sub(REACH)..(frame + REACH + 1).min(moving.rgb.len());
    let step = (window.len() / LOOKS).max(1);
    let others: Vec<usize> = window.step_by(step).collect();
    let back: Vec<Motion> = others
        .iter()
        .map(|&other| relative(moving.to_first[frame], moving.to_first[other]))
        .collect();
    let mut mask = vec![false; size.width * size.height];
    let mut seen: [Vec<f32>; 3] = Default::default();
    for (i, is_foreground) in mask.iter_mut().enumerate() {
        let p = place(size, [(i % size.width) as f32, (i / size.width) as f32]);
        seen.iter_mut().for_each(Vec::clear);
        for (&other, motion) in others.iter().zip(&back) {
            let [x, y] = pixel(size, motion.apply(p));
            let inside =
                x > -0.5 && y > -0.5 && x < size.width as f32 - 0.5 && y < size.height as f32 - 0.5;
            if inside {
                for (values, plane) in seen.iter_mut().zip(&moving.rgb[other]) {
                    values.push(plane.sample(x, y));
                }
            }
        }
        if seen[0].len() < 3 {
            continue;
        }
        let here = [0, 1, 2].map(|c| moving.rgb[frame][c].values[i]);
        let rest = [0, 1, 2].map(|c| median(&mut seen[c]));
        *is_foreground = differs(here, rest);
    }
    mask
}

/// The motion from a frame with `to_first` = `a` into one with `to_first` = `b`.
fn relative(a: Motion, b: Motion) -> Motion {
    let grow = (1.0 + a.zoom) / (1.0 + b.zoom);
    Motion {
        dx: (a.dx - b.dx) / (1.0 + b.zoom),
        dy: (a.dy - b.dy) / (1.0 + b.zoom),
        zoom: grow - 1.0,
    }
}

fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// Unlike the background, and not merely its shadow: the same colour, somewhat darker.
fn differs(here: [f32; 3], rest: [f32; 3]) -> bool {
    let far = (0..3).any(|c| (here[c] - rest[c]).abs() > CONTRAST);
    let ratio = [0, 1, 2].map(|c| (here[c] + 0.02) / (rest[c] + 0.02));
    let (low, high) = (
        ratio.iter().fold(9.0f32, |m, &r| m.min(r)),
        ratio.iter().fold(0.0f32, |m, &r| m.max(r)),
    );
    let shadow = low > 0.4 && high < 1.0 && high - low < 0.12;
    far && !shadow
}

/// Four-connected components of the mask that are large enough.
fn components(mask: &[bool], rgb: &[Plane; 3], to_first: Motion) -> Vec<Blob> {
    let size = rgb[0].size;
    let mut seen = vec![false; mask.len()];
    let mut found = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || seen[start] {
            continue;
        }
        let members = flood(mask, &mut seen, start, size);
        let area = members.len() as f32 / mask.len() as f32;
        if area >= SMALLEST {
            found.push(measure(&members, rgb, to_first, area));
        }
    }
    found
}

fn flood(mask: &[bool], seen: &mut [bool], start: usize, size: PixelSize) -> Vec<usize> {
    let (w, mut stack, mut members) = (size.width, vec![start], Vec::new());
    seen[start] = true;
    while let Some(i) = stack.pop() {
        members.push(i);
        let (x, y) = (i % w, i / w);
        let neighbours = [
            (x > 0).then(|| i - 1),
            (x + 1 < w).then(|| i + 1),
            (y > 0).then(|| i - w),
            (y + 1 < size.height).then(|| i + w),
        ];
        for next in neighbours.into_iter().flatten() {
            if mask[next] && !seen[next] {
                seen[next] = true;
                stack.push(next);
            }
        }
    }
    members
}

fn measure(members: &[usize], rgb: &[Plane; 3], to_first: Motion, area: f32) -> Blob {
    let size = rgb[0].size;
    let n = members.len() as f32;
    let (mut at, mut colour, mut rows) =
        ([0.0f32; 2], [0.0f32; 3], Vec::with_capacity(members.len()));
    for &i in members {
        let p = place(size, [(i % size.width) as f32, (i / size.width) as f32]);
        at = [at[0] + p[0] / n, at[1] + p[1] / n];
        rows.push(p[1]);
        for c in 0..3 {
            colour[c] += rgb[c].values[i] / n;
        }
    }
    // The 95th percentile, not the last row: one stray pixel must not move the bottom.
    let low = rows.len() * 95 / 100;
    let bottom = *rows.select_nth_unstable_by(low, f32::total_cmp).1;
    Blob {
        at: to_first.apply(at),
        bottom: to_first.apply([at[0], bottom])[1],
        area,
        colour,
    }
}

/// Joins blobs of successive frames into paths of at least a quarter of a second.
pub fn paths(blobs: &[Vec<Blob>]) -> Vec<Path> {
    let mut open: Vec<Path> = Vec::new();
    let mut done: Vec<Path> = Vec::new();
    for (frame, found) in blobs.iter().enumerate() {
        let (live, ended): (Vec<Path>, Vec<Path>) = open
            .into_iter()
            .partition(|p| p.last().is_some_and(|(f, _)| frame - f <= 2));
        done.extend(ended);
        open = live;
        let mut free: Vec<Blob> = found.clone();
        open.sort_by_key(|path| std::cmp::Reverse(path.len()));
        for path in &mut open {
            if let Some(blob) = take_nearest(path, &mut free, frame) {
                path.push((frame, blob));
            }
        }
        open.extend(free.into_iter().map(|blob| vec![(frame, blob)]));
    }
    done.extend(open);
    done.retain(|path| path.len() >= FPS / 4);
    done
}

/// Takes out of `free` the blob nearest to where `path` should be at `frame`.
fn take_nearest(path: &Path, free: &mut Vec<Blob>, frame: usize) -> Option<Blob> {
    let &(last, blob) = path.last()?;
    let velocity = match path.len() {
        0 | 1 => [0.0, 0.0],
        n => {
            let (f, b) = path[n - 2];
            [0, 1].map(|k| (blob.at[k] - b.at[k]) / (last - f) as f32)
        }
    };
    let expected = [0, 1].map(|k| blob.at[k] + 0.5 * velocity[k] * (frame - last) as f32);
    let distance = |b: &Blob| {
        let place = (b.at[0] - expected[0]).hypot(b.at[1] - expected[1]);
        let size = (b.area / blob.area).ln().abs() * 0.02;
        place + size
    };
    let (index, nearest) = free
        .iter()
        .map(&distance)
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    (nearest < FARTHEST).then(|| free.swap_remove(index))
}
