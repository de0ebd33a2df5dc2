//! One shell: how it climbs, how its stars fly, how they glow.

use rand::RngExt;

use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Look, Size};
use crate::render::{Painter, Rgb, add, light_of, mix, scale, smooth};

/// How stars fly, by kind of shell.
pub const SHELLS: &[&str] = &["peony", "ring", "willow"];
/// Air drag of a star, a second.
const DRAG: f64 = 1.7;
/// Gravity on burning stars, units a second squared.
const FALL: f64 = 0.22;
/// Where shells are fired, in Z; the sky is painted behind it.
pub const DEPTH: f64 = 2.0;

/// One shell from launch to ash.
pub struct Shell {
    /// When it is fired, seconds.
    pub launch: f64,
    /// When it bursts, seconds.
    pub burst: f64,
    /// Where it is fired, along X.
    pub from: f64,
    /// Where it bursts.
    pub at: [f64; 2],
    /// How far its stars fly.
    pub radius: f64,
    /// Seconds that stars burn.
    pub burn: f64,
    /// Which of [`SHELLS`] it is.
    pub kind: &'static str,
    colour: Colour,
    /// Directions of the stars, scaled by their speed.
    stars: Vec<[f64; 2]>,
    seed: f64,
}

impl Shell {
    /// The shell number `index` of a clip of so many seconds, its sound so late, in that room.
    pub fn new(
        a: &Attributes,
        (index, seconds, late): (usize, f64, f64),
        (half, top): (f64, f64),
        rng: &mut WorldRng,
    ) -> Self {
        let radius = match a.size.unwrap_or(Size::Medium) {
            Size::Small => rng.random_range(0.26..0.32),
            Size::Medium => rng.random_range(0.38..0.46),
            Size::Large => rng.random_range(0.54..0.64),
        };
        let kind = SHELLS
            .iter()
            .copied()
            .find(|s| *s == a.subject)
            .unwrap_or("peony");
        let burst = burst_time((index, a.count), seconds, late, rng);
        let lane = (index as f64 + rng.random_range(0.2..0.8)) / a.count as f64 * 2.0 - 1.0;
        let x = lane * (half - 0.3 * radius).max(0.0) * rng.random_range(0.5..0.9);
        let high = top - radius * rng.random_range(0.95..1.15);
        let climb = rng.random_range(0.9..1.2);
        Self {
            launch: burst - climb,
            burst,
            from: x + rng.random_range(-0.12..0.12),
            at: [x, high.max(0.45 * top)],
            radius,
            burn: if kind == "willow" { 2.4 } else { 1.6 },
            kind,
            colour: a.colour(index),
            stars: stars(kind, rng),
            seed: rng.random_range(0.0..100.0),
        }
    }

    /// Where the shell is while it climbs: fast first, slow at the top.
    fn climbing(&self, time: f64) -> [f64; 2] {
        let t = ((time - self.launch) / (self.burst - self.launch)).clamp(0.0, 1.0);
        let up = 1.0 - (1.0 - t) * (1.0 - t);
        [self.from + (self.at[0] - self.from) * t, self.at[1] * up]
    }

    /// How far a star of speed one has flown `age` seconds after the burst.
    fn reach(age: f64) -> f64 {
        1.0 - (-DRAG * 1.6 * age).exp()
    }

    /// How far every star has fallen by then.
    fn fallen(&self, age: f64) -> f64 {
        let heavy = if self.kind == "willow" { 1.7 } else { 1.0 };
        heavy * FALL / DRAG * (age - (1.0 - (-DRAG * age).exp()) / DRAG)
    }

    fn star(&self, direction: [f64; 2], age: f64) -> [f64; 2] {
        let reach = self.radius * Self::reach(age);
        [
            self.at[0] + direction[0] * reach,
            self.at[1] + direction[1] * reach - self.fallen(age),
        ]
    }

    /// What is seen of it at `time`.
    pub fn draw(&self, painter: &mut Painter, time: f64) {
        if time < self.launch {
            return;
        }
        if time < self.burst {
            self.draw_climb(painter, time);
            return;
        }
        let age = time - self.burst;
        if age < self.burn {
            self.draw_flash(painter, age);
            for (i, &direction) in self.stars.iter().enumerate() {
                self.draw_star(painter, direction, (i, age));
            }
        }
    }

    fn draw_climb(&self, painter: &mut Painter, time: f64) {
        for step in 0..9 {
            let then = time - 0.022 * f64::from(step);
            if then < self.launch {
                break;
            }
            let [x, y] = self.climbing(then);
            let wobble = 0.004 * (then * 60.0 + self.seed).sin();
            let spot = painter.project([x + wobble, y, DEPTH]);
            let size = spot.scale * (0.030 - 0.002 * step as f32);
            let fade = 1.0 / (1.0 + 0.6 * step as f32);
            painter.canvas.glow(
                spot.x,
                spot.y,
                size.max(1.2),
                scale([1.0, 0.72, 0.36], 1.3 * fade),
            );
        }
    }

    /// The sky lights up for a moment, and the ground with it.
    fn draw_flash(&self, painter: &mut Painter, age: f64) {
        let spot = painter.project([self.at[0], self.at[1], DEPTH]);
        let colour = burning(self.colour, painter.light.look);
        let flash = (-13.0 * age).exp() as f32;
        let glow = (-1.8 * age).exp() as f32;
        let reach = self.radius as f32 * spot.scale;
        let veil = if painter.light.look == Look::Flat {
            0.3
        } else {
            1.0
        };
        painter.canvas.glow(
            spot.x,
            spot.y,
            2.4 * reach,
            scale(colour, veil * (0.11 * glow + 0.22 * flash)),
        );
        painter.canvas.glow(
            spot.x,
            spot.y,
            0.45 * reach,
            scale([1.0, 0.97, 0.9], 1.1 * flash),
        );
        let foot = painter.project([self.at[0], 0.0, DEPTH]);
        painter.canvas.glow(
            foot.x,
            foot.y,
            2.0 * reach,
            scale(colour, veil * 0.06 * glow),
        );
    }

    fn draw_star(&self, painter: &mut Painter, direction: [f64; 2], (index, age): (usize, f64)) {
        let trail: u32 = if self.kind == "willow" { 9 } else { 5 };
        let own = self.burn * (0.75 + 0.25 * (index as f64 * 2.4 + self.seed).sin().abs());
        let life = (age / own) as f32;
        if life >= 1.0 {
            return;
        }
        // White hot first, then its colour, then out, flickering.
        let colour = burning(self.colour, painter.light.look);
        let hot = mix([1.2, 1.15, 1.0], colour, smooth(0.0, 0.14, life));
        let flicker = 0.8 + 0.2 * (age * 47.0 + index as f64 * 5.1).sin() as f32;
        let level = (1.0 - smooth(0.55, 1.0, life)) * if life > 0.6 { flicker } else { 1.0 };
        for step in 0..trail {
            let then = age - 0.035 * f64::from(step);
            if then < 0.0 {
                break;
            }
            let [x, y] = self.star(direction, then);
            let spot = painter.project([x, y.max(0.0), DEPTH]);
            let fade = level / (1.0 + 0.9 * step as f32);
            let size = (spot.scale * (0.026 - 0.0018 * step as f32)).max(1.1);
            painter
                .canvas
                .glow(spot.x, spot.y, size, scale(hot, 1.25 * fade));
        }
    }

    /// Its middle and its half extent at `time`.
    pub fn extent(&self, time: f64) -> ([f64; 2], f64) {
        if time < self.burst {
            return (self.climbing(time), 0.02);
        }
        let age = time - self.burst;
        let middle = [self.at[0], self.at[1] - self.fallen(age)];
        (middle, (self.radius * Self::reach(age)).max(0.02))
    }
}

/// When shell `index` of `count` bursts: one after the other, and early enough to be heard.
fn burst_time((index, count): (usize, usize), seconds: f64, late: f64, rng: &mut WorldRng) -> f64 {
    if seconds < 0.5 {
        return rng.random_range(-0.9..seconds);
    }
    let last = (seconds - late - 0.15).max(0.25 * seconds);
    let slot = last / count as f64;
    let early = if index == 0 {
        0.3f64.min(0.4 * slot)
    } else {
        0.0
    };
    slot * index as f64 + rng.random_range(early..(0.85 * slot).max(early + 0.01))
}

/// The light of a star: brighter than paint of that colour.
fn burning(colour: Colour, look: Look) -> Rgb {
    let c = light_of(colour.srgb());
    let most = c[0].max(c[1]).max(c[2]).max(0.05);
    let full = scale(c, 1.0 / most);
    let lift = if look == Look::Flat { 0.02 } else { 0.05 };
    add(full, [lift; 3])
}

/// Where stars fly: a ball seen from outside, or a ring.
fn stars(kind: &str, rng: &mut WorldRng) -> Vec<[f64; 2]> {
    let tilt: f64 = rng.random_range(0.35..0.9);
    let turn: f64 = rng.random_range(-0.6..0.6);
    let count = match kind {
        "ring" => 34,
        "willow" => 46,
        _ => 84,
    };
    (0..count)
        .map(|i| {
            let angle =
                (i as f64 + rng.random_range(0.0..0.4)) / count as f64 * std::f64::consts::TAU;
            if kind == "ring" {
                let (x, y) = (angle.cos(), tilt * angle.sin());
                return [
                    x * turn.cos() - y * turn.sin(),
                    x * turn.sin() + y * turn.cos(),
                ];
            }
            // Evenly over the sphere, by the golden angle.
            let z = 1.0 - 2.0 * (i as f64 + 0.5) / count as f64;
            let round = (1.0 - z * z).sqrt();
            let golden = i as f64 * 2.399_963 + angle * 0.02;
            let speed = rng.random_range(0.92..1.04);
            [round * golden.cos() * speed, z * speed]
        })
        .collect()
}
