//! UniPC, order 2, B(h) = e^h - 1, predicting the data.

use candle_core::{Result, Tensor};

use crate::samplers::{Field, each};
use crate::x0_from_velocity;

/// UniPC-2 (Zhao et al., arXiv 2302.04867, algorithms 5 to 8, `bh2`) along falling `sigmas`.
///
/// Multistep in the half log-SNR `lambda = ln((1 - sigma) / sigma)`. Each new velocity first corrects the
/// state it was taken at (UniC), then carries it on (UniP). The first and the last step are of order 1.
pub fn unipc(field: &mut impl Field, x: Vec<Tensor>, sigmas: &[f64]) -> Result<Vec<Tensor>> {
    let mut x = field.hold(x)?;
    // What was known before: the corrected state it was stepped from, and the data predicted there and before.
    let mut past: Vec<Prediction> = Vec::new();
    for i in 0..sigmas.len().saturating_sub(1) {
        let velocity = field.velocity(&x, sigmas[i])?;
        let x0 = each(&x, &velocity, |part, x, v| {
            x0_from_velocity(x, v, field.level(part, sigmas[i]))
        })?;
        if let Some(last) = past.last() {
            let order = past.len().min(2);
            x = correct(field, last, before(&past, order), (&x0, sigmas[i]))?;
        }
        past.push(Prediction {
            sigma: sigmas[i],
            x,
            x0,
        });
        if past.len() > 2 {
            past.remove(0);
        }
        let order = past.len().min(sigmas.len() - 1 - i).min(2);
        let now = &past[past.len() - 1];
        x = predict(field, now, before(&past, order), sigmas[i + 1])?;
        x = field.hold(x)?;
    }
    Ok(x)
}

/// A state and the data predicted from it.
struct Prediction {
    sigma: f64,
    x: Vec<Tensor>,
    x0: Vec<Tensor>,
}

/// The prediction before the last, where the order makes use of it.
fn before(past: &[Prediction], order: usize) -> Option<&Prediction> {
    if order < 2 {
        return None;
    }
    past.len().checked_sub(2).map(|i| &past[i])
}

/// The scalars of a step from sigma to sigma'.
struct Step {
    /// `sigma' / sigma`.
    keep: f64,
    /// `1 - sigma'`.
    alpha: f64,
    /// `lambda' - lambda`.
    h: f64,
    /// `e^-h - 1`, which is both h*phi_1 and B(h).
    phi1: f64,
}

impl Step {
    fn new(from: f64, to: f64) -> Self {
        let h = lambda(to) - lambda(from);
        Self {
            keep: to / from,
            alpha: 1.0 - to,
            h,
            phi1: (-h).exp_m1(),
        }
    }
}

fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}

/// UniP: from the last prediction to `to`, with the slope to the one before it if there is one.
fn predict(
    field: &impl Field,
    now: &Prediction,
    before: Option<&Prediction>,
    to: f64,
) -> Result<Vec<Tensor>> {
    (0..now.x.len())
        .map(|m| {
            let level = |sigma| field.level(m, sigma);
            let step = Step::new(level(now.sigma), level(to));
            let mut slope = None;
            if let Some(before) = before {
                let back = lambda(level(before.sigma)) - lambda(level(now.sigma));
                let ratio = back / step.h;
                slope = Some((&before.x0[m] - &now.x0[m])?.affine(0.5 / ratio, 0.0)?);
            }
            advance(&now.x[m], &now.x0[m], slope, &step)
        })
        .collect()
}

/// UniC: the step that led to `to` again, now that `x0_here`, the data predicted there, is known.
fn correct(
    field: &impl Field,
    last: &Prediction,
    before: Option<&Prediction>,
    (x0_here, to): (&[Tensor], f64),
) -> Result<Vec<Tensor>> {
    (0..x0_here.len())
        .map(|m| {
            let level = |sigma| field.level(m, sigma);
            let step = Step::new(level(last.sigma), level(to));
            let here = (&x0_here[m] - &last.x0[m])?;
            let slope = match before {
                None => here.affine(0.5, 0.0)?,
                Some(before) => {
                    let back = lambda(level(before.sigma)) - lambda(level(last.sigma));
                    let ratio = back / step.h;
                    let (old, new) = corrector_weights(&step, ratio);
                    let earlier = (&before.x0[m] - &last.x0[m])?;
                    (earlier.affine(old / ratio, 0.0)? + here.affine(new, 0.0)?)?
                }
            };
            advance(&last.x[m], &last.x0[m], Some(slope), &step)
        })
        .collect()
}

/// Solves `[[1, 1], [ratio, 1]] * (old, new) = (b1, b2)` of UniC-2.
fn corrector_weights(step: &Step, ratio: f64) -> (f64, f64) {
    let hh = -step.h;
    let phi2 = step.phi1 / hh - 1.0;
    let phi3 = phi2 / hh - 0.5;
    let (b1, b2) = (phi2 / step.phi1, 2.0 * phi3 / step.phi1);
    let old = (b1 - b2) / (1.0 - ratio);
    (old, b1 - old)
}

/// `keep * x - alpha * phi1 * (x0 + slope)`.
fn advance(x: &Tensor, x0: &Tensor, slope: Option<Tensor>, step: &Step) -> Result<Tensor> {
    let target = match slope {
        Some(slope) => (x0 + slope)?,
        None => x0.clone(),
    };
    x.affine(step.keep, 0.0)? - target.affine(step.alpha * step.phi1, 0.0)?
}
