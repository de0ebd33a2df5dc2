//! Attention on the GPU.

mod layer;
mod lists;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{CudaStorage, Layout, Result, Tensor, bail};

use super::dense::{Job, Split, Wish};
use super::gpu::{Address, Floats, Gpu, Text, Threads, floats, launch, with_floats};
use super::rows::{View, total};
use crate::attention::{AttentionBlock, AttentionPlan, Extents};
use crate::gemm::Precision;
use lists::Lists;

pub use layer::{Layer, layer, layer_backward};

/// Rows of a tile, threads of a block, and the greatest head that shared memory and registers hold.
const TILE: usize = 64;
const THREADS: u32 = 128;
const MOST: usize = 256;

/// The logarithms of sums that the backward pass needs, `[Nq, Lq]`.
pub type Lse = Floats;

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
unsafe impl DeviceRepr for Sizes {}
// SAFETY: as above.
unsafe impl DeviceRepr for Logits {}

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
        let parts = e.query_heads / e.key_heads;
        let (dk, dv) = (gpu.alloc(parts * keys)?, gpu.alloc(parts * keys)?);
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
        // And the logarithms and pulls of the tile's queries.
        let shared = shared + 2 * self.columns().1 * size_of::<f32>();
        let threads = Threads::blocks(
            (e.keys.div_ceil(TILE), e.query_heads, 1),
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
        if parts == 1 {
            return Ok([dq, dk, dv]);
        }
        let sum = |parts_at| total(gpu, (parts_at, None), parts, keys, 1);
        Ok([dq, sum(to_k)?, sum(to_v)?])
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
