//! Attention over ranges of keys, in memory linear in the length.
//!
//! Tiles of queries meet tiles of keys; the softmax is kept running as keys come (Dao et al. 2022,
//! "FlashAttention"), and the backward pass makes each tile of probabilities again from the kept
//! log-sum-exp.

mod backward;
mod forward;

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::gemm::Precision;
use crate::simd::{Loop, vectorised};
use crate::storage::{floats, with_floats};

/// Keys of a tile.
const KEYS: usize = 256;
/// Queries of a tile.
const QUERIES: usize = 128;

/// What each query sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionPlan {
    /// Disjoint ranges of queries with what they see; queries in no block give zeros.
    pub blocks: Vec<AttentionBlock>,
    /// What the dot products are multiplied by, as a rule `1 / sqrt(K)`.
    pub scale: f32,
    /// `Some(c)` turns each scaled logit s into `c * tanh(s / c)`.
    pub softcap: Option<f32>,
}

/// A range of queries that see the same ranges of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionBlock {
    /// The queries.
    pub q: Range<usize>,
    /// The keys; disjoint ranges.
    pub k: Vec<Range<usize>>,
    /// Whether query `i` of the block sees only keys `0..=i` of the last range; it sees all of the others.
    pub causal: bool,
}

/// Softmax attention: query head n attends to key head `n * Nk / Nq`.
///
/// # Shapes
/// q [Lq, Nq, K], k and v [Lk, Nk, K], f32 -> [Lq, Nq, K].
///
/// # Errors
/// If the shapes do not agree, the plan leaves the tensors, or its queries overlap.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    plan: &AttentionPlan,
    precision: Precision,
) -> Result<Tensor> {
    let (rows, heads, dim) = q.dims3()?;
    let (keys, key_heads, key_dim) = k.dims3()?;
    let fits = k.dims() == v.dims() && dim == key_dim && key_heads > 0 && heads % key_heads == 0;
    if !fits {
        bail!(
            "attention: q {:?}, k {:?}, v {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    check(plan, rows, keys)?;
    let op = Attention {
        plan: plan.clone(),
        precision,
        log_sums: OnceLock::new(),
    };
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

fn check(plan: &AttentionPlan, rows: usize, keys: usize) -> Result<()> {
    let mut taken: Vec<&Range<usize>> = plan.blocks.iter().map(|b| &b.q).collect();
    taken.retain(|range| !range.is_empty());
    taken.sort_by_key(|range| range.start);
    if taken.windows(2).any(|w| w[0].end > w[1].start) || taken.last().is_some_and(|r| r.end > rows)
    {
        bail!("attention: queries of the plan overlap or are beyond {rows}");
    }
    let within = |range: &Range<usize>| range.end <= keys;
    if !plan.blocks.iter().all(|b| b.k.iter().all(within)) {
        bail!("attention: keys of the plan are beyond {keys}");
    }
    Ok(())
}

/// A closure as a loop that is compiled for the instruction set in use.
struct Do<F>(F);

impl<R, F: FnOnce() -> R> Loop for Do<F> {
    type Output = R;
    #[inline(always)]
    fn run(self) -> R {
        (self.0)()
    }
}

fn fast<R>(body: impl FnOnce() -> R) -> R {
    vectorised(Do(body))
}

struct Attention {
    plan: AttentionPlan,
    precision: Precision,
    /// The logarithm of each softmax's sum [Lq, Nq], kept for the backward pass.
    log_sums: OnceLock<Vec<f32>>,
}

/// Extents of one call.
#[derive(Clone, Copy)]
struct Extents {
    heads: usize,
    key_heads: usize,
    dim: usize,
}

impl Extents {
    fn of(q: &[usize], k: &[usize]) -> Self {
        Self {
            heads: q[1],
            key_heads: k[1],
            dim: q[2],
        }
    }

    /// Query heads of a key head.
    fn group(self) -> usize {
        self.heads / self.key_heads
    }

    /// Numbers between two rows of queries.
    fn q_stride(self) -> usize {
        self.heads * self.dim
    }

    /// Numbers between two rows of keys.
    fn k_stride(self) -> usize {
        self.key_heads * self.dim
    }
}

/// Queries, keys and values.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// Some keys of a block.
#[derive(Clone, Debug)]
struct KeyTile {
    rows: Range<usize>,
    /// For causal tiles: the place of the first key in the range that is aligned with the queries.
    aligned: Option<usize>,
}

impl AttentionBlock {
    fn key_tiles(&self) -> Vec<KeyTile> {
        let mut tiles = Vec::new();
        for (i, range) in self.k.iter().enumerate() {
            let causal = self.causal && i + 1 == self.k.len();
            tiles.extend(range.clone().step_by(KEYS).map(|start| KeyTile {
                rows: start..(start + KEYS).min(range.end),
                aligned: causal.then_some(start - range.start),
            }));
        }
        tiles
    }

    fn query_tiles(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let end = self.q.end;
        (self.q.clone())
            .step_by(QUERIES)
            .map(move |start| start..(start + QUERIES).min(end))
    }
}

impl KeyTile {
    /// How many of the tile's keys query `i` of the block sees: a leading part.
    #[inline(always)]
    fn seen(&self, i: usize) -> usize {
        match self.aligned {
            None => self.rows.len(),
            Some(start) => (i + 1).saturating_sub(start).min(self.rows.len()),
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        qs: &CpuStorage,
        ql: &Layout,
        ks: &CpuStorage,
        kl: &Layout,
        vs: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = Inputs {
            q: floats(qs, ql)?,
            k: floats(ks, kl)?,
            v: floats(vs, vl)?,
        };
        let extents = Extents::of(ql.shape().dims(), kl.shape().dims());
        let (y, log_sums) = forward::run(inputs, extents, &self.plan, self.precision);
        // Every forward pass of one op gives the same sums.
        let _ = self.log_sums.set(log_sums);
        Ok((CpuStorage::F32(y), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else {
            bail!("attention: backward before forward");
        };
        let extents = Extents::of(q.dims(), k.dims());
        let [dq, dk, dv] = with_floats(q, |q| {
            with_floats(k, |k| {
                with_floats(v, |v| {
                    with_floats(y, |y| {
                        with_floats(grad, |grad| {
                            let kept = backward::Kept { y, grad, log_sums };
                            let inputs = Inputs { q, k, v };
                            Ok(backward::run(
                                inputs,
                                kept,
                                extents,
                                (&self.plan, self.precision),
                            ))
                        })
                    })
                })
            })
        })?;
        let device = q.device();
        Ok((
            Some(Tensor::from_vec(dq, q.dims(), device)?),
            Some(Tensor::from_vec(dk, k.dims(), device)?),
            Some(Tensor::from_vec(dv, v.dims(), device)?),
        ))
    }
}
