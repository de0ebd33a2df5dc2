//! The order in which the AVX kernels go through a block of C: one right panel after the other, in parts of its depth
//! that stay in the first-level cache while the left side passes.

use super::kernel::Start;

/// Depth of a part.
const DEPTH: usize = 256;

/// One tile of C and the panels that it is the product of.
#[derive(Clone, Copy)]
pub struct Tile<T> {
    /// The left panel, from this part on.
    pub a: *const T,
    /// The right panel, from this part on.
    pub b: *const T,
    /// Depth of the part.
    pub depth: usize,
    /// Where the sums so far are, for `Start::Add`, and from one row to the next.
    pub from: (*const f32, usize),
    /// Where the sums go.
    pub to: (*mut f32, usize),
    /// What the sums start from.
    pub start: Start,
    /// Columns of C in it.
    pub cols: usize,
}

/// How panels are made of `T`.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Items of a left panel.
    pub left: usize,
    /// Items of a right panel.
    pub right: usize,
    /// Numbers of an item in one `T`.
    pub numbers: usize,
}

/// Calls `tile` for each tile of a block and its number of rows, from left panels `a.1` and right panels `b.1` apart.
#[inline(always)]
pub fn each<T>(
    layout: Layout,
    (a, b): ((*const T, usize), (*const T, usize)),
    [m, n, k]: [usize; 3],
    (c, start): ((*mut f32, usize), Start),
    mut tile: impl FnMut(Tile<T>, usize),
) {
    let Layout {
        left,
        right,
        numbers,
    } = layout;
    let parts = k.div_ceil(DEPTH).max(1);
    // The sums of one right panel wait side by side: rows of C that lie a power of two apart push each other out of
    // the caches.
    let mut waiting = vec![0.0f32; if parts > 1 { m * right } else { 0 }];
    for (col, part) in (0..n)
        .step_by(right)
        .flat_map(|col| (0..parts).map(move |p| (col, p)))
    {
        let c = (c.0.wrapping_add(col), c.1);
        let buffer = (waiting.as_mut_ptr(), right);
        let (from, start) = if part == 0 {
            (c, start.at_column(col))
        } else {
            (buffer, Start::Add)
        };
        let to = if part + 1 == parts { c } else { buffer };
        for row in (0..m).step_by(left) {
            let found = Tile {
                a: a.0
                    .wrapping_add(row / left * a.1 + part * DEPTH / numbers * left),
                b: b.0
                    .wrapping_add(col / right * b.1 + part * DEPTH / numbers * right),
                depth: DEPTH.min(k - part * DEPTH),
                from: (from.0.wrapping_add(row * from.1).cast_const(), from.1),
                to: (to.0.wrapping_add(row * to.1), to.1),
                start,
                cols: right.min(n - col),
            };
            tile(found, left.min(m - row));
        }
    }
}
