//! The few layers that both autoencoders are made of.

use candle_core::{DType, Tensor};
use gallop_kernels::{ConvSpec, Precision, Segments};

use crate::{Init, Result, Weights};

/// Added to the mean square in every norm.
const NORM_EPS: f64 = 1e-6;

/// A matrix and a bias over the last dimension.
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// `gain` scales the usual `1/sqrt(inputs)`; 0 makes a layer that adds nothing at first.
    pub(crate) fn new(weights: &Weights, [inputs, outputs]: [usize; 2], gain: f64) -> Result<Self> {
        let init = Init::Normal(gain / (inputs as f64).sqrt());
        Ok(Self {
            weight: weights.get((outputs, inputs), "weight", init)?,
            bias: weights.get_f32(outputs, "bias", Init::Zeros)?,
        })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub(crate) fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut dims = x.dims().to_vec();
        let rows = x.elem_count() / inputs;
        let y = gallop_kernels::linear(
            &x.reshape((rows, inputs))?,
            &self.weight,
            Some(&self.bias),
            &Segments::single(rows),
            precision,
        )?;
        *dims.last_mut().expect("a tensor of activations has a rank") = outputs;
        Ok(y.reshape(dims)?)
    }
}

/// RMSNorm over the last dimension.
pub(crate) struct Norm {
    weight: Tensor,
}

impl Norm {
    pub(crate) fn new(weights: &Weights, width: usize) -> Result<Self> {
        // The kernel multiplies by weight + 1.
        let weight = weights.get_f32(width, "weight", Init::Zeros)?;
        Ok(Self { weight })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.dim(0)?;
        let rows = x.elem_count() / width;
        let flat = x.reshape((rows, width))?;
        let segments = Segments::single(rows);
        let y = gallop_kernels::rms_norm(&flat, &self.weight, &segments, NORM_EPS)?;
        Ok(y.reshape(x.dims())?)
    }
}

/// What one convolution of the autoencoders is.
#[derive(Clone, Copy)]
pub(crate) struct ConvShape<'a> {
    /// Channels in and out.
    pub channels: [usize; 2],
    /// Taps a dimension; all odd but for causal ones.
    pub taps: &'a [usize],
    /// 1, or the channel count for a depthwise one.
    pub groups: usize,
    /// Scales the usual initial size.
    pub gain: f64,
}

/// A convolution that keeps the size, channels last.
pub(crate) struct Conv {
    weight: Tensor,
    bias: Tensor,
    spec: ConvSpec,
}

impl Conv {
    /// Pads with zeros on both sides.
    pub(crate) fn new(weights: &Weights, shape: ConvShape) -> Result<Self> {
        let [inputs, outputs] = shape.channels;
        let mut dims = vec![outputs];
        dims.extend_from_slice(shape.taps);
        dims.push(inputs / shape.groups);
        let fan_in: usize = dims[1..].iter().product();
        let init = Init::Normal(shape.gain / (fan_in as f64).sqrt());
        let mut spec = ConvSpec::same(shape.taps);
        spec.groups = shape.groups;
        Ok(Self {
            weight: weights.get(dims, "weight", init)?,
            bias: weights.get_f32(outputs, "bias", Init::Zeros)?,
            spec,
        })
    }

    /// Along its first dimension it sees only what came before, and leaves the padding there
    /// to the caller: `n + taps - 1` steps in, `n` out.
    pub(crate) fn causal(mut self) -> Self {
        self.spec.padding[0] = (0, 0);
        self
    }

    /// Taps along the first dimension.
    pub(crate) fn first_taps(&self) -> usize {
        self.weight.dims()[1]
    }

    pub(crate) fn forward(&self, x: &Tensor, precision: Precision) -> Result<Tensor> {
        let (w, b) = (&self.weight, Some(&self.bias));
        Ok(gallop_kernels::conv(x, w, b, &self.spec, precision)?)
    }
}

/// `n` zero steps like those of `x` along dimension 1.
pub(crate) fn zero_steps(x: &Tensor, n: usize) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    dims[1] = n;
    Ok(Tensor::zeros(dims, DType::F32, x.device())?)
}
