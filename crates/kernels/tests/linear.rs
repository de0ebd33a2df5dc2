//! The segmented linear map against plain loops, and its gradients.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{check_gradients, relative_error, rng, uniform, values};
use gallop_kernels::{Precision, Segments, linear, linear_backward, linear_to_bf16};
use proptest::prelude::*;

/// The definition, in f64.
fn plain(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, segments: &Segments) -> Vec<f64> {
    let (rows, input) = x.dims2().unwrap();
    let output = w.dim(0).unwrap() / segments.groups();
    let (x, w, bias) = (values(x), values(w), bias.map(values));
    let mut y = vec![0.0; rows * output];
    for (range, group) in segments.parts() {
        for (r, o) in range.clone().flat_map(|r| (0..output).map(move |o| (r, o))) {
            let row = group * output + o;
            let dot: f64 = (0..input)
                .map(|i| x[r * input + i] * w[row * input + i])
                .sum();
            y[r * output + o] = dot + bias.as_ref().map_or(0.0, |b| b[row]);
        }
    }
    y
}

/// Three groups, one of them with two ranges, and rows in none.
fn mixed(rows: usize) -> Segments {
    let (a, b, c) = (rows / 5, rows / 2, rows - rows / 6);
    Segments::new(vec![(0..a, 1), (a..b, 0), (b..c.max(b), 1)])
        .unwrap()
        .with_groups(3)
}

/// What a product multiplies instead of these rows of numbers.
fn rounded(t: &Tensor, precision: Precision) -> Tensor {
    match precision {
        Precision::F32 => t.clone(),
        Precision::Bf16 => t
            .to_dtype(DType::BF16)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap(),
        Precision::Fp8 => {
            let mut rows = t.to_vec2::<f32>().unwrap();
            for row in &mut rows {
                let most = row.iter().fold(0f32, |most, x| most.max(x.abs()));
                let scale = if most > 0.0 { most / 448.0 } else { 1.0 };
                row.iter_mut().for_each(|x| *x = scale * e4m3(*x / scale));
            }
            Tensor::new(rows, t.device()).unwrap()
        }
    }
}

/// The nearest number of three bits of fraction, exponents from -6 and denormals below.
fn e4m3(x: f32) -> f32 {
    let exponent = x.abs().max(f32::MIN_POSITIVE).log2().floor().max(-6.0);
    let step = (exponent - 3.0).exp2();
    ((x / step).round_ties_even() * step).clamp(-448.0, 448.0)
}

/// Of the sums alone, as what is multiplied is rounded on both sides.
const TOLERANCE: f64 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn equals_the_definition(rows in 1usize..150, input in 1usize..140, output in 1usize..90, seed: u64) {
        let mut rng = rng(seed);
        let x = uniform(&mut rng, &[rows, input]);
        for segments in [Segments::single(rows), mixed(rows)] {
            let stacked = output * segments.groups();
            let w = uniform(&mut rng, &[stacked, input]);
            let bias = uniform(&mut rng, &[stacked]);
            for precision in [Precision::F32, Precision::Bf16, Precision::Fp8] {
                let y = linear(&x, &w, Some(&bias), &segments, precision).unwrap();
                let [x, w] = [&x, &w].map(|t| rounded(t, precision));
                let error = relative_error(&values(&y), &plain(&x, &w, Some(&bias), &segments));
                prop_assert!(error < TOLERANCE, "{precision:?}: {error}");
            }
        }
    }

    #[test]
    fn gradients_equal_differences(rows in 1usize..60, input in 1usize..50, output in 1usize..50, seed: u64) {
        let mut rng = rng(seed);
        let segments = mixed(rows);
        let inputs = [
            uniform(&mut rng, &[rows, input]),
            uniform(&mut rng, &[3 * output, input]),
            uniform(&mut rng, &[3 * output]),
        ];
        check_gradients(&mut rng, &inputs, 1.0, 1e-3, |t| {
            linear(&t[0], &t[1], Some(&t[2]), &segments, Precision::F32)
        });
    }
}

#[test]
fn bf16_gradients_are_close() {
    let mut rng = rng(5);
    let segments = mixed(200);
    let inputs = [
        uniform(&mut rng, &[200, 96]),
        uniform(&mut rng, &[3 * 70, 96]),
        uniform(&mut rng, &[3 * 70]),
    ];
    check_gradients(&mut rng, &inputs, 1.0, 2e-2, |t| {
        linear(&t[0], &t[1], Some(&t[2]), &segments, Precision::Bf16)
    });
}

#[test]
fn half_precision_weights_give_what_rounded_ones_give() {
    let mut rng = rng(6);
    let x = uniform(&mut rng, &[33, 65]);
    let w = uniform(&mut rng, &[40, 65]).to_dtype(DType::BF16).unwrap();
    let segments = Segments::single(33);
    for precision in [Precision::F32, Precision::Bf16] {
        let half = linear(&x, &w, None, &segments, precision).unwrap();
        let full = linear(
            &x,
            &w.to_dtype(DType::F32).unwrap(),
            None,
            &segments,
            precision,
        )
        .unwrap();
        assert!(relative_error(&values(&half), &values(&full)) < 1e-6);
    }
}

#[test]
fn rows_in_bf16_give_rounded_results_and_gradients() {
    common::under_each(|| {
        let mut rng = rng(8);
        // One group and several; depths beyond a block, few columns with long sums, and a result too narrow for a line.
        for (rows, input, output) in [(200, 96, 70), (131, 2100, 577), (64, 33, 5), (50, 9000, 40)]
        {
            for segments in [Segments::single(rows), mixed(rows)] {
                let stacked = output * segments.groups();
                let inputs = [
                    uniform(&mut rng, &[rows, input]),
                    uniform(&mut rng, &[stacked, input]),
                    uniform(&mut rng, &[stacked]),
                ];
                for precision in [Precision::F32, Precision::Bf16] {
                    common::check_bf16(
                        &mut rng,
                        &inputs,
                        |t| linear_to_bf16(&t[0], &t[1], Some(&t[2]), &segments, precision),
                        |t| linear(&t[0], &t[1], Some(&t[2]), &segments, precision),
                    );
                }
            }
        }
    });
}

#[test]
fn large_enough_for_every_block_edge() {
    let mut rng = rng(7);
    let (rows, input, output) = (301, 2100, 577);
    let x = uniform(&mut rng, &[rows, input]);
    let w = uniform(&mut rng, &[output, input]);
    let segments = Segments::single(rows);
    for precision in [Precision::F32, Precision::Bf16] {
        let y = linear(&x, &w, None, &segments, precision).unwrap();
        let [x, w] = [&x, &w].map(|t| rounded(t, precision));
        let expected = plain(&x, &w, None, &segments);
        assert!(relative_error(&values(&y), &expected) < TOLERANCE);
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let single = Segments::single(4);
    assert!(linear(&t(&[4, 3]), &t(&[5, 2]), None, &single, Precision::F32).is_err());
    assert!(linear(&t(&[3, 3]), &t(&[5, 3]), None, &single, Precision::F32).is_err());
    assert!(
        linear(
            &t(&[4, 3]),
            &t(&[5, 3]),
            Some(&t(&[4])),
            &single,
            Precision::F32
        )
        .is_err()
    );
    let two = Segments::single(4).with_groups(2);
    assert!(linear(&t(&[4, 3]), &t(&[5, 3]), None, &two, Precision::F32).is_err());
}

/// Rows of a matrix, each divided by its greatest size over 448, rounded to the nearest of the numbers that E4M3 has
/// (found by trying them all), and multiplied again.
fn rounded_to_eight_bits(x: &Tensor) -> Tensor {
    let normal =
        (0..15i32).flat_map(|e| (8..16).map(move |m| f64::from(m) * f64::from(e - 9).exp2()));
    let small = (0..8).map(|m| f64::from(m) / 512.0);
    let numbers: Vec<f64> = small.chain(normal).filter(|n| *n <= 448.0).collect();
    let nearest = |x: f64| {
        let apart = |n: &&f64| (**n - x.abs()).abs();
        let found = numbers.iter().min_by(|a, b| apart(a).total_cmp(&apart(b)));
        found.unwrap().copysign(x)
    };
    let rows = x.to_vec2::<f32>().unwrap().into_iter().map(|row| {
        let scale = row.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 448.0;
        let round = |x: f32| (nearest(f64::from(x / scale)) * f64::from(scale)) as f32;
        row.into_iter().map(round).collect::<Vec<_>>()
    });
    Tensor::new(rows.collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

#[test]
fn eight_bits_are_rows_of_rounded_numbers() {
    let mut rng = rng(3);
    let (x, w) = (
        uniform(&mut rng, &[70, 53]),
        uniform(&mut rng, &[3 * 18, 53]),
    );
    let bias = uniform(&mut rng, &[3 * 18]);
    let segments = mixed(70);
    let y = linear(&x, &w, Some(&bias), &segments, Precision::Fp8).unwrap();
    let (x, w) = (rounded_to_eight_bits(&x), rounded_to_eight_bits(&w));
    let error = relative_error(&values(&y), &plain(&x, &w, Some(&bias), &segments));
    assert!(error < 1e-5, "{error}");
}

#[test]
fn eight_bits_are_not_trained() {
    let mut rng = rng(4);
    let (x, w) = (uniform(&mut rng, &[5, 16]), uniform(&mut rng, &[3, 16]));
    let w = candle_core::Var::from_tensor(&w).unwrap();
    let y = linear(&x, &w, None, &Segments::single(5), Precision::Fp8).unwrap();
    let error = y.sum_all().unwrap().backward().unwrap_err();
    assert!(error.to_string().contains("train in bf16"), "{error}");
}

#[test]
fn gradients_without_a_tape_are_those_with_one() {
    let mut rng = rng(12);
    let segments = mixed(90);
    let inputs = [[90, 33], [3 * 21, 33]].map(|s| uniform(&mut rng, &s));
    let bias = uniform(&mut rng, &[63]);
    let grad = uniform(&mut rng, &[90, 21]);
    let vars = [&inputs[0], &inputs[1], &bias].map(|t| Var::from_tensor(t).unwrap());
    let [x, w, b] = [0, 1, 2].map(|i| vars[i].as_tensor());
    let y = linear(x, w, Some(b), &segments, Precision::Bf16).unwrap();
    let loss = (y * &grad).unwrap().sum_all().unwrap();
    let taped = loss.backward().unwrap();
    let own = |grad: &Tensor| {
        let given = [&inputs[0], &inputs[1], grad];
        linear_backward(given, Some(&bias), &segments, Precision::Bf16)
    };
    for (var, found) in vars.iter().zip(own(&grad).unwrap()) {
        assert_eq!(values(taped.get(var).unwrap()), values(&found.unwrap()));
    }
    assert!(own(&inputs[0]).is_err(), "a gradient of another shape");
    let given = [&inputs[0], &inputs[1], &grad];
    assert!(
        linear_backward(given, Some(&grad), &segments, Precision::Bf16).is_err(),
        "a bias of another shape"
    );
}
