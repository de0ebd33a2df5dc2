//! Matrices to fewer bits and back.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::error::{ModelError, Result};

/// Columns that share a scale in [`Quant::Q4`].
const BLOCK: usize = 32;
/// The greatest magnitude of the 8-bit float.
const FP8_MAX: f32 = 448.0;

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

/// A matrix in fewer bits.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The numbers, as the module's table says.
    pub data: Tensor,
    /// The scales.
    pub scale: Tensor,
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

    /// A matrix `[out, in]` of any float type in fewer bits.
    ///
    /// # Errors
    /// When it is no such matrix, or its columns do not fit the format.
    pub fn quantize(self, weight: &Tensor) -> Result<Quantized> {
        let (rows, columns) = weight.dims2()?;
        if !self.takes(columns) {
            let why = format!("{columns} columns cannot be kept as {}", self.name());
            return Err(ModelError::Config(why));
        }
        let values = weight
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        match self {
            Self::Int8 => int8(&values, (rows, columns)),
            Self::Fp8 => fp8(weight, &values, (rows, columns)),
            Self::Q4 => q4(&values, (rows, columns)),
        }
    }
}

impl Quantized {
    /// The matrix `[out, in]` in bfloat16.
    ///
    /// # Errors
    /// When numbers and scales do not fit each other.
    pub fn dequantize(&self) -> Result<Tensor> {
        let (rows, columns) = self.data.dims2()?;
        let scale = self
            .scale
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let blocks = (2 * columns).div_ceil(BLOCK);
        let expected = match self.scale.rank() {
            2 => rows * blocks,
            _ => rows,
        };
        if scale.len() != expected {
            return Err(ModelError::Config(
                "scales that do not fit their matrix".into(),
            ));
        }
        let values = match (self.data.dtype(), self.scale.rank()) {
            (DType::U8, 2) => unpack4(&bytes(&self.data)?, &scale, columns),
            (DType::U8, _) => {
                let number = |byte: u8| f32::from(i16::from(byte) - 128);
                by_row(&bytes(&self.data)?, &scale, columns, number)
            }
            _ => {
                let values = self
                    .data
                    .to_dtype(DType::F32)?
                    .flatten_all()?
                    .to_vec1::<f32>()?;
                by_row(&values, &scale, columns, |x| x)
            }
        };
        let columns = values.len() / rows.max(1);
        Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
    }
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// A scale by which the greatest magnitude becomes `limit`; 1 for zeros.
fn scale_of(values: &[f32], limit: f32) -> f32 {
    match greatest(values) / limit {
        scale if scale > 0.0 => scale,
        _ => 1.0,
    }
}

fn int8(values: &[f32], shape: (usize, usize)) -> Result<Quantized> {
    let rows = values.par_chunks(shape.1);
    let scale: Vec<f32> = rows.clone().map(|row| scale_of(row, 127.0)).collect();
    let data = rows.zip(&scale).flat_map_iter(|(row, scale)| {
        row.iter()
            .map(move |x| ((x / scale).round().clamp(-127.0, 127.0) + 128.0) as u8)
    });
    Ok(Quantized {
        data: Tensor::from_vec(data.collect::<Vec<u8>>(), shape, &Device::Cpu)?,
        scale: Tensor::new(scale, &Device::Cpu)?,
    })
}

fn fp8(weight: &Tensor, values: &[f32], shape: (usize, usize)) -> Result<Quantized> {
    let rows = values.par_chunks(shape.1);
    let scale: Vec<f32> = rows.map(|row| scale_of(row, FP8_MAX)).collect();
    let scale = Tensor::new(scale, &Device::Cpu)?;
    let scaled = weight
        .to_dtype(DType::F32)?
        .broadcast_div(&scale.unsqueeze(1)?)?;
    Ok(Quantized {
        data: scaled.to_dtype(DType::F8E4M3)?,
        scale,
    })
}

fn q4(values: &[f32], shape: (usize, usize)) -> Result<Quantized> {
    let packed: Vec<(Vec<u8>, Vec<bf16>)> = values.par_chunks(shape.1).map(q4_row).collect();
    let blocks = shape.1.div_ceil(BLOCK);
    let (data, scale): (Vec<_>, Vec<_>) = packed.into_iter().unzip();
    Ok(Quantized {
        data: Tensor::from_vec(data.concat(), (shape.0, shape.1 / 2), &Device::Cpu)?,
        scale: Tensor::from_vec(scale.concat(), (shape.0, blocks), &Device::Cpu)?,
    })
}

fn q4_row(row: &[f32]) -> (Vec<u8>, Vec<bf16>) {
    let mut packed = Vec::with_capacity(row.len() / 2);
    let mut scales = Vec::with_capacity(row.len().div_ceil(BLOCK));
    for block in row.chunks(BLOCK) {
        let scale = bf16::from_f32(scale_of(block, 7.0));
        // What the scale is rounded to is what the numbers are divided by.
        let nibble = |x: f32| ((x / scale.to_f32()).round().clamp(-8.0, 7.0) + 8.0) as u8;
        packed.extend(
            block
                .chunks_exact(2)
                .map(|two| nibble(two[0]) | nibble(two[1]) << 4),
        );
        scales.push(scale);
    }
    (packed, scales)
}

fn by_row<T: Copy + Sync>(
    data: &[T],
    scale: &[f32],
    columns: usize,
    number: impl Fn(T) -> f32 + Sync,
) -> Vec<bf16> {
    let rows = data.par_chunks(columns.max(1)).zip(scale);
    let rows = rows.flat_map_iter(|(row, scale)| {
        let number = &number;
        row.iter().map(move |&x| bf16::from_f32(number(x) * scale))
    });
    rows.collect()
}

fn unpack4(data: &[u8], scale: &[f32], columns: usize) -> Vec<bf16> {
    let blocks = (2 * columns).div_ceil(BLOCK);
    let rows = data
        .par_chunks(columns.max(1))
        .zip(scale.par_chunks(blocks.max(1)));
    let rows = rows.flat_map_iter(|(row, scales)| {
        row.iter().enumerate().flat_map(move |(i, byte)| {
            let scale = scales[2 * i / BLOCK];
            let number = |nibble: u8| bf16::from_f32((f32::from(nibble) - 8.0) * scale);
            [number(byte & 15), number(byte >> 4)]
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(quant: Quant, columns: usize) -> f64 {
        let weight = Tensor::randn(0f32, 0.02, (64, columns), &Device::Cpu).unwrap();
        let back = quant.quantize(&weight).unwrap().dequantize().unwrap();
        let back = back.to_dtype(DType::F32).unwrap();
        let norm = |x: &Tensor| {
            let x = x.sqr().unwrap().sum_all().unwrap();
            f64::from(x.to_scalar::<f32>().unwrap()).sqrt()
        };
        norm(&(&weight - back).unwrap()) / norm(&weight)
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
