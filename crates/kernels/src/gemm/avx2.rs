//! The AVX2 kernel: 6 x 16 numbers of C in 12 registers, from panels of f32.

use std::arch::x86_64::*;

use super::kernel::Start;

/// Items of a left panel: rows of C held in registers.
pub const LEFT: usize = 6;
/// Items of a right panel: two vectors.
pub const RIGHT: usize = 16;

/// Numbers a vector.
pub const VECTOR: usize = 8;
/// Depth of the part of a right panel that stays in the first-level cache while the left side passes.
const DEPTH: usize = 256;

/// One tile of C and the panels that it is the product of.
#[derive(Clone, Copy)]
struct Tile {
    a: *const f32,
    b: *const f32,
    depth: usize,
    /// Where the sums so far are, for `Start::Add`, and from one row to the next.
    from: (*const f32, usize),
    /// Where the sums go.
    to: (*mut f32, usize),
    start: Start,
    cols: usize,
}

/// A block of C from left panels `a.1` numbers apart and right panels `b.1` numbers apart.
///
/// # Safety
/// The processor must have AVX2 and FMA; the panels must hold m and n items of depth k, right ones aligned to 32
/// bytes, and C be writable.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn block(
    a: (*const f32, usize),
    b: (*const f32, usize),
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
                a: a.0.wrapping_add(row / LEFT * a.1 + part * DEPTH * LEFT),
                b: b.0.wrapping_add(col / RIGHT * b.1 + part * DEPTH * RIGHT),
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

#[target_feature(enable = "avx2,fma")]
unsafe fn rows(tile: Tile, rows: usize) {
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
unsafe fn begin<const R: usize, const V: usize>(t: &Tile) -> [[__m256; V]; R] {
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
unsafe fn multiply<const R: usize, const V: usize>(t: Tile) {
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
