//! Rooms: first echoes from the walls, then a cloud of them.

use super::noise::{LowPass, RATE};

/// How a place answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Room {
    /// Seconds until the echo has fallen by 60 dB.
    decay: f32,
    /// Level of the echo beside the sound.
    wet: f32,
    /// Metres across.
    metres: f32,
    /// Hertz above which walls swallow.
    bright: f32,
}

impl Room {
    /// The room of a place's name; `None` where nothing echoes.
    pub(super) fn from_key(key: &str) -> Option<Self> {
        let (decay, wet, metres, bright) = match key {
            "court" | "gym" => (1.1, 0.22, 18.0, 5000.0),
            "hall" | "church" => (2.4, 0.30, 30.0, 4200.0),
            "stage" | "theatre" => (1.0, 0.16, 15.0, 4500.0),
            "room" | "studio" | "kitchen" | "school" | "classroom" => (0.35, 0.16, 4.5, 6000.0),
            "tunnel" | "cave" => (1.8, 0.42, 8.0, 3500.0),
            "street" | "city" => (0.7, 0.10, 20.0, 4000.0),
            _ => return None,
        };
        Some(Self {
            decay,
            wet,
            metres,
            bright,
        })
    }

    /// Adds the echo of what is there.
    pub(super) fn add(&self, left: &mut [f32], right: &mut [f32]) {
        let mut net = Network::new(self);
        let mut early = Early::new(self);
        for (l, r) in left.iter_mut().zip(right) {
            let first = early.run(*l, *r);
            let late = net.run([*l + first[0], *r + first[1]]);
            *l += self.wet * (1.2 * first[0] + late[0]);
            *r += self.wet * (1.2 * first[1] + late[1]);
        }
    }
}

/// A ring of past samples.
struct Delay {
    past: Vec<f32>,
    at: usize,
}

impl Delay {
    fn new(samples: usize) -> Self {
        Self {
            past: vec![0.0; samples.max(1)],
            at: 0,
        }
    }

    #[inline(always)]
    fn oldest(&self) -> f32 {
        self.past[self.at]
    }

    #[inline(always)]
    fn push(&mut self, x: f32) {
        self.past[self.at] = x;
        self.at += 1;
        if self.at == self.past.len() {
            self.at = 0;
        }
    }
}

/// The first reflections: six walls, each with its own delay for each ear.
struct Early {
    taps: [[Delay; 3]; 2],
    gains: [f32; 3],
}

impl Early {
    fn new(room: &Room) -> Self {
        let across = room.metres / 343.0 * RATE;
        let tap = |share: f32| Delay::new((across * share) as usize);
        Self {
            taps: [
                [tap(0.41), tap(0.67), tap(0.93)],
                [tap(0.45), tap(0.62), tap(1.01)],
            ],
            gains: [0.8, -0.6, 0.5],
        }
    }

    fn run(&mut self, left: f32, right: f32) -> [f32; 2] {
        let mut out = [0.0; 2];
        for ((out, taps), x) in out.iter_mut().zip(&mut self.taps).zip([left, right]) {
            for (tap, gain) in taps.iter_mut().zip(self.gains) {
                *out += gain * tap.oldest();
                tap.push(x);
            }
        }
        out
    }
}

/// Eight delays that feed each other through a Hadamard matrix (Jot's feedback delay network).
struct Network {
    lines: [Delay; 8],
    walls: [LowPass; 8],
    gains: [f32; 8],
}

/// Lengths of the delays as shares of the room's width; without common measure.
const SHARES: [f32; 8] = [0.53, 0.617, 0.711, 0.797, 0.893, 1.009, 1.129, 1.253];

impl Network {
    fn new(room: &Room) -> Self {
        let across = (room.metres / 343.0 * RATE).max(600.0);
        let length = |i: usize| (across * SHARES[i]) as usize + 2 * i + 1;
        Self {
            lines: std::array::from_fn(|i| Delay::new(length(i))),
            walls: [LowPass::new(room.bright); 8],
            gains: std::array::from_fn(|i| 10f32.powf(-3.0 * length(i) as f32 / RATE / room.decay)),
        }
    }

    #[inline(always)]
    fn run(&mut self, input: [f32; 2]) -> [f32; 2] {
        let mut v: [f32; 8] =
            std::array::from_fn(|i| self.walls[i].run(self.gains[i] * self.lines[i].oldest()));
        let out = [
            0.5 * (v[0] + v[2] + v[4] + v[6]),
            0.5 * (v[1] + v[3] + v[5] + v[7]),
        ];
        hadamard(&mut v);
        for (i, line) in self.lines.iter_mut().enumerate() {
            // A whisper of a constant keeps the tail away from denormal numbers.
            line.push(v[i] + 0.5 * input[i % 2] + 1e-18);
        }
        out
    }
}

/// The orthonormal Hadamard transform of eight values.
#[inline(always)]
fn hadamard(v: &mut [f32; 8]) {
    for half in [1, 2, 4] {
        for i in 0..8 {
            if i & half == 0 {
                let (a, b) = (v[i], v[i + half]);
                v[i] = a + b;
                v[i + half] = a - b;
            }
        }
    }
    v.iter_mut().for_each(|x| *x *= 0.353_553_4);
}
