//! Matrices that are not trained, as they lie in memory or in a mapped file.

use candle_core::{Result, bail};
use half::bf16;
use rayon::prelude::*;

use crate::gemm::few_bits::{BLOCK, FewBits, Form};
use crate::gemm::source::Data;

/// The stored numbers of a row-major matrix `[rows, columns]`.
///
/// A number kept in fewer bits is the product below, rounded to bf16 (to nearest even).
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
    /// `(byte - 128) * scales[row]`.
    Int8 {
        /// `rows * columns`.
        bytes: &'a [u8],
        /// `rows`.
        scales: &'a [f32],
    },
    /// 8-bit floats (E4M3) times `scales[row]`.
    Fp8 {
        /// `rows * columns`.
        bytes: &'a [u8],
        /// `rows`.
        scales: &'a [f32],
    },
    /// `(nibble - 8) * scales[row, column / 32]`, the even column in the low half of a byte.
    Q4 {
        /// `rows * columns / 2`; columns are even.
        bytes: &'a [u8],
        /// `rows * ceil(columns / 32)`.
        scales: &'a [bf16],
    },
}

/// A matrix that is not trained, for [`crate::linear_frozen`].
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'a> {
    pub(crate) data: Data<'a>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl<'a> Frozen<'a> {
    /// A matrix of so many rows and columns.
    ///
    /// # Errors
    /// If there are not as many numbers and scales as it needs.
    pub fn new(numbers: Numbers<'a>, rows: usize, columns: usize) -> Result<Self> {
        let count = rows * columns;
        let blocks = rows * columns.div_ceil(BLOCK);
        let few = |form, bytes| {
            Data::Few(FewBits {
                form,
                bytes,
                columns,
            })
        };
        let (data, fits) = match numbers {
            Numbers::F32(v) => (Data::F32(v), v.len() == count),
            Numbers::Bf16(v) => (Data::Bf16(v), v.len() == count),
            Numbers::Int8 { bytes, scales } => (
                few(Form::Int8(scales), bytes),
                bytes.len() == count && scales.len() == rows,
            ),
            Numbers::Fp8 { bytes, scales } => (
                few(Form::Fp8(scales), bytes),
                bytes.len() == count && scales.len() == rows,
            ),
            Numbers::Q4 { bytes, scales } => {
                let even = columns.is_multiple_of(2);
                let fits = even && bytes.len() * 2 == count && scales.len() == blocks;
                (few(Form::Q4(scales), bytes), fits)
            }
        };
        if !fits {
            bail!("a frozen matrix [{rows}, {columns}] with too many or too few numbers or scales");
        }
        Ok(Self {
            data,
            rows,
            columns,
        })
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Some rows of the matrix.
    ///
    /// # Panics
    /// If it has fewer.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            data: self.data.rows(rows.clone(), self.columns),
            rows: rows.len(),
            columns: self.columns,
        }
    }

    /// The numbers of one row, in f32.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a row has another length");
        let at = row * self.columns;
        match self.data {
            Data::F32(v) => out.copy_from_slice(&v[at..at + self.columns]),
            Data::Bf16(v) => out
                .iter_mut()
                .zip(&v[at..at + self.columns])
                .for_each(|(to, from)| *to = from.to_f32()),
            Data::Few(few) => few.expand(at, out),
        }
    }

    /// All numbers in bf16, row after row, by all threads.
    pub fn to_bf16(&self) -> Vec<bf16> {
        let mut out = vec![bf16::ZERO; self.rows * self.columns];
        let rows = out.par_chunks_mut(self.columns.max(1)).enumerate();
        rows.for_each_init(
            || vec![0.0; self.columns],
            |row, (i, out)| {
                self.copy_row(i, row);
                let pairs = out.iter_mut().zip(row.iter());
                pairs.for_each(|(to, from)| *to = bf16::from_f32(*from));
            },
        );
        out
    }
}
