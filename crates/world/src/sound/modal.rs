//! Banks of decaying sinusoids: how solid things ring.

use std::f32::consts::TAU;

use super::noise::RATE;

/// One way in which a thing vibrates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mode {
    /// Hertz.
    pub(crate) hz: f32,
    /// Seconds in which it falls by 60 dB.
    pub(crate) decay: f32,
    /// Its first peak.
    pub(crate) gain: f32,
}

/// A pitch that starts away from where it ends, as that of a hard-struck skin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glide {
    /// The start, as a fraction above the end.
    pub(crate) by: f32,
    /// Seconds in which the distance falls to 37%.
    pub(crate) seconds: f32,
}

const LANES: usize = 8;
/// Samples between two corrections of the pitch.
const CONTROL: usize = 64;

/// Adds the ringing of `modes` to the start of `out`; every mode starts at phase zero.
pub(crate) fn ring(modes: &[Mode], glide: Option<Glide>, out: &mut [f32]) {
    let audible: Vec<Mode> = modes
        .iter()
        .copied()
        .filter(|m| m.gain.abs() > 1e-5 && m.hz > 10.0 && m.hz < 0.45 * RATE)
        .collect();
    for group in audible.chunks(LANES) {
        Bank::new(group).run(glide, out);
    }
}

/// Up to [`LANES`] phasors that turn together.
struct Bank {
    hz: [f32; LANES],
    shrink: [f32; LANES],
    re: [f32; LANES],
    im: [f32; LANES],
    samples: usize,
}

impl Bank {
    fn new(modes: &[Mode]) -> Self {
        let mut bank = Self {
            hz: [0.0; LANES],
            shrink: [0.0; LANES],
            re: [0.0; LANES],
            im: [0.0; LANES],
            samples: 0,
        };
        for (i, mode) in modes.iter().enumerate() {
            bank.hz[i] = mode.hz;
            bank.shrink[i] = super::noise::decay_per_sample(mode.decay);
            bank.re[i] = mode.gain;
            // Past -80 dB nothing is heard, and numbers would only grow tiny.
            bank.samples = bank.samples.max((mode.decay * 1.34 * RATE) as usize);
        }
        bank
    }

    fn run(mut self, glide: Option<Glide>, out: &mut [f32]) {
        let length = self.samples.min(out.len());
        let mut turn = self.turn(glide.map_or(0.0, |g| g.by));
        for (block, chunk) in out[..length].chunks_mut(CONTROL).enumerate() {
            if let Some(glide) = glide {
                let away = (-((block * CONTROL) as f32) / (glide.seconds * RATE)).exp();
                if away > 1e-3 {
                    turn = self.turn(glide.by * away);
                }
            }
            self.block(&turn, chunk);
        }
    }

    /// The complex factors a sample, all pitches raised by the fraction `by`.
    fn turn(&self, by: f32) -> ([f32; LANES], [f32; LANES]) {
        let angle = |i: usize| TAU * self.hz[i] * (1.0 + by) / RATE;
        (
            std::array::from_fn(|i| self.shrink[i] * angle(i).cos()),
            std::array::from_fn(|i| self.shrink[i] * angle(i).sin()),
        )
    }

    fn block(&mut self, (cos, sin): &([f32; LANES], [f32; LANES]), out: &mut [f32]) {
        let (mut re, mut im) = (self.re, self.im);
        for y in out {
            let mut sum = 0.0;
            for i in 0..LANES {
                let next = re[i] * cos[i] - im[i] * sin[i];
                im[i] = re[i] * sin[i] + im[i] * cos[i];
                re[i] = next;
                sum += im[i];
            }
            *y += sum;
        }
        (self.re, self.im) = (re, im);
    }
}
