//! The backward pass: each task takes some keys of one query head and walks over the queries that see them.
//!
//! Tiles are held with keys as rows, so that the sums of a query are vectors and no tile must be transposed:
//! S' = K Q', dP' = V dO', then dV += P' dO, dK += dS' Q and dQ' += K' dS.

use std::ops::Range;

use rayon::prelude::*;

use super::tiles::{Gradients, Logits};
use super::{AttentionBlock, AttentionPlan, Extents, View};
use crate::gemm::{Block, GradientTile, Kernel, Matrix, Packed, Precision, Start};
use crate::memory::Aligned;
use crate::simd::vectorised;

/// Keys of a tile: a multiple of every kernel's grain (6, 32 and 96), as are the keys of a task.
const KEYS: usize = 384;
/// Queries of a tile, which start at multiples of it; within it at multiples of `ALIGN`.
const QUERIES: usize = 256;
/// Queries that logits and their gradients are made of at a time where they are packed as they are made: with a strip of
/// keys they stay in the first-level cache.
const COLUMNS: usize = 64;
/// What the first query is a multiple of, for the packed layouts.
const ALIGN: usize = 32;
/// At least as many tasks as this are made of the heads and of parts of the keys.
/// Each part of the keys has its own gradient of the queries; a fixed number makes sums the same on every machine.
const TASKS: usize = 16;

/// What the backward pass starts from.
pub struct Given<'a> {
    /// q, k and v.
    pub inputs: [View<'a>; 3],
    /// The gradient of the output.
    pub grad: &'a [f32],
    /// `dout . out`, `[Nq, Lq]`.
    pub along: &'a [f32],
    /// The logarithms to base 2 of the sums of exponentials, `[Nq, Lq]`.
    pub lse: &'a [f32],
    pub extents: Extents,
    pub plan: &'a AttentionPlan,
}

/// Keys and values of one head, as left operands.
struct Keys {
    k: Packed,
    v: Packed,
    /// K': sums over the keys.
    turned: Packed,
}

/// Queries and gradients of one head, as right operands: their rows as items, and their columns.
struct Queries {
    q: [Packed; 2],
    grad: [Packed; 2],
}

/// The gradients that one task found. Numbers of a head are filled up to what is as cheap to make.
struct Found {
    /// Where the tile of the first query begins that sees any of the task's keys.
    first: usize,
    /// Tiles of `[K, QUERIES]`.
    dq: Aligned,
    /// `[keys, K]`.
    dk: Aligned,
    dv: Aligned,
}

struct Scratch {
    logits: Aligned,
    grads: Aligned,
    p: Packed,
    ds: Packed,
    turned: Packed,
}

struct Call<'a> {
    given: &'a Given<'a>,
    kernel: Kernel,
    keys: Vec<Keys>,
    queries: Vec<Queries>,
    /// Keys of a task.
    part: usize,
    room: Room,
}

/// Numbers of a head, filled up, where they are rows of a product and where they are columns.
#[derive(Clone, Copy)]
struct Room {
    rows: usize,
    columns: usize,
}

/// A tile: the keys and the queries in it, and the block that it belongs to.
struct Tile<'a> {
    block: &'a AttentionBlock,
    range: &'a Range<usize>,
    causal: bool,
    keys: Range<usize>,
    queries: Range<usize>,
}

impl Tile<'_> {
    /// The columns (queries) that see row `i` (a key).
    fn seen(&self, i: usize) -> Range<usize> {
        let key = self.keys.start + i;
        if !self.range.contains(&key) {
            return 0..0;
        }
        let first = match self.causal {
            true => self.block.q.start + key - self.range.start,
            false => self.block.q.start,
        };
        let end = self.queries.len();
        first.saturating_sub(self.queries.start).min(end)..end
    }
}

/// `out . grad` of each head and query, `[Nq, Lq]`.
pub fn along(out: &[f32], grad: &[f32], e: Extents) -> Vec<f32> {
    let mut along = vec![0.0; e.query_heads * e.queries];
    let heads = along.par_chunks_mut(e.queries.max(1)).enumerate();
    heads.for_each(|(head, along)| {
        for (row, a) in along.iter_mut().enumerate() {
            let at = (row * e.query_heads + head) * e.head;
            let (o, g) = (&out[at..at + e.head], &grad[at..at + e.head]);
            *a = crate::simd::sum(o, g, |o, g| o * g);
        }
    });
    along
}

impl Given<'_> {
    /// The gradients of q, k and v.
    pub fn gradients(&self, precision: Precision) -> Vec<Vec<f32>> {
        let e = self.extents;
        let kernel = Kernel::new(precision);
        let call = Call {
            given: self,
            kernel,
            keys: (0..e.key_heads)
                .into_par_iter()
                .map(|h| self.pack_keys(kernel, h))
                .collect(),
            queries: (0..e.query_heads)
                .into_par_iter()
                .map(|h| self.pack_queries(kernel, h))
                .collect(),
            part: self.part(),
            room: Room {
                rows: kernel.whole_rows(e.head),
                columns: kernel.whole_columns(e.head),
            },
        };
        let (parts, room) = (e.keys.div_ceil(call.part), call.room);
        let found: Vec<Found> = (0..e.query_heads * parts)
            .into_par_iter()
            .with_max_len(1)
            .map(|i| kernel.held(|| call.task(i / parts, i % parts)))
            .collect();
        let (dq, (dk, dv)) = rayon::join(
            || self.join_queries(&found, parts, room.rows),
            || {
                rayon::join(
                    || self.join_keys(&found, (parts, room.columns), |f| &f.dk),
                    || self.join_keys(&found, (parts, room.columns), |f| &f.dv),
                )
            },
        );
        vec![dq, dk, dv]
    }

    fn pack_keys(&self, kernel: Kernel, head: usize) -> Keys {
        let e = self.extents;
        let [_, k, v] = self.inputs;
        let (k, v) = (
            k.head(head, e.head, 0..e.keys),
            v.head(head, e.head, 0..e.keys),
        );
        let mut packed = Keys {
            k: kernel.left(),
            v: kernel.left(),
            turned: kernel.left(),
        };
        packed.k.pack_rows(k);
        packed.v.pack_rows(v);
        packed.turned.pack_columns(k);
        packed
    }

    fn pack_queries(&self, kernel: Kernel, head: usize) -> Queries {
        let e = self.extents;
        let grad = View {
            data: self.grad,
            stride: e.query_heads * e.head,
        };
        let both = |x: View| {
            let rows = x.head(head, e.head, 0..e.queries);
            let mut packed = [kernel.right(), kernel.right()];
            packed[0].pack_rows(rows);
            packed[1].pack_columns(rows);
            packed
        };
        Queries {
            q: both(self.inputs[0]),
            grad: both(grad),
        }
    }

    /// Sums the parts of each head, and turns the tiles.
    fn join_queries(&self, found: &[Found], parts: usize, rows: usize) -> Vec<f32> {
        let e = self.extents;
        let mut dq = vec![0.0; e.queries * e.query_heads * e.head];
        let width = e.query_heads * e.head;
        dq.par_chunks_mut((QUERIES * width).max(1))
            .enumerate()
            .for_each(|(tile, out)| {
                for (i, found) in found.iter().enumerate() {
                    let head = i / parts;
                    let tile = (tile * QUERIES).checked_sub(found.first);
                    let tile = tile.and_then(|at| found.dq.get(at * rows..(at + QUERIES) * rows));
                    let Some(tile) = tile else { continue };
                    for (row, out) in out.chunks_exact_mut(width).enumerate() {
                        let out = &mut out[head * e.head..][..e.head];
                        for (d, o) in out.iter_mut().enumerate() {
                            *o += tile[d * QUERIES + row];
                        }
                    }
                }
            });
        dq
    }

    /// Sums the query heads of each key head.
    fn join_keys(
        &self,
        found: &[Found],
        (parts, columns): (usize, usize),
        of: impl Fn(&Found) -> &Aligned,
    ) -> Vec<f32> {
        let e = self.extents;
        let width = e.key_heads * e.head;
        let mut out = vec![0.0; e.keys * width];
        for (i, found) in found.iter().enumerate() {
            let (head, part) = (i / parts / e.group(), i % parts);
            let rows = of(found).chunks_exact(columns);
            let first = part * self.part();
            for (row, from) in rows.enumerate() {
                let to = &mut out[(first + row) * width + head * e.head..][..e.head];
                to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
            }
        }
        out
    }

    /// Keys of a task: enough tasks of the heads and of parts of the keys.
    fn part(&self) -> usize {
        let e = self.extents;
        let parts = TASKS.div_ceil(e.query_heads.max(1)).max(1);
        e.keys.div_ceil(parts).next_multiple_of(KEYS).max(KEYS)
    }
}

impl Call<'_> {
    /// All that the keys of one part give, for one query head.
    fn task(&self, head: usize, part: usize) -> Found {
        let e = self.given.extents;
        let keys = part * self.part..((part + 1) * self.part).min(e.keys);
        let queries = self.given.plan.queries_of(&keys);
        let first = queries.start / QUERIES * QUERIES;
        let mut found = Found {
            first,
            dq: Aligned::zeros((queries.end - first).next_multiple_of(QUERIES) * self.room.rows),
            dk: Aligned::zeros(keys.len() * self.room.columns),
            dv: Aligned::zeros(keys.len() * self.room.columns),
        };
        let room = self.strip().iter().product();
        let mut scratch = Scratch {
            logits: Aligned::zeros(room),
            grads: Aligned::zeros(room),
            p: self.kernel.left(),
            ds: self.kernel.left(),
            turned: self.kernel.right(),
        };
        let grain = self.kernel.grain();
        for block in self.given.plan.blocks.iter().filter(|b| !b.q.is_empty()) {
            for (i, range) in block.k.iter().enumerate().filter(|(_, k)| !k.is_empty()) {
                let causal = block.causal && i + 1 == block.k.len();
                // Only the keys in the range, as near as blocks can start.
                let first = range.start.max(keys.start) / grain * grain;
                let end = range.end.min(keys.end);
                for first in (first..end).step_by(KEYS) {
                    let tile = first..(first + KEYS).min(end);
                    let columns = self.room.columns;
                    let rows = (first - keys.start) * columns..(tile.end - keys.start) * columns;
                    self.keys_tile(
                        (&mut scratch, &mut found, rows),
                        (head, &tile),
                        (block, range, causal),
                    );
                }
            }
        }
        found
    }

    /// One tile of keys and all queries of a block.
    fn keys_tile(
        &self,
        (scratch, found, rows): (&mut Scratch, &mut Found, Range<usize>),
        (head, keys): (usize, &Range<usize>),
        (block, range, causal): (&AttentionBlock, &Range<usize>, bool),
    ) {
        let first = keys.start.max(range.start);
        let start = match causal {
            true => block.q.start + first - range.start,
            false => block.q.start,
        };
        let mut at = start / ALIGN * ALIGN;
        while at < block.q.end {
            let end = (at / QUERIES * QUERIES + QUERIES).min(block.q.end);
            let tile = Tile {
                block,
                range,
                causal,
                keys: keys.clone(),
                queries: at..end,
            };
            self.tile((scratch, found, rows.clone()), head, &tile);
            at = end;
        }
    }

    fn tile(
        &self,
        (s, found, rows): (&mut Scratch, &mut Found, Range<usize>),
        head: usize,
        tile: &Tile,
    ) {
        let e = self.given.extents;
        let (keys, queries) = (&self.keys[head / e.group()], &self.queries[head]);
        let (m, n) = (tile.keys.len(), tile.queries.len());
        let (key, query) = (tile.keys.start, tile.queries.start);
        let products = |a: Block, b: Block, shape, c: (*mut f32, usize), start| {
            // SAFETY: the operands hold these items, in whole panels, and depths from where the blocks start,
            // and C is a tile, or the rows of the tile's keys, or the tile of its queries.
            unsafe { self.kernel.block(a, b, shape, c, start) }
        };
        let [strip, part] = self.strip();
        for column in (0..n).step_by(part) {
            let columns = column..(column + part).min(n);
            let q = Block::new(&queries.q[0], query + column, 0);
            let grad = Block::new(&queries.grad[0], query + column, 0);
            for row in (0..m).step_by(strip) {
                let rows = row..(row + strip).min(m);
                let k = Block::new(&keys.k, key + row, 0);
                let v = Block::new(&keys.v, key + row, 0);
                let shape = [rows.len(), columns.len(), e.head];
                products(k, q, shape, (s.logits.as_mut_ptr(), part), Start::Zero);
                products(v, grad, shape, (s.grads.as_mut_ptr(), part), Start::Zero);
                self.softmax((s, part), head, tile, (rows, columns.clone()));
            }
        }
        let grad = Block::new(&queries.grad[1], 0, query);
        let q = Block::new(&queries.q[1], 0, query);
        let Room {
            rows: deep,
            columns,
        } = self.room;
        let shape = [m, columns, n];
        let dv = (found.dv[rows.clone()].as_mut_ptr(), columns);
        products(Block::new(&s.p, 0, 0), grad, shape, dv, Start::Add);
        let dk = (found.dk[rows].as_mut_ptr(), columns);
        products(Block::new(&s.ds, 0, 0), q, shape, dk, Start::Add);
        let at = (query / QUERIES * QUERIES - found.first) * deep + query % QUERIES;
        let dq = (found.dq[at..].as_mut_ptr(), QUERIES);
        let k = Block::new(&keys.turned, 0, key);
        let ds = Block::new(&s.turned, 0, 0);
        products(k, ds, [deep, n, m], dq, Start::Add);
    }

    /// Whether probabilities and gradients of logits are packed as they are made.
    fn packs(&self) -> bool {
        self.kernel.packs_powers() && self.given.plan.softcap.is_none()
    }

    /// Keys and queries whose logits are there at a time.
    fn strip(&self) -> [usize; 2] {
        match self.packs() {
            true => [self.kernel.grain(), COLUMNS],
            false => [KEYS, QUERIES],
        }
    }

    /// Probabilities and gradients of `q . k` out of the products of some keys and queries of the tile, packed.
    fn softmax(
        &self,
        (s, stride): (&mut Scratch, usize),
        head: usize,
        tile: &Tile,
        (rows, columns): (Range<usize>, Range<usize>),
    ) {
        let plan = self.given.plan;
        let first = head * self.given.extents.queries + tile.queries.start;
        let range = first + columns.start..first + columns.end;
        let of_columns = [self.given.lse, self.given.along].map(|all| &all[range.clone()]);
        let (m, n) = (rows.len(), columns.len());
        let seen = |row| {
            let seen = tile.seen(rows.start + row);
            let within = |at: usize| at.clamp(columns.start, columns.end) - columns.start;
            within(seen.start)..within(seen.end)
        };
        if self.packs() {
            let products = GradientTile {
                logits: &s.logits,
                grads: &s.grads,
                stride,
                size: (m, n),
                columns: of_columns,
                scale: plan.scale,
                at: (rows.start, columns.start),
            };
            let packed = [&mut s.p, &mut s.ds, &mut s.turned];
            let whole = (tile.keys.len(), tile.queries.len());
            return Packed::pack_gradients(packed, whole, &products, &seen);
        }
        vectorised(Gradients {
            logits: &mut s.logits,
            grads: &mut s.grads,
            stride,
            size: (m, n),
            seen: &seen,
            kind: Logits {
                scale: plan.scale,
                softcap: plan.softcap,
            },
            columns: (of_columns[0], of_columns[1]),
        });
        s.p.pack_rows(Matrix::strided(&s.logits, m, n, stride));
        s.ds.pack_rows(Matrix::strided(&s.grads, m, n, stride));
        s.turned
            .pack_columns(Matrix::strided(&s.grads, m, n, stride));
    }
}
