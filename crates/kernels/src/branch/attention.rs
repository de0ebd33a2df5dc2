//! The attention of a layer: `y = x + W_proj self_attention(W_qkv norm(x))`.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::BranchMatrix;
use super::kept::{Kept, KeptRows};
use super::op::{self, Branch};
use super::tile::{self, ROWS, multiply, norm_backward, normed, of};
use crate::attention::{Middle, SelfAttention};
use crate::gemm::source::{Data, Depth};
use crate::gemm::{Kernel, Packed, Precision, Start};
use crate::linear::over_rows;
use crate::memory::{Aligned, HandedOn, filled};
use crate::rows::{Part, parts_of, sum_groups};

/// The weights of an attention branch.
#[derive(Clone, Copy, Debug)]
pub struct AttentionWeights<'a> {
    /// Of the norm before, `[G * D]`.
    pub norm: &'a Tensor,
    /// `[G * ((Nq + 2 Nk) K + Nq), D]`.
    pub qkv: &'a BranchMatrix<'a>,
    /// Of the norms of queries and keys, `[G * K]` each.
    pub heads: (&'a Tensor, &'a Tensor),
    /// `[G * D, Nq K]`.
    pub proj: &'a BranchMatrix<'a>,
}

/// `x + linear(self_attention(linear(rms_norm(x))))`, a few rows at a time but for the attention itself.
///
/// # Shapes
/// x `[L, D]` -> `[L, D]`. x and the norms are f32, all on the processor.
///
/// # Errors
/// If the shapes do not agree, the segments leave a row out, the precision is that of 8-bit floats, a tensor is not on
/// the processor, or a gradient of x would be wanted where a matrix is frozen: there is none. As
/// [`crate::self_attention`].
pub fn attention_branch(
    x: &Tensor,
    weights: AttentionWeights,
    layer: &SelfAttention,
) -> Result<Tensor> {
    let sizes = Sizes::new(x, &weights, layer)?;
    // Only of 8-bit floats, which are refused, does the precision depend on whether it trains.
    let middle = Middle::new((sizes.rows, sizes.joined), weights.heads, layer, false)?;
    let norm = |w: &Tensor| BranchMatrix::Tensor(w.clone());
    let weights = [
        norm(weights.norm),
        weights.qkv.clone(),
        norm(weights.heads.0),
        norm(weights.heads.1),
        weights.proj.clone(),
    ];
    op::apply(x, &weights, Attention { middle, sizes })
}

/// Rows, width of the stream, columns of the joined product.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    rows: usize,
    width: usize,
    joined: usize,
}

impl Sizes {
    fn new(x: &Tensor, weights: &AttentionWeights, layer: &SelfAttention) -> Result<Self> {
        let (norm, qkv, proj) = (weights.norm, weights.qkv.dims()?, weights.proj.dims()?);
        let (rows, width) = x.dims2()?;
        let groups = layer.segments.groups();
        let (query_heads, _, head) = layer.heads;
        if norm.dims() != [groups * width]
            || qkv.1 != width
            || qkv.0 % groups != 0
            || proj != (groups * width, query_heads * head)
            || layer.precision == Precision::Fp8
        {
            bail!(
                "attention_branch: x {:?}, norm {:?}, qkv {qkv:?}, proj {proj:?}, heads {:?}, {groups} groups, {:?}",
                x.dims(),
                norm.dims(),
                layer.heads,
                layer.precision
            );
        }
        Ok(Self {
            rows,
            width,
            joined: qkv.0 / groups,
        })
    }
}

/// The operation without its inputs.
struct Attention {
    middle: Middle,
    sizes: Sizes,
}

/// What the backward pass starts from.
struct Made {
    /// The joined product.
    qkv: Vec<f32>,
    /// The gated heads.
    out: Vec<f32>,
    /// As in `attention`.
    lse: Vec<f32>,
}

/// One pass, forward or backward.
struct Call<'a> {
    middle: &'a Middle,
    sizes: Sizes,
    kernel: Kernel,
    x: &'a [f32],
    norm: &'a [f32],
    heads: [&'a [f32]; 2],
    qkv: Data<'a>,
    proj: Data<'a>,
}

/// Buffers of a thread.
struct Scratch {
    rows: Aligned,
    left: Packed,
}

impl<'a> Call<'a> {
    fn new(attention: &'a Attention, x: &'a [f32], weights: &[Data<'a>]) -> Result<Self> {
        let [norm, qkv, q_norm, k_norm, proj] = *weights else {
            bail!("{} weights of an attention", weights.len());
        };
        Ok(Self {
            middle: &attention.middle,
            sizes: attention.sizes,
            kernel: Kernel::new(attention.middle.precision),
            x,
            norm: norm.floats()?,
            heads: [q_norm.floats()?, k_norm.floats()?],
            qkv,
            proj,
        })
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            rows: Aligned::zeros(ROWS * self.sizes.width),
            left: self.kernel.left(),
        }
    }

    /// The joined product's weights, packed.
    fn packed_qkv(&self, depth: Depth) -> Vec<Option<Packed>> {
        let Sizes { width, joined, .. } = self.sizes;
        let (kernel, segments) = (self.kernel, &self.middle.segments);
        tile::pack(kernel, segments, self.qkv, (joined, width), depth)
    }

    fn packed_proj(&self, depth: Depth) -> Vec<Option<Packed>> {
        let shape = (self.sizes.width, self.middle.columns());
        let (kernel, segments) = (self.kernel, &self.middle.segments);
        tile::pack(kernel, segments, self.proj, shape, depth)
    }

    /// Calls `f` for each tile, with its rows of a new matrix of `width` columns, which it must write wholly.
    fn by_tiles(&self, width: usize, f: impl Fn(&mut Scratch, Part) + Send + Sync) -> Vec<f32> {
        let scratch = HandedOn::new(|| self.scratch());
        let fill = |out: &mut [f32]| {
            parts_of(&self.middle.segments, ROWS, width, out)
                .into_par_iter()
                .with_max_len(1)
                .for_each(|part| scratch.with(|s| f(s, part)));
        };
        // SAFETY: the segments cover all rows, and `f` writes all of its own.
        unsafe { filled(self.sizes.rows * width, fill) }
    }

    /// Rows of a matrix of `width` columns.
    fn rows<'b>(of: &'b [f32], rows: &std::ops::Range<usize>, width: usize) -> &'b [f32] {
        &of[rows.start * width..rows.end * width]
    }

    /// The norm's weights of a group.
    fn weight(&self, group: usize) -> &'a [f32] {
        let width = self.sizes.width;
        &self.norm[group * width..][..width]
    }

    /// The result, and what the backward pass starts from.
    fn forward(&self) -> Result<(Vec<f32>, Made)> {
        let Sizes { width, joined, .. } = self.sizes;
        let weights = self.packed_qkv(Depth::Columns);
        let qkv = self.by_tiles(joined, |s, part| {
            let x = Self::rows(self.x, &part.rows, width);
            let rows = &mut s.rows[..x.len()];
            normed(x, self.weight(part.group), self.middle.eps, rows);
            s.left.pack_rows(tile::matrix(rows, width));
            let (b, c) = ((of(&weights, part.group), 0, 0), (part.out, joined));
            multiply(self.kernel, &s.left, b, joined, c, Start::Zero);
        });
        let (out, lse) = self.middle.forward(&qkv, self.heads)?;
        let (weights, columns) = (self.packed_proj(Depth::Columns), self.middle.columns());
        let y = self.by_tiles(width, |s, part| {
            part.out
                .copy_from_slice(Self::rows(self.x, &part.rows, width));
            let rows = Self::rows(&out, &part.rows, columns);
            s.left.pack_rows(tile::matrix(rows, columns));
            let (b, c) = ((of(&weights, part.group), 0, 0), (part.out, width));
            multiply(self.kernel, &s.left, b, width, c, Start::Add);
        });
        Ok((y, Made { qkv, out, lse }))
    }

    /// The gradients of x, and of norm, qkv, the norms of queries and keys, and proj.
    fn backward(&self, made: &Made, grad: &[f32]) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let (middle, segments) = (&self.middle, &self.middle.segments);
        let Sizes {
            rows,
            width,
            joined,
        } = self.sizes;
        let columns = middle.columns();
        let weights = self.packed_proj(Depth::Rows);
        let dout = self.by_tiles(columns, |s, part| {
            let dy = Self::rows(grad, &part.rows, width);
            s.left.pack_rows(tile::matrix(dy, width));
            let (b, c) = ((of(&weights, part.group), 0, 0), (part.out, columns));
            multiply(self.kernel, &s.left, b, columns, c, Start::Zero);
        });
        let over = |a, b| over_rows(self.kernel, segments, a, b);
        let dproj = over((Data::F32(grad), width), (Data::F32(&made.out), columns));
        let heads = (&made.qkv[..], self.heads);
        let (dqkv, dheads) = middle.gradients(heads, (&made.out, &dout, &made.lse))?;
        drop(dout);

        let weights = self.packed_qkv(Depth::Rows);
        // SAFETY: the segments cover all rows, and each tile writes its own.
        let mut kept = unsafe { Kept::room(self.middle.precision, rows * width) };
        let mut dnorm = Vec::new();
        let scratch = HandedOn::new(|| self.scratch());
        let fill = |dx: &mut [f32]| {
            let tiles: Vec<(Part, KeptRows)> = (parts_of(segments, ROWS, width, dx).into_iter())
                .zip(kept.tiles(segments, ROWS, width))
                .collect();
            let sums = (tiles.into_par_iter().with_max_len(1)).map(|(part, mut kept)| {
                scratch.with(|s| {
                    let dqkv = Self::rows(&dqkv, &part.rows, joined);
                    let x = Self::rows(self.x, &part.rows, width);
                    let w = self.weight(part.group);
                    let rows = &mut s.rows[..x.len()];
                    normed(x, w, self.middle.eps, rows);
                    kept.put(rows, width, 0, width);
                    s.left.pack_rows(tile::matrix(dqkv, joined));
                    let (b, c) = ((of(&weights, part.group), 0, 0), (&mut *rows, width));
                    multiply(self.kernel, &s.left, b, width, c, Start::Zero);
                    let dy = Self::rows(grad, &part.rows, width);
                    let norm = (x, w, self.middle.eps);
                    let dw = norm_backward(norm, (&*rows, dy), part.out);
                    (part.group, dw)
                })
            });
            dnorm = sum_groups(sums.collect(), (segments.groups(), width));
        };
        // SAFETY: as above.
        let dx = unsafe { filled(rows * width, fill) };
        let dweights = over((Data::F32(&dqkv), joined), (kept.data(), width));
        let [dq, dk] = dheads;
        Ok((dx, vec![dnorm, dweights, dq, dk, dproj]))
    }
}

impl Branch for Attention {
    const NAME: &'static str = "attention-branch";
    type Made = Made;

    fn forward(&self, x: &[f32], weights: &[Data]) -> Result<(Vec<f32>, Made)> {
        Call::new(self, x, weights)?.forward()
    }

    fn backward(
        &self,
        x: &[f32],
        weights: &[Data],
        made: &Made,
        grad: &[f32],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        Call::new(self, x, weights)?.backward(made, grad)
    }
}
