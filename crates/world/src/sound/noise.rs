//! Noise and the filters that shape it.

use std::f32::consts::PI;

/// Samples a second.
pub(super) const RATE: f32 = gallop_core::SAMPLE_RATE as f32;

/// A fast stream of chance; equal seeds give equal streams on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The generator stands still at zero.
        Self((z ^ (z >> 31)) | 1)
    }

    /// Uniform in [-1, 1).
    #[inline(always)]
    pub(crate) fn white(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32
    }

    /// Uniform in [0, 1).
    #[inline(always)]
    pub(crate) fn unit(&mut self) -> f32 {
        0.5 * (self.white() + 1.0)
    }

    /// A factor about 1, at most `spread` away.
    pub(crate) fn about_one(&mut self, spread: f32) -> f32 {
        1.0 + spread * self.white()
    }
}

/// A one-pole low-pass; 6 dB an octave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LowPass {
    coefficient: f32,
    state: f32,
}

impl LowPass {
    pub(crate) fn new(hz: f32) -> Self {
        let mut filter = Self::default();
        filter.tune(hz);
        filter
    }

    pub(crate) fn tune(&mut self, hz: f32) {
        self.coefficient = 1.0 - (-2.0 * PI * hz.min(0.45 * RATE) / RATE).exp();
    }

    #[inline(always)]
    pub(crate) fn run(&mut self, x: f32) -> f32 {
        self.state += self.coefficient * (x - self.state);
        self.state
    }
}

/// A two-pole state-variable filter after Simper: band and low outputs, safe to retune at will.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Band {
    g: f32,
    k: f32,
    a1: f32,
    s1: f32,
    s2: f32,
}

impl Band {
    pub(crate) fn new(hz: f32, q: f32) -> Self {
        let mut band = Self::default();
        band.tune(hz, q);
        band
    }

    pub(crate) fn tune(&mut self, hz: f32, q: f32) {
        self.g = (PI * hz.clamp(10.0, 0.45 * RATE) / RATE).tan();
        self.k = 1.0 / q.max(0.05);
        self.a1 = 1.0 / (1.0 + self.g * (self.g + self.k));
    }

    /// The band-pass output, gain 1 at the middle.
    #[inline(always)]
    pub(crate) fn run(&mut self, x: f32) -> f32 {
        let v1 = self.a1 * (self.s1 + self.g * (x - self.s2));
        let v2 = self.s2 + self.g * v1;
        self.s1 = 2.0 * v1 - self.s1;
        self.s2 = 2.0 * v2 - self.s2;
        v1 * self.k
    }
}

/// A burst of noise between two frequencies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burst {
    /// Lower edge, hertz.
    pub(crate) low: f32,
    /// Upper edge, hertz.
    pub(crate) high: f32,
    /// Seconds until it is as loud as it gets.
    pub(crate) attack: f32,
    /// Seconds in which it then falls by 60 dB.
    pub(crate) decay: f32,
    /// About its peak.
    pub(crate) gain: f32,
}

impl Burst {
    /// Adds the burst to the start of `out`.
    pub(crate) fn add(&self, out: &mut [f32], noise: &mut Noise) {
        let mut filter = Strip::new(self.low, self.high);
        let rise = 1.0 / (self.attack * RATE).max(1.0);
        let fall = decay_per_sample(self.decay);
        let (mut ramp, mut level) = (0.0f32, self.gain);
        for y in out {
            ramp = (ramp + rise).min(1.0);
            if ramp >= 1.0 {
                level *= fall;
                if level < 1e-4 * self.gain.abs() {
                    break;
                }
            }
            *y += ramp * level * filter.run(noise.white());
        }
    }
}

/// Passes what lies between two frequencies, with about the same level for every width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip {
    above: LowPass,
    below: [LowPass; 2],
    level: f32,
}

impl Strip {
    pub(crate) fn new(low: f32, high: f32) -> Self {
        let width = ((high - low) / (0.5 * RATE)).clamp(1e-3, 1.0);
        Self {
            above: LowPass::new(low),
            below: [LowPass::new(high); 2],
            level: 0.8 / width.sqrt(),
        }
    }

    #[inline(always)]
    pub(crate) fn run(&mut self, x: f32) -> f32 {
        let x = self.below[0].run(x * self.level);
        let x = self.below[1].run(x);
        x - self.above.run(x)
    }
}

/// The factor a sample that falls by 60 dB in `seconds`.
pub(crate) fn decay_per_sample(seconds: f32) -> f32 {
    (-6.907_755 / (seconds.max(1e-4) * RATE)).exp()
}
