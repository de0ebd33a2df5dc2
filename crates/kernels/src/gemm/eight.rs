//! Rows of 8-bit floats (E4M3), each with a scale: how products under `Precision::Fp8` take their inputs.

use rayon::prelude::*;

use super::few_bits::{FewBits, Form, float8};
use super::source::{Data, Operand, Source};

/// The greatest number of E4M3.
pub const MOST: f32 = 448.0;

/// The nearest E4M3 number, ties to even; what is beyond the greatest becomes that.
pub fn to_float8(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 24) & 0x80) as u8;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let x = x.abs().min(MOST);
    if x < 1.0 / 64.0 {
        return sign | (x * 512.0).round_ties_even() as u8;
    }
    let bits = x.to_bits();
    let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
    sign | (rounded - (120 << 3)) as u8
}

/// A matrix whose rows are E4M3 numbers times a scale: the greatest of a row is 448 scales.
pub struct Eight {
    /// The numbers without their scales, each of which bf16 holds exactly.
    pub numbers: Vec<f32>,
    /// `rows`.
    pub scales: Vec<f32>,
}

impl Eight {
    /// Rounds `rows` rows of `width` numbers; those that are stored so already stay as they are.
    pub fn new(data: Data, rows: usize, width: usize) -> Self {
        let mut numbers = vec![0.0f32; rows * width];
        let mut scales = vec![1.0f32; rows];
        let each = numbers.par_chunks_mut(width.max(1)).zip(&mut scales);
        each.enumerate().for_each(|(row, (out, scale))| {
            if let Data::Few(FewBits {
                form: Form::Fp8(stored),
                bytes,
                ..
            }) = data
            {
                *scale = stored[row];
                let bytes = &bytes[row * width..][..width];
                out.iter_mut()
                    .zip(bytes)
                    .for_each(|(to, b)| *to = float8(*b));
                return;
            }
            let source = Source::matrix(data, rows, width, width);
            source.copy_row(&source.at(row), 0..width, out);
            *scale = round_row(out);
        });
        Self { numbers, scales }
    }

    /// Some rows as the right side of a product.
    pub fn operand(&self, rows: std::ops::Range<usize>, width: usize) -> Operand<'_> {
        let numbers = &self.numbers[rows.start * width..rows.end * width];
        Operand::by_rows(Source::matrix(Data::F32(numbers), rows.len(), width, width))
    }
}

/// Divides a row by its scale and rounds it to E4M3; gives the scale.
fn round_row(row: &mut [f32]) -> f32 {
    let most = greatest(row.iter());
    let scale = if most > 0.0 { most / MOST } else { 1.0 };
    row.iter_mut()
        .for_each(|x| *x = float8(to_float8(*x / scale)));
    scale
}

/// The least power of two that makes a number of this size at most the greatest of E4M3; numbers that are rounded so
/// are as exact as by any other scale, and what they stand for is exact in bf16.
pub fn whole_scale(greatest: f32) -> f32 {
    let most = greatest / MOST;
    if most < f32::MIN_POSITIVE {
        return 1.0;
    }
    f32::from_bits((most.to_bits() + 0x7f_ffff) & 0x7f80_0000)
}

/// The greatest size of some numbers.
pub fn greatest<'a>(numbers: impl Iterator<Item = &'a f32>) -> f32 {
    numbers.fold(0.0f32, |most, x| most.max(x.abs()))
}

/// Rounds a number to E4M3 times a scale.
pub fn by_scale(x: &mut f32, scale: f32) {
    *x = float8(to_float8(*x / scale)) * scale;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        for byte in (0..=0xffu8).filter(|byte| byte & 0x7f != 0x7f) {
            assert_eq!(to_float8(float8(byte)), byte, "{byte:#x}");
        }
    }

    #[test]
    fn the_nearest_number_is_taken() {
        let numbers: Vec<f32> = (0..0x7f).map(float8).collect();
        for i in 0..20_000 {
            let x = 470.0 * (i as f32 / 20_000.0).powi(5);
            let nearest = numbers
                .iter()
                .map(|n| (n - x).abs())
                .fold(f32::INFINITY, f32::min);
            assert_eq!((float8(to_float8(x)) - x).abs(), nearest, "{x}");
            assert_eq!(to_float8(-x), to_float8(x) | 0x80);
        }
        assert!(float8(to_float8(f32::NAN)).is_nan());
    }

    #[test]
    fn whole_scales_are_the_least_powers_of_two() {
        for (greatest, scale) in [
            (448.0, 1.0),
            (448.1, 2.0),
            (224.0, 0.5),
            (3.5, 1.0 / 128.0),
            (0.0, 1.0),
        ] {
            assert_eq!(whole_scale(greatest), scale, "{greatest}");
        }
    }

    #[test]
    fn rows_of_zeros_and_stored_rows_stay() {
        let zeros = Eight::new(Data::F32(&[0.0; 6]), 2, 3);
        assert_eq!((zeros.numbers, zeros.scales), (vec![0.0; 6], vec![1.0; 2]));
        let bytes = [0x38, 0x7e, 0xb8, 0x01];
        let few = FewBits {
            form: Form::Fp8(&[0.5, 3.0]),
            bytes: &bytes,
            columns: 2,
        };
        let stored = Eight::new(Data::Few(few), 2, 2);
        assert_eq!(stored.numbers, bytes.map(float8));
        assert_eq!(stored.scales, [0.5, 3.0]);
    }
}
