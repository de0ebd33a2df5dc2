//! The fused operations, written with tensor operations: slow, until the kernels have them.
#![allow(missing_docs, dead_code)]
use candle_core::{D, Result, Tensor};
use gallop_kernels::{Precision, Segments};
use std::ops::Range;
pub struct AttentionBlock {
    pub q: Range<usize>,
    pub k: Vec<Range<usize>>,
    pub causal: bool,
}
pub struct AttentionPlan {
    pub blocks: Vec<AttentionBlock>,
    pub scale: f32,
    pub softcap: Option<f32>,
}
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}
pub fn snake(x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    x + x.broadcast_mul(a)?.sin()?.sqr()?.broadcast_div(b)?
}
pub fn rms_norm(x: &Tensor, w: &Tensor, _s: &Segments, eps: f32) -> Result<Tensor> {
    let m = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    x.broadcast_div(&m)?.broadcast_mul(&(w + 1.0)?)
}
pub fn upsample_nearest(x: &Tensor, _f: &[usize]) -> Result<Tensor> {
    let (t, h, w, c) = x.dims4()?;
    x.reshape(vec![t, h, 1, w, 1, c])?
        .expand(vec![t, h, 2, w, 2, c])?
        .reshape((t, h * 2, w * 2, c))
}
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    p: &AttentionPlan,
    _: Precision,
) -> Result<Tensor> {
    let (l, n, d) = q.dims3()?;
    let mut all = Tensor::zeros((l, n, d), q.dtype(), q.device())?;
    let rep = q.dim(1)? / k.dim(1)?;
    for b in &p.blocks {
        let cut = |x: &Tensor| -> Result<Tensor> {
            let parts =
                b.k.iter()
                    .map(|r| x.narrow(0, r.start, r.len()))
                    .collect::<Result<Vec<_>>>()?;
            let x = Tensor::cat(&parts, 0)?;
            let (l, n, d) = x.dims3()?;
            x.unsqueeze(2)?
                .expand((l, n, rep, d))?
                .reshape((l, n * rep, d))?
                .transpose(0, 1)?
                .contiguous()
        };
        let q = q
            .narrow(0, b.q.start, b.q.len())?
            .transpose(0, 1)?
            .contiguous()?;
        let mut s = (q.matmul(&cut(k)?.transpose(1, 2)?.contiguous()?)? * f64::from(p.scale))?;
        if let Some(c) = p.softcap {
            let c = f64::from(c);
            s = ((s / c)?.tanh()? * c)?;
        }
        let m = s.max_keepdim(D::Minus1)?;
        let e = s.broadcast_sub(&m)?.exp()?;
        let s = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
        let y = s.matmul(&cut(v)?)?.transpose(0, 1)?.contiguous()?;
        all = all.slice_scatter0(&y, b.q.start)?;
    }
    Ok(all)
}
