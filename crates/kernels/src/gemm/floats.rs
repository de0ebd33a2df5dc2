//! Packing into panels of f32, the layout of the AVX2 kernel: for each index of the sum, the numbers of a panel's
//! items side by side. Items beyond the last one are left as they were.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2::{LEFT, RIGHT, VECTOR};
use super::dense::round_to_bf16;
use super::source::{Cursor, Depth, Operand, Source};

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
            let mut rows: [&[f32]; P] = [&[]; P];
            let room = self.scratch.chunks_exact_mut(depth).take(count);
            for (numbers, room) in rows.iter_mut().zip(room) {
                *numbers = numbers_of(source, &row, self.depth.clone(), room);
                source.step(&mut row);
            }
            // Beyond the last item anything may stand.
            let last = rows[count - 1];
            rows[count..].fill(last);
            // SAFETY: the features are enabled here.
            unsafe { interleave::<P>(rows, panel, self.round) };
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
                let room = &mut self.scratch[..cols.len()];
                let numbers = numbers_of(source, &row, cols.clone(), room);
                source.step(&mut row);
                let (whole, rest) = numbers.as_chunks::<P>();
                for (p, part) in whole.iter().enumerate() {
                    let to = &mut out[(p * depth + k) * P..][..P];
                    copy::<P>(part, to.first_chunk_mut().expect("P numbers"), self.round);
                }
                if !rest.is_empty() {
                    let to = &mut out[(whole.len() * depth + k) * P..][..rest.len()];
                    to.copy_from_slice(rest);
                    if self.round {
                        round_to_bf16(to);
                    }
                }
            }
        }
    }
}

/// `cols` of one row: where they lie, or copied to `room`.
#[inline]
fn numbers_of<'a>(
    source: &Source<'a>,
    row: &Cursor,
    cols: Range<usize>,
    room: &'a mut [f32],
) -> &'a [f32] {
    match source.slice(row, cols.clone()) {
        Some(numbers) => numbers,
        None => {
            source.copy_row(row, cols, room);
            room
        }
    }
}

/// Numbers rounded to bf16, if wanted.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: __m256, round: bool) -> __m256 {
    if !round {
        return x;
    }
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    // What is not a number stays so.
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let odd_one = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
    let nearest = _mm256_castsi256_ps(_mm256_add_epi32(bits, half));
    let chosen = _mm256_blendv_ps(nearest, _mm256_castsi256_ps(quiet), odd_one);
    let upper = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
    _mm256_and_ps(chosen, upper)
}

/// `P` numbers, 6 or 16.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn copy<const P: usize>(from: &[f32; P], to: &mut [f32; P], round: bool) {
    const { assert!(P == LEFT || P == RIGHT) };
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    // SAFETY: both hold P numbers: four and two, or twice eight.
    unsafe {
        if P == LEFT {
            let four = _mm256_castps128_ps256(_mm_loadu_ps(from));
            let two = _mm_castsi128_ps(_mm_loadl_epi64(from.add(4).cast()));
            let six = rounded(_mm256_insertf128_ps::<1>(four, two), round);
            _mm_storeu_ps(to, _mm256_castps256_ps128(six));
            let two = _mm_castps_si128(_mm256_extractf128_ps::<1>(six));
            _mm_storel_epi64(to.add(4).cast(), two);
        } else {
            for v in [0, VECTOR] {
                let eight = rounded(_mm256_loadu_ps(from.add(v)), round);
                _mm256_storeu_ps(to.add(v), eight);
            }
        }
    }
}

/// `P` rows, all as long as the panel is deep, to one column each.
#[target_feature(enable = "avx2,fma")]
unsafe fn interleave<const P: usize>(rows: [&[f32]; P], panel: &mut [f32], round: bool) {
    let depth = panel.len() / P;
    let rows = rows.map(|row| &row[..depth]);
    let whole = depth / VECTOR * VECTOR;
    for k in (0..whole).step_by(VECTOR) {
        for group in (0..P).step_by(VECTOR) {
            let count = VECTOR.min(P - group);
            let load = |i: usize| {
                let from = &rows[group + i.min(count - 1)][k..][..VECTOR];
                // SAFETY: the slice has eight numbers.
                rounded(unsafe { _mm256_loadu_ps(from.as_ptr()) }, round)
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
        for (i, row) in rows.iter().enumerate() {
            panel[k * P + i] = row[k];
        }
    }
    if round {
        round_to_bf16(&mut panel[whole * P..]);
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
