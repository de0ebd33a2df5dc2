//! Convolutions by tiles without packing their input: a tile reads rows where they lie.
//!
//! The input is copied once, as bf16 and with its borders; what a tap sees of 32 positions that follow each other is
//! then 32 rows that follow each other, a constant way off. Where rows of an image are no multiples of 32 they are joined,
//! borders and all: positions that fall on a border are computed for nothing and left out.

use std::borrow::Cow;

use rayon::prelude::*;

use super::amx::{HALF, LEFT, Panels, Shifted, shifted_tiles, tiles, with_tiles};
use super::kernel::{Engine, Kernel, Side};
use super::pack;
use super::packed::{Block, Packed};
use super::panels::{LINE, Line, RIGHT};
use super::product::{Output, Stored};
use super::source::{Data, Operand, Rows, Source};
use super::windows::{Axis as Window, DIMS, Windows};
use crate::memory::filled;

/// Tiles of a task.
const TILES: usize = 8;
/// Fewer input channels than this are mostly filling.
const FEWEST: usize = 24;

/// Numbers that begin at a line of the cache: a tile's rows are then each in one.
struct Lines {
    numbers: Vec<f32>,
    start: usize,
}

impl Lines {
    /// Room for `len` numbers.
    ///
    /// # Safety
    /// `fill` must write every number of the slice, and read none that it has not written.
    unsafe fn filled(len: usize, fill: impl FnOnce(&mut [f32])) -> Self {
        const MORE: usize = size_of::<Line>() / size_of::<f32>();
        let mut start = 0;
        let aligned = |numbers: &mut [f32]| {
            start = (numbers.as_ptr())
                .align_offset(align_of::<Line>())
                .min(MORE);
            numbers[..start].fill(0.0);
            numbers[start + len..].fill(0.0);
            fill(&mut numbers[start..start + len]);
        };
        // SAFETY: what is before and behind is written here, the rest by `fill`.
        let numbers = unsafe { filled(len + MORE, aligned) };
        Self { numbers, start }
    }

    /// From the first number on.
    fn at(&self, first: usize) -> &[f32] {
        &self.numbers[self.start + first..]
    }
}

/// One dimension of a convolution whose outputs are adjacent.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Input positions, without borders.
    pub input: usize,
    /// Positions added in front.
    pub before: usize,
    /// Taps, and the way from one to the next.
    pub taps: usize,
    pub dilation: usize,
    /// Output positions.
    pub output: usize,
}

impl Axis {
    /// Positions that the outputs see, borders and all.
    fn seen(&self) -> usize {
        self.output + (self.taps - 1) * self.dilation
    }

    /// The input position that a border stands for, if any.
    fn source(&self, at: usize, replicate: bool) -> Option<usize> {
        let inside = at.checked_sub(self.before).filter(|i| *i < self.input);
        match (inside, replicate) {
            (None, true) if at < self.before => Some(0),
            (None, true) => Some(self.input - 1),
            (inside, _) => inside,
        }
    }
}

/// A convolution without strides and groups.
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    pub batch: usize,
    pub axes: [Axis; DIMS],
    /// Channels in and out.
    pub channels: [usize; 2],
    /// Whether borders repeat the nearest position; else they are zeros.
    pub replicate: bool,
}

impl Shift {
    /// Whether it is for this kernel, and worth it.
    pub fn suits(&self, kernel: Kernel) -> bool {
        let taps: usize = self.axes.iter().map(|a| a.taps).product();
        kernel.engine() == Engine::Amx
            && crate::isa::Isa::Amx.supported()
            && taps > 1
            && self.channels[0] >= FEWEST
            && self.batch > 0
            && self.axes.iter().all(|a| a.output > 0 && a.input > 0)
    }

    /// Channels in, filled up to whole lines.
    fn width(&self) -> usize {
        self.channels[0].next_multiple_of(LINE)
    }

    /// The bordered position that the first tap of a plane's first output sees.
    fn first(&self, plane: usize) -> usize {
        let [depth, down, across] = &self.axes;
        let (image, t) = (plane / depth.output, plane % depth.output);
        (image * depth.seen() + t) * down.seen() * across.seen()
    }

    /// The tiles of a plane: where they start among its joined rows, and how many positions they are for.
    fn tiles(&self) -> Vec<(usize, usize)> {
        let [_, down, across] = &self.axes;
        let (line, valid) = (across.seen(), across.output);
        let tiles = |start: usize, length: usize| {
            let starts = (0..length).step_by(LEFT);
            starts.map(move |at| (start + at, LEFT.min(length - at)))
        };
        match valid.next_multiple_of(LEFT) <= line {
            true => (0..down.output)
                .flat_map(|y| tiles(y * line, valid))
                .collect(),
            false => tiles(0, (down.output - 1) * line + valid).collect(),
        }
    }

    /// `x [batch, sizes.., in]`, `weights [out, taps.., in]` -> `y [batch, sizes.., out]`.
    ///
    /// # Panics
    /// If a slice has another length.
    pub fn run<T: Stored>(
        &self,
        kernel: Kernel,
        x: Data,
        weights: &[f32],
        bias: Option<&[f32]>,
        y: &mut [T],
    ) {
        assert!(self.suits(kernel));
        let [inputs, outputs] = self.channels;
        let sizes = self.axes.map(|a| a.input);
        let numbers = self.batch * sizes.iter().product::<usize>() * inputs;
        let x = x.rows(0..1, numbers);
        let made = self.axes.iter().map(|a| a.output).product::<usize>();
        assert_eq!(y.len(), self.batch * made * outputs);
        let bordered = self.bordered(x);
        let packed = self.packed(kernel, weights);
        let mut starts = vec![0.0; outputs.next_multiple_of(RIGHT)];
        if let Some(bias) = bias {
            starts[..outputs].copy_from_slice(bias);
        }
        let offsets = self.offsets();
        let [depth, down, across] = &self.axes;
        let plane = down.output * across.output * outputs;
        let (planes, tiles) = (self.batch * depth.output, self.tiles());
        let chunks = || tiles.chunks(TILES);
        let tasks: Vec<_> = (0..planes)
            .flat_map(|p| chunks().map(move |c| (p, c)))
            .collect();
        let to = T::output(y.as_mut_ptr());
        tasks.par_iter().with_max_len(1).for_each(|&(at, tiles)| {
            let part = Part {
                of: self,
                // The borders of `bordered` are those of this plane.
                from: bordered
                    .at(0)
                    .as_ptr()
                    .cast::<u8>()
                    .wrapping_add(2 * self.first(at) * self.width()),
                offsets: &offsets,
                packed: &packed,
                starts: &starts,
                to: to.at(at * plane),
            };
            // SAFETY: the engine is only chosen where tiles are supported; tasks write positions of their own.
            unsafe { with_tiles(|| part.run(tiles)) };
        });
    }

    /// The input as bf16, channels filled up, with borders, and 32 positions more that tiles may read.
    fn bordered(&self, x: Data) -> Lines {
        let [depth, down, across] = &self.axes;
        let (inputs, width) = (self.channels[0], self.width());
        let row = across.seen() * width / 2;
        let rows = self.batch * depth.seen() * down.seen();
        let fill = |out: &mut [f32]| {
            let (whole, rest) = out.split_at_mut(rows * row);
            rest.fill(0.0);
            whole
                .par_chunks_exact_mut(row)
                .with_min_len(8)
                .enumerate()
                .for_each(|(i, out)| {
                    let (plane, y) = (i / down.seen(), i % down.seen());
                    let (image, t) = (plane / depth.seen(), plane % depth.seen());
                    let t = depth.source(t, self.replicate);
                    let y = down.source(y, self.replicate);
                    let (Some(t), Some(y)) = (t, y) else {
                        return out.fill(0.0);
                    };
                    let start =
                        ((image * depth.input + t) * down.input + y) * across.input * inputs;
                    let cells = out.chunks_exact_mut(width / 2).enumerate();
                    for (at, cell) in cells {
                        match across.source(at, self.replicate) {
                            // SAFETY: the engine needs AVX-512 with BF16; a cell is whole lines of 64 bytes.
                            Some(at) => unsafe {
                                let at = start + at * inputs;
                                let cell = cell.as_mut_ptr().cast();
                                pack::narrow(x, at..at + inputs, cell);
                            },
                            None => cell.fill(0.0),
                        }
                    }
                });
        };
        // SAFETY: the rows and the rest are all there is, and both are written wholly.
        unsafe { Lines::filled(rows * row + LEFT * width / 2, fill) }
    }

    /// The weights as right panels, each tap's channels filled up to whole lines.
    fn packed(&self, kernel: Kernel, weights: &[f32]) -> Packed {
        let ([inputs, outputs], width) = (self.channels, self.width());
        let mut whole = Cow::Borrowed(weights);
        if width != inputs {
            let mut filled = vec![0.0; weights.len() / inputs * width];
            let cells = filled.chunks_exact_mut(width);
            let cells = cells.zip(weights.chunks_exact(inputs));
            cells.for_each(|(to, from)| to[..inputs].copy_from_slice(from));
            whole = Cow::Owned(filled);
        }
        let row = whole.len() / outputs;
        let source = Source::matrix(Data::F32(&whole), outputs, row, row);
        Packed::whole(kernel, Side::Right, &Operand::by_rows(source))
    }

    /// How many bordered positions after the first one each tap sees.
    fn taps(&self) -> Vec<usize> {
        let [depth, down, across] = &self.axes;
        let mut found = Vec::new();
        for k0 in 0..depth.taps {
            for k1 in 0..down.taps {
                for k2 in 0..across.taps {
                    let row = k0 * depth.dilation * down.seen() + k1 * down.dilation;
                    found.push(row * across.seen() + k2 * across.dilation);
                }
            }
        }
        found
    }

    /// The way to what each line of depth reads, in bytes.
    fn offsets(&self) -> Vec<usize> {
        let width = self.width();
        let lines = |at: usize| (0..width).step_by(LINE).map(move |c| 2 * (at * width + c));
        self.taps().into_iter().flat_map(lines).collect()
    }
}

/// Numbers of partial sums of a gradient of weights, and parts, at the most.
const SUMS: usize = 1 << 20;
const PARTS: usize = 8;

impl Shift {
    /// Whether the gradient of the weights is worth it too.
    pub fn suits_gradient(&self, kernel: Kernel) -> bool {
        self.suits(kernel) && self.channels[1] >= FEWEST
    }

    /// The gradient of the weights, `[out, taps.., in]`, from the input and the gradient of the output: for each tap a
    /// sum over positions, of which the left side is packed once and the right side is never: pairs of positions are
    /// laid side by side once, those that begin at even positions and those that begin at odd ones.
    ///
    /// # Panics
    /// If a slice has another length.
    pub fn gradient(&self, kernel: Kernel, x: Data, dy: Data) -> Vec<f32> {
        assert!(self.suits_gradient(kernel));
        let [inputs, outputs] = self.channels;
        let [depth, down, across] = self.axes;
        let (line, width) = (across.seen(), self.width());
        let joined = ((down.output - 1) * line + across.output).next_multiple_of(LINE);
        let planes = self.batch * depth.output;
        let windows = Windows::new(
            [
                Window::new(depth.output, 1, |t, _| Some(t)),
                Window::new(1, 1, |_, _| Some(0)),
                Window::new(joined, 1, |p, _| {
                    let (y, x) = (p / line, p % line);
                    (y < down.output && x < across.output).then_some(y * across.output + x)
                }),
            ],
            [depth.output, 1, down.output * across.output],
            outputs,
        );
        let source = Source {
            data: dy,
            rows: Rows::Windows {
                windows: &windows,
                start: 0,
                whole: true,
            },
            count: planes * joined,
            taps: 1,
            width: outputs,
        };
        let left = Packed::whole(kernel, Side::Left, &Operand::by_columns(source));
        let [even, odd] = self.pairs(&self.bordered(x));
        let taps = self.taps();
        let row = taps.len() * width;
        let numbers = outputs.next_multiple_of(LEFT) * row;
        let parts = (SUMS / numbers).clamp(1, PARTS).min(planes);
        let mut sums = vec![0.0f32; parts * numbers];
        let tasks = sums.par_chunks_mut(LEFT * row).enumerate();
        let panels = numbers / (LEFT * row);
        tasks.with_max_len(1).for_each(|(i, sums)| {
            let (part, panel) = (i / panels, i % panels);
            let of_part = part * planes / parts..(part + 1) * planes / parts;
            let work = || {
                for plane in of_part {
                    let first = self.first(plane);
                    let (a, _) = Block::new(&left, panel * LEFT, plane * joined).panels();
                    for (k, tap) in taps.iter().enumerate() {
                        let at = first + tap;
                        let pairs = if at.is_multiple_of(2) { &even } else { &odd };
                        let from = pairs.at(0).as_ptr().wrapping_add(at / 2 * width);
                        for c in (0..width).step_by(RIGHT) {
                            let panels = Panels {
                                left: a,
                                right: from.wrapping_add(c).cast(),
                                stride: 4 * width,
                                blocks: joined / LINE,
                            };
                            let c = (sums[k * width + c..].as_mut_ptr(), row);
                            let before = Some((c.0.cast_const(), row));
                            // SAFETY: tiles are configured; positions behind the last are there to be read, and
                            // count nothing, since the left side is zero there.
                            unsafe { tiles::<true, true>(panels, before, c) };
                        }
                    }
                }
            };
            // SAFETY: the engine is only chosen where tiles are supported.
            unsafe { with_tiles(work) };
        });
        let mut dw = vec![0.0; outputs * taps.len() * inputs];
        dw.par_chunks_exact_mut(inputs)
            .with_min_len(64)
            .enumerate()
            .for_each(|(i, dw)| {
                for part in sums.chunks_exact(numbers) {
                    dw.iter_mut()
                        .zip(&part[i * width..])
                        .for_each(|(d, s)| *d += s);
                }
            });
        dw
    }

    /// Pairs of positions of the bordered input, channel by channel: those whose first is even, and those whose first
    /// is odd.
    fn pairs(&self, bordered: &Lines) -> [Lines; 2] {
        let width = self.width();
        // What fills a line of the cache up may count as one row more, of zeros.
        let rows = bordered.at(0).len() / (width / 2);
        [0, 1].map(|odd| {
            let count = (rows - odd) / 2;
            let fill = |out: &mut [f32]| {
                out.par_chunks_exact_mut(width)
                    .with_min_len(256)
                    .enumerate()
                    .for_each(|(i, out)| {
                        let at = (2 * i + odd) * width / 2;
                        let two = bordered.at(at)[..width].as_ptr().cast();
                        // SAFETY: the engine needs AVX-512; two rows are read, and as much is written.
                        unsafe { pack::pairs(two, width, out.as_mut_ptr().cast()) };
                    });
            };
            // SAFETY: there are `count` pairs, and each is written wholly.
            unsafe { Lines::filled(count * width, fill) }
        })
    }
}

/// One plane of outputs.
struct Part<'a> {
    of: &'a Shift,
    /// What its first output's first tap reads.
    from: *const u8,
    offsets: &'a [usize],
    packed: &'a Packed,
    starts: &'a [f32],
    to: Output,
}

impl Part<'_> {
    /// Computes some of the plane's tiles.
    ///
    /// # Safety
    /// Tiles must be configured, and no other thread write these positions.
    unsafe fn run(&self, tiles: &[(usize, usize)]) {
        let outputs = self.of.channels[1];
        let (line, valid) = (self.of.axes[2].seen(), self.of.axes[2].output);
        let stride = 2 * self.of.width();
        let mut beside = [0.0f32; LEFT * RIGHT];
        for column in (0..outputs).step_by(RIGHT) {
            let (panel, _) = Block::new(self.packed, column, 0).panels();
            let bias = self.starts[column..].as_ptr();
            let columns = RIGHT.min(outputs - column);
            for &(start, rows) in tiles {
                let a = Shifted {
                    at: self.from.wrapping_add(start * stride),
                    stride,
                    offsets: self.offsets,
                };
                let (y, x) = (start / line, start % line);
                let straight = rows == LEFT && x + LEFT <= valid;
                let place = self.to.at((y * valid + x) * outputs + column);
                let written = match place {
                    Output::F32(c) if straight && matches!(columns, HALF | RIGHT) => {
                        Some((c, outputs))
                    }
                    _ => None,
                };
                let c = written.unwrap_or((beside.as_mut_ptr(), RIGHT));
                // SAFETY: the borders and what follows them are there to be read; where C is written straight, 32
                // positions of one row are this part's.
                unsafe {
                    match columns <= HALF {
                        true => shifted_tiles::<false>(a, panel, bias, c),
                        false => shifted_tiles::<true>(a, panel, bias, c),
                    }
                    match written {
                        Some(_) => {}
                        None if straight => {
                            place.store((beside.as_ptr(), RIGHT), [rows, columns], outputs);
                        }
                        None => self.keep(&beside, start..start + rows, column..column + columns),
                    }
                }
            }
        }
    }

    /// Copies those of 32 positions that are not on a border.
    ///
    /// # Safety
    /// No other thread may write these positions.
    unsafe fn keep(
        &self,
        from: &[f32],
        positions: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) {
        let outputs = self.of.channels[1];
        let (line, valid) = (self.of.axes[2].seen(), self.of.axes[2].output);
        for (i, position) in positions.enumerate() {
            let (y, x) = (position / line, position % line);
            if x < valid {
                let to = self.to.at((y * valid + x) * outputs + columns.start);
                let from = from[i * RIGHT..].as_ptr();
                // SAFETY: the position is within the plane.
                unsafe { to.store((from, RIGHT), [1, columns.len()], outputs) };
            }
        }
    }
}
