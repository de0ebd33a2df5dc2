//! Where the numbers of a product come from: matrices, chosen rows of them, or windows of an image.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{Result, bail};
use half::bf16;

use super::few_bits::FewBits;
use super::windows::{Place, Windows};

/// Numbers as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
    /// Fewer bits and scales, for plain matrices whose rows are adjacent.
    Few(FewBits<'a>),
}

impl<'a> Data<'a> {
    /// Numbers that are in single precision already.
    ///
    /// # Errors
    /// If they are not.
    pub fn floats(self) -> Result<&'a [f32]> {
        match self {
            Self::F32(v) => Ok(v),
            _ => bail!("expected f32, found another number type"),
        }
    }

    /// All numbers in single precision.
    ///
    /// # Panics
    /// Of fewer bits, which convolutions do not have.
    pub fn to_f32(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(v) => v.into(),
            Self::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Self::Few(_) => unreachable!("a convolution's weights are not in fewer bits"),
        }
    }

    /// Some rows of a matrix with `columns` numbers a row.
    pub fn rows(self, rows: Range<usize>, columns: usize) -> Self {
        let numbers = rows.start * columns..rows.end * columns;
        match self {
            Self::F32(v) => Self::F32(&v[numbers]),
            Self::Bf16(v) => Self::Bf16(&v[numbers]),
            Self::Few(few) => Self::Few(few.rows(rows)),
        }
    }
}

/// How the rows of a source lie in its data.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Row r starts at `start + r * stride`.
    Strided {
        /// Where row 0 starts.
        start: usize,
        /// From one row to the next.
        stride: usize,
    },
    /// Row r starts at `list[r] * stride`.
    Listed {
        /// The rows, in units of the stride.
        list: &'a [u32],
        /// From one row to the next.
        stride: usize,
    },
    /// Row r is the window of an image around output position r, `start` added to each offset.
    Windows {
        /// The geometry.
        windows: &'a Windows,
        /// The first channel.
        start: usize,
        /// Whether a piece is all the channels of a position.
        whole: bool,
    },
}

/// One row of a source.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    row: usize,
    place: Place,
}

/// A matrix whose rows are made of `taps` contiguous pieces of `width` numbers.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The numbers.
    pub data: Data<'a>,
    /// Where each row (and piece) lies.
    pub rows: Rows<'a>,
    /// The number of rows.
    pub count: usize,
    /// The number of pieces of a row; 1 but for windows.
    pub taps: usize,
    /// Numbers a piece.
    pub width: usize,
}

impl<'a> Source<'a> {
    /// A plain row-major matrix of `count` rows of `width` numbers, `stride` apart.
    pub fn matrix(data: Data<'a>, count: usize, width: usize, stride: usize) -> Self {
        let rows = Rows::Strided { start: 0, stride };
        Self {
            data,
            rows,
            count,
            taps: 1,
            width,
        }
    }

    /// Numbers a row.
    pub fn cols(&self) -> usize {
        self.taps * self.width
    }

    /// A place to read rows from, one after the other.
    #[inline]
    pub fn at(&self, row: usize) -> Cursor {
        let place = match self.rows {
            Rows::Windows { windows, .. } => windows.locate(row),
            _ => Place::default(),
        };
        Cursor { row, place }
    }

    /// Moves to the next row.
    #[inline]
    pub fn step(&self, cursor: &mut Cursor) {
        cursor.row += 1;
        if let Rows::Windows { windows, .. } = self.rows {
            windows.step(&mut cursor.place);
        }
    }

    /// Where a row starts in the data, unless it is a window.
    #[inline]
    fn start_of(&self, row: &Cursor) -> Option<usize> {
        match self.rows {
            Rows::Strided { start, stride } => Some(start + row.row * stride),
            Rows::Listed { list, stride } => Some(list[row.row] as usize * stride),
            Rows::Windows { .. } => None,
        }
    }

    /// Calls `piece(at, offset, len)` for the pieces of a row that overlap `cols`: `len` numbers that
    /// belong at `at` (counted from `cols.start`) and lie at `offset` in the data, or are zero if `None`.
    #[inline]
    pub fn pieces(
        &self,
        row: &Cursor,
        cols: Range<usize>,
        mut piece: impl FnMut(usize, Option<usize>, usize),
    ) {
        match self.rows {
            Rows::Strided { .. } | Rows::Listed { .. } => {
                let start = self.start_of(row).map(|start| start + cols.start);
                piece(0, start, cols.len());
            }
            Rows::Windows {
                windows,
                start,
                whole,
            } => {
                // Taps that are adjacent in memory make one piece, if the group has all the channels.
                let place = &row.place;
                let unit = if whole { windows.run(place) } else { 1 };
                let mut at = cols.start;
                while at < cols.end {
                    let (tap, within) = (at / (self.width * unit) * unit, at % (self.width * unit));
                    let len = (self.width * unit - within).min(cols.end - at);
                    let offset = windows.offset(place, tap).map(|o| o + start + within);
                    piece(at - cols.start, offset, len);
                    at += len;
                }
            }
        }
    }

    /// `cols` of one row, where they lie side by side in single precision.
    #[inline]
    pub fn slice(&self, row: &Cursor, cols: Range<usize>) -> Option<&'a [f32]> {
        let Data::F32(data) = self.data else {
            return None;
        };
        let start = self.start_of(row)?;
        Some(&data[start + cols.start..start + cols.end])
    }

    /// Copies `cols` of one row into `out`, as f32.
    #[inline]
    pub fn copy_row(&self, row: &Cursor, cols: Range<usize>, out: &mut [f32]) {
        let data = self.data;
        self.pieces(row, cols, |at, offset, len| match (offset, data) {
            (None, _) => out[at..at + len].fill(0.0),
            (Some(o), Data::F32(d)) => copy_piece(&d[o..], &mut out[at..], len),
            (Some(o), Data::Bf16(d)) => {
                let out = &mut out[at..at + len];
                out.iter_mut()
                    .zip(&d[o..o + len])
                    .for_each(|(to, from)| *to = from.to_f32());
            }
            (Some(o), Data::Few(few)) => few.expand(o, &mut out[at..at + len]),
        });
    }
}

/// Copies `len` numbers. Where there is room it copies a fixed number of them instead, which is much faster for
/// small pieces; what is written beyond `len` is overwritten by the next piece, since pieces come in order.
#[inline]
fn copy_piece(from: &[f32], to: &mut [f32], len: usize) {
    const SMALL: usize = 16;
    match (from.first_chunk::<SMALL>(), to.first_chunk_mut::<SMALL>()) {
        (Some(from), Some(to)) if len <= SMALL => *to = *from,
        _ => to[..len].copy_from_slice(&from[..len]),
    }
}

/// Which index of a source is summed over in the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The columns: the source is the left matrix, or the right one transposed.
    Columns,
    /// The rows: the source is the left matrix transposed, or the right one.
    Rows,
}

/// One side of a product.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The numbers.
    pub source: Source<'a>,
    /// The index summed over.
    pub depth: Depth,
}

impl<'a> Operand<'a> {
    /// Summed over the columns of `source`.
    pub fn by_rows(source: Source<'a>) -> Self {
        Self {
            source,
            depth: Depth::Columns,
        }
    }

    /// Summed over the rows of `source`.
    pub fn by_columns(source: Source<'a>) -> Self {
        Self {
            source,
            depth: Depth::Rows,
        }
    }

    /// Rows of the left matrix, or columns of the right one.
    pub fn len(&self) -> usize {
        match self.depth {
            Depth::Columns => self.source.count,
            Depth::Rows => self.source.cols(),
        }
    }

    /// Numbers summed over.
    pub fn depth(&self) -> usize {
        match self.depth {
            Depth::Columns => self.source.cols(),
            Depth::Rows => self.source.count,
        }
    }
}
