//! The MLP of a layer: `y = x + W_down act(W_up norm(x))`.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::BranchMatrix;
use super::kept::{Kept, KeptRows};
use super::op::{self, Branch};
use super::tile::{self, ROWS, multiply, norm_backward, normed, of};
use crate::activation::Activation;
use crate::gemm::source::{Data, Depth};
use crate::gemm::{Kernel, Packed, Precision, Start};
use crate::linear::over_rows;
use crate::memory::{Aligned, HandedOn, filled};
use crate::rows::{parts_of, sum_groups};
use crate::segments::Segments;

/// Hidden columns that are made at a time: a multiple of every kernel's panel, and of a line.
const COLUMNS: usize = 384;

/// What `mlp_branch` needs besides its inputs and weights.
#[derive(Clone, Debug)]
pub struct MlpBranch {
    /// The groups of the weights; they must cover all rows.
    pub segments: Segments,
    /// What is between the products.
    pub activation: Activation,
    /// Added to the mean square in the norm.
    pub eps: f64,
    /// Of the products.
    pub precision: Precision,
}

/// `x + linear(act(linear(rms_norm(x))))`, a few rows at a time. The backward pass makes the hidden numbers again.
///
/// # Shapes
/// x `[L, D]`; norm `[G * D]`; up `[G * H, D]`, or `[G * 2 H, D]` for SwiGLU; down `[G * D, H]` -> `[L, D]`. x and norm are
/// f32, all on the processor.
///
/// # Errors
/// If the shapes do not agree, the segments leave a row out, the precision is that of 8-bit floats, a tensor is not on
/// the processor, or a gradient of x would be wanted where a matrix is frozen: there is none.
pub fn mlp_branch(
    x: &Tensor,
    norm: &Tensor,
    (up, down): (&BranchMatrix, &BranchMatrix),
    layer: MlpBranch,
) -> Result<Tensor> {
    let sizes = layer.sizes(x, norm, (up.dims()?, down.dims()?))?;
    let weights = [BranchMatrix::Tensor(norm.clone()), up.clone(), down.clone()];
    op::apply(x, &weights, Mlp { layer, sizes })
}

/// Rows, width of the stream, and hidden columns.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    rows: usize,
    width: usize,
    hidden: usize,
}

impl MlpBranch {
    fn sizes(
        &self,
        x: &Tensor,
        norm: &Tensor,
        (up, down): ((usize, usize), (usize, usize)),
    ) -> Result<Sizes> {
        let (rows, width) = x.dims2()?;
        let (groups, hidden) = (self.segments.groups(), down.1);
        if norm.dims() != [groups * width]
            || up != (groups * hidden * self.activation.fan_in(), width)
            || down.0 != groups * width
            || hidden == 0
            || !self.segments.covers(rows)
            || self.precision == Precision::Fp8
        {
            bail!(
                "mlp_branch: x {:?}, norm {:?}, up {up:?}, down {down:?}, {groups} groups over {} rows, {:?}",
                x.dims(),
                norm.dims(),
                self.segments.end(),
                self.precision
            );
        }
        Ok(Sizes {
            rows,
            width,
            hidden,
        })
    }
}

/// The operation without its inputs.
struct Mlp {
    layer: MlpBranch,
    sizes: Sizes,
}

/// One pass, forward or backward.
struct Call<'a> {
    layer: &'a MlpBranch,
    sizes: Sizes,
    kernel: Kernel,
    x: &'a [f32],
    norm: &'a [f32],
    up: Data<'a>,
    down: Data<'a>,
}

/// Buffers of a thread.
struct Scratch {
    /// Rows of the stream.
    rows: Aligned,
    /// Columns before and after the activation, and the gradients of those.
    before: Aligned,
    after: Aligned,
    dbefore: Aligned,
    dafter: Aligned,
    normed: Packed,
    hidden: Packed,
    grad: Packed,
}

/// The hidden columns from one place on.
#[derive(Clone, Copy)]
struct Columns {
    start: usize,
    len: usize,
}

/// What a tile of the backward pass writes.
struct Backward<'a> {
    rows: std::ops::Range<usize>,
    group: usize,
    dx: &'a mut [f32],
    normed: KeptRows<'a>,
    hidden: KeptRows<'a>,
    dbefore: KeptRows<'a>,
}

impl<'a> Call<'a> {
    fn new(mlp: &'a Mlp, x: &'a [f32], weights: &[Data<'a>]) -> Result<Self> {
        let [norm, up, down] = *weights else {
            bail!("{} weights of an MLP", weights.len());
        };
        Ok(Self {
            layer: &mlp.layer,
            sizes: mlp.sizes,
            kernel: Kernel::new(mlp.layer.precision),
            x,
            norm: norm.floats()?,
            up,
            down,
        })
    }

    fn scratch(&self) -> Scratch {
        let fan_in = self.layer.activation.fan_in();
        let columns = COLUMNS.min(self.sizes.hidden);
        Scratch {
            rows: Aligned::zeros(ROWS * self.sizes.width),
            before: Aligned::zeros(ROWS * fan_in * columns),
            after: Aligned::zeros(ROWS * columns),
            dbefore: Aligned::zeros(ROWS * fan_in * columns),
            dafter: Aligned::zeros(ROWS * columns),
            normed: self.kernel.left(),
            hidden: self.kernel.left(),
            grad: self.kernel.left(),
        }
    }

    /// Up or down, packed.
    fn packed(&self, up: bool, depth: Depth) -> Vec<Option<Packed>> {
        let Sizes { width, hidden, .. } = self.sizes;
        let (weights, shape) = match up {
            true => (self.up, (self.layer.activation.fan_in() * hidden, width)),
            false => (self.down, (width, hidden)),
        };
        tile::pack(self.kernel, &self.layer.segments, weights, shape, depth)
    }

    fn columns(&self) -> impl Iterator<Item = Columns> {
        let hidden = self.sizes.hidden;
        (0..hidden).step_by(COLUMNS).map(move |start| Columns {
            start,
            len: COLUMNS.min(hidden - start),
        })
    }

    /// Some columns before the activation, `[rows, fan_in * len]`.
    fn before(&self, s: &mut Scratch, up: &Packed, columns: Columns) {
        let fan_in = self.layer.activation.fan_in();
        let width = fan_in * columns.len;
        let c = (&mut s.before[..s.normed.len() * width], width);
        let b = (up, fan_in * columns.start, 0);
        multiply(self.kernel, &s.normed, b, width, c, Start::Zero);
    }

    fn forward(&self) -> Vec<f32> {
        let Sizes { rows, width, .. } = self.sizes;
        let (up, down) = (
            self.packed(true, Depth::Columns),
            self.packed(false, Depth::Columns),
        );
        let scratch = HandedOn::new(|| self.scratch());
        let fill = |y: &mut [f32]| {
            parts_of(&self.layer.segments, ROWS, width, y)
                .into_par_iter()
                .with_max_len(1)
                .for_each(|part| {
                    let weights = (of(&up, part.group), of(&down, part.group));
                    scratch.with(|s| {
                        self.forward_tile(s, weights, part.rows, part.group, part.out);
                    });
                });
        };
        // SAFETY: the segments cover all rows, and each tile begins with a copy of its own.
        unsafe { filled(rows * width, fill) }
    }

    /// The norm of a tile's rows into `s.rows`, packed into `s.normed`.
    fn norm(&self, s: &mut Scratch, x: &[f32], group: usize) {
        let width = self.sizes.width;
        let w = &self.norm[group * width..][..width];
        let rows = &mut s.rows[..x.len()];
        normed(x, w, self.layer.eps as f32, rows);
        s.normed.pack_rows(tile::matrix(rows, width));
    }

    fn forward_tile(
        &self,
        s: &mut Scratch,
        (up, down): (&Packed, &Packed),
        rows: std::ops::Range<usize>,
        group: usize,
        y: &mut [f32],
    ) {
        let width = self.sizes.width;
        let x = &self.x[rows.start * width..rows.end * width];
        y.copy_from_slice(x);
        self.norm(s, x, group);
        for columns in self.columns() {
            self.before(s, up, columns);
            let count = rows.len() * columns.len;
            let after = &mut s.after[..count];
            let before = &s.before[..count * self.layer.activation.fan_in()];
            self.layer.activation.values(before, after);
            s.hidden.pack_rows(tile::matrix(after, columns.len));
            let b = (down, 0, columns.start);
            multiply(self.kernel, &s.hidden, b, width, (y, width), Start::Add);
        }
    }

    /// The gradients of x, and of norm, up and down.
    fn backward(&self, grad: &[f32]) -> (Vec<f32>, Vec<Vec<f32>>) {
        let Sizes {
            rows,
            width,
            hidden,
        } = self.sizes;
        let (segments, fan_in) = (&self.layer.segments, self.layer.activation.fan_in());
        let up = [Depth::Columns, Depth::Rows].map(|depth| self.packed(true, depth));
        let down = self.packed(false, Depth::Rows);
        let before = fan_in * hidden;
        // SAFETY: the segments cover all rows, and each tile writes all columns of its own.
        let [mut normed, mut after, mut dbefore] = [width, hidden, before]
            .map(|columns| unsafe { Kept::room(self.layer.precision, rows * columns) });
        let mut dnorm = Vec::new();
        let scratch = HandedOn::new(|| self.scratch());
        let fill = |dx: &mut [f32]| {
            let kept = (normed.tiles(segments, ROWS, width).into_iter())
                .zip(after.tiles(segments, ROWS, hidden))
                .zip(dbefore.tiles(segments, ROWS, before));
            let tiles: Vec<Backward> = (parts_of(segments, ROWS, width, dx).into_iter())
                .zip(kept)
                .map(|(part, ((normed, hidden), dbefore))| Backward {
                    rows: part.rows,
                    group: part.group,
                    dx: part.out,
                    normed,
                    hidden,
                    dbefore,
                })
                .collect();
            let sums = (tiles.into_par_iter().with_max_len(1)).map(|tile| {
                let group = tile.group;
                let weights = ([of(&up[0], group), of(&up[1], group)], of(&down, group));
                let sum = scratch.with(|s| self.backward_tile(s, weights, grad, tile));
                (group, sum)
            });
            dnorm = sum_groups(sums.collect(), (segments.groups(), width));
        };
        // SAFETY: the segments cover all rows, and each tile writes all of its own.
        let dx = unsafe { filled(rows * width, fill) };
        let over = |a, b| over_rows(self.kernel, segments, a, b);
        let dup = over((dbefore.data(), before), (normed.data(), width));
        let ddown = over((Data::F32(grad), width), (after.data(), hidden));
        (dx, vec![dnorm, dup, ddown])
    }

    /// Gives the gradient of the norm's weights.
    fn backward_tile(
        &self,
        s: &mut Scratch,
        ([up, up_rows], down): ([&Packed; 2], &Packed),
        grad: &[f32],
        mut tile: Backward,
    ) -> Vec<f32> {
        let (layer, Sizes { width, hidden, .. }) = (self.layer, self.sizes);
        let fan_in = layer.activation.fan_in();
        let range = tile.rows.start * width..tile.rows.end * width;
        let (x, dy) = (&self.x[range.clone()], &grad[range]);
        self.norm(s, x, tile.group);
        tile.normed.put(&s.rows[..x.len()], width, 0, width);
        s.grad.pack_rows(tile::matrix(dy, width));
        for columns in self.columns() {
            self.before(s, up, columns);
            let count = tile.rows.len() * columns.len;
            let b = (down, columns.start, 0);
            let c = (&mut s.dafter[..count], columns.len);
            multiply(self.kernel, &s.grad, b, columns.len, c, Start::Zero);
            let (before, after) = (&s.before[..count * fan_in], &mut s.after[..count]);
            layer.activation.values(before, after);
            tile.hidden.put(after, columns.len, columns.start, hidden);
            let dbefore = &mut s.dbefore[..count * fan_in];
            layer
                .activation
                .gradients(before, &s.dafter[..count], dbefore);
            let wide = fan_in * columns.len;
            let at = fan_in * columns.start;
            tile.dbefore.put(dbefore, wide, at, fan_in * hidden);
            s.hidden.pack_rows(tile::matrix(dbefore, wide));
            let start = match columns.start {
                0 => Start::Zero,
                _ => Start::Add,
            };
            // The rows of the norm are packed and kept, so that their place is free for their gradient.
            let c = (&mut s.rows[..x.len()], width);
            multiply(self.kernel, &s.hidden, (up_rows, 0, at), width, c, start);
        }
        let w = &self.norm[tile.group * width..][..width];
        let norm = (x, w, layer.eps as f32);
        norm_backward(norm, (&s.rows[..x.len()], dy), tile.dx)
    }
}

impl Branch for Mlp {
    const NAME: &'static str = "mlp-branch";
    /// The hidden numbers are made again.
    type Made = ();

    fn forward(&self, x: &[f32], weights: &[Data]) -> Result<(Vec<f32>, ())> {
        Ok((Call::new(self, x, weights)?.forward(), ()))
    }

    fn backward(
        &self,
        x: &[f32],
        weights: &[Data],
        (): &(),
        grad: &[f32],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        Ok(Call::new(self, x, weights)?.backward(grad))
    }
}
