//! What is timed. The names are those of `compare.py`.

mod blocks;
mod steps;

use candle_core::{DType, Device, Result, Tensor, Var};
use gallop_kernels::{
    ConvSpec, Precision, Segments, conv, conv_backward, conv_to_bf16, linear_backward,
    linear_to_bf16,
};
use rand::{RngExt, SeedableRng};

/// One thing to time.
pub struct Case {
    /// Its name.
    pub name: String,
    /// Floating point operations a call.
    pub flop: f64,
    /// Makes the inputs, and gives what is to be called.
    pub prepare: Box<dyn Fn() -> Box<dyn FnMut()>>,
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, input, output) in [(4096, 512, 2048), (4096, 1536, 4096)] {
        let flop = 2.0 * (rows * input * output) as f64;
        let shapes = vec![vec![rows, input], vec![output, input]];
        let segments = Segments::single(rows);
        let f = move |t: &[Tensor]| linear_to_bf16(&t[0], &t[1], None, &segments, Precision::Bf16);
        let segments = Segments::single(rows);
        let back = move |t: [&Tensor; 3]| linear_backward(t, None, &segments, Precision::Bf16);
        let name = format!("linear {rows}x{input}x{output}");
        without_tape(&mut cases, &name, flop, shapes, (f, back));
    }
    let images = [
        (
            "conv3d 64->64 3x3x3 8x64x64",
            vec![1, 8, 64, 64, 64],
            vec![64, 3, 3, 3, 64],
        ),
        (
            "conv2d 128->128 3x3 32x32x32",
            vec![32, 32, 32, 128],
            vec![128, 3, 3, 128],
        ),
        (
            "conv2d 3->64 3x3 16x128x128",
            vec![16, 128, 128, 3],
            vec![64, 3, 3, 3],
        ),
        (
            "conv2d 64->3 3x3 16x128x128",
            vec![16, 128, 128, 64],
            vec![3, 3, 3, 64],
        ),
        (
            "conv2d 256->256 3x3 32x16x16",
            vec![32, 16, 16, 256],
            vec![256, 3, 3, 256],
        ),
    ];
    for (name, x, w) in images {
        let spec = ConvSpec::same(&w[1..w.len() - 1]);
        let positions: usize = x[..x.len() - 1].iter().product();
        let flop = 2.0 * (positions * w.iter().product::<usize>()) as f64;
        convolution(&mut cases, name, flop, vec![x, w], spec);
    }
    let x = vec![16, 64, 64, 128];
    let spec = ConvSpec {
        stride: vec![2, 2],
        ..ConvSpec::same(&[3, 3])
    };
    let flop = 2.0 * (16_usize * 32 * 32 * 9 * 128 * 128) as f64;
    let shapes = vec![x, vec![128, 3, 3, 128]];
    convolution(
        &mut cases,
        "conv2d 128->128 3x3/2 16x64x64",
        flop,
        shapes,
        spec,
    );
    let spec = ConvSpec {
        groups: 256,
        ..ConvSpec::same(&[7])
    };
    let flop = 2.0 * (16 * 2048 * 256 * 7) as f64;
    both(
        &mut cases,
        "conv1d depthwise 256 7 16x2048",
        flop,
        (vec![vec![16, 2048, 256], vec![256, 7, 1]], DType::F32),
        move |t| conv(&t[0], &t[1], None, &spec, Precision::F32),
    );
    blocks::add(&mut cases);
    steps::add(&mut cases);
    cases
}

/// Uniform numbers in -1..1; in a matrix smaller by the root of its columns, so that what it makes stays ordinary.
fn random(shape: &[usize], dtype: DType) -> Tensor {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(7);
    let size = match shape {
        [_, columns] => (*columns as f32).powf(-0.5),
        _ => 1.0,
    };
    let numbers: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| size * rng.random_range(-1.0..1.0))
        .collect();
    (Tensor::from_vec(numbers, shape, &Device::Cpu).and_then(|t| t.to_dtype(dtype)))
        .expect("as many numbers as the shape says")
}

fn convolution(
    cases: &mut Vec<Case>,
    name: &str,
    flop: f64,
    shapes: Vec<Vec<usize>>,
    spec: ConvSpec,
) {
    let own = spec.clone();
    let f = move |t: &[Tensor]| conv_to_bf16(&t[0], &t[1], None, &own, Precision::Bf16);
    let back = move |t: [&Tensor; 3]| conv_backward(t, None, &spec, Precision::Bf16);
    without_tape(cases, name, flop, shapes, (f, back));
}

/// Adds an operation of bf16 rows and weights forward, and with its gradients, all of them bf16 too.
fn without_tape(
    cases: &mut Vec<Case>,
    name: &str,
    flop: f64,
    shapes: Vec<Vec<usize>>,
    (f, back): (
        impl Fn(&[Tensor]) -> Result<Tensor> + Clone + 'static,
        impl Fn([&Tensor; 3]) -> Result<[Option<Tensor>; 3]> + Clone + 'static,
    ),
) {
    for backward in [false, true] {
        let (shapes, f, back) = (shapes.clone(), f.clone(), back.clone());
        let prepare = move || -> Box<dyn FnMut()> {
            let inputs: Vec<Tensor> = shapes.iter().map(|s| random(s, DType::BF16)).collect();
            let grad = random(f(&inputs).expect("the shapes agree").dims(), DType::BF16);
            let (f, back) = (f.clone(), back.clone());
            Box::new(move || {
                drop(f(&inputs).expect("the shapes agree"));
                if backward {
                    let found = back([&inputs[0], &inputs[1], &grad]);
                    drop(found.expect("every op has a gradient"));
                }
            })
        };
        cases.push(Case {
            name: format!("{name} fwd{}", if backward { "+bwd" } else { "" }),
            flop: if backward { 3.0 * flop } else { flop },
            prepare: Box::new(prepare),
        });
    }
}

/// Adds `f` forward, and forward and backward by candle's tape for all its inputs (three times the operations), given the
/// gradient of its result.
fn both(
    cases: &mut Vec<Case>,
    name: &str,
    flop: f64,
    (shapes, dtype): (Vec<Vec<usize>>, DType),
    f: impl Fn(&[Tensor]) -> Result<Tensor> + Clone + 'static,
) {
    let (forward, inputs) = (f.clone(), shapes.clone());
    let prepare = move || -> Box<dyn FnMut()> {
        let (inputs, f): (Vec<Tensor>, _) = (
            inputs.iter().map(|s| random(s, dtype)).collect(),
            forward.clone(),
        );
        Box::new(move || drop(f(&inputs).expect("the shapes agree")))
    };
    cases.push(Case {
        name: format!("{name} fwd"),
        flop,
        prepare: Box::new(prepare),
    });
    let prepare = move || -> Box<dyn FnMut()> {
        let vars: Vec<Var> = shapes
            .iter()
            .map(|s| Var::from_tensor(&random(s, dtype)).expect("a variable"))
            .collect();
        let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let f = f.clone();
        // From the result itself, whose gradient is then ones: through a loss, candle would set it to zeros and add.
        Box::new(move || {
            let result = f(&inputs).expect("the shapes agree");
            drop(result.backward().expect("every op has a gradient"));
        })
    };
    cases.push(Case {
        name: format!("{name} fwd+bwd"),
        flop: 3.0 * flop,
        prepare: Box::new(prepare),
    });
}
