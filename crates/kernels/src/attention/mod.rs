//! Softmax attention over lists of key ranges, in memory linear in the length.

mod backward;
mod forward;
mod layer;
mod tiles;
mod wide;

pub(crate) use layer::Middle;
pub use layer::{SelfAttention, self_attention};

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::gemm::{Matrix, Precision, eight};
use crate::storage::{floats, with_floats};

/// Queries that see the same keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionBlock {
    /// Rows of the queries.
    pub q: Range<usize>,
    /// Rows of the keys that they see, disjoint.
    pub k: Vec<Range<usize>>,
    /// Whether query i of the block sees only the keys 0 to i of the last range (and all of the others).
    pub causal: bool,
}

/// Which queries see which keys, and how logits are made. Queries in no block give zeros.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionPlan {
    /// The blocks, with disjoint queries.
    pub blocks: Vec<AttentionBlock>,
    /// The factor on `q . k`, greater than 0.
    pub scale: f32,
    /// If given, logits z become `softcap * tanh(z / softcap)`.
    pub softcap: Option<f32>,
}

impl AttentionPlan {
    /// Every one of `queries` sees every one of `keys`.
    pub fn full(queries: usize, keys: usize, scale: f32) -> Self {
        let block = AttentionBlock {
            q: 0..queries,
            k: std::iter::once(0..keys).collect(),
            causal: false,
        };
        Self {
            blocks: vec![block],
            scale,
            softcap: None,
        }
    }

    /// From the first query that sees any of `keys` to the last one.
    fn queries_of(&self, keys: &Range<usize>) -> Range<usize> {
        let sees = |range: &Range<usize>| range.start < keys.end && keys.start < range.end;
        let blocks = self.blocks.iter().filter(|b| b.k.iter().any(sees));
        let found = blocks.map(|b| b.q.clone()).filter(|q| !q.is_empty());
        let union = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        found.reduce(union).unwrap_or(0..0)
    }

    fn check(&self, e: Extents) -> Result<()> {
        let scaled = self.scale > 0.0 || self.blocks.is_empty();
        if !scaled || self.softcap.is_some_and(|c| c <= 0.0) {
            bail!(
                "attention: scale {}, softcap {:?}",
                self.scale,
                self.softcap
            );
        }
        let mut queries: Vec<&Range<usize>> = self.blocks.iter().map(|b| &b.q).collect();
        queries.retain(|q| !q.is_empty());
        queries.sort_by_key(|q| q.start);
        if let Some(pair) = queries.windows(2).find(|p| p[0].end > p[1].start) {
            bail!("attention: queries {:?} and {:?} overlap", pair[0], pair[1]);
        }
        let keys = self.blocks.iter().flat_map(|b| &b.k);
        if queries.iter().any(|q| q.end > e.queries)
            || keys.into_iter().any(|k| k.end > e.keys && !k.is_empty())
        {
            bail!(
                "attention: a range beyond {} queries, {} keys",
                e.queries,
                e.keys
            );
        }
        Ok(())
    }
}

/// Softmax of `scale * q . k` over the keys that each query sees, times v. Query head n uses key head
/// `n / (Nq / Nk)`. Under `Precision::Bf16` q, k, v and the probabilities are rounded to bf16 for the products;
/// sums are f32. The forward pass keeps one number a query and head (the logarithm of the sum of exponentials) for
/// the backward pass, which makes the probabilities again, tile by tile.
///
/// # Shapes
/// q `[Lq, Nq, K]`; k, v `[Lk, Nk, K]`, Nk dividing Nq -> `[Lq, Nq, K]`. All f32.
///
/// # Errors
/// If the shapes do not agree, a range is out of bounds, queries are in two blocks, the scale is not positive,
/// or a tensor is not on the CPU.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    plan: &AttentionPlan,
    precision: Precision,
) -> Result<Tensor> {
    let (queries, query_heads, head) = q.dims3()?;
    let (keys, key_heads, key_head) = k.dims3()?;
    if k.dims() != v.dims()
        || head != key_head
        || key_heads == 0
        || !query_heads.is_multiple_of(key_heads)
    {
        bail!(
            "attention: q {:?}, k {:?}, v {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    let extents = Extents {
        queries,
        keys,
        query_heads,
        key_heads,
        head,
    };
    plan.check(extents)?;
    if head > wide::WIDEST && q.device().is_cuda() {
        return wide::attention([q, k, v], plan, precision);
    }
    let trains = q.track_op() || k.track_op() || v.track_op();
    let op = Attention {
        plan: plan.clone(),
        precision: if trains { precision.wider() } else { precision },
        extents,
        lse: OnceLock::new(),
        #[cfg(feature = "cuda")]
        trains,
        #[cfg(feature = "cuda")]
        cuda_lse: OnceLock::new(),
    };
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// All sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) query_heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) head: usize,
}

impl Extents {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.query_heads / self.key_heads
    }

    /// Queries, keys and values that lie apart.
    fn views<'a>(&self, [q, k, v]: [&'a [f32]; 3]) -> [View<'a>; 3] {
        let (queries, keys) = (self.query_heads * self.head, self.key_heads * self.head);
        [(q, queries), (k, keys), (v, keys)].map(|(data, stride)| View { data, stride })
    }
}

/// Rows of heads, from one row to the next `stride` numbers.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> View<'a> {
    /// Rows from `first` on, of one head of `width` numbers.
    fn head(&self, head: usize, width: usize, rows: Range<usize>) -> Matrix<'a> {
        let start = (rows.start * self.stride + head * width).min(self.data.len());
        Matrix::strided(&self.data[start..], rows.len(), width, self.stride)
    }
}

struct Attention {
    plan: AttentionPlan,
    precision: Precision,
    extents: Extents,
    /// The logarithm to base 2 of the sum of exponentials `[Nq, Lq]`, from the forward pass; +inf where no key is seen.
    lse: OnceLock<Vec<f32>>,
    /// Whether gradients will be wanted.
    #[cfg(feature = "cuda")]
    trains: bool,
    /// The logarithms on a GPU.
    #[cfg(feature = "cuda")]
    cuda_lse: OnceLock<crate::cuda::Lse>,
}

impl Attention {
    fn forward(&self, inputs: [&[f32]; 3]) -> (Vec<f32>, Vec<f32>) {
        let inputs = self.extents.views(inputs);
        forward::forward(inputs, self.extents, &self.plan, self.precision)
    }

    /// With inputs and outputs rounded to 8-bit floats; the products of those are exact in bf16.
    fn forward_eight(&self, inputs: [&[f32]; 3]) -> (Vec<f32>, Vec<f32>) {
        let rounded = inputs.map(|x| {
            let mut x = x.to_vec();
            let scale = eight::whole_scale(eight::greatest(x.iter()));
            x.par_iter_mut().for_each(|x| eight::by_scale(x, scale));
            (x, scale)
        });
        let (mut out, lse) = self.forward(rounded.each_ref().map(|(x, _)| &x[..]));
        // No output is greater than the values.
        let scale = rounded[2].1;
        out.par_iter_mut().for_each(|x| eight::by_scale(x, scale));
        (out, lse)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [floats(q, lq)?, floats(k, lk)?, floats(v, lv)?];
        let (out, lse) = match self.precision {
            Precision::Fp8 => self.forward_eight(inputs),
            _ => self.forward(inputs),
        };
        // A second call of the same operation has the same inputs.
        let _ = self.lse.set(lse);
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        q: &candle_core::CudaStorage,
        lq: &Layout,
        k: &candle_core::CudaStorage,
        lk: &Layout,
        v: &candle_core::CudaStorage,
        lv: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let inputs = [(q, lq), (k, lk), (v, lv)];
        let how = (self.precision, self.trains);
        let (out, lse) = crate::cuda::attention(inputs, &self.plan, self.extents, how)?;
        // A second call of the same operation has the same inputs.
        let _ = self.cuda_lse.set(lse);
        Ok((out, lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let Some(lse) = self.cuda_lse.get() {
            let tensors = [q, k, v, out, grad];
            let (plan, e) = (&self.plan, self.extents);
            let [dq, dk, dv] =
                crate::cuda::attention_backward(tensors, lse, plan, e, self.precision)?;
            return Ok((Some(dq), Some(dk), Some(dv)));
        }
        let Some(lse) = self.lse.get() else {
            bail!("attention: the backward pass needs the forward pass first");
        };
        let mut found = Vec::new();
        with_floats(q, |q| {
            with_floats(k, |k| {
                with_floats(v, |v| {
                    with_floats(out, |out| {
                        with_floats(grad, |grad| {
                            let along = backward::along(out, grad, self.extents);
                            found = backward::Given {
                                inputs: self.extents.views([q, k, v]),
                                grad,
                                along: &along,
                                lse,
                                extents: self.extents,
                                plan: &self.plan,
                            }
                            .gradients(self.precision);
                            Ok(())
                        })
                    })
                })
            })
        })?;
        let mut found = found.into_iter().zip([q, k, v]);
        let mut next = || {
            (found.next())
                .map(|(data, like)| Tensor::from_vec(data, like.dims(), like.device()))
                .transpose()
        };
        Ok((next()?, next()?, next()?))
    }
}
