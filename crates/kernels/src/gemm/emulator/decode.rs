//! VEX-encoded tile instructions, and the addresses that they name.

/// What an instruction does; tiles by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ldtilecfg` from 64 bytes.
    Configure(*const u8),
    /// `tilerelease`.
    Release,
    /// `tilezero`.
    Zero(usize),
    /// `tileloadd` or `tileloaddt1`: the rows of a tile from addresses so many bytes apart.
    Load(usize, *const u8, isize),
    /// `tilestored`: the same the other way.
    Store(*mut u8, isize, usize),
    /// `tdpbf16ps`: the first tile plus the second times the third.
    Multiply([usize; 3]),
}

/// An instruction and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it does.
    pub instruction: Instruction,
    /// How many bytes it has.
    pub length: usize,
}

/// What addresses are made of.
pub struct Registers {
    /// General registers by their number in instructions.
    pub general: [u64; 16],
    /// The instruction's address.
    pub rip: u64,
}

impl Registers {
    /// Those of an interrupted thread.
    pub fn of(context: &libc::ucontext_t) -> Self {
        const ORDER: [i32; 16] = [
            libc::REG_RAX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RBX,
            libc::REG_RSP,
            libc::REG_RBP,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ];
        let saved = &context.uc_mcontext.gregs;
        Self {
            general: ORDER.map(|at| saved[at as usize] as u64),
            rip: saved[libc::REG_RIP as usize] as u64,
        }
    }

    /// Lets the thread go on after an instruction of so many bytes.
    pub fn step(context: &mut libc::ucontext_t, length: usize) {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += length as i64;
    }
}

/// Bits of the three bytes of a VEX prefix with two-byte opcode maps.
struct Vex {
    /// Above the bits of the ModRM and SIB bytes: reg, index, base.
    high: [usize; 3],
    /// The register named by the prefix.
    register: usize,
    /// The prefix it stands for: 0 none, 1 66, 2 F3, 3 F2.
    prefix: u8,
}

/// The bytes from an address on, one after the other.
struct Bytes {
    at: *const u8,
    taken: usize,
}

impl Bytes {
    /// # Safety
    /// The next byte must be readable.
    unsafe fn byte(&mut self) -> u8 {
        self.taken += 1;
        // SAFETY: as the caller promises.
        unsafe { *self.at.add(self.taken - 1) }
    }

    /// A displacement of one or four bytes.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn displacement(&mut self, bytes: usize) -> i64 {
        // SAFETY: as the caller promises.
        unsafe {
            match bytes {
                1 => i64::from(self.byte() as i8),
                _ => i64::from(i32::from_le_bytes(std::array::from_fn(|_| self.byte()))),
            }
        }
    }
}

/// The tile instruction at `at`, or `None` if there is another.
///
/// # Safety
/// A whole instruction must be readable there.
pub unsafe fn decode(at: *const u8, registers: &Registers) -> Option<Decoded> {
    let mut bytes = Bytes { at, taken: 0 };
    // SAFETY: only bytes of the instruction are read: each tells that the next one belongs to it.
    unsafe {
        let vex = vex(&mut bytes)?;
        let opcode = bytes.byte();
        let modrm = bytes.byte();
        let (reg, rm) = (usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
        let tile = vex.high[0] + reg;
        let beside = modrm >> 6 == 3;
        let instruction = match (opcode, vex.prefix, beside) {
            (0x49, 0, false) if reg == 0 => {
                let (base, _) = address(&mut bytes, modrm, &vex, registers);
                Instruction::Configure(base as *const u8)
            }
            (0x49, 0, true) if (reg, rm) == (0, 0) => Instruction::Release,
            (0x49, 3, true) if rm == 0 => Instruction::Zero(tile),
            (0x4b, 1 | 3, false) if rm == 4 => {
                let (base, stride) = address(&mut bytes, modrm, &vex, registers);
                Instruction::Load(tile, base as *const u8, stride)
            }
            (0x4b, 2, false) if rm == 4 => {
                let (base, stride) = address(&mut bytes, modrm, &vex, registers);
                Instruction::Store(base as *mut u8, stride, tile)
            }
            (0x5c, 2, true) => Instruction::Multiply([tile, vex.high[2] + rm, vex.register]),
            _ => return None,
        };
        Some(Decoded {
            instruction,
            length: bytes.taken,
        })
    }
}

/// `C4`, map 0F38, W0, 128 bits; or `None`.
///
/// # Safety
/// As `decode`.
unsafe fn vex(bytes: &mut Bytes) -> Option<Vex> {
    // SAFETY: as the caller promises.
    unsafe {
        if bytes.byte() != 0xc4 {
            return None;
        }
        let (one, two) = (bytes.byte(), bytes.byte());
        let plain = two >> 7 == 0 && two >> 2 & 1 == 0;
        (one & 31 == 2 && plain).then(|| Vex {
            high: [7, 6, 5].map(|bit| usize::from(!one >> bit & 1) * 8),
            register: usize::from(!(two >> 3) & 15),
            prefix: two & 3,
        })
    }
}

/// The address without the index, and the index times its scale: what tile loads take for the stride.
///
/// # Safety
/// As `decode`.
unsafe fn address(bytes: &mut Bytes, modrm: u8, vex: &Vex, r: &Registers) -> (u64, isize) {
    let (mode, rm) = (modrm >> 6, usize::from(modrm & 7));
    let size = [0, 1, 4][usize::from(mode)];
    // SAFETY: as the caller promises.
    unsafe {
        if rm == 5 && mode == 0 {
            let from = bytes.displacement(4);
            let next = r.rip + bytes.taken as u64;
            return (next.wrapping_add_signed(from), 0);
        }
        if rm != 4 {
            let from = if size == 0 {
                0
            } else {
                bytes.displacement(size)
            };
            return (r.general[vex.high[2] + rm].wrapping_add_signed(from), 0);
        }
        let sib = bytes.byte();
        let (index, base) = (
            vex.high[1] + usize::from(sib >> 3 & 7),
            usize::from(sib & 7),
        );
        let without_base = base == 5 && mode == 0;
        let from = match (without_base, size) {
            (true, _) => bytes.displacement(4),
            (false, 0) => 0,
            (false, size) => bytes.displacement(size),
        };
        let start = if without_base {
            0
        } else {
            r.general[vex.high[2] + base]
        };
        // Number 4 is the stack pointer, which cannot be an index: there is none.
        let stride = if index == 4 {
            0
        } else {
            (r.general[index] as isize) << (sib >> 6)
        };
        (start.wrapping_add_signed(from), stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        Registers {
            general: std::array::from_fn(|i| 0x1000 * i as u64),
            rip: 0x40_0000,
        }
    }

    fn decoded(bytes: &[u8]) -> Option<Instruction> {
        // SAFETY: the tests give whole instructions.
        let found = unsafe { decode(bytes.as_ptr(), &registers()) };
        found.map(|d| {
            assert_eq!(d.length, bytes.len());
            d.instruction
        })
    }

    /// Bytes as LLVM's assembler writes them.
    #[test]
    fn encodings_are_those_of_the_manual() {
        use Instruction::*;
        let at = |register: usize, from: i64| (0x1000 * register as i64 + from) as usize;
        // ldtilecfg [rax]; [r13 + 16]
        assert_eq!(
            decoded(&[0xc4, 0xe2, 0x78, 0x49, 0x00]),
            Some(Configure(at(0, 0) as *const u8))
        );
        let far = [0xc4, 0xc2, 0x78, 0x49, 0x45, 0x10];
        assert_eq!(decoded(&far), Some(Configure(at(13, 16) as *const u8)));
        assert_eq!(decoded(&[0xc4, 0xe2, 0x78, 0x49, 0xc0]), Some(Release));
        // tilezero tmm5
        assert_eq!(decoded(&[0xc4, 0xe2, 0x7b, 0x49, 0xe8]), Some(Zero(5)));
        // tileloadd tmm6, [rcx + 2 * r9 + 64]
        let load = [0xc4, 0xa2, 0x7b, 0x4b, 0x74, 0x49, 0x40];
        assert_eq!(
            decoded(&load),
            Some(Load(6, at(1, 64) as *const u8, 0x2 * 0x9000))
        );
        // tileloaddt1 of the same
        let passing = [0xc4, 0xa2, 0x79, 0x4b, 0x74, 0x49, 0x40];
        assert_eq!(decoded(&passing), decoded(&load));
        // tilestored [rsp + 256], tmm3, without a stride
        let store = [0xc4, 0xe2, 0x7a, 0x4b, 0x9c, 0x24, 0, 1, 0, 0];
        assert_eq!(decoded(&store), Some(Store(at(4, 256) as *mut u8, 0, 3)));
        // tdpbf16ps tmm1, tmm4, tmm7
        assert_eq!(
            decoded(&[0xc4, 0xe2, 0x42, 0x5c, 0xcc]),
            Some(Multiply([1, 4, 7]))
        );
    }

    #[test]
    fn other_instructions_are_not_taken_for_tiles() {
        // ud2; vpxor; tdpbssd (prefix F2); a release with W1.
        for bytes in [
            &[0x0f, 0x0b, 0, 0, 0][..],
            &[0xc4, 0xe1, 0x79, 0xef, 0xc0],
            &[0xc4, 0xe2, 0x43, 0x5e, 0xcc],
            &[0xc4, 0xe2, 0xf8, 0x49, 0xc0],
        ] {
            assert_eq!(decoded(bytes), None, "{bytes:x?}");
        }
    }
}
