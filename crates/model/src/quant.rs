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
