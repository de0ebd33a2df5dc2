//! Large buffers without needless page faults and zeroing.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_their_length_and_zeros_are_zero() {
        for len in [0, 1, 1000, 3 << 20] {
            assert!(zeros(len).iter().all(|v| *v == 0.0));
            // SAFETY: `fill` writes all.
            let v = unsafe { filled(len, |v| v.fill(2.0f32)) };
            assert_eq!(v.len(), len);
            assert!(v.iter().all(|v| *v == 2.0));
        }
    }
}
