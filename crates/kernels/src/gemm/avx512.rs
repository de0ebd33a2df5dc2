//! The AVX-512 BF16 kernel: 12 x 32 numbers of C in 24 registers.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::kernel::Start;
use super::panels::{LINE, Line, RIGHT};
use super::tiles::{self, Layout, Tile};

/// Items of a left panel: rows of C held in registers.
pub const LEFT: usize = 12;

/// A block of C from left panels `a.1` lines apart and right panels `b.1` lines apart.
///
/// # Safety
/// The processor must have AVX-512 with BF16; the panels must hold m and n items of depth k, and C be writable.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn block(
    a: (*const Line, usize),
    b: (*const Line, usize),
    mnk: [usize; 3],
    c: (*mut f32, usize),
    start: Start,
) {
    let layout = Layout {
        left: LEFT,
        right: RIGHT,
        numbers: LINE,
    };
    tiles::each(layout, (a, b), mnk, (c, start), |tile, count| {
        // SAFETY: as the caller promises; sums that wait have a row each.
        unsafe { rows(tile, count) };
    });
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows(tile: Tile<Line>, rows: usize) {
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
    t: &Tile<Line>,
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
unsafe fn multiply<const R: usize, const V: usize>(t: Tile<Line>) {
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
