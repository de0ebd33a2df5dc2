//! Norms over the last dimension.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::gemm::Precision;
use crate::rows::{Part, fold_parts, parts};
use crate::segments::Segments;
use crate::simd::{Loop, sigmoid, sum, vectorised};
use crate::storage::{floats, with_floats};

/// `y[l] = x[l] / rms(x[l]) * (w_g + 1)`, where g is the group of row l and `rms` the root of the mean square plus
/// `eps`. Rows in no segment give zeros. The backward pass computes the root again.
///
/// # Shapes
/// x `[L, D]`; weight `[G * D]`, the groups one after the other -> `[L, D]`. All f32.
///
/// # Errors
/// If the shapes do not agree, G is less than `segments.groups()`, or a tensor is not on the CPU.
pub fn rms_norm(x: &Tensor, weight: &Tensor, segments: &Segments, eps: f64) -> Result<Tensor> {
    rms_norm_for_product(x, weight, segments, eps, Precision::F32)
}

/// [`rms_norm`] that nothing but products in `precision` reads: a GPU stores it as they take it, if no gradient is wanted.
///
/// # Shapes
/// As [`rms_norm`]; the result is f32 or bf16.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_for_product(
    x: &Tensor,
    weight: &Tensor,
    segments: &Segments,
    eps: f64,
    precision: Precision,
) -> Result<Tensor> {
    let stored = precision.stored(x.track_op() || weight.track_op());
    let op = RmsNorm::new((x, weight), segments, eps, stored)?;
    x.contiguous()?.apply_op2(&weight.contiguous()?, op)
}

struct RmsNorm {
    segments: Segments,
    eps: f32,
    /// What follows it, without a gradient.
    then: Option<Then>,
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "a processor stores f32")
    )]
    stored: Precision,
}

impl RmsNorm {
    fn new(
        (x, weight): (&Tensor, &Tensor),
        segments: &Segments,
        eps: f64,
        stored: Precision,
    ) -> Result<Self> {
        let (rows, width) = x.dims2()?;
        if weight.dims() != [segments.groups() * width] || segments.end() > rows {
            bail!(
                "rms_norm: x {:?}, weight {:?}, {} groups over {} rows",
                x.dims(),
                weight.dims(),
                segments.groups(),
                segments.end()
            );
        }
        Ok(Self {
            segments: segments.clone(),
            eps: eps as f32,
            then: None,
            stored,
        })
    }
}

#[cfg(feature = "cuda")]
impl RmsNorm {
    fn cuda(&self, width: usize) -> crate::cuda::Norm<'_> {
        crate::cuda::Norm {
            segments: &self.segments,
            eps: self.eps,
            heads: 1,
            width,
            angles: None,
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, width) = (floats(x, lx)?, floats(w, lw)?, lx.dims()[1]);
        let mut y = vec![0.0; x.len()];
        parts(&self.segments, width, &mut y)
            .into_par_iter()
            .for_each(|part| {
                vectorised(RmsForward {
                    x: &x[part.rows.start * width..part.rows.end * width],
                    w: &w[part.group * width..][..width],
                    eps: self.eps,
                    y: &mut *part.out,
                });
                if let Some(then) = self.then {
                    vectorised(Followed(part.out, then));
                }
            });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        w: &candle_core::CudaStorage,
        lw: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let y = crate::cuda::norm_turn(
            (x, lx),
            (w, lw),
            &self.cuda(lx.dims()[1]),
            (self.then, self.stored),
        )?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dw] = crate::cuda::norm_turn_backward([x, w, grad], &self.cuda(x.dim(1)?))?;
            return Ok((Some(dx), Some(dw)));
        }
        let width = x.dim(1)?;
        let mut dx = vec![0.0; x.elem_count()];
        let all = parts(&self.segments, width, &mut dx);
        let shape = (self.segments.groups(), width);
        let dw = with_floats(grad, |g| {
            with_floats(x, |x| {
                with_floats(w, |w| {
                    Ok(fold_parts(all, shape, |part, dw| {
                        let range = part.rows.start * width..part.rows.end * width;
                        vectorised(RmsBackward {
                            x: &x[range.clone()],
                            g: &g[range],
                            w: &w[part.group * width..][..width],
                            eps: self.eps,
                            dx: part.out,
                            dw,
                        });
                    }))
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.dims(), x.device())?;
        let dw = Tensor::from_vec(dw, w.dims(), w.device())?;
        Ok((Some(dx), Some(dw)))
    }
}

/// What follows a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

/// [`rms_norm`] of rows alike and a function of each number in one pass, for products in `precision` alone: a GPU stores
/// it as they take it. It has no gradient.
///
/// # Shapes
/// x `[L, D]`; weight `[D]` -> `[L, D]`, f32 or bf16.
///
/// # Errors
/// If the shapes do not agree, or a tensor is not on the CPU.
pub fn rms_norm_then(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    then: Then,
    precision: Precision,
) -> Result<Tensor> {
    let segments = Segments::single(x.dim(0)?);
    let op = RmsNorm::new((x, weight), &segments, eps, precision.stored(false))?;
    let op = RmsNorm {
        then: Some(then),
        ..op
    };
    (x.contiguous()?).apply_op2_no_bwd(&weight.contiguous()?, &op)
}

struct Followed<'a>(&'a mut [f32], Then);

impl Loop for Followed<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        match self.1 {
            Then::Silu => self.0.iter_mut().for_each(|x| *x *= sigmoid(*x)),
            Then::Relu => self.0.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
    }
}

/// 1 / rms.
#[inline(always)]
pub fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, x, |a, b| a * b) / x.len() as f32 + eps).sqrt()
}

/// The gradient of one row through `y = x / rms(x) * (w + 1)`; adds to that of w.
#[inline(always)]
pub fn rms_backward((x, g): (&[f32], &[f32]), w: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32]) {
    let r = inverse_rms(x, eps);
    for ((d, x), (g, w)) in dx.iter_mut().zip(x).zip(g.iter().zip(w)) {
        *d = g * (w + 1.0) * x;
    }
    let pull = sum(dx, dx, |a, _| a) * r * r * r / x.len() as f32;
    for ((d, x), (g, w)) in dx.iter_mut().zip(x).zip(g.iter().zip(w)) {
        *d = g * (w + 1.0) * r - x * pull;
    }
    for ((d, x), g) in dw.iter_mut().zip(x).zip(g) {
        *d += g * x * r;
    }
}

/// The norm of rows by the weights of one group.
pub(crate) struct RmsForward<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub eps: f32,
    pub y: &'a mut [f32],
}

impl Loop for RmsForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let width = self.w.len();
        for (x, y) in (self.x.chunks_exact(width)).zip(self.y.chunks_exact_mut(width)) {
            let r = inverse_rms(x, self.eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(self.w) {
                *y = x * r * (w + 1.0);
            }
        }
    }
}

/// The gradient of rows through the norm, given that of the norm; adds to that of w.
pub(crate) struct RmsBackward<'a> {
    pub x: &'a [f32],
    pub g: &'a [f32],
    pub w: &'a [f32],
    pub eps: f32,
    pub dx: &'a mut [f32],
    pub dw: &'a mut [f32],
}

impl Loop for RmsBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let width = self.w.len();
        let rows = (self.x.chunks_exact(width)).zip(self.g.chunks_exact(width));
        for (row, dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            rms_backward(row, self.w, self.eps, dx, self.dw);
        }
    }
}

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension.
/// The backward pass computes the statistics again.
///
/// # Shapes
/// x `[.., D]`; weight `[D]`; bias `[D]` -> `[.., D]`. All f32.
///
/// # Errors
/// If the shapes do not agree, or a tensor is not on the CPU.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    if weight.dims() != [width] || bias.dims() != [width] {
        bail!(
            "layer_norm: x {:?}, weight {:?}, bias {:?}",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    let op = LayerNorm { eps: eps as f32 };
    x.contiguous()?
        .apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

struct LayerNorm {
    eps: f32,
}

/// The mean, and 1 / the standard deviation.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, x, |a, _| a) / n;
    let variance = sum(x, x, |a, _| (a - mean) * (a - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

impl LayerNorm {
    fn parts<'a>(x: &Tensor, out: &'a mut [f32], width: usize) -> Vec<Part<'a>> {
        let rows = x.elem_count() / width.max(1);
        parts(&Segments::single(rows), width, out)
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (floats(x, lx)?, floats(w, lw)?, floats(b, lb)?);
        let width = w.len();
        let mut y = vec![0.0; x.len()];
        let rows = Segments::single(x.len() / width.max(1));
        parts(&rows, width, &mut y)
            .into_par_iter()
            .for_each(|part| {
                vectorised(LayerForward {
                    x: &x[part.rows.start * width..part.rows.end * width],
                    affine: (w, b),
                    eps: self.eps,
                    part,
                })
            });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        w: &candle_core::CudaStorage,
        lw: &Layout,
        b: &candle_core::CudaStorage,
        lb: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let y = crate::cuda::layer_norm((x, lx), (w, lw), (b, lb), self.eps)?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dw, db] = crate::cuda::layer_norm_backward([x, w, grad], self.eps)?;
            return Ok((Some(dx), Some(dw), Some(db)));
        }
        let width = w.dim(0)?;
        let mut dx = vec![0.0; x.elem_count()];
        let all = Self::parts(x, &mut dx, width);
        let both = with_floats(grad, |g| {
            with_floats(x, |x| {
                with_floats(w, |w| {
                    Ok(fold_parts(all, (1, 2 * width), |part, both| {
                        let range = part.rows.start * width..part.rows.end * width;
                        vectorised(LayerBackward {
                            inputs: (&x[range.clone()], &g[range]),
                            w,
                            eps: self.eps,
                            part,
                            both,
                        });
                    }))
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.dims(), x.device())?;
        let dw = Tensor::from_slice(&both[..width], width, w.device())?;
        let db = Tensor::from_slice(&both[width..], width, w.device())?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

struct LayerForward<'a> {
    x: &'a [f32],
    affine: (&'a [f32], &'a [f32]),
    eps: f32,
    part: Part<'a>,
}

impl Loop for LayerForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (w, b) = self.affine;
        let rows = self.x.chunks_exact(w.len());
        for (x, y) in rows.zip(self.part.out.chunks_exact_mut(w.len())) {
            let (mean, r) = moments(x, self.eps);
            for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(w.iter().zip(b)) {
                *y = (x - mean) * r * w + b;
            }
        }
    }
}

struct LayerBackward<'a> {
    inputs: (&'a [f32], &'a [f32]),
    w: &'a [f32],
    eps: f32,
    part: Part<'a>,
    /// The sums of the gradients of weight and bias.
    both: &'a mut [f32],
}

impl Loop for LayerBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (w, width, n) = (self.w, self.w.len(), self.w.len() as f32);
        let (x, g) = self.inputs;
        let (dw, db) = self.both.split_at_mut(width);
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width));
        for ((x, g), dx) in rows.zip(self.part.out.chunks_exact_mut(width)) {
            let (mean, r) = moments(x, self.eps);
            for (((dw, db), x), g) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(g) {
                *dw += g * (x - mean) * r;
                *db += g;
            }
            for ((d, g), w) in dx.iter_mut().zip(g).zip(w) {
                *d = g * w;
            }
            let along_mean = sum(dx, dx, |a, _| a) / n;
            let along_x = sum(dx, x, |a, x| a * (x - mean) * r) / n;
            for (d, x) in dx.iter_mut().zip(x) {
                *d = r * (*d - along_mean - (x - mean) * r * along_x);
            }
        }
    }
}
