//! The straight path between data and noise.

use candle_core::{Result, Tensor};

/// `(1 - sigma) * x0 + sigma * noise`; both of one shape.
pub fn add_noise(x0: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor> {
    x0.affine(1.0 - sigma, 0.0)? + noise.affine(sigma, 0.0)?
}

/// The same with noise levels that are stretched to the shape of both.
pub fn add_noise_by_part(x0: &Tensor, noise: &Tensor, sigmas: &Tensor) -> Result<Tensor> {
    x0.broadcast_mul(&sigmas.affine(-1.0, 1.0)?)? + noise.broadcast_mul(sigmas)?
}

/// What the network learns to say: `noise - x0`.
pub fn velocity_target(x0: &Tensor, noise: &Tensor) -> Result<Tensor> {
    noise - x0
}

/// The data that a velocity points at: `x - sigma * velocity`.
pub fn x0_from_velocity(x: &Tensor, velocity: &Tensor, sigma: f64) -> Result<Tensor> {
    x - velocity.affine(sigma, 0.0)?
}

/// `signal * x0 + sqrt(1 - signal^2) * noise`: noise that keeps the variance, as super-resolution adds it
/// at a level of [`crate::zero_snr_table`].
pub fn mix_snr(x0: &Tensor, noise: &Tensor, signal: f64) -> Result<Tensor> {
    x0.affine(signal, 0.0)? + noise.affine((1.0 - signal * signal).sqrt(), 0.0)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn parts_have_noise_of_their_own() -> Result<()> {
        let x0 = Tensor::new(&[[1.0_f64, -2.0], [0.5, 4.0]], &Device::Cpu)?;
        let noise = Tensor::new(&[[0.3_f64, 0.1], [-1.0, 2.0]], &Device::Cpu)?;
        let x = add_noise_by_part(&x0, &noise, &Tensor::new(&[[0.0_f64, 0.75]], &Device::Cpu)?)?;
        assert_eq!(x.to_vec2::<f64>()?, [[1.0, -0.425], [0.5, 2.5]]);
        Ok(())
    }

    #[test]
    fn the_velocity_leads_back_to_the_data() -> Result<()> {
        let x0 = Tensor::new(&[1.0_f64, -2.0, 0.5], &Device::Cpu)?;
        let noise = Tensor::new(&[0.3_f64, 0.1, -1.0], &Device::Cpu)?;
        let x = add_noise(&x0, &noise, 0.7)?;
        let back = x0_from_velocity(&x, &velocity_target(&x0, &noise)?, 0.7)?;
        let error = (back - x0)?.abs()?.max(0)?.to_scalar::<f64>()?;
        assert!(error < 1e-15, "{error}");
        Ok(())
    }
}
