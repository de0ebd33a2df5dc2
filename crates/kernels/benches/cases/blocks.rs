//! The parts of a product on one thread: packing and multiplying.

use gallop_kernels::Precision;
use gallop_kernels::gemm::{Kernel, Matrix};

use super::Case;

const ITEMS: usize = 384;
const DEPTH: usize = 512;

/// Packing each side each way, and multiplying. "Operations" of packing are the numbers packed.
pub fn add(cases: &mut Vec<Case>) {
    let packed = (ITEMS * DEPTH) as f64;
    for (name, left, rows) in [
        ("pack left by rows", true, true),
        ("pack left by columns", true, false),
        ("pack right by rows", false, true),
        ("pack right by columns", false, false),
    ] {
        let prepare = move || -> Box<dyn FnMut()> {
            let kernel = Kernel::new(Precision::Bf16);
            let mut side = if left { kernel.left() } else { kernel.right() };
            let numbers = vec![0.5; ITEMS * DEPTH];
            Box::new(move || match rows {
                true => side.pack_rows(Matrix::new(&numbers, ITEMS, DEPTH)),
                false => side.pack_columns(Matrix::new(&numbers, DEPTH, ITEMS)),
            })
        };
        let prepare = Box::new(prepare);
        cases.push(Case {
            name: format!("block {name}"),
            flop: packed,
            prepare,
        });
    }
    for (rows, depth, cols, add) in [
        (96, 512, 2048, false),
        (96, 1728, 64, false),
        (96, 1536, 4096, false),
        (96, 2048, 384, false),
        (32, 40, 64, false),
        (384, 256, 48, true),
        (64, 384, 256, true),
    ] {
        let prepare = move || -> Box<dyn FnMut()> {
            let kernel = Kernel::new(Precision::Bf16);
            let (mut a, mut b) = (kernel.left(), kernel.right());
            a.pack_rows(Matrix::new(&vec![0.5; rows * depth], rows, depth));
            b.pack_rows(Matrix::new(&vec![0.5; cols * depth], cols, depth));
            let mut c = vec![0.0; rows * cols];
            Box::new(move || kernel.multiply(&a, &b, &mut c, cols, add))
        };
        let flop = 2.0 * (rows * cols * depth) as f64;
        cases.push(Case {
            name: format!("block {rows}x{depth}x{cols}"),
            flop,
            prepare: Box::new(prepare),
        });
    }
}
