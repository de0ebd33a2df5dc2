//! The AVX-512 BF16 kernel: 12 x 32 numbers of C in 24 registers.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::kernel::Start;
use super::panels::{LINE, Line, RIGHT};

/// Items of a left panel: rows of C held in registers.
pub const LEFT: usize = 12;

/// Depth of the part of a right panel that stays in the first-level cache while the left side passes.
const DEPTH: usize = 256;

/// One tile of C and the panels that it is the product of.
#[derive(Clone, Copy)]
struct Tile {
    a: *const Line,
    b: *const Line,
    depth: usize,
    /// Where the sums so far are, for `Start::Add`, and from one row to the next.
    from: (*const f32, usize),
    /// Where the sums go.
    to: (*mut f32, usize),
    start: Start,
    cols: usize,
}

/// A block of C from left panels `a.1` lines apart and right panels `b.1` lines apart.
///
/// # Safety
/// The processor must have AVX-512 with BF16; the panels must hold m and n items of depth k, and C be writable.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn block(
    a: (*const Line, usize),
    b: (*const Line, usize),
    [m, n, k]: [usize; 3],
    c: (*mut f32, usize),
    start: Start,
) {
    let parts = k.div_ceil(DEPTH).max(1);
    // The sums of one right panel wait side by side: rows of C that lie a power of two apart push each other out of
    // the caches.
    let mut waiting = vec![0.0f32; if parts > 1 { m * RIGHT } else { 0 }];
    for (col, part) in (0..n)
        .step_by(RIGHT)
        .flat_map(|col| (0..parts).map(move |p| (col, p)))
    {
        let c = (c.0.wrapping_add(col), c.1);
        let buffer = (waiting.as_mut_ptr(), RIGHT);
        let (from, start) = if part == 0 {
            (c, start.at_column(col))
        } else {
            (buffer, Start::Add)
        };
        let to = if part + 1 == parts { c } else { buffer };
        for row in (0..m).step_by(LEFT) {
            let tile = Tile {
                a: a.0
                    .wrapping_add(row / LEFT * a.1 + part * DEPTH / LINE * LEFT),
                b: b.0
                    .wrapping_add(col / RIGHT * b.1 + part * DEPTH / LINE * RIGHT),
                depth: DEPTH.min(k - part * DEPTH),
                from: (from.0.wrapping_add(row * from.1).cast_const(), from.1),
                to: (to.0.wrapping_add(row * to.1), to.1),
                start,
                cols: RIGHT.min(n - col),
            };
            // SAFETY: as the caller promises; the buffer has m rows.
            unsafe { rows(tile, LEFT.min(m - row)) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows(tile: Tile, rows: usize) {
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match (rows, tile.cols > 16) {
                $(($r, true) => multiply::<$r, 2>(tile),
                ($r, false) => multiply::<$r, 1>(tile),)*
                _ => unreachable!("a tile has 1 to 12 rows"),
            }
        };
    }
    // SAFETY: as the caller promises.
    unsafe { by_rows!(1 2 3 4 5 6 7 8 9 10 11 12) }
}

/// What the sums of a tile start from.
#[inline]
#[expect(
    clippy::needless_range_loop,
    reason = "iterators keep the sums in memory"
)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn begin<const R: usize, const V: usize>(
    t: &Tile,
    masks: [__mmask16; V],
) -> [[__m512; V]; R] {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the caller promises that C and the bias are there; masks keep within the columns.
            sums[r][v] = unsafe {
                match t.start {
                    Start::Zero => _mm512_setzero_ps(),
                    Start::Add => {
                        _mm512_maskz_loadu_ps(masks[v], t.from.0.add(r * t.from.1 + 16 * v))
                    }
                    Start::Bias(bias) => _mm512_maskz_loadu_ps(masks[v], bias.add(16 * v)),
                }
            };
        }
    }
    sums
}

/// R rows and V vectors of 16 columns.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators keep the sums in memory"
)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply<const R: usize, const V: usize>(t: Tile) {
    let mut masks = [0; V];
    for (v, mask) in masks.iter_mut().enumerate() {
        *mask = ((1u64 << (t.cols - 16 * v).min(16)) - 1) as __mmask16;
    }
    // SAFETY: the caller promises that the tile's panels and C are there; masks keep within the columns.
    unsafe {
        let mut sums: [[__m512; V]; R] = begin(&t, masks);
        let (mut a, mut b) = (t.a.cast::<i32>(), t.b);
        let mut pairs = t.depth.div_ceil(2);
        while pairs > 0 {
            let now = pairs.min(LINE / 2);
            for p in 0..now {
                let mut right = [transmute::<__m512i, __m512bh>(_mm512_setzero_si512()); V];
                for v in 0..V {
                    right[v] =
                        transmute::<__m512i, __m512bh>(_mm512_load_si512(b.add(2 * p + v).cast()));
                }
                for r in 0..R {
                    let left: __m512bh = transmute(_mm512_set1_epi32(*a.add(r * LINE / 2 + p)));
                    for v in 0..V {
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], left, right[v]);
                    }
                }
            }
            (a, b) = (a.add(LEFT * LINE / 2), b.add(RIGHT));
            pairs -= now;
        }
        for r in 0..R {
            for v in 0..V {
                _mm512_mask_storeu_ps(t.to.0.add(r * t.to.1 + 16 * v), masks[v], sums[r][v]);
            }
        }
    }
}
