//! The text encoder's tensors.

use candle_core::DType;

use super::{Fill, List, TensorSpec};
use crate::public::t5gemma::T5GemmaConfig;

/// The tensors of a T5Gemma encoder under `model.encoder`.
pub fn text_encoder(config: &T5GemmaConfig) -> Vec<TensorSpec> {
    let mut list = List::new(DType::BF16);
    let (d, hidden) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let root = "model.encoder";
    let table = format!("{root}.embed_tokens.weight");
    // Rows are scaled by the root of the width when they are used.
    list.push(
        table,
        &[config.vocab_size, d],
        Fill::Normal(1.0 / (d as f32).sqrt()),
    );
    for i in 0..config.num_hidden_layers {
        let layer = format!("{root}.layers.{i}");
        for (part, rows, columns) in [
            ("self_attn.q_proj", queries, d),
            ("self_attn.k_proj", keys, d),
            ("self_attn.v_proj", keys, d),
            ("self_attn.o_proj", d, queries),
            ("mlp.gate_proj", hidden, d),
            ("mlp.up_proj", hidden, d),
            ("mlp.down_proj", d, hidden),
        ] {
            list.weight(format!("{layer}.{part}.weight"), &[rows, columns]);
        }
        for part in [
            "pre_self_attn",
            "post_self_attn",
            "pre_feedforward",
            "post_feedforward",
        ] {
            list.push(
                format!("{layer}.{part}_layernorm.weight"),
                &[d],
                Fill::Zeros,
            );
        }
    }
    list.push(format!("{root}.norm.weight"), &[d], Fill::Zeros);
    list.specs
}
