//! Attention with heads wider than a GPU's kernel holds, such as those of video autoencoders: as two products.

use std::ops::Range;

use candle_core::{DType, Result, Tensor, bail};

use super::{AttentionBlock, AttentionPlan};
use crate::gemm::Precision;
use crate::linear::linear;
use crate::segments::Segments;

/// The widest head of a GPU's own kernel.
pub const WIDEST: usize = 256;
/// Queries whose logits are there at a time.
const ROWS: usize = 1024;

/// As [`super::attention`], of tensors on any device; takes no causal blocks.
pub fn attention(
    [q, k, v]: [&Tensor; 3],
    plan: &AttentionPlan,
    precision: Precision,
) -> Result<Tensor> {
    let (heads, shared) = (q.dim(1)?, q.dim(1)? / k.dim(1)?);
    let one = |x: &Tensor, head: usize| x.narrow(1, head, 1)?.squeeze(1)?.contiguous();
    let made = (0..heads).map(|head| {
        let of = head / shared;
        by_blocks([one(q, head)?, one(k, of)?, one(v, of)?], plan, precision)
    });
    Tensor::stack(&made.collect::<Result<Vec<_>>>()?, 1)
}

/// One head: q `[Lq, K]`, k and v `[Lk, K]`.
fn by_blocks([q, k, v]: [Tensor; 3], plan: &AttentionPlan, precision: Precision) -> Result<Tensor> {
    let mut blocks: Vec<&AttentionBlock> = plan.blocks.iter().collect();
    blocks.retain(|block| !block.q.is_empty() && block.k.iter().any(|k| !k.is_empty()));
    blocks.sort_by_key(|block| block.q.start);
    let (queries, width) = q.dims2()?;
    let nothing = |rows: usize| Tensor::zeros((rows, width), DType::F32, q.device());
    let (mut parts, mut at) = (Vec::new(), 0);
    for block in blocks {
        if block.causal {
            bail!("attention on a GPU takes no causal blocks with heads of {width} numbers");
        }
        if block.q.start > at {
            parts.push(nothing(block.q.start - at)?);
        }
        let keys = chosen(&k, &block.k)?;
        let values = chosen(&v, &block.k)?.t()?.contiguous()?;
        for start in block.q.clone().step_by(ROWS) {
            let rows = ROWS.min(block.q.end - start);
            let logits = product(&q.narrow(0, start, rows)?, &keys, precision)?;
            let shares = softmax(&logits, plan)?;
            parts.push(product(&shares, &values, precision)?);
        }
        at = block.q.end;
    }
    if queries > at || parts.is_empty() {
        parts.push(nothing(queries - at)?);
    }
    Tensor::cat(&parts, 0)
}

/// Some rows of `x`.
fn chosen(x: &Tensor, ranges: &[Range<usize>]) -> Result<Tensor> {
    let some = ranges.iter().filter(|range| !range.is_empty());
    let rows = some.map(|range| x.narrow(0, range.start, range.len()));
    Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?.contiguous()
}

/// `x w^T`.
fn product(x: &Tensor, w: &Tensor, precision: Precision) -> Result<Tensor> {
    let x = x.contiguous()?;
    linear(&x, w, None, &Segments::single(x.dim(0)?), precision)
}

fn softmax(logits: &Tensor, plan: &AttentionPlan) -> Result<Tensor> {
    let mut z = (logits * f64::from(plan.scale))?;
    if let Some(cap) = plan.softcap.map(f64::from) {
        z = ((z / cap)?.tanh()? * cap)?;
    }
    let most = z.max_keepdim(1)?;
    let e = z.broadcast_sub(&most)?.exp()?;
    let sum = e.sum_keepdim(1)?;
    e.broadcast_div(&sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn products_are_attention() {
        let random = |l, n| Tensor::randn(0f32, 1., (l, n, 40), &Device::Cpu).unwrap();
        let (q, k, v) = (random(23, 4), random(30, 2), random(30, 2));
        let plan = AttentionPlan {
            blocks: vec![
                AttentionBlock {
                    q: 12..20,
                    k: vec![0..5, 9..9, 20..30],
                    causal: false,
                },
                AttentionBlock {
                    q: 2..10,
                    k: vec![3..9, 9..17],
                    causal: false,
                },
            ],
            scale: 0.3,
            softcap: Some(5.0),
        };
        let want = super::super::attention(&q, &k, &v, &plan, Precision::F32).unwrap();
        let got = attention([&q, &k, &v], &plan, Precision::F32).unwrap();
        let apart = (want - got).unwrap().abs().unwrap().max_all().unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() < 1e-5);
    }
}
