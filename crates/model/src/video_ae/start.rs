//! Where training of the video autoencoder begins: as a block cosine transform.
//!
//! From random weights the first thousand steps go into finding out that flat areas are flat. With
//! these weights and silent residual blocks, the latents are the lowest frequencies of a block of
//! 4x16x16 pixels, and the decoder is the transform's inverse: training only has to improve on that.

use candle_core::Tensor;

use super::VideoAeConfig;
use super::pixels::{GROUP, PATCH_IN, PATCH_OUT};
use crate::{ModelError, Result, Vars};

/// Pixels come in divided by this and leave multiplied: the residual blocks add numbers about 1 to the
/// stream, which then must not be large changes of the picture.
const QUIET: f32 = 2.0;
/// The stream at stride 4 is pixels times this, for the same reason.
const LOUD: f32 = 4.0;
/// What a step in a colour difference, or along time, counts against one along height or width.
const COLOUR_COST: f32 = 3.0;
const TIME_COST: f32 = 2.0;
/// About the standard deviation of the lowest frequency, and how fast it falls with the cost.
const LOWEST: f32 = 20.0;
const FALL: f32 = 1.5;
/// Brightness and two differences of colour; orthonormal.
const COLOURS: [[f32; 3]; 3] = [
    [0.577_350_26, 0.577_350_26, 0.577_350_26],
    [0.707_106_77, 0.0, -0.707_106_77],
    [0.408_248_3, -0.816_496_6, 0.408_248_3],
];

/// One frequency of an 8x8 patch of four frames.
#[derive(Clone, Copy)]
struct Frequency {
    colour: usize,
    time: usize,
    row: usize,
    column: usize,
}

impl Frequency {
    /// The transform's value at a pixel.
    fn at(&self, [time, row, column, rgb]: [usize; 4]) -> f32 {
        cosine(self.time, time, GROUP)
            * cosine(self.row, row, PATCH_IN)
            * cosine(self.column, column, PATCH_IN)
            * COLOURS[self.colour][rgb]
    }

    /// How high it is, in a block of which this patch is a half with these signs.
    fn cost(&self, [half_row, half_column]: [usize; 2]) -> f32 {
        let row = (2 * self.row + half_row) as f32;
        let column = (2 * self.column + half_column) as f32;
        let time = TIME_COST * self.time as f32;
        let colour = if self.colour == 0 { 1.0 } else { COLOUR_COST };
        // The plain sum favours what is low along every axis, as pictures do.
        colour * (1.0 + row + column + time) - 1.0
    }
}

/// Value at `i` of the orthonormal cosine of frequency `k` over `n` positions.
fn cosine(k: usize, i: usize, n: usize) -> f32 {
    let scale = if k == 0 { 1.0 } else { 2.0 } / n as f32;
    let phase = std::f32::consts::PI * (i as f32 + 0.5) * k as f32 / n as f32;
    scale.sqrt() * phase.cos()
}

/// Sum or difference of two halves.
fn half(sign: usize, at: usize) -> f32 {
    if sign == 1 && at == 1 {
        -0.5f32.sqrt()
    } else {
        0.5f32.sqrt()
    }
}

/// Sets untrained weights to the transform.
///
/// # Errors
/// If the widths cannot hold it, or the weights are not those of this configuration.
pub fn start_as_transform(config: &VideoAeConfig, vars: &Vars) -> Result<()> {
    let [w16, w8, w4] = config.widths;
    if w4 != PATCH_OUT * PATCH_OUT * 3 || w16 < config.latent_channels || w16 > 4 * w8 {
        let why = format!("widths {:?} cannot hold a cosine transform", config.widths);
        return Err(ModelError::Config(why));
    }
    let low = lowest(w8);
    let blocks = lowest_blocks(&low, w16);
    let set = |name: &str, f: &dyn Fn(usize, usize) -> f32| fill(vars, name, f);
    let patch = PATCH_IN * PATCH_IN * 3;
    set("encoder.embed", &|out, input| {
        let at = [
            input / patch,
            input % patch / (PATCH_IN * 3),
            input / 3 % PATCH_IN,
            input % 3,
        ];
        low[out].at(at) / QUIET
    })?;
    let fold = |block: usize, input: usize| {
        let (index, signs) = blocks[block];
        let (row, column) = (input / (2 * w8), input / w8 % 2);
        if input % w8 != index {
            return 0.0;
        }
        half(signs[0], row) * half(signs[1], column)
    };
    set("encoder.down", &fold)?;
    set("decoder.up", &|out, input| fold(input, out))?;
    let spread = |k: usize| {
        let (index, signs) = blocks[k];
        LOWEST / (1.0 + FALL * low[index].cost(signs)) / QUIET
    };
    let same = |a: usize, b: usize| f32::from(u8::from(a == b));
    set("encoder.head", &|out, input| same(out, input) / spread(out))?;
    set("decoder.embed", &|out, input| {
        same(out, input) * spread(input)
    })?;
    set("decoder.unfold", &|out, input| {
        let (time, quarter, within) = (out / (4 * w4), out / w4 % 4, out % w4);
        let row = quarter / 2 * PATCH_OUT + within / (PATCH_OUT * 3);
        let column = quarter % 2 * PATCH_OUT + within / 3 % PATCH_OUT;
        low[input].at([time, row, column, within % 3]) * QUIET * LOUD
    })?;
    set("decoder.head", &|out, input| same(out, input) / LOUD)?;
    silence_blocks(vars)
}

/// The `count` lowest frequencies of a patch.
fn lowest(count: usize) -> Vec<Frequency> {
    let mut all = Vec::new();
    for colour in 0..3 {
        for time in 0..GROUP {
            for row in 0..PATCH_IN {
                all.extend((0..PATCH_IN).map(|column| Frequency {
                    colour,
                    time,
                    row,
                    column,
                }));
            }
        }
    }
    all.sort_by(|a, b| a.cost([0, 0]).total_cmp(&b.cost([0, 0])));
    all.truncate(count);
    all
}

/// The `count` lowest frequencies of a block of 2x2 patches: an index into `low`, and whether upper
/// and lower, left and right patches differ in sign.
fn lowest_blocks(low: &[Frequency], count: usize) -> Vec<(usize, [usize; 2])> {
    let signs = [[0, 0], [0, 1], [1, 0], [1, 1]];
    let mut all: Vec<(usize, [usize; 2])> = (0..low.len())
        .flat_map(|index| signs.map(|signs| (index, signs)))
        .collect();
    let cost = |(index, signs): &(usize, [usize; 2])| low[*index].cost(*signs);
    all.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    all.truncate(count);
    all
}

/// Sets the matrix of a layer: `f(output, input)`.
fn fill(vars: &Vars, layer: &str, f: &dyn Fn(usize, usize) -> f32) -> Result<()> {
    let name = format!("{layer}.weight");
    let var = vars.get(&name).ok_or(ModelError::Missing(name))?;
    let (outputs, inputs) = var.dims2()?;
    let values: Vec<f32> = (0..outputs)
        .flat_map(|out| (0..inputs).map(move |input| (out, input)))
        .map(|(out, input)| f(out, input))
        .collect();
    Ok(var.set(&Tensor::from_vec(values, (outputs, inputs), var.device())?)?)
}

/// The residual blocks add nothing at first.
fn silence_blocks(vars: &Vars) -> Result<()> {
    for (name, var) in vars.all() {
        if name.ends_with("second.weight") {
            var.set(&var.zeros_like()?)?;
        }
    }
    Ok(())
}
