//! The backward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::forward::scale_logits;
use super::{AttentionBlock, AttentionPlan, Extents, Inputs, KEYS, KeyTile, QUERIES, fast};
use crate::gemm::{Kernel, Matrix, Packed, Precision};
use crate::simd::{exp, sum};

/// What the forward pass left, and the gradient of its result.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub y: &'a [f32],
    pub grad: &'a [f32],
    pub log_sums: &'a [f32],
}

/// One block's keys under one key head, on one thread.
struct Task<'a> {
    block: &'a AttentionBlock,
    key_head: usize,
}

/// A tile of one head's queries, in every layout that the products need.
struct Queries {
    rows: Range<usize>,
    head: usize,
    q: Packed,
    q_columns: Packed,
    grad: Packed,
    grad_columns: Packed,
    /// For each row the dot product of result and gradient.
    through: Vec<f32>,
    /// Gradient of the queries so far.
    dq: Vec<f32>,
}

/// Gradients of one task: of each tile of keys and of its values.
type KeyGradients = Vec<(Range<usize>, Vec<f32>, Vec<f32>)>;

/// Where tasks write the queries' gradients: each its own rows and heads.
struct Shared(*mut f32);
// SAFETY: tasks write disjoint places, see `Queries::store`.
unsafe impl Sync for Shared {}

/// The gradients of q, k and v.
pub(super) fn run(
    inputs: Inputs,
    kept: Kept,
    extents: Extents,
    (plan, precision): (&AttentionPlan, Precision),
) -> [Vec<f32>; 3] {
    let mut dq = vec![0.0; inputs.q.len()];
    let shared = Shared(dq.as_mut_ptr());
    let tasks: Vec<Task> = (plan.blocks.iter())
        .filter(|block| !block.q.is_empty())
        .flat_map(|block| (0..extents.key_heads).map(move |key_head| Task { block, key_head }))
        .collect();
    let parts: Vec<KeyGradients> = tasks
        .par_iter()
        .map(|task| {
            task.run(
                (inputs, kept, extents),
                plan,
                Kernel::new(precision),
                &shared,
            )
        })
        .collect();
    let (mut dk, mut dv) = (vec![0.0; inputs.k.len()], vec![0.0; inputs.v.len()]);
    // Blocks may share keys: their parts are added here, in order.
    for (task, tiles) in tasks.iter().zip(&parts) {
        for (rows, tile_dk, tile_dv) in tiles {
            for (i, row) in rows.clone().enumerate() {
                let at = (row * extents.key_heads + task.key_head) * extents.dim;
                let part = i * extents.dim..(i + 1) * extents.dim;
                add(&mut dk[at..at + extents.dim], &tile_dk[part.clone()]);
                add(&mut dv[at..at + extents.dim], &tile_dv[part]);
            }
        }
    }
    [dq, dk, dv]
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

impl Task<'_> {
    fn run(
        &self,
        (inputs, kept, extents): (Inputs, Kept, Extents),
        plan: &AttentionPlan,
        kernel: Kernel,
        shared: &Shared,
    ) -> KeyGradients {
        let dim = extents.dim;
        let mut queries = self.queries((inputs, kept, extents), kernel);
        let (mut k, mut k_columns, mut v) = (kernel.right(), kernel.right(), kernel.right());
        let mut p_left = kernel.left();
        let (mut p, mut ds) = (vec![0.0; QUERIES * KEYS], vec![0.0; QUERIES * KEYS]);
        let mut gradients = KeyGradients::new();
        for tile in self.block.key_tiles() {
            let keys = tile.rows.len();
            let from = (tile.rows.start * extents.key_heads + self.key_head) * dim;
            let matrix = |x| Matrix::strided(x, keys, dim, extents.k_stride());
            k.pack_rows(matrix(&inputs.k[from..]));
            k_columns.pack_columns(matrix(&inputs.k[from..]));
            v.pack_rows(matrix(&inputs.v[from..]));
            let (mut dk, mut dv) = (vec![0.0; keys * dim], vec![0.0; keys * dim]);
            for part in &mut queries {
                let rows = part.rows.len();
                if tile.seen(part.rows.end - 1 - self.block.q.start) == 0 {
                    continue;
                }
                kernel.multiply(&part.q, &k, &mut p, keys, false);
                kernel.multiply(&part.grad, &v, &mut ds, keys, false);
                let first = part.rows.start - self.block.q.start;
                let tiles = (&mut p[..rows * keys], &mut ds[..rows * keys]);
                fast(|| part.slopes(tiles, (&tile, first), kept.log_sums, (extents, plan)));
                p_left.pack_columns(Matrix::new(&p, rows, keys));
                kernel.multiply(&p_left, &part.grad_columns, &mut dv, dim, true);
                p_left.pack_columns(Matrix::new(&ds, rows, keys));
                kernel.multiply(&p_left, &part.q_columns, &mut dk, dim, true);
                p_left.pack_rows(Matrix::new(&ds, rows, keys));
                kernel.multiply(&p_left, &k_columns, &mut part.dq, dim, true);
            }
            gradients.push((tile.rows, dk, dv));
        }
        queries.iter().for_each(|part| part.store(extents, shared));
        gradients
    }

    fn queries(
        &self,
        (inputs, kept, extents): (Inputs, Kept, Extents),
        kernel: Kernel,
    ) -> Vec<Queries> {
        let dim = extents.dim;
        let group = extents.group();
        let heads = self.key_head * group..(self.key_head + 1) * group;
        heads
            .flat_map(|head| self.block.query_tiles().map(move |rows| (head, rows)))
            .map(|(head, rows)| {
                let from = (rows.start * extents.heads + head) * dim;
                let matrix = |x| Matrix::strided(x, rows.len(), dim, extents.q_stride());
                let mut part = Queries {
                    q: kernel.left(),
                    q_columns: kernel.right(),
                    grad: kernel.left(),
                    grad_columns: kernel.right(),
                    through: Vec::with_capacity(rows.len()),
                    dq: vec![0.0; rows.len() * dim],
                    rows: rows.clone(),
                    head,
                };
                part.q.pack_rows(matrix(&inputs.q[from..]));
                part.q_columns.pack_columns(matrix(&inputs.q[from..]));
                part.grad.pack_rows(matrix(&kept.grad[from..]));
                part.grad_columns.pack_columns(matrix(&kept.grad[from..]));
                for i in 0..rows.len() {
                    let at = from + i * extents.q_stride();
                    part.through.push(sum(
                        &kept.y[at..at + dim],
                        &kept.grad[at..at + dim],
                        |y, g| y * g,
                    ));
                }
                part
            })
            .collect()
    }
}

impl Queries {
    /// Turns logits `p` into probabilities, and the gradient `ds` of the probabilities into that of the
    /// dot products: `p * (dp - through) * scale`.
    #[inline(always)]
    fn slopes(
        &self,
        (p, ds): (&mut [f32], &mut [f32]),
        (tile, first): (&KeyTile, usize),
        log_sums: &[f32],
        (extents, plan): (Extents, &AttentionPlan),
    ) {
        let keys = tile.rows.len();
        for (i, (p, ds)) in p
            .chunks_exact_mut(keys)
            .zip(ds.chunks_exact_mut(keys))
            .enumerate()
        {
            let seen = tile.seen(first + i);
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
            let (p, ds) = (&mut p[..seen], &mut ds[..seen]);
            scale_logits(p, plan);
            let log_sum = log_sums[(self.rows.start + i) * extents.heads + self.head];
            let through = self.through[i];
            for (p, ds) in p.iter_mut().zip(ds) {
                // d tanh = 1 - tanh^2, where there is a cap.
                let bend = plan
                    .softcap
                    .map_or(1.0, |cap| 1.0 - (*p / cap) * (*p / cap));
                *p = exp(*p - log_sum);
                *ds = *p * (*ds - through) * plan.scale * bend;
            }
        }
    }

    fn store(&self, extents: Extents, shared: &Shared) {
        for (i, row) in self.rows.clone().enumerate() {
            let at = (row * extents.heads + self.head) * extents.dim;
            // SAFETY: blocks of queries are disjoint and heads differ between tasks; dq is as long as q.
            let to = unsafe { std::slice::from_raw_parts_mut(shared.0.add(at), extents.dim) };
            to.copy_from_slice(&self.dq[i * extents.dim..(i + 1) * extents.dim]);
        }
    }
}
