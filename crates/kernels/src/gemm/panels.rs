//! Packing into bf16 panels, the layout shared by the AVX-512 and the AMX kernels.
//!
//! All is made of lines of 64 bytes. A left panel holds as many items as the kernel says: for each 32 numbers of depth, one line an item.
//! A right panel holds 32 items: for each pair of depth, two lines of 16 items with their two numbers side by side.
//! Depth is filled up to a multiple of 32 with zeros; items beyond the last one are left as they were.

use std::ops::Range;

use super::kernel::Side;
use super::source::Operand;

/// 32 bf16 numbers, as bits.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Line(
    #[cfg_attr(not(test), expect(dead_code, reason = "read as vectors"))] pub(super) [u16; LINE],
);

/// Numbers a line.
pub const LINE: usize = 32;
/// Items of a right panel.
pub const RIGHT: usize = 32;

impl crate::memory::Number for Line {}

impl Line {
    /// All zeros.
    pub const ZERO: Line = Line([0; LINE]);
}

/// Where panels are written: how many items each holds, and how many lines.
#[derive(Clone, Copy, Debug)]
pub struct Panels {
    /// Left or right.
    pub side: Side,
    /// Items a panel.
    pub items: usize,
    /// Blocks of 32 numbers of depth.
    pub blocks: usize,
}

impl Panels {
    /// Lines a panel.
    pub fn lines(&self) -> usize {
        self.items * self.blocks
    }
}

/// Lines and numbers on their way.
pub struct Scratch {
    pub(super) lines: Vec<Line>,
    pub(super) floats: Vec<f32>,
}

impl Scratch {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            lines: Vec::new(),
            floats: Vec::new(),
        }
    }
}

/// Packs `items` x `depth` of an operand into panels that start at `out`.
///
/// # Safety
/// The processor must have AVX-512 with BF16 (in tests, where tiles are emulated, it need not).
pub unsafe fn fill(
    operand: &Operand,
    part: (Range<usize>, Range<usize>),
    panels: Panels,
    out: &mut [Line],
    scratch: &mut Scratch,
) {
    #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
    if !crate::isa::Isa::Avx512Bf16.supported() {
        return super::plain_pack::fill(operand, part, panels, out);
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as the caller promises.
    unsafe {
        super::pack::fill(operand, part, panels, out, scratch);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!(
        "no engine packs {panels:?} of {part:?} here: {operand:?}, {}, {}",
        out.len(),
        scratch.lines.len()
    );
}
