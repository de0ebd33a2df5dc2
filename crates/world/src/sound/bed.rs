//! Sounds without a beginning: wind, rain, sea, crickets, a room's hum.

use std::f32::consts::TAU;

use serde::{Deserialize, Serialize};

use super::noise::{Band, LowPass, Noise, RATE, Strip, decay_per_sample};

/// A background that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bed {
    /// Gusts.
    Wind,
    /// Many small drops.
    Rain,
    /// Waves that come and go.
    Sea,
    /// Insects at night.
    Crickets,
    /// The quiet hum of an indoor space.
    Hum,
    /// A crowd far away.
    Crowd,
}

impl Bed {
    /// Adds one channel; channels of one bed take different chances and so surround the listener.
    pub(super) fn add(self, out: &mut [f32], level: f32, noise: &mut Noise) {
        match self {
            Self::Wind => wind(out, 0.35 * level, noise),
            Self::Rain => rain(out, 0.25 * level, noise),
            Self::Sea => sea(out, 0.35 * level, noise),
            Self::Crickets => crickets(out, 0.08 * level, noise),
            Self::Hum => hum(out, 0.05 * level, noise),
            Self::Crowd => crowd(out, 0.3 * level, noise),
        }
    }
}

fn wind(out: &mut [f32], level: f32, noise: &mut Noise) {
    let mut slow = LowPass::new(0.35);
    let mut band = Band::new(400.0, 1.2);
    let mut gust = 0.0;
    for (i, y) in out.iter_mut().enumerate() {
        // The slow walk is small: white noise of 48 kHz through 0.35 Hz keeps 0.4% of its size.
        gust += 0.0005 * ((160.0 * slow.run(noise.white())).clamp(-1.0, 1.0) - gust);
        if i % 64 == 0 {
            band.tune(420.0 * (1.0 + 0.6 * gust), 1.2);
        }
        *y += level * (1.0 + 0.7 * gust) * 3.0 * band.run(noise.white());
    }
}

fn rain(out: &mut [f32], level: f32, noise: &mut Noise) {
    let mut hiss = Strip::new(1500.0, 9000.0);
    let mut drop = Band::new(2000.0, 4.0);
    let (mut ring, fall) = (0.0f32, decay_per_sample(0.012));
    for y in out {
        if noise.unit() < 180.0 / RATE {
            ring = 0.3 + noise.unit();
            drop.tune(1200.0 + 3500.0 * noise.unit(), 4.0);
        }
        ring *= fall;
        let tap = 2.5 * drop.run(ring * noise.white());
        *y += level * (0.55 * hiss.run(noise.white()) + tap);
    }
}

fn sea(out: &mut [f32], level: f32, noise: &mut Noise) {
    let mut strip = Strip::new(150.0, 3500.0);
    let (start, length) = (noise.unit(), 6.0 * noise.about_one(0.15));
    for (i, y) in out.iter_mut().enumerate() {
        let swell = 0.5 - 0.5 * (TAU * (start + i as f32 / RATE / length)).cos();
        *y += level * (0.25 + 0.75 * swell * swell) * strip.run(noise.white());
    }
}

fn crickets(out: &mut [f32], level: f32, noise: &mut Noise) {
    for _ in 0..3 {
        let hz = 4300.0 * noise.about_one(0.12);
        let (rate, start) = (2.2 * noise.about_one(0.2), noise.unit());
        for (i, y) in out.iter_mut().enumerate() {
            let t = i as f32 / RATE;
            let chirp = (start + rate * t).fract();
            if chirp < 0.35 {
                let pulse = (TAU * 38.0 * t).sin().max(0.0);
                let edge = (chirp / 0.03).min((0.35 - chirp) / 0.03).min(1.0);
                *y += level * edge * pulse * (TAU * (hz * t).fract()).sin();
            }
        }
    }
}

fn hum(out: &mut [f32], level: f32, noise: &mut Noise) {
    let mut strip = Strip::new(60.0, 500.0);
    for y in out {
        *y += level * strip.run(noise.white());
    }
}

fn crowd(out: &mut [f32], level: f32, noise: &mut Noise) {
    let mut bands = [(480.0, 2.0), (900.0, 2.5), (1700.0, 3.0)].map(|(hz, q)| Band::new(hz, q));
    let mut murmur = [LowPass::new(4.0); 3];
    for y in out {
        for (band, slow) in bands.iter_mut().zip(&mut murmur) {
            let swell = 1.0 + (45.0 * slow.run(noise.white())).clamp(-0.8, 0.8);
            *y += level * 0.8 * swell * band.run(noise.white());
        }
    }
}
