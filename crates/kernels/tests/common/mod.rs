//! Random tensors, and gradients checked by differences.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Mutex;

use candle_core::{DType, Device, Result, Tensor, Var};
use gallop_kernels::{AttentionBlock, AttentionPlan, Isa, isa, set_isa};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The choice is one for the whole process.
static CHOICE: Mutex<()> = Mutex::new(());

/// The results of `f` under each instruction set.
pub fn under_each<T>(f: impl Fn() -> T) -> Vec<(Isa, T)> {
    let _held = CHOICE.lock().unwrap_or_else(|e| e.into_inner());
    let first = isa();
    let found = Isa::available()
        .map(|isa| {
            set_isa(isa).unwrap();
            (isa, f())
        })
        .collect();
    set_isa(first).unwrap();
    found
}

/// A generator for one test.
pub fn rng(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// Uniform numbers in -1..1.
pub fn uniform(rng: &mut Pcg64Mcg, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// All numbers of a tensor, as f64.
pub fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(candle_core::DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// |a - b| / |b|, or |a| where b is zero.
pub fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let scale = norm(&mut b.iter().copied());
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / if scale > 0.0 { scale } else { 1.0 }
}

/// The output and all gradients of `f`.
pub fn with_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Vec<f64>> {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors);
    let weight = uniform(&mut rng(1), y.dims());
    let grads = (&y * weight)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let mut all = vec![values(&y)];
    all.extend(vars.iter().map(|v| values(grads.get(v).unwrap())));
    all
}

/// A first half that does not see all keys, and a second one, causal in its last range.
pub fn plan_of_halves(rows: usize) -> AttentionPlan {
    let block = |q, k, causal| AttentionBlock { q, k, causal };
    let half = rows / 2;
    AttentionPlan {
        blocks: vec![
            block(0..half, vec![0..half / 2, half..rows], false),
            block(half..rows, vec![0..half, half..rows], true),
        ],
        scale: 0.7,
        softcap: None,
    }
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

/// Compares the gradient of each of `inputs` along random directions with central differences of `f`.
/// `step` may be large where `f` is linear in each input.
pub fn check_gradients(
    rng: &mut Pcg64Mcg,
    inputs: &[Tensor],
    step: f64,
    tolerance: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let weight = uniform(rng, y.dims());
    let loss = (&y * &weight).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    for (i, var) in vars.iter().enumerate() {
        let grad = grads
            .get(var)
            .unwrap_or_else(|| panic!("input {i} has no gradient"));
        assert_eq!(grad.dims(), inputs[i].dims());
        let direction = uniform(rng, inputs[i].dims());
        let at = |sign: f64| {
            let mut moved = inputs.to_vec();
            moved[i] = (&inputs[i] + (&direction * (sign * step)).unwrap()).unwrap();
            dot(&f(&moved).unwrap(), &weight)
        };
        let expected = (at(1.0) - at(-1.0)) / (2.0 * step);
        let found = dot(grad, &direction);
        let scale = dot(&grad.sqr().unwrap(), &direction.sqr().unwrap()).sqrt();
        assert!(
            (found - expected).abs() <= tolerance * scale.max(1e-3),
            "input {i}: gradient {found}, differences {expected}, scale {scale}"
        );
    }
}

/// What an operation gives for rows, results and gradients in bf16 is what it gives for the same numbers in f32, rounded:
/// `narrow` and `wide` are the two, of rows and other inputs.
pub fn check_bf16(
    rng: &mut Pcg64Mcg,
    inputs: &[Tensor],
    narrow: impl Fn(&[Tensor]) -> Result<Tensor>,
    wide: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let rounded = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
    let widened = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let weight = rounded(&uniform(rng, wide(inputs).unwrap().dims()));
    let run = |half: bool| {
        let own = |t: &Tensor| if half { t.clone() } else { widened(t) };
        let mut vars = vec![Var::from_tensor(&own(&rounded(&inputs[0]))).unwrap()];
        vars.extend(inputs[1..].iter().map(|t| Var::from_tensor(t).unwrap()));
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = if half {
            narrow(&tensors)
        } else {
            wide(&tensors)
        }
        .unwrap();
        assert_eq!(y.dtype(), own(&weight).dtype());
        let loss = (&y * own(&weight)).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let mut found = vec![y];
        found.extend(
            vars.iter()
                .map(|v| grads.get(v).expect("a gradient").clone()),
        );
        found
    };
    let (half, whole) = (run(true), run(false));
    for (i, (half, whole)) in half.iter().zip(&whole).enumerate() {
        // The result and the gradient of the rows are bf16; a sum just between two numbers may be rounded to either.
        let (wanted, limit) = match i {
            0 | 1 => (rounded(whole), 1e-3),
            _ => (whole.clone(), 1e-5),
        };
        assert_eq!(half.dtype(), wanted.dtype(), "output {i}");
        let error = relative_error(&values(&widened(half)), &values(&widened(&wanted)));
        assert!(error < limit, "output {i}: {error}");
    }
}
