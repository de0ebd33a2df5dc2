//! How the camera moves, from the pixels alone.

use gallop_core::{Clip, PixelSize};

use crate::plane::{Plane, luma, shrink};

/// Pixels of the longer side of the planes that motion is measured on.
pub const LONG_SIDE: usize = 128;
/// What a motion must gain in mean luma difference for each longer side that it moves.
const COST: f32 = 0.02;

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
    pub fn behind(rgb: Vec<[Plane; 3]>, counts: impl Fn(usize, [f32; 2]) -> bool) -> Self {
        let grey: Vec<Plane> = rgb.iter().map(luma).collect();
        let mut steps = vec![Motion::default(); rgb.len().min(1)];
        for frame in 1..grey.len() {
            let guess = steps[frame - 1];
            let points = Points::new(&grey[frame - 1], &grey[frame], |at| counts(frame, at));
            steps.push(points.motion(guess));
        }
        let mut to_first: Vec<Motion> = Vec::with_capacity(steps.len());
        for &step in &steps {
            let all = to_first.last().map_or(step, |&before| step.then(before));
            to_first.push(all);
        }
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

/// Two frames and the points of the later one that are compared.
struct Points<'a> {
    before: &'a Plane,
    now: &'a Plane,
    /// Index and place of each point.
    at: Vec<(usize, [f32; 2])>,
}

impl<'a> Points<'a> {
    /// Every second pixel that counts.
    fn new(before: &'a Plane, now: &'a Plane, counts: impl Fn([f32; 2]) -> bool) -> Self {
        let size = now.size;
        let mut at = Vec::with_capacity(now.values.len() / 2);
        for y in 0..size.height {
            for x in (y % 2..size.width).step_by(2) {
                let pixel = [x as f32, y as f32];
                if counts(pixel) {
                    at.push((y * size.width + x, place(size, pixel)));
                }
            }
        }
        Self { before, now, at }
    }

    /// The motion from `now` back to `before`: robust Gauss-Newton on the luma (Lucas & Kanade
    /// 1981, with Tukey's weights so that moving objects do not count), from `guess` and from rest.
    ///
    /// Where a featureless background would let a lone object pass for the camera's motion, rest
    /// is preferred: motion must explain what rest does not.
    fn motion(&self, guess: Motion) -> Motion {
        let follow = |start: Motion| {
            let mut motion = start;
            for scale in [0.25, 0.1, 0.05] {
                for _ in 0..2 {
                    motion = self.improve(motion, scale);
                }
            }
            motion
        };
        let cost =
            |m: Motion| self.misfit(m) + COST * m.parts().iter().map(|v| v.abs()).sum::<f32>();
        [Motion::default(), follow(Motion::default()), follow(guess)]
            .into_iter()
            .min_by(|&a, &b| cost(a).total_cmp(&cost(b)))
            .unwrap_or_default()
    }

    /// Mean absolute difference after the motion, the worst third left out.
    fn misfit(&self, motion: Motion) -> f32 {
        let mut errors: Vec<f32> = self
            .at
            .iter()
            .map(|&(i, p)| {
                let [x, y] = pixel(self.now.size, motion.apply(p));
                (self.before.sample(x, y) - self.now.values[i]).abs()
            })
            .collect();
        if errors.is_empty() {
            return 0.0;
        }
        let kept = (errors.len() * 2 / 3).max(1);
        errors.select_nth_unstable_by(kept - 1, f32::total_cmp);
        errors[..kept].iter().sum::<f32>() / kept as f32
    }

    /// One Gauss-Newton step; differences above `scale` have no weight.
    fn improve(&self, motion: Motion, scale: f32) -> Motion {
        let size = self.now.size;
        let mut normal = [[0.0f64; 4]; 4];
        let mut right = [0.0f64; 4];
        let long = size.width.max(size.height) as f32;
        for &(i, p) in &self.at {
            let [x, y] = pixel(size, motion.apply(p));
            if x < 0.0 || y < 0.0 || x > (size.width - 1) as f32 || y > (size.height - 1) as f32 {
                continue;
            }
            let b = self.before;
            let error = b.sample(x, y) - self.now.values[i];
            let weight = (1.0 - (error / scale).powi(2)).max(0.0).powi(2);
            if weight == 0.0 {
                continue;
            }
            let gx = 0.5 * (b.sample(x + 1.0, y) - b.sample(x - 1.0, y)) * long;
            let gy = 0.5 * (b.sample(x, y + 1.0) - b.sample(x, y - 1.0)) * long;
            let row = [gx, gy, gx * p[0] + gy * p[1], gx * p[1]].map(f64::from);
            for a in 0..4 {
                for b in a..4 {
                    normal[a][b] += f64::from(weight) * row[a] * row[b];
                }
                right[a] -= f64::from(weight * error) * row[a];
            }
        }
        for a in 0..4 {
            for b in 0..a {
                normal[a][b] = normal[b][a];
            }
            normal[a][a] += 1e-3;
        }
        let by = solve(normal, right).map(|v| v as f32);
        Motion {
            dx: (motion.dx + by[0]).clamp(-0.3, 0.3),
            dy: (motion.dy + by[1]).clamp(-0.3, 0.3),
            zoom: (motion.zoom + by[2]).clamp(-0.2, 0.2),
            lean: (motion.lean + by[3]).clamp(-0.2, 0.2),
        }
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
