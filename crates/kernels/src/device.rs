//! Opening a GPU, whether or not this build can use one.

use std::path::PathBuf;

use candle_core::{Device, Result};

/// GPU number `ordinal`. CUDA's libraries are looked for where the system looks, then in `folders` (of libraries, or
/// of Python packages that carry them).
///
/// # Errors
/// If this build has no CUDA, a library is missing, or there is no such GPU.
#[cfg(feature = "cuda")]
pub fn cuda_device(ordinal: usize, folders: &[PathBuf]) -> Result<Device> {
    crate::cuda::open(ordinal, folders)
}

/// GPU number `ordinal`. CUDA's libraries are looked for where the system looks, then in `folders` (of libraries, or
/// of Python packages that carry them).
///
/// # Errors
/// If this build has no CUDA, a library is missing, or there is no such GPU.
#[cfg(not(feature = "cuda"))]
pub fn cuda_device(_ordinal: usize, _folders: &[PathBuf]) -> Result<Device> {
    candle_core::bail!("this gallop was built without CUDA; build it with --features cuda")
}

/// What computes large attentions on a GPU that was opened: cuDNN with its release.
///
/// # Errors
/// If this crate's own kernels do, which are slower: says why, and what to install.
#[cfg(feature = "cuda")]
pub fn fused_attention() -> std::result::Result<String, String> {
    crate::cuda::fused_attention().map(|release| format!("cuDNN {release}"))
}

/// What computes large attentions on a GPU that was opened: cuDNN with its release.
///
/// # Errors
/// If this crate's own kernels do, which are slower: says why, and what to install.
#[cfg(not(feature = "cuda"))]
pub fn fused_attention() -> std::result::Result<String, String> {
    Err("this gallop was built without CUDA".into())
}

/// A GPU's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What this process may still take.
    pub free: u64,
    /// All there is.
    pub total: u64,
    /// What this process's tensors hold.
    pub held: u64,
    /// The most that they held since the last [`forget_peak`].
    pub peak: u64,
}

/// The memory of a GPU; none for the processor.
///
/// # Errors
/// If the driver does not say.
pub fn device_memory(device: &Device) -> Result<Option<DeviceMemory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::cuda::memory(cuda).map(Some),
        _ => Ok(None),
    }
}

/// Counts the peak of [`device_memory`] from now on; nothing for the processor.
///
/// # Errors
/// If the driver refuses.
pub fn forget_peak(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::cuda::forget_peak(cuda),
        _ => Ok(()),
    }
}

/// The name that a GPU's driver has for it; none for the processor.
pub fn device_name(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => crate::cuda::name(cuda).ok(),
        _ => None,
    }
}
