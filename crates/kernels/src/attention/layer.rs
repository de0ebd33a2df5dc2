//! The middle of a self-attention layer in one operation: from the joined product to the gated heads.
//!
//! As separate operations, every part cut out of the joined product has a gradient as large as the whole;
//! here that gradient is written once, and neither the rotated heads nor the ungated output are kept.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{AttentionPlan, Extents, View, backward, forward};
use crate::gemm::{Precision, eight};
use crate::norm::rms_backward;
use crate::rope::{Angles, norm_and_turn};
use crate::rows::{Part, fold_parts, for_rows, parts};
use crate::segments::Segments;
use crate::simd::{Loop, sigmoid, vectorised};
use crate::storage::{floats, with_floats};

/// What `self_attention` needs besides its inputs and weights.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention<'a> {
    /// Query heads Nq, key heads Nk, and numbers a head K.
    pub heads: (usize, usize, usize),
    /// Sines and cosines `[L, R]`, 2R <= K, as for `qk_norm_rope`.
    pub rope: (&'a Tensor, &'a Tensor),
    /// The groups of the norms' weights; they must cover all rows.
    pub segments: &'a Segments,
    /// What each row sees.
    pub plan: &'a AttentionPlan,
    /// Added to the mean square in the norms.
    pub eps: f64,
    /// Of the products.
    pub precision: Precision,
}

/// `qk_norm_rope` of queries and keys, `attention`, and `head_gate`, of the columns q, k, v, gate of `qkv`.
///
/// # Shapes
/// qkv `[L, (Nq + 2 Nk) K + Nq]`; norms of q and k `[G * K]` -> `[L, Nq * K]`. All f32, but that a GPU stores the result as
/// products take it that are as precise as `layer.precision`, if no gradient is wanted: one of them is to read it.
///
/// # Errors
/// If the shapes do not agree, the segments leave a row out, as `attention`, or a tensor is not on the CPU.
pub fn self_attention(
    qkv: &Tensor,
    (q_norm, k_norm): (&Tensor, &Tensor),
    layer: &SelfAttention,
) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    let trains = qkv.track_op() || q_norm.track_op() || k_norm.track_op();
    let op = LayerOp {
        middle: Middle::new((rows, width), (q_norm, k_norm), layer, trains)?,
        lse: OnceLock::new(),
        #[cfg(feature = "cuda")]
        trains,
        #[cfg(feature = "cuda")]
        cuda_lse: OnceLock::new(),
    };
    qkv.contiguous()?
        .apply_op3(&q_norm.contiguous()?, &k_norm.contiguous()?, op)
}

struct LayerOp {
    middle: Middle,
    /// As in `attention`.
    lse: OnceLock<Vec<f32>>,
    /// Whether gradients will be wanted.
    #[cfg(feature = "cuda")]
    trains: bool,
    /// The logarithms on a GPU.
    #[cfg(feature = "cuda")]
    cuda_lse: OnceLock<crate::cuda::Lse>,
}

/// The operation without its inputs.
pub(crate) struct Middle {
    extents: Extents,
    sin: Tensor,
    cos: Tensor,
    pub(crate) segments: Segments,
    plan: AttentionPlan,
    pub(crate) eps: f32,
    pub(crate) precision: Precision,
}

/// Where the columns of `qkv` begin.
impl Extents {
    /// Numbers of queries and keys of a row.
    pub(crate) fn rotated(&self) -> usize {
        (self.query_heads + self.key_heads) * self.head
    }

    pub(crate) fn gates(&self) -> usize {
        self.rotated() + self.key_heads * self.head
    }

    pub(crate) fn width(&self) -> usize {
        self.gates() + self.query_heads
    }

    /// Queries and keys rotated, values as they are.
    fn parts_of<'a>(&self, qkv: &'a [f32], rotated: &'a [f32]) -> [View<'a>; 3] {
        let (stride, keys) = (self.rotated(), self.query_heads * self.head);
        let from = |data: &'a [f32], at: usize, stride| View {
            data: &data[at.min(data.len())..],
            stride,
        };
        [
            from(rotated, 0, stride),
            from(rotated, keys, stride),
            from(qkv, stride, self.width()),
        ]
    }
}

#[cfg(feature = "cuda")]
impl LayerOp {
    fn cuda(&self) -> crate::cuda::Layer<'_> {
        let middle = &self.middle;
        crate::cuda::Layer {
            plan: &middle.plan,
            extents: middle.extents,
            norm: crate::cuda::Norm {
                segments: &middle.segments,
                eps: middle.eps,
                heads: middle.extents.query_heads,
                width: middle.extents.head,
                angles: Some([&middle.sin, &middle.cos]),
            },
            precision: middle.precision,
            trains: self.trains,
        }
    }
}

impl Middle {
    /// Of `qkv` with so many rows and columns.
    pub(crate) fn new(
        (rows, width): (usize, usize),
        (q_norm, k_norm): (&Tensor, &Tensor),
        layer: &SelfAttention,
        trains: bool,
    ) -> Result<Self> {
        let (query_heads, key_heads, head) = layer.heads;
        let (sin, cos) = layer.rope;
        if key_heads == 0
            || !query_heads.is_multiple_of(key_heads)
            || width != (query_heads + 2 * key_heads) * head + query_heads
            || q_norm.dims() != [layer.segments.groups() * head]
            || k_norm.dims() != q_norm.dims()
            || sin.dims() != cos.dims()
            || sin.dims2()?.0 != rows
            || 2 * sin.dims2()?.1 > head
            || !layer.segments.covers(rows)
        {
            bail!(
                "self_attention: qkv [{rows}, {width}], norms {:?} and {:?}, sin {:?}, heads {:?}, {} groups over {} rows",
                q_norm.dims(),
                k_norm.dims(),
                sin.dims(),
                layer.heads,
                layer.segments.groups(),
                layer.segments.end()
            );
        }
        let extents = Extents {
            queries: rows,
            keys: rows,
            query_heads,
            key_heads,
            head,
        };
        layer.plan.check(extents)?;
        Ok(Self {
            extents,
            sin: sin.detach().contiguous()?,
            cos: cos.detach().contiguous()?,
            segments: layer.segments.clone(),
            plan: layer.plan.clone(),
            eps: layer.eps as f32,
            precision: match trains {
                true => layer.precision.wider(),
                false => layer.precision,
            },
        })
    }

    /// Columns of the result.
    pub(crate) fn columns(&self) -> usize {
        self.extents.query_heads * self.extents.head
    }

    /// The gated heads, and the logarithms that their gradients need.
    pub(crate) fn forward(&self, qkv: &[f32], norms: [&[f32]; 2]) -> Result<(Vec<f32>, Vec<f32>)> {
        let e = self.extents;
        let rotated = self.with_angles(|angles| Ok(self.rotate(qkv, norms, angles)))?;
        let (mut out, lse) = match self.precision {
            Precision::Fp8 => self.forward_eight(qkv, rotated),
            _ => {
                let inputs = e.parts_of(qkv, &rotated);
                forward::forward(inputs, e, &self.plan, self.precision)
            }
        };
        self.gate(qkv, &mut out);
        Ok((out, lse))
    }

    fn with_angles<T>(&self, f: impl FnOnce(Angles) -> Result<T>) -> Result<T> {
        let turning = self.sin.dim(1)?;
        with_floats(&self.sin, |sin| {
            with_floats(&self.cos, |cos| f(Angles { sin, cos, turning }))
        })
    }

    /// Queries and keys normed and rotated, `[L, (Nq + Nk) K]`.
    fn rotate(&self, qkv: &[f32], norms: [&[f32]; 2], angles: Angles) -> Vec<f32> {
        let e = self.extents;
        let mut rotated = vec![0.0; e.queries * e.rotated()];
        parts(&self.segments, e.rotated(), &mut rotated)
            .into_par_iter()
            .for_each(|part| {
                vectorised(Rotate {
                    qkv,
                    norms: norms.map(|w| &w[part.group * e.head..][..e.head]),
                    angles,
                    op: self,
                    part,
                })
            });
        rotated
    }

    /// With queries, keys, values and outputs rounded to 8-bit floats.
    fn forward_eight(&self, qkv: &[f32], mut rotated: Vec<f32>) -> (Vec<f32>, Vec<f32>) {
        let e = self.extents;
        let mut qkv = qkv.to_vec();
        let queries = e.query_heads * e.head;
        round_columns(&mut rotated, e.rotated(), 0..queries);
        round_columns(&mut rotated, e.rotated(), queries..e.rotated());
        let scale = round_columns(&mut qkv, e.width(), e.rotated()..e.gates());
        let inputs = e.parts_of(&qkv, &rotated);
        let (mut out, lse) = forward::forward(inputs, e, &self.plan, self.precision);
        // No output is greater than the values.
        out.par_iter_mut().for_each(|x| eight::by_scale(x, scale));
        (out, lse)
    }

    /// Multiplies each head of `x` `[L, Nq, K]` by its gate, in place.
    fn gate(&self, qkv: &[f32], x: &mut [f32]) {
        let e = self.extents;
        for_rows(x, e.query_heads * e.head, |at, x| {
            vectorised(Gate { qkv, at, x, e });
        });
    }

    /// The gradients of qkv, and of both norms.
    pub(crate) fn gradients(
        &self,
        (qkv, norms): (&[f32], [&[f32]; 2]),
        (out, grad, lse): (&[f32], &[f32], &[f32]),
    ) -> Result<(Vec<f32>, [Vec<f32>; 2])> {
        self.with_angles(|angles| {
            let (dqkv, dnorms) = self.gradients_by((qkv, norms), (out, grad, lse), angles);
            let head = self.extents.head;
            let norm = |kind: usize| {
                let all = dnorms.chunks_exact(2 * head);
                let own = all.flat_map(|g| &g[kind * head..][..head]);
                own.copied().collect()
            };
            Ok((dqkv, [norm(0), norm(1)]))
        })
    }

    /// The gradients of qkv, and of both norms one after the other a group.
    fn gradients_by(
        &self,
        (qkv, norms): (&[f32], [&[f32]; 2]),
        (out, grad, lse): (&[f32], &[f32], &[f32]),
        angles: Angles,
    ) -> (Vec<f32>, Vec<f32>) {
        let e = self.extents;
        let rotated = self.rotate(qkv, norms, angles);
        let mut dout = grad.to_vec();
        self.gate(qkv, &mut dout);
        // The gate is in `out` instead of the gradient: the product is the same.
        let along = backward::along(out, grad, e);
        let found = backward::Given {
            inputs: e.parts_of(qkv, &rotated),
            grad: &dout,
            along: &along,
            lse,
            extents: e,
            plan: &self.plan,
        }
        .gradients(self.precision);
        let mut dqkv = vec![0.0; qkv.len()];
        let all = parts(&self.segments, e.width(), &mut dqkv);
        let shape = (self.segments.groups(), 2 * e.head);
        let dnorms = fold_parts(all, shape, |part, dnorms| {
            vectorised(Join {
                qkv,
                norms: norms.map(|w| &w[part.group * e.head..][..e.head]),
                grads: &found,
                along: &along,
                angles,
                op: self,
                part,
                dnorms,
            });
        });
        (dqkv, dnorms)
    }
}

/// Rounds some columns of rows of `width` numbers to 8-bit floats with one scale, which it gives.
fn round_columns(x: &mut [f32], width: usize, columns: std::ops::Range<usize>) -> f32 {
    let own = x.chunks_exact(width).map(|row| &row[columns.clone()]);
    let scale = eight::whole_scale(eight::greatest(own.flatten()));
    x.par_chunks_exact_mut(width).for_each(|row| {
        row[columns.clone()]
            .iter_mut()
            .for_each(|x| eight::by_scale(x, scale))
    });
    scale
}

struct Rotate<'a> {
    qkv: &'a [f32],
    norms: [&'a [f32]; 2],
    angles: Angles<'a>,
    op: &'a Middle,
    part: Part<'a>,
}

impl Loop for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let e = self.op.extents;
        let outs = self.part.out.chunks_exact_mut(e.rotated());
        for (row, out) in self.part.rows.zip(outs) {
            let x = &self.qkv[row * e.width()..][..e.rotated()];
            let heads = x.chunks_exact(e.head).zip(out.chunks_exact_mut(e.head));
            for (i, (x, y)) in heads.enumerate() {
                let w = self.norms[usize::from(i >= e.query_heads)];
                norm_and_turn((row, x), w, self.angles, self.op.eps, y);
            }
        }
    }
}

struct Gate<'a> {
    qkv: &'a [f32],
    at: usize,
    x: &'a mut [f32],
    e: Extents,
}

impl Loop for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let e = self.e;
        for (i, x) in self.x.chunks_exact_mut(e.query_heads * e.head).enumerate() {
            let gates = &self.qkv[(self.at + i) * e.width() + e.gates()..][..e.query_heads];
            for (x, gate) in x.chunks_exact_mut(e.head).zip(gates) {
                let s = sigmoid(*gate);
                x.iter_mut().for_each(|x| *x *= s);
            }
        }
    }
}

/// Gradients of the rows of qkv out of those of q, k, v; adds to those of the norms.
struct Join<'a> {
    qkv: &'a [f32],
    norms: [&'a [f32]; 2],
    grads: &'a [Vec<f32>],
    along: &'a [f32],
    angles: Angles<'a>,
    op: &'a Middle,
    part: Part<'a>,
    dnorms: &'a mut [f32],
}

impl Loop for Join<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let e = self.op.extents;
        let (queries, keys) = (e.query_heads * e.head, e.key_heads * e.head);
        let mut turned = vec![0.0; e.head];
        for (row, dx) in self
            .part
            .rows
            .zip(self.part.out.chunks_exact_mut(e.width()))
        {
            let x = &self.qkv[row * e.width()..][..e.width()];
            for i in 0..e.query_heads + e.key_heads {
                let kind = usize::from(i >= e.query_heads);
                let (width, head) = [(queries, i), (keys, i.wrapping_sub(e.query_heads))][kind];
                turned.copy_from_slice(&self.grads[kind][row * width + head * e.head..][..e.head]);
                self.angles.turn(row, &mut turned, -1.0);
                let range = i * e.head..(i + 1) * e.head;
                let dw = &mut self.dnorms[kind * e.head..][..e.head];
                let both = (&x[range.clone()], &turned[..]);
                rms_backward(both, self.norms[kind], self.op.eps, &mut dx[range], dw);
            }
            dx[e.rotated()..e.gates()].copy_from_slice(&self.grads[2][row * keys..][..keys]);
            for head in 0..e.query_heads {
                let s = sigmoid(x[e.gates() + head]);
                dx[e.gates() + head] = self.along[head * e.queries + row] * (1.0 - s);
            }
        }
    }
}

impl CustomOp3 for LayerOp {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        l: &Layout,
        q_norm: &CpuStorage,
        lq: &Layout,
        k_norm: &CpuStorage,
        lk: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let norms = [floats(q_norm, lq)?, floats(k_norm, lk)?];
        let (out, lse) = self.middle.forward(floats(qkv, l)?, norms)?;
        // A second call of the same operation has the same inputs.
        let _ = self.lse.set(lse);
        let shape = (l.dims()[0], self.middle.columns());
        Ok((CpuStorage::F32(out), shape.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        qkv: &candle_core::CudaStorage,
        l: &Layout,
        q_norm: &candle_core::CudaStorage,
        lq: &Layout,
        k_norm: &candle_core::CudaStorage,
        lk: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let inputs = [(qkv, l), (q_norm, lq), (k_norm, lk)];
        let (out, lse) = crate::cuda::layer(inputs, &self.cuda())?;
        // A second call of the same operation has the same inputs.
        let _ = self.cuda_lse.set(lse);
        Ok((out, (l.dims()[0], self.middle.columns()).into()))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        q_norm: &Tensor,
        k_norm: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let Some(lse) = self.cuda_lse.get() {
            let tensors = [qkv, q_norm, k_norm, out, grad];
            let [dqkv, dq, dk] = crate::cuda::layer_backward(tensors, lse, &self.cuda())?;
            return Ok((Some(dqkv), Some(dq), Some(dk)));
        }
        let Some(lse) = self.lse.get() else {
            bail!("self_attention: the backward pass needs the forward pass first");
        };
        let norms = [q_norm.to_vec1::<f32>()?, k_norm.to_vec1::<f32>()?];
        let norms = [&norms[0][..], &norms[1][..]];
        let (dqkv, [dq, dk]) = with_floats(qkv, |qkv| {
            with_floats(out, |out| {
                with_floats(grad, |grad| {
                    self.middle.gradients((qkv, norms), (out, grad, lse))
                })
            })
        })?;
        let tensor = |numbers, like: &Tensor| Tensor::from_vec(numbers, like.dims(), like.device());
        Ok((
            Some(tensor(dqkv, qkv)?),
            Some(tensor(dq, q_norm)?),
            Some(tensor(dk, k_norm)?),
        ))
    }
}
