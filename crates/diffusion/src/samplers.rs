//! One-step samplers: Euler, few-step renoise, SDE.

use candle_core::{Result, Tensor};

use crate::{add_noise, x0_from_velocity};

/// The velocities of a state, and what of it is given. Closures `|state, sigma| -> velocities` are fields
/// with nothing given.
pub trait Field {
    /// The velocity of each modality, each of the shape of its state.
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>>;

    /// The noise level of part `part` of the state when the schedule is at `sigma`: a part may run ahead
    /// of the others. Rises with `sigma`, from 0 to 1.
    fn level(&self, part: usize, sigma: f64) -> f64 {
        let _ = part;
        sigma
    }

    /// Puts what is given back into the state; called before every velocity and on the result.
    fn hold(&mut self, x: Vec<Tensor>) -> Result<Vec<Tensor>> {
        Ok(x)
    }
}

impl<F: FnMut(&[Tensor], f64) -> Result<Vec<Tensor>>> Field for F {
    fn velocity(&mut self, x: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
        self(x, sigma)
    }
}

/// Euler's method along falling `sigmas`: `x += (sigma' - sigma) * velocity`.
pub fn euler(field: &mut impl Field, x: Vec<Tensor>, sigmas: &[f64]) -> Result<Vec<Tensor>> {
    let mut x = field.hold(x)?;
    for pair in sigmas.windows(2) {
        let velocity = field.velocity(&x, pair[0])?;
        x = each(&x, &velocity, |part, x, v| {
            let (from, to) = levels(field, part, pair);
            x + v.affine(to - from, 0.0)?
        })?;
        x = field.hold(x)?;
    }
    Ok(x)
}

/// Few-step sampling of distilled models (consistency sampling, arXiv 2303.01469, algorithm 1, on the
/// straight path): to the data and back to the next level with fresh `noise(like)`.
pub fn renoise(
    field: &mut impl Field,
    x: Vec<Tensor>,
    sigmas: &[f64],
    mut noise: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let mut x = field.hold(x)?;
    for pair in sigmas.windows(2) {
        let velocity = field.velocity(&x, pair[0])?;
        x = each(&x, &velocity, |part, x, v| {
            renoise_step(x, v, &noise(x)?, levels(field, part, pair))
        })?;
        x = field.hold(x)?;
    }
    Ok(x)
}

/// `x0 = x - sigma * v`, then `sigma' * noise + (1 - sigma') * x0`; `sigmas` are (sigma, sigma').
pub fn renoise_step(
    x: &Tensor,
    velocity: &Tensor,
    noise: &Tensor,
    sigmas: (f64, f64),
) -> Result<Tensor> {
    add_noise(&x0_from_velocity(x, velocity, sigmas.0)?, noise, sigmas.1)
}

/// Stochastic sampling: each step of index `i` exchanges the share `theta(i)` of its noise for new noise,
/// from 0 (Euler) to 1 (renoise).
pub fn sde(
    field: &mut impl Field,
    x: Vec<Tensor>,
    sigmas: &[f64],
    theta: impl Fn(usize) -> f64,
    mut noise: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let mut x = field.hold(x)?;
    for (i, pair) in sigmas.windows(2).enumerate() {
        let velocity = field.velocity(&x, pair[0])?;
        x = each(&x, &velocity, |part, x, v| {
            sde_step(x, v, &noise(x)?, levels(field, part, pair), theta(i))
        })?;
        x = field.hold(x)?;
    }
    Ok(x)
}

/// One step of [`sde`] (after Flow-GRPO, arXiv 2505.05470): with `c` and `s` the cosine and sine of
/// `theta * pi/2`, the predicted noise is kept by `c` and new noise comes in by `s`.
pub fn sde_step(
    x: &Tensor,
    velocity: &Tensor,
    noise: &Tensor,
    sigmas: (f64, f64),
    theta: f64,
) -> Result<Tensor> {
    let (s, c) = (theta * std::f64::consts::FRAC_PI_2).sin_cos();
    let x0 = x0_from_velocity(x, velocity, sigmas.0)?;
    let kept = (&x0 + velocity)?;
    (x0.affine(1.0 - sigmas.1, 0.0)? + kept.affine(sigmas.1 * c, 0.0)?)?
        + noise.affine(sigmas.1 * s, 0.0)?
}

/// The public code's share of new noise at step `i` of `num_steps`: every second step in the first three
/// quarters, every third (counted from the start) after.
pub fn sde_theta(i: usize, num_steps: usize) -> f64 {
    let fresh = if i < num_steps * 3 / 4 {
        (i + 1).is_multiple_of(2)
    } else {
        i.is_multiple_of(3)
    };
    f64::from(u8::from(fresh))
}

/// The two levels of a step, for one part of the state.
fn levels(field: &impl Field, part: usize, pair: &[f64]) -> (f64, f64) {
    (field.level(part, pair[0]), field.level(part, pair[1]))
}

/// `f` over the modalities, with their numbers.
pub(crate) fn each(
    x: &[Tensor],
    y: &[Tensor],
    mut f: impl FnMut(usize, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    if x.len() != y.len() {
        candle_core::bail!(
            "a state of {} modalities, velocities of {}",
            x.len(),
            y.len()
        );
    }
    (x.iter().zip(y).enumerate())
        .map(|(part, (x, y))| f(part, x, y))
        .collect()
}
