//! Powers of two packed into left panels as they are made, by AVX-512: attention's probabilities, which else would be
//! written as f32, read again and rounded.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::pack::store;
use super::panels::{LINE, Line, Panels};
use crate::simd::{EXP2, ROUND};

/// Rows of f32 numbers.
pub struct Tile<'a> {
    /// Row after row, each `stride` after the one before.
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
    /// The columns of a row that count; the others give 0.
    pub seen: &'a dyn Fn(usize) -> Range<usize>,
}

/// `2^(z * scale)` of every number z of the tile, which must be within -126..126, into the panels at `out`; and the sum
/// of each row, before it is rounded, added to `sums`.
///
/// # Safety
/// The processor must have AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub unsafe fn fill(tile: &Tile, scale: f32, panels: Panels, out: &mut [Line], sums: &mut [f32]) {
    let blocks = tile.columns.div_ceil(LINE);
    assert!(tile.columns <= tile.stride && blocks <= panels.blocks && sums.len() == tile.rows);
    assert!(tile.rows == 0 || tile.data.len() >= (tile.rows - 1) * tile.stride + tile.columns);
    assert!(out.len() >= tile.rows.div_ceil(panels.items) * panels.lines());
    let scale = _mm512_set1_ps(scale);
    for (i, sum) in sums.iter_mut().enumerate() {
        let seen = (tile.seen)(i);
        let at = i / panels.items * panels.lines() + i % panels.items;
        let (mut low_sum, mut high_sum) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for block in 0..blocks {
            let first = block * LINE;
            let mask = ones(seen.start, first) & !ones(seen.end, first);
            let (low_mask, high_mask) = (mask as u16, (mask >> 16) as u16);
            // SAFETY: masked loads read columns of the tile only; the line is one of the panels', which were checked.
            unsafe {
                let from = tile.data.as_ptr().add(i * tile.stride + first);
                let low = _mm512_maskz_loadu_ps(low_mask, from);
                let high = _mm512_maskz_loadu_ps(high_mask, from.wrapping_add(16));
                let low = _mm512_maskz_mov_ps(low_mask, exp2(low, scale));
                let high = _mm512_maskz_mov_ps(high_mask, exp2(high, scale));
                low_sum = _mm512_add_ps(low_sum, low);
                high_sum = _mm512_add_ps(high_sum, high);
                let both = _mm512_cvtne2ps_pbh(high, low);
                let line = out.as_mut_ptr().add(at + block * panels.items);
                store(line, transmute::<__m512bh, __m512i>(both));
            }
        }
        *sum += _mm512_reduce_add_ps(_mm512_add_ps(low_sum, high_sum));
    }
}

/// Ones for the columns from `column` on, of a line that begins at `first`.
fn ones(column: usize, first: usize) -> u32 {
    let skipped = column.saturating_sub(first);
    u32::MAX.checked_shl(skipped as u32).unwrap_or(0)
}

/// As `simd::exp2` of `z * scale`.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(z: __m512, scale: __m512) -> __m512 {
    let shifted = _mm512_fmadd_ps(z, scale, _mm512_set1_ps(ROUND));
    let whole = _mm512_sub_ps(shifted, _mm512_set1_ps(ROUND));
    let r = _mm512_fmsub_ps(z, scale, whole);
    let mut p = _mm512_set1_ps(EXP2[0]);
    for c in &EXP2[1..] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*c));
    }
    let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power))
}
