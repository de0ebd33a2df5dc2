//! Tile instructions in software, for tests on processors without AMX.
//!
//! Such a processor raises an illegal-instruction fault where AMX code begins a tile instruction; the handler here
//! decodes the instruction, carries it out on tiles of its thread, and steps over it. Instructions that a real
//! processor would refuse end the process. After Intel's "Software Developer's Manual", volume 2 (encodings and
//! operations) and volume 1, chapter 18 (tile configuration).

mod decode;
mod tiles;

use std::cell::{Cell, RefCell};
use std::ptr::null_mut;
use std::sync::OnceLock;

use crate::isa::Isa;
use decode::{Decoded, Registers};
use tiles::Tiles;

thread_local! {
    /// The tiles of this thread. Nothing is dropped, so that a signal handler may use it.
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::INIT) };
    /// What this thread's new kernels are for, if a test chose it.
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// The instruction set that a test chose for this thread's new kernels.
pub fn forced() -> Option<Isa> {
    FORCED.get()
}

/// Runs `f` with kernels for `isa`: AMX in the processor where it has it, else in software. They are chosen on this
/// thread, and run on all.
pub fn with_isa<T>(isa: Isa, f: impl FnOnce() -> T) -> T {
    if isa == Isa::Amx {
        install();
    }
    let before = FORCED.replace(Some(isa));
    let result = f();
    FORCED.set(before);
    result
}

/// Makes tile instructions run on every thread of this process; does nothing where the processor runs them.
fn install() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        if !Isa::Amx.supported() {
            // SAFETY: the structure is filled as sigaction asks, and the handler is one of three arguments.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
                assert_eq!(libc::sigaction(libc::SIGILL, &action, null_mut()), 0);
            }
        }
    });
}

extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands over the context of the fault, whose instruction pointer is at readable code: what
    // was fetched to fault.
    let carried_out = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let registers = Registers::of(context);
        let decoded = decode::decode(registers.rip as *const u8, &registers);
        decoded.is_some_and(
            |Decoded {
                 instruction,
                 length,
             }| {
                let result = TILES.with_borrow_mut(|tiles| tiles.run(instruction));
                if let Err(why) = result {
                    refuse(why);
                }
                Registers::step(context, length);
                true
            },
        )
    };
    if !carried_out {
        refuse("an illegal instruction that is not one of the tiles'");
    }
}

/// Ends the process as a fault of the processor would, saying why.
fn refuse(why: &str) -> ! {
    // SAFETY: both calls are allowed in a handler; the text is as long as is said.
    unsafe {
        libc::write(2, why.as_ptr().cast(), why.len());
        libc::write(2, c"\n".as_ptr().cast(), 1);
        libc::abort()
    }
}
