//! Operands copied into the layout that a kernel reads, and the choice of the kernel.

use std::ops::Range;

use super::Precision;
use super::dense::{self, Dense};
use super::source::{Data, Depth, Operand, Source};
use crate::isa::{Isa, isa};

/// A row-major matrix of f32 numbers, for the block level.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows x cols` adjacent numbers.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` numbers that start `stride` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        let needed = if rows == 0 {
            0
        } else {
            (rows - 1) * stride + cols
        };
        assert!(
            data.len() >= needed,
            "a matrix of {needed} numbers in {}",
            data.len()
        );
        Self {
            data,
            rows,
            cols,
            stride,
        }
    }

    fn source(&self) -> Source<'a> {
        Source::matrix(Data::F32(self.data), self.rows, self.cols, self.stride)
    }
}

/// The way of multiplying, fixed for the time of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    isa: Isa,
    precision: Precision,
}

/// Which side of the product an operand is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Gives the rows of the product.
    Left,
    /// Gives its columns.
    Right,
}

impl Kernel {
    /// The kernel for the current `isa()`.
    pub fn new(precision: Precision) -> Self {
        Self {
            isa: isa(),
            precision,
        }
    }

    /// An empty left operand.
    pub fn left(self) -> Packed {
        Packed::new(self, Side::Left)
    }

    /// An empty right operand.
    pub fn right(self) -> Packed {
        Packed::new(self, Side::Right)
    }

    /// `C = A B`, or `C += A B` if `add`, on this thread. C is row-major with rows `ldc` apart.
    ///
    /// # Panics
    /// If the operands' depths differ or `c` is too short.
    pub fn multiply(self, a: &Packed, b: &Packed, c: &mut [f32], ldc: usize, add: bool) {
        let shape = [a.len, b.len, a.depth];
        let needed = if a.len == 0 {
            0
        } else {
            (a.len - 1) * ldc + b.len
        };
        assert!(
            a.depth == b.depth && c.len() >= needed && ldc >= b.len,
            "operands do not fit: {shape:?}"
        );
        let start = if add { Start::Add } else { Start::Zero };
        let (a, b) = (Block::new(a, 0, 0), Block::new(b, 0, 0));
        // SAFETY: C was checked, and the blocks are the whole operands.
        unsafe { self.block(a, b, shape, (c.as_mut_ptr(), ldc), start) }
    }

    /// One block of a product.
    ///
    /// # Safety
    /// The blocks must hold `m` and `n` items of depth `k` from where they start, packed by this kernel,
    /// and `c.0` must be writable for `m` rows of `n` numbers that are `c.1` apart.
    pub(crate) unsafe fn block(
        self,
        a: Block,
        b: Block,
        mnk: [usize; 3],
        c: (*mut f32, usize),
        start: Start,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let add = start.prepare(mnk, c);
            match self.isa {
                Isa::Portable => dense::multiply_plain(a.dense(), b.dense(), mnk, c, add),
                _ => dense::multiply(a.dense(), b.dense(), mnk, c, add),
            }
        }
    }
}

/// What a block of the product is added to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// Nothing.
    Zero,
    /// What is there.
    Add,
    /// A number for each column, from here on.
    Bias(*const f32),
}

impl Start {
    /// Writes the bias, if any; whether the product is to be added to what is there.
    unsafe fn prepare(self, [m, n, _]: [usize; 3], c: (*mut f32, usize)) -> bool {
        if let Self::Bias(bias) = self {
            for i in 0..m {
                // SAFETY: the caller promises n numbers of bias and m rows of C.
                unsafe { std::ptr::copy_nonoverlapping(bias, c.0.add(i * c.1), n) };
            }
        }
        !matches!(self, Self::Zero)
    }
}

/// One operand in the layout of a kernel.
#[derive(Debug)]
pub struct Packed {
    kernel: Kernel,
    side: Side,
    /// Row-major numbers, for the f32 path.
    dense: Vec<f32>,
    /// Strides of `dense`.
    strides: [usize; 2],
    len: usize,
    depth: usize,
}

impl Packed {
    fn new(kernel: Kernel, side: Side) -> Self {
        Self {
            kernel,
            side,
            dense: Vec::new(),
            strides: [0, 0],
            len: 0,
            depth: 0,
        }
    }

    /// Takes the rows of `m` as items, and sums over its columns.
    pub fn pack_rows(&mut self, m: Matrix) {
        self.pack(&Operand::by_rows(m.source()), 0..m.rows, 0..m.cols);
    }

    /// Takes the columns of `m` as items, and sums over its rows.
    pub fn pack_columns(&mut self, m: Matrix) {
        self.pack(&Operand::by_columns(m.source()), 0..m.cols, 0..m.rows);
    }

    /// Packs part of an operand on this thread.
    pub(crate) fn pack(&mut self, operand: &Operand, items: Range<usize>, depth: Range<usize>) {
        (self.len, self.depth) = (items.len(), depth.len());
        let (rows, cols) = match operand.depth {
            Depth::Columns => (items, depth),
            Depth::Rows => (depth, items),
        };
        let width = cols.len();
        self.strides = match operand.depth {
            Depth::Columns => [width, 1],
            Depth::Rows => [1, width],
        };
        self.dense.resize(rows.len() * width, 0.0);
        for (row, out) in rows.zip(self.dense.chunks_exact_mut(width.max(1))) {
            operand.source.copy_row(row, cols.clone(), out);
            if self.kernel.precision == Precision::Bf16 {
                dense::round_to_bf16(out);
            }
        }
    }

    /// Items packed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is packed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Numbers summed over.
    pub fn depth(&self) -> usize {
        self.depth
    }
}

/// Part of a packed operand: from `item` and `depth` on.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    packed: &'a Packed,
    item: usize,
    depth: usize,
}

impl<'a> Block<'a> {
    /// `item` and `depth` must be multiples of `ALIGN` or 0.
    pub fn new(packed: &'a Packed, item: usize, depth: usize) -> Self {
        debug_assert!(item <= packed.len && depth <= packed.depth);
        Self {
            packed,
            item,
            depth,
        }
    }

    fn dense(&self) -> Dense {
        let [item, depth] = self.packed.strides;
        let at = self
            .packed
            .dense
            .as_ptr()
            .wrapping_add(self.item * item + self.depth * depth);
        Dense { at, item, depth }
    }
}
