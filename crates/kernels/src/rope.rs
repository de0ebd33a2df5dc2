//! Per-head norm and rotation of queries and keys.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::norm::{inverse_rms, rms_backward};
use crate::rows::{Part, fold_parts, parts};
use crate::segments::Segments;
use crate::simd::{Loop, vectorised};
use crate::storage::{floats, with_floats};

/// RMSNorm of each head with `weight + 1` of the row's group, then rotation of the first 2R numbers:
/// number i < R turns with its partner R + i by the angle of `sin[l, i]`, `cos[l, i]`.
/// Rows in no segment give zeros. Gradients go to x and weight.
///
/// # Shapes
/// x `[L, N, K]`; weight `[G * K]`; sin, cos `[L, R]`, 2R <= K -> `[L, N, K]`. All f32.
///
/// # Errors
/// If the shapes do not agree, G is less than `segments.groups()`, or a tensor is not on the CPU.
pub fn qk_norm_rope(
    x: &Tensor,
    weight: &Tensor,
    (sin, cos): (&Tensor, &Tensor),
    segments: &Segments,
    eps: f64,
) -> Result<Tensor> {
    let (rows, _, head) = x.dims3()?;
    let (angles, turning) = sin.dims2()?;
    if weight.dims() != [segments.groups() * head]
        || cos.dims() != sin.dims()
        || angles != rows
        || 2 * turning > head
        || segments.end() > rows
    {
        bail!(
            "qk_norm_rope: x {:?}, weight {:?}, sin {:?}, cos {:?}, {} groups over {} rows",
            x.dims(),
            weight.dims(),
            sin.dims(),
            cos.dims(),
            segments.groups(),
            segments.end()
        );
    }
    let op = QkNormRope {
        sin: sin.detach().contiguous()?,
        cos: cos.detach().contiguous()?,
        segments: segments.clone(),
        eps: eps as f32,
    };
    x.contiguous()?.apply_op2(&weight.contiguous()?, op)
}

/// Norm and rotation of one head of row `l`.
#[inline(always)]
pub fn norm_and_turn((l, x): (usize, &[f32]), w: &[f32], angles: Angles, eps: f32, y: &mut [f32]) {
    let r = inverse_rms(x, eps);
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = x * r * (w + 1.0);
    }
    angles.turn(l, y, 1.0);
}

struct QkNormRope {
    sin: Tensor,
    cos: Tensor,
    segments: Segments,
    eps: f32,
}

/// The angles of all rows.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    /// Sines `[L, R]`.
    pub sin: &'a [f32],
    /// Cosines `[L, R]`.
    pub cos: &'a [f32],
    /// R.
    pub turning: usize,
}

impl Angles<'_> {
    /// Turns the head of row `l`; backwards if the sign is -1.
    #[inline(always)]
    pub fn turn(&self, l: usize, head: &mut [f32], sign: f32) {
        let (sin, cos) = (
            &self.sin[l * self.turning..][..self.turning],
            &self.cos[l * self.turning..][..self.turning],
        );
        let (low, rest) = head.split_at_mut(self.turning);
        for ((a, b), (s, c)) in low.iter_mut().zip(rest).zip(sin.iter().zip(cos)) {
            let (s, x, y) = (s * sign, *a, *b);
            *a = x * c - y * s;
            *b = y * c + x * s;
        }
    }
}

impl QkNormRope {
    #[cfg(feature = "cuda")]
    fn cuda(&self, dims: &[usize]) -> crate::cuda::Norm<'_> {
        crate::cuda::Norm {
            segments: &self.segments,
            eps: self.eps,
            heads: dims[1],
            width: dims[2],
            angles: Some([&self.sin, &self.cos]),
        }
    }

    fn with_angles<T>(&self, f: impl FnOnce(Angles) -> Result<T>) -> Result<T> {
        let turning = self.sin.dim(1)?;
        with_floats(&self.sin, |sin| {
            with_floats(&self.cos, |cos| f(Angles { sin, cos, turning }))
        })
    }
}

impl CustomOp2 for QkNormRope {
    fn name(&self) -> &'static str {
        "qk-norm-rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (floats(x, lx)?, floats(w, lw)?);
        let (_, heads, head) = lx.shape().dims3()?;
        let width = heads * head;
        let mut y = vec![0.0; x.len()];
        self.with_angles(|angles| {
            parts(&self.segments, width, &mut y)
                .into_par_iter()
                .for_each(|part| {
                    vectorised(Forward {
                        x: &x[part.rows.start * width..part.rows.end * width],
                        w: &w[part.group * head..][..head],
                        heads,
                        angles,
                        eps: self.eps,
                        part,
                    })
                });
            Ok(())
        })?;
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
        let norm = self.cuda(lx.dims());
        let y = crate::cuda::norm_turn((x, lx), (w, lw), &norm, (None, crate::Precision::F32))?;
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
            let [dx, dw] = crate::cuda::norm_turn_backward([x, w, grad], &self.cuda(x.dims()))?;
            return Ok((Some(dx), Some(dw)));
        }
        let (_, heads, head) = x.dims3()?;
        let width = heads * head;
        let mut dx = vec![0.0; x.elem_count()];
        let all = parts(&self.segments, width, &mut dx);
        let shape = (self.segments.groups(), head);
        let dw = self.with_angles(|angles| {
            with_floats(grad, |g| {
                with_floats(x, |x| {
                    with_floats(w, |w| {
                        Ok(fold_parts(all, shape, |part, dw| {
                            let range = part.rows.start * width..part.rows.end * width;
                            vectorised(Backward {
                                inputs: (&x[range.clone()], &g[range]),
                                w: &w[part.group * head..][..head],
                                heads,
                                angles,
                                eps: self.eps,
                                part,
                                dw,
                            });
                        }))
                    })
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.dims(), x.device())?;
        let dw = Tensor::from_vec(dw, w.dims(), w.device())?;
        Ok((Some(dx), Some(dw)))
    }
}

struct Forward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    heads: usize,
    angles: Angles<'a>,
    eps: f32,
    part: Part<'a>,
}

impl Loop for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let (w, head) = (self.w, self.w.len());
        let rows = self.x.chunks_exact(head);
        for (i, (x, y)) in rows.zip(self.part.out.chunks_exact_mut(head)).enumerate() {
            let row = self.part.rows.start + i / self.heads;
            norm_and_turn((row, x), w, self.angles, self.eps, y);
        }
    }
}

struct Backward<'a> {
    inputs: (&'a [f32], &'a [f32]),
    w: &'a [f32],
    heads: usize,
    angles: Angles<'a>,
    eps: f32,
    part: Part<'a>,
    dw: &'a mut [f32],
}

impl Loop for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let head = self.w.len();
        let (x, g) = self.inputs;
        let mut turned = vec![0.0; head];
        let rows = x.chunks_exact(head).zip(g.chunks_exact(head));
        for (i, ((x, g), dx)) in rows.zip(self.part.out.chunks_exact_mut(head)).enumerate() {
            turned.copy_from_slice(g);
            let row = self.part.rows.start + i / self.heads;
            self.angles.turn(row, &mut turned, -1.0);
            rms_backward((x, &turned), self.w, self.eps, dx, self.dw);
        }
    }
}
