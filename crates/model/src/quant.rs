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
//! Tensors without a scale are stored as they were. [`crate::WeightFiles`] reads all of these, and gives
//! the matrices in bfloat16.

mod codec;
mod files;

pub use codec::{Quant, Quantized};
pub use files::{QuantReport, QuantizedTensor, quantize_files};
