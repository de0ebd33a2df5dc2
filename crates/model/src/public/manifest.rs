//! Which tensors each part of the full-size model has: names, shapes, and how a random one begins.
//!
//! Made from the configuration alone, so that parameters can be counted, and a model of random weights
//! written, without the public files.

mod autoencoders;
mod text;
mod transformer;

pub(super) use autoencoders::AudioWidths;
pub use autoencoders::{VideoWidths, audio_autoencoder, fast_decoder, video_autoencoder};
use candle_core::DType;
pub use text::text_encoder;
pub use transformer::transformer;

/// How a tensor without public values is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// `10000^(-i / n)` for i < n: the frequencies of positions.
    Frequencies,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its full name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its number type in the public files.
    pub dtype: DType,
    /// How a random one begins.
    pub fill: Fill,
}

impl TensorSpec {
    /// The number of its numbers.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }

    /// The size of its numbers in bytes.
    pub fn bytes(&self) -> u64 {
        self.parameters() * self.dtype.size_in_bytes() as u64
    }
}

/// Numbers of all tensors of a list.
pub fn parameters(specs: &[TensorSpec]) -> u64 {
    specs.iter().map(TensorSpec::parameters).sum()
}

/// A list under construction.
struct List {
    specs: Vec<TensorSpec>,
    dtype: DType,
}

impl List {
    fn new(dtype: DType) -> Self {
        Self {
            specs: Vec::new(),
            dtype,
        }
    }

    fn push(&mut self, name: impl Into<String>, shape: &[usize], fill: Fill) {
        self.specs.push(TensorSpec {
            name: name.into(),
            shape: shape.to_vec(),
            dtype: self.dtype,
            fill,
        });
    }

    /// A weight whose outputs have about the size of its inputs.
    fn weight(&mut self, name: impl Into<String>, shape: &[usize]) {
        let inputs: usize = shape[1..].iter().product();
        let std = 1.0 / (inputs as f32).sqrt();
        self.push(name, shape, Fill::Normal(std));
    }

    /// `name.weight` and a `name.bias` of zeros.
    fn affine(&mut self, name: &str, shape: &[usize]) {
        self.weight(format!("{name}.weight"), shape);
        self.push(format!("{name}.bias"), &shape[..1], Fill::Zeros);
    }
}
