//! How the camera moves, from the pixels alone.

use gallop_core::{Clip, PixelSize};

use crate::plane::{Plane, luma, shrink};

/// Pixels of the longer side of the planes that motion is measured on.
pub const LONG_SIDE: usize = 128;
/// What speaks for rest: as much as so many luma steps a longer side, squared.
const REST: f64 = 60.0;
/// Frames that are compared with the same one.
const KEYS: usize = 8;

/// A camera's movement between two frames: where a point seen at `p` (fractions of the longer
/// side from the middle of the picture) was in the frame before is
/// `p * (1 + zoom) + (dx + lean * p.y, dy)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Motion {
    /// Shift to the right, in longer sides.
    pub dx: f32,
    /// Shift downwards, in longer sides.
    pub dy: f32,
    /// Relative growth of the source picture; negative when the camera pushes in.
    pub zoom: f32,
    /// How much more the lower part shifts than the upper: the ground is nearer than what lies behind.
    pub lean: f32,
}

impl Motion {
    /// Where `p` was.
    pub fn apply(self, p: [f32; 2]) -> [f32; 2] {
        [
            p[0] * (1.0 + self.zoom) + self.lean * p[1] + self.dx,
            p[1] * (1.0 + self.zoom) + self.dy,
        ]
    }

    /// First `self`, then `next`: from frame 2 to 1, then from 1 to 0.
    pub fn then(self, next: Motion) -> Motion {
        let [dx, dy] = next.apply([self.dx, self.dy]);
        Motion {
            dx,
            dy,
            zoom: (1.0 + self.zoom) * (1.0 + next.zoom) - 1.0,
            lean: (1.0 + next.zoom) * self.lean + next.lean * (1.0 + self.zoom),
        }
    }

    /// The motion from `from` back to `self`, both leading back to the same picture.
    fn back_from(self, from: Motion) -> Motion {
        let grow = 1.0 / (1.0 + self.zoom);
        let (dx, dy) = (from.dx - self.dx, grow * (from.dy - self.dy));
        let lean = grow * (from.lean - self.lean * (1.0 + from.zoom) * grow);
        Motion {
            dx: grow * (dx - self.lean * dy),
            dy,
            zoom: (1.0 + from.zoom) * grow - 1.0,
            lean,
        }
    }

    /// The motion's four numbers.
    pub fn parts(self) -> [f32; 4] {
        [self.dx, self.dy, self.zoom, self.lean]
    }
}

/// A clip as small planes, and how its camera moves.
pub struct Moving {
    /// Red, green and blue of every frame.
    pub rgb: Vec<[Plane; 3]>,
    /// Entry `i` leads from frame `i` back to frame `i - 1`; the first is no motion.
    pub steps: Vec<Motion>,
    /// Entry `i` leads from frame `i` back to frame 0.
    pub to_first: Vec<Motion>,
}

impl Moving {
    /// Shrinks the clip's frames and follows its camera.
    pub fn new(clip: &Clip) -> Self {
        Self::behind(small_frames(clip), |_, _| true)
    }

    /// Follows the camera by those pixels of the small frames for which `counts` (frame, place in
    /// pixels) is true: what moves by itself should not.
    ///
    /// Every frame is compared with one some frames before it, the same for several, so that slow
    /// motion shows and errors do not add up.
    pub fn behind(rgb: Vec<[Plane; 3]>, counts: impl Fn(usize, [f32; 2]) -> bool) -> Self {
        let grey: Vec<Plane> = rgb.iter().map(luma).collect();
        let mut to_first = vec![Motion::default(); rgb.len().min(1)];
        let (mut key, mut levels) = (0, grey.first().map(Levels::new));
        let mut guess = Motion::default();
        for (frame, now) in grey.iter().enumerate().skip(1) {
            if frame - key > KEYS {
                key = frame - KEYS / 2;
                levels = Some(Levels::new(&grey[key]));
                // Where the last frame is, as seen from the new key.
                guess = to_first[key].back_from(to_first[frame - 1]);
            }
            if let Some(levels) = &levels {
                guess = levels.follow(now, |at| counts(frame, at) && counts(key, at), guess);
            }
            to_first.push(guess.then(to_first[key]));
        }
        let mut steps = vec![Motion::default(); rgb.len().min(1)];
        steps.extend(to_first.windows(2).map(|w| w[0].back_from(w[1])));
        Self {
            rgb,
            steps,
            to_first,
        }
    }
}

/// Every frame at the size that motion is measured at.
pub fn small_frames(clip: &Clip) -> Vec<[Plane; 3]> {
    clip.frames
        .iter()
        .map(|f| shrink(f, small(f.size)))
        .collect()
}

/// The size at which motion is measured, of the same ratio as `full`.
pub fn small(full: PixelSize) -> PixelSize {
    let long = full.width.max(full.height).max(1);
    let side = |s: usize| (s * LONG_SIDE / long).clamp(8.min(s), s.max(1));
    PixelSize::new(side(full.width), side(full.height))
}

/// A frame that others are compared with: blurred and as it is, each with its slopes.
struct Levels([Slopes; 2]);

/// A plane and its slopes, a longer side.
struct Slopes {
    plane: Plane,
    across: Plane,
    down: Plane,
}

impl Slopes {
    fn new(plane: Plane) -> Self {
        let size = plane.size;
        let long = size.width.max(size.height) as f32;
        let slope = |dx: usize, dy: usize| {
            let values = (0..plane.values.len()).map(|i| {
                let (x, y) = (i % size.width, i / size.width);
                let at = |x: usize, y: usize| {
                    plane.values[y.min(size.height - 1) * size.width + x.min(size.width - 1)]
                };
                let before = at(x.saturating_sub(dx), y.saturating_sub(dy));
                0.5 * long * (at(x + dx, y + dy) - before)
            });
            let values = values.collect();
            Plane { size, values }
        };
        Self {
            across: slope(1, 0),
            down: slope(0, 1),
            plane,
        }
    }
}

impl Levels {
    fn new(key: &Plane) -> Self {
        Self([Slopes::new(blurred(key)), Slopes::new(key.clone())])
    }

    /// The motion from `now` back to the key: robust Gauss-Newton on the luma (Lucas & Kanade
    /// 1981, with Tukey's weights), coarse to fine, from `guess`.
    fn follow(&self, now: &Plane, counts: impl Fn([f32; 2]) -> bool, guess: Motion) -> Motion {
        let points = points(now.size, counts);
        let soft = blurred(now);
        let mut motion = guess;
        for (apart, scale) in [(3, 0.3), (3, 0.2), (3, 0.1)] {
            motion = improve(&self.0[0], &soft, (&points, apart), (motion, scale));
        }
        for scale in [0.15, 0.1, 0.06] {
            motion = improve(&self.0[1], now, (&points, 1), (motion, scale));
        }
        motion
    }
}

/// The mean of the pixels up to two away.
fn blurred(plane: &Plane) -> Plane {
    let (w, h) = (plane.size.width, plane.size.height);
    let run = |values: &[f32], count: usize, lines: usize, (step, line): (usize, usize)| {
        let mut out = vec![0.0; values.len()];
        for l in 0..lines {
            for i in 0..count {
                let near = i.saturating_sub(2)..(i + 3).min(count);
                let n = near.len() as f32;
                let sum: f32 = near.map(|k| values[l * line + k * step]).sum();
                out[l * line + i * step] = sum / n;
            }
        }
        out
    };
    let rows = run(&plane.values, w, h, (1, w));
    Plane {
        size: plane.size,
        values: run(&rows, h, w, (w, 1)),
    }
}

/// Index and place of every second pixel that counts.
fn points(size: PixelSize, counts: impl Fn([f32; 2]) -> bool) -> Vec<(usize, [f32; 2])> {
    let mut at = Vec::with_capacity(size.width * size.height / 2);
    for y in 0..size.height {
        for x in (y % 2..size.width).step_by(2) {
            let pixel = [x as f32, y as f32];
            if counts(pixel) {
                at.push((y * size.width + x, place(size, pixel)));
            }
        }
    }
    at
}

/// One Gauss-Newton step by every `apart`th point; differences above `scale` have no weight.
fn improve(
    key: &Slopes,
    now: &Plane,
    (points, apart): (&[(usize, [f32; 2])], usize),
    (motion, scale): (Motion, f32),
) -> Motion {
    let size = now.size;
    let edge = [size.width, size.height].map(|s| (s - 1) as f32);
    let mut normal = [[0.0f64; 4]; 4];
    let mut right = [0.0f64; 4];
    for &(i, p) in points.iter().step_by(apart) {
        let [x, y] = pixel(size, motion.apply(p));
        if x < 0.0 || y < 0.0 || x > edge[0] || y > edge[1] {
            continue;
        }
        let error = key.plane.sample(x, y) - now.values[i];
        let weight = (1.0 - (error / scale).powi(2)).max(0.0).powi(2);
        if weight == 0.0 {
            continue;
        }
        let (gx, gy) = (key.across.sample(x, y), key.down.sample(x, y));
        let row = [gx, gy, gx * p[0] + gy * p[1], gx * p[1]];
        for a in 0..4 {
            for b in a..4 {
                normal[a][b] += f64::from(weight * row[a] * row[b]);
            }
            right[a] -= f64::from(weight * error * row[a]);
        }
    }
    let upper = normal;
    for a in 0..4 {
        for (b, row) in upper.iter().enumerate().take(a) {
            normal[a][b] = row[a];
        }
        // Where a featureless picture says nothing, rest.
        normal[a][a] += REST;
        right[a] -= REST * f64::from(motion.parts()[a]);
    }
    let by = solve(normal, right).map(|v| v as f32);
    Motion {
        dx: (motion.dx + by[0]).clamp(-0.4, 0.4),
        dy: (motion.dy + by[1]).clamp(-0.4, 0.4),
        zoom: (motion.zoom + by[2]).clamp(-0.3, 0.3),
        lean: (motion.lean + by[3]).clamp(-0.3, 0.3),
    }
}

/// Pixel -> fractions of the longer side from the middle.
pub fn place(size: PixelSize, [x, y]: [f32; 2]) -> [f32; 2] {
    let long = size.width.max(size.height) as f32;
    [
        (x - 0.5 * (size.width as f32 - 1.0)) / long,
        (y - 0.5 * (size.height as f32 - 1.0)) / long,
    ]
}

/// The inverse of [`place`].
pub fn pixel(size: PixelSize, [x, y]: [f32; 2]) -> [f32; 2] {
    let long = size.width.max(size.height) as f32;
    [
        x * long + 0.5 * (size.width as f32 - 1.0),
        y * long + 0.5 * (size.height as f32 - 1.0),
    ]
}

/// Solves a symmetric positive definite system by elimination.
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    for k in 0..N {
        let pivot = a[k];
        for row in k + 1..N {
            let factor = a[row][k] / pivot[k];
            for (value, above) in a[row].iter_mut().zip(pivot) {
                *value -= factor * above;
            }
            b[row] -= factor * b[k];
        }
    }
    for k in (0..N).rev() {
        let known: f64 = (k + 1..N).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::Frame;

    #[test]
    fn motions_are_undone() {
        let a = Motion {
            dx: 0.1,
            dy: -0.05,
            zoom: 0.2,
            lean: 0.07,
        };
        let b = Motion {
            dx: -0.03,
            dy: 0.08,
            zoom: -0.1,
            lean: 0.02,
        };
        // b, seen from a, and then a: b again.
        let again = a.back_from(b).then(a);
        for (x, y) in again.parts().iter().zip(b.parts()) {
            assert!((x - y).abs() < 1e-6, "{again:?}");
        }
    }

    /// A smooth pattern seen by a camera at (`x`, `y`) with magnification `m`.
    fn seen(x: f32, y: f32, m: f32) -> Frame {
        let size = PixelSize::new(224, 128);
        let mut frame = Frame::black(size);
        for row in 0..size.height {
            for column in 0..size.width {
                let p = place(size, [column as f32, row as f32]);
                let (u, v) = (p[0] / m + x, p[1] / m + y);
                let value = 0.5
                    + 0.2 * (u * 21.0).sin() * (v * 17.0).cos()
                    + 0.2 * (u * 9.0 + v * 13.0).sin();
                let i = (row * size.width + column) * 3;
                frame.rgb[i..i + 3].fill((value * 255.0) as u8);
            }
        }
        frame
    }

    #[test]
    fn pans_and_zooms_are_followed() {
        let frames = (0..13)
            .map(|i| seen(i as f32 * 0.01, i as f32 * -0.002, 1.0 + 0.01 * i as f32))
            .collect();
        let moving = Moving::new(&Clip {
            frames,
            audio: None,
        });
        let last = moving.to_first[12];
        // A point at p in frame 12 lies at p / 1.12 + shift in the world, and so in frame 0.
        assert!((last.dx - 0.12).abs() < 0.003, "{last:?}");
        assert!((last.dy + 0.024).abs() < 0.003, "{last:?}");
        assert!((last.zoom - (1.0 / 1.12 - 1.0)).abs() < 0.006, "{last:?}");
    }

    #[test]
    fn a_still_camera_stays_still_whatever_crosses() {
        let frames = (0..8)
            .map(|i| {
                let mut frame = seen(0.0, 0.0, 1.0);
                for row in 30..70 {
                    for column in 20 + i * 12..60 + i * 12 {
                        let at = (row * frame.size.width + column) * 3;
                        frame.rgb[at..at + 3].copy_from_slice(&[250, 20, 20]);
                    }
                }
                frame
            })
            .collect();
        let moving = Moving::new(&Clip {
            frames,
            audio: None,
        });
        for step in moving.steps {
            assert!(
                step.dx.abs() < 0.002 && step.dy.abs() < 0.002 && step.zoom.abs() < 0.003,
                "{step:?}"
            );
        }
    }
}
