//! Whole products: cut into blocks, packed and multiplied by all threads.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::packed::{Block, Kernel, Packed, Start};
use super::source::Operand;

/// Block sizes in rows, columns and depth: the left block stays in the second-level cache.
const ROWS: usize = 96;
const COLS: usize = 512;
const DEPTH: usize = 1024;

/// Fewer multiplications than this are done without waking other threads.
const SERIAL: usize = 1 << 18;

/// `C = A B (+ bias)`, or `C += A B`.
pub struct Product<'a> {
    /// Left side, M x K.
    pub a: Operand<'a>,
    /// Right side, K x N.
    pub b: Operand<'a>,
    /// Where C starts.
    pub c: *mut f32,
    /// From one row of C to the next.
    pub ldc: usize,
    /// What the product is added to.
    pub onto: Onto<'a>,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Onto<'a> {
    /// Nothing: C is overwritten.
    Zero,
    /// A number for each column; C is overwritten.
    Bias(&'a [f32]),
}

// SAFETY: the pointer is written in disjoint blocks only, and only while `run` holds the product.
unsafe impl Send for Product<'_> {}
// SAFETY: as above.
unsafe impl Sync for Product<'_> {}

/// One block of one product.
struct Task {
    product: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

/// Computes all products.
///
/// # Safety
/// Each `c` must be writable for its rows, and no two products may write the same numbers.
pub unsafe fn run(kernel: Kernel, products: &[Product]) {
    let tasks: Vec<Task> = products
        .iter()
        .enumerate()
        .flat_map(|(i, p)| blocks(i, p))
        .collect();
    // SAFETY: blocks of one product are disjoint, and products are, as the caller promises.
    let work = |task: &Task| unsafe { block(kernel, &products[task.product], task) };
    let size: usize = products
        .iter()
        .map(|p| p.a.len() * p.b.len() * p.a.depth())
        .sum();
    if size < SERIAL {
        tasks.iter().for_each(work);
    } else {
        tasks.par_iter().with_max_len(1).for_each(work);
    }
}

fn blocks(product: usize, p: &Product) -> Vec<Task> {
    let (m, n) = (p.a.len(), p.b.len());
    let mut tasks = Vec::new();
    for r in (0..m).step_by(ROWS) {
        for c in (0..n).step_by(COLS) {
            tasks.push(Task {
                product,
                rows: r..(r + ROWS).min(m),
                cols: c..(c + COLS).min(n),
            });
        }
    }
    tasks
}

thread_local! {
    /// The operands of this thread's current block, kept for their buffers.
    static SCRATCH: RefCell<Option<(Kernel, Packed, Packed)>> = const { RefCell::new(None) };
}

unsafe fn block(kernel: Kernel, p: &Product, task: &Task) {
    let (_, mut left, mut right) = SCRATCH
        .take()
        .filter(|(k, _, _)| *k == kernel)
        .unwrap_or_else(|| (kernel, kernel.left(), kernel.right()));
    let depth = p.a.depth();
    let bias = match p.onto {
        Onto::Zero => Start::Zero,
        Onto::Bias(bias) => Start::Bias(bias[task.cols.clone()].as_ptr()),
    };
    let c = p.c.wrapping_add(task.rows.start * p.ldc + task.cols.start);
    for k in (0..depth.max(1)).step_by(DEPTH) {
        let ks = k..(k + DEPTH).min(depth);
        left.pack(&p.a, task.rows.clone(), ks.clone());
        right.pack(&p.b, task.cols.clone(), ks.clone());
        let start = if k == 0 { bias } else { Start::Add };
        let shape = [task.rows.len(), task.cols.len(), ks.len()];
        // SAFETY: both are packed as the shape says, and C is writable there.
        unsafe {
            kernel.block(
                Block::new(&left, 0, 0),
                Block::new(&right, 0, 0),
                shape,
                (c, p.ldc),
                start,
            )
        };
    }
    SCRATCH.set(Some((kernel, left, right)));
}
