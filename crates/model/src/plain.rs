//! The fused operations, written with tensor operations: slow, until the kernels have them.
#![allow(missing_docs)]
use candle_core::{D, DType, Result, Tensor};
use gallop_kernels::{Precision, Segments};
use std::ops::Range;

#[derive(Clone, Debug, Default)]
pub struct AttentionPlan {
    pub blocks: Vec<AttentionBlock>,
    pub scale: f32,
}
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    pub q: Range<usize>,
    pub k: Vec<Range<usize>>,
    pub causal: bool,
}

fn expand(w: &Tensor, seg: &Segments) -> Result<Tensor> {
    let g = seg.groups();
    let w = w.reshape((g, w.elem_count() / g))?;
    let mut ids = vec![0u32; seg.end()];
    for (r, g) in seg.parts() {
        ids[r.clone()].fill(*g as u32);
    }
    w.index_select(&Tensor::new(ids, w.device())?, 0)
}

pub fn rms_norm(x: &Tensor, w: &Tensor, seg: &Segments, eps: f64) -> Result<Tensor> {
    let y = x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?)?;
    y * (expand(w, seg)? + 1.0)?
}

pub fn qk_norm_rope(
    x: &Tensor,
    w: &Tensor,
    sin: &Tensor,
    cos: &Tensor,
    seg: &Segments,
    eps: f64,
) -> Result<Tensor> {
    let k = x.dim(2)?;
    let y = x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?)?;
    let y = y.broadcast_mul(&(expand(w, seg)? + 1.0)?.unsqueeze(1)?)?;
    let r = sin.dim(1)?;
    let (s, c) = (sin.unsqueeze(1)?, cos.unsqueeze(1)?);
    let (a, b) = (y.narrow(2, 0, r)?, y.narrow(2, r, r)?);
    Tensor::cat(
        &[
            (a.broadcast_mul(&c)? - b.broadcast_mul(&s)?)?,
            (b.broadcast_mul(&c)? + a.broadcast_mul(&s)?)?,
            y.narrow(2, 2 * r, k - 2 * r)?,
        ],
        2,
    )
}

pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    plan: &AttentionPlan,
    p: Precision,
) -> Result<Tensor> {
    let (lq, nq, hd) = q.dims3()?;
    let (lk, nk, _) = k.dims3()?;
    let mut mask = vec![-1e30f32; lq * lk];
    for b in &plan.blocks {
        for (n, r) in b.k.iter().enumerate() {
            for i in b.q.clone() {
                for j in r.clone() {
                    let ok = !b.causal || n + 1 < b.k.len() || j - r.start <= i - b.q.start;
                    if ok {
                        mask[i * lk + j] = 0.0;
                    }
                }
            }
        }
    }
    let mask = Tensor::from_vec(mask, (lq, lk), q.device())?;
    let round = |x: &Tensor| match p {
        Precision::Bf16 => x.to_dtype(DType::BF16)?.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    };
    let ids: Vec<u32> = (0..nq).map(|h| (h / (nq / nk)) as u32).collect();
    let ids = Tensor::new(ids, q.device())?;
    let q = round(q)?.transpose(0, 1)?.contiguous()?;
    let k = round(k)?
        .transpose(0, 1)?
        .contiguous()?
        .index_select(&ids, 0)?;
    let v = round(v)?
        .transpose(0, 1)?
        .contiguous()?
        .index_select(&ids, 0)?;
    let s = (q.matmul(&k.t()?)? * plan.scale as f64)?.broadcast_add(&mask)?;
    let m = s.max_keepdim(D::Minus1)?.detach();
    let e = s.broadcast_sub(&m)?.exp()?;
    let e = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    let _ = hd;
    e.matmul(&v)?.transpose(0, 1)?.contiguous()
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}
pub fn head_gate(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&sigmoid(g)?.unsqueeze(2)?)
}
pub fn gelu7(x: &Tensor) -> Result<Tensor> {
    let x = x.minimum(7.0)?;
    &x * sigmoid(&(&x * 1.702)?)?
}
pub fn swiglu7(x: &Tensor) -> Result<Tensor> {
    let (l, h) = x.dims2()?;
    let x = x.reshape((l, h / 2, 2))?;
    let g = gelu7(&x.narrow(2, 0, 1)?.squeeze(2)?)?;
    let u = x.narrow(2, 1, 1)?.squeeze(2)?.minimum(7.0)?.maximum(-7.0)?;
    g * (u + 1.0)?
}
