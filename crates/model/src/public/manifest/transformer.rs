//! The transformer's tensors.

use candle_core::DType;

use super::{Fill, List, TensorSpec};
use crate::dit::{DitConfig, LayerKind};

/// The tensors of a transformer that reads a text encoder's features.
pub fn transformer(config: &DitConfig) -> Vec<TensorSpec> {
    let mut list = List::new(DType::F32);
    let (d, video) = (config.width, config.video_token_channels());
    let bands = config.head_dim / 8;
    list.affine("adapter.audio_embedder", &[d, config.audio_channels]);
    if let Some(phases) = config.audio_phases() {
        list.weight("adapter.audio_phase.weight", &[phases, d]);
    }
    list.push("adapter.rope.bands", &[bands], Fill::Frequencies);
    list.affine("adapter.text_embedder", &[d, config.text.channels]);
    list.affine("adapter.video_embedder", &[d, video]);
    for (i, kind) in config.layers.iter().enumerate() {
        layer(&mut list, &format!("block.layers.{i}"), kind, config);
    }
    list.weight("final_linear_audio.weight", &[config.audio_channels, d]);
    list.weight("final_linear_video.weight", &[video, d]);
    list.push("final_norm_audio.weight", &[d], Fill::Zeros);
    list.push("final_norm_video.weight", &[d], Fill::Zeros);
    list.specs
}

fn layer(list: &mut List, name: &str, kind: &LayerKind, config: &DitConfig) {
    let (d, k) = (config.width, config.head_dim);
    let sets = if kind.per_modality { 3 } else { 1 };
    let (attention, mlp) = (format!("{name}.attention"), format!("{name}.mlp"));
    for (part, size) in [("k_norm", k), ("pre_norm", d), ("q_norm", k)] {
        list.push(
            format!("{attention}.{part}.weight"),
            &[sets * size],
            Fill::Zeros,
        );
    }
    list.push(format!("{mlp}.pre_norm.weight"), &[sets * d], Fill::Zeros);
    let attended = config.num_heads_q * k;
    let hidden = config.mlp_hidden(kind.mlp);
    list.dtype = DType::BF16;
    list.weight(
        format!("{attention}.linear_proj.weight"),
        &[sets * d, attended],
    );
    list.weight(
        format!("{attention}.linear_qkv.weight"),
        &[sets * config.qkv_rows(), d],
    );
    list.weight(format!("{mlp}.down_proj.weight"), &[sets * d, hidden]);
    list.weight(
        format!("{mlp}.up_gate_proj.weight"),
        &[sets * config.mlp_rows(kind.mlp), d],
    );
    list.dtype = DType::F32;
}
