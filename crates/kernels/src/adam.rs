//! A step of AdamW where the weights are.

use candle_core::{Result, Tensor};

/// The numbers of a step; the same for all weights of a kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Factor on the gradient.
    pub scale: f32,
    /// Decay rates of the moments.
    pub betas: [f32; 2],
    /// Factors that undo their start at zero.
    pub corrections: [f32; 2],
    /// Learning rate.
    pub rate: f32,
    /// Weight decay.
    pub decay: f32,
    /// Decay rate of the moving average.
    pub keep: f32,
}

/// Updates a weight, its two moments and its moving average in place, on a GPU. All are f32, of one size, contiguous
/// and nobody else's.
///
/// # Errors
/// If a tensor is not so, or this build has no CUDA.
#[cfg(feature = "cuda")]
pub fn adam_on_gpu(state: [&Tensor; 4], grad: &Tensor, step: AdamStep) -> Result<()> {
    let same = |t: &&Tensor| t.elem_count() == grad.elem_count() && t.is_contiguous();
    if !state.iter().all(same) {
        candle_core::bail!("adam: a weight and its state differ in size");
    }
    crate::cuda::adam(state, grad, step)
}

/// Updates a weight, its two moments and its moving average in place, on a GPU. All are f32, of one size, contiguous
/// and nobody else's.
///
/// # Errors
/// If a tensor is not so, or this build has no CUDA.
#[cfg(not(feature = "cuda"))]
pub fn adam_on_gpu(_state: [&Tensor; 4], _grad: &Tensor, _step: AdamStep) -> Result<()> {
    candle_core::bail!("this gallop was built without CUDA")
}

/// The sum of all numbers, in steps that occupy a whole GPU: one reduction to a single number is done by one of its
/// 132 processors.
///
/// # Errors
/// If the tensor cannot be summed.
pub fn sum_in_parts(x: &Tensor) -> Result<Tensor> {
    /// Numbers of a part.
    const PART: usize = 1024;
    let count = x.elem_count();
    let width = (1usize << count.trailing_zeros().min(20)).min(PART);
    if x.device().is_cpu() || count <= PART || width < 16 {
        return x.sum_all();
    }
    x.reshape((count / width, width))?.sum(1)?.sum_all()
}
