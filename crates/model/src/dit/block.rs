//! One layer: attention and MLP, each behind a norm and added to the stream.

use candle_core::{Result, Tensor};
use gallop_kernels::{
    Precision, Segments, SelfAttention, gelu7, linear, rms_norm, self_attention, swiglu7,
};

use super::{AttentionKind, DitConfig, LayerKind, MlpKind};
use crate::error;
use crate::tokens::TokenSequence;
use crate::weights::{Init, Weights};

/// Added to the mean square in every norm.
pub(super) const NORM_EPS: f64 = 1e-6;
/// Sets of weights in a per-modality layer.
const MODALITIES: usize = 3;

/// One layer.
#[derive(Clone)]
pub(super) struct Block {
    kind: LayerKind,
    attention: Attention,
    mlp: Mlp,
}

impl Block {
    pub(super) fn new(config: &DitConfig, i: usize, weights: &Weights) -> error::Result<Self> {
        let kind = config.layers[i];
        let weights = weights.at("block.layers").at(i);
        Ok(Self {
            kind,
            attention: Attention::new(config, kind, &weights.at("attention"))?,
            mlp: Mlp::new(config, kind, &weights.at("mlp"))?,
        })
    }

    /// [L, D] -> [L, D].
    pub(super) fn forward(
        &self,
        x: &Tensor,
        sequence: &TokenSequence,
        precision: Precision,
    ) -> Result<Tensor> {
        let rows = Rows {
            segments: match self.kind.per_modality {
                true => &sequence.by_modality,
                false => &sequence.shared,
            },
            per_modality: self.kind.per_modality,
            precision,
        };
        let x = (x + self
            .attention
            .forward(x, sequence, self.kind.attention, &rows)?)?;
        &x + self.mlp.forward(&x, &rows)?
    }
}

/// Which rows use which weights, and how products are done.
struct Rows<'a> {
    segments: &'a Segments,
    per_modality: bool,
    precision: Precision,
}

impl Rows<'_> {
    /// The stacked weights of the modalities that the sequence has: the last ones may be absent.
    fn present(&self, weight: &Tensor) -> Result<Tensor> {
        let groups = self.segments.groups();
        if !self.per_modality || groups == MODALITIES {
            return Ok(weight.clone());
        }
        weight.narrow(0, 0, weight.dim(0)? / MODALITIES * groups)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        linear(
            x,
            &self.present(weight)?,
            None,
            self.segments,
            self.precision,
        )
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(x, &self.present(weight)?, self.segments, NORM_EPS)
    }
}

/// Sets of weights in a layer.
fn groups(kind: LayerKind) -> usize {
    if kind.per_modality { MODALITIES } else { 1 }
}

/// A matrix of `groups` x `rows` outputs; `gain` scales its beginning from that which keeps the variance.
fn matrix(
    weights: &Weights,
    name: &str,
    (rows, columns): (usize, usize),
    gain: f64,
) -> error::Result<Tensor> {
    let std = gain / (columns as f64).sqrt();
    weights.get(
        (rows, columns),
        &format!("{name}.weight"),
        Init::Normal(std),
    )
}

/// The factor on what a branch adds to the stream, so that the sum of all begins at the size of one.
fn branch_gain(config: &DitConfig) -> f64 {
    1.0 / (2.0 * config.layers.len() as f64).sqrt()
}

#[derive(Clone)]
struct Attention {
    heads: (usize, usize, usize),
    pre_norm: Tensor,
    qkv: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
    proj: Tensor,
}

impl Attention {
    fn new(config: &DitConfig, kind: LayerKind, weights: &Weights) -> error::Result<Self> {
        let (g, d, k) = (groups(kind), config.width, config.head_dim);
        let norm = |name: &str, size: usize| {
            weights.get_f32(g * size, &format!("{name}.weight"), Init::Zeros)
        };
        let joined = config.num_heads_q * k;
        Ok(Self {
            heads: (config.num_heads_q, config.num_heads_kv, k),
            pre_norm: norm("pre_norm", d)?,
            qkv: matrix(weights, "linear_qkv", (g * config.qkv_rows(), d), 1.0)?,
            q_norm: norm("q_norm", k)?,
            k_norm: norm("k_norm", k)?,
            proj: matrix(weights, "linear_proj", (g * d, joined), branch_gain(config))?,
        })
    }

    /// [L, D] -> [L, D].
    fn forward(
        &self,
        x: &Tensor,
        sequence: &TokenSequence,
        kind: AttentionKind,
        rows: &Rows,
    ) -> Result<Tensor> {
        let qkv = rows.linear(&rows.norm(x, &self.pre_norm)?, &self.qkv)?;
        let layer = SelfAttention {
            heads: self.heads,
            rope: sequence.rope(),
            segments: rows.segments,
            plan: sequence.plan(kind),
            eps: NORM_EPS,
            precision: rows.precision,
        };
        let norms = (rows.present(&self.q_norm)?, rows.present(&self.k_norm)?);
        let out = self_attention(&qkv, (&norms.0, &norms.1), &layer)?;
        rows.linear(&out, &self.proj)
    }
}

#[derive(Clone)]
struct Mlp {
    kind: MlpKind,
    pre_norm: Tensor,
    up: Tensor,
    down: Tensor,
}

impl Mlp {
    fn new(config: &DitConfig, kind: LayerKind, weights: &Weights) -> error::Result<Self> {
        let (g, d) = (groups(kind), config.width);
        let (rows, hidden) = (config.mlp_rows(kind.mlp), config.mlp_hidden(kind.mlp));
        Ok(Self {
            kind: kind.mlp,
            pre_norm: weights.get_f32(g * d, "pre_norm.weight", Init::Zeros)?,
            up: matrix(weights, "up_gate_proj", (g * rows, d), 1.0)?,
            down: matrix(weights, "down_proj", (g * d, hidden), branch_gain(config))?,
        })
    }

    /// [L, D] -> [L, D].
    fn forward(&self, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let up = rows.linear(&rows.norm(x, &self.pre_norm)?, &self.up)?;
        let hidden = match self.kind {
            MlpKind::Gelu7 => gelu7(&up)?,
            MlpKind::Swiglu7 => swiglu7(&up)?,
        };
        rows.linear(&hidden, &self.down)
    }
}
