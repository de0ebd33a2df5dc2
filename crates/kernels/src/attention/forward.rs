//! The forward pass: each task walks over the keys of some queries of one head, with a running softmax.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use rayon::prelude::*;

use super::tiles::{BOUND, Logits, Running, Softmax};
use super::{AttentionBlock, AttentionPlan, Extents, View};
use crate::gemm::{Block, Kernel, Matrix, POWER_SUMS, Packed, Precision, Start};
use crate::memory::{Aligned, HandedOn};
use crate::simd::vectorised;

/// Queries of a task.
const QUERIES: usize = 96;
/// Keys of a tile. A multiple of what `ALIGN` is.
const KEYS: usize = 384;
/// The same where probabilities are packed as they are made: a tile's logits stay in the first-level cache.
const SMALL: [usize; 2] = [32, 128];
/// Keys that are multiplied at a time there.
const STEP: usize = 32;
/// What the first key of a tile is a multiple of, for the packed layouts.
const ALIGN: usize = 32;

/// Keys and values of one head.
struct Keys {
    k: Packed,
    v: Packed,
}

/// Some queries of one block and head.
struct Task<'a> {
    block: &'a AttentionBlock,
    rows: Range<usize>,
    head: usize,
}

/// What a thread keeps from one task to the next.
struct Scratch {
    q: Packed,
    p: Packed,
    tile: Aligned,
    out: Aligned,
    /// Numbers from one row of `out` to the next: a head's, and what is as cheap to make.
    width: usize,
    state: Vec<Running>,
    /// Sums of rows whose probabilities were packed as they were made, in parts.
    sums: Aligned,
}

/// Where the results go. Tasks write disjoint parts.
struct Results {
    out: *mut f32,
    lse: *mut f32,
}

// SAFETY: each task writes the rows and the head that it owns.
unsafe impl Sync for Results {}

/// One call.
struct Call<'a> {
    kernel: Kernel,
    q: View<'a>,
    keys: &'a [Keys],
    extents: Extents,
    logits: Logits,
    /// Of each query head: whether its logits are within [`BOUND`], by the lengths of queries and keys.
    bounded: Vec<bool>,
    results: Results,
}

/// The output `[Lq, Nq, K]` and the logarithms to base 2 of the sums of exponentials `[Nq, Lq]`.
pub fn forward(
    [q, k, v]: [View; 3],
    e: Extents,
    plan: &AttentionPlan,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let kernel = Kernel::new(precision);
    let mut out = vec![0.0; e.queries * e.query_heads * e.head];
    let mut lse = vec![f32::INFINITY; e.query_heads * e.queries];
    let keys: Vec<Keys> = (0..e.key_heads)
        .into_par_iter()
        .map(|head| pack_keys(kernel, (k, v), head, e))
        .collect();
    let bounded = bounded_heads([q, k], e, plan);
    let call = Call {
        kernel,
        q,
        keys: &keys,
        extents: e,
        logits: Logits {
            scale: plan.scale,
            softcap: plan.softcap,
        },
        bounded,
        results: Results {
            out: out.as_mut_ptr(),
            lse: lse.as_mut_ptr(),
        },
    };
    let scratch = HandedOn::new(|| call.scratch());
    tasks(plan, e, call.sizes()[0])
        .into_par_iter()
        .for_each(|task| scratch.with(|s| kernel.held(|| call.run(s, &task))));
    (out, lse)
}

/// Whether the logits of each query head are within [`BOUND`]: no product is greater than that of the lengths.
fn bounded_heads([q, k]: [View; 2], e: Extents, plan: &AttentionPlan) -> Vec<bool> {
    let longest = |x: View, head: usize, rows: usize| {
        (0..rows)
            .map(|row| {
                let x = &x.data[row * x.stride + head * e.head..][..e.head];
                crate::simd::sum(x, x, |a, b| a * b)
            })
            .fold(0.0, f32::max)
    };
    if plan.softcap.is_some() {
        return vec![false; e.query_heads];
    }
    let keys: Vec<f32> = (0..e.key_heads)
        .into_par_iter()
        .map(|head| longest(k, head, e.keys))
        .collect();
    (0..e.query_heads)
        .into_par_iter()
        .map(|head| {
            let squared = longest(q, head, e.queries) * keys[head / e.group()];
            plan.scale * LOG2_E * squared.sqrt() <= BOUND
        })
        .collect()
}

fn pack_keys(kernel: Kernel, (k, v): (View, View), head: usize, e: Extents) -> Keys {
    let pack = || {
        let mut packed = kernel.right();
        packed.pack_rows(k.head(head, e.head, 0..e.keys));
        packed
    };
    let pack_values = || {
        let mut packed = kernel.right();
        packed.pack_columns(v.head(head, e.head, 0..e.keys));
        packed
    };
    let (k, v) = rayon::join(pack, pack_values);
    Keys { k, v }
}

fn tasks<'a>(plan: &'a AttentionPlan, e: Extents, queries: usize) -> Vec<Task<'a>> {
    let of_block = |head: usize, block: &'a AttentionBlock| {
        (block.q.clone().step_by(queries)).map(move |start| Task {
            block,
            rows: start..(start + queries).min(block.q.end),
            head,
        })
    };
    (0..e.query_heads)
        .flat_map(|head| plan.blocks.iter().flat_map(move |b| of_block(head, b)))
        .collect()
}

impl Call<'_> {
    /// Queries of a task, and keys of a tile.
    fn sizes(&self) -> [usize; 2] {
        match self.kernel.packs_powers() {
            true => SMALL,
            false => [QUERIES, KEYS],
        }
    }

    fn scratch(&self) -> Scratch {
        let [queries, keys] = self.sizes();
        Scratch {
            q: self.kernel.left(),
            p: self.kernel.left(),
            tile: Aligned::zeros(queries * keys),
            out: Aligned::default(),
            width: self.kernel.whole_columns(self.extents.head),
            state: Vec::new(),
            sums: Aligned::default(),
        }
    }

    fn run(&self, s: &mut Scratch, task: &Task) {
        let e = self.extents;
        let count = task.rows.len();
        s.out.reset(count * s.width);
        s.state.clear();
        let start = match self.bounded[task.head] {
            true => Running::BOUNDED,
            false => Running::START,
        };
        s.state.resize(count, start);
        s.sums.reset(count * POWER_SUMS);
        s.q.pack_rows(self.q.head(task.head, e.head, task.rows.clone()));
        let last = task.block.k.len().saturating_sub(1);
        for (i, range) in task.block.k.iter().enumerate() {
            let causal = task.block.causal && i == last;
            self.range(s, task, range, causal);
        }
        self.store(s, task);
    }

    /// All tiles of one range of keys.
    fn range(&self, s: &mut Scratch, task: &Task, range: &Range<usize>, causal: bool) {
        // The keys that row i sees begin at range.start and end before range.start + reach + i.
        let reach = task.rows.start - task.block.q.start + 1;
        let end = match causal {
            true => range.end.min(range.start + reach + task.rows.len() - 1),
            false => range.end,
        };
        if range.is_empty() {
            return;
        }
        let [_, keys] = self.sizes();
        for tile in (range.start / ALIGN * ALIGN..end).step_by(keys) {
            let columns = (end - tile).min(keys);
            let seen = |row: usize| {
                let end = match causal {
                    true => (range.start + reach + row)
                        .saturating_sub(tile)
                        .min(columns),
                    false => columns,
                };
                range.start.saturating_sub(tile).min(end)..end
            };
            self.tile(s, task, (tile, columns), &seen);
        }
    }

    /// `columns` keys from `tile` on.
    fn tile(
        &self,
        s: &mut Scratch,
        task: &Task,
        (tile, columns): (usize, usize),
        seen: &dyn Fn(usize) -> Range<usize>,
    ) {
        let e = self.extents;
        let (rows, keys) = (task.rows.len(), &self.keys[task.head / e.group()]);
        let stride = self.sizes()[1];
        // The products of q with some of the tile's keys.
        let products = |s: &mut Scratch, some: Range<usize>| {
            // SAFETY: q was packed with `rows` rows, the keys hold `columns` items from `tile` on,
            // and the tile has room for as many queries and keys as `sizes` says.
            unsafe {
                let c = (s.tile.as_mut_ptr().add(some.start), stride);
                let q = Block::new(&s.q, 0, 0);
                let k = Block::new(&keys.k, tile + some.start, 0);
                self.kernel
                    .block(q, k, [rows, some.len(), e.head], c, Start::Zero);
            }
        };
        let bounded = self.bounded[task.head];
        if bounded && self.kernel.packs_powers() {
            // Tiles multiply some keys while the powers of those before are made.
            let all = seen(0) == (0..columns);
            let scale = self.logits.scale * LOG2_E;
            s.p.begin_powers(rows, columns);
            let mut before = 0..0;
            for first in (0..columns.next_multiple_of(STEP) + STEP).step_by(STEP) {
                let next = first.min(columns)..(first + STEP).min(columns);
                if !next.is_empty() {
                    products(s, next.clone());
                }
                let logits = (&s.tile[..], stride);
                (s.p).pack_powers(logits, before, (!all).then_some(seen), scale, &mut s.sums);
                before = next;
            }
        } else {
            products(s, 0..columns);
            vectorised(Softmax {
                tile: &mut s.tile,
                stride,
                columns,
                seen,
                logits: self.logits,
                bounded,
                state: &mut s.state,
                out: &mut s.out,
            });
            s.p.pack_rows(Matrix::strided(&s.tile, rows, columns, stride));
        }
        // SAFETY: p was packed with `rows` rows of `columns`, the values hold as many from `tile` on, in whole panels,
        // and `out` has a row of so many columns for each.
        unsafe {
            let c = (s.out.as_mut_ptr(), s.width);
            let (p, v) = (Block::new(&s.p, 0, 0), Block::new(&keys.v, 0, tile));
            let shape = [rows, s.width, columns];
            self.kernel.block(p, v, shape, c, Start::Add);
        }
    }

    fn store(&self, s: &Scratch, task: &Task) {
        let e = self.extents;
        let sums = s.state.iter().zip(s.sums.chunks_exact(POWER_SUMS));
        let sums = sums.map(|(state, packed)| (state.top, state.sum + packed.iter().sum::<f32>()));
        for ((row, (top, sum)), out) in task.rows.clone().zip(sums).zip(s.out.chunks_exact(s.width))
        {
            if sum == 0.0 {
                continue;
            }
            let inverse = 1.0 / sum;
            // SAFETY: the row and the head belong to this task.
            unsafe {
                let to = self
                    .results
                    .out
                    .add((row * e.query_heads + task.head) * e.head);
                let to = std::slice::from_raw_parts_mut(to, e.head);
                to.iter_mut().zip(out).for_each(|(t, o)| *t = o * inverse);
                *self.results.lse.add(task.head * e.queries + row) = top + sum.log2();
            }
        }
    }
}
