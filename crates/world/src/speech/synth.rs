//! The voice: a pulsing glottis, a tract of resonators in a row, a hiss beside it (after Klatt).

use std::f32::consts::{PI, TAU};

use super::Voice;
use super::tracks::Control;
use crate::sound::noise::Noise;

/// Samples a second inside; the result has twice as many.
const RATE: f32 = 24_000.0;
/// Samples a control lasts.
const STEP: usize = 24;
/// Formants above the third, to the upper end of the spectrum.
const FIXED: usize = 8;
/// How long the glottis is open, as a share of the period.
const OPEN: f32 = 0.62;

/// A two-pole resonator with gain 1 at 0 Hz.
#[derive(Clone, Copy, Debug, Default)]
struct Resonator {
    a: f32,
    b: f32,
    c: f32,
    y1: f32,
    y2: f32,
}

impl Resonator {
    fn tune(&mut self, hz: f32, width: f32) {
        let r = (-PI * width / RATE).exp();
        self.c = -r * r;
        self.b = 2.0 * r * (TAU * hz / RATE).cos();
        self.a = 1.0 - self.b - self.c;
    }

    fn new(hz: f32, width: f32) -> Self {
        let mut resonator = Self::default();
        resonator.tune(hz, width);
        resonator
    }

    #[inline(always)]
    fn run(&mut self, x: f32) -> f32 {
        let y = self.a * x + self.b * self.y1 + self.c * self.y2;
        self.y2 = self.y1;
        self.y1 = y;
        y
    }

    /// The inverse: a zero where the resonator has its pole.
    #[inline(always)]
    fn cancel(&mut self, x: f32) -> f32 {
        let y = (x - self.b * self.y1 - self.c * self.y2) / self.a;
        self.y2 = self.y1;
        self.y1 = x;
        y
    }
}

/// The swinging vocal folds.
struct Glottis {
    phase: f32,
    /// This period's deviations in length and level.
    wobble: (f32, f32),
    tilt: f32,
    tilt_by: f32,
}

impl Glottis {
    /// The derivative of the flow: what the lips radiate.
    #[inline(always)]
    fn run(&mut self, hz: f32, noise: &mut Noise) -> f32 {
        let step = hz * self.wobble.0 / RATE;
        self.phase += step;
        if self.phase >= 1.0 {
            self.phase -= 1.0;
            self.wobble = (noise.about_one(0.012), noise.about_one(0.05));
        }
        let u = self.phase / OPEN;
        let flow = if u < 1.0 { u * (2.0 - 3.0 * u) } else { 0.0 };
        // The closing is a jump; between samples it is rounded off, or it would alias.
        let to = (self.phase - OPEN) / step;
        let blep = if (-1.0..0.0).contains(&to) {
            0.5 * (to + 1.0) * (to + 1.0)
        } else if (0.0..1.0).contains(&to) {
            -0.5 * (to - 1.0) * (to - 1.0)
        } else {
            0.0
        };
        self.tilt += self.tilt_by * (self.wobble.1 * (flow + blep) - self.tilt);
        self.tilt
    }
}

/// Speech of `track`, one control a millisecond, at 48 kHz; not yet of a fixed level.
pub(super) fn speak(track: &[Control], voice: &Voice, noise: &mut Noise) -> Vec<f32> {
    let mut tract = Tract::new(voice);
    let mut glottis = Glottis {
        phase: 0.9,
        wobble: (1.0, 1.0),
        tilt: 0.0,
        tilt_by: 1.0 - (-TAU * voice.brightness / RATE).exp(),
    };
    let mut out = Vec::with_capacity(track.len() * STEP);
    for (i, control) in track.iter().enumerate() {
        let next = track.get(i + 1).unwrap_or(control);
        tract.tune(control);
        for k in 0..STEP {
            let t = k as f32 / STEP as f32;
            let mix = |a: f32, b: f32| a + (b - a) * t;
            let pulse = glottis.run(mix(control.pitch, next.pitch).max(30.0), noise);
            let open = if glottis.phase < OPEN { 1.0 } else { 0.4 };
            let voiced = mix(control.voice, next.voice);
            let breath = mix(control.breath, next.breath) + voice.breath * voiced * open;
            let source = voiced * pulse + 0.14 * breath * noise.white();
            let hiss = mix(control.noise, next.noise);
            out.push(tract.run(source, hiss * noise.white()));
        }
    }
    double(&out)
}

/// The tract from the glottis to the lips, and the narrow place that hisses.
struct Tract {
    formants: [Resonator; 3],
    fixed: [Resonator; FIXED],
    nose: Resonator,
    nose_zero: Resonator,
    bands: [Resonator; 2],
    gains: [f32; 2],
    last: [f32; 2],
    scale: f32,
}

impl Tract {
    fn new(voice: &Voice) -> Self {
        Self {
            formants: [Resonator::default(); 3],
            fixed: std::array::from_fn(|i| {
                let n = i as f32 + 4.0;
                // A tube closed at one end resonates once a kilohertz or so.
                let hz = (1010.0 * (n - 0.55) * voice.tract).min(0.48 * RATE);
                Resonator::new(hz, 130.0 + 60.0 * n)
            }),
            nose: Resonator::new(270.0, 100.0),
            nose_zero: Resonator::new(270.0, 100.0),
            bands: [Resonator::default(); 2],
            gains: [0.0; 2],
            last: [0.0; 2],
            scale: voice.tract,
        }
    }

    fn tune(&mut self, control: &Control) {
        let loss = 1.0 + 1.2 * control.breath + 0.8 * control.nasal;
        // The soft walls of the nose swallow the upper resonances.
        let nose = 1.0 + 2.0 * control.nasal;
        let widths = [65.0 * loss, 95.0 * loss * nose, 140.0 * loss * nose];
        for ((formant, hz), width) in self.formants.iter_mut().zip(control.formants).zip(widths) {
            formant.tune(hz, width * self.scale);
        }
        // The zero lies on the nose's pole and cancels it until the nose opens.
        self.nose_zero
            .tune(270.0 + 330.0 * control.nasal, 100.0 + 60.0 * control.nasal);
        for (i, [hz, width, gain]) in control.hiss.bands.into_iter().enumerate() {
            self.bands[i].tune(hz.min(0.45 * RATE), width);
            // Peak gain one, whatever the width; wide bands are then quieter again.
            self.gains[i] = gain * (width / 1500.0).sqrt() * peak_inverse(hz, width);
        }
    }

    #[inline(always)]
    fn run(&mut self, source: f32, noise: f32) -> f32 {
        let mut x = self.nose_zero.cancel(source);
        x = self.nose.run(x);
        for formant in &mut self.formants {
            x = formant.run(x);
        }
        for formant in &mut self.fixed {
            x = formant.run(x);
        }
        let mut hiss = 0.0;
        for i in 0..2 {
            let y = self.gains[i] * self.bands[i].run(noise);
            // Its slope, so that nothing low comes along.
            hiss += y - self.last[i];
            self.last[i] = y;
        }
        x + 1.2 * hiss
    }
}

/// One over the gain at `hz` of a resonator followed by a difference, about.
fn peak_inverse(hz: f32, width: f32) -> f32 {
    let r = (-PI * width / RATE).exp();
    let w = TAU * hz.min(0.45 * RATE) / RATE;
    let a = 1.0 - 2.0 * r * w.cos() + r * r;
    let pole = (1.0 - r) * (1.0 - 2.0 * r * (2.0 * w).cos() + r * r).sqrt();
    pole / (a.abs().max(1e-4) * 2.0 * (0.5 * w).sin())
}

/// Twice as many samples a second, by a windowed sinc.
fn double(samples: &[f32]) -> Vec<f32> {
    const HALF: i64 = 12;
    let taps: Vec<f32> = (-HALF..HALF)
        .map(|k| {
            let x = k as f32 + 0.5;
            let window = 0.5 + 0.5 * (PI * x / HALF as f32).cos();
            window * (PI * x).sin() / (PI * x)
        })
        .collect();
    let mut out = Vec::with_capacity(2 * samples.len());
    for i in 0..samples.len() as i64 {
        out.push(samples[i as usize]);
        let between: f32 = taps
            .iter()
            .enumerate()
            .map(|(j, tap)| {
                let at = i - (HALF - 1) + j as i64;
                samples.get(at as usize).map_or(0.0, |x| tap * x)
            })
            .sum();
        out.push(between);
    }
    out
}
