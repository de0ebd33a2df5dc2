//! Matrices that are not trained, in a device's memory in the form in which they are stored.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, WithDType, bail};

use crate::frozen::Frozen;
use crate::gemm::Precision;
use crate::gemm::few_bits::{BLOCK, FewBits, Form};
use crate::gemm::source::Data;
use crate::linear::linear;
use crate::segments::Segments;

/// A matrix `[rows, columns]` on a device, f32, bf16 or in fewer bits. Cheap to clone.
///
/// One in fewer bits is expanded to bf16 each time it is used, so that only one at a time is there whole.
#[derive(Clone, Debug)]
pub struct Resident {
    numbers: Held,
    rows: usize,
    columns: usize,
}

#[derive(Clone, Debug)]
enum Held {
    Whole(Tensor),
    Few(Few),
}

/// Numbers in fewer bits.
#[derive(Clone, Debug)]
struct Few {
    kind: Kind,
    /// u8 `[rows, bytes of a row]`.
    bytes: Tensor,
    /// f32 `[rows, 1]`, or bf16 `[rows, blocks]`.
    scales: Tensor,
}

/// As [`Form`], without its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Int8,
    Fp8,
    Q4,
}

/// What can be uploaded.
#[cfg(feature = "cuda")]
trait Number: WithDType + candle_core::cuda_backend::CudaDType + crate::cuda::DeviceRepr {}
#[cfg(feature = "cuda")]
impl<T: WithDType + candle_core::cuda_backend::CudaDType + crate::cuda::DeviceRepr> Number for T {}
#[cfg(not(feature = "cuda"))]
trait Number: WithDType {}
#[cfg(not(feature = "cuda"))]
impl<T: WithDType> Number for T {}

/// A copy of numbers on a device, there when this returns; work that a GPU has to do meanwhile goes on.
fn put<T: Number>(numbers: &[T], shape: (usize, usize), device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return crate::cuda::upload(numbers, shape.into(), cuda);
    }
    Tensor::from_slice(numbers, shape, device)
}

impl Resident {
    /// Copies a matrix to `device`. Safe to call from another thread than the one that computes.
    ///
    /// # Errors
    /// When the device has no room for it.
    pub fn new(matrix: &Frozen, device: &Device) -> Result<Self> {
        let (rows, columns) = matrix.dims();
        let numbers = match matrix.data {
            Data::F32(numbers) => Held::Whole(put(numbers, (rows, columns), device)?),
            Data::Bf16(numbers) => Held::Whole(put(numbers, (rows, columns), device)?),
            Data::Few(few) => Held::Few(Few::new(few, rows, device)?),
        };
        Ok(Self {
            numbers,
            rows,
            columns,
        })
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Some rows as a tensor, f32 or bf16.
    ///
    /// # Errors
    /// When it has fewer, or the device has no room for them.
    pub fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        if rows.end > self.rows || rows.start > rows.end {
            bail!("rows {rows:?} of a matrix with {}", self.rows);
        }
        match &self.numbers {
            Held::Whole(tensor) if rows == (0..self.rows) => Ok(tensor.clone()),
            Held::Whole(tensor) => tensor.narrow(0, rows.start, rows.len()),
            Held::Few(few) => few.expand(rows, self.columns),
        }
    }
}

/// [`crate::linear`] without a bias over the first `used` rows of weights that are not trained.
///
/// # Shapes
/// x `[L, in]`; w `[G * out, in]` in its first `used` rows -> `[L, out]`.
///
/// # Errors
/// As [`crate::linear`].
pub fn linear_resident(
    x: &Tensor,
    w: &Resident,
    used: usize,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    linear(x, &w.rows(0..used)?, None, segments, precision)
}

impl Few {
    fn new(few: FewBits, rows: usize, device: &Device) -> Result<Self> {
        let bytes = put(few.bytes, (rows, few.row_bytes()), device)?;
        let blocks = few.columns.div_ceil(BLOCK);
        let (kind, scales) = match few.form {
            Form::Int8(scales) => (Kind::Int8, put(scales, (rows, 1), device)?),
            Form::Fp8(scales) => (Kind::Fp8, put(scales, (rows, 1), device)?),
            Form::Q4(scales) => (Kind::Q4, put(scales, (rows, blocks), device)?),
        };
        Ok(Self {
            kind,
            bytes,
            scales,
        })
    }

    /// Some rows in bf16, `[rows, columns]`.
    fn expand(&self, rows: Range<usize>, columns: usize) -> Result<Tensor> {
        let part = |t: &Tensor| t.narrow(0, rows.start, rows.len());
        let op = Expand {
            kind: self.kind,
            columns,
        };
        part(&self.bytes)?.apply_op2_no_bwd(&part(&self.scales)?, &op)
    }
}

/// Bytes and scales to bf16.
struct Expand {
    kind: Kind,
    columns: usize,
}

impl CustomOp2 for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }

    fn cpu_fwd(
        &self,
        bytes: &CpuStorage,
        lb: &Layout,
        scales: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::U8(bytes), Some((start, end))) = (bytes, lb.contiguous_offsets()) else {
            bail!("expand: the stored numbers are no contiguous bytes");
        };
        let Some((from, to)) = ls.contiguous_offsets() else {
            bail!("expand: scales that are not contiguous");
        };
        let form = match (self.kind, scales) {
            (Kind::Int8, CpuStorage::F32(scales)) => Form::Int8(&scales[from..to]),
            (Kind::Fp8, CpuStorage::F32(scales)) => Form::Fp8(&scales[from..to]),
            (Kind::Q4, CpuStorage::BF16(scales)) => Form::Q4(&scales[from..to]),
            _ => bail!("expand: scales of another number type"),
        };
        let (rows, columns) = (lb.dims()[0], self.columns);
        let few = FewBits {
            form,
            bytes: &bytes[start..end],
            columns,
        };
        let matrix = Frozen {
            data: Data::Few(few),
            rows,
            columns,
        };
        Ok((CpuStorage::BF16(matrix.to_bf16()), (rows, columns).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        bytes: &candle_core::CudaStorage,
        lb: &Layout,
        scales: &candle_core::CudaStorage,
        ls: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let shape = (lb.dims()[0], self.columns);
        let y = crate::cuda::expand((bytes, lb), (scales, ls), self.kind, shape)?;
        Ok((y, shape.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::Numbers;
    use crate::linear::linear_frozen;
    use candle_core::DType;
    use half::bf16;

    fn bytes(count: usize) -> Vec<u8> {
        // Every byte but the two that are no numbers of 8 bits.
        let byte = |i: usize| (i * 37 % 256) as u8;
        let fine = |b: u8| if b & 0x7f == 0x7f { b - 1 } else { b };
        (0..count).map(byte).map(fine).collect()
    }

    #[test]
    fn products_are_those_of_the_stored_matrix() {
        let (rows, columns) = (6, 70);
        let x = Tensor::randn(0f32, 1., (5, columns), &Device::Cpu).unwrap();
        let scales: Vec<f32> = (0..rows).map(|i| 0.01 * (i + 1) as f32).collect();
        let halves: Vec<bf16> = (0..rows * 3)
            .map(|i| bf16::from_f32(0.02 * (i + 1) as f32))
            .collect();
        let (whole, half) = (bytes(rows * columns), bytes(rows * columns / 2));
        let floats: Vec<f32> = (0..rows * columns).map(|i| (i as f32).sin()).collect();
        let rounded: Vec<bf16> = floats.iter().map(|&x| bf16::from_f32(x)).collect();
        let (bytes, scales) = (&whole[..], &scales[..]);
        for numbers in [
            Numbers::F32(&floats),
            Numbers::Bf16(&rounded),
            Numbers::Int8 { bytes, scales },
            Numbers::Fp8 { bytes, scales },
            Numbers::Q4 {
                bytes: &half,
                scales: &halves,
            },
        ] {
            let frozen = Frozen::new(numbers, rows, columns).unwrap();
            let resident = Resident::new(&frozen, &Device::Cpu).unwrap();
            assert_eq!(resident.dims(), (rows, columns));
            for used in [rows, 4] {
                let segments = Segments::new(vec![(0..2, 0), (2..5, 1)]).unwrap();
                let want = linear_frozen(&x, &frozen.rows(0..used), &segments, Precision::F32);
                let got = linear_resident(&x, &resident, used, &segments, Precision::F32);
                let (want, got) = (want.unwrap(), got.unwrap());
                assert_eq!(got.dims(), [5, used / 2]);
                let apart = (want - got).unwrap().abs().unwrap().max_all().unwrap();
                assert!(apart.to_scalar::<f32>().unwrap() < 1e-4);
            }
            assert!(resident.rows(0..rows + 1).is_err());
        }
    }

    #[test]
    fn rows_of_few_bits_are_bf16() {
        let (bytes, scales) = (bytes(8), [2.0f32, 0.5]);
        let numbers = Numbers::Int8 {
            bytes: &bytes,
            scales: &scales,
        };
        let frozen = Frozen::new(numbers, 2, 4).unwrap();
        let resident = Resident::new(&frozen, &Device::Cpu).unwrap();
        let row = resident.rows(1..2).unwrap();
        assert_eq!(row.dtype(), DType::BF16);
        let mut want = [0.0; 4];
        frozen.copy_row(1, &mut want);
        let got = row.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(got[0], want);
    }
}
