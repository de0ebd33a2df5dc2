//! Packing into panels of f32, the layout of the AVX2 kernel: for each index of the sum, the numbers of a panel's
//! items side by side. Items beyond the last one are left as they were.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2::{LEFT, RIGHT, VECTOR};
use super::dense::round_to_bf16;
use super::source::{Depth, Operand};

/// 16 numbers: what the kernel reads of a right panel at once.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Wide(#[expect(dead_code, reason = "read as numbers")] [f32; WIDE]);

/// Numbers of a `Wide`.
pub const WIDE: usize = 16;

impl Wide {
    /// All zeros.
    pub const ZERO: Wide = Wide([0.0; WIDE]);

    /// The numbers one after the other.
    pub fn numbers(wide: &mut [Wide]) -> &mut [f32] {
        // SAFETY: a `Wide` is WIDE numbers and nothing else.
        unsafe { std::slice::from_raw_parts_mut(wide.as_mut_ptr().cast(), wide.len() * WIDE) }
    }
}

/// Panels packed together, when the sum's rows are read: few enough that their lines stay in the first-level cache.
const TOGETHER: usize = 8;

/// A part of an operand, and the panels that it is packed into.
pub struct Fill<'a> {
    /// What is packed.
    pub operand: &'a Operand<'a>,
    /// Which of its items.
    pub items: Range<usize>,
    /// Which indices of the sum.
    pub depth: Range<usize>,
    /// Items a panel: 6 or 16.
    pub panel: usize,
    /// Whether numbers are rounded to bf16.
    pub round: bool,
    /// The panels, `panel * depth` numbers each.
    pub out: &'a mut [f32],
    /// Numbers on their way.
    pub scratch: &'a mut Vec<f32>,
}

impl Fill<'_> {
    /// Packs.
    ///
    /// # Safety
    /// The processor must have AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn run(self) {
        const { assert!(LEFT == 6 && RIGHT == 16, "the panels that are written here") };
        // SAFETY: the features are enabled here.
        unsafe {
            match (self.operand.depth, self.panel) {
                (Depth::Rows, LEFT) => self.across::<LEFT>(),
                (Depth::Rows, _) => self.across::<RIGHT>(),
                (Depth::Columns, LEFT) => self.along::<LEFT>(),
                (Depth::Columns, _) => self.along::<RIGHT>(),
            }
        }
    }

    /// Rows of the source are items.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn along<const P: usize>(self) {
        let (source, depth) = (&self.operand.source, self.depth.len());
        if depth == 0 {
            return;
        }
        self.scratch.resize(P * depth, 0.0);
        let mut row = source.at(self.items.start);
        for (first, panel) in self
            .items
            .clone()
            .step_by(P)
            .zip(self.out.chunks_exact_mut(P * depth))
        {
            let count = P.min(self.items.end - first);
            for to in self.scratch.chunks_exact_mut(depth).take(count) {
                source.copy_row(&row, self.depth.clone(), to);
                source.step(&mut row);
            }
            if self.round {
                round_to_bf16(&mut self.scratch[..count * depth]);
            }
            // SAFETY: the features are enabled here.
            unsafe { interleave::<P>(self.scratch, panel) };
        }
    }

    /// Rows of the source are summed over.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn across<const P: usize>(self) {
        let (source, depth) = (&self.operand.source, self.depth.len());
        let width = TOGETHER * P;
        self.scratch.resize(width, 0.0);
        for (i, first) in self.items.clone().step_by(width).enumerate() {
            let cols = first..(first + width).min(self.items.end);
            let panels = cols.len().div_ceil(P);
            let out = &mut self.out[i * width * depth..][..panels * P * depth];
            let mut row = source.at(self.depth.start);
            for k in 0..depth {
                source.copy_row(&row, cols.clone(), &mut self.scratch[..cols.len()]);
                source.step(&mut row);
                let numbers = &mut self.scratch[..panels * P];
                if self.round {
                    round_to_bf16(numbers);
                }
                for (p, part) in numbers.as_chunks::<P>().0.iter().enumerate() {
                    out[(p * depth + k) * P..][..P].copy_from_slice(part);
                }
            }
        }
    }
}

/// `P` rows to one column each.
#[target_feature(enable = "avx2,fma")]
unsafe fn interleave<const P: usize>(rows: &[f32], panel: &mut [f32]) {
    let depth = rows.len() / P;
    let whole = depth / VECTOR * VECTOR;
    for k in (0..whole).step_by(VECTOR) {
        for group in (0..P).step_by(VECTOR) {
            let count = VECTOR.min(P - group);
            let load = |i: usize| {
                let from = &rows[(group + i.min(count - 1)) * depth + k..][..VECTOR];
                // SAFETY: the slice has eight numbers.
                unsafe { _mm256_loadu_ps(from.as_ptr()) }
            };
            for (i, column) in transpose(std::array::from_fn(load)).into_iter().enumerate() {
                let to = &mut panel[(k + i) * P + group..];
                match to.first_chunk_mut::<VECTOR>() {
                    // SAFETY: the chunk has eight numbers. Those beyond the panel's are the next column's, which
                    // is written later.
                    Some(to) => unsafe { _mm256_storeu_ps(to.as_mut_ptr(), column) },
                    None => {
                        let mut numbers = [0.0; VECTOR];
                        // SAFETY: the array has eight numbers.
                        unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), column) };
                        to[..count].copy_from_slice(&numbers[..count]);
                    }
                }
            }
        }
    }
    for k in whole..depth {
        for i in 0..P {
            panel[k * P + i] = rows[i * depth + k];
        }
    }
}

/// Row i, column j to row j, column i, of 8 x 8 numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256; VECTOR]) -> [__m256; VECTOR] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    // Lane l of fours[4 g + j] holds column 4 l + j of rows 4 g to 4 g + 3.
    let mut fours = pairs;
    for g in [0, 4] {
        fours[g] = _mm256_shuffle_ps::<0x44>(pairs[g], pairs[g + 2]);
        fours[g + 1] = _mm256_shuffle_ps::<0xee>(pairs[g], pairs[g + 2]);
        fours[g + 2] = _mm256_shuffle_ps::<0x44>(pairs[g + 1], pairs[g + 3]);
        fours[g + 3] = _mm256_shuffle_ps::<0xee>(pairs[g + 1], pairs[g + 3]);
    }
    let mut out = fours;
    for j in 0..4 {
        out[j] = _mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]);
        out[4 + j] = _mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]);
    }
    out
}
