//! Weights in fewer bits: matrices kept as 8-bit or 4-bit numbers with scales, everything else as it is.
//!
//! # File format
//! Safetensors, whose header's metadata has `quantization` = `int8`, `fp8` or `q4`. A matrix `X`
//! `[out, in]` in fewer bits is two tensors:
//!
//! | format | `X` | `X.scale` | a weight is |
//! |---|---|---|---|
//! | `int8` | U8 `[out, in]` | F32 `[out]` | `(x - 128) * scale[row]` |
//! | `fp8` | F8_E4M3 `[out, in]` | F32 `[out]` | `x * scale[row]` |
//! | `q4` | U8 `[out, in / 2]`, the even column in the low half | BF16 `[out, ceil(in / 32)]` | `(nibble - 8) * scale[row, column / 32]` |
//!
//! A weight is rounded to bfloat16 (to nearest even). Tensors without a scale are stored as they were; scales come
//! before their matrix, so that they are aligned and can be read in place. [`crate::WeightFiles`] reads all of these:
//! [`crate::WeightFiles::load`] gives the matrices in bfloat16, [`crate::WeightFiles::numbers`] as they are stored, for
//! products that never expand a matrix as a whole ([`gallop_kernels::linear_frozen`]).
//!
//! # Why products stay in bfloat16
//! Only weights are in fewer bits; activations are never quantised. While a panel is packed, 32 weights at a time become
//! the bfloat16 numbers that they mean, and the AMX tiles (`tdpbf16ps`), AVX-512 BF16 or AVX2 multiply these: the result
//! is that of the expanded matrix but for the order of sums, whatever the weights are stored in, and AMX is used for
//! every format. Integers of 8 bits are exact in bfloat16; with their scale they are rounded, by at most 2^-9 of the
//! weight, where half a step of `int8` is up to 1/254 of the row's greatest one. The errors that `gallop model quantize`
//! reports are those of the rounded numbers. AMX's own products of 8-bit integers (`tdpbusd`) would need activations in
//! 8 bits too: an error in every product, of a kind that differs from prompt to prompt and that no report made
//! beforehand can show. What fewer bits are for, memory and what is read from the disk, is saved either way.

mod codec;
mod files;
mod float8;
mod velocity;

pub(crate) use codec::expand;
pub use codec::{Quant, Quantized, Scales};
pub(crate) use files::MIN_SIDE;
pub use files::{
    METADATA_KEY, QuantReport, Quantization, QuantizedTensor, quantize_files, quantized_bytes,
};
pub use velocity::{VelocityError, velocity_error};
