//! How the camera moves, from the pixels alone.

use gallop_core::{Clip, PixelSize};

use crate::plane::{Plane, luma, shrink};

/// Pixels of the longer side of the planes that motion is measured on.
const LONG_SIDE: usize = 96;
/// What a motion must gain in mean luma difference for each longer side that it moves.
const COST: f32 = 0.05;

/// A camera's movement between two frames: where a point seen at `p` (fractions of the longer
/// side from the middle of the picture) was in the frame before is `p * (1 + zoom) + (dx, dy)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Motion {
    /// Shift to the right, in longer sides.
    pub dx: f32,
    /// Shift downwards, in longer sides.
    pub dy: f32,
    /// Relative growth of the source picture; negative when the camera pushes in.
    pub zoom: f32,
}

impl Motion {
    /// Where `p` was.
    pub fn apply(self, p: [f32; 2]) -> [f32; 2] {
        [
            p[0] * (1.0 + self.zoom) + self.dx,
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
        }
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
        let rgb: Vec<[Plane; 3]> = clip
            .frames
            .iter()
            .map(|f| shrink(f, small(f.size)))
            .collect();
        let grey: Vec<Plane> = rgb.iter().map(luma).collect();
        let mut steps = vec![Motion::default(); rgb.len().min(1)];
        for pair in grey.windows(2) {
            let guess = steps.last().copied().unwrap_or_default();
            steps.push(between(&pair[0], &pair[1], guess));
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

/// The size at which motion is measured, of the same ratio as `full`.
pub fn small(full: PixelSize) -> PixelSize {
    let long = full.width.max(full.height).max(1);
    let side = |s: usize| (s * LONG_SIDE / long).clamp(8.min(s), s.max(1));
    PixelSize::new(side(full.width), side(full.height))
}

/// The motion from `now` back to `before`: robust Gauss-Newton on the luma (Lucas & Kanade 1981,
/// with Tukey's weights so that moving objects do not count), from `guess` and from rest.
///
/// Where a featureless background would let a lone object pass for the camera's motion, rest is
/// preferred: motion must explain what rest does not.
fn between(before: &Plane, now: &Plane, guess: Motion) -> Motion {
    let follow = |start: Motion| {
        let mut motion = start;
        for scale in [0.25, 0.1, 0.05] {
            for _ in 0..3 {
                motion = improve(before, now, motion, scale);
            }
        }
        motion
    };
    let cost = |m: Motion| misfit(before, now, m) + COST * (m.dx.abs() + m.dy.abs() + m.zoom.abs());
    [Motion::default(), follow(Motion::default()), follow(guess)]
        .into_iter()
        .min_by(|&a, &b| cost(a).total_cmp(&cost(b)))
        .unwrap_or_default()
}

/// Mean absolute difference after the motion, the worst third left out.
fn misfit(before: &Plane, now: &Plane, motion: Motion) -> f32 {
    let mut errors: Vec<f32> = Vec::with_capacity(now.values.len() / 4);
    each_point(now, |i, p| {
        let [x, y] = pixel(now.size, motion.apply(p));
        errors.push((before.sample(x, y) - now.values[i]).abs());
    });
    errors.sort_by(f32::total_cmp);
    let kept = (errors.len() * 2 / 3).max(1);
    errors.iter().take(kept).sum::<f32>() / kept as f32
}

/// One Gauss-Newton step; differences above `scale` have no weight.
fn improve(before: &Plane, now: &Plane, motion: Motion, scale: f32) -> Motion {
    let mut normal = [[0.0f64; 3]; 3];
    let mut right = [0.0f64; 3];
    let long = now.size.width.max(now.size.height) as f32;
    each_point(now, |i, p| {
        let [x, y] = pixel(now.size, motion.apply(p));
        if x < 0.0 || y < 0.0 || x > (now.size.width - 1) as f32 || y > (now.size.height - 1) as f32
        {
            return;
        }
        let error = before.sample(x, y) - now.values[i];
        let weight = (1.0 - (error / scale).powi(2)).max(0.0).powi(2);
        let gx = 0.5 * (before.sample(x + 1.0, y) - before.sample(x - 1.0, y)) * long;
        let gy = 0.5 * (before.sample(x, y + 1.0) - before.sample(x, y - 1.0)) * long;
        let row = [gx, gy, gx * p[0] + gy * p[1]].map(f64::from);
        for a in 0..3 {
            for b in 0..3 {
                normal[a][b] += f64::from(weight) * row[a] * row[b];
            }
            right[a] -= f64::from(weight * error) * row[a];
        }
    });
    for (a, row) in normal.iter_mut().enumerate() {
        row[a] += 1e-3;
    }
    let [dx, dy, zoom] = solve3(normal, right).map(|v| v as f32);
    Motion {
        dx: (motion.dx + dx).clamp(-0.3, 0.3),
        dy: (motion.dy + dy).clamp(-0.3, 0.3),
        zoom: (motion.zoom + zoom).clamp(-0.2, 0.2),
    }
}

/// Every second point of the plane, with its index and its place from the middle.
fn each_point(plane: &Plane, mut visit: impl FnMut(usize, [f32; 2])) {
    for y in (0..plane.size.height).step_by(2) {
        for x in (y / 2 % 2..plane.size.width).step_by(2) {
            visit(
                y * plane.size.width + x,
                place(plane.size, [x as f32, y as f32]),
            );
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

/// Solves a symmetric positive definite 3x3 system by elimination.
fn solve3(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> [f64; 3] {
    for k in 0..3 {
        let pivot = a[k];
        for row in k + 1..3 {
            let factor = a[row][k] / pivot[k];
            for (value, above) in a[row].iter_mut().zip(pivot) {
                *value -= factor * above;
            }
            b[row] -= factor * b[k];
        }
    }
    let z = b[2] / a[2][2];
    let y = (b[1] - a[1][2] * z) / a[1][1];
    let x = (b[0] - a[0][1] * y - a[0][2] * z) / a[0][0];
    [x, y, z]
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
