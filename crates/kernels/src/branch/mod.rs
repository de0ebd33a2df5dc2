//! The branches of a transformer's layer, each added to its stream, as one operation a branch.
//!
//! As separate operations, norms, products and what is between them write and read rows several times as wide as the
//! stream, and each of them has a gradient that is set to zero, added to and read again. Here a few rows at a time go all
//! the way while they are in the cache. For weights that fit there beside the rows; on processors.

mod attention;
mod bundle;
mod kept;
mod mlp;
mod tile;

pub use attention::{AttentionWeights, attention_branch};
pub use mlp::{MlpBranch, mlp_branch};

use candle_core::{Result, Tensor};

use crate::frozen::Frozen;
use crate::gemm::source::Data;
use crate::storage::with_data;

/// A matrix of a branch, the groups stacked along the rows.
#[derive(Clone, Debug)]
pub enum BranchMatrix<'a> {
    /// f32 or bf16, on the processor; it may be trained if all of the branch's matrices are tensors.
    Tensor(Tensor),
    /// Not trained, and used where it lies.
    Frozen(Frozen<'a>),
}

impl BranchMatrix<'_> {
    /// Rows and columns.
    ///
    /// # Errors
    /// If a tensor has another number of dimensions.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Tensor(tensor) => tensor.dims2(),
            Self::Frozen(frozen) => Ok(frozen.dims()),
        }
    }

    fn with_data<T>(&self, f: impl FnOnce(Data) -> Result<T>) -> Result<T> {
        match self {
            Self::Tensor(tensor) => with_data(tensor, f),
            Self::Frozen(frozen) => f(frozen.data),
        }
    }
}
