//! The AMX kernels: 32 x 32 numbers of C in four tiles, or 32 x 16 in two.
//!
//! The intrinsics are not stable, so the instructions are written out.

use std::arch::asm;
use std::cell::Cell;

use super::kernel::Start;
use super::panels::{LINE, Line, RIGHT};

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

/// A block of C from left panels `a.1` lines apart and right panels `b.1` lines apart.
///
/// # Safety
/// `Isa::Amx` must be supported; the panels must hold m and n items of depth k, and C be writable.
pub unsafe fn block(
    a: (*const Line, usize),
    b: (*const Line, usize),
    [m, n, k]: [usize; 3],
    c: (*mut f32, usize),
    start: Start,
) {
    // SAFETY: as the caller promises; the bias is written before the tiles are added to it.
    unsafe {
        let add = start.prepare([m, n, k], c);
        with_tiles(|| {
            for col in (0..n).step_by(RIGHT) {
                for row in (0..m).step_by(LEFT) {
                    let panels = Panels {
                        left: a.0.add(row / LEFT * a.1),
                        right: b.0.add(col / RIGHT * b.1).cast(),
                        stride: PAIRS,
                        blocks: k.div_ceil(LINE),
                    };
                    let at = c.0.add(row * c.1 + col);
                    match [LEFT.min(m - row), RIGHT.min(n - col)] {
                        [LEFT, RIGHT] => tiles::<true>(panels, (at, c.1), add),
                        [LEFT, HALF] => tiles::<false>(panels, (at, c.1), add),
                        size => edge(panels, (at, c.1), size, add),
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

/// A tile that C does not fill: computed beside, and copied.
unsafe fn edge(panels: Panels, c: (*mut f32, usize), [rows, cols]: [usize; 2], add: bool) {
    let mut whole = [0.0f32; LEFT * RIGHT];
    // SAFETY: the caller promises rows x cols of C.
    unsafe {
        for r in 0..if add { rows } else { 0 } {
            std::ptr::copy_nonoverlapping(c.0.add(r * c.1), whole[r * RIGHT..].as_mut_ptr(), cols);
        }
        match cols <= HALF {
            true => tiles::<false>(panels, (whole.as_mut_ptr(), RIGHT), add),
            false => tiles::<true>(panels, (whole.as_mut_ptr(), RIGHT), add),
        }
        for r in 0..rows {
            std::ptr::copy_nonoverlapping(whole[r * RIGHT..].as_ptr(), c.0.add(r * c.1), cols);
        }
    }
}

/// 32 x 32 numbers of C, or the first 16 columns of them where it is not `WIDE`, from a left and a right panel.
///
/// # Safety
/// Within [`with_tiles`]; the panels and C must be there.
pub unsafe fn tiles<const WIDE: bool>(panels: Panels, c: (*mut f32, usize), add: bool) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {ldc}]",
            "tileloadd tmm2, [{low} + {ldc}]",
            ".if {wide}",
            "tileloadd tmm1, [{c} + {ldc} + 64]",
            "tileloadd tmm3, [{low} + {ldc} + 64]",
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
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{b} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".if {wide}",
            "tileloadd tmm7, [{b} + {stride} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            ".endif",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            ".if {wide}",
            "tdpbf16ps tmm3, tmm5, tmm7",
            ".endif",
            "add {a}, 2048",
            "add {b}, {step}",
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
            add = in(reg) u32::from(add),
            a = inout(reg) panels.left => _,
            b = inout(reg) panels.right => _,
            stride = in(reg) panels.stride,
            step = in(reg) 16 * panels.stride,
            n = inout(reg) panels.blocks => _,
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
            "tileloadd tmm6, [{b} + {line} * 2]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            ".if {wide}",
            "tileloadd tmm7, [{b} + {line} * 2 + 64]",
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
