//! Operands copied into the layout that a kernel reads.

use std::ops::Range;

use rayon::prelude::*;

use super::Precision;
use super::dense::{self, Dense};
#[cfg(target_arch = "x86_64")]
use super::floats::Fill;
use super::kernel::{Engine, Kernel, Side};
use super::panels::{self, LINE, Line, Panels, Scratch};
use super::source::{Data, Depth, Operand, Source};
#[cfg(target_arch = "x86_64")]
use crate::memory::Aligned;
use crate::memory::filled;

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

/// Products of keys (rows) and queries (columns), for [`Packed::pack_gradients`].
#[derive(Clone, Copy)]
pub(crate) struct GradientTile<'a> {
    /// `q . k`, in rows of `stride`.
    pub logits: &'a [f32],
    /// `dout . v`.
    pub grads: &'a [f32],
    pub stride: usize,
    pub size: (usize, usize),
    /// The logarithm to base 2 of the sum of exponentials, and `dout . out`, of each column.
    pub columns: [&'a [f32]; 2],
    /// The factor from `q . k` to logits.
    pub scale: f32,
    /// Where its first row and column lie in what is packed: multiples of the kernel's grain and of a line.
    pub at: (usize, usize),
}

/// Parts that the sums of powers are kept in.
pub(crate) const POWER_SUMS: usize = 16;

/// One operand in the layout of a kernel. Its buffers are reused when it is packed again.
pub struct Packed {
    kernel: Kernel,
    engine: Engine,
    side: Side,
    /// Panels, for the bf16 engines.
    lines: Vec<Line>,
    /// Panels of f32, for AVX2.
    #[cfg(target_arch = "x86_64")]
    wide: Aligned,
    /// Rows of the source one after the other, for the other engines.
    dense: Vec<f32>,
    /// Strides of `dense`: items, depth.
    strides: [usize; 2],
    len: usize,
    depth: usize,
    scratch: Scratch,
}

impl Packed {
    pub(crate) fn new(kernel: Kernel, side: Side) -> Self {
        Self {
            kernel,
            engine: kernel.engine(),
            side,
            lines: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            wide: Aligned::default(),
            dense: Vec::new(),
            strides: [0, 0],
            len: 0,
            depth: 0,
            scratch: Scratch::new(),
        }
    }

    /// A whole operand, packed by all threads.
    pub(crate) fn whole(kernel: Kernel, side: Side, operand: &Operand) -> Self {
        let mut packed = Self::new(kernel, side);
        (packed.len, packed.depth) = (operand.len(), operand.depth());
        match packed.engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => packed.floats_by_all(operand),
            engine if engine.packs_panels() => packed.panels_by_all(operand),
            _ => packed.dense_part(operand, 0..packed.len, 0..packed.depth, true),
        }
        packed
    }

    /// Takes the rows of `m` as items, and sums over its columns.
    pub fn pack_rows(&mut self, m: Matrix) {
        self.pack(&Operand::by_rows(m.source()), 0..m.rows, 0..m.cols);
    }

    /// Takes the columns of `m` as items, and sums over its rows.
    pub fn pack_columns(&mut self, m: Matrix) {
        self.pack(&Operand::by_columns(m.source()), 0..m.cols, 0..m.rows);
    }

    /// Makes room for the powers of so many rows and columns of logits.
    pub(crate) fn begin_powers(&mut self, rows: usize, columns: usize) {
        (self.len, self.depth) = (rows, columns);
        self.make_room(self.layout());
    }

    /// Takes `2^(z * scale)` of some `columns` of a tile's rows as items, and sums over the columns; those not `seen` give 0.
    /// Adds each row's sum, in [`POWER_SUMS`] parts, to `sums`. The powers must be within 2^-126..2^126, room have been made
    /// for them, and the kernel be one that [`Kernel::packs_powers`].
    pub(crate) fn pack_powers(
        &mut self,
        (tile, stride): (&[f32], usize),
        columns: Range<usize>,
        seen: Option<&dyn Fn(usize) -> Range<usize>>,
        scale: f32,
        sums: &mut [f32],
    ) {
        assert!(self.kernel.packs_powers(), "another kernel's powers");
        #[cfg(target_arch = "x86_64")]
        {
            let panels = self.layout();
            let tile = super::powers::Tile {
                data: tile,
                stride,
                rows: self.len,
                columns: self.depth,
                seen,
            };
            // SAFETY: the processor was asked.
            unsafe {
                super::powers::fill(&tile, columns, scale, panels, &mut self.lines, sums);
            }
        }
    }

    /// What a tile of `whole` keys and queries gives for the gradients of attention, from `tile.at` on: its probabilities
    /// as `p`, and the gradients of `q . k` as `ds`, their rows as items, and as `turned`, their columns as items. Of a
    /// kernel that [`Kernel::packs_powers`].
    pub(crate) fn pack_gradients(
        [p, ds, turned]: [&mut Self; 3],
        whole: (usize, usize),
        tile: &GradientTile,
        seen: &dyn Fn(usize) -> Range<usize>,
    ) {
        assert!(p.kernel.packs_powers(), "another kernel's gradients");
        #[cfg(target_arch = "x86_64")]
        {
            use super::powers::{Out, fill_gradients};
            (p.len, p.depth) = whole;
            (ds.len, ds.depth) = whole;
            (turned.depth, turned.len) = whole;
            let out = [p, ds, turned].map(|packed| {
                let panels = packed.layout();
                packed.make_room(panels);
                let lines = &mut packed.lines[..];
                Out { panels, lines }
            });
            // SAFETY: the processor was asked.
            unsafe { fill_gradients(tile, seen, out) };
        }
    }

    /// Packs part of an operand on this thread.
    pub(crate) fn pack(&mut self, operand: &Operand, items: Range<usize>, depth: Range<usize>) {
        (self.len, self.depth) = (items.len(), depth.len());
        match self.engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2 => self.floats(operand, items, depth),
            engine if engine.packs_panels() => self.panels(operand, items, depth),
            _ => self.dense_part(operand, items, depth, false),
        }
    }

    /// Panels of bf16, on this thread.
    fn panels(&mut self, operand: &Operand, items: Range<usize>, depth: Range<usize>) {
        let panels = self.layout();
        self.make_room(panels);
        let (lines, scratch) = (&mut self.lines, &mut self.scratch);
        // SAFETY: these engines are only chosen where AVX-512 BF16 is supported.
        unsafe { panels::fill(operand, (items, depth), panels, lines, scratch) };
    }

    fn layout(&self) -> Panels {
        Panels {
            side: self.side,
            items: self.engine.panel(self.side),
            blocks: self.depth.div_ceil(LINE),
        }
    }

    fn make_room(&mut self, panels: Panels) {
        let needed = self.len.div_ceil(panels.items) * panels.lines();
        if self.lines.len() < needed {
            self.lines.resize(needed, Line::ZERO);
        }
    }

    fn panels_by_all(&mut self, operand: &Operand) {
        /// Parts that the panels are divided into.
        const PARTS: usize = 32;
        let panels = self.layout();
        let (len, depth) = (self.len, self.depth);
        let count = len.div_ceil(panels.items);
        let group = count.div_ceil(PARTS).max(1);
        let lines = (group * panels.lines()).max(1);
        let fill = |all: &mut [Line]| {
            // Of the last panel not all items are filled.
            all[count.saturating_sub(1) * panels.lines()..].fill(Line::ZERO);
            let parts = all.par_chunks_mut(lines).enumerate();
            parts.for_each_init(Scratch::new, |scratch, (i, part)| {
                let first = i * group * panels.items;
                let items = first..(first + group * panels.items).min(len);
                // SAFETY: these engines are only chosen where AVX-512 BF16 is supported.
                unsafe { panels::fill(operand, (items, 0..depth), panels, part, scratch) };
            });
        };
        // SAFETY: packing writes every line of the items that there are, and the last panel's have been.
        self.lines = unsafe { filled(count * panels.lines(), fill) };
    }

    /// Panels of f32, on this thread.
    #[cfg(target_arch = "x86_64")]
    fn floats(&mut self, operand: &Operand, items: Range<usize>, depth: Range<usize>) {
        let panel = self.make_wide_room();
        let fill = Fill {
            operand,
            items,
            depth,
            panel,
            round: self.kernel.precision() == Precision::Bf16,
            out: &mut self.wide,
            scratch: &mut self.scratch.floats,
        };
        // SAFETY: this engine is only chosen where AVX2 is supported.
        unsafe { fill.run() };
    }

    /// The same by all threads, for a whole operand.
    #[cfg(target_arch = "x86_64")]
    fn floats_by_all(&mut self, operand: &Operand) {
        /// Parts that the panels are divided into.
        const PARTS: usize = 32;
        let panel = self.make_wide_room();
        let (len, depth) = (self.len, self.depth);
        let round = self.kernel.precision() == Precision::Bf16;
        let group = len.div_ceil(panel).div_ceil(PARTS).max(1);
        let numbers = (group * panel * depth).max(1);
        self.wide
            .par_chunks_mut(numbers)
            .enumerate()
            .take(len.div_ceil(panel * group))
            .for_each_init(Vec::new, |scratch, (i, out)| {
                let first = i * group * panel;
                let fill = Fill {
                    operand,
                    items: first..(first + group * panel).min(len),
                    depth: 0..depth,
                    panel,
                    round,
                    out,
                    scratch,
                };
                // SAFETY: as above.
                unsafe { fill.run() };
            });
    }

    /// Makes room for panels of f32; says how many items each has.
    #[cfg(target_arch = "x86_64")]
    fn make_wide_room(&mut self) -> usize {
        let panel = self.engine.panel(self.side);
        self.wide
            .grow(self.len.div_ceil(panel) * panel * self.depth);
        panel
    }

    /// Copies rows of the source, rounded if the precision says so.
    fn dense_part(
        &mut self,
        operand: &Operand,
        items: Range<usize>,
        depth: Range<usize>,
        by_all: bool,
    ) {
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
        let precision = self.kernel.precision();
        let copy = |(i, out): (usize, &mut [f32])| {
            operand
                .source
                .copy_row(&operand.source.at(rows.start + i), cols.clone(), out);
            if precision == Precision::Bf16 {
                dense::round_to_bf16(out);
            }
        };
        let width = width.max(1);
        if by_all {
            self.dense
                .par_chunks_exact_mut(width)
                .with_min_len(16)
                .enumerate()
                .for_each(copy);
        } else {
            self.dense
                .chunks_exact_mut(width)
                .enumerate()
                .for_each(copy);
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

    pub(crate) fn is(&self, kernel: Kernel, side: Side) -> bool {
        self.kernel == kernel && self.side == side
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
    /// `item` must be a multiple of the engine's panel; `depth` of `LINE`, where panels are of bf16.
    pub fn new(packed: &'a Packed, item: usize, depth: usize) -> Self {
        debug_assert!(item <= packed.len && depth <= packed.depth);
        debug_assert!(
            item.is_multiple_of(packed.engine.panel(packed.side))
                && (depth.is_multiple_of(LINE) || !packed.engine.packs_panels())
        );
        Self {
            packed,
            item,
            depth,
        }
    }

    /// Where the numbers start, for the f32 engines.
    pub fn dense(&self) -> Dense {
        let [item, depth] = self.packed.strides;
        let at = self
            .packed
            .dense
            .as_ptr()
            .wrapping_add(self.item * item + self.depth * depth);
        Dense { at, item, depth }
    }

    /// Where the panels start, and the numbers from one to the next, for AVX2.
    #[cfg(target_arch = "x86_64")]
    pub fn floats(&self) -> (*const f32, usize) {
        let panel = self.packed.engine.panel(self.packed.side);
        let stride = panel * self.packed.depth;
        let at = self.item / panel * stride + self.depth * panel;
        (self.packed.wide.as_ptr().wrapping_add(at), stride)
    }

    /// Where the panels start, and the lines from one to the next, for the bf16 engines.
    pub fn panels(&self) -> (*const Line, usize) {
        let layout = self.packed.layout();
        let at = self.item / layout.items * layout.lines() + self.depth / LINE * layout.items;
        (self.packed.lines.as_ptr().wrapping_add(at), layout.lines())
    }
}
