//! The choice of the kernel, and one block of a product on one thread.

use super::Precision;
use super::dense;
use super::packed::{Block, Packed};
use super::panels::LINE;
use super::product::Output;
use crate::isa::{Isa, isa};

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

/// The code that multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Panels of bf16, tiles.
    Amx,
    /// Panels of bf16, AVX-512.
    Avx512Bf16,
    /// Panels of f32, AVX2: packed once, where the `gemm` crate would pack each block anew.
    Avx2,
    /// f32 numbers, the `gemm` crate.
    Crate,
    /// f32 numbers, plain loops.
    Plain,
}

impl Engine {
    /// Items of a panel, and what the start of a block of items must be a multiple of.
    pub fn panel(self, side: Side) -> usize {
        match (self, side) {
            #[cfg(target_arch = "x86_64")]
            (Self::Amx, Side::Left) => super::amx::LEFT,
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512Bf16, Side::Left) => super::avx512::LEFT,
            #[cfg(target_arch = "x86_64")]
            (Self::Amx | Self::Avx512Bf16, Side::Right) => super::panels::RIGHT,
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Side::Left) => super::avx2::LEFT,
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Side::Right) => super::avx2::RIGHT,
            _ => 1,
        }
    }

    /// Whether operands are panels of bf16.
    pub fn packs_panels(self) -> bool {
        matches!(self, Self::Amx | Self::Avx512Bf16)
    }
}

impl Kernel {
    /// The kernel for the current `isa()`; blocks of 8-bit floats are multiplied as bf16.
    pub fn new(precision: Precision) -> Self {
        #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
        if let Some(isa) = super::emulator::forced() {
            return Self { isa, precision };
        }
        Self {
            isa: isa(),
            precision: precision.wider(),
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

    /// What a block's first item must be a multiple of where the operand is on the left, and its first depth.
    pub(crate) fn grain(self) -> usize {
        let engine = self.engine();
        let panel = engine.panel(Side::Left);
        match engine.packs_panels() {
            true => panel * LINE / gcd(panel, LINE),
            false => panel,
        }
    }

    /// Runs `f`, which multiplies small blocks again and again on this thread, with all made ready for them.
    pub(crate) fn held<T>(self, f: impl FnOnce() -> T) -> T {
        match self.engine() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the engine is only chosen where it is supported.
            Engine::Amx => unsafe { super::amx::with_tiles(f) },
            _ => f(),
        }
    }

    /// Whether powers of two are packed as they are made.
    pub(crate) fn packs_powers(self) -> bool {
        self.engine().packs_panels() && Isa::Avx512Bf16.supported()
    }

    /// Columns of C that are as cheap to make as `n`, if there is room for them.
    pub(crate) fn whole_columns(self, n: usize) -> usize {
        match self.engine().packs_panels() {
            true => n.next_multiple_of(LINE / 2),
            false => n,
        }
    }

    /// Rows of C that are as cheap to make as `m`, if there is room for them.
    pub(crate) fn whole_rows(self, m: usize) -> usize {
        let engine = self.engine();
        match engine.packs_panels() {
            true => m.next_multiple_of(engine.panel(Side::Left)),
            false => m,
        }
    }

    pub(crate) fn precision(self) -> Precision {
        self.precision
    }

    pub(crate) fn engine(self) -> Engine {
        match (self.precision, self.isa) {
            (_, Isa::Portable) => Engine::Plain,
            (Precision::Bf16, Isa::Amx) if super::check::amx_is_right() => Engine::Amx,
            (Precision::Bf16, Isa::Amx | Isa::Avx512Bf16) => Engine::Avx512Bf16,
            (_, Isa::Avx2) => Engine::Avx2,
            _ => Engine::Crate,
        }
    }

    /// `C = A B`, or `C += A B` if `add`, on this thread. C is row-major with rows `ldc` apart.
    ///
    /// # Panics
    /// If the operands' depths differ, they were packed for another kernel, or `c` is too short.
    pub fn multiply(self, a: &Packed, b: &Packed, c: &mut [f32], ldc: usize, add: bool) {
        let shape = [a.len(), b.len(), a.depth()];
        let needed = if a.is_empty() {
            0
        } else {
            (a.len() - 1) * ldc + b.len()
        };
        assert!(
            a.depth() == b.depth() && c.len() >= needed && ldc >= b.len(),
            "operands do not fit: {shape:?}"
        );
        assert!(
            a.is(self, Side::Left) && b.is(self, Side::Right),
            "operands of another kernel or side"
        );
        let start = if add { Start::Add } else { Start::Zero };
        let (a, b) = (Block::new(a, 0, 0), Block::new(b, 0, 0));
        // SAFETY: C was checked, and the blocks are the whole operands.
        unsafe { self.block(a, b, shape, (c.as_mut_ptr(), ldc), start) }
    }

    /// Whether blocks round their sums themselves where C is bf16.
    pub(crate) fn rounds(self) -> bool {
        self.engine() == Engine::Amx
    }

    /// [`Self::block`] where C may be bf16, if this kernel [`rounds`](Self::rounds) and nothing is added to.
    ///
    /// # Safety
    /// As [`Self::block`].
    pub(crate) unsafe fn block_to(
        self,
        a: Block,
        b: Block,
        mnk: [usize; 3],
        c: (Output, usize),
        start: Start,
    ) {
        // SAFETY: as the caller promises; an engine is only chosen where it is supported.
        unsafe {
            match (self.engine(), c.0) {
                #[cfg(target_arch = "x86_64")]
                (Engine::Amx, _) => super::amx::block(a.panels(), b.panels(), mnk, c, start),
                (_, Output::F32(at)) => self.block(a, b, mnk, (at, c.1), start),
                (engine, Output::Bf16(_)) => unreachable!("{engine:?} does not round"),
            }
        }
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
        // SAFETY: as the caller promises; an engine is only chosen where it is supported.
        unsafe {
            match self.engine() {
                #[cfg(target_arch = "x86_64")]
                Engine::Amx => {
                    super::amx::block(a.panels(), b.panels(), mnk, (Output::F32(c.0), c.1), start);
                }
                #[cfg(target_arch = "x86_64")]
                Engine::Avx512Bf16 => super::avx512::block(a.panels(), b.panels(), mnk, c, start),
                #[cfg(target_arch = "x86_64")]
                Engine::Avx2 => super::avx2::block(a.floats(), b.floats(), mnk, c, start),
                Engine::Plain => {
                    dense::multiply_plain(a.dense(), b.dense(), mnk, c, start.prepare(mnk, c))
                }
                _ => dense::multiply(a.dense(), b.dense(), mnk, c, start.prepare(mnk, c)),
            }
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
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
    ///
    /// # Safety
    /// The bias must have n numbers, and C be writable for m rows.
    pub unsafe fn prepare(self, [m, n, _]: [usize; 3], c: (*mut f32, usize)) -> bool {
        if let Self::Bias(bias) = self {
            for i in 0..m {
                // SAFETY: as the caller promises.
                unsafe { std::ptr::copy_nonoverlapping(bias, c.0.add(i * c.1), n) };
            }
        }
        !matches!(self, Self::Zero)
    }

    /// The same, from column `col` on.
    pub fn at_column(self, col: usize) -> Self {
        match self {
            Self::Bias(bias) => Self::Bias(bias.wrapping_add(col)),
            other => other,
        }
    }
}
