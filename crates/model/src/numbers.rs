//! The numbers of a tensor as the kernels read them.

use candle_core::{CpuStorage, Storage, Tensor};
use gallop_kernels::Numbers;
use rayon::prelude::*;

use crate::error::{ModelError, Result};

/// Numbers looked at by one task.
const RUN: usize = 1 << 18;

/// Calls `f` with the numbers of a tensor of f32 or bf16 on the CPU, made contiguous first.
pub(crate) fn with_numbers<T>(tensor: &Tensor, f: impl FnOnce(Numbers) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.contiguous_offsets().map(|(start, end)| start..end);
    match (&*storage, range) {
        (Storage::Cpu(CpuStorage::F32(v)), Some(range)) => f(Numbers::F32(&v[range])),
        (Storage::Cpu(CpuStorage::BF16(v)), Some(range)) => f(Numbers::Bf16(&v[range])),
        _ => Err(ModelError::Config(
            "a matrix is to be of f32 or bf16 numbers on the CPU".into(),
        )),
    }
}

/// Whether all numbers and scales are finite.
pub(crate) fn finite(numbers: &Numbers) -> bool {
    match numbers {
        Numbers::F32(v) => all(v, |x| x.is_finite()),
        Numbers::Bf16(v) => all(v, |x| x.to_bits() & 0x7f80 != 0x7f80),
        Numbers::Int8 { scales, .. } => all(scales, |x| x.is_finite()),
        Numbers::Fp8 { bytes, scales } => {
            all(bytes, |x| x & 0x7f != 0x7f) && all(scales, |x| x.is_finite())
        }
        Numbers::Q4 { scales, .. } => all(scales, |x| x.is_finite()),
    }
}

fn all<T: Sync>(numbers: &[T], fine: impl Fn(&T) -> bool + Sync) -> bool {
    // Counting has no early end, so it is done many numbers at a time.
    numbers
        .par_chunks(RUN)
        .all(|part| part.iter().filter(|x| !fine(x)).count() == 0)
}
