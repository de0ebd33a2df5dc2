//! Matrices kept in fewer bits, expanded a piece of a row at a time while operands are packed: never as a whole.
//!
//! What a number means is the same for every kernel: the product of the stored number and its scale, rounded to
//! bf16 (to nearest even). So a product is that of the expanded matrix, whatever the precision.

use std::ops::Range;

use half::bf16;

use super::dense;

/// Columns that share a scale in 4-bit matrices.
pub const BLOCK: usize = 32;
/// What a stored byte of an 8-bit integer is above the integer.
pub const INT8_ZERO: i16 = 128;
/// What a stored nibble is above the integer.
pub const Q4_ZERO: i16 = 8;

/// How numbers are stored, with their scales.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// Bytes 128 above an integer; a scale a row.
    Int8(&'a [f32]),
    /// Bytes of 8-bit floats (E4M3); a scale a row.
    Fp8(&'a [f32]),
    /// Two nibbles a byte, 8 above an integer, the even column in the low half; a scale for every 32 columns.
    Q4(&'a [bf16]),
}

/// A row-major matrix in fewer bits.
#[derive(Clone, Copy, Debug)]
pub struct FewBits<'a> {
    /// How numbers are stored.
    pub form: Form<'a>,
    /// The stored bytes.
    pub bytes: &'a [u8],
    /// Numbers a row.
    pub columns: usize,
}

impl<'a> FewBits<'a> {
    /// Bytes a row.
    pub fn row_bytes(&self) -> usize {
        match self.form {
            Form::Q4(_) => self.columns / 2,
            _ => self.columns,
        }
    }

    /// Some rows of the matrix.
    pub fn rows(self, rows: Range<usize>) -> Self {
        let blocks = self.columns.div_ceil(BLOCK);
        let width = self.row_bytes();
        Self {
            form: match self.form {
                Form::Int8(scales) => Form::Int8(&scales[rows.clone()]),
                Form::Fp8(scales) => Form::Fp8(&scales[rows.clone()]),
                Form::Q4(scales) => Form::Q4(&scales[rows.start * blocks..rows.end * blocks]),
            },
            bytes: &self.bytes[rows.start * width..rows.end * width],
            columns: self.columns,
        }
    }

    /// Writes the numbers from `offset` on, counted through the rows, all of one row.
    pub fn expand(&self, offset: usize, out: &mut [f32]) {
        let (row, from) = (offset / self.columns, offset % self.columns);
        let to = from + out.len();
        debug_assert!(to <= self.columns, "a piece lies in one row");
        let bytes = &self.bytes[row * self.row_bytes()..][..self.row_bytes()];
        match self.form {
            Form::Int8(scales) => {
                let scale = scales[row];
                let numbers = out.iter_mut().zip(&bytes[from..to]);
                numbers.for_each(|(to, &x)| *to = f32::from(i16::from(x) - INT8_ZERO) * scale);
            }
            Form::Fp8(scales) => {
                let scale = scales[row];
                let numbers = out.iter_mut().zip(&bytes[from..to]);
                numbers.for_each(|(to, &x)| *to = float8(x) * scale);
            }
            Form::Q4(scales) => {
                let scales = &scales[row * self.columns.div_ceil(BLOCK)..];
                for (column, to) in (from..to).zip(out.iter_mut()) {
                    let nibble = bytes[column / 2] >> (4 * (column % 2)) & 15;
                    *to = f32::from(i16::from(nibble) - Q4_ZERO) * scales[column / BLOCK].to_f32();
                }
            }
        }
        dense::round_to_bf16(out);
    }
}

/// The number of an E4M3 byte. Its exponent and mantissa, put into those of an f32, are 2^-120 of it.
pub fn float8(byte: u8) -> f32 {
    let bits = u32::from(byte & 0x7f) << 20 | u32::from(byte & 0x80) << 24;
    match byte & 0x7f {
        0x7f => f32::NAN,
        _ => f32::from_bits(bits) * FLOAT8_SHIFT,
    }
}

/// 2^120: between the exponents of E4M3 and f32.
pub const FLOAT8_SHIFT: f32 = f32::from_bits((127 + 120) << 23);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_floats_of_the_standard() {
        // Zero, the smallest number, the largest below one, one, the largest of all, and a negative one.
        let known = [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x37, 0.9375),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        for (byte, number) in known {
            assert_eq!(float8(byte), number, "{byte:#x}");
        }
        assert!(float8(0x7f).is_nan() && float8(0xff).is_nan());
    }
}
