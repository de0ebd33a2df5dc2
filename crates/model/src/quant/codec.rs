//! Matrices to fewer bits and back.

use candle_core::{DType, Device, Tensor};
use gallop_kernels::{Frozen, Numbers};
use half::bf16;
use rayon::prelude::*;

use super::float8;
use crate::error::{ModelError, Result};
use crate::numbers::with_numbers;

/// Columns that share a scale in [`Quant::Q4`].
pub(super) const BLOCK: usize = 32;

/// How the numbers of a matrix are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// 8-bit integers, a scale a row.
    Int8,
    /// 8-bit floats (E4M3), a scale a row.
    Fp8,
    /// 4-bit integers, a scale for every 32 columns.
    Q4,
}

/// The scales of a matrix in fewer bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One a row.
    Rows(Vec<f32>),
    /// One for every 32 columns of each row.
    Blocks(Vec<bf16>),
}

/// A matrix in fewer bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    quant: Quant,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
    scales: Scales,
}

impl Quant {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Fp8, Self::Q4];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
            Self::Q4 => "q4",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quant| quant.name() == name)
    }

    /// Whether a matrix of so many columns can be kept so.
    pub fn takes(self, columns: usize) -> bool {
        columns > 0 && (self != Self::Q4 || columns.is_multiple_of(2))
    }

    /// Bytes of the stored numbers of a row.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            Self::Q4 => columns / 2,
            _ => columns,
        }
    }

    /// Bytes of the scales of a row.
    pub fn scale_bytes(self, columns: usize) -> usize {
        match self {
            Self::Q4 => columns.div_ceil(BLOCK) * size_of::<bf16>(),
            _ => size_of::<f32>(),
        }
    }

    /// A matrix `[out, in]` of f32 or bf16 in fewer bits.
    ///
    /// # Errors
    /// When it is no such matrix, or its columns do not fit the format.
    pub fn quantize(self, weight: &Tensor) -> Result<Quantized> {
        let (rows, columns) = weight.dims2()?;
        let weight = match weight.dtype() {
            DType::F32 | DType::BF16 => weight.clone(),
            _ => weight.to_dtype(DType::F32)?,
        };
        with_numbers(&weight, |numbers| {
            Ok(self
                .quantize_frozen(&Frozen::new(numbers, rows, columns)?)?
                .0)
        })
    }

    /// A matrix in fewer bits, row by row, and the length of the difference as a share of the matrix's.
    ///
    /// # Errors
    /// When its columns do not fit the format.
    pub fn quantize_frozen(self, weight: &Frozen) -> Result<(Quantized, f64)> {
        let (rows, columns) = weight.dims();
        if !self.takes(columns) {
            let why = format!("{columns} columns cannot be kept as {}", self.name());
            return Err(ModelError::Config(why));
        }
        let mut bytes = vec![0; rows * self.row_bytes(columns)];
        let blocks = match self {
            Self::Q4 => columns.div_ceil(BLOCK),
            _ => 1,
        };
        let mut scales = vec![0.0f32; rows * blocks];
        let squares: Vec<[f64; 2]> = bytes
            .par_chunks_mut(self.row_bytes(columns))
            .zip(scales.par_chunks_mut(blocks))
            .enumerate()
            .map_init(
                || vec![0.0; columns],
                |row, (i, (bytes, scales))| {
                    weight.copy_row(i, row);
                    self.row(row, bytes, scales)
                },
            )
            .collect();
        let [apart, whole] = squares
            .iter()
            .fold([0.0; 2], |sum, row| [sum[0] + row[0], sum[1] + row[1]]);
        let scales = match self {
            Self::Q4 => Scales::Blocks(scales.into_iter().map(bf16::from_f32).collect()),
            _ => Scales::Rows(scales),
        };
        let quantized = Quantized {
            quant: self,
            rows,
            columns,
            bytes,
            scales,
        };
        Ok((quantized, (apart / whole.max(f64::MIN_POSITIVE)).sqrt()))
    }

    /// One row; gives the squared lengths of the difference and of the row.
    fn row(self, values: &[f32], bytes: &mut [u8], scales: &mut [f32]) -> [f64; 2] {
        match self {
            Self::Int8 => int8_row(values, bytes, &mut scales[0]),
            Self::Fp8 => fp8_row(values, bytes, &mut scales[0]),
            Self::Q4 => (values.chunks(BLOCK).zip(bytes.chunks_mut(BLOCK / 2)))
                .zip(scales)
                .map(|((values, bytes), scale)| q4_block(values, bytes, scale))
                .fold([0.0; 2], |sum, block| {
                    [sum[0] + block[0], sum[1] + block[1]]
                }),
        }
    }
}

impl Quantized {
    /// The stored numbers, for products and for files.
    pub fn numbers(&self) -> Numbers<'_> {
        let bytes = &self.bytes[..];
        match (self.quant, &self.scales) {
            (_, Scales::Blocks(scales)) => Numbers::Q4 { bytes, scales },
            (Quant::Fp8, Scales::Rows(scales)) => Numbers::Fp8 { bytes, scales },
            (_, Scales::Rows(scales)) => Numbers::Int8 { bytes, scales },
        }
    }

    /// The matrix, for products.
    ///
    /// # Errors
    /// Never for one made by [`Quant::quantize`].
    pub fn frozen(&self) -> Result<Frozen<'_>> {
        Ok(Frozen::new(self.numbers(), self.rows, self.columns)?)
    }

    /// The matrix `[out, in]` in bfloat16.
    ///
    /// # Errors
    /// Never for one made by [`Quant::quantize`].
    pub fn dequantize(&self) -> Result<Tensor> {
        expand(&self.frozen()?)
    }
}

/// A matrix `[rows, columns]` in bfloat16.
pub(crate) fn expand(matrix: &Frozen) -> Result<Tensor> {
    Ok(Tensor::from_vec(
        matrix.to_bf16(),
        matrix.dims(),
        &Device::Cpu,
    )?)
}

/// A scale by which the greatest magnitude becomes `limit`; 1 for zeros.
fn scale_of(values: &[f32], limit: f32) -> f32 {
    let greatest = values.iter().fold(0.0f32, |most, x| x.abs().max(most));
    match greatest / limit {
        scale if scale > 0.0 => scale,
        _ => 1.0,
    }
}

/// The squared lengths of the difference and of the numbers, for `stored` numbers of one scale.
fn squares(values: &[f32], stored: impl Iterator<Item = f32>, scale: f32) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (x, number) in values.iter().zip(stored) {
        let kept = bf16::from_f32(number * scale).to_f32();
        sums[0] += f64::from(x - kept).powi(2);
        sums[1] += f64::from(*x).powi(2);
    }
    sums
}

fn int8_row(values: &[f32], bytes: &mut [u8], scale: &mut f32) -> [f64; 2] {
    *scale = scale_of(values, 127.0);
    for (x, byte) in values.iter().zip(bytes.iter_mut()) {
        *byte = ((x / *scale).round().clamp(-127.0, 127.0) + 128.0) as u8;
    }
    squares(values, bytes.iter().map(|&b| f32::from(b) - 128.0), *scale)
}

fn fp8_row(values: &[f32], bytes: &mut [u8], scale: &mut f32) -> [f64; 2] {
    *scale = scale_of(values, float8::MAX);
    for (x, byte) in values.iter().zip(bytes.iter_mut()) {
        *byte = float8::encode(x / *scale);
    }
    squares(values, bytes.iter().map(|&b| float8::decode(b)), *scale)
}

fn q4_block(values: &[f32], bytes: &mut [u8], scale: &mut f32) -> [f64; 2] {
    // What the scale is rounded to is what the numbers are divided by.
    *scale = bf16::from_f32(scale_of(values, 7.0)).to_f32();
    let divisor = *scale;
    let nibble = |x: f32| ((x / divisor).round().clamp(-8.0, 7.0) + 8.0) as u8;
    for (two, byte) in values.chunks_exact(2).zip(bytes.iter_mut()) {
        *byte = nibble(two[0]) | nibble(two[1]) << 4;
    }
    let numbers = bytes.iter().flat_map(|b| [b & 15, b >> 4]);
    squares(values, numbers.map(|n| f32::from(n) - 8.0), divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(quant: Quant, columns: usize) -> f64 {
        let weight = Tensor::randn(0f32, 0.02, (64, columns), &Device::Cpu).unwrap();
        let (quantized, told) = with_numbers(&weight, |numbers| {
            quant.quantize_frozen(&Frozen::new(numbers, 64, columns)?)
        })
        .unwrap();
        let back = quantized.dequantize().unwrap();
        let back = back.to_dtype(DType::F32).unwrap();
        let norm = |x: &Tensor| {
            let x = x.sqr().unwrap().sum_all().unwrap();
            f64::from(x.to_scalar::<f32>().unwrap()).sqrt()
        };
        let found = norm(&(&weight - back).unwrap()) / norm(&weight);
        assert!((found - told).abs() < 1e-5, "{found} against {told}");
        found
    }

    #[test]
    fn errors_are_those_of_the_bits() {
        for columns in [2, 30, 64, 340] {
            assert!(error(Quant::Int8, columns) < 0.012);
            assert!(error(Quant::Fp8, columns) < 0.035);
            assert!(error(Quant::Q4, columns) < 0.12);
        }
        assert!(error(Quant::Q4, 340) > error(Quant::Fp8, 340));
        assert!(error(Quant::Fp8, 340) > error(Quant::Int8, 340));
    }

    #[test]
    fn zeros_and_extremes_come_back() {
        let rows = [
            [0f32, 0., 0., 0.],
            [1e-30, -1e-30, 0., 0.],
            [3e4, -3e4, 1e4, 0.],
        ];
        let weight = Tensor::new(&rows, &Device::Cpu).unwrap();
        for quant in Quant::ALL {
            let back = quant.quantize(&weight).unwrap().dequantize().unwrap();
            let back = back.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(back[0], rows[0], "{quant:?}");
            assert!(back.iter().flatten().all(|x| x.is_finite()), "{quant:?}");
            assert!((back[2][1] / rows[2][1] - 1.0).abs() < 0.01, "{quant:?}");
        }
        let odd = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(Quant::Q4.quantize(&odd).is_err());
        assert!(Quant::Int8.quantize(&odd).is_ok());
    }
}
