//! Where a sound is: left and right by level and delay, near and far, and coming or going.

use super::noise::RATE;

/// Metres a second of sound in air.
pub const SPEED_OF_SOUND: f64 = 343.0;
/// Samples by which the far ear hears a sound from the side later.
const EARS: f32 = 26.0;

/// Adds `sound` from sample `at` on (which may be negative), from -1 left to 1 right. The near
/// ear hears it at once.
pub(super) fn place(stereo: [&mut [f32]; 2], sound: &[f32], at: i64, pan: f32) {
    let pan = pan.clamp(-1.0, 1.0);
    let angle = (pan + 1.0) * std::f32::consts::FRAC_PI_4;
    let late = (pan.abs() * EARS) as i64;
    let delays = if pan > 0.0 { [late, 0] } else { [0, late] };
    // Constant power, and 1 in both ears in the middle. A head is no wall: the far ear keeps
    // some sound even from the very side.
    let gains = [angle.cos(), angle.sin()].map(|g| std::f32::consts::SQRT_2 * (0.1 + 0.9 * g));
    for ((channel, gain), delay) in stereo.into_iter().zip(gains).zip(delays) {
        let start = at + delay;
        let skip = (-start).max(0) as usize;
        let Some(heard) = sound.get(skip..) else {
            continue;
        };
        let begin = start.max(0) as usize;
        let Some(channel) = channel.get_mut(begin..) else {
            continue;
        };
        for (y, x) in channel.iter_mut().zip(heard) {
            *y += gain * x;
        }
    }
}

/// A way through the plane of the listener's ears, in metres: X to the right, Z forward.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// Places at equal times, the first at time 0 of the clip.
    pub points: Vec<[f32; 2]>,
    /// Places a second.
    pub rate: f32,
}

impl Path {
    /// A straight line at even speed, passing `offset` metres in front of the listener at time
    /// `at`, with `speed` metres a second to the right (negative: to the left), for `seconds`.
    pub fn pass_by(at: f64, speed: f64, offset: f64, seconds: f64) -> Self {
        let rate = 24.0;
        let count = (seconds * rate).ceil() as usize + 2;
        let points = (0..count)
            .map(|i| [(speed * (i as f64 / rate - at)) as f32, offset as f32])
            .collect();
        Self {
            points,
            rate: rate as f32,
        }
    }

    /// The place at `time`, by a smooth curve through the points; beyond the ends it goes on
    /// straight.
    pub fn at(&self, time: f64) -> [f64; 2] {
        let last = self.points.len() as f64 - 1.0;
        let position = time * f64::from(self.rate);
        let i = position.floor().clamp(0.0, (last - 1.0).max(0.0));
        let t = position - i;
        std::array::from_fn(|axis| self.curve(i as i64, t, axis))
    }

    /// Catmull-Rom between points `i` and `i + 1`.
    fn curve(&self, i: i64, t: f64, axis: usize) -> f64 {
        let p = |k: i64| self.point(k, axis);
        let (a, b, c, d) = (p(i - 1), p(i), p(i + 1), p(i + 2));
        if !(0.0..=1.0).contains(&t) {
            return b + (c - b) * t;
        }
        let (t2, t3) = (t * t, t * t * t);
        0.5 * (2.0 * b
            + (c - a) * t
            + (2.0 * a - 5.0 * b + 4.0 * c - d) * t2
            + (3.0 * (b - c) + d - a) * t3)
    }

    /// Point `k`, those beyond the ends by going on straight.
    fn point(&self, k: i64, axis: usize) -> f64 {
        let get = |k: i64| f64::from(self.points[k as usize][axis]);
        match self.points.len() as i64 {
            0 => 0.0,
            1 => get(0),
            _ if k < 0 => get(0) + k as f64 * (get(1) - get(0)),
            n if k >= n => get(n - 1) + (k - n + 1) as f64 * (get(n - 1) - get(n - 2)),
            _ => get(k),
        }
    }

    /// Mean speed in metres a second.
    pub(super) fn speed(&self) -> f32 {
        let length: f32 = self
            .points
            .windows(2)
            .map(|w| (w[1][0] - w[0][0]).hypot(w[1][1] - w[0][1]))
            .sum();
        length * self.rate / (self.points.len().max(2) - 1) as f32
    }
}

/// What is heard of a moving source at one time.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// When what is heard was given off, seconds.
    emitted: f64,
    /// Level.
    gain: f32,
    /// -1 to 1.
    pan: f32,
}

/// Samples between two looks at the path.
const LOOK: usize = 64;

/// A source that moves, heard through the time that sound needs.
#[derive(Debug)]
pub(super) struct Passing {
    looks: Vec<Heard>,
    near: f64,
}

impl Passing {
    /// Works out when what is heard was given off, for `samples` samples of hearing.
    pub(super) fn new(path: &Path, samples: usize) -> Self {
        let times = (0..samples.div_ceil(LOOK) + 2).map(|i| (i * LOOK) as f64 / f64::from(RATE));
        let times: Vec<f64> = times.collect();
        let distance = |t: f64| {
            let [x, z] = path.at(t);
            x.hypot(z).max(1.0)
        };
        // Seen and heard together where it is nearest: only changes of distance are heard.
        let near = times.iter().map(|&t| distance(t)).fold(f64::MAX, f64::min);
        let mut delay = 0.0;
        let looks = times
            .iter()
            .map(|&t| {
                // Each round shrinks the error by speed over speed of sound.
                for _ in 0..6 {
                    delay = (distance(t - delay) - near) / SPEED_OF_SOUND;
                }
                let emitted = t - delay;
                let [x, z] = path.at(emitted);
                Heard {
                    emitted,
                    gain: (near / distance(emitted)) as f32,
                    pan: (x.atan2(z.max(0.0)) * std::f64::consts::FRAC_2_PI) as f32,
                }
            })
            .collect();
        Self { looks, near }
    }

    /// First and last second of what is heard, as it was given off.
    pub(super) fn span(&self) -> (f64, f64) {
        let times = self.looks.iter().map(|l| l.emitted);
        (
            times.clone().fold(f64::MAX, f64::min),
            times.fold(f64::MIN, f64::max),
        )
    }

    /// Metres to the nearest place.
    pub(super) fn nearest(&self) -> f64 {
        self.near
    }

    /// Adds what is heard of `source`, whose first sample was given off at `from` seconds.
    pub(super) fn add(&self, stereo: [&mut [f32]; 2], source: &[f32], from: f64) {
        let [left, right] = stereo;
        let blocks = left.chunks_mut(LOOK).zip(right.chunks_mut(LOOK));
        for ((left, right), pair) in blocks.zip(self.looks.windows(2)) {
            let start = (pair[0].emitted - from) * f64::from(RATE);
            let step = (pair[1].emitted - pair[0].emitted) * f64::from(RATE) / LOOK as f64;
            let ends = [ears(&pair[0]), ears(&pair[1])];
            for (i, (l, r)) in left.iter_mut().zip(right).enumerate() {
                let x = sample_at(source, start + step * i as f64);
                let t = i as f32 / LOOK as f32;
                *l += x * (ends[0][0] + (ends[1][0] - ends[0][0]) * t);
                *r += x * (ends[0][1] + (ends[1][1] - ends[0][1]) * t);
            }
        }
    }
}

/// The gains of both ears.
fn ears(heard: &Heard) -> [f32; 2] {
    let angle = (heard.pan + 1.0) * std::f32::consts::FRAC_PI_4;
    [angle.cos(), angle.sin()].map(|g| heard.gain * std::f32::consts::SQRT_2 * (0.1 + 0.9 * g))
}

/// The source between its samples, by a cubic.
#[inline(always)]
fn sample_at(source: &[f32], position: f64) -> f32 {
    let i = position.floor();
    let t = (position - i) as f32;
    let i = i as i64;
    if i < 1 || i + 2 >= source.len() as i64 {
        return 0.0;
    }
    let p = &source[i as usize - 1..i as usize + 3];
    let (a, b, c, d) = (p[0], p[1], p[2], p[3]);
    b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
}
