//! When something is seen to strike: a path that comes down and turns back. What touches softly has touched before.
//! Balls fall on floors, mallets on instruments.

use gallop_core::FPS;

use crate::tracks::Path;

/// Least fall before and rise after, in longer sides of the picture over two frames: of a ball, and of a mallet, which
/// trembles where it is drawn unsurely.
const LEAST: f32 = 0.008;
const LEAST_STROKE: f32 = 0.02;

/// Something seen to hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impact {
    /// Seconds.
    pub time: f64,
    /// Speed of the turn, in longer sides a second.
    pub speed: f32,
}

/// Impacts of all paths, in order; two within 60 ms count once.
pub fn impacts(paths: &[Path]) -> Vec<Impact> {
    // The middle is steadier than the edge; the turn is the same.
    in_order(paths, |path| {
        let y: Vec<f32> = path.iter().map(|(_, b)| b.at[1]).collect();
        turns(path, &y, (free_fall(&y), LEAST))
    })
}

/// Strokes of mallets that follow the paths and fall in the direction `fall`; as [`impacts`].
pub fn strokes(paths: &[Path], fall: [f64; 2]) -> Vec<Impact> {
    let [right, down] = fall.map(|v| v as f32);
    in_order(paths, |path| {
        let along = path.iter().map(|(_, b)| right * b.at[0] + down * b.at[1]);
        // It is swung, and as fast where it touches.
        turns(path, &along.collect::<Vec<_>>(), (0.0, LEAST_STROKE))
    })
}

fn in_order(paths: &[Path], turns: impl Fn(&Path) -> Vec<Impact>) -> Vec<Impact> {
    let mut all: Vec<Impact> = paths.iter().flat_map(turns).collect();
    all.sort_by(|a, b| a.time.total_cmp(&b.time));
    all.dedup_by(|b, a| b.time - a.time < 0.06);
    all
}

/// Where what follows a path turns from falling to rising: `y` is how far it has fallen in each of its frames. With the
/// acceleration in flight, and the least fall and rise.
fn turns(path: &Path, y: &[f32], (bend, least): (f32, f32)) -> Vec<Impact> {
    (2..y.len().saturating_sub(2))
        .filter(|&i| {
            let lowest =
                y[i] >= y[i - 1] && y[i] > y[i + 1] && y[i] >= y[i - 2] && y[i] >= y[i + 2];
            let consecutive = path[i + 2].0 - path[i - 2].0 == 4;
            lowest && consecutive && y[i] - y[i - 2] > least && y[i] - y[i + 2] > least
        })
        .map(|i| Impact {
            time: (path[i].0 as f64 + crossing(y, i, bend)) / FPS as f64,
            speed: ((y[i] - y[i - 2]) + (y[i] - y[i + 2])) * FPS as f32 / 2.0,
        })
        .collect()
}

/// Acceleration in flight, per frame squared: the median second difference.
fn free_fall(y: &[f32]) -> f32 {
    let mut second: Vec<f32> = y.windows(3).map(|w| w[2] - 2.0 * w[1] + w[0]).collect();
    if second.is_empty() {
        return 0.0;
    }
    let middle = second.len() / 2;
    second
        .select_nth_unstable_by(middle, f32::total_cmp)
        .1
        .max(0.0)
}

/// Where, in frames from `i`, the flight before and the flight after meet.
///
/// Both are continued by the two frames next to the turn and the acceleration `bend`; the turn's
/// own frame is left out, as the object may be squashed in it.
fn crossing(y: &[f32], i: usize, bend: f32) -> f64 {
    let extend = |near: f32, far: f32, u: f32| {
        // Through (0, near) and (-1, far), u frames on.
        let slope = near - far + 0.5 * bend;
        near + slope * u + 0.5 * bend * u * u
    };
    let before = |t: f32| extend(y[i - 1], y[i - 2], t + 1.0);
    let after = |t: f32| extend(y[i + 1], y[i + 2], 1.0 - t);
    (-100..=100)
        .map(|k| k as f32 / 100.0)
        .min_by(|&a, &b| {
            (before(a) - after(a))
                .abs()
                .total_cmp(&(before(b) - after(b)).abs())
        })
        .map_or(0.0, f64::from)
}

/// How well the falls of a path are falls: over each stretch between turns, the share of the
/// height's variance that a parabola with one downward acceleration explains (R squared).
///
/// `None` where no stretch is long enough to say.
pub fn gravity_fit(paths: &[Path]) -> Option<f64> {
    let mut fits = Vec::new();
    for path in paths {
        let y: Vec<f64> = path.iter().map(|(_, b)| f64::from(b.at[1])).collect();
        let turns: Vec<usize> = (1..y.len().saturating_sub(1))
            .filter(|&i| y[i] >= y[i - 1] && y[i] > y[i + 1])
            .collect();
        let mut edges = vec![0];
        edges.extend(turns);
        edges.push(y.len().saturating_sub(1));
        for pair in edges.windows(2) {
            // The frames at the turn are squashed or cut; the flight is what lies between.
            let flight = &y[(pair[0] + 1).min(pair[1])..pair[1]];
            fits.extend(parabola_r2(flight));
        }
    }
    (!fits.is_empty()).then(|| fits.iter().sum::<f64>() / fits.len() as f64)
}

/// R squared of the best parabola that opens the way falling does; `None` below seven points or
/// where nothing moves.
fn parabola_r2(y: &[f64]) -> Option<f64> {
    let n = y.len();
    if n < 7 {
        return None;
    }
    let mean = y.iter().sum::<f64>() / n as f64;
    let total: f64 = y.iter().map(|v| (v - mean).powi(2)).sum();
    if total / (n as f64) < 1e-5 {
        return None;
    }
    // Orthogonal basis on equally spaced points: 1, t, t^2 - mean(t^2).
    let t: Vec<f64> = (0..n).map(|i| i as f64 - (n - 1) as f64 / 2.0).collect();
    let square = t.iter().map(|t| t * t).sum::<f64>() / n as f64;
    let along = |basis: &dyn Fn(f64) -> f64| {
        let dot: f64 = t.iter().zip(y).map(|(&t, y)| basis(t) * y).sum();
        let norm: f64 = t.iter().map(|&t| basis(t).powi(2)).sum();
        (dot / norm, norm)
    };
    let (slope, slope_norm) = along(&|t| t);
    let (bend, bend_norm) = along(&|t| t * t - square);
    let explained = slope * slope * slope_norm + bend.max(0.0).powi(2) * bend_norm;
    Some((explained / total).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracks::Spot;

    /// A ball that falls from rest, bounces at `times` seconds; a height a frame.
    fn bounce(first: f64, restitution: f64, frames: usize) -> (Path, Vec<f64>) {
        let g = 2.0;
        let mut times = vec![first];
        let mut speed = g * first;
        while times.last().unwrap() + 2.0 * speed * restitution / g < frames as f64 / FPS as f64 {
            speed *= restitution;
            times.push(times.last().unwrap() + 2.0 * speed / g);
        }
        let height = |t: f64| {
            let mut v = g * first * restitution;
            if t < first {
                return 0.5 * g * (first * first - t * t);
            }
            for pair in times.windows(2) {
                if t < pair[1] {
                    return v * (t - pair[0]) - 0.5 * g * (t - pair[0]).powi(2);
                }
                v *= restitution;
            }
            let u = t - times.last().unwrap();
            v * u - 0.5 * g * u * u
        };
        let path = (0..frames)
            .map(|f| {
                let y = 0.2 - height(f as f64 / FPS as f64) as f32;
                let spot = Spot {
                    at: [0.0, y],
                    seen: [0.0, y],
                    half: [0.05, 0.05],
                    score: 1.0,
                };
                (f, spot)
            })
            .collect();
        (path, times)
    }

    #[test]
    fn bounces_are_placed_between_the_frames() {
        for first in [0.41, 0.5, 0.533] {
            let (path, times) = bounce(first, 0.85, 48);
            let found = impacts(&[path]);
            for time in times.iter().filter(|t| **t < 1.8) {
                let error = found
                    .iter()
                    .map(|i| (i.time - time).abs())
                    .fold(1.0, f64::min);
                assert!(error < 0.006, "{time}: {error}, {found:?}");
            }
            assert!(found.len() <= times.len(), "{found:?} {times:?}");
        }
    }

    /// A mallet that falls towards the lower left and springs back, as the world's do.
    #[test]
    fn strokes_are_where_a_mallet_turns_back() {
        let times = [0.41, 0.9, 1.31];
        let fall = [-0.8f64, 0.6];
        let path: Path = (0..40)
            .map(|f| {
                let t = f as f64 / FPS as f64;
                let swing = |apart: f64, length: f64| {
                    (0.5 * std::f64::consts::PI * (apart / length).min(1.0)).sin()
                };
                let lift = times
                    .iter()
                    .map(|s| match t < *s {
                        true => swing(s - t, 0.17),
                        false => swing(t - s, 0.20),
                    })
                    .fold(0.85, f64::min);
                let at = fall.map(|v| (-0.12 * lift * v) as f32);
                let spot = Spot {
                    at,
                    seen: at,
                    half: [0.02; 2],
                    score: 1.0,
                };
                (f, spot)
            })
            .collect();
        let found = strokes(std::slice::from_ref(&path), fall);
        assert_eq!(found.len(), times.len(), "{found:?}");
        for (stroke, time) in found.iter().zip(times) {
            assert!((stroke.time - time).abs() < 0.008, "{stroke:?} for {time}");
        }
        // Raised again in between, it turns the other way.
        assert!(strokes(&[path], fall.map(|v| -v)).is_empty());
    }

    #[test]
    fn flights_fit_gravity_and_floating_does_not() {
        let (path, _) = bounce(0.5, 0.8, 40);
        assert!(gravity_fit(std::slice::from_ref(&path)).unwrap() > 0.99);
        let floating: Path = path
            .into_iter()
            .map(|(f, b)| {
                let at = [0.0, 0.1 * (f as f32 * 1.3).sin() * (f as f32 * 0.7).cos()];
                (f, Spot { at, ..b })
            })
            .collect();
        assert!(gravity_fit(&[floating]).is_none_or(|r| r < 0.9));
    }
}
