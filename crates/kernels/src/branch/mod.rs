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

pub use attention::{AttentionWeights, attention_branch, attention_branch_frozen};
pub use mlp::{MlpBranch, mlp_branch, mlp_branch_frozen};
