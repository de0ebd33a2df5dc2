//! The attention of a layer: `y = x + W_proj self_attention(W_qkv norm(x))`.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::BranchMatrix;
use super::bundle::{Bundle, Gradients};
use super::kept::{Kept, KeptRows};
use super::tile::{self, NormBackward, ROWS, multiply, normed, of};
use crate::attention::{Middle, SelfAttention};
use crate::gemm::source::{Data, Depth};
use crate::gemm::{Kernel, Packed, Precision, Start};
use crate::linear::over_rows;
use crate::memory::{Aligned, filled};
use crate::rows::{Part, parts_of, sum_groups};
use crate::segments::Segments;
use crate::simd::vectorised;
use crate::storage::{floats, with_data, with_floats};

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
    let (norm, (q_norm, k_norm)) = (weights.norm, weights.heads);
    let sizes = Sizes::new(x, &weights, layer)?;
    let (BranchMatrix::Tensor(qkv), BranchMatrix::Tensor(proj)) = (weights.qkv, weights.proj)
    else {
        return frozen(x, weights, layer, sizes);
    };
    let (outer, inner) = (
        Bundle::three([norm, qkv, proj])?,
        Bundle::two([q_norm, k_norm])?,
    );
    let trains = x.track_op() || outer.handle.track_op() || inner.handle.track_op();
    let own = |w: &Tensor| w.detach().contiguous();
    let op = AttentionOp {
        frame: Frame::new(layer, sizes, (q_norm, k_norm), trains)?,
        norms: [own(norm)?, own(q_norm)?, own(k_norm)?],
        matrices: [own(qkv)?, own(proj)?],
        outer: outer.gradients,
        inner: inner.gradients,
        trains,
        made: OnceLock::new(),
    };
    x.contiguous()?.apply_op3(&outer.handle, &inner.handle, op)
}

fn frozen(
    x: &Tensor,
    weights: AttentionWeights,
    layer: &SelfAttention,
    sizes: Sizes,
) -> Result<Tensor> {
    if x.track_op() {
        bail!("attention over frozen weights gives no gradient");
    }
    let (norm, (q_norm, k_norm)) = (weights.norm, weights.heads);
    let frame = Frame::new(layer, sizes, (q_norm, k_norm), false)?;
    let y = with_floats(x, |x| {
        with_norms([norm, q_norm, k_norm], |norms| {
            weights.qkv.with_data(|qkv| {
                weights.proj.with_data(|proj| {
                    let (y, _) = Call::new(&frame, x, norms, [qkv, proj]).forward()?;
                    Ok(y)
                })
            })
        })
    })?;
    Tensor::from_vec(y, x.dims(), x.device())
}

fn with_norms<T>(norms: [&Tensor; 3], f: impl FnOnce([&[f32]; 3]) -> Result<T>) -> Result<T> {
    let [a, b, c] = norms;
    with_floats(a, |a| with_floats(b, |b| with_floats(c, |c| f([a, b, c]))))
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
struct Frame {
    middle: Middle,
    segments: Segments,
    sizes: Sizes,
    eps: f32,
    precision: Precision,
}

impl Frame {
    fn new(
        layer: &SelfAttention,
        sizes: Sizes,
        heads: (&Tensor, &Tensor),
        trains: bool,
    ) -> Result<Self> {
        Ok(Self {
            middle: Middle::new((sizes.rows, sizes.joined), heads, layer, trains)?,
            segments: layer.segments.clone(),
            sizes,
            eps: layer.eps as f32,
            precision: layer.precision,
        })
    }
}

struct AttentionOp {
    frame: Frame,
    /// Before, of queries, of keys.
    norms: [Tensor; 3],
    /// qkv and proj.
    matrices: [Tensor; 2],
    outer: Gradients,
    inner: Gradients,
    trains: bool,
    /// What the forward pass made, if gradients will be wanted.
    made: OnceLock<Made>,
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

/// The gradients of all inputs.
struct Found {
    x: Vec<f32>,
    norm: Vec<f32>,
    qkv: Vec<f32>,
    heads: [Vec<f32>; 2],
    proj: Vec<f32>,
}

/// One pass, forward or backward.
struct Call<'a> {
    frame: &'a Frame,
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
    fn new(
        frame: &'a Frame,
        x: &'a [f32],
        [norm, q, k]: [&'a [f32]; 3],
        [qkv, proj]: [Data<'a>; 2],
    ) -> Self {
        Self {
            frame,
            kernel: Kernel::new(frame.precision),
            x,
            norm,
            heads: [q, k],
            qkv,
            proj,
        }
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            rows: Aligned::zeros(ROWS * self.frame.sizes.width),
            left: self.kernel.left(),
        }
    }

    /// The joined product's weights, packed.
    fn packed_qkv(&self, depth: Depth) -> Vec<Option<Packed>> {
        let Sizes { width, joined, .. } = self.frame.sizes;
        let (kernel, segments) = (self.kernel, &self.frame.segments);
        tile::pack(kernel, segments, self.qkv, (joined, width), depth)
    }

    fn packed_proj(&self, depth: Depth) -> Vec<Option<Packed>> {
        let shape = (self.frame.sizes.width, self.frame.middle.columns());
        let (kernel, segments) = (self.kernel, &self.frame.segments);
        tile::pack(kernel, segments, self.proj, shape, depth)
    }

    /// Calls `f` for each tile, with its rows of a new matrix of `width` columns, which it must write wholly.
    fn by_tiles(&self, width: usize, f: impl Fn(&mut Scratch, Part) + Send + Sync) -> Vec<f32> {
        let fill = |out: &mut [f32]| {
            parts_of(&self.frame.segments, ROWS, width, out)
                .into_par_iter()
                .with_max_len(1)
                .for_each_init(|| self.scratch(), f);
        };
        // SAFETY: the segments cover all rows, and `f` writes all of its own.
        unsafe { filled(self.frame.sizes.rows * width, fill) }
    }

    /// Rows of a matrix of `width` columns.
    fn rows<'b>(of: &'b [f32], rows: &std::ops::Range<usize>, width: usize) -> &'b [f32] {
        &of[rows.start * width..rows.end * width]
    }

    /// The norm's weights of a group.
    fn weight(&self, group: usize) -> &'a [f32] {
        let width = self.frame.sizes.width;
        &self.norm[group * width..][..width]
    }

    /// The result, and what the backward pass starts from.
    fn forward(&self) -> Result<(Vec<f32>, Made)> {
        let Sizes { width, joined, .. } = self.frame.sizes;
        let weights = self.packed_qkv(Depth::Columns);
        let qkv = self.by_tiles(joined, |s, part| {
            let x = Self::rows(self.x, &part.rows, width);
            let rows = &mut s.rows[..x.len()];
            normed(x, self.weight(part.group), self.frame.eps, rows);
            s.left.pack_rows(tile::matrix(rows, width));
            let (b, c) = ((of(&weights, part.group), 0, 0), (part.out, joined));
            multiply(self.kernel, &s.left, b, joined, c, Start::Zero);
        });
        let (out, lse) = self.frame.middle.forward(&qkv, self.heads)?;
        let (weights, columns) = (
            self.packed_proj(Depth::Columns),
            self.frame.middle.columns(),
        );
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

    fn backward(&self, made: &Made, grad: &[f32]) -> Result<Found> {
        let (middle, segments) = (&self.frame.middle, &self.frame.segments);
        let Sizes {
            rows,
            width,
            joined,
        } = self.frame.sizes;
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
        let mut kept = unsafe { Kept::room(self.frame.precision, rows * width) };
        let mut dnorm = Vec::new();
        let fill = |dx: &mut [f32]| {
            let tiles: Vec<(Part, KeptRows)> = (parts_of(segments, ROWS, width, dx).into_iter())
                .zip(kept.tiles(segments, ROWS, width))
                .collect();
            let sums = (tiles.into_par_iter().with_max_len(1)).map_init(
                || self.scratch(),
                |s, (part, mut kept)| {
                    let dqkv = Self::rows(&dqkv, &part.rows, joined);
                    let x = Self::rows(self.x, &part.rows, width);
                    let w = self.weight(part.group);
                    let rows = &mut s.rows[..x.len()];
                    normed(x, w, self.frame.eps, rows);
                    kept.put(rows, width, 0, width);
                    s.left.pack_rows(tile::matrix(dqkv, joined));
                    let (b, c) = ((of(&weights, part.group), 0, 0), (&mut *rows, width));
                    multiply(self.kernel, &s.left, b, width, c, Start::Zero);
                    let mut dw = vec![0.0; width];
                    vectorised(NormBackward {
                        x,
                        dn: rows,
                        dy: Self::rows(grad, &part.rows, width),
                        w,
                        eps: self.frame.eps,
                        dx: part.out,
                        dw: &mut dw,
                    });
                    (part.group, dw)
                },
            );
            dnorm = sum_groups(sums.collect(), (segments.groups(), width));
        };
        // SAFETY: as above.
        let dx = unsafe { filled(rows * width, fill) };
        let dweights = over((Data::F32(&dqkv), joined), (kept.data(), width));
        Ok(Found {
            x: dx,
            norm: dnorm,
            qkv: dweights,
            heads: dheads,
            proj: dproj,
        })
    }
}

impl AttentionOp {
    fn with_call<T>(&self, x: &[f32], f: impl FnOnce(Call) -> Result<T>) -> Result<T> {
        let [qkv, proj] = &self.matrices;
        with_norms(self.norms.each_ref(), |norms| {
            with_data(qkv, |qkv| {
                with_data(proj, |proj| {
                    f(Call::new(&self.frame, x, norms, [qkv, proj]))
                })
            })
        })
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention-branch"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        l: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, made) = self.with_call(floats(x, l)?, |call| call.forward())?;
        if self.trains {
            // A second call of the same operation has the same inputs.
            let _ = self.made.set(made);
        }
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(made) = self.made.get() else {
            bail!("attention_branch: the backward pass needs the forward pass first");
        };
        let found = with_floats(grad, |grad| {
            with_floats(x, |x| self.with_call(x, |call| call.backward(made, grad)))
        })?;
        let tensor = |numbers, like: &Tensor| {
            Tensor::from_vec(numbers, like.dims(), like.device())?.to_dtype(like.dtype())
        };
        let ([norm, q_norm, k_norm], [qkv, proj]) = (&self.norms, &self.matrices);
        let [dq, dk] = found.heads;
        let outer = vec![
            tensor(found.norm, norm)?,
            tensor(found.qkv, qkv)?,
            tensor(found.proj, proj)?,
        ];
        let inner = vec![tensor(dq, q_norm)?, tensor(dk, k_norm)?];
        Ok((
            Some(tensor(found.x, x)?),
            Some(self.outer.give(outer)?),
            Some(self.inner.give(inner)?),
        ))
    }
}
