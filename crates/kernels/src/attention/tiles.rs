//! What is done with a tile of logits between the products.
//!
//! Exponentials are powers of two of `logit * log2(e)`: the same factor is in the greatest logits and in the logarithms
//! of sums, so that what is rounded there is rounded alike.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::simd::{LANES, Loop, exp2, fma, max, reduce, tanh};

/// How products of queries and keys become logits.
#[derive(Clone, Copy)]
pub struct Logits {
    pub scale: f32,
    pub softcap: Option<f32>,
}

/// One step of the running softmax over a tile.
pub struct Softmax<'a> {
    /// `q . k` in rows of `stride`, which become probabilities relative to `top`; the other columns become 0.
    pub tile: &'a mut [f32],
    pub stride: usize,
    /// Columns of the tile; and those of each row that are seen.
    pub columns: usize,
    pub seen: &'a dyn Fn(usize) -> Range<usize>,
    pub logits: Logits,
    /// Whether no logit's power is beyond [`BOUND`], so that none need be relative to the greatest.
    pub bounded: bool,
    pub state: &'a mut [Running],
    /// The sums of rows, weighted by the probabilities so far.
    pub out: &'a mut [f32],
}

/// Logits to base 2 of that size at most need no greatest one taken off: sums of their powers, of any number of keys and
/// weighted by values up to 2^50, are within what f32 holds, and no power is too small for it.
pub const BOUND: f32 = 48.0;

/// What is known of a row after some tiles.
#[derive(Clone, Copy)]
pub struct Running {
    /// The greatest logit, times log2(e).
    pub top: f32,
    /// The sum of `2^(logit * log2(e) - top)`.
    pub sum: f32,
}

impl Running {
    pub const START: Self = Self {
        top: f32::NEG_INFINITY,
        sum: 0.0,
    };
    /// Of a row whose logits are bounded.
    pub const BOUNDED: Self = Self { top: 0.0, sum: 0.0 };
}

impl Softmax<'_> {
    #[inline(always)]
    fn steps<const FUSED: bool>(self) {
        let head = self.out.len() / self.state.len().max(1);
        for (i, state) in self.state.iter_mut().enumerate() {
            let row = &mut self.tile[i * self.stride..][..self.columns];
            let seen = (self.seen)(i);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen];
            if self.bounded {
                state.sum += exponentials::<FUSED>(row, self.logits.scale * LOG2_E, 0.0);
                continue;
            }
            let factor = step::<FUSED>(row, self.logits, state);
            if factor != 1.0 {
                let out = &mut self.out[i * head..][..head];
                out.iter_mut().for_each(|o| *o *= factor);
            }
        }
    }
}

/// Probabilities of one row; gives the factor on what was summed before.
#[inline(always)]
fn step<const FUSED: bool>(row: &mut [f32], logits: Logits, state: &mut Running) -> f32 {
    let mut scale = logits.scale * LOG2_E;
    if let Some(cap) = logits.softcap {
        let inner = logits.scale / cap;
        row.iter_mut().for_each(|z| *z = cap * tanh(*z * inner));
        scale = LOG2_E;
    }
    let here = max(row) * scale;
    let top = if here > state.top { here } else { state.top };
    if top == f32::NEG_INFINITY {
        row.fill(0.0);
        return 1.0;
    }
    let sum = exponentials::<FUSED>(row, scale, top);
    let factor = if top == state.top {
        1.0
    } else {
        exp2::<FUSED>(state.top - top)
    };
    *state = Running {
        top,
        sum: state.sum * factor + sum,
    };
    factor
}

/// `2^(z * scale - top)` in place, and their sum.
#[inline(always)]
fn exponentials<const FUSED: bool>(row: &mut [f32], scale: f32, top: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    for chunk in whole {
        for i in 0..LANES {
            chunk[i] = exp2::<FUSED>(fma::<FUSED>(chunk[i], scale, -top));
            lanes[i] += chunk[i];
        }
    }
    let mut sum = 0.0;
    for z in rest {
        *z = exp2::<FUSED>(fma::<FUSED>(*z, scale, -top));
        sum += *z;
    }
    reduce(lanes, |a, b| a + b) + sum
}

impl Loop for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        self.steps::<false>();
    }
    #[inline(always)]
    fn run_fused(self) {
        self.steps::<true>();
    }
}

/// Probabilities and gradients of logits of a tile of keys (rows) and queries (columns).
pub struct Gradients<'a> {
    /// `q . k`, which become probabilities.
    pub logits: &'a mut [f32],
    /// `dout . v`, which become gradients of `q . k`.
    pub grads: &'a mut [f32],
    pub stride: usize,
    pub size: (usize, usize),
    /// The columns of each row that are seen.
    pub seen: &'a dyn Fn(usize) -> Range<usize>,
    pub kind: Logits,
    /// Logarithm to base 2 of the sum of exponentials, and `dout . out`, of each column.
    pub columns: (&'a [f32], &'a [f32]),
}

impl Gradients<'_> {
    #[inline(always)]
    fn steps<const FUSED: bool>(self) {
        let (rows, columns) = self.size;
        let (lse, along) = self.columns;
        for i in 0..rows {
            let range = i * self.stride..i * self.stride + columns;
            let seen = (self.seen)(i);
            let z = &mut self.logits[range.clone()];
            let d = &mut self.grads[range];
            for row in [&mut *z, &mut *d] {
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            let (z, d) = (&mut z[seen.clone()], &mut d[seen.clone()]);
            let columns = (&lse[seen.clone()], &along[seen]);
            match self.kind.softcap {
                None => grads::<FUSED>(z, d, columns, self.kind.scale),
                Some(cap) => capped_grads::<FUSED>(z, d, columns, (self.kind.scale, cap)),
            }
        }
    }
}

#[inline(always)]
fn grads<const FUSED: bool>(
    z: &mut [f32],
    d: &mut [f32],
    (lse, along): (&[f32], &[f32]),
    scale: f32,
) {
    let base = scale * LOG2_E;
    for ((z, d), (lse, along)) in z.iter_mut().zip(d).zip(lse.iter().zip(along)) {
        *z = exp2::<FUSED>(fma::<FUSED>(*z, base, -*lse));
        *d = *z * (*d - along) * scale;
    }
}

#[inline(always)]
fn capped_grads<const FUSED: bool>(
    z: &mut [f32],
    d: &mut [f32],
    (lse, along): (&[f32], &[f32]),
    (scale, cap): (f32, f32),
) {
    for ((z, d), (lse, along)) in z.iter_mut().zip(d).zip(lse.iter().zip(along)) {
        let t = tanh(*z * (scale / cap));
        *z = exp2::<FUSED>(fma::<FUSED>(cap * t, LOG2_E, -*lse));
        *d = *z * (*d - along) * scale * (1.0 - t * t);
    }
}

impl Loop for Gradients<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        self.steps::<false>();
    }
    #[inline(always)]
    fn run_fused(self) {
        self.steps::<true>();
    }
}
