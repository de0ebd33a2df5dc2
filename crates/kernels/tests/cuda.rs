//! The operations on a GPU against the processor's; needs a GPU, or `LD_LIBRARY_PATH` of `tools/cuda-emulate`.
#![cfg(feature = "cuda")]

use gallop_kernels::{Precision, cuda, cuda_device, selftest};

#[test]
#[ignore = "needs a GPU or its emulation"]
fn operations_agree_with_the_processor() {
    let device = cuda_device(0, &[]).unwrap();
    let mut failed = Vec::new();
    selftest::compare_devices(&device, |outcome| {
        println!(
            "{:40} {:9.1e} {:9.1e} {:9.1e} {:8.1} ms",
            outcome.name,
            outcome.forward,
            outcome.backward,
            outcome.limit,
            outcome.time.as_secs_f64() * 1e3
        );
        if !outcome.passed() {
            failed.push(outcome.name.clone());
        }
    })
    .unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Needs NVRTC (tools/cuda-toolkit has it), but no GPU.
#[test]
#[ignore = "needs NVRTC: LD_LIBRARY_PATH=toolkit/nvidia/cu13/lib"]
fn kernels_compile_for_hopper() {
    cuda::open_compiler(&[]).unwrap();
    let mut texts = vec![cuda::Text::Pointwise, cuda::Text::Expand];
    for precision in [Precision::F32, Precision::Bf16] {
        texts.extend([cuda::Text::Rows(precision), cuda::Text::Windows(precision)]);
        texts.extend([16, 64, 128, 256].map(|head| cuda::Text::Attention(precision, head)));
    }
    for text in texts {
        let ptx = cuda::compile(text, (9, 0)).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!(ptx.contains(".entry"), "{text:?}");
    }
}
