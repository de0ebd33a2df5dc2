//! What a GPU's memory holds.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device as driver, mem_get_info, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::{CudaDevice, Result};

use crate::device::DeviceMemory;

/// The pool that all memory comes from; freed memory stays in it.
fn pool(device: &CudaDevice) -> Result<CUmemoryPool> {
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().w()?;
    // SAFETY: the device is open.
    unsafe { driver::get_default_mem_pool(stream.context().cu_device()).w() }
}

fn attribute(pool: CUmemoryPool, attribute: CUmemPool_attribute) -> Result<u64> {
    let mut value = 0u64;
    // SAFETY: the pool is alive, and these attributes give 64 bits.
    unsafe { mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()).w()? };
    Ok(value)
}

/// What is free, and what this process holds.
pub fn memory(device: &CudaDevice) -> Result<DeviceMemory> {
    use CUmemPool_attribute::{
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT as RESERVED, CU_MEMPOOL_ATTR_USED_MEM_CURRENT as USED,
        CU_MEMPOOL_ATTR_USED_MEM_HIGH as MOST,
    };
    let pool = pool(device)?;
    let (free, total) = mem_get_info().w()?;
    let held = attribute(pool, USED)?;
    let kept = attribute(pool, RESERVED)?.saturating_sub(held);
    Ok(DeviceMemory {
        free: free as u64 + kept,
        total: total as u64,
        held,
        peak: attribute(pool, MOST)?,
    })
}

/// The peak is counted from now on.
pub fn forget_peak(device: &CudaDevice) -> Result<()> {
    let most = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    let mut zero = 0u64;
    // SAFETY: the pool is alive, and the attribute takes 64 bits, which must be 0.
    unsafe { mem_pool::set_attribute(pool(device)?, most, (&raw mut zero).cast()).w() }
}

/// The name of a GPU.
pub fn name(device: &CudaDevice) -> Result<String> {
    device.cuda_stream().context().name().w()
}
