//! Drum, bell, xylophone, cymbal and their like.

use serde::{Deserialize, Serialize};

use super::modal::{Glide, Mode, ring};
use super::noise::{Burst, Noise};

/// A thing that is made to be struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Instrument {
    /// A skin over a shell; the pitch is that of the skin, 60 to 200 Hz.
    Drum,
    /// A small drum with wires that rattle.
    Snare,
    /// A church or hand bell; the pitch is its strike note, 200 to 1500 Hz.
    Bell,
    /// One wooden bar; the pitch is its lowest partial.
    Xylophone,
    /// A thin plate of bronze; the pitch only shifts its wash, 300 is usual.
    Cymbal,
}

/// Partials of an ideal round skin, as multiples of the lowest.
const SKIN: [(f32, f32, f32); 7] = [
    (1.0, 1.0, 0.75),
    (1.594, 0.7, 0.32),
    (2.136, 0.5, 0.18),
    (2.296, 0.45, 0.14),
    (2.653, 0.36, 0.10),
    (2.918, 0.30, 0.08),
    (3.6, 0.2, 0.05),
];
/// Partials of a tuned bell: hum, prime, tierce, quint, nominal and above.
const BELL: [(f32, f32, f32); 11] = [
    (0.5, 1.5, 0.18),
    (1.0, 1.0, 0.40),
    (1.003, 1.0, 0.16),
    (1.183, 0.75, 0.16),
    (1.506, 0.55, 0.08),
    (2.0, 0.6, 0.26),
    (2.006, 0.6, 0.10),
    (2.514, 0.35, 0.12),
    (3.011, 0.28, 0.12),
    (4.166, 0.18, 0.09),
    (5.433, 0.12, 0.06),
];

/// Adds one stroke.
pub(super) fn strike(
    out: &mut [f32],
    instrument: Instrument,
    hz: f32,
    strength: f32,
    noise: &mut Noise,
) {
    let strength = strength.clamp(0.0, 1.0);
    match instrument {
        Instrument::Drum => drum(out, hz, strength, noise),
        Instrument::Snare => snare(out, hz, strength, noise),
        Instrument::Bell => bell(out, hz, strength, noise),
        Instrument::Xylophone => bar(out, hz, strength, noise),
        Instrument::Cymbal => cymbal(out, hz, strength, noise),
    }
}

/// Modes at multiples of `hz`; hard strokes move the high ones more.
fn partials(table: &[(f32, f32, f32)], hz: f32, decay: f32, strength: f32) -> Vec<Mode> {
    table
        .iter()
        .map(|&(ratio, length, gain)| Mode {
            hz: hz * ratio,
            decay: decay * length,
            gain: gain * strength * (0.3 + 0.7 * strength).powf((ratio - 1.0).max(0.0) * 0.8),
        })
        .collect()
}

fn drum(out: &mut [f32], hz: f32, strength: f32, noise: &mut Noise) {
    let glide = Glide {
        by: 0.10 * strength,
        seconds: 0.06,
    };
    ring(&partials(&SKIN, hz, 0.65, strength), Some(glide), out);
    Burst {
        low: 150.0,
        high: 1500.0 + 3500.0 * strength,
        attack: 0.0003,
        decay: 0.05,
        gain: 0.45 * strength,
    }
    .add(out, noise);
}

fn snare(out: &mut [f32], hz: f32, strength: f32, noise: &mut Noise) {
    let glide = Glide {
        by: 0.08 * strength,
        seconds: 0.03,
    };
    ring(&partials(&SKIN, hz, 0.22, 0.7 * strength), Some(glide), out);
    Burst {
        low: 1400.0,
        high: 9000.0,
        attack: 0.0004,
        decay: 0.30,
        gain: 0.5 * strength,
    }
    .add(out, noise);
}

fn bell(out: &mut [f32], hz: f32, strength: f32, noise: &mut Noise) {
    let decay = 3.5 * (440.0 / hz).clamp(0.3, 2.0).sqrt();
    ring(&partials(&BELL, hz, decay, strength), None, out);
    Burst {
        low: 1800.0,
        high: 9000.0,
        attack: 0.0002,
        decay: 0.015,
        gain: 0.2 * strength,
    }
    .add(out, noise);
}

fn bar(out: &mut [f32], hz: f32, strength: f32, noise: &mut Noise) {
    let decay = 1.1 * (440.0 / hz).clamp(0.2, 2.0).powf(0.7);
    let table = [
        (1.0, 1.0, 0.70),
        (3.0, 0.35, 0.22),
        (6.1, 0.16, 0.10),
        (9.7, 0.09, 0.05),
    ];
    ring(&partials(&table, hz, decay, strength), None, out);
    Burst {
        low: 700.0,
        high: 4500.0,
        attack: 0.0002,
        decay: 0.025,
        gain: 0.28 * strength,
    }
    .add(out, noise);
}

fn cymbal(out: &mut [f32], hz: f32, strength: f32, noise: &mut Noise) {
    let mut modes = Vec::with_capacity(48);
    for i in 0..48 {
        // Dense and without order, denser with height, as in a thin plate.
        let ratio = 1.0 + 0.62 * (i as f32).powf(1.05) * noise.about_one(0.12);
        modes.push(Mode {
            hz: hz * ratio,
            decay: (2.6 / (1.0 + 0.02 * i as f32)) * noise.about_one(0.3),
            gain: 0.055 * strength * noise.about_one(0.6) * (0.4 + 0.6 * strength),
        });
    }
    ring(&modes, None, out);
    for (low, high, decay, gain) in [(3000.0, 14000.0, 1.6, 0.30), (1500.0, 9000.0, 0.12, 0.35)] {
        Burst {
            low,
            high,
            attack: 0.0004,
            decay,
            gain: gain * strength * (0.5 + 0.5 * strength),
        }
        .add(out, noise);
    }
}
