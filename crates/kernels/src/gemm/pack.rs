//! Packing into panels, by AVX-512.
//!
//! Every packing is made of up to three steps: numbers to lines of bf16, interleaving two lines (where the rows of the
//! source are summed over), transposing 16 lines of pairs.

use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

use super::expand;
use super::kernel::Side;
use super::panels::{LINE, Line, Panels, RIGHT, Scratch};
use super::source::{Cursor, Data, Depth, Operand, Source};

/// Lines of a block of 32 source rows that are packed at once.
const WIDE: usize = 16;

/// Packs `items` x `depth` of an operand into panels that start at `out`.
///
/// # Safety
/// The processor must have AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub unsafe fn fill(
    operand: &Operand,
    (items, depth): (Range<usize>, Range<usize>),
    panels: Panels,
    out: &mut [Line],
    scratch: &mut Scratch,
) {
    assert!(out.len() >= items.len().div_ceil(panels.items) * panels.lines());
    debug_assert!(depth.len() <= panels.blocks * LINE);
    if items.is_empty() || depth.is_empty() {
        return;
    }
    let source = &operand.source;
    // SAFETY: the features are enabled here, and the writes stay within the panels.
    unsafe {
        match (panels.side, operand.depth) {
            (Side::Left, Depth::Columns) => left_rows(source, items, depth, panels, (out, scratch)),
            (side, Depth::Columns) => {
                debug_assert_eq!(side, Side::Right);
                blocks(source, items, depth, scratch, |rows, cols, lines| {
                    right_by_rows(panels, rows, cols, lines, out)
                });
            }
            (Side::Right, Depth::Rows) => {
                blocks(source, depth, items, scratch, |rows, cols, lines| {
                    right_by_columns(panels, rows, cols, lines, out)
                });
            }
            (Side::Left, Depth::Rows) => {
                blocks(source, depth, items, scratch, |rows, cols, lines| {
                    left_by_columns(panels, rows, cols, lines, out)
                });
            }
        }
    }
}

/// Rows of the source are items: each line goes straight to its place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn left_rows(
    source: &Source,
    items: Range<usize>,
    depth: Range<usize>,
    panels: Panels,
    (out, scratch): (&mut [Line], &mut Scratch),
) {
    let mut row = source.at(items.start);
    for i in 0..items.len() {
        let at = i / panels.items * panels.lines() + i % panels.items;
        // SAFETY: line `at + b * items` is that of item i and block b.
        unsafe {
            let to = out.as_mut_ptr().add(at);
            row_lines(
                source,
                &row,
                depth.clone(),
                (to, panels.items),
                &mut scratch.floats,
            );
        }
        source.step(&mut row);
    }
}

/// Turns 32 rows x up to 512 columns at a time into lines, `WIDE` lines a row, and hands them on
/// with the first row and column, counted from the starts of the ranges. Missing rows are zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn blocks(
    source: &Source,
    rows: Range<usize>,
    cols: Range<usize>,
    scratch: &mut Scratch,
    mut take: impl FnMut(usize, Range<usize>, &[Line]),
) {
    let Scratch { lines, floats } = scratch;
    lines.resize(LINE * WIDE, Line::ZERO);
    let mut next = source.at(rows.start);
    for r in rows.clone().step_by(LINE) {
        let first = next;
        for c in cols.clone().step_by(LINE * WIDE) {
            let width = c..(c + LINE * WIDE).min(cols.end);
            next = first;
            for i in 0..LINE {
                let to = lines[i * WIDE..].as_mut_ptr();
                if r + i < rows.end {
                    // SAFETY: a row has WIDE lines.
                    unsafe { row_lines(source, &next, width.clone(), (to, 1), floats) };
                    source.step(&mut next);
                } else {
                    lines[i * WIDE..(i + 1) * WIDE].fill(Line::ZERO);
                }
            }
            take(
                r - rows.start,
                width.start - cols.start..width.end - cols.start,
                lines,
            );
        }
    }
}

/// 32 items from `item` on, with the numbers `depth` of each in its lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn right_by_rows(
    panels: Panels,
    item: usize,
    depth: Range<usize>,
    lines: &[Line],
    out: &mut [Line],
) {
    let panel = &mut out[item / RIGHT * panels.lines()..][..panels.lines()];
    for (b, block) in (depth.start / LINE..depth.end.div_ceil(LINE)).enumerate() {
        for half in 0..2 {
            // SAFETY: 16 rows of WIDE lines, and 32 lines a block.
            unsafe {
                let from = |i: usize| load(lines.as_ptr().add((half * 16 + i) * WIDE + b));
                let turned = transpose(std::array::from_fn(from));
                let to = panel.as_mut_ptr().add(block * RIGHT + half);
                turned
                    .iter()
                    .enumerate()
                    .for_each(|(p, v)| store(to.add(2 * p), *v));
            }
        }
    }
}

/// Depth `depth..depth + 32`, one row each, with the numbers of `items` in its lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn right_by_columns(
    panels: Panels,
    depth: usize,
    items: Range<usize>,
    lines: &[Line],
    out: &mut [Line],
) {
    for (j, item) in items.step_by(RIGHT).enumerate() {
        let at = item / RIGHT * panels.lines() + depth / LINE * RIGHT;
        let block = &mut out[at..at + RIGHT];
        for pair in 0..LINE / 2 {
            // SAFETY: rows 2 pair and 2 pair + 1 of WIDE lines; lines 2 pair and 2 pair + 1 of the block.
            unsafe {
                let from = lines.as_ptr().add(2 * pair * WIDE + j);
                let (low, high) = interleave(load(from), load(from.add(WIDE)));
                let to = block.as_mut_ptr().add(2 * pair);
                store(to, low);
                store(to.add(1), high);
            }
        }
    }
}

/// As `right_by_columns`, for the left side: pairs of rows are transposed into lines of items.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn left_by_columns(
    panels: Panels,
    depth: usize,
    items: Range<usize>,
    lines: &[Line],
    out: &mut [Line],
) {
    let block = depth / LINE * panels.items;
    for (j, item) in items.clone().step_by(16).enumerate() {
        // SAFETY: 32 rows of WIDE lines; the half line j exists.
        let turned = unsafe {
            let from = |p: usize| {
                let at = lines.as_ptr().add(2 * p * WIDE + j / 2);
                let (low, high) = interleave(load(at), load(at.add(WIDE)));
                if j % 2 == 0 { low } else { high }
            };
            transpose(std::array::from_fn(from))
        };
        for (i, line) in (item..items.end.min(item + 16)).zip(turned) {
            let at = i / panels.items * panels.lines() + block + i % panels.items;
            // SAFETY: a reference to the line is valid for a store.
            unsafe { store(&mut out[at], line) };
        }
    }
}

/// Writes `cols` of a row as lines `stride` apart; the last one is filled up with zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn row_lines(
    source: &Source,
    row: &Cursor,
    cols: Range<usize>,
    (out, stride): (*mut Line, usize),
    floats: &mut Vec<f32>,
) {
    if source.taps > 1 && (!source.width.is_multiple_of(LINE) || !cols.start.is_multiple_of(LINE)) {
        floats.resize(cols.len(), 0.0);
        source.copy_row(row, cols, floats);
        // SAFETY: the caller gives room for all lines.
        return unsafe { convert(floats.as_ptr(), floats.len(), out, stride) };
    }
    source.pieces(row, cols, |at, offset, len| {
        // SAFETY: pieces start at multiples of a line, and their offsets lie in the data.
        unsafe {
            let out = out.add(at / LINE * stride);
            match (offset, source.data) {
                (None, _) => {
                    (0..len.div_ceil(LINE)).for_each(|i| *out.add(i * stride) = Line::ZERO)
                }
                (Some(o), Data::F32(d)) => convert(d[o..o + len].as_ptr(), len, out, stride),
                (Some(o), Data::Bf16(d)) => copy(d[o..o + len].as_ptr().cast(), len, out, stride),
                (Some(o), Data::Few(few)) => {
                    expand::lines(&few, o, len, (out, stride), floats);
                }
            }
        }
    });
}

/// f32 numbers to lines of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn convert(from: *const f32, len: usize, out: *mut Line, stride: usize) {
    // SAFETY: masked loads read `len` numbers only; the caller gives room for all lines.
    unsafe {
        for i in 0..len / LINE {
            let at = from.add(i * LINE);
            let both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(at.add(16)), _mm512_loadu_ps(at));
            store(out.add(i * stride), transmute::<__m512bh, __m512i>(both));
        }
        let rest = len % LINE;
        if rest > 0 {
            let at = from.add(len - rest);
            let mask = (1u32 << rest) - 1;
            let low = _mm512_maskz_loadu_ps(mask as u16, at);
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16));
            let both = _mm512_cvtne2ps_pbh(high, low);
            store(
                out.add(len / LINE * stride),
                transmute::<__m512bh, __m512i>(both),
            );
        }
    }
}

/// Ones for the first `count` numbers of a line, at the most all.
fn first(count: usize) -> u32 {
    u32::MAX >> (LINE - LINE.min(count))
}

/// A line of f32 numbers as bf16, zeros where the mask has none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn rounded(from: *const f32, mask: u32) -> __m512i {
    // SAFETY: the caller promises the numbers that the mask has.
    unsafe {
        let low = _mm512_maskz_loadu_ps(mask as u16, from);
        let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(16));
        transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// f32 numbers to bf16 ones, filled up with zeros to whole lines.
///
/// # Safety
/// The processor must have AVX-512 with BF16, and `out` room for the lines; it need not be aligned.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn round(from: &[f32], out: *mut u16) {
    // SAFETY: masked loads read `from` only; the caller gives room for all lines.
    unsafe {
        for i in (0..from.len()).step_by(LINE) {
            let mask = first(from.len() - i);
            let line = rounded(from.as_ptr().add(i), mask);
            _mm512_storeu_si512(out.add(i).cast(), line);
        }
    }
}

/// Numbers to bf16 ones, as [`round`].
///
/// # Safety
/// As [`round`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn narrow(from: Data, at: Range<usize>, out: *mut u16) {
    // SAFETY: as the caller promises; masked loads read those numbers only.
    unsafe {
        match from {
            Data::F32(from) => round(&from[at], out),
            Data::Bf16(from) => {
                let from = &from[at];
                for i in (0..from.len()).step_by(LINE) {
                    let mask = first(from.len() - i);
                    let line = _mm512_maskz_loadu_epi16(mask, from.as_ptr().add(i).cast());
                    _mm512_storeu_si512(out.add(i).cast(), line);
                }
            }
            Data::Few(_) => unreachable!("no picture is in fewer bits"),
        }
    }
}

/// Rows of f32 numbers, `from.1` apart, to rows of as many bf16 ones, `out.1` apart.
///
/// # Safety
/// The processor must have AVX-512 with BF16, and both sides have room; they need not be aligned.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn round_rows(
    from: (*const f32, usize),
    [rows, columns]: [usize; 2],
    out: (*mut u16, usize),
) {
    for row in 0..rows {
        let (from, out) = (
            from.0.wrapping_add(row * from.1),
            out.0.wrapping_add(row * out.1),
        );
        for i in (0..columns).step_by(LINE) {
            let mask = first(columns - i);
            // SAFETY: masks keep within the columns.
            unsafe {
                let line = rounded(from.add(i), mask);
                _mm512_mask_storeu_epi16(out.add(i).cast(), mask, line);
            }
        }
    }
}

/// Two rows of `width` bf16 numbers, one behind the other, number by number side by side.
///
/// # Safety
/// The processor must have AVX-512, `width` be a multiple of a line, and both sides have room; they need not be aligned.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pairs(from: *const u16, width: usize, out: *mut u16) {
    // SAFETY: as the caller promises.
    unsafe {
        for i in (0..width).step_by(LINE) {
            let first = _mm512_loadu_si512(from.add(i).cast());
            let second = _mm512_loadu_si512(from.add(width + i).cast());
            let (low, high) = interleave(first, second);
            _mm512_storeu_si512(out.add(2 * i).cast(), low);
            _mm512_storeu_si512(out.add(2 * i + LINE).cast(), high);
        }
    }
}

/// bf16 numbers to lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn copy(from: *const i16, len: usize, out: *mut Line, stride: usize) {
    // SAFETY: as `convert`.
    unsafe {
        for i in 0..len / LINE {
            store(
                out.add(i * stride),
                _mm512_loadu_si512(from.add(i * LINE).cast()),
            );
        }
        let rest = len % LINE;
        if rest > 0 {
            let numbers = _mm512_maskz_loadu_epi16((1u32 << rest) - 1, from.add(len - rest));
            store(out.add(len / LINE * stride), numbers);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(line: *const Line) -> __m512i {
    // SAFETY: lines are aligned.
    unsafe { _mm512_load_si512(line.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn store(line: *mut Line, v: __m512i) {
    // SAFETY: lines are aligned.
    unsafe { _mm512_store_si512(line.cast(), v) }
}

/// `a0 b0 a1 b1 ..` of two lines, in two halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn interleave(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
    const fn order(first: i16) -> [i16; LINE] {
        let mut order = [0; LINE];
        let mut i = 0;
        while i < LINE {
            order[i] = first + i as i16 / 2 + 32 * (i as i16 % 2);
            i += 1;
        }
        order
    }
    const LOW: [i16; LINE] = order(0);
    const HIGH: [i16; LINE] = order(16);
    // SAFETY: the arrays have the size of a vector.
    let (low, high) = unsafe {
        (
            transmute::<[i16; LINE], __m512i>(LOW),
            transmute::<[i16; LINE], __m512i>(HIGH),
        )
    };
    (
        _mm512_permutex2var_epi16(a, low, b),
        _mm512_permutex2var_epi16(a, high, b),
    )
}

/// Row i, column j to row j, column i, of 16 x 16 pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = rows;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Lane l of r[4 g + j] holds column 4 l + j of rows 4 g to 4 g + 3.
    let mut r = t;
    for i in (0..16).step_by(4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    let mut out = r;
    for j in 0..4 {
        let even = (
            _mm512_shuffle_i32x4::<0x88>(r[j], r[4 + j]),
            _mm512_shuffle_i32x4::<0x88>(r[8 + j], r[12 + j]),
        );
        let odd = (
            _mm512_shuffle_i32x4::<0xdd>(r[j], r[4 + j]),
            _mm512_shuffle_i32x4::<0xdd>(r[8 + j], r[12 + j]),
        );
        out[j] = _mm512_shuffle_i32x4::<0x88>(even.0, even.1);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd.0, odd.1);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even.0, even.1);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd.0, odd.1);
    }
    out
}
