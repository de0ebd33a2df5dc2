//! Powers of two packed into panels as they are made, by AVX-512: attention's probabilities and the gradients of its
//! logits, which else would be written as f32, read again and rounded.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::pack::{interleave, store};
use super::packed::{GradientTile, POWER_SUMS};
use super::panels::{LINE, Line, Panels, RIGHT};
use crate::simd::ROUND;

/// Rows of f32 numbers.
pub struct Tile<'a> {
    /// Row after row, each `stride` after the one before.
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
    /// The columns of a row that count, the others give 0; all of them if there is none.
    pub seen: Option<&'a dyn Fn(usize) -> Range<usize>>,
}

/// `2^(z * scale)` of the numbers z of some columns of the tile (whole lines, but for the last one), which must be within
/// -126..126, into the panels at `out`; and the sum of each row, before it is rounded, added to its [`POWER_SUMS`] parts of
/// `sums`.
///
/// # Safety
/// The processor must have AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub unsafe fn fill(
    tile: &Tile,
    columns: Range<usize>,
    scale: f32,
    panels: Panels,
    out: &mut [Line],
    sums: &mut [f32],
) {
    let blocks = columns.start / LINE..columns.end.div_ceil(LINE);
    assert!(columns.end <= tile.columns && tile.columns <= tile.stride);
    assert!(columns.start.is_multiple_of(LINE) && blocks.end <= panels.blocks);
    assert!(tile.rows == 0 || tile.data.len() >= (tile.rows - 1) * tile.stride + tile.columns);
    assert!(out.len() >= tile.rows.div_ceil(panels.items) * panels.lines());
    assert!(sums.len() == tile.rows * POWER_SUMS);
    let scale = _mm512_set1_ps(scale);
    for block in blocks {
        let first = block * LINE;
        let whole = tile.seen.is_none() && first + LINE <= columns.end;
        for row in 0..tile.rows {
            let at = row / panels.items * panels.lines() + row % panels.items;
            // SAFETY: masked loads read columns of the tile only; the line is one of the panels' and the sums are the row's,
            // which were checked.
            unsafe {
                let from = tile.data.as_ptr().add(row * tile.stride + first);
                let line = out.as_mut_ptr().add(at + block * panels.items);
                let sum = sums.as_mut_ptr().add(row * POWER_SUMS);
                let (low, high) = match whole {
                    true => (
                        exp2(_mm512_loadu_ps(from), scale),
                        exp2(_mm512_loadu_ps(from.add(16)), scale),
                    ),
                    false => {
                        let seen = tile.seen.map_or(0..columns.end, |seen| seen(row));
                        let mask = ones(seen.start, first) & !ones(seen.end, first);
                        let [low, high] = [mask as u16, (mask >> 16) as u16];
                        let part = |mask, from| {
                            let power = exp2(_mm512_maskz_loadu_ps(mask, from), scale);
                            _mm512_maskz_mov_ps(mask, power)
                        };
                        (part(low, from), part(high, from.wrapping_add(16)))
                    }
                };
                let both = _mm512_add_ps(low, high);
                _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), both));
                store(
                    line,
                    transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)),
                );
            }
        }
    }
}

/// Panels and what they are made of.
pub struct Out<'a> {
    pub panels: Panels,
    pub lines: &'a mut [Line],
}

/// The probabilities and the gradients of `q . k` of a tile as left operands, their rows as items, and those gradients as
/// a right one, their columns as items.
///
/// # Safety
/// The processor must have AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub unsafe fn fill_gradients(
    tile: &GradientTile,
    seen: &dyn Fn(usize) -> Range<usize>,
    [p, ds, turned]: [Out; 3],
) {
    let (rows, columns) = tile.size;
    let (data, stride) = (tile.logits, tile.stride);
    let blocks = columns.div_ceil(LINE);
    let [lse, along] = tile.columns;
    let numbers = rows.saturating_sub(1) * stride + columns;
    assert!(rows == 0 || columns <= stride && data.len() >= numbers && tile.grads.len() >= numbers);
    assert!(lse.len() >= columns && along.len() >= columns);
    let (row, column) = (tile.at.0, tile.at.1 / LINE);
    assert!(row.is_multiple_of(LINE) && tile.at.1.is_multiple_of(LINE));
    for left in [&p, &ds] {
        assert!(row.is_multiple_of(left.panels.items) && column + blocks <= left.panels.blocks);
        let panels = (row + rows).div_ceil(left.panels.items);
        assert!(left.lines.len() >= panels * left.panels.lines());
    }
    assert!((row + rows).div_ceil(LINE) <= turned.panels.blocks && turned.panels.items == RIGHT);
    assert!(turned.lines.len() >= (column + blocks) * turned.panels.lines());
    let layouts = [p.panels, ds.panels];
    let [p, ds, out] = [p.lines, ds.lines, turned.lines].map(<[Line]>::as_mut_ptr);
    let scale = _mm512_set1_ps(tile.scale);
    let base = _mm512_set1_ps(tile.scale * std::f32::consts::LOG2_E);
    for pair in (0..rows.next_multiple_of(LINE)).step_by(2) {
        let seen = [pair, pair + 1].map(|i| if i < rows { seen(i) } else { 0..0 });
        for block in 0..blocks {
            let first = block * LINE;
            let there = !ones(columns, first);
            let there = [there as u16, (there >> 16) as u16];
            // SAFETY: masked loads read columns that there are; the lines are of the panels, which were checked.
            unsafe {
                let load = |from: &[f32], mask: [u16; 2]| {
                    let at = from.as_ptr().wrapping_add(first);
                    [
                        _mm512_maskz_loadu_ps(mask[0], at),
                        _mm512_maskz_loadu_ps(mask[1], at.wrapping_add(16)),
                    ]
                };
                let (lse, along) = (load(lse, there), load(along, there));
                let mut both = [_mm512_setzero_si512(); 2];
                for (seen, (both, i)) in seen.iter().zip(both.iter_mut().zip(pair..rows)) {
                    let mask = ones(seen.start, first) & !ones(seen.end, first);
                    let mask = [mask as u16, (mask >> 16) as u16];
                    let z = load(&data[i * stride..], mask);
                    let d = load(&tile.grads[i * stride..], mask);
                    let half = |h: usize| {
                        let x = _mm512_fmsub_ps(z[h], base, lse[h]);
                        // What is far below the sum counts for nothing, and must stay a number.
                        let x = _mm512_max_ps(x, _mm512_set1_ps(-126.0));
                        let power = _mm512_maskz_mov_ps(mask[h], exp2(x, _mm512_set1_ps(1.0)));
                        let slope = _mm512_mul_ps(_mm512_sub_ps(d[h], along[h]), scale);
                        // A mask: columns of queries that see nothing may hold anything.
                        let slope = _mm512_maskz_mul_ps(mask[h], power, slope);
                        (power, slope)
                    };
                    let (low, high) = (half(0), half(1));
                    let line =
                        |low, high| transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                    let place = |Panels { items, blocks, .. }: Panels| {
                        let (item, block) = (row + i, column + block);
                        (item / items * blocks + block) * items + item % items
                    };
                    store(p.add(place(layouts[0])), line(low.0, high.0));
                    *both = line(low.1, high.1);
                    store(ds.add(place(layouts[1])), *both);
                }
                let (low, high) = interleave(both[0], both[1]);
                let depth = row + pair;
                let at =
                    (column + block) * turned.panels.lines() + depth / LINE * RIGHT + depth % LINE;
                store(out.add(at), low);
                store(out.add(at + 1), high);
            }
        }
    }
}

/// Ones for the columns from `column` on, of a line that begins at `first`.
fn ones(column: usize, first: usize) -> u32 {
    let skipped = column.saturating_sub(first);
    u32::MAX.checked_shl(skipped as u32).unwrap_or(0)
}

/// 2^x for x from -1/2 to 1/2, the highest power first: within 7.5e-5 of its value, where bf16 is within 2e-3.
const EXP2: [f32; 4] = [5.517_143_5e-2, 2.426_108_1e-1, 6.932_61e-1, 9.999_281e-1];

/// `2^(z * scale)`, as near as bf16 needs it.
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
