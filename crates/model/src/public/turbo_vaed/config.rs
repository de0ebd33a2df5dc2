//! The shape of a TurboVAED decoder, as its JSON file gives it.

use serde::Deserialize;

use super::blocks::frames_at_once;
use crate::{error::ModelError, public::error::Result};

/// Bytes of an activation, and of one that a convolution remembers.
const F32: u64 = 4;
const BF16: u64 = 2;

/// The decoder's configuration. Lists run from pixels to latents, as in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TurboConfig {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of the pictures.
    pub out_channels: usize,
    /// Channels of each block.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual layers of each block, then of the middle.
    pub decoder_layers_per_block: Vec<usize>,
    /// Which blocks enlarge.
    pub decoder_spatio_temporal_scaling: Vec<bool>,
    /// Which of those enlarge space alone.
    pub decoder_spatio_only: Vec<bool>,
    /// Which blocks, then the middle, use depthwise convolutions.
    pub decoder_is_dw_conv: Vec<bool>,
    /// Their side.
    pub decoder_dw_kernel_size: usize,
    /// Whether frames see only earlier ones; such decoders are not known here.
    pub decoder_causal: bool,
    /// Pixels of a patch, in each direction.
    pub patch_size: usize,
    /// Whether the last convolution gives patches (else one more enlarging convolution precedes it).
    pub use_unpatchify: bool,
    /// Guards the norm of shortcuts.
    pub resnet_norm_eps: f64,
    /// Latent frames of the first window.
    pub first_chunk_size: usize,
    /// Latent frames of each later window.
    pub step_size: usize,
    /// Frames that one latent frame stands for.
    pub temporal_compression_ratio: usize,
}

impl Default for TurboConfig {
    /// What the public code takes where its file is silent.
    fn default() -> Self {
        Self {
            latent_channels: 128,
            out_channels: 3,
            decoder_block_out_channels: vec![128, 256, 512, 512],
            decoder_layers_per_block: vec![4, 3, 3, 3, 4],
            decoder_spatio_temporal_scaling: vec![true, true, true, false],
            decoder_spatio_only: vec![false; 4],
            decoder_is_dw_conv: vec![false; 5],
            decoder_dw_kernel_size: 3,
            decoder_causal: false,
            patch_size: 4,
            use_unpatchify: false,
            resnet_norm_eps: 1e-6,
            first_chunk_size: 3,
            step_size: 5,
            temporal_compression_ratio: 4,
        }
    }
}

/// One block of the decoder, from latents to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockConfig {
    pub(super) out_channels: usize,
    pub(super) layers: usize,
    pub(super) depthwise: bool,
    pub(super) enlarge: Enlarge,
}

/// What a block enlarges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enlarge {
    Nothing,
    Space,
    SpaceAndTime,
}

impl TurboConfig {
    /// The public model's configuration file.
    pub const PUBLIC_JSON: &str = include_str!("public.json");

    /// The public model's configuration.
    pub fn public() -> Self {
        Self::parse(Self::PUBLIC_JSON).expect("the embedded configuration is known here")
    }

    /// From the JSON file's text.
    ///
    /// # Errors
    /// When it is no such configuration, or one that is not known here.
    pub fn parse(json: &str) -> Result<Self> {
        let fail = |what: String| ModelError::Config(format!("TurboVAED: {what}"));
        let config: Self = serde_json::from_str(json).map_err(|e| fail(e.to_string()))?;
        let blocks = config.decoder_block_out_channels.len();
        let lists = [
            (config.decoder_layers_per_block.len(), blocks + 1),
            (config.decoder_is_dw_conv.len(), blocks + 1),
            (config.decoder_spatio_temporal_scaling.len(), blocks),
            (config.decoder_spatio_only.len(), blocks),
        ];
        if blocks == 0 || lists.iter().any(|(found, needed)| found != needed) {
            return Err(fail(format!("lists that do not fit its {blocks} blocks")).into());
        }
        if config.decoder_causal || config.patch_size != 2 {
            return Err(fail("only decoders with patches of 2 that are not causal".into()).into());
        }
        if config.first_chunk_size == 0 || config.step_size == 0 {
            return Err(fail("windows without frames".into()).into());
        }
        Ok(config)
    }

    /// The blocks in the order in which they run.
    pub(super) fn blocks(&self) -> Vec<BlockConfig> {
        let block = |i: usize| BlockConfig {
            out_channels: self.decoder_block_out_channels[i],
            layers: self.decoder_layers_per_block[i],
            depthwise: self.decoder_is_dw_conv[i],
            enlarge: match (
                self.decoder_spatio_temporal_scaling[i],
                self.decoder_spatio_only[i],
            ) {
                (false, _) => Enlarge::Nothing,
                (true, true) => Enlarge::Space,
                (true, false) => Enlarge::SpaceAndTime,
            },
        };
        (0..self.decoder_block_out_channels.len())
            .rev()
            .map(block)
            .collect()
    }

    /// The middle, which runs first: it keeps its channels and size.
    pub(super) fn middle(&self) -> BlockConfig {
        let last = self.decoder_block_out_channels.len();
        BlockConfig {
            out_channels: self.decoder_block_out_channels[last - 1],
            layers: self.decoder_layers_per_block[last],
            depthwise: self.decoder_is_dw_conv[last],
            enlarge: Enlarge::Nothing,
        }
    }

    /// Bytes that frames take while latents of `h` x `w` are decoded, in products of bf16 and in runs of so many bytes.
    pub(in crate::public) fn working_bytes(&self, h: usize, w: usize, run_bytes: u64) -> u64 {
        let first = self.middle();
        let mut at = Walk {
            frames: self.step_size + 2,
            channels: first.out_channels as u64,
            pixels: (h * w) as u64,
            waiting: 0,
            remembered: 0,
            most: 0,
        };
        at.layers(at.frames, first);
        for block in self.blocks() {
            at.block(block, run_bytes);
        }
        at.remembered + at.most
    }
}

/// A way through the blocks that adds up bytes.
struct Walk {
    /// Frames that come out of the block before, at once.
    frames: usize,
    channels: u64,
    pixels: u64,
    /// Of frames that wait before this block.
    waiting: u64,
    /// Of frames that layers remember.
    remembered: u64,
    /// Of frames that wait, and pass through a block, at the most.
    most: u64,
}

impl Walk {
    fn block(&mut self, block: BlockConfig, run_bytes: u64) {
        let frames = frames_at_once(self.channels * self.pixels * F32, run_bytes).min(self.frames);
        let out = block.out_channels as u64;
        if self.channels != out {
            self.residual(frames, (self.channels, out));
        }
        let (times, areas) = match block.enlarge {
            Enlarge::Nothing => (1, 1),
            Enlarge::Space => (1, 4),
            Enlarge::SpaceAndTime => (2, 4),
        };
        (self.channels, self.frames) = (out, frames * times);
        self.pixels *= areas;
        if areas > 1 {
            // The frames, enlarged, and convolved.
            self.pass(self.frames, 3 * out);
        }
        self.layers(self.frames, block);
    }

    fn layers(&mut self, frames: usize, block: BlockConfig) {
        for _ in 0..block.layers {
            self.residual(frames, (self.channels, self.channels));
        }
        self.waiting += frames as u64 * self.channels * self.pixels * F32;
    }

    fn residual(&mut self, frames: usize, (from, to): (u64, u64)) {
        /// Frames that a convolution, and a shortcut, remember.
        const TWO: u64 = 2;
        self.remembered += TWO * self.pixels * ((from + to) * BF16 + to * F32);
        // The shortcut's, and three of: input, norm, activation, joined with those before, result.
        self.pass(frames + 2, 4 * from.max(to));
    }

    fn pass(&mut self, frames: usize, numbers: u64) {
        let passing = frames as u64 * numbers * self.pixels * F32;
        self.most = self.most.max(self.waiting + passing);
    }
}
