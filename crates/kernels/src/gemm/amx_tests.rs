//! The AMX kernel and everything that is built on it: in the processor where it has AMX, else by the emulator.

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::emulator::with_isa;
use super::kernel::{Engine, Kernel, Start};
use super::packed::{Block, Matrix};
use super::product::Output;
use super::{Precision, amx};
use crate::isa::Isa;
use crate::{
    AttentionBlock, AttentionPlan, ConvSpec, Frozen, Numbers, Segments, attention, conv, linear,
    linear_frozen,
};

/// What stands where nothing may be written.
const UNTOUCHED: f32 = 12345.0;

fn numbers(rng: &mut Pcg64Mcg, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    let numbers = numbers(&mut Pcg64Mcg::seed_from_u64(seed), shape.iter().product());
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let scale = norm(&mut b.iter().copied());
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / if scale > 0.0 { scale } else { 1.0 }
}

/// `amx::block` of random numbers into rows of C that are `ldc` apart; what lies around C stays.
/// The panels' buffers held other numbers before, which must not reach C. Two more starts (3 and 4) are the first and the
/// last one with C in bf16.
fn check_block([m, n, k]: [usize; 3], ldc: usize, start: u8, seed: u64) {
    let rounded = start > 2;
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let (a, b) = (numbers(&mut rng, m * k), numbers(&mut rng, n * k));
    let bias = numbers(&mut rng, n);
    let mut c = vec![UNTOUCHED; m * ldc + 40];
    for i in 0..m {
        c[i * ldc..][..n].copy_from_slice(&numbers(&mut rng, n));
    }
    let mut half: Vec<bf16> = c.iter().copied().map(bf16::from_f32).collect();
    let widened = |half: &[bf16]| half.iter().map(|v| v.to_f32()).collect();
    let before = if rounded { widened(&half) } else { c.clone() };
    with_isa(Isa::Amx, || {
        let kernel = Kernel::new(Precision::Bf16);
        let (mut left, mut right) = (kernel.left(), kernel.right());
        let nothing = vec![f32::NAN; 128 * k];
        left.pack_rows(Matrix::new(&nothing, 128, k));
        right.pack_rows(Matrix::new(&nothing, 128, k));
        left.pack_rows(Matrix::new(&a, m, k));
        right.pack_rows(Matrix::new(&b, n, k));
        let [left, right] = [&left, &right].map(|p| Block::new(p, 0, 0).panels());
        let start = match start {
            0 | 3 => Start::Zero,
            1 => Start::Add,
            _ => Start::Bias(bias.as_ptr()),
        };
        let to = match rounded {
            true => Output::Bf16(half.as_mut_ptr()),
            false => Output::F32(c.as_mut_ptr()),
        };
        // SAFETY: AMX is there or emulated; all sizes agree.
        unsafe { amx::block(left, right, [m, n, k], (to, ldc), start) };
    });
    if rounded {
        c = widened(&half);
    }
    let round = |v: f32| f64::from(bf16::from_f32(v).to_f32());
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (at, (now, then)) in c.iter().zip(&before).enumerate() {
        let (i, j) = (at / ldc, at % ldc);
        if i >= m || j >= n {
            assert_eq!(now, then, "{at} was written");
            continue;
        }
        let sum: f64 = (0..k)
            .map(|d| round(a[i * k + d]) * round(b[j * k + d]))
            .sum();
        let first = match start {
            0 | 3 => 0.0,
            1 => f64::from(*then),
            _ => f64::from(bias[j]),
        };
        found.push(f64::from(*now));
        expected.push(first + sum);
    }
    let error = relative_error(&found, &expected);
    let limit = if rounded { 3e-3 } else { 2e-6 };
    assert!(error < limit, "{m} x {n} x {k}, start {start}: {error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn blocks_are_plain_products(
        m in 1usize..100, n in 1usize..100, k in 0usize..1300, pad in 0usize..40, start in 0u8..5, seed: u64
    ) {
        check_block([m, n, k], n + pad, start, seed);
    }
}

#[test]
fn whole_tiles_and_their_neighbours() {
    for m in [31, 32, 33, 64] {
        for n in [31, 32, 33, 64] {
            for k in [31, 32, 33, 256, 257, 512, 600, 1100] {
                check_block([m, n, k], n, 1, (m * n * k) as u64);
            }
        }
    }
}

#[test]
fn the_check_at_first_use_passes() {
    let engine = with_isa(Isa::Amx, || Kernel::new(Precision::Bf16).engine());
    assert_eq!(engine, Engine::Amx);
}

/// The output and all gradients of `f`.
fn with_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Vec<f64>> {
    let vars: Vec<Var> = (inputs.iter())
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&inputs);
    let loss = (&y * tensor(1, y.dims())).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let mut all = vec![values(&y)];
    all.extend(vars.iter().map(|v| values(grads.get(v).unwrap())));
    all
}

/// AMX and plain loops give the same results and gradients.
fn same(inputs: &[Tensor], tolerance: f64, f: impl Fn(&[Tensor]) -> Tensor) {
    let amx = with_isa(Isa::Amx, || with_gradients(inputs, &f));
    let others = with_isa(Isa::Portable, || with_gradients(inputs, &f));
    for (i, (found, expected)) in amx.iter().zip(&others).enumerate() {
        let error = relative_error(found, expected);
        assert!(error < tolerance, "result {i}: {error}");
    }
}

#[test]
fn linear_with_segments_and_bias() {
    let segments = Segments::new(vec![(0..70, 1), (70..150, 0), (150..201, 1)]).unwrap();
    let inputs = [vec![201, 75], vec![2 * 130, 75], vec![2 * 130]].map(|s| tensor(2, &s));
    same(&inputs, 2e-5, |t| {
        linear(&t[0], &t[1], Some(&t[2]), &segments, Precision::Bf16).unwrap()
    });
}

#[test]
fn linear_in_blocks_of_every_dimension() {
    let inputs = [[700, 2100], [330, 2100]].map(|s| tensor(3, &s));
    let single = Segments::single(700);
    let product = |t: &[Tensor]| linear(&t[0], &t[1], None, &single, Precision::Bf16).unwrap();
    let amx = with_isa(Isa::Amx, || product(&inputs));
    assert!(
        relative_error(
            &values(&amx),
            &values(&with_isa(Isa::Portable, || product(&inputs)))
        ) < 2e-5
    );
}

#[test]
fn gradients_of_long_sums() {
    let inputs = [[9000, 40], [72, 40]].map(|s| tensor(4, &s));
    let single = Segments::single(9000);
    same(&inputs, 2e-5, |t| {
        linear(&t[0], &t[1], None, &single, Precision::Bf16).unwrap()
    });
}

#[test]
fn convolutions() {
    let inputs = [vec![2, 5, 10, 11, 48], vec![70, 3, 3, 3, 48]].map(|s| tensor(5, &s));
    let spec = ConvSpec::same(&[3, 3, 3]);
    same(&inputs, 2e-5, |t| {
        conv(&t[0], &t[1], None, &spec, Precision::Bf16).unwrap()
    });
    let inputs = [vec![1, 13, 12, 6], vec![10, 3, 3, 3]].map(|s| tensor(6, &s));
    let spec = ConvSpec {
        stride: vec![2, 1],
        groups: 2,
        ..ConvSpec::same(&[3, 3])
    };
    same(&inputs, 2e-5, |t| {
        conv(&t[0], &t[1], None, &spec, Precision::Bf16).unwrap()
    });
}

/// Rounded probabilities may differ by a unit where sums of another order are rounded, hence the tolerance.
#[test]
fn attention_over_ranges() {
    let block = |q, k, causal| AttentionBlock { q, k, causal };
    for (head, softcap) in [(64, None), (24, Some(20.0))] {
        let plan = AttentionPlan {
            blocks: vec![
                block(0..110, vec![5..130, 200..300], false),
                block(110..200, vec![0..17, 40..460], true),
            ],
            scale: 0.3,
            softcap,
        };
        let inputs = [[200, 4, head], [460, 2, head], [460, 2, head]].map(|s| tensor(7, &s));
        same(&inputs, 2e-3, |t| {
            attention(&t[0], &t[1], &t[2], &plan, Precision::Bf16).unwrap()
        });
    }
}

#[test]
fn weights_in_fewer_bits() {
    let (rows, columns) = (70, 96);
    let bytes: Vec<u8> = (0..rows * columns).map(|i| (i * 37 % 251) as u8).collect();
    let scales: Vec<f32> = (0..rows).map(|i| 0.001 * (i + 1) as f32).collect();
    let blocks: Vec<bf16> = (0..rows * 3)
        .map(|i| bf16::from_f32(0.01 * (i % 7 + 1) as f32))
        .collect();
    let halves = &bytes[..rows * columns / 2];
    let x = tensor(8, &[61, columns]);
    for numbers in [
        Numbers::Int8 {
            bytes: &bytes,
            scales: &scales,
        },
        Numbers::Q4 {
            bytes: halves,
            scales: &blocks,
        },
    ] {
        let w = Frozen::new(numbers, rows, columns).unwrap();
        let product = || linear_frozen(&x, &w, &Segments::single(61), Precision::Bf16).unwrap();
        let amx = with_isa(Isa::Amx, product);
        assert!(relative_error(&values(&amx), &values(&with_isa(Isa::Portable, product))) < 2e-5);
    }
}
