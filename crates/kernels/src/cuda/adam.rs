//! AdamW on the GPU.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{Result, Tensor};

use super::gpu::{Threads, launch, with_floats};
use super::pointwise::POINTWISE;
use crate::adam::AdamStep;

// SAFETY: eight f32 numbers, laid out as in the kernel.
unsafe impl DeviceRepr for AdamStep {}

/// Updates in place.
pub fn adam(
    [weight, first, second, average]: [&Tensor; 4],
    grad: &Tensor,
    step: AdamStep,
) -> Result<()> {
    with_floats(
        [weight, first, second, average, grad],
        |gpu, [w, m, v, e, g]| {
            let count = grad.elem_count();
            launch!(
                gpu,
                POINTWISE,
                "adam",
                Threads::each(count),
                w,
                m,
                v,
                e,
                g,
                count as u64,
                step
            );
            Ok(())
        },
    )
}
