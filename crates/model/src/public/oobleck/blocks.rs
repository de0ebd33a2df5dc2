//! The blocks of the audio autoencoder, over waves `[1, T, C]`.

use candle_core::Tensor;
use gallop_kernels::{Precision, snake};

use crate::public::{error::Result, layers::Conv, source::Checkpoint};

/// Dilations of a block's three residual units.
const DILATIONS: [usize; 3] = [1, 3, 9];

/// A weight kept as direction and length: `v` of any length and `g`, one length a row.
fn weight(weights: &Checkpoint) -> Result<Tensor> {
    let (g, v) = if weights.has("weight_g") {
        (weights.f32("weight_g")?, weights.f32("weight_v")?)
    } else if weights.has("parametrizations.weight.original0") {
        (
            weights.f32("parametrizations.weight.original0")?,
            weights.f32("parametrizations.weight.original1")?,
        )
    } else {
        return weights.f32("weight");
    };
    let length = v.sqr()?.sum_keepdim((1, 2))?.sqrt()?;
    Ok(v.broadcast_mul(&(g / length)?)?)
}

fn bias(weights: &Checkpoint) -> Result<Option<Tensor>> {
    match weights.has("bias") {
        true => Ok(Some(weights.f32("bias")?)),
        false => Ok(None),
    }
}

/// A convolution over time.
pub(super) fn conv(weights: &Checkpoint, precision: Precision) -> Result<Conv> {
    Conv::new(weight(weights)?, bias(weights)?, precision)
}

/// `x + sin^2(alpha x) / beta`, with `alpha` and `beta` kept as logarithms, one a channel.
pub(super) struct Snake {
    alpha: Tensor,
    beta: Tensor,
}

impl Snake {
    pub(super) fn load(weights: &Checkpoint) -> Result<Self> {
        Ok(Self {
            alpha: weights.f32("alpha")?.exp()?,
            beta: weights.f32("beta")?.exp()?,
        })
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(snake(x, &self.alpha, &self.beta)?)
    }
}

/// Two convolutions, the first spread out, beside the identity.
struct ResidualUnit {
    snakes: [Snake; 2],
    convs: [Conv; 2],
}

impl ResidualUnit {
    fn load(weights: &Checkpoint, dilation: usize, precision: Precision) -> Result<Self> {
        let weights = weights.at("layers");
        let spread = conv(&weights.at(1), precision)?;
        let reach = dilation * (spread.taps(0) - 1) / 2;
        Ok(Self {
            snakes: [Snake::load(&weights.at(0))?, Snake::load(&weights.at(2))?],
            convs: [
                spread.dilated(dilation).padded(&[(reach, reach)]),
                conv(&weights.at(3), precision)?,
            ],
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (snake, conv) in self.snakes.iter().zip(&self.convs) {
            y = conv.apply(&snake.apply(&y)?)?;
        }
        Ok((y + x)?)
    }
}

fn units(weights: &Checkpoint, first: usize, precision: Precision) -> Result<Vec<ResidualUnit>> {
    let units = DILATIONS.iter().enumerate();
    let units = units.map(|(i, &d)| ResidualUnit::load(&weights.at(first + i), d, precision));
    units.collect()
}

/// Residual units, then a shorter wave.
pub(super) struct EncoderBlock {
    units: Vec<ResidualUnit>,
    snake: Snake,
    shorten: Conv,
}

impl EncoderBlock {
    pub(super) fn load(weights: &Checkpoint, stride: usize, precision: Precision) -> Result<Self> {
        let shorten = conv(&weights.at(4), precision)?;
        let side = stride.div_ceil(2);
        Ok(Self {
            units: units(weights, 0, precision)?,
            snake: Snake::load(&weights.at(3))?,
            shorten: shorten.strided(&[stride]).padded(&[(side, side)]),
        })
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for unit in &self.units {
            x = unit.apply(&x)?;
        }
        self.shorten.apply(&self.snake.apply(&x)?)
    }
}

/// A longer wave, then residual units.
pub(super) struct DecoderBlock {
    snake: Snake,
    lengthen: Lengthen,
    units: Vec<ResidualUnit>,
}

impl DecoderBlock {
    pub(super) fn load(weights: &Checkpoint, stride: usize, precision: Precision) -> Result<Self> {
        Ok(Self {
            snake: Snake::load(&weights.at(0))?,
            lengthen: Lengthen::load(&weights.at(1), stride, precision)?,
            units: units(weights, 2, precision)?,
        })
    }

    /// Operations for `samples`, which become those of the output.
    pub(super) fn operations(&self, samples: &mut usize) -> f64 {
        let lengthen = self.lengthen.conv.operations(*samples + 1);
        *samples *= self.lengthen.stride;
        let convs = self.units.iter().flat_map(|unit| &unit.convs);
        lengthen + convs.map(|conv| conv.operations(*samples)).sum::<f64>()
    }

    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.lengthen.apply(&self.snake.apply(x)?)?;
        for unit in &self.units {
            x = unit.apply(&x)?;
        }
        Ok(x)
    }
}

/// A transposed convolution of `stride` and twice as many taps.
///
/// Every output sample then comes from just two inputs, so it is a plain convolution of two taps
/// from C channels to `stride * C` numbers, which are the samples between two inputs.
struct Lengthen {
    conv: Conv,
    stride: usize,
}

impl Lengthen {
    fn load(weights: &Checkpoint, stride: usize, precision: Precision) -> Result<Self> {
        // [Cin, Cout, 2 * stride]
        let weight = weight(weights)?;
        let (inputs, outputs, _) = weight.dims3()?;
        let taps = weight.reshape((inputs, outputs, 2, stride))?;
        // The earlier of the two inputs reaches its sample by its late taps.
        let late = taps.narrow(2, 1, 1)?;
        let early = taps.narrow(2, 0, 1)?;
        let pairs = Tensor::cat(&[late, early], 2)?.permute((3, 1, 0, 2))?;
        let pairs = pairs.reshape((stride * outputs, inputs, 2))?;
        let bias = match bias(weights)? {
            Some(bias) => Some(bias.repeat(stride)?),
            None => None,
        };
        Ok(Self {
            conv: Conv::new(pairs, bias, precision)?.padded(&[(1, 1)]),
            stride,
        })
    }

    /// `x` `[1, T, C]` to `[1, T * stride, C']`, one less a sample where the stride is odd.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let samples = x.dim(1)?;
        let y = self.conv.apply(x)?;
        let channels = y.dim(2)? / self.stride;
        let y = y.reshape((1, (samples + 1) * self.stride, channels))?;
        let side = self.stride.div_ceil(2);
        Ok(y.narrow(1, side, (samples + 1) * self.stride - 2 * side)?
            .contiguous()?)
    }
}
