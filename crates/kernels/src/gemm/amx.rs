//! The AMX kernels: 32 x 32 numbers of C in four tiles, or 32 x 16 in two.
//!
//! The intrinsics are not stable, so the instructions are written out.

use std::arch::asm;
use std::cell::Cell;
use std::mem::MaybeUninit;

use super::kernel::Start;
use super::panels::{LINE, Line, RIGHT};
use super::plan::{PART, RIGHT_BYTES};
use super::product::Output;

/// Items of a left panel: two tiles of 16 rows.
pub const LEFT: usize = 32;
/// Columns of one tile.
pub const HALF: usize = RIGHT / 2;

/// The operand of `ldtilecfg`: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

const CONFIG: Config = {
    let (mut bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes,
        rows,
    }
};

/// Sums of a tile that wait for the next part of their depth.
#[repr(align(64))]
struct Sums(#[expect(dead_code, reason = "read as numbers")] [f32; LEFT * RIGHT]);

/// A block of C from left panels `a.1` lines apart and right panels `b.1` lines apart.
///
/// A panel of one side stays in the first-level cache while those of the other pass, which are loaded so that they do not
/// push it out. That is a left panel, so that C is written row by row, where it meets more right ones than a right one would
/// left ones, and those stay in the second-level cache.
///
/// # Safety
/// `Isa::Amx` must be supported; the panels must hold m and n items of depth k, and C be writable. What is in bf16 is not
/// added to.
pub unsafe fn block(
    a: (*const Line, usize),
    b: (*const Line, usize),
    [m, n, k]: [usize; 3],
    c: (Output, usize),
    start: Start,
) {
    let blocks = k.div_ceil(LINE);
    let part_blocks = PART / LINE;
    let parts = blocks.div_ceil(part_blocks).max(1);
    let (rows, cols) = (m.div_ceil(LEFT), n.div_ceil(RIGHT));
    let by_rows = cols >= rows && n * k * size_of::<u16>() <= RIGHT_BYTES;
    let (outer, inner) = if by_rows { (rows, cols) } else { (cols, rows) };
    let mut waiting = Box::<[Sums]>::new_uninit_slice(if parts > 1 { inner } else { 0 });
    // SAFETY: as the caller promises.
    unsafe {
        with_tiles(|| {
            for (o, part) in (0..outer).flat_map(|o| (0..parts).map(move |part| (o, part))) {
                for i in 0..inner {
                    let (row, col) = if by_rows { (o, i) } else { (i, o) };
                    let first = part * part_blocks;
                    let panels = Panels {
                        left: a.0.add(row * a.1 + first * LEFT),
                        right: b.0.add(col * b.1 + first * RIGHT).cast(),
                        stride: PAIRS,
                        blocks: part_blocks.min(blocks - first),
                    };
                    let own = c.0.at(row * LEFT * c.1 + col * RIGHT);
                    let sums = waiting
                        .get_mut(i)
                        .map_or(std::ptr::null_mut(), |sums| sums.as_mut_ptr().cast::<f32>());
                    let tile = Tile {
                        size: [LEFT.min(m - row * LEFT), RIGHT.min(n - col * RIGHT)],
                        from: match (part, start, own) {
                            (1.., ..) => Some((sums.cast_const(), RIGHT)),
                            // Rows that are no numbers apart are one row, again and again.
                            (_, Start::Bias(bias), _) => Some((bias.add(col * RIGHT), 0)),
                            (_, Start::Add, Output::F32(own)) => Some((own.cast_const(), c.1)),
                            _ => None,
                        },
                        to: match part + 1 == parts {
                            true => (own, c.1),
                            false => (Output::F32(sums), RIGHT),
                        },
                    };
                    match by_rows {
                        true => tile.of::<false>(panels),
                        false => tile.of::<true>(panels),
                    }
                }
            }
        });
    }
}

/// Bytes from one row of a right panel to the next: 32 items of a pair.
const PAIRS: usize = RIGHT * 2 * size_of::<u16>();

/// A left panel and a right one, or rows that are like one: for each of so many blocks of depth 16 rows of pairs, so many
/// bytes from one row to the next, one block after the other.
#[derive(Clone, Copy)]
pub struct Panels {
    pub left: *const Line,
    pub right: *const u8,
    pub stride: usize,
    pub blocks: usize,
}

thread_local! {
    /// Whether this thread's tiles are configured.
    static CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

/// Gives the tiles back where it is dropped.
struct Configured;

impl Drop for Configured {
    fn drop(&mut self) {
        CONFIGURED.set(false);
        // SAFETY: the tiles are configured, so that there are some.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Configures this thread's tiles for as long as `f` runs, if they are not: that takes as long as many products of tiles.
///
/// # Safety
/// `Isa::Amx` must be supported.
pub unsafe fn with_tiles<T>(f: impl FnOnce() -> T) -> T {
    if CONFIGURED.get() {
        return f();
    }
    // SAFETY: as the caller promises.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
    CONFIGURED.set(true);
    let _configured = Configured;
    f()
}

/// So many rows and columns of C: where their sums so far are, if any, and where they go, with the numbers from one row to
/// the next.
struct Tile {
    size: [usize; 2],
    from: Option<(*const f32, usize)>,
    to: (Output, usize),
}

impl Tile {
    /// Computes it; where it is not 32 x 32 or 32 x 16 numbers of f32, beside and copied. Sums that wait are whole all the
    /// same.
    ///
    /// # Safety
    /// As [`tiles`].
    unsafe fn of<const LEFT_PASSES: bool>(self, panels: Panels) {
        let Self { size, from, to } = self;
        let [rows, cols] = size;
        let whole = rows == LEFT && matches!(cols, HALF | RIGHT);
        // SAFETY: the caller promises so much of C.
        unsafe {
            let run = |from, to| match cols <= HALF {
                true => tiles::<false, LEFT_PASSES>(panels, from, to),
                false => tiles::<true, LEFT_PASSES>(panels, from, to),
            };
            if let (true, Output::F32(c)) = (whole, to.0) {
                return run(from, (c, to.1));
            }
            let mut beside = MaybeUninit::<Sums>::uninit();
            let beside = (beside.as_mut_ptr().cast::<f32>(), RIGHT);
            let mut sums = from;
            if let (false, Some((from, stride))) = (whole, from) {
                beside.0.write_bytes(0, LEFT * RIGHT);
                for r in 0..rows {
                    let from = from.add(r * stride);
                    from.copy_to_nonoverlapping(beside.0.add(r * RIGHT), cols);
                }
                sums = Some((beside.0.cast_const(), RIGHT));
            }
            run(sums, beside);
            to.0.store((beside.0, RIGHT), size, to.1);
        }
    }
}

/// 32 x 32 numbers of C, or the first 16 columns of them where it is not `WIDE`, from a left and a right panel: added to
/// those at `from`, if any, they go to `to`. The side that passes (`LEFT_PASSES` or the right one) is loaded so that it does
/// not push the other one out of the first-level cache.
///
/// # Safety
/// Within [`with_tiles`]; the panels and C must be there.
pub unsafe fn tiles<const WIDE: bool, const LEFT_PASSES: bool>(
    panels: Panels,
    from: Option<(*const f32, usize)>,
    to: (*mut f32, usize),
) {
    let add = from.is_some();
    let from = from.unwrap_or((to.0, to.1));
    let [from_low, low] = [
        from.0.wrapping_add(16 * from.1),
        to.0.wrapping_add(16 * to.1),
    ];
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 3f",
            "tileloadd tmm0, [{from} + {ldf}]",
            "tileloadd tmm2, [{from_low} + {ldf}]",
            ".if {wide}",
            "tileloadd tmm1, [{from} + {ldf} + 64]",
            "tileloadd tmm3, [{from_low} + {ldf} + 64]",
            ".endif",
            "jmp 4f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "4:",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            ".if {left_passes}",
            "tileloaddt1 tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{b} + {stride}]",
            ".else",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloaddt1 tmm6, [{b} + {stride}]",
            ".endif",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".if {wide}",
            ".if {left_passes}",
            "tileloadd tmm7, [{b} + {stride} + 64]",
            ".else",
            "tileloaddt1 tmm7, [{b} + {stride} + 64]",
            ".endif",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ".endif",
            ".if {left_passes}",
            "tileloaddt1 tmm5, [{a} + {line} + 1024]",
            ".else",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            ".endif",
            "tdpbf16ps tmm2, tmm5, tmm6",
            ".if {wide}",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ".endif",
            "add {a}, 2048",
            "add {b}, {step}",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{to} + {ldt}], tmm0",
            "tilestored [{low} + {ldt}], tmm2",
            ".if {wide}",
            "tilestored [{to} + {ldt} + 64], tmm1",
            "tilestored [{low} + {ldt} + 64], tmm3",
            ".endif",
            wide = const WIDE as u8,
            left_passes = const LEFT_PASSES as u8,
            add = in(reg) u32::from(add),
            a = inout(reg) panels.left => _,
            b = inout(reg) panels.right => _,
            stride = in(reg) panels.stride,
            step = in(reg) 16 * panels.stride,
            n = inout(reg) panels.blocks => _,
            from = in(reg) from.0,
            from_low = in(reg) from_low,
            ldf = in(reg) from.1 * size_of::<f32>(),
            to = in(reg) to.0,
            low = in(reg) low,
            ldt = in(reg) to.1 * size_of::<f32>(),
            line = in(reg) size_of::<Line>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// A left side that is not packed: for each block of depth, 32 rows of 32 bf16 numbers that begin so many bytes after
/// `at`, and are `stride` bytes apart.
#[derive(Clone, Copy)]
pub struct Shifted<'a> {
    pub at: *const u8,
    pub stride: usize,
    pub offsets: &'a [usize],
}

/// The same as [`tiles`] from shifted rows and one right panel, each column beginning with a number of `bias`.
///
/// # Safety
/// Within [`with_tiles`]; the rows, the panel, as many numbers of bias as columns, and C must be there.
pub unsafe fn shifted_tiles<const WIDE: bool>(
    a: Shifted,
    b: *const Line,
    bias: *const f32,
    c: (*mut f32, usize),
) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: as the caller promises. Rows of the bias that are no bytes apart are one row, again and again.
    unsafe {
        asm!(
            "tileloadd tmm0, [{bias} + {zero}]",
            "tileloadd tmm2, [{bias} + {zero}]",
            ".if {wide}",
            "tileloadd tmm1, [{bias} + {zero} + 64]",
            "tileloadd tmm3, [{bias} + {zero} + 64]",
            ".endif",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            "mov {p}, [{offsets}]",
            "add {p}, {a}",
            "tileloadd tmm4, [{p} + {stride}]",
            "tileloaddt1 tmm6, [{b} + {line} * 2]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".if {wide}",
            "tileloaddt1 tmm7, [{b} + {line} * 2 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ".endif",
            "add {p}, {half}",
            "tileloadd tmm5, [{p} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            ".if {wide}",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ".endif",
            "add {offsets}, 8",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {ldc}], tmm0",
            "tilestored [{low} + {ldc}], tmm2",
            ".if {wide}",
            "tilestored [{c} + {ldc} + 64], tmm1",
            "tilestored [{low} + {ldc} + 64], tmm3",
            ".endif",
            wide = const WIDE as u8,
            a = in(reg) a.at,
            stride = in(reg) a.stride,
            half = in(reg) 16 * a.stride,
            offsets = inout(reg) a.offsets.as_ptr() => _,
            n = inout(reg) a.offsets.len() => _,
            p = out(reg) _,
            b = inout(reg) b => _,
            bias = in(reg) bias,
            zero = in(reg) 0usize,
            c = in(reg) c.0,
            low = in(reg) low,
            ldc = in(reg) c.1 * size_of::<f32>(),
            line = in(reg) size_of::<Line>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
