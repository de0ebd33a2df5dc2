//! Packing into panels in plain Rust, for tests: what `pack` is compared with where there is AVX-512, and what feeds
//! the tiles where there is not.

use std::ops::Range;

use super::kernel::Side;
use super::panels::{LINE, Line, Panels, RIGHT};
use super::source::{Depth, Operand};

/// As `panels::fill`, number by number.
pub fn fill(
    operand: &Operand,
    (items, depth): (Range<usize>, Range<usize>),
    panels: Panels,
    out: &mut [Line],
) {
    let (rows, cols) = match operand.depth {
        Depth::Columns => (items.clone(), depth.clone()),
        Depth::Rows => (depth.clone(), items.clone()),
    };
    let mut row = vec![0.0; cols.len()];
    for r in rows.clone() {
        let source = &operand.source;
        source.copy_row(&source.at(r), cols.clone(), &mut row);
        for (c, x) in row.iter().enumerate() {
            let (item, at) = match operand.depth {
                Depth::Columns => (r - rows.start, c),
                Depth::Rows => (c, r - rows.start),
            };
            let (line, number) = place(panels, item, at);
            out[line].0[number] = half::bf16::from_f32(*x).to_bits();
        }
    }
    for item in 0..items.len() {
        for at in depth.len()..depth.len().next_multiple_of(LINE) {
            let (line, number) = place(panels, item, at);
            out[line].0[number] = 0;
        }
    }
}

/// The line of a number, and its place there.
fn place(panels: Panels, item: usize, depth: usize) -> (usize, usize) {
    let block = item / panels.items * panels.lines() + depth / LINE * panels.items;
    let (item, within) = (item % panels.items, depth % LINE);
    match panels.side {
        Side::Left => (block + item, within),
        Side::Right => {
            let half = item / (RIGHT / 2);
            (block + within / 2 * 2 + half, item % 16 * 2 + within % 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::{self, Scratch};
    use super::super::source::{Data, Source};
    use super::super::{amx, avx512};
    use super::*;
    use crate::isa::Isa;

    /// Both sides, by rows and by columns, over sizes that leave gaps everywhere.
    #[test]
    fn avx512_packs_the_same_bits() {
        if !Isa::Avx512Bf16.supported() {
            return;
        }
        for (rows, cols) in [(1, 1), (31, 33), (45, 75), (64, 64), (97, 600)] {
            let data: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
            let source = Source::matrix(Data::F32(&data), rows, cols, cols);
            for operand in [Operand::by_rows(source), Operand::by_columns(source)] {
                for (side, items) in [
                    (Side::Left, avx512::LEFT),
                    (Side::Left, amx::LEFT),
                    (Side::Right, RIGHT),
                ] {
                    same(&operand, side, items);
                }
            }
        }
    }

    fn same(operand: &Operand, side: Side, items: usize) {
        let blocks = operand.depth().div_ceil(LINE);
        let panels = Panels {
            side,
            items,
            blocks,
        };
        let part = (0..operand.len(), 0..operand.depth());
        let mut plain = vec![Line::ZERO; operand.len().div_ceil(items) * panels.lines()];
        let mut fast = plain.clone();
        fill(operand, part.clone(), panels, &mut plain);
        // SAFETY: the caller checked that AVX-512 BF16 is supported.
        unsafe { panels::fill(operand, part, panels, &mut fast, &mut Scratch::new()) };
        for item in 0..operand.len() {
            for depth in 0..blocks * LINE {
                let (line, number) = place(panels, item, depth);
                let [plain, fast] = [&plain, &fast].map(|lines| lines[line].0[number]);
                assert_eq!(plain, fast, "{side:?}, item {item}, depth {depth}");
            }
        }
    }
}
