//! Attention, and a training step of transformer blocks.

use candle_core::{DType, Device, Result, Tensor};
use gallop_kernels::{
    Activation, AttentionBlock, AttentionPlan, AttentionWeights, BranchMatrix, MlpBranch,
    Precision, Segments, SelfAttention, attention, attention_branch, mlp_branch,
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
            (vec![vec![length, heads, dim]; 3], DType::F32),
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
    let frame = step.frame();
    both(
        cases,
        "blocks 4 of 512, 4x1024",
        step.flop(),
        (step.shapes(), DType::F32),
        move |t| step.forward(t, &frame),
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

    /// Input, then for each block: norm, qkv and gates, norms of queries and keys, out, norm, up, down.
    fn shapes(&self) -> Vec<Vec<usize>> {
        let (d, h, head) = (self.width, self.hidden, self.width / self.heads);
        let block = [
            vec![d],
            vec![3 * d + self.heads, d],
            vec![head],
            vec![head],
            vec![d, d],
            vec![d],
            vec![h, d],
            vec![d, h],
        ];
        let mut shapes = vec![vec![self.rows(), d]];
        shapes.extend(std::iter::repeat_n(block, self.layers).flatten());
        shapes
    }

    /// The layers of the model, which also norm and rotate queries and keys and gate heads.
    fn forward(&self, t: &[Tensor], frame: &Frame) -> Result<Tensor> {
        let attention = SelfAttention {
            heads: (self.heads, self.heads, self.width / self.heads),
            rope: (&frame.sin, &frame.cos),
            segments: &frame.segments,
            plan: &frame.plan,
            eps: EPS,
            precision: Precision::Bf16,
        };
        let mlp = MlpBranch {
            segments: frame.segments.clone(),
            activation: Activation::GeluTanh,
            eps: EPS,
            precision: Precision::Bf16,
        };
        let matrix = |w: &Tensor| BranchMatrix::Tensor(w.clone());
        t[1..].chunks(8).try_fold(t[0].clone(), |x, block| {
            let (qkv, proj) = (&matrix(&block[1]), &matrix(&block[4]));
            let weights = AttentionWeights {
                norm: &block[0],
                qkv,
                heads: (&block[2], &block[3]),
                proj,
            };
            let x = attention_branch(&x, weights, &attention)?;
            let (up, down) = (&matrix(&block[6]), &matrix(&block[7]));
            mlp_branch(&x, &block[5], (up, down), mlp.clone())
        })
    }

    fn frame(&self) -> Frame {
        let (rows, head) = (self.rows(), self.width / self.heads);
        let angles: Vec<f32> = (0..rows * (head / 2)).map(|i| i as f32 * 1e-3).collect();
        let table = |f: fn(f32) -> f32| {
            let numbers = angles.iter().map(|x| f(*x)).collect();
            Tensor::from_vec(numbers, (rows, head / 2), &Device::Cpu)
                .expect("as many numbers as the shape says")
        };
        let ranges = (0..self.samples).map(|s| s * self.length..(s + 1) * self.length);
        let blocks = ranges.map(|r| AttentionBlock {
            q: r.clone(),
            k: vec![r],
            causal: false,
        });
        Frame {
            sin: table(f32::sin),
            cos: table(f32::cos),
            segments: Segments::single(rows),
            plan: AttentionPlan {
                blocks: blocks.collect(),
                scale: (head as f32).powf(-0.5),
                softcap: None,
            },
        }
    }
}

const EPS: f64 = 1e-6;

/// What the layers share.
#[derive(Clone)]
struct Frame {
    sin: Tensor,
    cos: Tensor,
    segments: Segments,
    plan: AttentionPlan,
}
