//! Matrices in fewer bits to bf16, just before they are multiplied.

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CudaStorage, Layout, Result, bail};
use half::bf16;

use super::gpu::{Address, Gpu, Text, Threads, data, launch};
use crate::resident::Kind;

/// Threads of the block that expands a row.
const THREADS: u32 = 256;

/// Stored bytes `[rows, bytes of a row]` and their scales to bf16 `[rows, columns]`.
pub fn expand(
    (stored, lb): (&CudaStorage, &Layout),
    (scales, ls): (&CudaStorage, &Layout),
    kind: Kind,
    (rows, columns): (usize, usize),
) -> Result<CudaStorage> {
    let gpu = Gpu::of(stored);
    let from = bytes(&gpu, stored, lb)?;
    let scales = data(scales, ls)?;
    if scales.bf16 != (kind == Kind::Q4) {
        bail!("expand: scales of another number type");
    }
    let out = gpu.alloc::<bf16>(rows * columns)?;
    let to = gpu.address(&out);
    let name = match kind {
        Kind::Int8 => "expand_int8",
        Kind::Fp8 => "expand_fp8",
        Kind::Q4 => "expand_q4",
    };
    let threads = Threads::blocks((rows, 1, 1), (THREADS, 1), 0);
    launch!(
        gpu,
        Text::Expand,
        name,
        threads,
        from,
        scales.at,
        to,
        columns as u32
    );
    Ok(CudaStorage::wrap_cuda_slice(out, gpu.device().clone()))
}

fn bytes(gpu: &Gpu, storage: &CudaStorage, layout: &Layout) -> Result<Address> {
    match (&storage.slice, layout.contiguous_offsets()) {
        (CudaStorageSlice::U8(slice), Some((start, _))) => {
            Ok(slice.device_ptr(&gpu.stream).0 + start as u64)
        }
        _ => bail!("expand: the stored numbers are no contiguous bytes"),
    }
}
