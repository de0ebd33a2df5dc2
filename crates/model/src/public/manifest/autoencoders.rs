//! The autoencoders' tensors.

use candle_core::DType;

use super::{Fill, List, TensorSpec};
use crate::public::{oobleck::OobleckConfig, turbo_vaed::TurboConfig};

/// Widths of the video autoencoder's stages, from pixels to latents, as multiples of the first.
const MULTIPLES: [usize; 4] = [1, 2, 4, 4];
/// Which of the first three stages halve the frame rate.
const HALVES_TIME: [bool; 3] = [false, true, true];
/// Numbers of a patch of 2x2 pixels.
const PATCH_CHANNELS: usize = 12;

/// The widths of a video autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoWidths {
    /// Of the encoder's first stage.
    pub encoder: usize,
    /// Of the decoder's last stage.
    pub decoder: usize,
    /// Residual blocks of an encoder's stage; a decoder's has one more.
    pub blocks: usize,
    /// Channels of the latents.
    pub latents: usize,
}

impl VideoWidths {
    /// The public model's.
    pub const PUBLIC: Self = Self {
        encoder: 160,
        decoder: 256,
        blocks: 2,
        latents: 48,
    };
}

/// The tensors of the video autoencoder.
pub fn video_autoencoder(widths: VideoWidths) -> Vec<TensorSpec> {
    let mut list = List::new(DType::F32);
    let z = widths.latents;
    video_encoder(&mut list, widths);
    list.affine("conv1", &[2 * z, 2 * z, 1, 1, 1]);
    list.affine("conv2", &[z, z, 1, 1, 1]);
    video_decoder(&mut list, widths);
    list.specs
}

fn video_encoder(list: &mut List, widths: VideoWidths) {
    let stages = MULTIPLES.map(|m| m * widths.encoder);
    list.affine("encoder.conv1", &[stages[0], PATCH_CHANNELS, 3, 3, 3]);
    let mut inputs = stages[0];
    for (i, &outputs) in stages.iter().enumerate() {
        let stage = format!("encoder.downsamples.{i}.downsamples");
        residuals(list, &stage, (inputs, outputs), widths.blocks);
        if let Some(&halves) = HALVES_TIME.get(i) {
            let taps = halves.then_some([outputs, outputs, 3, 1, 1]);
            resample(list, &format!("{stage}.{}", widths.blocks), outputs, taps);
        }
        inputs = outputs;
    }
    middle(list, "encoder.middle", inputs);
    head(list, "encoder.head", inputs, 2 * widths.latents);
}

fn video_decoder(list: &mut List, widths: VideoWidths) {
    let mut stages = MULTIPLES.map(|m| m * widths.decoder);
    stages.reverse();
    let mut inputs = stages[0];
    list.affine("decoder.conv1", &[inputs, widths.latents, 3, 3, 3]);
    middle(list, "decoder.middle", inputs);
    for (i, &outputs) in stages.iter().enumerate() {
        let stage = format!("decoder.upsamples.{i}.upsamples");
        residuals(list, &stage, (inputs, outputs), widths.blocks + 1);
        if let Some(&doubles) = HALVES_TIME.iter().rev().nth(i) {
            let taps = doubles.then_some([2 * outputs, outputs, 3, 1, 1]);
            resample(
                list,
                &format!("{stage}.{}", widths.blocks + 1),
                outputs,
                taps,
            );
        }
        inputs = outputs;
    }
    head(list, "decoder.head", inputs, PATCH_CHANNELS);
}

fn residuals(list: &mut List, stage: &str, channels: (usize, usize), count: usize) {
    for i in 0..count {
        let inputs = if i == 0 { channels.0 } else { channels.1 };
        residual(list, &format!("{stage}.{i}"), inputs, channels.1);
    }
}

fn residual(list: &mut List, name: &str, inputs: usize, outputs: usize) {
    list.push(
        format!("{name}.residual.0.gamma"),
        &[inputs, 1, 1, 1],
        Fill::Ones,
    );
    list.affine(&format!("{name}.residual.2"), &[outputs, inputs, 3, 3, 3]);
    list.push(
        format!("{name}.residual.3.gamma"),
        &[outputs, 1, 1, 1],
        Fill::Ones,
    );
    list.affine(&format!("{name}.residual.6"), &[outputs, outputs, 3, 3, 3]);
    if inputs != outputs {
        list.affine(&format!("{name}.shortcut"), &[outputs, inputs, 1, 1, 1]);
    }
}

fn resample(list: &mut List, name: &str, channels: usize, time: Option<[usize; 5]>) {
    list.affine(&format!("{name}.resample.1"), &[channels, channels, 3, 3]);
    if let Some(shape) = time {
        list.affine(&format!("{name}.time_conv"), &shape);
    }
}

fn middle(list: &mut List, name: &str, channels: usize) {
    residual(list, &format!("{name}.0"), channels, channels);
    list.push(
        format!("{name}.1.norm.gamma"),
        &[channels, 1, 1],
        Fill::Ones,
    );
    list.affine(&format!("{name}.1.to_qkv"), &[3 * channels, channels, 1, 1]);
    list.affine(&format!("{name}.1.proj"), &[channels, channels, 1, 1]);
    residual(list, &format!("{name}.2"), channels, channels);
}

fn head(list: &mut List, name: &str, inputs: usize, outputs: usize) {
    list.push(format!("{name}.0.gamma"), &[inputs, 1, 1, 1], Fill::Ones);
    list.affine(&format!("{name}.2"), &[outputs, inputs, 3, 3, 3]);
}

/// The tensors of the fast video decoder, under the decoder's own names.
pub fn fast_decoder(config: &TurboConfig) -> Vec<TensorSpec> {
    let mut list = List::new(DType::F32);
    let fast = Fast { config };
    fast.conv(
        &mut list,
        "decoder.conv_in",
        [config.latent_channels, fast.middle(), 3],
        false,
    );
    let middle = config.decoder_layers_per_block.len() - 1;
    for i in 0..config.decoder_layers_per_block[middle] {
        let name = format!("decoder.mid_block.resnets.{i}");
        fast.residual(&mut list, &name, (fast.middle(), fast.middle()), middle);
    }
    let mut channels = fast.middle();
    for (i, at) in (0..middle).rev().enumerate() {
        fast.block(&mut list, &format!("decoder.up_blocks.{i}"), channels, at);
        channels = config.decoder_block_out_channels[at];
    }
    let patch = config.patch_size * config.patch_size;
    let mut outputs = config.out_channels * patch;
    if !config.use_unpatchify {
        list.affine("decoder.upsampler2d_1.conv", &[channels, channels, 3, 3]);
        channels /= patch;
        outputs = config.out_channels;
    }
    fast.conv(&mut list, "decoder.conv_out", [channels, outputs, 3], false);
    list.specs
}

struct Fast<'a> {
    config: &'a TurboConfig,
}

impl Fast<'_> {
    fn middle(&self) -> usize {
        *self.config.decoder_block_out_channels.last().unwrap_or(&0)
    }

    /// `[inputs, outputs, side]`
    fn conv(&self, list: &mut List, name: &str, size: [usize; 3], depthwise: bool) {
        let [inputs, outputs, side] = size;
        if depthwise {
            list.affine(
                &format!("{name}.depthwise_conv"),
                &[inputs, 1, side, side, side],
            );
            list.affine(
                &format!("{name}.pointwise_conv"),
                &[outputs, inputs, 1, 1, 1],
            );
        } else {
            list.affine(
                &format!("{name}.conv"),
                &[outputs, inputs, side, side, side],
            );
        }
    }

    fn residual(&self, list: &mut List, name: &str, channels: (usize, usize), at: usize) {
        let (inputs, outputs) = channels;
        let depthwise = self.config.decoder_is_dw_conv[at];
        let side = if depthwise {
            self.config.decoder_dw_kernel_size
        } else {
            3
        };
        self.conv(
            list,
            &format!("{name}.conv1"),
            [inputs, outputs, side],
            depthwise,
        );
        self.conv(
            list,
            &format!("{name}.conv2"),
            [outputs, outputs, side],
            depthwise,
        );
        if inputs != outputs {
            self.conv(
                list,
                &format!("{name}.conv_shortcut"),
                [inputs, outputs, 1],
                depthwise,
            );
        }
    }

    fn block(&self, list: &mut List, name: &str, inputs: usize, at: usize) {
        let outputs = self.config.decoder_block_out_channels[at];
        if inputs != outputs {
            self.residual(list, &format!("{name}.conv_in"), (inputs, outputs), at);
        }
        if self.config.decoder_spatio_temporal_scaling[at] {
            let doubling = format!("{name}.upsamplers.0");
            list.affine(&format!("{doubling}.resample.1"), &[outputs, outputs, 3, 3]);
            if !self.config.decoder_spatio_only[at] {
                list.affine(
                    &format!("{doubling}.time_conv.conv"),
                    &[2 * outputs, outputs, 3, 1, 1],
                );
            }
        }
        for i in 0..self.config.decoder_layers_per_block[at] {
            self.residual(list, &format!("{name}.resnets.{i}"), (outputs, outputs), at);
        }
    }
}

/// The tensors of the audio autoencoder, without the prefix that they have in its file.
pub fn audio_autoencoder(config: &OobleckConfig) -> Vec<TensorSpec> {
    let mut list = List::new(DType::F32);
    let (encoder, decoder) = (config.encoder_widths(), config.decoder_widths());
    audio_encoder(&mut list, &encoder);
    audio_decoder(&mut list, &decoder);
    list.specs
}

/// The sizes of one half of the audio autoencoder.
pub(in crate::public) struct AudioWidths {
    /// Channels before the first stage and after each, from the wave's side.
    pub(in crate::public) stages: Vec<usize>,
    pub(in crate::public) strides: Vec<usize>,
    pub(in crate::public) wave: usize,
    pub(in crate::public) latents: usize,
}

fn audio_encoder(list: &mut List, widths: &AudioWidths) {
    let layers = "encoder.layers";
    audio_conv(
        list,
        &format!("{layers}.0"),
        [widths.stages[0], widths.wave, 7],
        true,
    );
    for (i, &stride) in widths.strides.iter().enumerate() {
        let (inputs, outputs) = (widths.stages[i], widths.stages[i + 1]);
        let block = format!("{layers}.{}.layers", i + 1);
        for unit in 0..3 {
            audio_unit(list, &format!("{block}.{unit}.layers"), inputs);
        }
        snake(list, &format!("{block}.3"), inputs);
        audio_conv(
            list,
            &format!("{block}.4"),
            [outputs, inputs, 2 * stride],
            true,
        );
    }
    let (last, end) = (
        widths.stages[widths.strides.len()],
        widths.strides.len() + 1,
    );
    snake(list, &format!("{layers}.{end}"), last);
    audio_conv(
        list,
        &format!("{layers}.{}", end + 1),
        [widths.latents, last, 3],
        true,
    );
}

fn audio_decoder(list: &mut List, widths: &AudioWidths) {
    let layers = "decoder.layers";
    let count = widths.strides.len();
    audio_conv(
        list,
        &format!("{layers}.0"),
        [widths.stages[count], widths.latents, 7],
        true,
    );
    for (i, stage) in (0..count).rev().enumerate() {
        let (inputs, outputs) = (widths.stages[stage + 1], widths.stages[stage]);
        let block = format!("{layers}.{}.layers", i + 1);
        snake(list, &format!("{block}.0"), inputs);
        transposed(
            list,
            &format!("{block}.1"),
            [inputs, outputs, 2 * widths.strides[stage]],
        );
        for unit in 0..3 {
            audio_unit(list, &format!("{block}.{}.layers", unit + 2), outputs);
        }
    }
    snake(list, &format!("{layers}.{}", count + 1), widths.stages[0]);
    let output = format!("{layers}.{}", count + 2);
    audio_conv(list, &output, [widths.wave, widths.stages[0], 7], false);
}

fn audio_unit(list: &mut List, name: &str, channels: usize) {
    snake(list, &format!("{name}.0"), channels);
    audio_conv(list, &format!("{name}.1"), [channels, channels, 7], true);
    snake(list, &format!("{name}.2"), channels);
    audio_conv(list, &format!("{name}.3"), [channels, channels, 1], true);
}

fn snake(list: &mut List, name: &str, channels: usize) {
    list.push(format!("{name}.alpha"), &[channels], Fill::Zeros);
    list.push(format!("{name}.beta"), &[channels], Fill::Zeros);
}

/// Directions, lengths, and `bias`: with these fills, directions have a length of about 1.
fn audio_conv(list: &mut List, name: &str, shape: [usize; 3], bias: bool) {
    list.push(format!("{name}.weight_g"), &[shape[0], 1, 1], Fill::Ones);
    list.weight(format!("{name}.weight_v"), &shape);
    if bias {
        list.push(format!("{name}.bias"), &shape[..1], Fill::Zeros);
    }
}

/// As [`audio_conv`], the other way round: the rows are inputs.
fn transposed(list: &mut List, name: &str, shape: [usize; 3]) {
    audio_conv(list, name, shape, false);
    list.push(format!("{name}.bias"), &shape[1..2], Fill::Zeros);
}
