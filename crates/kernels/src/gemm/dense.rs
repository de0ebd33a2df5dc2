//! The f32 path: unpacked row-major copies, multiplied by the `gemm` crate or by plain loops.

use half::bf16;

/// A strided view of f32 numbers: index i of the operand and k of the sum.
#[derive(Clone, Copy)]
pub struct Dense {
    /// Where (0, 0) lies.
    pub at: *const f32,
    /// From one i to the next.
    pub item: usize,
    /// From one k to the next.
    pub depth: usize,
}

/// To nearest even, without a branch, as the packed kernels do; what is not a number stays none.
#[inline(always)]
pub fn nearest(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    bf16::from_bits(if x.is_nan() { 0x7fc0 } else { rounded })
}

/// Rounds to bf16.
pub fn round_to_bf16(values: &mut [f32]) {
    for v in values {
        *v = f32::from_bits(u32::from(nearest(*v).to_bits()) << 16);
    }
}

/// C (+)= A B with rows `ldc` apart, by the `gemm` crate on this thread.
///
/// # Safety
/// The views must hold `m x k` and `n x k` numbers and `c` must be writable for `m` rows of `n`.
pub unsafe fn multiply(a: Dense, b: Dense, [m, n, k]: [usize; 3], c: (*mut f32, usize), add: bool) {
    let one = 1.0f32;
    // SAFETY: as the caller promises; strides are in numbers, (column, row).
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.0,
            1,
            c.1 as isize,
            add,
            a.at,
            a.depth as isize,
            a.item as isize,
            b.at,
            b.item as isize,
            b.depth as isize,
            one,
            one,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// As `multiply`, in plain Rust.
///
/// # Safety
/// As `multiply`.
pub unsafe fn multiply_plain(
    a: Dense,
    b: Dense,
    [m, n, k]: [usize; 3],
    c: (*mut f32, usize),
    add: bool,
) {
    for i in 0..m {
        // SAFETY: row i of C, as the caller promises.
        let row = unsafe { std::slice::from_raw_parts_mut(c.0.add(i * c.1), n) };
        if !add {
            row.fill(0.0);
        }
        for d in 0..k {
            // SAFETY: (i, d) lies in A and (j, d) in B, as the caller promises.
            unsafe {
                let left = *a.at.add(i * a.item + d * a.depth);
                let right = b.at.add(d * b.depth);
                row.iter_mut()
                    .enumerate()
                    .for_each(|(j, v)| *v += left * *right.add(j * b.item));
            }
        }
    }
}
