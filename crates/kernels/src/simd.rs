//! Loops compiled once for each width of vectors, and the functions that they are made of.
//!
//! The functions have no branches and no calls, so that the compiler turns the loops around them into vectors.
//! They multiply and add in two roundings on every processor, so that all instruction sets agree, but where `FUSED`
//! says otherwise (in attention, where they count).

use crate::isa::{Isa, isa};

/// A loop over slices. `run` must be `#[inline(always)]`, and all that it calls too.
pub trait Loop {
    /// What it gives back.
    type Output;
    /// The loop itself.
    fn run(self) -> Self::Output;

    /// The same where products and sums fuse into one instruction.
    #[inline(always)]
    fn run_fused(self) -> Self::Output
    where
        Self: Sized,
    {
        self.run()
    }
}

/// Runs a loop as compiled for the instruction set in use.
#[cfg(target_arch = "x86_64")]
pub fn vectorised<L: Loop>(l: L) -> L::Output {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    fn avx512<L: Loop>(l: L) -> L::Output {
        l.run_fused()
    }
    #[target_feature(enable = "avx2,fma")]
    fn avx2<L: Loop>(l: L) -> L::Output {
        l.run_fused()
    }
    match isa() {
        // SAFETY: `isa` is supported, and the first three all have these features.
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => unsafe { avx512(l) },
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(l) },
        Isa::Portable => l.run(),
    }
}

/// Runs a loop as compiled for the instruction set in use.
#[cfg(not(target_arch = "x86_64"))]
pub fn vectorised<L: Loop>(l: L) -> L::Output {
    debug_assert_eq!(isa(), Isa::Portable);
    l.run()
}

/// Partial results of a row: two vectors of the widest kind.
pub const LANES: usize = 32;

/// The sum of `f(a[i], b[i])`, in an order that does not depend on the instruction set.
#[inline(always)]
pub fn sum(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| f(*a, *b)).sum();
    reduce(lanes, |a, b| a + b) + rest
}

/// All lanes in one, halving their number again and again.
#[inline(always)]
pub fn reduce(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// a * b + c, in one rounding if `FUSED` and in two otherwise.
#[inline(always)]
pub fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The greatest of `a`, or -inf.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = a.as_chunks::<LANES>();
    for a in whole {
        for i in 0..LANES {
            lanes[i] = greater(a[i], lanes[i]);
        }
    }
    (rest.iter()).fold(reduce(lanes, greater), |m, a| greater(*a, m))
}

/// Adding it rounds to the nearest integer, which then lies in the low bits.
pub const ROUND: f32 = 12_582_912.0;
/// The polynomial of least relative error from 2^x on -1/2..1/2, highest power first.
pub const EXP2: [f32; 6] = [
    1.326_697e-3,
    9.675_46e-3,
    5.550_742_5e-2,
    2.402_212_2e-1,
    6.931_469_4e-1,
    1.000_000_1,
];

/// 2^x within 3e-7 of its value, for x up to 127; below -126 about 1e-38 instead of less.
#[inline(always)]
pub fn exp2<const FUSED: bool>(x: f32) -> f32 {
    let x = if x > -126.0 { x } else { -126.0 };
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let p = fma::<FUSED>(EXP2[0], r, EXP2[1]);
    let p = fma::<FUSED>(p, r, EXP2[2]);
    let p = fma::<FUSED>(p, r, EXP2[3]);
    let p = fma::<FUSED>(p, r, EXP2[4]);
    let p = fma::<FUSED>(p, r, EXP2[5]);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits().wrapping_shl(23)))
}

/// e^x within 2 units in the last place; below -87.3 about 1e-38 instead of less.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // The minimax polynomial of Cephes' expf.
    let p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_3e-1;
    let p = p * (r * r) + r + 1.0;
    let power = shifted.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000);
    p * f32::from_bits(power)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, within 1e-7 of the truth.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // Small arguments by the series: the difference of two near numbers would lose their digits.
    let s = x * x;
    let series = x * (1.0 + s * (-0.333_333_34 + s * (0.133_333_34 - s * 0.053_968_254)));
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if s < 0.02 { series } else { far }
}

/// The error function, within 4e-7 of the truth (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let p = 1.061_405_4 * t - 1.453_152;
    let p = (p * t + 1.421_413_7) * t - 0.284_496_74;
    let p = (p * t + 0.254_829_6) * t;
    (1.0 - p * exp(-x * x)).copysign(x)
}

/// Sine and cosine of x less the nearest multiple of pi: right up to a common sign, and so are their products.
/// Within 1e-6 for |x| up to about 10,000.
#[inline(always)]
pub fn sin_cos_half_turns(x: f32) -> (f32, f32) {
    let n = (x * std::f32::consts::FRAC_1_PI + ROUND) - ROUND;
    let r = ((x - n * 3.140_625) - n * 9.670_257_6e-4) - n * 6.277_114e-7;
    let s = r * r;
    let sin = 2.755_731_9e-6 - s * 2.505_210_8e-8;
    let sin = -1.984_127e-4 + s * sin;
    let sin = -0.166_666_67 + s * (8.333_333e-3 + s * sin);
    let cos = 2.480_158_7e-5 - s * (2.755_732e-7 - s * 2.087_675_7e-9);
    let cos = -0.5 + s * (4.166_666_8e-2 + s * (-1.388_888_9e-3 + s * cos));
    (r + r * s * sin, 1.0 + s * cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> impl Iterator<Item = f32> {
        (-20_000..=20_000).map(|i| i as f32 * 1e-3)
    }

    #[test]
    fn functions_are_near_the_truth() {
        for x in points() {
            let d = f64::from(x);
            assert!((f64::from(exp(x)) / d.exp() - 1.0).abs() < 3e-7, "exp {x}");
            let two = f64::from(exp2::<false>(x));
            assert!((two / d.exp2() - 1.0).abs() < 5e-7, "exp2 {x}");
            assert!((f64::from(tanh(x)) - d.tanh()).abs() < 2e-7, "tanh {x}");
            let (s, c) = sin_cos_half_turns(x);
            let (s, c) = (f64::from(s), f64::from(c));
            assert!((s * s - d.sin().powi(2)).abs() < 2e-6, "sin {x}");
            assert!((2.0 * s * c - (2.0 * d).sin()).abs() < 3e-6, "sin cos {x}");
        }
    }

    #[test]
    fn erf_is_near_its_integral() {
        // Simpson's rule from 0 to x.
        let truth = |x: f64| {
            let (n, f) = (400, |t: f64| (-t * t).exp());
            let h = x / f64::from(n);
            let inner: f64 = (1..n)
                .map(|i| f(h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 })
                .sum();
            (f(0.0) + inner + f(x)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
        };
        for i in -500..=500 {
            let x = i as f32 * 0.01;
            assert!(
                (f64::from(erf(x)) - truth(f64::from(x))).abs() < 5e-7,
                "{x}"
            );
        }
    }

    #[test]
    fn extremes_stay_finite() {
        for x in [f32::MAX, 1e4, 89.0] {
            assert!(exp2::<false>(-2.0 * x) < 1e-37 && exp2::<true>(f32::NEG_INFINITY) < 1e-37);
            assert!(exp(x).is_finite() && exp(-x) < 1e-37);
            assert!((sigmoid(x), tanh(x)) == (1.0, 1.0) && (erf(x) - 1.0).abs() < 2e-7);
            assert!(sigmoid(-x) < 1e-37 && tanh(-x) == -1.0);
        }
    }

    #[test]
    fn sums_take_every_number() {
        for n in [0usize, 1, 31, 32, 33, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&a, &a, |a, _| a), (n * n.saturating_sub(1) / 2) as f32);
        }
    }
}
