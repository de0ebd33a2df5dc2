//! The AVX2 kernel: 6 x 16 numbers of C in 12 registers, from panels of f32.

use std::arch::x86_64::*;

use super::kernel::Start;
use super::tiles::{self, Layout, Tile};

/// Items of a left panel: rows of C held in registers.
pub const LEFT: usize = 6;
/// Items of a right panel: two vectors.
pub const RIGHT: usize = 16;

/// Numbers a vector.
pub const VECTOR: usize = 8;

/// A block of C from left panels `a.1` numbers apart and right panels `b.1` numbers apart.
///
/// # Safety
/// The processor must have AVX2 and FMA; the panels must hold m and n items of depth k, right ones aligned to 32
/// bytes, and C be writable.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn block(
    a: (*const f32, usize),
    b: (*const f32, usize),
    mnk: [usize; 3],
    c: (*mut f32, usize),
    start: Start,
) {
    let layout = Layout {
        left: LEFT,
        right: RIGHT,
        numbers: 1,
    };
    tiles::each(layout, (a, b), mnk, (c, start), |tile, count| {
        // SAFETY: as the caller promises; sums that wait have a row each.
        unsafe { rows(tile, count) };
    });
}

#[target_feature(enable = "avx2,fma")]
unsafe fn rows(tile: Tile<f32>, rows: usize) {
    macro_rules! by_rows {
        ($($r:literal)*) => {
            match (rows, tile.cols > VECTOR) {
                $(($r, true) => multiply::<$r, 2>(tile),
                ($r, false) => multiply::<$r, 1>(tile),)*
                _ => unreachable!("a tile has 1 to 6 rows"),
            }
        };
    }
    // SAFETY: as the caller promises.
    unsafe { by_rows!(1 2 3 4 5 6) }
}

/// Which of the numbers from `8 v` on are columns of the tile: all bits of those that are.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(cols: usize, v: usize) -> __m256i {
    let here = cols.saturating_sub(VECTOR * v).min(VECTOR) as i32;
    _mm256_cmpgt_epi32(
        _mm256_set1_epi32(here),
        _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
    )
}

/// What the sums of a tile start from.
#[inline]
#[expect(
    clippy::needless_range_loop,
    reason = "iterators keep the sums in memory"
)]
#[target_feature(enable = "avx2,fma")]
unsafe fn begin<const R: usize, const V: usize>(t: &Tile<f32>) -> [[__m256; V]; R] {
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    let whole = t.cols == VECTOR * V;
    for r in 0..R {
        for v in 0..V {
            let at = match t.start {
                Start::Zero => continue,
                Start::Add => t.from.0.wrapping_add(r * t.from.1 + VECTOR * v),
                Start::Bias(bias) => bias.wrapping_add(VECTOR * v),
            };
            // SAFETY: the caller promises that C and the bias are there; masks keep within the columns.
            sums[r][v] = unsafe {
                if whole {
                    _mm256_loadu_ps(at)
                } else {
                    _mm256_maskload_ps(at, mask(t.cols, v))
                }
            };
        }
    }
    sums
}

/// R rows and V vectors of 8 columns.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators keep the sums in memory"
)]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const R: usize, const V: usize>(t: Tile<f32>) {
    // SAFETY: the caller promises that the tile's panels and C are there; masks keep within the columns.
    unsafe {
        let mut sums: [[__m256; V]; R] = begin(&t);
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth {
            let mut right = [_mm256_setzero_ps(); V];
            for v in 0..V {
                right[v] = _mm256_load_ps(b.add(VECTOR * v));
            }
            for r in 0..R {
                let left = _mm256_broadcast_ss(&*a.add(r));
                for v in 0..V {
                    sums[r][v] = _mm256_fmadd_ps(left, right[v], sums[r][v]);
                }
            }
            (a, b) = (a.add(LEFT), b.add(RIGHT));
        }
        let whole = t.cols == VECTOR * V;
        for r in 0..R {
            for v in 0..V {
                let to = t.to.0.add(r * t.to.1 + VECTOR * v);
                if whole {
                    _mm256_storeu_ps(to, sums[r][v]);
                } else {
                    _mm256_maskstore_ps(to, mask(t.cols, v), sums[r][v]);
                }
            }
        }
    }
}
