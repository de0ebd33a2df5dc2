//! Vehicles as they sound beside the road, and other sounds that move.

use std::f32::consts::TAU;

use serde::{Deserialize, Serialize};

use super::noise::{Band, LowPass, Noise, RATE, Strip};

/// What drives past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// A car: smooth, tyres louder than the engine.
    Car,
    /// A truck or bus: a low, knocking diesel.
    Truck,
    /// A motorcycle: hard and bright.
    Motorcycle,
    /// A racing car: high and loud.
    Racer,
    /// An electric tram or train: a hum, and wheels on rails.
    Tram,
    /// A two-tone siren.
    Siren,
    /// A plain tone of 440 Hz.
    Tone,
}

/// How an engine sounds: firing rate, harmonics, roughness, tyres.
struct Character {
    /// Hertz of the lowest harmonic at 15 m/s.
    hz: f32,
    harmonics: usize,
    /// How fast harmonics weaken: amplitude 1 / n^tilt.
    tilt: f32,
    /// How much odd harmonics are weakened.
    even: f32,
    /// How unsteady the level is from firing to firing.
    rough: f32,
    engine: f32,
    tyres: f32,
    /// Where the tyre noise lies.
    band: (f32, f32),
}

impl Engine {
    fn character(self) -> Character {
        let (hz, harmonics, tilt, even) = match self {
            Self::Car => (38.0, 28, 1.0, 0.45),
            Self::Truck => (24.0, 36, 0.75, 0.7),
            Self::Motorcycle => (62.0, 40, 0.6, 0.8),
            Self::Racer => (150.0, 30, 0.7, 0.5),
            Self::Tram | Self::Siren | Self::Tone => (100.0, 8, 1.2, 0.3),
        };
        let (rough, engine, tyres, band) = match self {
            Self::Car => (0.05, 0.30, 0.42, (450.0, 2200.0)),
            Self::Truck => (0.20, 0.50, 0.35, (250.0, 1500.0)),
            Self::Motorcycle => (0.12, 0.55, 0.12, (600.0, 3000.0)),
            Self::Racer => (0.05, 0.62, 0.20, (700.0, 4000.0)),
            Self::Tram | Self::Siren | Self::Tone => (0.02, 0.25, 0.40, (300.0, 3500.0)),
        };
        Character {
            hz,
            harmonics,
            tilt,
            even,
            rough,
            engine,
            tyres,
            band,
        }
    }

    /// Fills `out` with what the vehicle itself gives off at `speed` metres a second.
    pub(super) fn emit(self, out: &mut [f32], speed: f32, noise: &mut Noise) {
        match self {
            Self::Tone => tone(out, 440.0),
            Self::Siren => siren(out),
            _ => motor(out, &self.character(), speed, noise),
        }
    }
}

fn tone(out: &mut [f32], hz: f32) {
    for (i, y) in out.iter_mut().enumerate() {
        *y += 0.5 * (TAU * (hz * i as f32 / RATE).fract()).sin();
    }
}

/// High and low in turn, a few harmonics each, with a soft change.
fn siren(out: &mut [f32]) {
    let (mut phase, mut hz) = (0.0f32, 440.0f32);
    for (i, y) in out.iter_mut().enumerate() {
        let high = (i as f32 / RATE / 0.55) as usize % 2 == 1;
        hz += 0.002 * (if high { 587.0 } else { 440.0 } - hz);
        phase = (phase + hz / RATE).fract();
        let angle = TAU * phase;
        *y += 0.32 * angle.sin() + 0.16 * (2.0 * angle).sin() + 0.12 * (3.0 * angle).sin();
    }
}

/// One period of the engine's sum of harmonics, with a copy of its start at its end.
fn period(character: &Character, noise: &mut Noise) -> Vec<f32> {
    const STEPS: usize = 1024;
    let mut table = vec![0.0f32; STEPS + 1];
    for n in 1..=character.harmonics {
        let odd = if n % 2 == 1 {
            1.0 - character.even
        } else {
            1.0
        };
        let gain = odd / (n as f32).powf(character.tilt) * noise.about_one(0.3);
        let shift = noise.unit();
        for (i, y) in table.iter_mut().enumerate() {
            *y += gain * (TAU * (n as f32 * i as f32 / STEPS as f32 + shift).fract()).sin();
        }
    }
    let peak = table.iter().fold(1e-6f32, |m, y| m.max(y.abs()));
    table.iter_mut().for_each(|y| *y /= peak);
    table
}

fn motor(out: &mut [f32], character: &Character, speed: f32, noise: &mut Noise) {
    let table = period(character, noise);
    let steps = (table.len() - 1) as f32;
    // Gears keep the engine's rate from following the speed all the way.
    let hz = character.hz * (speed / 15.0).clamp(0.2, 4.0).powf(0.35);
    let mut tyres = Strip::new(character.band.0, character.band.1);
    let mut body = Band::new(5.0 * hz, 0.7);
    let (mut drift, mut beat) = (LowPass::new(1.5), LowPass::new(hz));
    let mut phase = noise.unit();
    let tyre_gain = character.tyres * (speed / 15.0).clamp(0.1, 3.0);
    for y in out {
        let wander = 1.0 + 0.25 * drift.run(noise.white());
        phase = (phase + hz * wander / RATE).fract();
        let at = phase * steps;
        let (i, t) = (at as usize, at.fract());
        let wave = table[i] + (table[i + 1] - table[i]) * t;
        let uneven = 1.0 + 25.0 * character.rough * beat.run(noise.white());
        let sound = wave * uneven;
        *y += character.engine * (0.7 * sound + 0.6 * body.run(sound))
            + tyre_gain * tyres.run(noise.white());
    }
}
