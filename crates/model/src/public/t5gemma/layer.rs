//! One layer of the text encoder, over tokens `[L, D]`.

use std::ops::Range;

use candle_core::{Device, Tensor};
use gallop_kernels::{
    AttentionBlock, AttentionPlan, Precision, Segments, attention, gelu_tanh, linear, rms_norm,
};

use super::config::T5GemmaConfig;
use crate::public::{error::Result, layers::stored, source::Checkpoint};

/// The cosines and sines `[L, 1, K/2]` of each token's place.
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    pub(super) fn new(tokens: usize, config: &T5GemmaConfig, device: &Device) -> Result<Self> {
        let half = config.head_dim / 2;
        let mut angles = Vec::with_capacity(tokens * half);
        for token in 0..tokens {
            for i in 0..half {
                let power = (2 * i) as f32 / config.head_dim as f32;
                let frequency = 1.0 / (config.rope_theta as f32).powf(power);
                angles.push(token as f32 * frequency);
            }
        }
        let angles = Tensor::from_vec(angles, (tokens, 1, half), &Device::Cpu)?;
        Ok(Self {
            cos: angles.cos()?.to_device(device)?,
            sin: angles.sin()?.to_device(device)?,
        })
    }

    /// Turns `x` `[L, N, K]`, each first-half number with its partner of the second half.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(2)? / 2;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let turned_a = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let turned_b = (b.broadcast_mul(&self.cos)? + a.broadcast_mul(&self.sin)?)?;
        Ok(Tensor::cat(&[turned_a, turned_b], 2)?)
    }
}

/// Which tokens see which: `valid` are the runs of tokens that count, `window` how far one sees.
pub(super) fn plan(
    tokens: usize,
    valid: &[Range<usize>],
    window: Option<usize>,
    config: &T5GemmaConfig,
) -> AttentionPlan {
    let whole = |reach: usize| reach >= tokens;
    let blocks = match window {
        Some(reach) if !whole(reach) => (0..tokens)
            .map(|token| {
                let near = (token + 1).saturating_sub(reach)..token + reach;
                let cut = |run: &Range<usize>| run.start.max(near.start)..run.end.min(near.end);
                AttentionBlock {
                    q: token..token + 1,
                    k: valid
                        .iter()
                        .map(cut)
                        .filter(|run| !run.is_empty())
                        .collect(),
                    causal: false,
                }
            })
            // A query in no block gives zeros: padding far from all that counts.
            .filter(|block| !block.k.is_empty())
            .collect(),
        _ => vec![AttentionBlock {
            q: 0..tokens,
            k: valid.to_vec(),
            causal: false,
        }],
    };
    AttentionPlan {
        blocks,
        scale: 1.0 / config.query_pre_attn_scalar.sqrt(),
        softcap: config.attn_logit_softcapping,
    }
}

/// The weights of one layer.
pub(super) struct Layer {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    /// Before and after attention, before and after the gated layers.
    norms: [Tensor; 4],
    precision: Precision,
}

impl Layer {
    pub(super) fn load(
        weights: &Checkpoint,
        config: &T5GemmaConfig,
        precision: Precision,
    ) -> Result<Self> {
        let (d, hidden) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let matrix = |name: &str, rows, columns| {
            let weight = weights.matrix(&format!("{name}.weight"), &[rows, columns])?;
            stored(&weight, precision)
        };
        let norm = |name: &str| weights.f32_of(&format!("{name}_layernorm.weight"), &[d]);
        Ok(Self {
            queries: matrix("self_attn.q_proj", q, d)?,
            keys: matrix("self_attn.k_proj", kv, d)?,
            values: matrix("self_attn.v_proj", kv, d)?,
            out: matrix("self_attn.o_proj", d, q)?,
            gate: matrix("mlp.gate_proj", hidden, d)?,
            up: matrix("mlp.up_proj", hidden, d)?,
            down: matrix("mlp.down_proj", d, hidden)?,
            norms: [
                norm("pre_self_attn")?,
                norm("post_self_attn")?,
                norm("pre_feedforward")?,
                norm("post_feedforward")?,
            ],
            precision,
        })
    }

    /// `x` `[L, D]` to the same shape.
    pub(super) fn apply(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        plan: &AttentionPlan,
        config: &T5GemmaConfig,
    ) -> Result<Tensor> {
        let norm = |x: &Tensor, i: usize| {
            let all = Segments::single(x.dim(0)?);
            rms_norm(x, &self.norms[i], &all, config.rms_norm_eps)
        };
        let heads = |x: Tensor| x.reshape((x.dim(0)?, (), config.head_dim));
        let y = norm(x, 0)?;
        let queries = rotation.apply(&heads(self.product(&y, &self.queries)?)?)?;
        let keys = rotation.apply(&heads(self.product(&y, &self.keys)?)?)?;
        let values = heads(self.product(&y, &self.values)?)?;
        let y = attention(&queries, &keys, &values, plan, self.precision)?;
        let y = self.product(&y.flatten_from(1)?, &self.out)?;
        let x = (x + norm(&y, 1)?)?;
        let y = norm(&x, 2)?;
        let gate = gelu_tanh(&self.product(&y, &self.gate)?)?;
        let y = self.product(&(gate * self.product(&y, &self.up)?)?, &self.down)?;
        Ok((x + norm(&y, 3)?)?)
    }

    fn product(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let all = Segments::single(x.dim(0)?);
        Ok(linear(x, weight, None, &all, self.precision)?)
    }
}
