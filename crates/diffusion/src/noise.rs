//! Seeded noise.

use candle_core::{Device, Result, Shape, Tensor};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Standard normal f32 noise, drawn on the CPU in row-major order so that a seed means the same on every
/// device.
pub fn gaussian(rng: &mut impl Rng, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elem_count())
        .map(|_| StandardNormal.sample(rng))
        .collect();
    Tensor::from_vec(values, shape, device)
}
