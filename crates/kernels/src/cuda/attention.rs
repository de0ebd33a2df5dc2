//! Attention on the GPU: plans as lists of tiles, and the layer around it.

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{CudaStorage, Layout, Result, Tensor, bail};

use super::dense::{Job, Split, Wish};
use super::gpu::{Address, Floats, Gpu, Text, Threads, floats, launch, with_floats};
use super::pointwise::gate_heads;
use super::rows::{Norm, ROWS, Sum, View, groups, sum_parts};
use crate::attention::{AttentionBlock, AttentionPlan, Extents};
use crate::gemm::Precision;

/// Rows of a tile, threads of a block, and the greatest head that shared memory and registers hold.
const TILE: usize = 64;
const THREADS: u32 = 128;
const MOST: usize = 256;
/// Plans that are kept as lists.
const KEPT: usize = 16;

/// The logarithms of sums that the backward pass needs, `[Nq, Lq]`.
pub type Lse = Floats;

/// Queries of a tile and the ranges that they see, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct QueryTile {
    q: i32,
    end: i32,
    start: i32,
    ranges: i32,
    count: i32,
    causal: i32,
}

/// Queries that see a range of keys, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Seen {
    q: i32,
    end: i32,
    start: i32,
    low: i32,
    high: i32,
    causal: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sizes {
    queries: i32,
    keys: i32,
    query_heads: i32,
    key_heads: i32,
    width: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Logits {
    scale: f32,
    /// 0 for none.
    cap: f32,
}

// SAFETY: numbers of 32 bits, laid out as in the kernels.
unsafe impl DeviceRepr for QueryTile {}
// SAFETY: as above.
unsafe impl DeviceRepr for Seen {}
// SAFETY: as above.
unsafe impl DeviceRepr for Sizes {}
// SAFETY: as above.
unsafe impl DeviceRepr for Logits {}

/// A plan in the GPU's memory.
struct Lists {
    tiles: CudaSlice<QueryTile>,
    count: usize,
    ranges: CudaSlice<i32>,
    seen: CudaSlice<Seen>,
    offsets: CudaSlice<i32>,
}

impl Lists {
    fn new(gpu: &Gpu, plan: &AttentionPlan, keys: usize) -> Result<Self> {
        let (mut tiles, mut ranges) = (Vec::new(), Vec::new());
        let mut by_tile: Vec<Vec<Seen>> = vec![Vec::new(); keys.div_ceil(TILE)];
        for block in &plan.blocks {
            let first = ranges.len() / 2;
            for (i, range) in block.k.iter().enumerate() {
                let causal = block.causal && i + 1 == block.k.len();
                ranges.extend([range.start as i32, range.end.max(range.start) as i32]);
                if range.is_empty() || block.q.is_empty() {
                    continue;
                }
                for list in &mut by_tile[range.start / TILE..range.end.div_ceil(TILE)] {
                    list.push(Seen {
                        q: block.q.start as i32,
                        end: block.q.end as i32,
                        start: block.q.start as i32,
                        low: range.start as i32,
                        high: range.end as i32,
                        causal: i32::from(causal),
                    });
                }
            }
            for q in block.q.clone().step_by(TILE) {
                tiles.push(QueryTile {
                    q: q as i32,
                    end: (q + TILE).min(block.q.end) as i32,
                    start: block.q.start as i32,
                    ranges: first as i32,
                    count: block.k.len() as i32,
                    causal: i32::from(block.causal),
                });
            }
        }
        let mut offsets = vec![0i32];
        for list in &by_tile {
            offsets.push(offsets[offsets.len() - 1] + list.len() as i32);
        }
        // Tiles that see much come first, so that none is left running alone at the end.
        let work = |tile: &QueryTile| -> i64 {
            let list = &ranges[2 * tile.ranges as usize..][..2 * tile.count as usize];
            list.chunks(2).map(|r| i64::from(r[1] - r[0])).sum()
        };
        tiles.sort_by_key(|tile| -work(tile));
        Ok(Self {
            count: tiles.len(),
            tiles: gpu.upload(&tiles)?,
            ranges: gpu.upload(&ranges)?,
            seen: gpu.upload(&by_tile.concat())?,
            offsets: gpu.upload(&offsets)?,
        })
    }

    /// The lists of a plan, made once for all layers of a network that use it.
    fn of(gpu: &Gpu, plan: &AttentionPlan, keys: usize) -> Result<Arc<Self>> {
        type Known = (
            candle_core::cuda_backend::DeviceId,
            usize,
            AttentionPlan,
            Arc<Lists>,
        );
        static KNOWN: OnceLock<Mutex<Vec<Known>>> = OnceLock::new();
        let id = gpu.device().id();
        let mut known = (KNOWN.get_or_init(Default::default).lock())
            // Another thread's panic leaves the list whole.
            .unwrap_or_else(|e| e.into_inner());
        let same = |k: &Known| k.0 == id && k.1 == keys && k.2.blocks == plan.blocks;
        if let Some(at) = known.iter().position(same) {
            let found = known.remove(at);
            let lists = found.3.clone();
            known.push(found);
            return Ok(lists);
        }
        let lists = Arc::new(Self::new(gpu, plan, keys)?);
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((id, keys, plan.clone(), lists.clone()));
        Ok(lists)
    }
}

/// Heads as numbers for products, `[heads, rows, padded]`.
struct Packed {
    at: Address,
    _own: CudaSlice<f32>,
}

struct Call<'a> {
    gpu: &'a Gpu,
    plan: &'a AttentionPlan,
    e: Extents,
    /// Of the own kernels.
    precision: Precision,
    /// Whether cuDNN may compute in 8-bit floats.
    eight: bool,
}

impl<'a> Call<'a> {
    fn new(
        gpu: &'a Gpu,
        plan: &'a AttentionPlan,
        e: Extents,
        precision: Precision,
    ) -> Result<Self> {
        if e.head > MOST {
            bail!(
                "attention on a GPU takes heads of up to {MOST} numbers, not {}",
                e.head
            );
        }
        Ok(Self {
            gpu,
            plan,
            e,
            precision: precision.wider(),
            eight: precision == Precision::Fp8,
        })
    }

    fn padded(&self) -> usize {
        self.e.head.next_multiple_of(16).max(16)
    }

    fn text(&self) -> Text {
        Text::Attention(self.precision, self.padded())
    }

    /// The other side of a tile in the forward and the backward pass, as in the kernels.
    fn columns(&self) -> (usize, usize) {
        match self.precision.wider() {
            Precision::F32 => (32, 16),
            _ => (64, 32),
        }
    }

    /// Bytes of so many rows in shared memory.
    fn shared(&self, rows: usize) -> usize {
        rows * (self.padded() + 8) * Gpu::width(self.precision)
    }

    fn sizes(&self) -> Sizes {
        let e = self.e;
        Sizes {
            queries: e.queries as i32,
            keys: e.keys as i32,
            query_heads: e.query_heads as i32,
            key_heads: e.key_heads as i32,
            width: e.head as i32,
        }
    }

    fn logits(&self) -> Logits {
        Logits {
            scale: self.plan.scale,
            cap: self.plan.softcap.unwrap_or(0.0),
        }
    }

    fn room(&self, heads: usize, rows: usize) -> Result<Packed> {
        let bytes = heads * rows * self.padded() * Gpu::width(self.precision);
        let own = self.gpu.alloc(bytes.div_ceil(4))?;
        Ok(Packed {
            at: self.gpu.address(&own),
            _own: own,
        })
    }

    /// Packs `rows` rows of heads, times the sigmoids of gates (where they begin, from one row to the next, before the
    /// first) where there are some.
    fn pack(
        &self,
        x: (Address, View),
        rows: usize,
        gates: Option<(Address, usize, usize)>,
    ) -> Result<Packed> {
        let heads = x.1.heads as usize;
        let packed = self.room(heads, rows)?;
        let (gates, stride, offset) = gates.unwrap_or((0, 0, 0));
        let (text, padded, count) = (Text::Rows(self.precision), self.padded(), rows * heads);
        launch!(
            self.gpu,
            text,
            "pack_heads",
            Threads::each(count * padded),
            x.0,
            x.1,
            gates,
            stride as i32,
            offset as i32,
            self.e.head as i32,
            padded as i32,
            count as u64,
            packed.at
        );
        Ok(packed)
    }

    /// The output `[Lq, Nq, K]` and the logarithms of sums, with gradients wanted later or not.
    fn forward(&self, inputs: [Address; 3], trains: bool) -> Result<(Floats, Lse)> {
        let (gpu, e) = (self.gpu, self.e);
        let sees = |b: &&AttentionBlock| b.k.iter().any(|k| !k.is_empty());
        let seeing = self.plan.blocks.iter().filter(sees).map(|b| b.q.len());
        let count = e.queries * e.query_heads * e.head;
        let out = match seeing.sum::<usize>() == e.queries {
            true => gpu.alloc(count)?,
            false => gpu.zeros(count)?,
        };
        let lse = gpu.zeros(e.query_heads * e.queries)?;
        let [to, sums] = [&out, &lse].map(|slice| gpu.address(slice));
        let wish = Wish {
            trains,
            eight: self.eight,
        };
        let split = match self.precision {
            Precision::F32 => None,
            _ => Split::new(gpu, self.plan, e, wish)?,
        };
        match split {
            None => self.own_forward(self.plan, inputs, [to, sums])?,
            Some(split) => {
                let job = Job {
                    gpu,
                    extents: e,
                    scale: self.plan.scale,
                    inputs,
                };
                split.run(&job, to, sums)?;
                if !split.rest.blocks.is_empty() {
                    self.own_forward(&split.rest, inputs, [to, sums])?;
                }
            }
        }
        Ok((out, lse))
    }

    /// The same for the blocks of `plan` by the kernel of this crate: writes to the output and the logarithms.
    fn own_forward(
        &self,
        plan: &AttentionPlan,
        [q, k, v]: [Address; 3],
        [out, lse]: [Address; 2],
    ) -> Result<()> {
        let (gpu, e) = (self.gpu, self.e);
        let lists = Lists::of(gpu, plan, e.keys)?;
        let shared = self.shared(2 * self.columns().0 + TILE);
        let threads = Threads::blocks((lists.count, e.query_heads, 1), (THREADS, 1), shared);
        let (tiles, ranges) = (gpu.address(&lists.tiles), gpu.address(&lists.ranges));
        launch!(
            gpu,
            self.text(),
            "attention_forward",
            threads,
            q,
            k,
            v,
            tiles,
            ranges,
            self.logits(),
            self.sizes(),
            out,
            lse
        );
        Ok(())
    }

    /// `out . grad` of each head and query.
    fn along(&self, out: Address, grad: Address) -> Result<Floats> {
        let (gpu, e) = (self.gpu, self.e);
        let rows = e.queries * e.query_heads;
        let along = gpu.alloc(rows)?;
        let to = gpu.address(&along);
        launch!(
            gpu,
            self.text(),
            "attention_along",
            Threads::warps(rows),
            out,
            grad,
            self.sizes(),
            to
        );
        Ok(along)
    }

    /// The gradients of q `[Lq, Nq, K]`, k and v `[Lk, Nk, K]`.
    fn backward(
        &self,
        [q, k, v, grad]: [Address; 4],
        lse: Address,
        along: Address,
    ) -> Result<[Floats; 3]> {
        let (gpu, e) = (self.gpu, self.e);
        let lists = Lists::of(gpu, self.plan, e.keys)?;
        let dq = gpu.zeros(e.queries * e.query_heads * e.head)?;
        let keys = e.keys * e.key_heads * e.head;
        let (dk, dv) = (gpu.alloc(keys)?, gpu.alloc(keys)?);
        let [to_q, to_k, to_v] = [&dq, &dk, &dv].map(|slice| gpu.address(slice));
        let shared = self.shared(2 * self.columns().1 + 2 * TILE);
        let threads = Threads::blocks((lists.count, e.query_heads, 1), (THREADS, 1), shared);
        let (tiles, ranges) = (gpu.address(&lists.tiles), gpu.address(&lists.ranges));
        launch!(
            gpu,
            self.text(),
            "attention_queries_gradient",
            threads,
            q,
            k,
            v,
            grad,
            lse,
            along,
            tiles,
            ranges,
            self.logits(),
            self.sizes(),
            to_q
        );
        let threads = Threads::blocks(
            (e.keys.div_ceil(TILE), e.key_heads, 1),
            (THREADS, 1),
            shared,
        );
        let (seen, offsets) = (gpu.address(&lists.seen), gpu.address(&lists.offsets));
        launch!(
            gpu,
            self.text(),
            "attention_keys_gradient",
            threads,
            q,
            k,
            v,
            grad,
            lse,
            along,
            seen,
            offsets,
            self.logits(),
            self.sizes(),
            to_k,
            to_v
        );
        Ok([dq, dk, dv])
    }
}

/// `attention`: the output, and what the backward pass needs, if there will be one.
pub fn attention(
    [(q, lq), (k, lk), (v, lv)]: [(&CudaStorage, &Layout); 3],
    plan: &AttentionPlan,
    e: Extents,
    (precision, trains): (Precision, bool),
) -> Result<(CudaStorage, Lse)> {
    let gpu = Gpu::of(q);
    let call = Call::new(&gpu, plan, e, precision)?;
    let queries = View::heads(e.query_heads, e.head);
    let keys = View::heads(e.key_heads, e.head);
    let q = call.pack((floats(q, lq)?, queries), e.queries, None)?;
    let k = call.pack((floats(k, lk)?, keys), e.keys, None)?;
    let v = call.pack((floats(v, lv)?, keys), e.keys, None)?;
    let (out, lse) = call.forward([q.at, k.at, v.at], trains)?;
    Ok((gpu.storage(out), lse))
}

/// The gradients of q, k and v.
pub fn attention_backward(
    [q, k, v, out, grad]: [&Tensor; 5],
    lse: &Lse,
    plan: &AttentionPlan,
    e: Extents,
    precision: Precision,
) -> Result<[Tensor; 3]> {
    with_floats([q, k, v, out, grad], |gpu, [q_at, k_at, v_at, out, g]| {
        let call = Call::new(gpu, plan, e, precision)?;
        let queries = View::heads(e.query_heads, e.head);
        let keys = View::heads(e.key_heads, e.head);
        let along = call.along(out, g)?;
        let packed = [
            call.pack((q_at, queries), e.queries, None)?,
            call.pack((k_at, keys), e.keys, None)?,
            call.pack((v_at, keys), e.keys, None)?,
            call.pack((g, queries), e.queries, None)?,
        ];
        let places = [packed[0].at, packed[1].at, packed[2].at, packed[3].at];
        let [dq, dk, dv] = call.backward(places, gpu.address(lse), gpu.address(&along))?;
        Ok([
            gpu.tensor(dq, q.dims()),
            gpu.tensor(dk, k.dims()),
            gpu.tensor(dv, v.dims()),
        ])
    })
}

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
        let groups = gpu.address(&groups);
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
            let for_q = norm_gradient(gpu, layer, (x, queries), (&dq, wq), to)?;
            let for_k = norm_gradient(gpu, layer, (x, keys), (&dk, wk), to)?;
            Ok([
                gpu.tensor(dqkv, qkv.dims()),
                gpu.tensor(for_q, q_norm.dims()),
                gpu.tensor(for_k, k_norm.dims()),
            ])
        },
    )
}

/// Writes the gradient of queries or keys into that of qkv; gives that of their norm's weights.
fn norm_gradient(
    gpu: &Gpu,
    layer: &Layer,
    (x, view): (Address, View),
    (grad, w): (&Floats, Address),
    to: Address,
) -> Result<Floats> {
    let (e, norm) = (layer.extents, &layer.norm);
    let rows = e.queries * view.heads as usize;
    let groups = groups(gpu, norm.segments, e.queries)?;
    let turned = gpu.alloc::<f32>(rows * e.head)?;
    let inverse = gpu.alloc::<f32>(rows)?;
    let [turned_at, inverse_at] = [&turned, &inverse].map(|slice| gpu.address(slice));
    let (grad, groups) = (gpu.address(grad), gpu.address(&groups));
    norm.with_angles(|[sin, cos], turning| {
        launch!(
            gpu,
            ROWS,
            "norm_turn_backward",
            Threads::warps(rows),
            x,
            view,
            grad,
            w,
            groups,
            sin,
            cos,
            turning as i32,
            norm.eps,
            e.head as i32,
            rows as u64,
            to,
            view,
            turned_at,
            inverse_at
        );
        Ok(())
    })?;
    let own = View::heads(view.heads as usize, e.head);
    let sum = Sum::Scaled {
        b: (x, view),
        scale: inverse_at,
    };
    sum_parts(gpu, (turned_at, own), sum, e.head, norm.segments)
}
