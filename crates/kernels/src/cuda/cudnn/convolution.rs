//! Convolutions as cuDNN's operations: channels last, inputs in bf16, sums and results in f32.

use candle_core::Result;

use super::backend::{Api, BF16, Descriptor, F32, kind, name, of};
use super::plan::{Graph, Tensor};
use crate::conv::geometry::{Dim, Geometry};
use crate::conv::{ConvSpec, Padding};

/// Numbers of the tensors: what is convolved, the weights, the result and the bias; of the gradients, those they are of.
pub const INPUT: i64 = 1;
pub const FILTER: i64 = 2;
pub const OUTPUT: i64 = 3;
pub const BIAS: i64 = 4;
/// The result before the bias is added, which is never in memory.
const SUMS: i64 = 5;
/// Kernels are not turned round, and the pointwise operation that adds.
const NOT_FLIPPED: i32 = 1;
const ADD: i32 = 0;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The output.
    Forward {
        /// Whether a bias is added.
        bias: bool,
    },
    /// The gradient of the input.
    Data,
    /// The gradient of the weights.
    Filter,
}

/// A convolution over zeros outside, or one of its gradients: input `[B, 3 sizes, Cin]`, weights
/// `[Cout, 3 sizes, Cin / groups]`, output `[B, 3 sizes, Cout]`. What is read is bf16, what is computed and the bias
/// are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    pass: Pass,
    batch: usize,
    dims: [Dim; 3],
    /// Input and output channels.
    channels: [usize; 2],
    groups: usize,
}

/// `[images, channels, 3 sizes]` and the strides of channels-last memory.
fn channels_last(images: usize, channels: usize, sizes: [usize; 3]) -> [[i64; 5]; 2] {
    let [a, b, c] = sizes.map(|n| n as i64);
    let (images, channels) = (images as i64, channels as i64);
    let row = c * channels;
    [
        [images, channels, a, b, c],
        [a * b * row, 1, b * row, row, channels],
    ]
}

impl Convolution {
    /// What [`crate::conv`] computes for tensors of these sizes; borders that repeat belong to the input then.
    ///
    /// # Errors
    /// If the sizes do not agree.
    pub fn new(x: &[usize], w: &[usize], spec: &ConvSpec, pass: Pass) -> Result<Self> {
        Ok(Self::of(&Geometry::new(x, w, spec)?, pass))
    }

    pub(crate) fn of(g: &Geometry, pass: Pass) -> Self {
        let dims = g.dims.map(|d| match g.mode {
            Padding::Zero => d,
            Padding::Replicate => Dim {
                input: d.padded(),
                padding: (0, 0),
                ..d
            },
        });
        Self {
            pass,
            batch: g.batch,
            dims,
            channels: [g.input, g.output],
            groups: g.groups,
        }
    }

    /// The graph of one operation, or of two where there is a bias.
    pub fn graph(&self, api: &Api) -> Result<Graph> {
        let mut graph = Graph::default();
        let [inputs, outputs] = self.channels;
        let biased = self.pass == Pass::Forward { bias: true };
        let numbers = |found| if found { F32 } else { BF16 };
        let result = channels_last(self.batch, outputs, self.dims.map(|d| d.output));
        let tensors = [
            (
                FILTER,
                numbers(self.pass == Pass::Filter),
                channels_last(outputs, inputs / self.groups, self.dims.map(|d| d.taps)),
            ),
            (
                INPUT,
                numbers(self.pass == Pass::Data),
                channels_last(self.batch, inputs, self.dims.map(|d| d.input)),
            ),
            (
                if biased { SUMS } else { OUTPUT },
                numbers(matches!(self.pass, Pass::Forward { .. })),
                result,
            ),
        ];
        let (computes, first) = match self.pass {
            Pass::Forward { .. } => (kind::CONVOLVE, name::CONVOLVE_FIRST),
            Pass::Data => (kind::CONVOLVE_DATA, name::CONVOLVE_DATA_FIRST),
            Pass::Filter => (kind::CONVOLVE_FILTER, name::CONVOLVE_FILTER_FIRST),
        };
        let operation = Descriptor::new(api, computes)?;
        for (name, factor) in [(first, 1f32), (first + 1, 0.0)] {
            operation.set(api, name, of::FLOAT, &[factor])?;
        }
        let windows = graph.keep(self.windows(api)?)?;
        operation.set_one(api, first + 2, windows)?;
        let addition = match biased {
            true => Some(self.addition(api, &mut graph)?),
            false => None,
        };
        for (name, (id, numbers, [sizes, strides])) in (first + 3..).zip(tensors) {
            let mut tensor = Tensor::new(id, numbers, &sizes, &strides);
            tensor.between = id == SUMS;
            let described = graph.tensor(api, &tensor)?;
            operation.set_one(api, name, described)?;
            if let (SUMS, Some(addition)) = (id, &addition) {
                addition.set_one(api, name::POINTWISE_INPUT, described)?;
            }
        }
        graph
            .operations
            .push(operation.finish(api, "a convolution")?);
        if let Some(addition) = addition {
            let tensors = [
                (
                    name::POINTWISE_SECOND,
                    BIAS,
                    channels_last(1, outputs, [1; 3]),
                ),
                (name::POINTWISE_OUTPUT, OUTPUT, result),
            ];
            for (name, id, [sizes, strides]) in tensors {
                let tensor = graph.tensor(api, &Tensor::new(id, F32, &sizes, &strides))?;
                addition.set_one(api, name, tensor)?;
            }
            graph.operations.push(addition.finish(api, "a bias")?);
        }
        Ok(graph)
    }

    fn windows(&self, api: &Api) -> Result<Descriptor> {
        let windows = Descriptor::new(api, kind::CONVOLUTION)?;
        let lists = [
            (
                name::CONVOLUTION_BEFORE,
                self.dims.map(|d| d.padding.0 as i64),
            ),
            (
                name::CONVOLUTION_AFTER,
                self.dims.map(|d| d.padding.1 as i64),
            ),
            (
                name::CONVOLUTION_DILATION,
                self.dims.map(|d| d.dilation as i64),
            ),
            (name::CONVOLUTION_STRIDE, self.dims.map(|d| d.stride as i64)),
        ];
        let dimensions = self.dims.len() as i64;
        windows.set(api, name::CONVOLUTION_DIMENSIONS, of::INT64, &[dimensions])?;
        windows.set(api, name::CONVOLUTION_TYPE, of::NUMBERS, &[F32])?;
        windows.set(
            api,
            name::CONVOLUTION_MODE,
            of::CONVOLUTION_MODE,
            &[NOT_FLIPPED],
        )?;
        for (name, values) in lists {
            windows.set(api, name, of::INT64, &values)?;
        }
        windows.finish(api, "the windows of a convolution")
    }

    /// The addition of the bias, without its tensors.
    fn addition(&self, api: &Api, graph: &mut Graph) -> Result<Descriptor> {
        let addition = Descriptor::new(api, kind::POINTWISE)?;
        addition.set(api, name::POINTWISE_MODE, of::POINTWISE_MODE, &[ADD])?;
        addition.set(api, name::POINTWISE_TYPE, of::NUMBERS, &[F32])?;
        let addition = graph.keep(addition.finish(api, "an addition")?)?;
        let operation = Descriptor::new(api, kind::COMPUTE_POINTWISE)?;
        operation.set_one(api, name::COMPUTE_POINTWISE, addition)?;
        Ok(operation)
    }
}
