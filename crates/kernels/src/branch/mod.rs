//! The branches of a transformer's layer, each added to its stream, as one operation a branch.
//!
//! As separate operations, norms, products and what is between them write and read rows several times as wide as the
//! stream, and each of them has a gradient that is set to zero, added to and read again. Here a few rows at a time go all
//! the way while they are in the cache. For weights that fit there beside the rows; on processors.

mod attention;
mod kept;
mod mlp;
mod op;
mod tile;

pub use attention::{AttentionWeights, attention_branch};
pub use mlp::{MlpBranch, mlp_branch};

use candle_core::{Result, Storage, Tensor, bail};

use crate::frozen::Frozen;
use crate::gemm::source::Data;
use crate::storage::data;

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
}

/// Calls `f` with the numbers of all weights.
fn with_numbers<T>(weights: &[BranchMatrix], f: impl FnOnce(&[Data]) -> Result<T>) -> Result<T> {
    let whole = weights.iter().map(|weight| match weight {
        BranchMatrix::Tensor(tensor) => Ok(BranchMatrix::Tensor(tensor.contiguous()?)),
        BranchMatrix::Frozen(frozen) => Ok(BranchMatrix::Frozen(*frozen)),
    });
    let whole = whole.collect::<Result<Vec<_>>>()?;
    let held: Vec<_> = (whole.iter())
        .map(|weight| match weight {
            BranchMatrix::Tensor(tensor) => Some(tensor.storage_and_layout()),
            BranchMatrix::Frozen(_) => None,
        })
        .collect();
    let numbers = whole.iter().zip(&held).map(|pair| match pair {
        (BranchMatrix::Frozen(frozen), _) => Ok(frozen.data),
        (_, Some((storage, layout))) if let Storage::Cpu(storage) = &**storage => {
            data(storage, layout)
        }
        _ => bail!("expected a tensor on the CPU"),
    });
    f(&numbers.collect::<Result<Vec<_>>>()?)
}
