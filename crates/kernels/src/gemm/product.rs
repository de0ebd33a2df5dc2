//! Whole products: cut into blocks, packed and multiplied by all threads.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{Kernel, Side, Start};
use super::packed::{Block, Packed};
use super::plan::{self, Plan, Right};
use super::source::{Data, Operand};

/// `C = A B (+ bias)`.
pub struct Product<'a> {
    /// Left side, M x K.
    pub a: Operand<'a>,
    /// Right side, K x N.
    pub b: Operand<'a>,
    /// The whole right side, where several products share it.
    pub packed: Option<&'a Packed>,
    /// Where C starts.
    pub c: *mut f32,
    /// From one row of C to the next.
    pub ldc: usize,
    /// Added to each row of C.
    pub bias: Option<&'a [f32]>,
}

// SAFETY: the pointer is written in disjoint blocks only, and only while `run` holds the product.
unsafe impl Send for Product<'_> {}
// SAFETY: as above.
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    fn shape(&self) -> [usize; 3] {
        [self.a.len(), self.b.len(), self.a.depth()]
    }
}

/// A product with what was packed of it beforehand.
struct Prepared<'a> {
    product: &'a Product<'a>,
    left: Option<Packed>,
    right: Option<Packed>,
    plan: Plan,
}

/// One block of one product.
struct Task<'a> {
    of: &'a Prepared<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
}

/// Computes all products.
///
/// # Safety
/// Each `c` must be writable for its rows, and no two products may write the same numbers.
pub unsafe fn run(kernel: Kernel, products: &[Product]) {
    let (deep, flat): (Vec<_>, Vec<_>) = products.iter().partition(|p| plan::splits(p.shape()) > 1);
    for product in deep {
        // SAFETY: as the caller promises.
        unsafe { split_depth(kernel, product) };
    }
    let prepared: Vec<Prepared> = flat.into_iter().map(|p| prepare(kernel, p)).collect();
    let tasks: Vec<Task> = prepared.iter().flat_map(blocks).collect();
    // SAFETY: blocks of one product are disjoint, and products are, as the caller promises.
    let work = |task: &Task| unsafe { block(kernel, task) };
    let size: usize = prepared
        .iter()
        .map(|p| p.product.shape().iter().product::<usize>())
        .sum();
    if size < plan::SERIAL {
        tasks.iter().for_each(work);
    } else {
        tasks.par_iter().with_max_len(1).for_each(work);
    }
}

fn prepare<'a>(kernel: Kernel, product: &'a Product<'a>) -> Prepared<'a> {
    let right = match (product.packed, product.b.source.data) {
        (Some(_), _) => Right::Packed,
        (None, Data::Few(_)) => Right::Few,
        (None, _) => Right::Loose,
    };
    let plan = Plan::new(kernel.engine(), product.shape(), right);
    let whole = |wanted: bool, side, operand| wanted.then(|| Packed::whole(kernel, side, operand));
    let left = whole(plan.whole_left, Side::Left, &product.a);
    let right = whole(plan.whole_right, Side::Right, &product.b);
    Prepared {
        product,
        left,
        right,
        plan,
    }
}

fn blocks<'a>(of: &'a Prepared<'a>) -> impl Iterator<Item = Task<'a>> {
    let [m, n, _] = of.product.shape();
    let Plan { rows, cols, .. } = of.plan;
    let starts = (0..m)
        .step_by(rows)
        .flat_map(move |r| (0..n).step_by(cols).map(move |c| (r, c)));
    starts.map(move |(r, c)| Task {
        of,
        rows: r..(r + rows).min(m),
        cols: c..(c + cols).min(n),
    })
}

thread_local! {
    /// The operands of this thread's current block, kept for their buffers.
    static SCRATCH: RefCell<Option<(Kernel, Packed, Packed)>> = const { RefCell::new(None) };
}

/// Calls `f` with operands whose buffers are reused by this thread.
fn with_scratch(kernel: Kernel, f: impl FnOnce(&mut Packed, &mut Packed)) {
    let found = SCRATCH.take().filter(|(k, _, _)| *k == kernel);
    let (_, mut left, mut right) = found.unwrap_or_else(|| (kernel, kernel.left(), kernel.right()));
    f(&mut left, &mut right);
    SCRATCH.set(Some((kernel, left, right)));
}

/// # Safety
/// No other block of the same numbers of C is computed meanwhile.
unsafe fn block(kernel: Kernel, task: &Task) {
    let Prepared {
        product,
        left,
        right,
        plan,
    } = task.of;
    let c = product
        .c
        .wrapping_add(task.rows.start * product.ldc + task.cols.start);
    let bias = product.bias.map_or(Start::Zero, |bias| {
        Start::Bias(bias[task.cols.clone()].as_ptr())
    });
    let depth = product.a.depth();
    with_scratch(kernel, |own_left, own_right| {
        for k in (0..depth.max(1)).step_by(plan.depth) {
            let ks = k..(k + plan.depth).min(depth);
            let a = match left {
                Some(whole) => Block::new(whole, task.rows.start, k),
                None => {
                    own_left.pack(&product.a, task.rows.clone(), ks.clone());
                    Block::new(own_left, 0, 0)
                }
            };
            let b = match product.packed.or(right.as_ref()) {
                Some(whole) => Block::new(whole, task.cols.start, k),
                None => {
                    own_right.pack(&product.b, task.cols.clone(), ks.clone());
                    Block::new(own_right, 0, 0)
                }
            };
            let start = if k == 0 { bias } else { Start::Add };
            let shape = [task.rows.len(), task.cols.len(), ks.len()];
            // SAFETY: both are packed as the shape says, and C is writable there.
            unsafe { kernel.block(a, b, shape, (c, product.ldc), start) };
        }
    });
}

/// Few rows and columns but a long sum: parts of the sum are computed apart and added in order.
///
/// # Safety
/// As `run`.
unsafe fn split_depth(kernel: Kernel, product: &Product) {
    let [m, n, k] = product.shape();
    let part = plan::split_size([m, n, k]);
    let mut sums = vec![0.0f32; k.div_ceil(part) * m * n];
    sums.par_chunks_mut(m * n)
        .enumerate()
        .with_max_len(1)
        .for_each(|(i, sum)| {
            with_scratch(kernel, |left, right| {
                for from in (i * part..k.min((i + 1) * part)).step_by(plan::DEPTH) {
                    let ks = from..(from + plan::DEPTH).min(k).min((i + 1) * part);
                    left.pack(&product.a, 0..m, ks.clone());
                    right.pack(&product.b, 0..n, ks);
                    kernel.multiply(left, right, sum, n, true);
                }
            });
        });
    for row in 0..m {
        // SAFETY: the caller promises m rows of C.
        let c = unsafe { std::slice::from_raw_parts_mut(product.c.add(row * product.ldc), n) };
        match product.bias {
            Some(bias) => c.copy_from_slice(&bias[..n]),
            None => c.fill(0.0),
        }
        for sum in sums.chunks_exact(m * n) {
            c.iter_mut().zip(&sum[row * n..]).for_each(|(c, s)| *c += s);
        }
    }
}
