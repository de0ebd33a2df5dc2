//! Latents of one autoencoder in the axes of another's.

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::error::{Result, TrainError};
use crate::export::rows;

/// Least share of its greatest variance that a direction of latents is taken to have: those that carry nothing would be made
/// large without end.
const LEAST: f64 = 1e-4;

/// The linear map from one distribution of latents to another's mean and covariance that moves them least from where the
/// other autoencoder puts the same pictures: `(latent - mean) · mix`, and `unmix` back.
///
/// Least squares alone would shrink what the two do not share, so that noise of one size would hide more of it; this is the
/// orthogonal Procrustes problem (Schönemann 1966) between whitened latents.
pub(crate) struct Alignment {
    /// Subtracted first, `[C]`.
    mean: DVector<f64>,
    /// Then multiplied from the right, `[C, C]`.
    mix: DMatrix<f64>,
    /// How much of the other's variance is left unexplained, from 0.
    pub(crate) apart: f64,
}

impl Alignment {
    /// Of latents `[.., C]` to what another autoencoder makes of the same pictures.
    pub(crate) fn between(latents: &[Tensor], others: &[Tensor]) -> Result<Self> {
        let (ours, theirs) = (matrix(latents)?, matrix(others)?);
        if ours.shape() != theirs.shape() {
            let (a, b) = (ours.ncols(), theirs.ncols());
            let what = format!("`align`: its latents have {b} channels where these have {a}");
            return Err(TrainError::Setting(what));
        }
        let (mean, other_mean) = (ours.row_mean().transpose(), theirs.row_mean().transpose());
        let centred = |rows: &DMatrix<f64>, mean: &DVector<f64>| {
            let mut rows = rows.clone();
            rows.row_iter_mut()
                .for_each(|mut row| row -= mean.transpose());
            rows
        };
        let (ours, theirs) = (centred(&ours, &mean), centred(&theirs, &other_mean));
        let count = ours.nrows() as f64;
        let (ours_cov, theirs_cov) = (ours.tr_mul(&ours) / count, theirs.tr_mul(&theirs) / count);
        if ours_cov.trace() <= 0.0 || theirs_cov.trace() <= 0.0 {
            let what = "`align`: latents are the same everywhere: are the weights damaged?";
            return Err(TrainError::Setting(what.into()));
        }
        let whiten = power(&ours_cov, -0.5);
        let across = &whiten * (ours.tr_mul(&theirs) / count) * power(&theirs_cov, -0.5);
        let svd = across.svd(true, true);
        let (Some(u), Some(v)) = (svd.u, svd.v_t) else {
            let what = "`align`: latents have no axes to compare: are the weights damaged?";
            return Err(TrainError::Setting(what.into()));
        };
        let mix = whiten * u * v * power(&theirs_cov, 0.5);
        let left = (&ours * &mix - &theirs).norm_squared() / theirs.norm_squared();
        // The other's mean is reached by where the map begins: (x - m) mix = (x - mean) mix + other mean.
        let begins =
            (mix.transpose().lu().solve(&other_mean)).unwrap_or_else(|| DVector::zeros(mean.len()));
        Ok(Self {
            mean: mean - begins,
            mix,
            apart: left,
        })
    }

    /// `[C]` that is subtracted, `[C, C]` multiplied by, and `[C, C]` that undoes that, all f32.
    pub(crate) fn tensors(&self, device: &Device) -> Result<[Tensor; 3]> {
        let c = self.mean.len();
        let Some(back) = self.mix.clone().try_inverse() else {
            let what = "`align`: some latents are the same everywhere: are the weights damaged?";
            return Err(TrainError::Setting(what.into()));
        };
        let matrix = |m: &DMatrix<f64>| {
            // Columns first in nalgebra, rows first in candle.
            let numbers = m
                .transpose()
                .iter()
                .map(|x| *x as f32)
                .collect::<Vec<f32>>();
            Tensor::from_vec(numbers, (c, c), device)
        };
        let mean = self.mean.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        Ok([
            Tensor::from_vec(mean, c, device)?,
            matrix(&self.mix)?,
            matrix(&back)?,
        ])
    }
}

/// Latents `[.., C]` of several batches as rows.
fn matrix(latents: &[Tensor]) -> Result<DMatrix<f64>> {
    let rows = rows(latents)?.to_dtype(DType::F64)?;
    let (count, channels) = rows.dims2()?;
    let numbers = rows.flatten_all()?.to_vec1::<f64>()?;
    Ok(DMatrix::from_row_slice(count, channels, &numbers))
}

/// A power of a covariance.
fn power(covariance: &DMatrix<f64>, exponent: f64) -> DMatrix<f64> {
    let eigen = SymmetricEigen::new(covariance.clone());
    let most = eigen.eigenvalues.max();
    let values = eigen
        .eigenvalues
        .map(|v| v.max(LEAST * most).powf(exponent));
    &eigen.eigenvectors * DMatrix::from_diagonal(&values) * eigen.eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_distr::StandardNormal;
    use rand_pcg::Pcg64;
    use std::slice::from_ref;

    const COUNT: usize = 4000;

    fn random(count: usize, channels: usize, seed: u64) -> Tensor {
        let mut rng = Pcg64::seed_from_u64(seed);
        let numbers: Vec<f32> = (0..count * channels)
            .map(|_| rng.sample(StandardNormal))
            .collect();
        Tensor::from_vec(numbers, (count, channels), &Device::Cpu).unwrap()
    }

    fn apply([mean, mix, _]: &[Tensor; 3], x: &Tensor) -> Tensor {
        x.broadcast_sub(mean).unwrap().matmul(mix).unwrap()
    }

    fn error(a: &Tensor, b: &Tensor) -> f32 {
        let apart = (a - b).unwrap().sqr().unwrap().sum_all().unwrap();
        let size = b.sqr().unwrap().sum_all().unwrap();
        (apart / size).unwrap().sqrt().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_linear_map_of_the_same_latents_is_undone() {
        let old = (random(COUNT, 6, 1) + 0.7).unwrap();
        let shear = (random(6, 6, 2) * 0.3).unwrap();
        let shear = (shear + Tensor::eye(6, DType::F32, &Device::Cpu).unwrap()).unwrap();
        let new = (old.matmul(&shear).unwrap() - 2.0).unwrap();
        let alignment = Alignment::between(from_ref(&new), from_ref(&old)).unwrap();
        let tensors = alignment.tensors(&Device::Cpu).unwrap();
        let mixed = apply(&tensors, &new);
        assert!(alignment.apart < 1e-6, "{}", alignment.apart);
        assert!(error(&mixed, &old) < 1e-3);
        let back = mixed
            .matmul(&tensors[2])
            .unwrap()
            .broadcast_add(&tensors[0])
            .unwrap();
        assert!(error(&back, &new) < 1e-4);
    }

    #[test]
    fn rotated_latents_come_back_exactly_and_noise_does_not_shrink_them() {
        let old = random(COUNT, 5, 3);
        let turn = DMatrix::from_fn(5, 5, |r, c| ((r * 7 + c * 3) as f64).sin());
        let turn = turn.svd(true, true);
        let turn = turn.u.unwrap() * turn.v_t.unwrap();
        let turn: Vec<f32> = turn.transpose().iter().map(|x| *x as f32).collect();
        let turn = Tensor::from_vec(turn, (5, 5), &Device::Cpu).unwrap();
        let new = old.matmul(&turn).unwrap();
        let exact = Alignment::between(from_ref(&new), from_ref(&old)).unwrap();
        assert!(exact.apart < 1e-8, "{}", exact.apart);
        assert!(error(&apply(&exact.tensors(&Device::Cpu).unwrap(), &new), &old) < 1e-3);

        let noisy = (new + (random(COUNT, 5, 4) * 0.5).unwrap()).unwrap();
        let alignment = Alignment::between(from_ref(&noisy), from_ref(&old)).unwrap();
        let mixed = apply(&alignment.tensors(&Device::Cpu).unwrap(), &noisy);
        let variance = |x: &Tensor| {
            x.sqr()
                .unwrap()
                .mean_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        assert!((variance(&mixed) / variance(&old) - 1.0).abs() < 1e-3);
        assert!(
            alignment.apart > 0.1 && alignment.apart < 0.3,
            "{}",
            alignment.apart
        );
    }

    #[test]
    fn other_channels_and_dead_latents_are_errors_and_a_dead_channel_is_none() {
        assert!(Alignment::between(&[random(9, 4, 1)], &[random(9, 3, 1)]).is_err());
        let dead = |channels| Tensor::zeros((COUNT, channels), DType::F32, &Device::Cpu).unwrap();
        assert!(Alignment::between(&[dead(3)], &[random(COUNT, 3, 5)]).is_err());
        let half = Tensor::cat(&[random(COUNT, 2, 6), dead(1)], 1).unwrap();
        let found = Alignment::between(&[half], &[random(COUNT, 3, 5)]).unwrap();
        for tensor in found.tensors(&Device::Cpu).unwrap() {
            let numbers = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(numbers.iter().all(|x| x.is_finite()), "{numbers:?}");
        }
    }
}
