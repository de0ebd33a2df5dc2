//! AMX is checked against plain loops before it is trusted.

use std::sync::OnceLock;

use crate::isa::{Isa, isa};

/// Which instructions multiply bf16 matrices here, in words, for logs.
pub fn describe() -> String {
    match isa() {
        Isa::Amx if !amx_is_right() => {
            "AVX-512 BF16 (AMX is there but gave wrong products)".to_owned()
        }
        Isa::Amx => "AMX BF16".to_owned(),
        Isa::Avx512Bf16 => "AVX-512 BF16".to_owned(),
        Isa::Avx512 => "AVX-512 f32".to_owned(),
        Isa::Avx2 => "AVX2 f32".to_owned(),
        Isa::Portable => "portable code".to_owned(),
    }
}

/// Whether the AMX kernel gives what it should; computed once.
#[cfg(target_arch = "x86_64")]
pub fn amx_is_right() -> bool {
    static RIGHT: OnceLock<bool> = OnceLock::new();
    // Only a test that emulates tiles asks where there are none.
    let there = || cfg!(all(test, target_os = "linux")) || Isa::Amx.supported();
    *RIGHT.get_or_init(|| there() && compare())
}

/// There is no AMX here.
#[cfg(not(target_arch = "x86_64"))]
pub fn amx_is_right() -> bool {
    false
}

/// Products of small whole numbers, which bf16 and f32 hold exactly, with edges in every dimension.
#[cfg(target_arch = "x86_64")]
fn compare() -> bool {
    use super::kernel::Start;
    use super::panels::{self, LINE, Line, Panels, RIGHT, Scratch};
    use super::product::Output;
    use super::source::{Data, Operand, Source};
    use super::{amx, kernel::Side};

    const M: usize = 45;
    const N: usize = 39;
    const K: usize = 75;
    let number = |i: usize| ((i * 37 + 11) % 17) as f32 - 8.0;
    let a: Vec<f32> = (0..M * K).map(number).collect();
    let b: Vec<f32> = (0..N * K).map(|i| number(i + 5)).collect();
    let pack = |data, count: usize, side, items: usize| {
        let operand = Operand::by_rows(Source::matrix(Data::F32(data), count, K, K));
        let panels = Panels {
            side,
            items,
            blocks: K.div_ceil(LINE),
        };
        let mut lines = vec![Line::ZERO; count.div_ceil(items) * panels.lines()];
        // SAFETY: `Isa::Amx` implies AVX-512 BF16; without either, tests pack in another way.
        unsafe {
            panels::fill(
                &operand,
                (0..count, 0..K),
                panels,
                &mut lines,
                &mut Scratch::new(),
            )
        };
        (lines, panels.lines())
    };
    let (left, right) = (
        pack(&a, M, Side::Left, amx::LEFT),
        pack(&b, N, Side::Right, RIGHT),
    );
    let mut c = vec![1.0; M * N];
    let (pa, pb) = ((left.0.as_ptr(), left.1), (right.0.as_ptr(), right.1));
    // SAFETY: the caller checked that AMX is supported, or emulates it; all sizes agree.
    unsafe {
        amx::block(
            pa,
            pb,
            [M, N, K],
            (Output::F32(c.as_mut_ptr()), N),
            Start::Add,
        )
    };
    let expected = |i: usize| {
        (0..K)
            .map(|k| a[i / N * K + k] * b[i % N * K + k])
            .sum::<f32>()
            + 1.0
    };
    c.iter().enumerate().all(|(i, v)| *v == expected(i))
}
