//! Restart sampling: back up in noise and down again, so that errors are forgotten.

use std::ops::Range;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::samplers::Field;

/// Restart sampling (Xu et al., arXiv 2306.14878): a sampler that has come down to a low noise level gets fresh noise
/// up to a high one and comes down again, several times, before it goes on.
///
/// What a network got wrong between the two levels is forgotten with the noise, as in stochastic sampling; the steps
/// themselves stay deterministic and few. Worth it between the levels where it is decided what is where: a thing that
/// a deterministic sampler leaves half here and half there is whole after some rounds.
///
/// By default none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// The schedule's level from which noise is added.
    pub low: f64,
    /// The level up to which it is added.
    pub high: f64,
    /// How often.
    pub times: usize,
}

impl Restart {
    /// The steps along `sigmas` that are taken again: between the levels nearest to [`Self::high`] and [`Self::low`].
    /// Empty if there are none between, or they are not taken again.
    pub fn again(&self, sigmas: &[f64]) -> Range<usize> {
        let nearest = |level: f64| {
            let far = |i: &usize| (sigmas[*i] - level).abs();
            (0..sigmas.len()).min_by(|a, b| far(a).total_cmp(&far(b)))
        };
        match (self.times, nearest(self.high), nearest(self.low)) {
            (1.., Some(high), Some(low)) if high < low => high..low,
            _ => 0..0,
        }
    }

    /// Steps in all along `sigmas`.
    pub fn steps(&self, sigmas: &[f64]) -> usize {
        let again = self.times.saturating_mul(self.again(sigmas).len());
        again.saturating_add(sigmas.len().saturating_sub(1))
    }
}

/// A sampler along some falling levels, with a source of fresh noise of a shape.
pub type Run<'a, F> =
    &'a mut dyn FnMut(&mut F, Vec<Tensor>, &[f64], Noise<'_>) -> Result<Vec<Tensor>>;
/// Fresh noise of a shape.
pub type Noise<'a> = &'a mut dyn FnMut(&[usize]) -> Result<Tensor>;

/// Follows `field` from `x` along falling `sigmas` by the sampler `run`, with restarts.
///
/// # Errors
/// What `run` and `noise` return.
pub fn restarted<F: Field>(
    restart: &Restart,
    field: &mut F,
    mut x: Vec<Tensor>,
    sigmas: &[f64],
    run: Run<F>,
    noise: Noise,
) -> Result<Vec<Tensor>> {
    let Range { start, end } = restart.again(sigmas);
    if start == end {
        return run(field, x, sigmas, noise);
    }
    x = run(field, x, &sigmas[..=end], noise)?;
    for round in 1..=restart.times {
        for (part, x) in x.iter_mut().enumerate() {
            let levels = [end, start].map(|i| field.level(part, sigmas[i]));
            *x = lifted(x, levels, &noise(x.dims())?)?;
        }
        let last = match round == restart.times {
            true => sigmas.len() - 1,
            false => end,
        };
        x = run(field, x, &sigmas[start..=last], noise)?;
    }
    Ok(x)
}

/// A state at the level `from`, brought to the higher level `to` by fresh noise.
fn lifted(x: &Tensor, [from, to]: [f64; 2], noise: &Tensor) -> Result<Tensor> {
    let keep = (1.0 - to) / (1.0 - from);
    let fresh = (to * to - (keep * from).powi(2)).max(0.0).sqrt();
    x.affine(keep, 0.0)? + noise.affine(fresh, 0.0)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_again_where_there_are_some() {
        let restart = |low, high, times| Restart { low, high, times };
        let sigmas = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0];
        let usual = restart(0.38, 0.81, 3);
        assert_eq!(usual.again(&sigmas), 1..3);
        assert_eq!(usual.steps(&sigmas), 5 + 3 * 2);
        for none in [
            restart(0.38, 0.81, 0),
            restart(0.41, 0.42, 9),
            restart(0.9, 0.1, 2),
        ] {
            assert_eq!(none.steps(&sigmas), 5);
        }
        assert_eq!(usual.steps(&[]), 0);
    }
}
