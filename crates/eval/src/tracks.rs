//! What is found in each frame, followed through the clip.

use gallop_core::{FPS, PixelSize};

use crate::finder::Found;
use crate::motion::{Motion, place};

/// A thing moves at most this far between frames (longer sides), or it is another one.
const FARTHEST: f32 = 0.14;
/// Frames that a thing may be hidden for.
const HIDDEN: usize = 4;
/// Things are followed only if they are at least this sure.
const SURE: f32 = 0.3;

/// One thing in one frame; lengths in longer sides of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    /// Middle, from the middle of the picture of frame 0, the camera's motion taken out.
    pub at: [f32; 2],
    /// Middle, from the middle of its own picture.
    pub seen: [f32; 2],
    /// Half its width and height.
    pub half: [f32; 2],
    /// How sure, 0 to 1.
    pub score: f32,
}

/// One thing through time: frame index and place, frames ascending.
pub type Path = Vec<(usize, Spot)>;

/// Joins what is found in successive frames (small pictures of `size`) into paths of at least a
/// quarter of a second, the longest first.
pub fn paths(found: &[Vec<Found>], to_first: &[Motion], size: PixelSize) -> Vec<Path> {
    let mut open: Vec<Path> = Vec::new();
    let mut done: Vec<Path> = Vec::new();
    for (frame, found) in found.iter().enumerate() {
        let spots: Vec<Spot> = found
            .iter()
            .filter(|f| f.score >= SURE)
            .map(|f| spot(f, to_first[frame], size))
            .collect();
        let (live, ended): (Vec<Path>, Vec<Path>) = open
            .into_iter()
            .partition(|p| p.last().is_some_and(|(f, _)| frame - f <= HIDDEN));
        done.extend(ended);
        open = live;
        let mut free = vec![true; spots.len()];
        for (path, next) in assign(&open, &spots, frame) {
            open[path].push((frame, spots[next]));
            free[next] = false;
        }
        let begun = spots.iter().zip(free).filter(|(_, free)| *free);
        open.extend(begun.map(|(spot, _)| vec![(frame, *spot)]));
    }
    done.extend(open);
    done.retain(|path| path.len() >= FPS / 4);
    done.sort_by_key(|path| std::cmp::Reverse(path.len()));
    done
}

fn spot(found: &Found, to_first: Motion, size: PixelSize) -> Spot {
    let long = size.width.max(size.height) as f32;
    // Pixel centres lie at whole numbers there, at halves here.
    let seen = place(size, found.at.map(|v| v - 0.5));
    Spot {
        at: to_first.apply(seen),
        seen,
        half: found.half.map(|r| r / long),
        score: found.score,
    }
}

/// Pairs paths and spots, the nearest first.
fn assign(paths: &[Path], spots: &[Spot], frame: usize) -> Vec<(usize, usize)> {
    let mut candidates: Vec<(f32, usize, usize)> = Vec::new();
    for (p, path) in paths.iter().enumerate() {
        for (s, spot) in spots.iter().enumerate() {
            let far = misfit(path, spot, frame);
            if far < FARTHEST {
                candidates.push((far, p, s));
            }
        }
    }
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut used_p, mut used_s) = (vec![false; paths.len()], vec![false; spots.len()]);
    candidates.retain(|&(_, p, s)| {
        let fresh = !used_p[p] && !used_s[s];
        used_p[p] |= fresh;
        used_s[s] |= fresh;
        fresh
    });
    candidates.into_iter().map(|(_, p, s)| (p, s)).collect()
}

/// How far `spot` is from where `path` should be at `frame`, unlike sizes counting as far.
fn misfit(path: &Path, spot: &Spot, frame: usize) -> f32 {
    let Some(&(last, before)) = path.last() else {
        return f32::MAX;
    };
    let velocity = match path.len() {
        0 | 1 => [0.0, 0.0],
        n => {
            let (f, b) = path[n - 2];
            [0, 1].map(|k| (before.at[k] - b.at[k]) / (last - f) as f32)
        }
    };
    // Half of the way that it was going: it may have turned back.
    let expected = [0, 1].map(|k| before.at[k] + 0.5 * velocity[k] * (frame - last) as f32);
    let size = (spot.half[0] * spot.half[1] / (before.half[0] * before.half[1])).ln();
    (spot.at[0] - expected[0]).hypot(spot.at[1] - expected[1]) + 0.02 * size.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_things_that_pass_each_other_stay_two() {
        let size = PixelSize::new(128, 80);
        let found: Vec<Vec<Found>> = (0..40)
            .map(|f| {
                let one = |x: f32, y: f32| Found {
                    at: [x, y],
                    half: [6.0, 6.0],
                    score: 0.9,
                };
                let t = f as f32;
                let mut both = vec![one(10.0 + 2.5 * t, 30.0), one(115.0 - 2.5 * t, 52.0)];
                if f % 7 == 3 {
                    both.swap_remove(0);
                }
                both
            })
            .collect();
        let paths = paths(&found, &vec![Motion::default(); 40], size);
        assert_eq!(paths.len(), 2);
        for path in &paths {
            let heights: Vec<f32> = path.iter().map(|(_, s)| s.seen[1]).collect();
            assert!(heights.windows(2).all(|w| w[0] == w[1]));
        }
        let (first, last) = (paths[0][0].1, paths[0][paths[0].len() - 1].1);
        assert!((last.at[0] - first.at[0]).abs() > 0.6);
    }
}
