//! What the stages around the transformer hold in memory at their most, from shapes alone.
//!
//! Each is what a test measured, or more: a plan that is kept is worth more than one that is tight.

use candle_core::Device;

use super::{
    manifest::VideoWidths,
    oobleck::OobleckConfig,
    t5gemma::T5GemmaConfig,
    turbo_vaed::{TurboConfig, run_bytes},
};
use crate::memory::kernel_bytes;

/// Bytes of an activation.
const F32: u64 = 4;
/// Bytes of a number that is multiplied in bf16.
const BF16: u64 = 2;

/// What a stage holds at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageBytes {
    /// Weights.
    pub weights: u64,
    /// Everything else.
    pub activations: u64,
}

impl StageBytes {
    /// Bytes of all.
    pub fn total(&self) -> u64 {
        self.weights + self.activations
    }
}

/// The text encoder over texts of so many tokens, its products in bf16. It holds one layer at a time; `stored` is the
/// bytes that its files have for a number.
pub fn text_encoder(config: &T5GemmaConfig, texts: &[usize], stored: u64) -> StageBytes {
    let (d, hidden) = (config.hidden_size as u64, config.intermediate_size as u64);
    let queries = (config.num_attention_heads * config.head_dim) as u64;
    let keys = (config.num_key_value_heads * config.head_dim) as u64;
    let numbers = d * (2 * queries + 2 * keys + 3 * hidden);
    // A matrix is in memory as it is stored, and copied, while it becomes bf16.
    let making = d * hidden.max(queries) * if stored > BF16 { 2 * stored } else { stored };
    let longest = texts.iter().copied().max().unwrap_or(0) as u64;
    let all: usize = texts.iter().sum();
    let streams = all as u64 * F32 * (d + config.head_dim as u64);
    let inner = longest * F32 * (4 * hidden).max(4 * (queries + keys)) + longest * F32 * 2 * d;
    StageBytes {
        weights: numbers * BF16,
        activations: streams + making.max(inner + kernel_bytes()),
    }
}

/// The decoder of Wan2.2 for pictures of so many pixels; `weights` are its numbers. It goes by pictures; what each layer
/// remembers of the two before is most of what it holds.
pub fn video_decoder(widths: VideoWidths, pixels: usize, weights: u64) -> StageBytes {
    /// Bytes a pixel for each channel of the last stage.
    const A_CHANNEL: u64 = 30;
    StageBytes {
        weights: weights * BF16,
        activations: pixels as u64 * widths.decoder as u64 * A_CHANNEL + kernel_bytes(),
    }
}

/// The encoder of Wan2.2 for one picture of so many pixels.
pub fn video_encoder(widths: VideoWidths, pixels: usize, weights: u64) -> StageBytes {
    /// Bytes a pixel for each channel of the first stage.
    const A_CHANNEL: u64 = 16;
    StageBytes {
        weights: weights * BF16,
        activations: pixels as u64 * widths.encoder as u64 * A_CHANNEL + kernel_bytes(),
    }
}

/// The audio decoder for so many latents; `weights` are its numbers, which stay f32. The whole wave is there at once.
pub fn audio_decoder(config: &OobleckConfig, latents: usize, weights: u64) -> StageBytes {
    audio(config.decoder_widths().stages, config, latents, weights)
}

/// The audio encoder for a wave of so many latents.
pub fn audio_encoder(config: &OobleckConfig, latents: usize, weights: u64) -> StageBytes {
    audio(config.encoder_widths().stages, config, latents, weights)
}

fn audio(stages: Vec<usize>, config: &OobleckConfig, latents: usize, weights: u64) -> StageBytes {
    /// Waves of a stage that are there at once.
    const WAVES: u64 = 5;
    let mut samples = (latents * config.downsampling_ratio) as u64;
    let mut widest = 0;
    let strides = config.strides().into_iter().chain([1]);
    for (channels, stride) in stages.into_iter().zip(strides) {
        widest = widest.max(samples * channels as u64);
        samples /= stride as u64;
    }
    StageBytes {
        weights: weights * F32,
        activations: WAVES * widest * F32 + kernel_bytes(),
    }
}

/// The fast decoder on a device, for latents of so many rows and columns; `weights` are its numbers.
pub fn fast_decoder(
    config: &TurboConfig,
    (h, w): (usize, usize),
    (weights, device): (u64, &Device),
) -> StageBytes {
    StageBytes {
        weights: weights * BF16,
        activations: config.working_bytes(h, w, run_bytes(device)) + kernel_bytes(),
    }
}
