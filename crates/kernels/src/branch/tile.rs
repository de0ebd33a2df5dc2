//! What both branches do with a few rows: the norm before, the products, and the norm's gradient.

use crate::gemm::source::{Data, Depth, Operand, Source};
use crate::gemm::{Block, Kernel, Matrix, Packed, Side, Start};
use crate::norm::{RmsBackward, RmsForward};
use crate::segments::Segments;
use crate::simd::vectorised;

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

/// The norm of some rows.
pub fn normed(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    vectorised(RmsForward { x, w, eps, y });
}

/// The gradient of some rows `x` of the stream, where `dy` is that of the sum and `dn` that of the norm; gives that of the
/// norm's weights.
pub fn norm_backward(
    (x, w, eps): (&[f32], &[f32], f32),
    (dn, dy): (&[f32], &[f32]),
    dx: &mut [f32],
) -> Vec<f32> {
    let mut dw = vec![0.0; w.len()];
    vectorised(RmsBackward {
        x,
        g: dn,
        w,
        eps,
        dx: &mut *dx,
        dw: &mut dw,
    });
    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
    dw
}

/// Adjacent rows of `width` numbers.
pub fn matrix(numbers: &[f32], width: usize) -> Matrix<'_> {
    Matrix::new(numbers, numbers.len() / width.max(1), width)
}
