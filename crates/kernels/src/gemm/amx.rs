//! The AMX kernels: 32 x 32 numbers of C in four tiles, or 32 x 16 in two.
//!
//! The intrinsics are not stable, so the instructions are written out.

use std::arch::asm;

use super::kernel::Start;
use super::panels::{LINE, Line, RIGHT};

/// Items of a left panel: two tiles of 16 rows.
pub const LEFT: usize = 32;
/// Columns of one tile.
const HALF: usize = RIGHT / 2;

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
        asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly));
        for col in (0..n).step_by(RIGHT) {
            for row in (0..m).step_by(LEFT) {
                let panels = (
                    a.0.add(row / LEFT * a.1),
                    b.0.add(col / RIGHT * b.1),
                    k.div_ceil(LINE),
                );
                let at = c.0.add(row * c.1 + col);
                match [LEFT.min(m - row), RIGHT.min(n - col)] {
                    [LEFT, RIGHT] => tiles(panels, (at, c.1), add),
                    [LEFT, HALF] => half_tiles(panels, (at, c.1), add),
                    size => edge(panels, (at, c.1), size, add),
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// A tile that C does not fill: computed beside, and copied.
unsafe fn edge(
    panels: (*const Line, *const Line, usize),
    c: (*mut f32, usize),
    [rows, cols]: [usize; 2],
    add: bool,
) {
    let mut whole = [0.0f32; LEFT * RIGHT];
    // SAFETY: the caller promises rows x cols of C.
    unsafe {
        for r in 0..if add { rows } else { 0 } {
            std::ptr::copy_nonoverlapping(c.0.add(r * c.1), whole[r * RIGHT..].as_mut_ptr(), cols);
        }
        match cols <= HALF {
            true => half_tiles(panels, (whole.as_mut_ptr(), RIGHT), add),
            false => tiles(panels, (whole.as_mut_ptr(), RIGHT), add),
        }
        for r in 0..rows {
            std::ptr::copy_nonoverlapping(whole[r * RIGHT..].as_ptr(), c.0.add(r * c.1), cols);
        }
    }
}

/// 32 x 32 numbers of C from one left and one right panel of so many blocks of depth.
unsafe fn tiles(
    (a, b, blocks): (*const Line, *const Line, usize),
    c: (*mut f32, usize),
    add: bool,
) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: the caller promises the panels, C and the tile configuration.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {ldc}]",
            "tileloadd tmm1, [{c} + {ldc} + 64]",
            "tileloadd tmm2, [{low} + {ldc}]",
            "tileloadd tmm3, [{low} + {ldc} + 64]",
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
            "tileloadd tmm6, [{b} + {line} * 2]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line} * 2 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {ldc}], tmm0",
            "tilestored [{c} + {ldc} + 64], tmm1",
            "tilestored [{low} + {ldc}], tmm2",
            "tilestored [{low} + {ldc} + 64], tmm3",
            add = in(reg) u32::from(add),
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            n = inout(reg) blocks => _,
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

/// 32 x 16 numbers of C: the first half of a right panel.
unsafe fn half_tiles(
    (a, b, blocks): (*const Line, *const Line, usize),
    c: (*mut f32, usize),
    add: bool,
) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: as `tiles`.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {ldc}]",
            "tileloadd tmm2, [{low} + {ldc}]",
            "jmp 4f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm2",
            "4:",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{b} + {line} * 2]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {ldc}], tmm0",
            "tilestored [{low} + {ldc}], tmm2",
            add = in(reg) u32::from(add),
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            n = inout(reg) blocks => _,
            c = in(reg) c.0,
            low = in(reg) low,
            ldc = in(reg) c.1 * size_of::<f32>(),
            line = in(reg) size_of::<Line>(),
            out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
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

/// Configures this thread's tiles for as long as `f` runs.
///
/// # Safety
/// `Isa::Amx` must be supported.
pub unsafe fn with_tiles(f: impl FnOnce()) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly));
        f();
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// 32 x 32 numbers of C from shifted rows and one right panel, each column beginning with a number of `bias`.
///
/// # Safety
/// Within [`with_tiles`]; the rows, the panel, 32 numbers of bias, and C must be there.
pub unsafe fn shifted_tiles(a: Shifted, b: *const Line, bias: *const f32, c: (*mut f32, usize)) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: as the caller promises. Rows of the bias that are no bytes apart are one row, again and again.
    unsafe {
        asm!(
            "tileloadd tmm0, [{bias} + {zero}]",
            "tileloadd tmm1, [{bias} + {zero} + 64]",
            "tileloadd tmm2, [{bias} + {zero}]",
            "tileloadd tmm3, [{bias} + {zero} + 64]",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            "mov {p}, [{offsets}]",
            "add {p}, {a}",
            "tileloadd tmm4, [{p} + {stride}]",
            "tileloadd tmm6, [{b} + {line} * 2]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line} * 2 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {p}, {half}",
            "tileloadd tmm5, [{p} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {offsets}, 8",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {ldc}], tmm0",
            "tilestored [{c} + {ldc} + 64], tmm1",
            "tilestored [{low} + {ldc}], tmm2",
            "tilestored [{low} + {ldc} + 64], tmm3",
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

/// [`shifted_tiles`] of the first 16 columns.
///
/// # Safety
/// As there, with 16 numbers of bias.
pub unsafe fn shifted_half_tiles(
    a: Shifted,
    b: *const Line,
    bias: *const f32,
    c: (*mut f32, usize),
) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "tileloadd tmm0, [{bias} + {zero}]",
            "tileloadd tmm2, [{bias} + {zero}]",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            "mov {p}, [{offsets}]",
            "add {p}, {a}",
            "tileloadd tmm4, [{p} + {stride}]",
            "tileloadd tmm6, [{b} + {line} * 2]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "add {p}, {half}",
            "tileloadd tmm5, [{p} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {offsets}, 8",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {ldc}], tmm0",
            "tilestored [{low} + {ldc}], tmm2",
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
            out("tmm0") _, out("tmm2") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack),
        );
    }
}

/// Adds to 32 x 32 numbers of C the product of a left panel and rows of pairs that are not packed: for each block of depth,
/// 16 rows of 32 pairs that are `b.1` bytes apart, one block after the other.
///
/// # Safety
/// Within [`with_tiles`]; the panel, the rows and C must be there.
pub unsafe fn paired_tiles(
    a: *const Line,
    b: (*const u8, usize),
    blocks: usize,
    c: (*mut f32, usize),
) {
    let low = c.0.wrapping_add(16 * c.1);
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "tileloadd tmm0, [{c} + {ldc}]",
            "tileloadd tmm1, [{c} + {ldc} + 64]",
            "tileloadd tmm2, [{low} + {ldc}]",
            "tileloadd tmm3, [{low} + {ldc} + 64]",
            "test {n}, {n}",
            "jz 5f",
            "2:",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{b} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {stride} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, {step}",
            "dec {n}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {ldc}], tmm0",
            "tilestored [{c} + {ldc} + 64], tmm1",
            "tilestored [{low} + {ldc}], tmm2",
            "tilestored [{low} + {ldc} + 64], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b.0 => _,
            stride = in(reg) b.1,
            step = in(reg) 16 * b.1,
            n = inout(reg) blocks => _,
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
