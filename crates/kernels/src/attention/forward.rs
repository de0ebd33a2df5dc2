//! The forward pass: each task walks over the keys of some queries of one head, with a running softmax.

use std::ops::Range;

use rayon::prelude::*;

use super::tiles::{Logits, Running, Softmax};
use super::{AttentionBlock, AttentionPlan, Extents, View};
use crate::gemm::{Block, Kernel, Matrix, Packed, Precision, Start};
use crate::simd::vectorised;

/// Queries of a task.
const QUERIES: usize = 96;
/// Keys of a tile. A multiple of what `ALIGN` is.
const KEYS: usize = 384;
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
    tile: Vec<f32>,
    out: Vec<f32>,
    state: Vec<Running>,
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
    let call = Call {
        kernel,
        q,
        keys: &keys,
        extents: e,
        logits: Logits {
            scale: plan.scale,
            softcap: plan.softcap,
        },
        results: Results {
            out: out.as_mut_ptr(),
            lse: lse.as_mut_ptr(),
        },
    };
    tasks(plan, e)
        .into_par_iter()
        .for_each_init(|| call.scratch(), |scratch, task| call.run(scratch, &task));
    (out, lse)
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

fn tasks<'a>(plan: &'a AttentionPlan, e: Extents) -> Vec<Task<'a>> {
    let of_block = |head: usize, block: &'a AttentionBlock| {
        (block.q.clone().step_by(QUERIES)).map(move |start| Task {
            block,
            rows: start..(start + QUERIES).min(block.q.end),
            head,
        })
    };
    (0..e.query_heads)
        .flat_map(|head| plan.blocks.iter().flat_map(move |b| of_block(head, b)))
        .collect()
}

impl Call<'_> {
    fn scratch(&self) -> Scratch {
        Scratch {
            q: self.kernel.left(),
            p: self.kernel.left(),
            tile: vec![0.0; QUERIES * KEYS],
            out: Vec::new(),
            state: Vec::new(),
        }
    }

    fn run(&self, s: &mut Scratch, task: &Task) {
        let e = self.extents;
        let count = task.rows.len();
        s.out.clear();
        s.out.resize(count * e.head, 0.0);
        s.state.clear();
        s.state.resize(count, Running::START);
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
        for tile in (range.start / ALIGN * ALIGN..end).step_by(KEYS) {
            let columns = (end - tile).min(KEYS);
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
        // SAFETY: q was packed with `rows` rows, the keys hold `columns` items from `tile` on,
        // and the tile has room for QUERIES x KEYS.
        unsafe {
            let c = (s.tile.as_mut_ptr(), KEYS);
            let (q, k) = (Block::new(&s.q, 0, 0), Block::new(&keys.k, tile, 0));
            let shape = [rows, columns, e.head];
            self.kernel.block(q, k, shape, c, Start::Zero);
        }
        vectorised(Softmax {
            tile: &mut s.tile,
            stride: KEYS,
            columns,
            seen,
            logits: self.logits,
            state: &mut s.state,
            out: &mut s.out,
        });
        s.p.pack_rows(Matrix::strided(&s.tile, rows, columns, KEYS));
        // SAFETY: p was packed with `rows` rows of `columns`, the values hold as many from `tile` on,
        // and `out` has a row of K for each.
        unsafe {
            let c = (s.out.as_mut_ptr(), e.head);
            let (p, v) = (Block::new(&s.p, 0, 0), Block::new(&keys.v, 0, tile));
            let shape = [rows, e.head, columns];
            self.kernel.block(p, v, shape, c, Start::Add);
        }
    }

    fn store(&self, s: &Scratch, task: &Task) {
        let e = self.extents;
        for ((row, state), out) in task
            .rows
            .clone()
            .zip(&s.state)
            .zip(s.out.chunks_exact(e.head))
        {
            if state.sum == 0.0 {
                continue;
            }
            let inverse = 1.0 / state.sum;
            // SAFETY: the row and the head belong to this task.
            unsafe {
                let to = self
                    .results
                    .out
                    .add((row * e.query_heads + task.head) * e.head);
                let to = std::slice::from_raw_parts_mut(to, e.head);
                to.iter_mut().zip(out).for_each(|(t, o)| *t = o * inverse);
                *self.results.lse.add(task.head * e.queries + row) = state.top + state.sum.log2();
            }
        }
    }
}
