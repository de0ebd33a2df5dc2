//! Which noise levels training visits.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::shifted;

/// A distribution of noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigmaDistribution {
    /// Even in (0, 1), then [`shifted`].
    Uniform {
        /// 1 leaves it even; larger prefers noise.
        shift: f64,
    },
    /// The logistic function of a normal variable (SD3, arXiv 2403.03206), then [`shifted`].
    LogitNormal {
        /// Of the normal variable.
        mean: f64,
        /// Of the normal variable.
        std: f64,
        /// 1 leaves it; larger prefers noise.
        shift: f64,
    },
}

impl SigmaDistribution {
    /// The noise level at quantile `u` in (0, 1): rises with `u`.
    pub fn quantile(&self, u: f64) -> f64 {
        match *self {
            Self::Uniform { shift } => shifted(u, shift),
            Self::LogitNormal { mean, std, shift } => {
                let z = mean + std * normal_quantile(u);
                shifted(1.0 / (1.0 + (-z).exp()), shift)
            }
        }
    }

    /// How far it prefers noise, which is how a schedule for the same model should be shifted.
    pub fn shift(&self) -> f64 {
        match *self {
            Self::Uniform { shift } | Self::LogitNormal { shift, .. } => shift,
        }
    }

    /// One level.
    pub fn sample(&self, rng: &mut impl Rng) -> f64 {
        self.quantile(open_unit(rng))
    }

    /// `n` levels, one in each n-th part of the distribution, in random order: each is distributed as
    /// [`Self::sample`], but a batch of them covers all noise levels evenly, which steadies the gradient.
    pub fn stratified(&self, n: usize, rng: &mut impl Rng) -> Vec<f64> {
        let mut levels: Vec<f64> = (0..n)
            .map(|i| self.quantile((i as f64 + open_unit(rng)) / n as f64))
            .collect();
        for i in (1..n).rev() {
            levels.swap(i, rng.random_range(0..=i));
        }
        levels
    }
}

/// Even in (0, 1), neither end included.
fn open_unit(rng: &mut impl Rng) -> f64 {
    rng.random::<f64>().clamp(1e-9, 1.0 - 1e-9)
}

/// The quantile function of the standard normal distribution (Acklam's rational approximation, relative
/// error below 1.2e-9).
fn normal_quantile(u: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const E: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    let poly = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        poly(&C, q) / poly(&E, q)
    };
    match u {
        _ if u < 0.02425 => tail(u),
        _ if u > 1.0 - 0.02425 => -tail(1.0 - u),
        _ => {
            let q = u - 0.5;
            q * poly(&A, q * q) / poly(&B, q * q)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (u, z) in [
            (0.5, 0.0),
            (0.841_344_746, 1.0),
            (0.001_349_898, -3.0),
            (0.975, 1.959_964),
        ] {
            assert!((normal_quantile(u) - z).abs() < 1e-6, "{u}");
        }
    }

    #[test]
    fn every_stratum_is_visited_once() {
        let mut rng = Pcg64::seed_from_u64(3);
        let even = SigmaDistribution::Uniform { shift: 1.0 };
        let mut levels = even.stratified(16, &mut rng);
        levels.sort_by(f64::total_cmp);
        for (i, level) in levels.iter().enumerate() {
            assert_eq!((level * 16.0) as usize, i);
        }
    }

    #[test]
    fn logit_normal_has_its_median_where_it_should() {
        let mut rng = Pcg64::seed_from_u64(4);
        let d = SigmaDistribution::LogitNormal {
            mean: 0.0,
            std: 1.0,
            shift: 3.0,
        };
        let below = (0..4000).filter(|_| d.sample(&mut rng) < 0.75).count();
        assert!((1850..2150).contains(&below), "{below}");
    }
}
