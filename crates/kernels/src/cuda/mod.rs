//! The same operations on NVIDIA GPUs: cuBLAS for products, kernels compiled at run time for everything between.
//!
//! All work goes through one queue a device, in order, so that memory can be given back as soon as its last use is
//! queued. Sums are in a fixed order: equal inputs give equal results.

mod adam;
mod attention;
mod conv;
mod cudnn;
mod dense;
mod eight;
mod expand;
mod gpu;
mod libraries;
mod linear;
mod lt;
mod memory;
mod pointwise;
mod product;
mod rows;
mod upload;

use std::path::PathBuf;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device as driver, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;
use candle_core::{CudaStorage, DType, Device, Layout, Result, Shape, bail};

pub(crate) use adam::adam;
pub(crate) use attention::{Layer, Lse, attention, attention_backward, layer, layer_backward};
pub(crate) use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
pub(crate) use conv::{conv, conv_backward};
pub use cudnn::{
    Convolution, Fused, Pass, Shape as DenseShape, Work as CudnnWork, plan_for, set_fused,
};
pub use dense::fused_attention;
pub(crate) use expand::expand;
pub use gpu::{Text, compile};
pub(crate) use linear::{linear, linear_backward};
pub(crate) use memory::{forget_peak, memory, name};
pub(crate) use pointwise::{
    Cut, gate, gate_backward, overlap, overlap_backward, snake, snake_backward, swiglu,
    swiglu_backward, unary, unary_backward, upsample, upsample_backward,
};
pub(crate) use rows::{Norm, layer_norm, layer_norm_backward, norm_turn, norm_turn_backward};
pub(crate) use upload::upload;

/// Opens CUDA's libraries, looking into `folders` for those that the system does not find by itself: folders of
/// libraries, Python's `site-packages`, or virtual environments.
///
/// # Errors
/// If one is missing; the message names it and what it comes with.
pub fn open_libraries(folders: &[PathBuf]) -> Result<()> {
    libraries::open(folders)
}

/// Opens what compiles kernels, as [`open_libraries`] does; enough for [`compile`].
///
/// # Errors
/// As [`open_libraries`].
pub fn open_compiler(folders: &[PathBuf]) -> Result<()> {
    libraries::open_compiler(folders)
}

/// Opens cuDNN, as [`open_libraries`] does; enough for [`plan_for`].
pub fn open_cudnn(folders: &[PathBuf]) {
    libraries::open_cudnn(folders);
}

/// GPU number `ordinal`, after [`open_libraries`].
///
/// # Errors
/// If a library is missing, or there is no such GPU.
pub fn open(ordinal: usize, folders: &[PathBuf]) -> Result<Device> {
    open_libraries(folders)?;
    let device = match Device::new_cuda_with_stream(ordinal) {
        Ok(device) => device,
        Err(error) => bail!("GPU {ordinal} cannot be used: {error}"),
    };
    let Device::Cuda(cuda) = &device else {
        bail!("GPU {ordinal} cannot be used");
    };
    // SAFETY: there is one queue, so that nothing has to wait for another one.
    unsafe { cuda.disable_event_tracking() };
    // Freed memory stays with the process; else every read of a number would give it back to the system.
    let mut keep = u64::MAX;
    // SAFETY: the device is open, and the attribute takes 64 bits.
    unsafe {
        let number = cuda.cuda_stream().context().cu_device();
        let pool = driver::get_default_mem_pool(number).w()?;
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()).w()?;
    }
    Ok(device)
}

/// A result of f32 numbers as it is to be stored.
pub(crate) fn stored(
    (y, shape): (CudaStorage, Shape),
    dtype: DType,
) -> Result<(CudaStorage, Shape)> {
    let y = match dtype {
        DType::F32 => y,
        other => y.to_dtype(&Layout::contiguous(&shape), other)?,
    };
    Ok((y, shape))
}
