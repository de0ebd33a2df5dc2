//! The AMX kernel: 32 x 32 numbers of C in four tiles.
//!
//! The intrinsics are not stable, so the instructions are written out.

use std::arch::asm;

use super::kernel::Start;
use super::panels::{LINE, Line, RIGHT};

/// Items of a left panel: two tiles of 16 rows.
pub const LEFT: usize = 32;

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
                if m - row >= LEFT && n - col >= RIGHT {
                    tiles(panels, (at, c.1), add);
                } else {
                    edge(
                        panels,
                        (at, c.1),
                        [LEFT.min(m - row), RIGHT.min(n - col)],
                        add,
                    );
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
        tiles(panels, (whole.as_mut_ptr(), RIGHT), add);
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
