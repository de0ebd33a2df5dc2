//! Large buffers without needless page faults and zeroing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, PoisonError};

/// Numbers of which every bit pattern is one.
pub trait Number: Copy + Send + Sync {}
impl Number for f32 {}
impl Number for half::bf16 {}

/// A vector that `fill` must write wholly; its numbers are not set before.
///
/// # Safety
/// `fill` must write every number of the slice, and read none that it has not written.
pub unsafe fn filled<T: Number>(len: usize, fill: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut v: Vec<T> = Vec::with_capacity(len);
    advise_huge(v.as_mut_ptr(), len);
    // SAFETY: the capacity is there, every bit pattern is a number, and `fill` writes all before anyone reads.
    unsafe {
        v.set_len(len);
    }
    fill(&mut v);
    v
}

/// Zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    let v = vec![0.0; len];
    advise_huge(v.as_ptr().cast_mut(), len);
    v
}

/// Numbers that begin at a line of the cache, so that rows of whole lines touch no line twice.
#[derive(Default)]
pub struct Aligned {
    lines: Vec<FloatLine>,
    len: usize,
}

/// The f32 numbers of a line of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct FloatLine(#[expect(dead_code, reason = "read as numbers")] [f32; Self::NUMBERS]);

impl FloatLine {
    const NUMBERS: usize = 16;
    const ZERO: Self = Self([0.0; Self::NUMBERS]);
}

impl Aligned {
    /// So many zeros.
    pub fn zeros(len: usize) -> Self {
        let lines = vec![FloatLine::ZERO; len.div_ceil(FloatLine::NUMBERS)];
        advise_huge(lines.as_ptr().cast_mut(), lines.len());
        Self { lines, len }
    }

    /// So many zeros, in the same place if there is room.
    pub fn reset(&mut self, len: usize) {
        self.lines.clear();
        self.grow(len);
        self.len = len;
    }

    /// At least so many numbers: those that there are, and zeros.
    pub fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(FloatLine::NUMBERS);
        if self.lines.len() < lines {
            self.lines.resize(lines, FloatLine::ZERO);
        }
        self.len = self.len.max(len);
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the lines are 16 numbers each and nothing else, and `len` of them are there.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// What tasks work in, handed on from one to the next: made only as often as tasks run at a time. (rayon's `_init` makes it
/// anew wherever it divides the work.)
pub struct HandedOn<T, F> {
    free: Mutex<Vec<T>>,
    make: F,
}

impl<T, F: Fn() -> T> HandedOn<T, F> {
    /// None so far; `make` makes one.
    pub fn new(make: F) -> Self {
        Self {
            free: Mutex::new(Vec::new()),
            make,
        }
    }

    /// Runs a task in one.
    pub fn with<R>(&self, task: impl FnOnce(&mut T) -> R) -> R {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free().pop();
        let mut own = found.unwrap_or_else(&self.make);
        let result = task(&mut own);
        free().push(own);
        result
    }
}

/// Asks for huge pages under a large buffer: a fault for each 2 MiB instead of each 4 KiB.
#[cfg(target_os = "linux")]
fn advise_huge<T>(at: *mut T, len: usize) {
    const HUGE: usize = 2 << 20;
    let (from, to) = (at as usize, at as usize + len * size_of::<T>());
    let (from, to) = (from.next_multiple_of(HUGE), to & !(HUGE - 1));
    if to > from {
        // SAFETY: the range lies in the buffer, and the advice changes no contents. A refusal does no harm.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge<T>(_: *mut T, _: usize) {}

/// Makes the allocator keep what is freed instead of giving it back to the system, so that large tensors of a
/// training step find warm pages. For the start of a program that allocates the same sizes again and again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_freed_memory() {
    // SAFETY: the calls set parameters of the allocator and may be made at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Only glibc can be told.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_freed_memory() {}

/// The system's allocator, but for large buffers beginning at a line of the cache: what the kernels load and store of them
/// then touches no line twice. For programs that compute, as their `#[global_allocator]`.
///
/// A large buffer is asked for with a line more and begins within it, what was asked for noted before it: glibc's own aligned
/// buffers do not find the places of those that were freed again (a clip took 630 MiB so, not 380).
pub struct LineAllocator;

impl LineAllocator {
    /// Bytes from which on a buffer is large.
    const LARGE: usize = 4096;
    const LINE: usize = align_of::<FloatLine>();

    /// What the system is asked for, where the buffer is large.
    fn with_line(layout: Layout) -> Option<Layout> {
        // What the system gives is aligned to 16 bytes: there is room for a pointer before the next line.
        const GIVEN: usize = 16;
        if layout.size() < Self::LARGE || layout.align() > Self::LINE {
            return None;
        }
        Layout::from_size_align(layout.size() + Self::LINE, GIVEN).ok()
    }

    /// The first line within what the system gave.
    ///
    /// # Safety
    /// `given` must be null or have a line more than is used.
    unsafe fn begin(given: *mut u8) -> *mut u8 {
        if given.is_null() {
            return given;
        }
        let skipped = Self::LINE - given as usize % Self::LINE;
        // SAFETY: as the caller promises; 16 bytes are skipped at the least.
        unsafe {
            let at = given.add(skipped);
            at.cast::<*mut u8>().sub(1).write(given);
            at
        }
    }
}

// SAFETY: everything is the system's; whether a buffer is large, and so where what the system gave is noted, follows from its
// layout alone.
unsafe impl GlobalAlloc for LineAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe {
            match Self::with_line(layout) {
                Some(more) => Self::begin(System.alloc(more)),
                None => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe {
            match Self::with_line(layout) {
                Some(more) => Self::begin(System.alloc_zeroed(more)),
                None => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; before a large buffer stands what the system gave.
        unsafe {
            match Self::with_line(layout) {
                Some(more) => System.dealloc(at.cast::<*mut u8>().sub(1).read(), more),
                None => System.dealloc(at, layout),
            }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises; a new buffer is as large as what is copied.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            if Self::with_line(layout).is_none() && Self::with_line(new).is_none() {
                return System.realloc(at, layout, size);
            }
            let to = self.alloc(new);
            if !to.is_null() {
                to.copy_from_nonoverlapping(at, layout.size().min(size));
                self.dealloc(at, layout);
            }
            to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_begin_at_a_line_and_keep_what_is_in_them() {
        let layout = |size| Layout::from_size_align(size, 4).unwrap();
        let holds = |at: *mut u8, size: usize| {
            assert!(size < LineAllocator::LARGE || (at as usize).is_multiple_of(64));
            // SAFETY: the buffer has been written so far.
            (0..size).all(|i| unsafe { *at.add(i) } == i as u8)
        };
        // SAFETY: buffers are written before they are read, and freed by the layout that they have.
        unsafe {
            for sizes in [[40, 80], [40, 5000], [5000, 9000], [9000, 5000], [5000, 40]] {
                let [size, other] = sizes;
                let at = LineAllocator.alloc(layout(size));
                (0..size).for_each(|i| *at.add(i) = i as u8);
                assert!(holds(at, size), "{sizes:?}");
                let at = LineAllocator.realloc(at, layout(size), other);
                assert!(holds(at, size.min(other)), "{sizes:?}");
                (0..other).for_each(|i| *at.add(i) = i as u8);
                assert!(holds(at, other), "{sizes:?}");
                LineAllocator.dealloc(at, layout(other));
                let zeros = LineAllocator.alloc_zeroed(layout(size));
                assert!((0..size).all(|i| *zeros.add(i) == 0), "{sizes:?}");
                LineAllocator.dealloc(zeros, layout(size));
            }
        }
    }

    #[test]
    fn what_is_handed_on_is_made_once_for_tasks_in_turn() {
        let made = std::cell::Cell::new(0);
        let counters = HandedOn::new(|| made.replace(made.get() + 1));
        for before in 0..3 {
            counters.with(|own| {
                assert_eq!(*own, before);
                *own += 1;
            });
        }
        counters.with(|_| counters.with(|other| assert_eq!(*other, 1)));
        assert_eq!(made.get(), 2);
    }

    #[test]
    fn buffers_have_their_length_and_zeros_are_zero() {
        for len in [0, 1, 1000, 3 << 20] {
            assert!(zeros(len).iter().all(|v| *v == 0.0));
            // SAFETY: `fill` writes all.
            let v = unsafe { filled(len, |v| v.fill(2.0f32)) };
            assert_eq!(v.len(), len);
            let mut aligned = Aligned::zeros(len);
            assert_eq!((aligned.len(), aligned.as_ptr() as usize % 64), (len, 0));
            aligned.fill(1.0);
            aligned.reset(len / 2 + 1);
            assert!(aligned.len() == len / 2 + 1 && aligned.iter().all(|v| *v == 0.0));
            aligned.fill(1.0);
            aligned.grow(len);
            assert_eq!(aligned.len(), len.max(len / 2 + 1));
            assert_eq!(aligned[len / 2], 1.0);
            assert!(v.iter().all(|v| *v == 2.0));
        }
    }
}
