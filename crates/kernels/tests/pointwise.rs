//! Norms, rotations, activations, resampling and windows against plain tensor operations, and their gradients.

mod common;

use candle_core::{D, Result, Tensor};
use common::{check_gradients, relative_error, rng, uniform, values};
use gallop_kernels::*;
use proptest::prelude::*;

const EPS: f64 = 1e-6;
const TOLERANCE: f64 = 2e-6;

fn mixed(rows: usize) -> Segments {
    let (a, b) = (rows / 4, rows - rows / 3);
    Segments::new(vec![(0..a, 1), (a..b, 0), (b..rows, 1)])
        .unwrap()
        .with_groups(3)
}

fn close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    let error = relative_error(&values(a), &values(b));
    assert!(error < TOLERANCE, "{error}");
}

/// The weights of each row.
fn expanded(w: &Tensor, segments: &Segments) -> Result<Tensor> {
    let mut groups = vec![0u32; segments.end()];
    for (rows, group) in segments.parts() {
        groups[rows.clone()].fill(*group as u32);
    }
    w.reshape((segments.groups(), ()))?
        .index_select(&Tensor::new(groups, w.device())?, 0)
}

fn plain_rms(x: &Tensor, eps: f64) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?)
}

fn plain_rope(
    x: &Tensor,
    w: &Tensor,
    (sin, cos): (&Tensor, &Tensor),
    s: &Segments,
) -> Result<Tensor> {
    let (head, r) = (x.dim(2)?, sin.dim(1)?);
    let weight = (expanded(w, s)? + 1.0)?.unsqueeze(1)?;
    let y = plain_rms(x, EPS)?.broadcast_mul(&weight)?;
    let (sin, cos) = (sin.unsqueeze(1)?, cos.unsqueeze(1)?);
    let (a, b) = (y.narrow(2, 0, r)?, y.narrow(2, r, r)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second, y.narrow(2, 2 * r, head - 2 * r)?], 2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rms_norms(rows in 1usize..80, width in 1usize..130, seed: u64) {
        let (mut rng, s) = (rng(seed), mixed(rows));
        let inputs = [uniform(&mut rng, &[rows, width]), uniform(&mut rng, &[3 * width])];
        let y = rms_norm(&inputs[0], &inputs[1], &s, EPS).unwrap();
        let weight = (expanded(&inputs[1], &s).unwrap() + 1.0).unwrap();
        close(&y, &(plain_rms(&inputs[0], EPS).unwrap() * weight).unwrap());
        let eps = 0.1;
        check_gradients(&mut rng, &inputs, 1e-2, 1e-2, |t| rms_norm(&t[0], &t[1], &s, eps));
    }

    #[test]
    fn norms_and_what_follows(rows in 1usize..300, width in 1usize..130, seed: u64) {
        let mut rng = rng(seed);
        let [x, w] = [uniform(&mut rng, &[rows, width]), uniform(&mut rng, &[width])];
        let normed = rms_norm(&x, &w, &Segments::single(rows), EPS).unwrap();
        for (then, plain) in [(Then::Silu, silu(&normed)), (Then::Relu, normed.relu())] {
            close(&rms_norm_then(&x, &w, EPS, then, Precision::Bf16).unwrap(), &plain.unwrap());
        }
    }

    #[test]
    fn layer_norms(rows in 1usize..50, width in 2usize..130, seed: u64) {
        let mut rng = rng(seed);
        let inputs = [
            uniform(&mut rng, &[2, rows, width]),
            uniform(&mut rng, &[width]),
            uniform(&mut rng, &[width]),
        ];
        let f = |t: &[Tensor]| layer_norm(&t[0], &t[1], &t[2], 0.1);
        let centred = inputs[0].broadcast_sub(&inputs[0].mean_keepdim(D::Minus1).unwrap()).unwrap();
        let plain = plain_rms(&centred, 0.1).unwrap();
        let plain = plain.broadcast_mul(&inputs[1]).unwrap().broadcast_add(&inputs[2]).unwrap();
        close(&f(&inputs).unwrap(), &plain);
        check_gradients(&mut rng, &inputs, 1e-2, 1e-2, f);
    }

    #[test]
    fn norms_with_rotation(rows in 1usize..40, heads in 1usize..4, half in 1usize..40, r in 0usize..40, seed: u64) {
        let (mut rng, s, head) = (rng(seed), mixed(rows), 2 * half);
        let angles = uniform(&mut rng, &[rows, r.min(half)]);
        let (sin, cos) = (angles.sin().unwrap(), angles.cos().unwrap());
        let inputs = [uniform(&mut rng, &[rows, heads, head]), uniform(&mut rng, &[3 * head])];
        let f = |t: &[Tensor], eps| qk_norm_rope(&t[0], &t[1], (&sin, &cos), &s, eps);
        let plain = plain_rope(&inputs[0], &inputs[1], (&sin, &cos), &s).unwrap();
        close(&f(&inputs, EPS).unwrap(), &plain);
        check_gradients(&mut rng, &inputs, 1e-2, 1e-2, |t| f(t, 0.1));
    }

    #[test]
    fn gates(rows in 1usize..60, heads in 1usize..5, head in 1usize..70, seed: u64) {
        let mut rng = rng(seed);
        let inputs = [uniform(&mut rng, &[rows, heads, head]), uniform(&mut rng, &[rows, heads])];
        let gate = (inputs[1].neg().unwrap().exp().unwrap() + 1.0).unwrap().recip().unwrap();
        let plain = inputs[0].broadcast_mul(&gate.unsqueeze(2).unwrap()).unwrap();
        close(&head_gate(&inputs[0], &inputs[1]).unwrap(), &plain);
        check_gradients(&mut rng, &inputs, 1e-2, 1e-2, |t| head_gate(&t[0], &t[1]));
    }

    #[test]
    fn snakes(rows in 1usize..80, channels in 1usize..70, seed: u64) {
        let mut rng = rng(seed);
        let inputs = [
            (uniform(&mut rng, &[rows, channels]) * 5.0).unwrap(),
            uniform(&mut rng, &[channels]).exp().unwrap(),
            uniform(&mut rng, &[channels]).exp().unwrap(),
        ];
        let wave = inputs[0].broadcast_mul(&inputs[1]).unwrap().sin().unwrap().sqr().unwrap();
        let plain = (&inputs[0] + wave.broadcast_div(&inputs[2]).unwrap()).unwrap();
        let f = |t: &[Tensor]| snake(&t[0], &t[1], &t[2]);
        close(&f(&inputs).unwrap(), &plain);
        check_gradients(&mut rng, &inputs, 1e-3, 2e-2, f);
    }

    #[test]
    fn upsampling(dims in prop::collection::vec((1usize..5, 1usize..4), 1..4), channels in 1usize..9, seed: u64) {
        let mut rng = rng(seed);
        let mut shape = vec![2];
        shape.extend(dims.iter().map(|d| d.0));
        shape.push(channels);
        let factors: Vec<usize> = dims.iter().map(|d| d.1).collect();
        let x = uniform(&mut rng, &shape);
        let mut plain = x.clone();
        for (i, f) in factors.iter().enumerate() {
            let index: Vec<u32> = (0..shape[i + 1] * f).map(|j| (j / f) as u32).collect();
            plain = plain.index_select(&Tensor::new(index, x.device()).unwrap(), i + 1).unwrap();
        }
        close(&upsample_nearest(&x, &factors).unwrap(), &plain);
        check_gradients(&mut rng, &[x], 1.0, 1e-4, |t| upsample_nearest(&t[0], &factors));
    }

    #[test]
    fn windows(length in 1usize..3000, size in 1usize..70, hop in 1usize..50, channels in 1usize..4, seed: u64) {
        let mut rng = rng(seed);
        let x = uniform(&mut rng, &[2, length, channels]);
        let y = frames(&x, size, hop).unwrap();
        let count = if length < size { 0 } else { (length - size) / hop + 1 };
        prop_assert_eq!(y.dims(), &[2, count, size, channels]);
        for i in [0, count / 2, count.saturating_sub(1)].into_iter().filter(|i| *i < count) {
            close(&y.narrow(1, i, 1).unwrap().squeeze(1).unwrap(), &x.narrow(1, i * hop, size).unwrap());
        }
        // The adjoint: <frames(x), w> = <x, overlap_add(w)>.
        let w = uniform(&mut rng, y.dims());
        let back = overlap_add(&w, hop, length).unwrap();
        let dot = |a: &Tensor, b: &Tensor| values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum::<f64>();
        prop_assert!((dot(&y, &w) - dot(&x, &back)).abs() < 1e-3);
        if count > 0 {
            check_gradients(&mut rng, &[x], 1.0, 1e-4, |t| frames(&t[0], size, hop));
            check_gradients(&mut rng, &[w], 1.0, 1e-4, |t| overlap_add(&t[0], hop, length));
        }
    }
}

fn line(limit: f32) -> Tensor {
    // The step keeps the points away from the corners at -7 and 7.
    let points: Vec<f32> = (-200..=200)
        .map(|i| (i as f32 + 0.5) / 200.5 * limit)
        .collect();
    Tensor::new(points, &candle_core::Device::Cpu).unwrap()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn check_function(f: fn(&Tensor) -> Result<Tensor>, truth: impl Fn(f64) -> f64) {
    let x = line(12.0);
    let y = values(&f(&x).unwrap());
    for (x, y) in values(&x).into_iter().zip(y) {
        assert!((y - truth(x)).abs() < 3e-6, "{x}: {y}");
    }
    let x = candle_core::Var::from_tensor(&x).unwrap();
    let grads = f(&x).unwrap().sum_all().unwrap().backward().unwrap();
    let slopes = values(grads.get(&x).unwrap());
    for (x, d) in values(&x).into_iter().zip(slopes) {
        let expected = (truth(x + 1e-4) - truth(x - 1e-4)) / 2e-4;
        assert!((d - expected).abs() < 1e-5, "slope at {x}: {d}, {expected}");
    }
}

#[test]
fn functions_of_one_number() {
    check_function(silu, |x| x * logistic(x));
    check_function(gelu7, |x| x.min(7.0) * logistic(1.702 * x.min(7.0)));
    check_function(gelu_tanh, |x| {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    });
}

#[test]
fn gelu_is_that_of_candle() {
    let x = line(12.0);
    close(&gelu(&x).unwrap(), &x.gelu_erf().unwrap());
    check_gradients(&mut rng(3), &[x], 1e-2, 1e-3, |t| gelu(&t[0]));
}

#[test]
fn swiglu7_is_its_definition() {
    let mut rng = rng(8);
    let x = (uniform(&mut rng, &[37, 2 * 29]) * 10.0).unwrap();
    let y = values(&swiglu7(&x).unwrap());
    for (pair, y) in values(&x).chunks(2).zip(y) {
        let (gate, linear) = (pair[0].min(7.0), pair[1].clamp(-7.0, 7.0));
        let truth = gate * logistic(1.702 * gate) * (linear + 1.0);
        assert!((y - truth).abs() < 1e-5, "{pair:?}: {y}");
    }
    check_gradients(&mut rng, &[x], 1e-3, 2e-2, |t| swiglu7(&t[0]));
}

#[test]
fn large_tensors_take_the_parallel_way() {
    let mut rng = rng(9);
    let x = uniform(&mut rng, &[300, 513]);
    close(&silu(&x).unwrap(), &candle_core::Tensor::silu(&x).unwrap());
    let wide = uniform(&mut rng, &[301, 512]);
    let y = swiglu7(&wide).unwrap();
    let last = swiglu7(&wide.narrow(0, 300, 1).unwrap()).unwrap();
    close(&y.narrow(0, 300, 1).unwrap(), &last);
}

#[test]
fn nothing_gives_nothing() {
    let device = candle_core::Device::Cpu;
    let x = Tensor::zeros((0, 8), candle_core::DType::F32, &device).unwrap();
    let w = Tensor::zeros(8, candle_core::DType::F32, &device).unwrap();
    let y = rms_norm(&x, &w, &Segments::single(0), EPS).unwrap();
    assert_eq!(y.dims(), &[0, 8]);
    assert_eq!(silu(&x).unwrap().dims(), &[0, 8]);
    assert_eq!(swiglu7(&x).unwrap().dims(), &[0, 4]);
}

#[test]
fn wrong_shapes_are_refused() {
    let x = uniform(&mut rng(1), &[4, 6]);
    let w = uniform(&mut rng(1), &[5]);
    assert!(rms_norm(&x, &w, &Segments::single(4), EPS).is_err());
    assert!(rms_norm_then(&x, &w, EPS, Then::Silu, Precision::F32).is_err());
    assert!(layer_norm(&x, &w, &w, EPS).is_err());
    assert!(snake(&x, &w, &w).is_err());
    assert!(swiglu7(&uniform(&mut rng(1), &[4, 5])).is_err());
    assert!(upsample_nearest(&x, &[2]).is_err());
    assert!(head_gate(&x.unsqueeze(2).unwrap(), &w).is_err());
}
