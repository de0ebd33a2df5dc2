//! Losses over plain slices, with their gradients by hand: one pass each, no graph.

use candle_core::{Result, Tensor};
use rand::RngExt;
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;
use rayon::prelude::*;

/// Elements a task of the thread pool.
const CHUNK: usize = 1 << 14;

/// A loss and its gradient with respect to what was predicted.
pub struct Graded {
    /// The loss.
    pub value: f64,
    /// As long as the prediction.
    pub gradient: Vec<f32>,
}

impl Graded {
    /// Adds another loss of the same prediction, `weight` times.
    pub fn add(&mut self, other: &Self, weight: f32) {
        self.value += other.value * f64::from(weight);
        for (sum, g) in self.gradient.iter_mut().zip(&other.gradient) {
            *sum += weight * g;
        }
    }

    /// A scalar tensor with this value whose gradient with respect to `predicted` is this gradient.
    ///
    /// # Errors
    /// If the gradient does not fit the prediction.
    pub fn attach(self, predicted: &Tensor) -> Result<Tensor> {
        let gradient = Tensor::from_vec(self.gradient, predicted.dims(), predicted.device())?;
        // sum(p * g) has gradient g; the constant beside it makes the value right.
        let product = (predicted * gradient)?.sum_all()?;
        let offset = self.value - f64::from(product.to_scalar::<f32>()?);
        product.affine(1.0, offset)
    }
}

/// Noise like `latents: [B, ..]`; each clip of the batch draws a standard deviation up to `most`.
///
/// # Errors
/// If the tensor cannot be made.
pub fn latent_noise(latents: &Tensor, most: f64, rng: &mut Pcg64) -> crate::Result<Tensor> {
    let clips = latents.dim(0)?;
    let each = latents.elem_count() / clips;
    let mut noise = Vec::with_capacity(clips * each);
    for _ in 0..clips {
        let std = (rng.random::<f64>() * most) as f32;
        noise.extend((0..each).map(|_| std * rng.sample::<f32, _>(StandardNormal)));
    }
    Ok(Tensor::from_vec(noise, latents.dims(), latents.device())?)
}

/// What pixels are judged by.
pub struct PixelErrors {
    /// The loss `absolute * mean |d| + squared * mean d^2`.
    pub graded: Graded,
    /// Mean of d^2.
    pub mse: f64,
}

/// Judges `predicted` against `target`; only runs of `run` elements whose entry in `kept` is true count.
pub fn pixel_errors(
    predicted: &[f32],
    target: &[f32],
    kept: &[bool],
    [absolute, squared]: [f32; 2],
) -> PixelErrors {
    let run = predicted.len() / kept.len();
    let count = (kept.iter().filter(|k| **k).count() * run).max(1) as f64;
    let mut gradient = vec![0f32; predicted.len()];
    let scale = 1.0 / count as f32;
    let sums: Vec<[f64; 2]> = gradient
        .par_chunks_mut(CHUNK)
        .zip(predicted.par_chunks(CHUNK))
        .zip(target.par_chunks(CHUNK))
        .enumerate()
        .map(|(chunk, ((gradient, predicted), target))| {
            let mut sums = [0f64; 2];
            for (i, ((g, p), t)) in gradient.iter_mut().zip(predicted).zip(target).enumerate() {
                if kept[(chunk * CHUNK + i) / run] {
                    let d = p - t;
                    *g = scale * (absolute * d.signum() + 2.0 * squared * d);
                    sums[0] += f64::from(d.abs());
                    sums[1] += f64::from(d * d);
                }
            }
            sums
        })
        .collect();
    let [l1, mse] = [0, 1].map(|k| sums.iter().map(|s| s[k]).sum::<f64>() / count);
    PixelErrors {
        graded: Graded {
            value: f64::from(absolute) * l1 + f64::from(squared) * mse,
            gradient,
        },
        mse,
    }
}

/// [`PixelErrors`] as part of a graph.
pub struct PixelLoss {
    /// The loss, a scalar.
    pub total: Tensor,
    /// Its value.
    pub value: f64,
    /// Mean of d^2.
    pub mse: f64,
}

/// Judges `predicted` against `target`, both `[B, T, ..]`, but for the first `skip` of T: where the tensors are, so
/// that a GPU's pixels stay there.
///
/// # Errors
/// If the shapes differ.
pub fn pixel_loss(
    predicted: &Tensor,
    target: &Tensor,
    skip: usize,
    judged: [f32; 2],
) -> Result<PixelLoss> {
    let frames = predicted.dim(1)?;
    if predicted.device().is_cpu() {
        let flat = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        let all = predicted.dim(0)? * frames;
        let kept: Vec<bool> = (0..all).map(|t| t % frames >= skip).collect();
        let errors = pixel_errors(&flat(predicted)?, &flat(target)?, &kept, judged);
        let (value, mse) = (errors.graded.value, errors.mse);
        let total = errors.graded.attach(predicted)?;
        return Ok(PixelLoss { total, value, mse });
    }
    let kept = |x: &Tensor| x.narrow(1, skip, frames - skip);
    let gap = (kept(predicted)? - kept(target)?)?;
    let count = gap.elem_count().max(1) as f64;
    let mean = |x: Tensor| gallop_kernels::sum_in_parts(&x)? / count;
    let squares = mean(gap.sqr()?)?;
    let [absolute, squared] = judged.map(f64::from);
    let total = ((mean(gap.abs()?)? * absolute)? + (&squares * squared)?)?;
    Ok(PixelLoss {
        value: f64::from(total.to_scalar::<f32>()?),
        mse: f64::from(squares.to_scalar::<f32>()?),
        total,
    })
}

/// Greatest squared difference of pixels in [-1, 1].
const PEAK: f64 = 4.0;

impl PixelLoss {
    /// Peak signal-to-noise ratio, in dB.
    pub fn psnr(&self) -> f64 {
        10.0 * (PEAK / self.mse).log10()
    }
}

/// [`pixel_loss`] of a clip, with `change` times [`change_loss`] in its total where that is not 0.
///
/// # Errors
/// If the shapes differ.
pub fn clip_loss(
    predicted: &Tensor,
    target: &Tensor,
    skip: usize,
    (judged, change): ([f32; 2], f64),
) -> Result<PixelLoss> {
    let mut loss = pixel_loss(predicted, target, skip, judged)?;
    if change > 0.0
        && let Some(changed) = change_loss(predicted, target, skip)?
    {
        loss.total = (loss.total + (changed * change)?)?;
    }
    Ok(loss)
}

/// A change of a pixel in [-1, 1] from which on it is one that moves.
const MOVES: f64 = 0.25;

/// What the pixels of `target: [B, T, ..]` count: 1, and up to `more` more where they change from the frame before or to
/// the next. To be multiplied with both what is judged and the target: differences count as they are, squares twice over.
///
/// # Errors
/// If there is no memory.
pub fn moving_weights(target: &Tensor, more: f64) -> Result<Tensor> {
    let frames = target.dim(1)?;
    if frames < 2 {
        return target.ones_like();
    }
    let change = changes(target)?.abs()?;
    let none = target.narrow(1, 0, 1)?.zeros_like()?;
    let before = Tensor::cat(&[&none, &change], 1)?;
    let after = Tensor::cat(&[&change, &none], 1)?;
    let moves = (before.maximum(&after)? / MOVES)?.clamp(0f32, 1f32)?;
    (moves * more)? + 1.0
}

/// What every frame of `x: [B, T, ..]` but the first differs by from the one before; T is at least 2.
fn changes(x: &Tensor) -> Result<Tensor> {
    let from = |t: usize| x.narrow(1, t, x.dim(1)? - 1);
    from(1)? - from(0)?
}

/// Changes of pixels in [-1, 1] below which [`change_loss`] is smooth: an eighth of a step of 8 bits.
const SOFT: f64 = 1e-3;

/// How much the error of a clip changes from frame to frame: `mean |c| + mean c^2` of `c = d_t - d_(t - 1)`, where
/// `|c|` is rounded off within [`SOFT`] and `d = predicted - target`, both `[B, T, ..]`, but for the first `skip` of T.
/// None where fewer than two frames are left.
///
/// Pixels alone let a still picture step where one latent ends and the next begins; an eye sees that as flicker.
///
/// # Errors
/// If the shapes differ.
pub fn change_loss(predicted: &Tensor, target: &Tensor, skip: usize) -> Result<Option<Tensor>> {
    let frames = predicted.dim(1)? - skip;
    if frames < 2 {
        return Ok(None);
    }
    let change = changes(&(predicted - target)?.narrow(1, skip, frames)?)?;
    let count = change.elem_count() as f64;
    let mean = |x: Tensor| gallop_kernels::sum_in_parts(&x)? / count;
    let squares = change.sqr()?;
    // The slope of `abs` is 1 at 0 here, which would push what does not change.
    let sizes = ((&squares + SOFT * SOFT)?.sqrt()? - SOFT)?;
    Ok(Some((mean(sizes)? + mean(squares)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn gradients_agree_with_differences() {
        let predicted: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
        let target: Vec<f32> = (0..24).map(|i| (i as f32 * 0.3).cos()).collect();
        let kept = [true, false, true];
        let loss = |p: &[f32]| pixel_errors(p, &target, &kept, [0.7, 0.4]).graded;
        let gradient = loss(&predicted).gradient;
        for i in 0..24 {
            let moved = |by: f32| {
                let mut p = predicted.clone();
                p[i] += by;
                loss(&p).value
            };
            let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-4, "{i}");
        }
    }

    #[test]
    fn an_error_that_stays_changes_nothing() -> Result<()> {
        let cpu = &Device::Cpu;
        // Two clips of four frames of one pixel; the first frame is skipped.
        let target = Tensor::new(&[[9f32, 1.0, 2.0, 3.0], [9.0, 5.0, 5.0, 5.0]], cpu)?;
        let target = target.reshape((2, 4, 1))?;
        let off = Var::from_tensor(&(&target + 0.5)?)?;
        let loss = |x: &Tensor| change_loss(x, &target, 1).map(|loss| loss.expect("three frames"));
        assert_eq!(loss(&off)?.to_scalar::<f32>()?, 0.0);
        let step = Tensor::new(&[[0f32, 0.0, 0.0, 2.0], [0.0; 4]], cpu)?.reshape((2, 4, 1))?;
        let off = Var::from_tensor(&(&target + step)?)?;
        let value = loss(&off)?;
        // One change of 2 among four pairs.
        assert!((value.to_scalar::<f32>()? - 1.5).abs() < 1e-3);
        let grads = value.backward()?;
        let grad = grads.get(&off).expect("a variable").flatten_all()?;
        let want = [0.0, 0.0, -1.25, 1.25, 0.0, 0.0, 0.0, 0.0];
        for (got, want) in grad.to_vec1::<f32>()?.iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
        assert!(change_loss(&off, &target, 3)?.is_none());
        Ok(())
    }

    #[test]
    fn what_moves_counts_more_before_and_after() -> Result<()> {
        // A still pixel, one that changes a little and one that jumps between the second and the third frame.
        let frames = [
            [0f32, 0.1, -1.0],
            [0.0, 0.1, -1.0],
            [0.0, 0.2, 1.0],
            [0.0, 0.2, 1.0],
        ];
        let clip = Tensor::new(&frames, &Device::Cpu)?.reshape((1, 4, 3))?;
        let counts = moving_weights(&clip, 3.0)?.squeeze(0)?.to_vec2::<f32>()?;
        let (still, moves) = ([1.0, 1.0, 1.0], [1.0, 1.0 + 3.0 * 0.1 / 0.25, 4.0]);
        for (got, want) in counts.iter().zip([still, moves, moves, still]) {
            let off = got.iter().zip(want).map(|(g, w)| (g - w).abs());
            assert!(off.fold(0.0, f32::max) < 1e-5, "{counts:?}");
        }
        let picture = clip.narrow(1, 0, 1)?;
        assert_eq!(
            moving_weights(&picture, 3.0)?
                .sum_all()?
                .to_scalar::<f32>()?,
            3.0
        );
        Ok(())
    }

    #[test]
    fn attached_gradients_reach_the_variable() -> Result<()> {
        let x = Var::new(&[1f32, -2.0, 3.0], &Device::Cpu)?;
        let predicted = (x.as_tensor() * 2.0)?;
        let graded = Graded {
            value: 7.5,
            gradient: vec![0.5, 1.0, -1.0],
        };
        let loss = graded.attach(&predicted)?;
        assert!((loss.to_scalar::<f32>()? - 7.5).abs() < 1e-6);
        let grads = loss.backward()?;
        let grad = grads.get(&x).expect("x is a variable").to_vec1::<f32>()?;
        assert_eq!(grad, [1.0, 2.0, -2.0]);
        Ok(())
    }
}
