//! Matrices that tiles leave behind for the products over all rows.

use half::bf16;

use crate::gemm::source::Data;
use crate::gemm::{Precision, nearest};
use crate::memory::filled;
use crate::rows::parts_of;
use crate::segments::Segments;
use crate::simd::{Loop, vectorised};

/// Rows that a product in some precision will read, no wider than it takes them.
pub enum Kept {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

/// Rows of one tile.
pub enum KeptRows<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

impl Kept {
    /// Room for so many numbers.
    ///
    /// # Safety
    /// All must be written before any is read.
    pub unsafe fn room(precision: Precision, numbers: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            match precision {
                Precision::F32 => Self::F32(filled(numbers, |_| ())),
                Precision::Bf16 | Precision::Fp8 => Self::Bf16(filled(numbers, |_| ())),
            }
        }
    }

    /// The rows of each tile, in the tiles' order.
    pub fn tiles(&mut self, segments: &Segments, rows: usize, width: usize) -> Vec<KeptRows<'_>> {
        match self {
            Self::F32(v) => (parts_of(segments, rows, width, v).into_iter())
                .map(|part| KeptRows::F32(part.out))
                .collect(),
            Self::Bf16(v) => (parts_of(segments, rows, width, v).into_iter())
                .map(|part| KeptRows::Bf16(part.out))
                .collect(),
        }
    }

    pub fn data(&self) -> Data<'_> {
        match self {
            Self::F32(v) => Data::F32(v),
            Self::Bf16(v) => Data::Bf16(v),
        }
    }
}

impl KeptRows<'_> {
    /// Writes rows of `width` numbers into the columns from `column` on; all columns are `of`.
    pub fn put(&mut self, from: &[f32], width: usize, column: usize, of: usize) {
        match self {
            Self::F32(to) => {
                for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(of)) {
                    to[column..column + width].copy_from_slice(from);
                }
            }
            Self::Bf16(to) => {
                let to = &mut **to;
                vectorised(Round {
                    from,
                    width,
                    column,
                    of,
                    to,
                });
            }
        }
    }
}

struct Round<'a> {
    from: &'a [f32],
    width: usize,
    column: usize,
    of: usize,
    to: &'a mut [bf16],
}

impl Loop for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let rows = self.from.chunks_exact(self.width);
        for (from, to) in rows.zip(self.to.chunks_exact_mut(self.of)) {
            let to = &mut to[self.column..self.column + self.width];
            for (to, from) in to.iter_mut().zip(from) {
                *to = nearest(*from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_as_bf16_says() {
        let values = [
            0.0,
            -0.0,
            1.0,
            1.003_906_3,
            1.011_718_8,
            3.389e38,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1e-40,
            -7.3,
        ];
        for x in values {
            assert_eq!(nearest(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
        }
        assert!(nearest(f32::NAN).is_nan());
    }

    #[test]
    fn tiles_put_their_columns() {
        let segments = Segments::new(vec![(0..3, 1), (3..5, 0)]).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            // SAFETY: all is written below.
            let mut kept = unsafe { Kept::room(precision, 5 * 4) };
            let mut tiles = kept.tiles(&segments, 2, 4);
            assert_eq!(tiles.len(), 3);
            for (i, rows) in [2, 1, 2].into_iter().enumerate() {
                tiles[i].put(&vec![i as f32; rows], 1, 0, 4);
                tiles[i].put(&vec![7.0; rows * 3], 3, 1, 4);
            }
            drop(tiles);
            let found: Vec<f32> = match kept {
                Kept::F32(v) => v,
                Kept::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            };
            let first: Vec<f32> = found.iter().step_by(4).copied().collect();
            assert_eq!(first, [0.0, 0.0, 1.0, 2.0, 2.0]);
            assert!(found.chunks(4).all(|row| row[1..] == [7.0; 3]));
        }
    }
}
