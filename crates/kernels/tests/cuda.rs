//! The operations on a GPU against the processor's; needs a GPU, or `LD_LIBRARY_PATH` of `tools/cuda-emulate`.
#![cfg(feature = "cuda")]

use gallop_kernels::cuda::{Convolution, Pass};
use gallop_kernels::{ConvSpec, Padding, Precision, cuda, cuda_device, selftest};

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
    let mut texts = vec![cuda::Text::Merge, cuda::Text::Eight, cuda::Text::Expand];
    for precision in [Precision::F32, Precision::Bf16] {
        texts.extend([
            cuda::Text::Pointwise(precision),
            cuda::Text::Rows(precision),
            cuda::Text::Windows(precision),
        ]);
        texts.extend([16, 64, 128, 256].map(|head| cuda::Text::Attention(precision, head)));
    }
    for text in texts {
        let ptx = cuda::compile(text, (9, 0)).unwrap_or_else(|e| panic!("{text:?}: {e}"));
        assert!(ptx.contains(".entry"), "{text:?}");
    }
}

/// An H100 as cuDNN describes it.
const HOPPER: &str = r#"{"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,
"multiProcessorCount":132,"warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,
"reservedSharedMemoryPerBlock":1024,"oversizedSharedMemoryPerBlock":0,"maxRegistersPerSM":65536,"maxCtasPerSM":32,
"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,
"totalGlobalMem":85000000000,"smClockRateKHz":1980000,"memClockRateKHz":2619000,"l2CacheSize":52428800,
"cudaDeviceId":0,"deviceVer":900,"driverVer":13000,"deviceName":"NVIDIA H100 80GB HBM3"}"#;

/// Needs cuDNN's own library and something that passes for a driver, but no GPU: cuDNN compiles the attention that is
/// asked for. Not with the emulated cuDNN, which knows no GPU but its own.
#[test]
#[ignore = "needs cuDNN: see docs/gpu.md"]
fn cudnn_compiles_attention_for_hopper() {
    cuda::open_cudnn(&[]);
    println!("cuDNN {}", cuda::fused_attention().unwrap());
    let shape = |rows: [usize; 2], heads, head| cuda::DenseShape {
        rows,
        all: rows.map(|n| n + 300),
        heads,
        head,
        eight: false,
    };
    let shapes = [
        // The full-size model at 256p, its frames and texts at 1080p, odd lengths, a small model.
        shape([4350, 4350], [40, 8], 128),
        shape([2040, 22_440], [40, 8], 128),
        shape([65_280, 766], [40, 8], 128),
        shape([67, 131], [4, 2], 64),
        shape([1, 77], [4, 2], 128),
        shape([15_001, 14_999], [8, 8], 64),
    ];
    let eights = [0, 1, 3].map(|i| cuda::DenseShape {
        eight: true,
        ..shapes[i]
    });
    for shape in shapes.into_iter().chain(eights) {
        let work = cuda::CudnnWork::Attention(shape);
        let bytes = cuda::plan_for(HOPPER, &work).unwrap();
        println!("{shape:?}: {bytes} bytes of workspace");
    }
}

/// As above, convolutions and their gradients.
#[test]
#[ignore = "needs cuDNN: see docs/gpu.md"]
fn cudnn_compiles_convolutions_for_hopper() {
    cuda::open_cudnn(&[]);
    let same = ConvSpec::same;
    let causal = ConvSpec::causal(&[3, 3, 3]);
    let replicated = ConvSpec {
        mode: Padding::Replicate,
        ..causal.clone()
    };
    let halving = ConvSpec {
        stride: vec![2, 2],
        padding: vec![(0, 1), (0, 1)],
        ..ConvSpec::new(2)
    };
    let dilated = ConvSpec {
        dilation: vec![9],
        padding: vec![(27, 27)],
        ..ConvSpec::new(1)
    };
    let forward = [Pass::Forward { bias: true }, Pass::Forward { bias: false }];
    let all = [forward[0], forward[1], Pass::Data, Pass::Filter];
    // The exact and the fast video decoder's at 256p and 1080p, the video encoder's that halve, the audio decoder's.
    type Case<'a> = (&'a [usize], &'a [usize], &'a ConvSpec, &'a [Pass]);
    let cases: [Case; 6] = [
        (&[1, 4, 256, 448, 256], &[256, 3, 3, 3, 256], &causal, &all),
        (
            &[1, 2, 1088, 1920, 96],
            &[12, 3, 3, 3, 96],
            &causal,
            &forward,
        ),
        (&[1, 4, 64, 112, 64], &[64, 3, 3, 3, 64], &replicated, &all),
        (&[4, 256, 448, 96], &[96, 3, 3, 96], &halving, &forward),
        (&[1, 60_000, 128], &[128, 7, 128], &dilated, &forward),
        (
            &[2, 128, 128, 64],
            &[64, 3, 3, 16],
            &ConvSpec {
                groups: 4,
                ..same(&[3, 3])
            },
            &all,
        ),
    ];
    for (x, w, spec, passes) in cases {
        for pass in passes {
            let work = cuda::CudnnWork::Convolution(Convolution::new(x, w, spec, *pass).unwrap());
            let bytes = cuda::plan_for(HOPPER, &work).unwrap();
            println!("{x:?} {w:?} {pass:?}: {bytes} bytes of workspace");
        }
    }
}
