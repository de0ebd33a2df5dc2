//! How a product is cut into blocks.
//!
//! The order in which each number is summed depends on the shape alone, never on the number of threads.

use super::kernel::{Engine, Side};

/// Fewer multiplications than this are done without waking other threads.
pub const SERIAL: usize = 1 << 18;
/// Depth of a block of tiles after which their sums wait while others pass: a panel of so much is 32 KiB, and stays in the
/// first-level cache.
pub const PART: usize = 512;
/// Depth of a block, elsewhere and at the most.
pub const DEPTH: usize = 2048;

/// Depth of a block beside a right side that is packed as a whole. Numbers of four bytes fill the cache sooner: less deep,
/// a left block has more rows, and the right side passes less often.
fn block_depth(engine: Engine) -> usize {
    match engine {
        Engine::Avx2 => 768,
        _ => DEPTH,
    }
}

/// Bytes of a left block: it stays in the second-level cache while the right side passes. Processors with AMX have
/// 2 MiB of that, the others 1 MiB or less; and tiles take the right side from further away so fast that it must
/// pass less often.
fn left_bytes(engine: Engine) -> usize {
    match engine {
        Engine::Amx => 1 << 20,
        _ => 400 << 10,
    }
}
/// Bytes of the right side that stay in the second-level cache of processors with AMX.
pub const RIGHT_BYTES: usize = 1 << 20;
/// An operand of more bytes is not packed as a whole.
const WHOLE_BYTES: usize = 64 << 20;
/// Fewer rows than this do not repay packing the right side beforehand.
const FEW_ROWS: usize = 48;
/// Blocks a thread, so that threads that are held up can be helped.
const TASKS: usize = 8;

/// What is known of the right side before it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// It was packed as a whole.
    Packed,
    /// It may be packed as a whole.
    Loose,
    /// It is kept in fewer bits, and only ever packed by blocks.
    Few,
}

/// Sizes of the blocks, and what is packed before.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a block.
    pub cols: usize,
    /// Depth of a block.
    pub depth: usize,
    /// Whether the left side is packed as a whole.
    pub whole_left: bool,
    /// Whether the right side is.
    pub whole_right: bool,
}

impl Plan {
    /// For a product of these sizes.
    pub fn new(engine: Engine, [m, n, k]: [usize; 3], right: Right) -> Self {
        let bytes = if engine.packs_panels() { 2 } else { 4 };
        let small = m > FEW_ROWS && n * k * bytes <= WHOLE_BYTES;
        let whole_right = right == Right::Loose && small;
        let right_is_whole = whole_right || right == Right::Packed;
        let tasks = TASKS * rayon::current_num_threads();
        let (side, depth) = if right_is_whole {
            let deep = block_depth(engine);
            let fits = left_bytes(engine) / (bytes * k.clamp(1, deep));
            (
                fits.clamp(FEW_ROWS, 8 * FEW_ROWS)
                    .min(m.div_ceil(tasks).max(FEW_ROWS)),
                deep,
            )
        } else {
            (m.clamp(1, 1024), DEPTH / 2)
        };
        let rows = side.next_multiple_of(engine.panel(Side::Left));
        let by_rows = m.div_ceil(rows).max(1);
        let wanted = if by_rows >= tasks {
            n
        } else {
            n.div_ceil(tasks.div_ceil(by_rows)).max(64)
        };
        let right_bytes = n * k * bytes;
        let widest = match right_is_whole {
            false => 256,
            // Parts of the right side that stay in the second-level cache each, so that C is written row by row.
            true if engine == Engine::Amx && k <= PART && right_bytes > RIGHT_BYTES => {
                RIGHT_BYTES / (2 * bytes * k.max(1))
            }
            true => n,
        };
        let cols = wanted
            .clamp(1, widest.max(1))
            .next_multiple_of(engine.panel(Side::Right));
        let whole_left = cols < n && m * k * bytes <= WHOLE_BYTES;
        Self {
            rows,
            cols,
            depth,
            whole_left,
            whole_right,
        }
    }
}

/// The number of parts that the sum is cut into: more than one where there are few numbers but long sums.
pub fn splits([m, n, k]: [usize; 3]) -> usize {
    if m * n <= 128 * 128 && k >= 4 * DEPTH {
        (k / DEPTH).min(16)
    } else {
        1
    }
}

/// Depth of each part.
pub fn split_size(shape: [usize; 3]) -> usize {
    shape[2].div_ceil(splits(shape)).next_multiple_of(32)
}
