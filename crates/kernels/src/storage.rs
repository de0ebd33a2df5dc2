//! Reaching the numbers of candle tensors.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

use crate::gemm::source::Data;

/// The numbers of a contiguous CPU tensor, f32 or bf16.
pub fn data<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Data<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("the kernels take contiguous tensors");
    };
    match storage {
        CpuStorage::F32(v) => Ok(Data::F32(&v[start..end])),
        CpuStorage::BF16(v) => Ok(Data::Bf16(&v[start..end])),
        _ => bail!("the kernels take f32 or bf16 tensors"),
    }
}

/// The numbers of a contiguous f32 CPU tensor.
pub fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    data(storage, layout)?.floats()
}

/// Calls `f` with the numbers of a tensor on the CPU, which is made contiguous first.
pub fn with_data<T>(tensor: &Tensor, f: impl FnOnce(Data) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(data(storage, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// As `with_data`, for f32.
pub fn with_floats<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    with_data(tensor, |data| f(data.floats()?))
}
