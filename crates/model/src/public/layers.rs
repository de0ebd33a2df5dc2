//! The layers that the public autoencoders share, over channels-last tensors.

use candle_core::{DType, Device, Tensor};
use gallop_kernels::{
    ConvSpec, Padding, Precision, Segments, Then, conv, linear, rms_norm, rms_norm_then,
};

use super::{error::Result, source::Checkpoint};

/// A convolution with its weights as the kernels want them: `[Cout, k.., Cin / groups]`.
pub(super) struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    spec: ConvSpec,
    precision: Precision,
}

impl Conv {
    /// Loads `weight` `[Cout, Cin / groups, k..]` and, where there is one, `bias` `[Cout]`. Stride
    /// and dilation are 1, and nothing is padded.
    pub(super) fn load(weights: &Checkpoint, precision: Precision) -> Result<Self> {
        let bias = match weights.has("bias") {
            true => Some(weights.f32("bias")?),
            false => None,
        };
        Self::new(weights.f32("weight")?, bias, precision)
    }

    /// From `weight` `[Cout, Cin / groups, k..]`.
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>, precision: Precision) -> Result<Self> {
        let dims = weight.rank() - 2;
        let mut order: Vec<usize> = (2..weight.rank()).collect();
        order.insert(0, 0);
        order.push(1);
        Ok(Self {
            weight: stored(&weight.permute(order)?.contiguous()?, precision)?,
            bias,
            spec: ConvSpec {
                stride: vec![1; dims],
                dilation: vec![1; dims],
                padding: vec![(0, 0); dims],
                mode: Padding::Zero,
                groups: 1,
            },
            precision,
        })
    }

    /// Pads with zeros (before, after) in each dimension.
    pub(super) fn padded(mut self, padding: &[(usize, usize)]) -> Self {
        self.spec.padding = padding.to_vec();
        self
    }

    /// Moves by `stride` in each dimension.
    pub(super) fn strided(mut self, stride: &[usize]) -> Self {
        self.spec.stride = stride.to_vec();
        self
    }

    /// Spreads the taps of the first dimension.
    pub(super) fn dilated(mut self, dilation: usize) -> Self {
        self.spec.dilation[0] = dilation;
        self
    }

    /// One filter a channel.
    pub(super) fn depthwise(mut self) -> Self {
        self.spec.groups = self.out_channels();
        self
    }

    pub(super) fn out_channels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Taps along the first dimension after the channels.
    pub(super) fn taps(&self, dim: usize) -> usize {
        self.weight.dims()[1 + dim]
    }

    /// Operations of so many outputs, an addition and a multiplication being two.
    pub(super) fn operations(&self, positions: usize) -> f64 {
        2.0 * self.weight.elem_count() as f64 * positions as f64
    }

    /// `x` `[B, .., Cin]` to `[B, .., Cout]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        Ok(conv(x, &self.weight, bias, &self.spec, self.precision)?)
    }
}

/// Checkpoint in the format that a precision multiplies in, so that no product converts them again.
pub(super) fn stored(weight: &Tensor, precision: Precision) -> Result<Tensor> {
    Ok(match precision {
        Precision::Bf16 => weight.to_dtype(DType::BF16)?,
        _ => weight.clone(),
    })
}

/// A product with a matrix along the last dimension.
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    precision: Precision,
}

impl Linear {
    /// From a 1x1 convolution's `weight` `[Cout, Cin, 1, ..]` and `bias` `[Cout]`.
    pub(super) fn from_conv(weights: &Checkpoint, precision: Precision) -> Result<Self> {
        let weight = weights.f32("weight")?;
        let (rows, columns) = (weight.dims()[0], weight.dims()[1]);
        Ok(Self {
            weight: stored(&weight.reshape((rows, columns))?, precision)?,
            bias: Some(weights.f32_of("bias", &[rows])?),
            precision,
        })
    }

    /// `x` `[.., in]` to `[.., out]`.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, shape) = rows(x)?;
        let segments = Segments::single(rows.dim(0)?);
        let bias = self.bias.as_ref();
        let y = linear(&rows, &self.weight, bias, &segments, self.precision)?;
        let width = y.dim(1)?;
        Ok(y.reshape([&shape[..shape.len() - 1], &[width]].concat())?)
    }
}

/// Root-mean-square norm over the last dimension.
pub(super) struct RmsNorm {
    /// The factor less one, as the kernel takes it.
    weight: Tensor,
    eps: f64,
    /// Of the products that read what it gives.
    precision: Precision,
}

impl RmsNorm {
    /// From factors kept as `gamma` of any shape with `[C]` elements. The public norm divides by
    /// the length itself, so eps only guards against an all-zero vector.
    pub(super) fn gamma(weights: &Checkpoint, precision: Precision) -> Result<Self> {
        let gamma = weights.f32("gamma")?.flatten_all()?;
        Ok(Self {
            weight: (gamma - 1.0)?,
            eps: 1e-24,
            precision,
        })
    }

    /// Without factors.
    pub(super) fn plain(
        channels: usize,
        eps: f64,
        precision: Precision,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            weight: Tensor::zeros(channels, DType::F32, device)?,
            eps,
            precision,
        })
    }

    /// `x` `[.., C]` to the same shape.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, shape) = rows(x)?;
        let segments = Segments::single(rows.dim(0)?);
        let y = rms_norm(&rows, &self.weight, &segments, self.eps)?;
        Ok(y.reshape(shape)?)
    }

    /// The norm and a function of each number, for convolutions alone: what they read is bf16 on a GPU.
    pub(super) fn then(&self, x: &Tensor, then: Then) -> Result<Tensor> {
        let (rows, shape) = rows(x)?;
        let y = rms_norm_then(&rows, &self.weight, self.eps, then, self.precision)?;
        Ok(y.reshape(shape)?)
    }
}

/// `x` `[.., C]` as `[rows, C]`, and its shape.
fn rows(x: &Tensor) -> Result<(Tensor, Vec<usize>)> {
    let shape = x.dims().to_vec();
    let channels = x.dim(shape.len() - 1)?;
    Ok((x.reshape(((), channels))?, shape))
}
