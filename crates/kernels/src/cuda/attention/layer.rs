//! The self-attention layer: norms and rotations before attention, gates after it.

use candle_core::{CudaStorage, Layout, Result, Tensor};

use super::{Call, Lse, Packed};
use crate::attention::{AttentionPlan, Extents};
use crate::cuda::gpu::{Address, Floats, Gpu, Text, Threads, floats, launch, with_floats};
use crate::cuda::pointwise::gate_heads;
use crate::cuda::rows::{Norm, View, groups, norm_turn_gradient, place};
use crate::gemm::Precision;

/// What a self-attention layer is, besides its inputs and weights.
pub struct Layer<'a> {
    pub plan: &'a AttentionPlan,
    pub extents: Extents,
    pub norm: Norm<'a>,
    pub precision: Precision,
    /// Whether gradients will be wanted.
    pub trains: bool,
}

impl Layer<'_> {
    /// Queries and keys within `qkv`.
    fn views(&self) -> [View; 2] {
        let e = self.extents;
        [(e.query_heads, 0), (e.key_heads, e.query_heads * e.head)].map(|(heads, offset)| View {
            heads: heads as i32,
            stride: e.width() as i32,
            offset: offset as i32,
        })
    }

    /// Queries and keys normed and rotated, and values, packed.
    fn pack(&self, call: &Call, qkv: Address, norms: [Address; 2]) -> Result<[Packed; 3]> {
        let (gpu, e) = (call.gpu, self.extents);
        let groups = groups(gpu, self.norm.segments, e.queries)?;
        let groups = place(gpu, &groups);
        let rotate = |view: View, w: Address| {
            let rows = e.queries * view.heads as usize;
            let packed = call.room(view.heads as usize, e.queries)?;
            self.norm.with_angles(|[sin, cos], turning| {
                launch!(
                    gpu,
                    Text::Rows(call.precision),
                    "norm_turn_pack",
                    Threads::warps(rows),
                    qkv,
                    view,
                    w,
                    groups,
                    sin,
                    cos,
                    turning as i32,
                    self.norm.eps,
                    e.head as i32,
                    rows as u64,
                    call.padded() as i32,
                    packed.at
                );
                Ok(())
            })?;
            Ok::<_, candle_core::Error>(packed)
        };
        let [queries, keys] = self.views();
        let values = View {
            offset: e.rotated() as i32,
            ..keys
        };
        Ok([
            rotate(queries, norms[0])?,
            rotate(keys, norms[1])?,
            call.pack((qkv, values), e.keys, None)?,
        ])
    }
}

/// `self_attention`: the output, and what the backward pass needs.
pub fn layer(
    [(qkv, l), (q_norm, lq), (k_norm, lk)]: [(&CudaStorage, &Layout); 3],
    layer: &Layer,
) -> Result<(CudaStorage, Lse)> {
    let (gpu, e) = (Gpu::of(qkv), layer.extents);
    let call = Call::new(&gpu, layer.plan, e, layer.precision)?;
    let qkv = floats(qkv, l)?;
    let [q, k, v] = layer.pack(&call, qkv, [floats(q_norm, lq)?, floats(k_norm, lk)?])?;
    let (out, lse) = call.forward([q.at, k.at, v.at], layer.trains)?;
    let (at, count) = (gpu.address(&out), e.queries * e.query_heads * e.head);
    let stored = layer.precision.stored(layer.trains);
    let (gated, to) = match stored {
        Precision::F32 => (gpu.storage(out), at),
        _ => gpu.result(count, stored)?,
    };
    let gates = (qkv, e.width(), e.gates());
    let sizes = (count, e.head, e.query_heads);
    gate_heads(&gpu, at, gates, (to, stored), sizes)?;
    Ok((gated, lse))
}

/// The gradients of qkv and of the two norms.
pub fn layer_backward(
    [qkv, q_norm, k_norm, out, grad]: [&Tensor; 5],
    lse: &Lse,
    layer: &Layer,
) -> Result<[Tensor; 3]> {
    with_floats(
        [qkv, q_norm, k_norm, out, grad],
        |gpu, [x, wq, wk, out, g]| {
            let e = layer.extents;
            let call = Call::new(gpu, layer.plan, e, layer.precision)?;
            let [q, k, v] = layer.pack(&call, x, [wq, wk])?;
            let gates = Some((x, e.width(), e.gates()));
            let dout = call.pack((g, View::heads(e.query_heads, e.head)), e.queries, gates)?;
            // The gate is in `out` instead of the gradient: the product is the same.
            let pulls = call.along(out, g)?;
            let along = gpu.address(&pulls);
            let [dq, dk, dv] =
                call.backward([q.at, k.at, v.at, dout.at], gpu.address(lse), along)?;
            let dqkv = gpu.alloc(e.queries * e.width())?;
            let to = gpu.address(&dqkv);
            let count = e.queries * (e.key_heads * e.head + e.query_heads);
            let dv = gpu.address(&dv);
            launch!(
                gpu,
                call.text(),
                "values_and_gates",
                Threads::each(count),
                x,
                dv,
                along,
                to,
                call.sizes(),
                e.width() as i32
            );
            let [queries, keys] = layer.views();
            let of = |view: View, grad: &Floats, w| {
                let rows = e.queries * view.heads as usize;
                let grad = (gpu.address(grad), w);
                norm_turn_gradient(gpu, &layer.norm, (x, view), grad, (to, rows))
            };
            let (for_q, for_k) = (of(queries, &dq, wq)?, of(keys, &dk, wk)?);
            Ok([
                gpu.tensor(dqkv, qkv.dims()),
                gpu.tensor(for_q, q_norm.dims()),
                gpu.tensor(for_k, k_norm.dims()),
            ])
        },
    )
}
