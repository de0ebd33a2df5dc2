//! Whole products: cut into blocks, packed and multiplied by all threads.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::CpuStorage;
use half::bf16;
use rayon::prelude::*;

use super::dense::nearest;
use super::kernel::{Kernel, Side, Start};
use super::packed::{Block, Packed};
use super::plan::{self, Plan, Right};
use super::source::{Data, Operand};
use crate::memory::{Aligned, Number};

/// Where C starts, in the numbers that it is stored as.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// Single precision.
    F32(*mut f32),
    /// Its upper half: sums are rounded once, when they are whole.
    Bf16(*mut bf16),
}

/// What results are stored as.
pub trait Stored: Number {
    /// Zero.
    const ZERO: Self;
    /// Results from here on.
    fn output(at: *mut Self) -> Output;
    /// Rounds sums.
    fn rounded(sums: Vec<f32>) -> Vec<Self>;
    /// Results as candle holds them.
    fn storage(numbers: Vec<Self>) -> CpuStorage;
}

impl Stored for f32 {
    const ZERO: Self = 0.0;
    fn output(at: *mut Self) -> Output {
        Output::F32(at)
    }
    fn rounded(sums: Vec<f32>) -> Vec<Self> {
        sums
    }
    fn storage(numbers: Vec<Self>) -> CpuStorage {
        CpuStorage::F32(numbers)
    }
}

impl Stored for bf16 {
    const ZERO: Self = bf16::ZERO;
    fn output(at: *mut Self) -> Output {
        Output::Bf16(at)
    }
    fn rounded(sums: Vec<f32>) -> Vec<Self> {
        sums.into_iter().map(nearest).collect()
    }
    fn storage(numbers: Vec<Self>) -> CpuStorage {
        CpuStorage::BF16(numbers)
    }
}

// SAFETY: what is behind the pointer is written by tasks that have numbers of their own, as those who write promise.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// So many numbers on.
    pub fn at(self, offset: usize) -> Self {
        match self {
            Self::F32(at) => Self::F32(at.wrapping_add(offset)),
            Self::Bf16(at) => Self::Bf16(at.wrapping_add(offset)),
        }
    }

    /// Stores rows of sums, `sums.1` apart, as rows that are `stride` apart.
    ///
    /// # Safety
    /// The sums must be there, as many numbers be writable, and no other thread write them meanwhile.
    pub unsafe fn store(
        self,
        sums: (*const f32, usize),
        [rows, columns]: [usize; 2],
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if let Self::Bf16(at) = self
            && crate::isa::Isa::Avx512Bf16.supported()
        {
            // SAFETY: as the caller promises; the processor can.
            return unsafe { super::pack::round_rows(sums, [rows, columns], (at.cast(), stride)) };
        }
        for row in 0..rows {
            // SAFETY: as the caller promises.
            unsafe {
                let sums = std::slice::from_raw_parts(sums.0.add(row * sums.1), columns);
                match self.at(row * stride) {
                    Self::F32(at) => at.copy_from_nonoverlapping(sums.as_ptr(), columns),
                    Self::Bf16(at) => (std::slice::from_raw_parts_mut(at, columns).iter_mut())
                        .zip(sums)
                        .for_each(|(o, s)| *o = nearest(*s)),
                }
            }
        }
    }
}

/// `C = A B (+ bias)`.
pub struct Product<'a> {
    /// Left side, M x K.
    pub a: Operand<'a>,
    /// Right side, K x N.
    pub b: Operand<'a>,
    /// The whole right side, where several products share it.
    pub packed: Option<&'a Packed>,
    /// Where C starts.
    pub c: Output,
    /// From one row of C to the next.
    pub ldc: usize,
    /// Added to each row of C.
    pub bias: Option<&'a [f32]>,
}

impl Product<'_> {
    fn shape(&self) -> [usize; 3] {
        [self.a.len(), self.b.len(), self.a.depth()]
    }
}

/// Rows whose sums wait for their rounding, at the least.
const STRIP: usize = 32;

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

/// What a thread's current block is made in, kept for its buffers.
struct Scratch {
    kernel: Kernel,
    left: Packed,
    right: Packed,
    /// Sums that are rounded when they are whole.
    sums: Aligned,
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Calls `f` with buffers that are reused by this thread.
fn with_scratch(kernel: Kernel, f: impl FnOnce(&mut Scratch)) {
    let found = SCRATCH.take().filter(|s| s.kernel == kernel);
    let mut scratch = found.unwrap_or_else(|| Scratch {
        kernel,
        left: kernel.left(),
        right: kernel.right(),
        sums: Aligned::default(),
    });
    f(&mut scratch);
    SCRATCH.set(Some(scratch));
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
    let ready = product.packed.or(right.as_ref());
    let bias = product.bias.map_or(Start::Zero, |bias| {
        Start::Bias(bias[task.cols.clone()].as_ptr())
    });
    let (depth, width) = (product.a.depth(), task.cols.len());
    // Sums that are to be rounded, where the kernel does not do so itself, are made a strip at a time, which stays in the
    // second-level cache; not where the right side would be packed for each.
    let beside = matches!(product.c, Output::Bf16(_)) && !(kernel.rounds() && depth <= plan.depth);
    let strip = match beside {
        true if ready.is_some() => STRIP.next_multiple_of(kernel.grain()),
        _ => task.rows.len().max(1),
    };
    with_scratch(kernel, |own| {
        for first in task.rows.clone().step_by(strip) {
            let rows = first..(first + strip).min(task.rows.end);
            let to = product.c.at(rows.start * product.ldc + task.cols.start);
            let c = match beside {
                false => (to, product.ldc),
                true => {
                    own.sums.grow(rows.len() * width);
                    (Output::F32(own.sums.as_mut_ptr()), width)
                }
            };
            for k in (0..depth.max(1)).step_by(plan.depth) {
                let ks = k..(k + plan.depth).min(depth);
                let a = match left {
                    Some(whole) => Block::new(whole, rows.start, k),
                    None => {
                        own.left.pack(&product.a, rows.clone(), ks.clone());
                        Block::new(&own.left, 0, 0)
                    }
                };
                let b = match ready {
                    Some(whole) => Block::new(whole, task.cols.start, k),
                    None => {
                        own.right.pack(&product.b, task.cols.clone(), ks.clone());
                        Block::new(&own.right, 0, 0)
                    }
                };
                let start = if k == 0 { bias } else { Start::Add };
                // SAFETY: both are packed as the shape says, and C is writable there.
                unsafe { kernel.block_to(a, b, [rows.len(), width, ks.len()], c, start) };
            }
            if beside {
                let sums = (own.sums.as_ptr(), width);
                // SAFETY: the block's rows of C are writable.
                unsafe { to.store(sums, [rows.len(), width], product.ldc) };
            }
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
            with_scratch(kernel, |own| {
                let Scratch { left, right, .. } = own;
                for from in (i * part..k.min((i + 1) * part)).step_by(plan::DEPTH) {
                    let ks = from..(from + plan::DEPTH).min(k).min((i + 1) * part);
                    left.pack(&product.a, 0..m, ks.clone());
                    right.pack(&product.b, 0..n, ks);
                    kernel.multiply(left, right, sum, n, true);
                }
            });
        });
    let mut total = vec![0.0; n];
    for row in 0..m {
        match product.bias {
            Some(bias) => total.copy_from_slice(&bias[..n]),
            None => total.fill(0.0),
        }
        for sum in sums.chunks_exact(m * n) {
            total
                .iter_mut()
                .zip(&sum[row * n..])
                .for_each(|(c, s)| *c += s);
        }
        // SAFETY: the caller promises m rows of C.
        unsafe {
            product
                .c
                .at(row * product.ldc)
                .store((total.as_ptr(), n), [1, n], n)
        };
    }
}
