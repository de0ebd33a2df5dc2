//! What both branches do with a few rows: the norm before, the products, and the norm's gradient.

use crate::gemm::source::{Data, Depth, Operand, Source};
use crate::gemm::{Block, Kernel, Matrix, Packed, Side, Start};
use crate::norm::{RmsForward, rms_backward};
use crate::segments::Segments;
use crate::simd::{Loop, vectorised};

/// Rows that go through at a time: a multiple of every kernel's panel.
pub const ROWS: usize = 192;

/// The weights of each group as right sides of products, where the group has rows.
pub fn pack(
    kernel: Kernel,
    segments: &Segments,
    weights: Data,
    (rows, columns): (usize, usize),
    depth: Depth,
) -> Vec<Option<Packed>> {
    let one = |group: usize| {
        segments.of_group(group).next()?;
        let own = weights.rows(group * rows..(group + 1) * rows, columns);
        let source = Source::matrix(own, rows, columns, columns);
        Some(Packed::whole(
            kernel,
            Side::Right,
            &Operand { source, depth },
        ))
    };
    (0..segments.groups()).map(one).collect()
}

/// The packed weights of a group that has rows.
pub fn of(packed: &[Option<Packed>], group: usize) -> &Packed {
    packed[group]
        .as_ref()
        .expect("a tile's group has rows, so its weights were packed")
}

/// `c (+)= a b` from item `item` and depth `depth` of `b` on.
pub fn multiply(
    kernel: Kernel,
    a: &Packed,
    b: (&Packed, usize, usize),
    columns: usize,
    c: (&mut [f32], usize),
    start: Start,
) {
    let (b, item, depth) = b;
    let shape = [a.len(), columns, a.depth()];
    assert!(
        item + columns <= b.len()
            && depth + a.depth() <= b.depth()
            && columns <= c.1
            && (a.is_empty() || c.0.len() >= (a.len() - 1) * c.1 + columns),
        "operands do not fit: {shape:?}"
    );
    let (a, b) = (Block::new(a, 0, 0), Block::new(b, item, depth));
    // SAFETY: the operands hold what the shape says from there on, and C was checked.
    unsafe { kernel.block(a, b, shape, (c.0.as_mut_ptr(), c.1), start) }
}

/// The gradient of some rows of the stream, of which `dy` is that of the sum and `dn` that of the norm; adds to that of w.
pub struct NormBackward<'a> {
    pub x: &'a [f32],
    pub dn: &'a [f32],
    pub dy: &'a [f32],
    pub w: &'a [f32],
    pub eps: f32,
    pub dx: &'a mut [f32],
    pub dw: &'a mut [f32],
}

impl Loop for NormBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let width = self.w.len();
        let rows = (self.x.chunks_exact(width)).zip(self.dn.chunks_exact(width));
        let outs = (self.dx.chunks_exact_mut(width)).zip(self.dy.chunks_exact(width));
        for (row, (dx, dy)) in rows.zip(outs) {
            rms_backward(row, self.w, self.eps, dx, self.dw);
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
    }
}

/// The norm of some rows.
pub fn normed(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    vectorised(RmsForward { x, w, eps, y });
}

/// Adjacent rows of `width` numbers.
pub fn matrix(numbers: &[f32], width: usize) -> Matrix<'_> {
    Matrix::new(numbers, numbers.len() / width.max(1), width)
}
