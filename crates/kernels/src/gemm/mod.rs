//! Matrix products: packing, kernels for each instruction set, and the threads around them.
//!
//! `product::run` is for whole products of the operations. Operations that walk over small blocks on one thread
//! (attention) use the block level:
//!
//! ```
//! use gallop_kernels::Precision;
//! use gallop_kernels::gemm::{Kernel, Matrix};
//!
//! // S[2, 3] = Q[2, 4] K[3, 4]^T, then O[2, 4] += S V[3, 4]
//! let (q, k, v) = (vec![1.0; 8], vec![0.5; 12], vec![2.0; 12]);
//! let kernel = Kernel::new(Precision::F32); // once per operation: holds the choice of instructions
//! let (mut left, mut right) = (kernel.left(), kernel.right()); // keep these: their buffers are reused
//! left.pack_rows(Matrix::new(&q, 2, 4)); // left operand Q: sums over the columns of Q
//! right.pack_rows(Matrix::new(&k, 3, 4)); // right operand K^T: sums over the columns of K
//! let mut s = vec![0.0; 2 * 3];
//! kernel.multiply(&left, &right, &mut s, 3, false);
//! assert_eq!(s, vec![2.0; 6]);
//!
//! left.pack_rows(Matrix::new(&s, 2, 3));
//! right.pack_columns(Matrix::new(&v, 3, 4)); // right operand V: sums over the rows of V
//! let mut o = vec![1.0; 2 * 4];
//! kernel.multiply(&left, &right, &mut o, 4, true);
//! assert_eq!(o, vec![13.0; 8]);
//! ```
//! `left.pack_columns(m)` makes the left operand m^T. `Matrix::strided` takes rows that are not adjacent.
//! Any sizes work; the f32 numbers are rounded to bf16 while packing under `Precision::Bf16`.
//! Packing costs about as much as multiplying with 10 columns, so pack what is used again once.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_tests;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod check;
mod dense;
pub(crate) mod eight;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod emulator;
#[cfg(target_arch = "x86_64")]
mod expand;
pub(crate) mod few_bits;
#[cfg(target_arch = "x86_64")]
mod floats;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pack;
mod packed;
mod panels;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod plain_pack;
mod plan;
#[cfg(target_arch = "x86_64")]
mod powers;
pub(crate) mod product;
#[cfg(target_arch = "x86_64")]
pub(crate) mod shifted;
pub(crate) mod source;
#[cfg(target_arch = "x86_64")]
mod tiles;
pub(crate) mod windows;

pub use check::describe;
pub(crate) use dense::nearest;
pub use eight::to_float8;
pub use kernel::Kernel;
pub(crate) use kernel::{Side, Start};
pub(crate) use packed::{Block, GradientTile, POWER_SUMS};
pub use packed::{Matrix, Packed};

/// How exact the products are. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Both inputs in single precision.
    F32,
    /// Both inputs rounded to bf16, to nearest even.
    Bf16,
    /// Rows of both inputs of linear maps divided by a scale each (their greatest size over 448) and rounded to 8-bit
    /// floats (E4M3), to nearest even; queries, keys, values and outputs of attention likewise, with one scale each, where
    /// no gradients are wanted; all other products as [`Precision::Bf16`]. Gives no gradients of linear maps.
    Fp8,
}

impl Precision {
    /// The precision of products that are not those of linear maps, and of layers that bear fewer bits badly.
    pub fn wider(self) -> Self {
        match self {
            Self::F32 => Self::F32,
            Self::Bf16 | Self::Fp8 => Self::Bf16,
        }
    }

    /// What a GPU stores of a result that nothing but products in this precision reads: bf16 where they round it so
    /// anyway and no gradient goes through it (it `trains`), f32 otherwise.
    pub(crate) fn stored(self, trains: bool) -> Self {
        match self {
            Self::Bf16 if !trains => Self::Bf16,
            _ => Self::F32,
        }
    }
}
