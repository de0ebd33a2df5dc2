//! The forward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::{AttentionBlock, AttentionPlan, Extents, Inputs, KEYS, KeyTile, fast};
use crate::gemm::{Kernel, Matrix, Packed, Precision};
use crate::simd::{exp, tanh};

/// A tile of queries of one key head's group, on one thread.
struct Task<'a> {
    block: &'a AttentionBlock,
    queries: Range<usize>,
    key_head: usize,
}

/// The running softmax of one query head's tile.
struct Running {
    q: Packed,
    /// Sum of values so far, each weighted by `exp(logit - max)`.
    out: Vec<f32>,
    /// Greatest logit so far.
    max: Vec<f32>,
    /// Sum of the weights.
    sum: Vec<f32>,
}

/// Where tasks write: each its own rows and heads.
struct Shared(*mut f32, *mut f32);
// SAFETY: tasks write disjoint places, see `Task::store`.
unsafe impl Sync for Shared {}

/// The result [Lq, Nq, K] and the logarithms of the sums [Lq, Nq].
pub(super) fn run(
    inputs: Inputs,
    extents: Extents,
    plan: &AttentionPlan,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let mut y = vec![0.0; inputs.q.len()];
    let mut log_sums = vec![0.0; inputs.q.len() / extents.dim.max(1)];
    let shared = Shared(y.as_mut_ptr(), log_sums.as_mut_ptr());
    let tasks: Vec<Task> = (plan.blocks.iter())
        .flat_map(|block| block.query_tiles().map(move |queries| (block, queries)))
        .flat_map(|(block, queries)| {
            (0..extents.key_heads).map(move |key_head| Task {
                block,
                queries: queries.clone(),
                key_head,
            })
        })
        .collect();
    tasks
        .par_iter()
        .for_each(|task| task.run((inputs, extents), plan, Kernel::new(precision), &shared));
    (y, log_sums)
}

impl Task<'_> {
    fn run(
        &self,
        (inputs, extents): (Inputs, Extents),
        plan: &AttentionPlan,
        kernel: Kernel,
        shared: &Shared,
    ) {
        let (rows, dim) = (self.queries.len(), extents.dim);
        let mut heads = self.start(inputs, extents, kernel);
        let (mut k, mut v, mut p) = (kernel.right(), kernel.right(), kernel.left());
        let mut logits = vec![0.0; rows * KEYS];
        for tile in self.block.key_tiles() {
            if tile.seen(self.queries.end - 1 - self.block.q.start) == 0 {
                continue;
            }
            let from = (tile.rows.start * extents.key_heads + self.key_head) * dim;
            let keys = tile.rows.len();
            k.pack_rows(Matrix::strided(
                &inputs.k[from..],
                keys,
                dim,
                extents.k_stride(),
            ));
            v.pack_columns(Matrix::strided(
                &inputs.v[from..],
                keys,
                dim,
                extents.k_stride(),
            ));
            for head in &mut heads {
                kernel.multiply(&head.q, &k, &mut logits, keys, false);
                let first = self.queries.start - self.block.q.start;
                fast(|| head.absorb(&mut logits[..rows * keys], &tile, first, plan));
                p.pack_rows(Matrix::new(&logits, rows, keys));
                kernel.multiply(&p, &v, &mut head.out, dim, true);
            }
        }
        for (i, head) in heads.iter().enumerate() {
            self.store(head, self.key_head * extents.group() + i, extents, shared);
        }
    }

    fn start(&self, inputs: Inputs, extents: Extents, kernel: Kernel) -> Vec<Running> {
        let (rows, dim) = (self.queries.len(), extents.dim);
        (0..extents.group())
            .map(|i| {
                let head = self.key_head * extents.group() + i;
                let from = (self.queries.start * extents.heads + head) * dim;
                let mut q = kernel.left();
                q.pack_rows(Matrix::strided(
                    &inputs.q[from..],
                    rows,
                    dim,
                    extents.q_stride(),
                ));
                Running {
                    q,
                    out: vec![0.0; rows * dim],
                    max: vec![f32::NEG_INFINITY; rows],
                    sum: vec![0.0; rows],
                }
            })
            .collect()
    }

    fn store(&self, running: &Running, head: usize, extents: Extents, shared: &Shared) {
        let dim = extents.dim;
        for (i, row) in self.queries.clone().enumerate() {
            let sum = running.sum[i];
            let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            let at = row * extents.heads + head;
            // SAFETY: blocks and tiles of queries are disjoint, heads differ between tasks; both
            // arrays hold Lq * Nq rows.
            let (y, log_sum) = unsafe {
                let y = std::slice::from_raw_parts_mut(shared.0.add(at * dim), dim);
                (y, &mut *shared.1.add(at))
            };
            for (y, out) in y.iter_mut().zip(&running.out[i * dim..]) {
                *y = out * scale;
            }
            *log_sum = running.max[i] + sum.ln();
        }
    }
}

impl Running {
    /// Turns logits [rows, keys] into weights relative to the new maximum, and rescales what was summed.
    #[inline(always)]
    fn absorb(&mut self, logits: &mut [f32], tile: &KeyTile, first: usize, plan: &AttentionPlan) {
        let keys = tile.rows.len();
        let dim = self.out.len() / self.max.len();
        for (i, row) in logits.chunks_exact_mut(keys).enumerate() {
            let (row, hidden) = row.split_at_mut(tile.seen(first + i));
            hidden.fill(0.0);
            if row.is_empty() {
                continue;
            }
            scale_logits(row, plan);
            let highest = max(row).max(self.max[i]);
            let weight = if self.max[i] == highest {
                1.0
            } else {
                exp(self.max[i] - highest)
            };
            row.iter_mut().for_each(|s| *s = exp(*s - highest));
            self.sum[i] = self.sum[i] * weight + sum(row);
            self.max[i] = highest;
            if weight != 1.0 {
                let out = &mut self.out[i * dim..(i + 1) * dim];
                out.iter_mut().for_each(|o| *o *= weight);
            }
        }
    }
}

/// The plan's scale and softcap.
#[inline(always)]
pub(super) fn scale_logits(row: &mut [f32], plan: &AttentionPlan) {
    match plan.softcap {
        None => row.iter_mut().for_each(|s| *s *= plan.scale),
        Some(cap) => row
            .iter_mut()
            .for_each(|s| *s = cap * tanh(*s * plan.scale / cap)),
    }
}

/// The greatest number, in lanes.
#[inline(always)]
fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let rest = (chunks.remainder().iter()).fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    for part in chunks {
        for i in 0..16 {
            lanes[i] = if part[i] > lanes[i] {
                part[i]
            } else {
                lanes[i]
            };
        }
    }
    lanes.iter().fold(rest, |m, x| m.max(*x))
}

/// The sum, in lanes.
#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = row.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for part in chunks {
        for i in 0..16 {
            lanes[i] += part[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}
