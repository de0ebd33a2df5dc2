//! Attention, and a training step of transformer blocks.

use candle_core::{Result, Tensor};
use gallop_kernels::{
    Activation, AttentionBlock, AttentionPlan, BranchMatrix, MlpBranch, Precision, Segments,
    attention, linear, mlp_branch, rms_norm,
};

use super::{Case, both};

/// Both, forward and forward with backward.
pub fn add(cases: &mut Vec<Case>) {
    // The second one has the shape of foal's five seconds.
    for (name, length, heads, dim) in [
        ("attention 4096 8x64", 4096, 8, 64),
        ("attention 2048 8x40", 2048, 8, 40),
    ] {
        let plan = AttentionPlan::full(length, length, (dim as f32).powf(-0.5));
        let flop = 4.0 * (length * length * heads * dim) as f64;
        both(
            cases,
            name,
            flop,
            vec![vec![length, heads, dim]; 3],
            move |t| attention(&t[0], &t[1], &t[2], &plan, Precision::Bf16),
        );
    }
    let step = Step {
        samples: 4,
        length: 1024,
        width: 512,
        heads: 8,
        hidden: 2048,
        layers: 4,
    };
    both(
        cases,
        "blocks 4 of 512, 4x1024",
        step.flop(),
        step.shapes(),
        move |t| step.forward(t),
    );
}

/// Sizes of some pre-norm transformer blocks over several samples.
#[derive(Clone, Copy)]
struct Step {
    samples: usize,
    length: usize,
    width: usize,
    heads: usize,
    hidden: usize,
    layers: usize,
}

impl Step {
    fn rows(&self) -> usize {
        self.samples * self.length
    }

    fn flop(&self) -> f64 {
        let products =
            2 * self.rows() * (4 * self.width * self.width + 2 * self.width * self.hidden);
        (self.layers * (products + 4 * self.rows() * self.length * self.width)) as f64
    }

    /// Input, then for each block: norm, qkv, out, norm, up, down.
    fn shapes(&self) -> Vec<Vec<usize>> {
        let (d, h) = (self.width, self.hidden);
        let block = [
            vec![d],
            vec![3 * d, d],
            vec![d, d],
            vec![d],
            vec![h, d],
            vec![d, h],
        ];
        let mut shapes = vec![vec![self.rows(), d]];
        shapes.extend(std::iter::repeat_n(block, self.layers).flatten());
        shapes
    }

    fn forward(&self, t: &[Tensor]) -> Result<Tensor> {
        t[1..].chunks(6).try_fold(t[0].clone(), |x, block| {
            let x = (&x + self.attend(&x, block)?)?;
            let layer = MlpBranch {
                segments: Segments::single(self.rows()),
                activation: Activation::GeluTanh,
                eps: 1e-6,
                precision: Precision::Bf16,
            };
            let [up, down] = [scaled(&block[4])?, scaled(&block[5])?].map(BranchMatrix::Tensor);
            mlp_branch(&x, &block[3], (&up, &down), layer)
        })
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(x, weight, &Segments::single(self.rows()), 1e-6)
    }

    fn linear(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        linear(
            x,
            &scaled(w)?,
            None,
            &Segments::single(self.rows()),
            Precision::Bf16,
        )
    }

    fn attend(&self, x: &Tensor, block: &[Tensor]) -> Result<Tensor> {
        let qkv = self.linear(&self.norm(x, &block[0])?, &block[1])?;
        let (heads, dim) = (self.heads, self.width / self.heads);
        let part = |i: usize| {
            qkv.narrow(1, i * self.width, self.width)?
                .reshape((self.rows(), heads, dim))
        };
        let ranges = (0..self.samples).map(|s| s * self.length..(s + 1) * self.length);
        let blocks = ranges
            .map(|r| AttentionBlock {
                q: r.clone(),
                k: vec![r],
                causal: false,
            })
            .collect();
        let plan = AttentionPlan {
            blocks,
            scale: (dim as f32).powf(-0.5),
            softcap: None,
        };
        let mixed = attention(&part(0)?, &part(1)?, &part(2)?, &plan, Precision::Bf16)?;
        self.linear(&mixed.reshape((self.rows(), self.width))?, &block[2])
    }
}

/// Weights are uniform in -1..1: scaled down, so that the numbers stay ordinary.
fn scaled(w: &Tensor) -> Result<Tensor> {
    w * (w.dim(1)? as f64).powf(-0.5)
}
