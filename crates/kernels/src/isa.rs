//! The instruction sets that the kernels are written for, and which of them this processor runs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// A family of instructions, from the fastest to the plainest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Isa {
    /// Tiles of bf16 products (Intel from Sapphire Rapids on), with AVX-512 around them.
    Amx,
    /// AVX-512 with dot products of bf16 pairs (AMD from Zen 4 on, Intel from Cooper Lake on).
    Avx512Bf16,
    /// AVX-512 with f32 arithmetic.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Plain Rust, on any processor.
    Portable,
}

impl Isa {
    /// Every variant, the fastest first.
    pub const ALL: [Isa; 5] = [
        Isa::Amx,
        Isa::Avx512Bf16,
        Isa::Avx512,
        Isa::Avx2,
        Isa::Portable,
    ];

    /// As it is written in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this processor, its operating system and this process may use it.
    pub fn supported(self) -> bool {
        static FOUND: OnceLock<[bool; 5]> = OnceLock::new();
        FOUND.get_or_init(|| Isa::ALL.map(detect))[self as usize]
    }

    /// The supported ones, the fastest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.supported())
    }
}

/// `set_isa` was asked for instructions that this processor lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsupportedIsa(pub Isa);

impl std::fmt::Display for UnsupportedIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "this processor does not run {:?}", self.0)
    }
}

impl std::error::Error for UnsupportedIsa {}

/// The choice of `set_isa`, or `UNSET`.
static CHOSEN: AtomicU8 = AtomicU8::new(UNSET);
const UNSET: u8 = u8::MAX;

/// The instruction set in use: the fastest one that is supported, unless `set_isa` chose another.
pub fn isa() -> Isa {
    match Isa::ALL.get(CHOSEN.load(Ordering::Relaxed) as usize) {
        Some(isa) => *isa,
        None => fastest(),
    }
}

fn fastest() -> Isa {
    static FASTEST: OnceLock<Isa> = OnceLock::new();
    *FASTEST.get_or_init(|| Isa::available().next().unwrap_or(Isa::Portable))
}

/// Makes every later operation use `isa`, to compare instruction sets in tests and benchmarks.
///
/// # Errors
/// If the processor does not support it; nothing changes then.
pub fn set_isa(isa: Isa) -> Result<(), UnsupportedIsa> {
    if !isa.supported() {
        return Err(UnsupportedIsa(isa));
    }
    CHOSEN.store(isa as u8, Ordering::Relaxed);
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn detect(isa: Isa) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma");
    let avx512 =
        avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq");
    match isa {
        Isa::Portable => true,
        Isa::Avx2 => avx2,
        Isa::Avx512 => avx512,
        Isa::Avx512Bf16 => avx512 && has!("avx512bf16"),
        Isa::Amx => avx512 && has!("avx512bf16") && amx::usable(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect(isa: Isa) -> bool {
    isa == Isa::Portable
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// CPUID leaf 7, EDX: AMX-BF16 and AMX-TILE.
    const AMX_BITS: u32 = 1 << 22 | 1 << 24;
    /// XCR0: the operating system saves the tile configuration and the tiles.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;

    /// Whether tiles can be used in this process; asks the kernel for permission.
    pub fn usable() -> bool {
        has_instructions() && system_saves_tiles() && ask_permission()
    }

    fn has_instructions() -> bool {
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & AMX_BITS == AMX_BITS
    }

    fn system_saves_tiles() -> bool {
        #[target_feature(enable = "xsave")]
        fn xcr0() -> u64 {
            // SAFETY: register 0 exists wherever xgetbv does.
            unsafe { _xgetbv(0) }
        }
        // SAFETY: the caller's CPUID check of AMX implies XSAVE, which detection confirms.
        std::arch::is_x86_feature_detected!("xsave") && unsafe { xcr0() } & TILE_STATE == TILE_STATE
    }

    #[cfg(target_os = "linux")]
    fn ask_permission() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two integers and touches no memory of ours.
        unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            ) == 0
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_permission() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_there_and_the_fastest_comes_first() {
        let all: Vec<_> = Isa::available().collect();
        assert_eq!(all.last(), Some(&Isa::Portable));
        assert!(all.is_sorted());
    }

    #[test]
    fn an_unsupported_choice_is_refused() {
        for isa in Isa::ALL.into_iter().filter(|isa| !isa.supported()) {
            assert_eq!(set_isa(isa), Err(UnsupportedIsa(isa)));
        }
    }
}
