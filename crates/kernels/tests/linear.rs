//! The segmented linear map against plain loops, and its gradients.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{check_gradients, relative_error, rng, uniform, values};
use gallop_kernels::{Precision, Segments, linear};
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

fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 6e-3,
    }
}

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
            for precision in [Precision::F32, Precision::Bf16] {
                let y = linear(&x, &w, Some(&bias), &segments, precision).unwrap();
                let error = relative_error(&values(&y), &plain(&x, &w, Some(&bias), &segments));
                prop_assert!(error < tolerance(precision), "{precision:?}: {error}");
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
fn large_enough_for_every_block_edge() {
    let mut rng = rng(7);
    let (rows, input, output) = (301, 2100, 577);
    let x = uniform(&mut rng, &[rows, input]);
    let w = uniform(&mut rng, &[output, input]);
    let segments = Segments::single(rows);
    let expected = plain(&x, &w, None, &segments);
    for precision in [Precision::F32, Precision::Bf16] {
        let y = linear(&x, &w, None, &segments, precision).unwrap();
        assert!(relative_error(&values(&y), &expected) < tolerance(precision));
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
