//! Gaits: which hoof is where, and when each is set down.

use std::f64::consts::{PI, TAU};

/// One of four legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Left hind.
    LeftHind,
    /// Right hind.
    RightHind,
    /// Left fore.
    LeftFore,
    /// Right fore.
    RightFore,
}

impl Leg {
    /// Far side to near side for a horse that goes to the right, hind before fore.
    pub const ALL: [Leg; 4] = [Leg::LeftHind, Leg::LeftFore, Leg::RightHind, Leg::RightFore];

    /// Whether it is a foreleg.
    pub fn fore(self) -> bool {
        matches!(self, Leg::LeftFore | Leg::RightFore)
    }

    /// Whether it is a left leg.
    pub fn left(self) -> bool {
        matches!(self, Leg::LeftHind | Leg::LeftFore)
    }
}

/// A way of going.
#[derive(Clone, Copy, Debug)]
pub struct Gait {
    /// Units a second.
    pub speed: f64,
    /// Seconds a stride.
    pub stride: f64,
    /// Part of the stride that a hoof is on the ground.
    duty: f64,
    /// When in the stride each leg is set down: left hind, right hind, left fore, right fore.
    phases: [f64; 4],
    /// How high a hoof is lifted.
    lift: f64,
    /// How much the body goes up and down, and how often a stride.
    bounce: (f64, f64),
    /// How much the body pitches.
    pub pitch: f64,
    /// How far it is into a stride at time zero.
    start: f64,
    /// How hard hooves are set down.
    strength: f32,
}

/// One hoof set down.
#[derive(Clone, Copy, Debug)]
pub struct Hoofbeat {
    /// Seconds.
    pub time: f64,
    /// Which.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests check the order of legs"))]
    pub leg: Leg,
    /// Where, forward of the horse's middle.
    pub forward: f64,
    /// Where across: negative is nearer to the camera for a horse that goes right.
    pub side: f64,
    /// 0 to 1.
    pub strength: f32,
}

/// Where a hoof is, relative to the horse's middle.
#[derive(Clone, Copy, Debug)]
pub struct Foot {
    /// Forward.
    pub forward: f64,
    /// Above the ground.
    pub up: f64,
    /// 0 on the ground; else how far through the swing, 0 to 1.
    pub swing: f64,
}

impl Gait {
    /// The gait of that name, `start` of a stride in at time zero.
    pub fn of(name: &str, start: f64) -> Self {
        match name {
            "gallop" => Self {
                speed: 2.1,
                stride: 0.50,
                duty: 0.25,
                phases: [0.0, 0.13, 0.30, 0.45],
                lift: 0.105,
                bounce: (0.022, 1.0),
                pitch: 0.07,
                start,
                strength: 1.0,
            },
            "trot" => Self {
                speed: 1.0,
                stride: 0.70,
                duty: 0.38,
                // Hind a hair before its diagonal fore.
                phases: [0.0, 0.5, 0.515, 0.015],
                lift: 0.075,
                bounce: (0.016, 2.0),
                pitch: 0.0,
                start,
                strength: 0.75,
            },
            _ => Self {
                speed: 0.44,
                stride: 1.10,
                duty: 0.62,
                phases: [0.0, 0.5, 0.25, 0.75],
                lift: 0.045,
                bounce: (0.006, 2.0),
                pitch: 0.0,
                start,
                strength: 0.55,
            },
        }
    }

    fn phase(&self, leg: Leg) -> f64 {
        self.phases[match leg {
            Leg::LeftHind => 0,
            Leg::RightHind => 1,
            Leg::LeftFore => 2,
            Leg::RightFore => 3,
        }]
    }

    /// How far into the stride the horse is, 0 to 1.
    pub fn at(&self, time: f64) -> f64 {
        (time / self.stride + self.start).rem_euclid(1.0)
    }

    /// How far the body is above its middle height.
    pub fn bob(&self, time: f64) -> f64 {
        let (size, times) = self.bounce;
        // Highest in the suspension, which is just before the first hind leg lands.
        size * (TAU * times * (self.at(time) + 0.12)).cos()
    }

    /// Where a leg hangs from, forward of the middle.
    pub fn root(leg: Leg) -> f64 {
        if leg.fore() { 0.185 } else { -0.215 }
    }

    /// Where `leg`'s hoof is.
    pub fn foot(&self, leg: Leg, time: f64) -> Foot {
        let t = (self.at(time) - self.phase(leg)).rem_euclid(1.0);
        let reach = 0.5 * self.speed * self.duty * self.stride;
        let root = Self::root(leg) + 0.01;
        if t < self.duty {
            // On the ground the hoof stays: it goes back under the body as fast as that goes on.
            return Foot {
                forward: root + reach - self.speed * self.stride * t,
                up: 0.0,
                swing: 0.0,
            };
        }
        let swing = (t - self.duty) / (1.0 - self.duty);
        let ease = 0.5 - 0.5 * (PI * swing).cos();
        let late = if leg.fore() { 0.8 } else { 1.0 };
        Foot {
            forward: root - reach + 2.0 * reach * ease,
            up: self.lift * (PI * swing.powf(late)).sin(),
            swing,
        }
    }

    /// Every hoof set down from just before the clip to `seconds`, in order.
    pub fn hoofbeats(&self, seconds: f64) -> Vec<Hoofbeat> {
        let reach = 0.5 * self.speed * self.duty * self.stride;
        let mut beats = Vec::new();
        for leg in Leg::ALL {
            let mut time = (self.phase(leg) - self.start - 1.0) * self.stride;
            while time < seconds {
                beats.push(Hoofbeat {
                    time,
                    leg,
                    forward: Self::root(leg) + 0.01 + reach,
                    side: if leg.left() { 0.05 } else { -0.05 },
                    strength: self.strength * if leg.fore() { 1.0 } else { 0.85 },
                });
                time += self.stride;
            }
        }
        beats.retain(|b| b.time > -0.4);
        beats.sort_by(|a, b| a.time.total_cmp(&b.time));
        beats
    }
}
