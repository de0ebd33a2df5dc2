//! Fireworks: the climb, the burst, the thunder from afar, the crackle.

use std::f32::consts::TAU;

use serde::{Deserialize, Serialize};

use super::modal::{Mode, ring};
use super::noise::{Burst, Noise, RATE, Strip};

/// A stage of a firework, as far as it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firework {
    /// The thump of the mortar.
    Launch,
    /// The climbing whistle, for so many seconds.
    Whistle(f32),
    /// The boom, heard from so many metres away; the delay is the score's matter.
    Boom(f32),
    /// Many small cracks, for so many seconds.
    Crackle(f32),
}

impl Firework {
    /// Seconds until nothing more is heard.
    pub(super) fn seconds(self) -> f32 {
        match self {
            Self::Launch => 0.8,
            Self::Whistle(seconds) => seconds,
            Self::Boom(_) => 2.6,
            Self::Crackle(seconds) => seconds + 0.1,
        }
    }

    pub(super) fn add(self, out: &mut [f32], strength: f32, noise: &mut Noise) {
        match self {
            Self::Launch => launch(out, strength, noise),
            Self::Whistle(seconds) => whistle(out, strength, seconds, noise),
            Self::Boom(metres) => boom(out, strength, metres, noise),
            Self::Crackle(seconds) => crackle(out, strength, seconds, noise),
        }
    }
}

fn launch(out: &mut [f32], strength: f32, noise: &mut Noise) {
    let modes = [(58.0, 0.25, 0.5), (97.0, 0.16, 0.25)].map(|(hz, decay, gain)| Mode {
        hz,
        decay,
        gain: gain * strength,
    });
    ring(&modes, None, out);
    Burst {
        low: 90.0,
        high: 900.0,
        attack: 0.0004,
        decay: 0.35,
        gain: 0.4 * strength,
    }
    .add(out, noise);
}

fn whistle(out: &mut [f32], strength: f32, seconds: f32, noise: &mut Noise) {
    let length = (seconds * RATE) as usize;
    let mut hiss = Strip::new(2000.0, 8000.0);
    let mut phase = 0.0f32;
    let (from, to) = (1150.0 * noise.about_one(0.1), 3100.0 * noise.about_one(0.1));
    for (i, y) in out.iter_mut().take(length).enumerate() {
        let t = i as f32 / length as f32;
        // Fast at first, slowing as it climbs; a flutter on top.
        let flutter = 1.0 + 0.012 * (TAU * 27.0 * i as f32 / RATE).sin();
        let hz = (from + (to - from) * (1.0 - (1.0 - t).powi(2))) * flutter;
        phase = (phase + hz / RATE).fract();
        let edges = (i as f32 / 240.0)
            .min((length - i) as f32 / 2400.0)
            .min(1.0);
        let away = 1.0 - 0.55 * t;
        let angle = TAU * phase;
        let sound =
            0.16 * angle.sin() + 0.05 * (2.0 * angle).sin() + 0.10 * hiss.run(noise.white());
        *y += strength * edges * away * sound;
    }
}

fn boom(out: &mut [f32], strength: f32, metres: f32, noise: &mut Noise) {
    // Air and the ground take the treble away with distance.
    let bright = 7000.0 / (1.0 + metres / 90.0);
    let parts = [
        (40.0, 0.6 * bright, 1.1, 0.75),
        (120.0, bright, 0.25, 0.65),
        (30.0, 260.0, 2.2, 0.40),
    ];
    for (low, high, decay, gain) in parts {
        Burst {
            low,
            high: high.max(1.5 * low),
            attack: 0.0005,
            decay,
            gain: gain * strength,
        }
        .add(out, noise);
    }
    let modes = [(43.0, 0.9, 0.45), (67.0, 0.6, 0.25)].map(|(hz, decay, gain)| Mode {
        hz,
        decay,
        gain: gain * strength,
    });
    ring(&modes, None, out);
}

fn crackle(out: &mut [f32], strength: f32, seconds: f32, noise: &mut Noise) {
    let count = (seconds * 70.0) as usize;
    for k in 0..count {
        // The first crack is the onset; the others come ever more rarely.
        let when = if k == 0 {
            0.0
        } else {
            seconds * noise.unit().powf(1.3)
        };
        let at = (when * RATE) as usize;
        let pitch = 1500.0 + 4500.0 * noise.unit();
        let gain = strength * (0.12 + 0.35 * noise.unit().powi(2)) * (1.0 - 0.5 * when / seconds);
        if at < out.len() {
            Burst {
                low: pitch,
                high: 2.5 * pitch,
                attack: 0.0001,
                decay: 0.012 + 0.02 * noise.unit(),
                gain,
            }
            .add(&mut out[at..], noise);
        }
    }
}
