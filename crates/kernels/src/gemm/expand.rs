//! Numbers kept in fewer bits to lines of bf16, by AVX-512: 32 at a time, on their way into a panel.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::few_bits::{BLOCK, FLOAT8_SHIFT, FewBits, Form, INT8_ZERO, Q4_ZERO};
use super::pack::{convert, store};
use super::panels::{LINE, Line};

// A line of 4-bit numbers has one scale.
const _: () = assert!(BLOCK == LINE);

/// `len` numbers from `offset` on, all of one row, as lines `stride` apart; the last one is filled up with zeros.
///
/// # Safety
/// The processor must have AVX-512 with BF16, and `out` have room for all lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub unsafe fn lines(
    few: &FewBits,
    offset: usize,
    len: usize,
    (out, stride): (*mut Line, usize),
    floats: &mut Vec<f32>,
) {
    let (row, from) = (offset / few.columns, offset % few.columns);
    if !from.is_multiple_of(LINE) {
        floats.resize(len, 0.0);
        few.expand(offset, floats);
        // SAFETY: the caller gives room for all lines.
        return unsafe { convert(floats.as_ptr(), len, out, stride) };
    }
    let bytes = &few.bytes[row * few.row_bytes()..][..few.row_bytes()];
    for (i, start) in (from..from + len).step_by(LINE).enumerate() {
        let count = LINE.min(from + len - start);
        let mask = (u64::MAX >> (64 - count)) as u32;
        // SAFETY: masked loads read the bytes of `count` numbers only; the caller gives room for the line.
        unsafe {
            let line = match few.form {
                Form::Int8(scales) => int8(bytes[start..start + count].as_ptr(), mask, scales[row]),
                Form::Fp8(scales) => fp8(bytes[start..start + count].as_ptr(), mask, scales[row]),
                Form::Q4(scales) => {
                    let scale = scales[row * few.columns.div_ceil(BLOCK) + start / BLOCK];
                    let stored = &bytes[start / 2..start / 2 + count.div_ceil(2)];
                    q4(stored, scale.to_f32())
                }
            };
            store(out.add(i * stride), _mm512_maskz_mov_epi16(mask, line));
        }
    }
}

/// Two vectors of f32 to a line of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn line(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the same bits under another name.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// # Safety
/// As many bytes as `mask` has bits must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn int8(from: *const u8, mask: u32, scale: f32) -> __m512i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { _mm256_maskz_loadu_epi8(mask, from.cast()) };
    let zero = _mm512_set1_epi32(i32::from(INT8_ZERO));
    let scale = _mm512_set1_ps(scale);
    let half = |bytes: __m128i| {
        let whole = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), zero);
        _mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale)
    };
    line(
        half(_mm256_castsi256_si128(bytes)),
        half(_mm256_extracti128_si256::<1>(bytes)),
    )
}

/// # Safety
/// As many bytes as `mask` has bits must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn fp8(from: *const u8, mask: u32, scale: f32) -> __m512i {
    // SAFETY: as the caller promises.
    let bytes = unsafe { _mm256_maskz_loadu_epi8(mask, from.cast()) };
    let (magnitude, sign) = (_mm512_set1_epi32(0x7f), _mm512_set1_epi32(0x80));
    let (shift, scale) = (_mm512_set1_ps(FLOAT8_SHIFT), _mm512_set1_ps(scale));
    let half = |bytes: __m128i| {
        let bits = _mm512_cvtepu8_epi32(bytes);
        let number = _mm512_or_si512(
            _mm512_slli_epi32::<20>(_mm512_and_si512(bits, magnitude)),
            _mm512_slli_epi32::<24>(_mm512_and_si512(bits, sign)),
        );
        _mm512_mul_ps(_mm512_mul_ps(_mm512_castsi512_ps(number), shift), scale)
    };
    line(
        half(_mm256_castsi256_si128(bytes)),
        half(_mm256_extracti128_si256::<1>(bytes)),
    )
}

/// Up to 16 bytes of two numbers each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn q4(stored: &[u8], scale: f32) -> __m512i {
    let mask = ((1u32 << stored.len()) - 1) as u16;
    // SAFETY: the mask has as many bits as there are bytes, at most 16.
    let bytes = unsafe { _mm_maskz_loadu_epi8(mask, stored.as_ptr().cast()) };
    let pairs = _mm512_cvtepu8_epi32(bytes);
    let (zero, scale) = (_mm512_set1_epi32(i32::from(Q4_ZERO)), _mm512_set1_ps(scale));
    let numbers = |nibbles: __m512i| {
        let whole = _mm512_sub_epi32(nibbles, zero);
        let rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_cvtepi32_ps(whole), scale));
        // SAFETY: the same bits under another name.
        _mm512_cvtepu16_epi32(unsafe { transmute::<__m256bh, __m256i>(rounded) })
    };
    let even = numbers(_mm512_and_si512(pairs, _mm512_set1_epi32(15)));
    let odd = numbers(_mm512_srli_epi32::<4>(pairs));
    _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd))
}
