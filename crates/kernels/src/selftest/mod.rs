//! Every operation, forward and backward, against the same operation elsewhere.

mod attention;
mod branch;
mod convolutions;
#[cfg(feature = "cuda")]
mod fused;
mod linear;
mod rows;

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::{Isa, Precision, set_isa};

/// Errors allowed where both sides round the same numbers to bf16, and where what is rounded was computed.
const EXACT: f64 = 3e-5;
const ROUNDED: f64 = 6e-3;
/// And where Hopper adds up products of 8-bit floats, which it does with fewer bits than f32 has (7.7e-5 measured).
const EIGHT: f64 = 5e-4;

/// What one operation showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The operation and what is special about it.
    pub name: String,
    /// Relative L2 error of the result.
    pub forward: f64,
    /// The greatest relative L2 error of a gradient; 0 where the operation gives none.
    pub backward: f64,
    /// What both must stay below.
    pub limit: f64,
    /// Time of the second run, forward and backward.
    pub time: Duration,
    /// Why there is no result, if there is none; the errors are no numbers then.
    pub failure: Option<String>,
}

impl Outcome {
    /// Whether the errors are numbers below the limit.
    pub fn passed(&self) -> bool {
        self.forward <= self.limit && self.backward <= self.limit
    }
}

type Function = Box<dyn Fn(&[Tensor], &Device) -> Result<Tensor>>;

struct Case {
    name: String,
    inputs: Vec<Tensor>,
    limit: f64,
    run: Function,
    /// Whether it gives gradients.
    gradients: bool,
    /// Whether a GPU computes it by cuDNN.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no GPU"))]
    fused: bool,
}

/// Runs every operation on `device` and on the processor, on random inputs of odd sizes, and hands each outcome to
/// `each`; true if all passed. One that fails to run has not passed, and those after it are run all the same.
///
/// # Errors
/// If an operation fails to run on the processor; its name is in the message.
pub fn compare_devices(device: &Device, mut each: impl FnMut(&Outcome)) -> Result<bool> {
    let mut passed = true;
    for case in cases()? {
        let wanted = evaluate(&case, &Device::Cpu)?;
        let found = evaluate(&case, device).and_then(|_| {
            let start = Instant::now();
            Ok((evaluate(&case, device)?, start.elapsed()))
        });
        let outcome = judged(&case, found, &wanted);
        passed &= outcome.passed();
        each(&outcome);
    }
    Ok(passed)
}

/// Runs every operation with each instruction set of this processor but the portable one, and compares with that.
/// The set in use is the fastest one afterwards.
///
/// # Errors
/// As [`compare_devices`].
pub fn compare_instruction_sets(mut each: impl FnMut(Isa, &Outcome)) -> Result<bool> {
    let mut passed = true;
    let choose = |isa| set_isa(isa).map_err(candle_core::Error::wrap);
    let sets: Vec<Isa> = Isa::available().collect();
    for case in cases()? {
        choose(Isa::Portable)?;
        let wanted = evaluate(&case, &Device::Cpu)?;
        for isa in sets.iter().filter(|isa| **isa != Isa::Portable) {
            choose(*isa)?;
            let start = Instant::now();
            let found = evaluate(&case, &Device::Cpu).map(|found| (found, start.elapsed()));
            let outcome = judged(&case, found, &wanted);
            passed &= outcome.passed();
            each(*isa, &outcome);
        }
    }
    choose(sets[0])?;
    Ok(passed)
}

/// The result and the gradients of the inputs, on the processor.
fn evaluate(case: &Case, device: &Device) -> Result<Vec<Tensor>> {
    let named = |e: candle_core::Error| candle_core::Error::Msg(format!("{}: {e}", case.name));
    evaluate_unnamed(case, device).map_err(named)
}

fn evaluate_unnamed(case: &Case, device: &Device) -> Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    let _only = case.fused.then(fused::Fusing::new);
    let home = |t: Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32);
    if !case.gradients {
        let inputs = case.inputs.iter().map(|x| x.to_device(device));
        let y = (case.run)(&inputs.collect::<Result<Vec<_>>>()?, device)?;
        return Ok(vec![home(y)?]);
    }
    let vars = (case.inputs.iter())
        .map(|x| Var::from_tensor(&x.to_device(device)?))
        .collect::<Result<Vec<_>>>()?;
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = (case.run)(&inputs, device)?;
    let weights = random(y.dims(), 99)?.to_device(device)?;
    let grads = (&y * &weights)?.sum_all()?.backward()?;
    let mut found = vec![y.detach()];
    for (i, var) in vars.iter().enumerate() {
        match grads.get(var) {
            Some(grad) => found.push(grad.clone()),
            None => candle_core::bail!("input {i} has no gradient"),
        }
    }
    found.into_iter().map(home).collect()
}

/// What was found, beside what was wanted.
fn judged(case: &Case, found: Result<(Vec<Tensor>, Duration)>, wanted: &[Tensor]) -> Outcome {
    let judged = found.and_then(|(found, time)| outcome(case, &found, wanted, time));
    judged.unwrap_or_else(|why| Outcome {
        name: case.name.clone(),
        forward: f64::NAN,
        backward: f64::NAN,
        limit: case.limit,
        time: Duration::ZERO,
        failure: Some(why.to_string()),
    })
}

fn outcome(case: &Case, found: &[Tensor], wanted: &[Tensor], time: Duration) -> Result<Outcome> {
    let errors = (found.iter().zip(wanted))
        .map(|(f, w)| relative_error(f, w))
        .collect::<Result<Vec<_>>>()?;
    // `max` would pass over what is not a number.
    let worst = errors[1..]
        .iter()
        .fold(0.0, |worst, e| if *e <= worst { worst } else { *e });
    Ok(Outcome {
        name: case.name.clone(),
        forward: errors[0],
        backward: worst,
        limit: case.limit,
        time,
        failure: None,
    })
}

/// |a - b| / |b|, or |a| where b is zero.
fn relative_error(a: &Tensor, b: &Tensor) -> Result<f64> {
    if a.dims() != b.dims() {
        candle_core::bail!("shapes {:?} and {:?}", a.dims(), b.dims());
    }
    let (a, b): (Vec<f32>, Vec<f32>) = (a.flatten_all()?.to_vec1()?, b.flatten_all()?.to_vec1()?);
    let (mut gap, mut size) = (0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(&b) {
        gap += (f64::from(*a) - f64::from(*b)).powi(2);
        size += f64::from(*b).powi(2);
    }
    Ok((gap / if size > 0.0 { size } else { 1.0 }).sqrt())
}

/// Numbers in -1..1 that depend on the seed only (a linear congruential generator, the upper bits).
fn random(dims: &[usize], seed: u64) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut draw = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / ((1u64 << 23) as f32) - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product::<usize>())
        .map(|_| draw())
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu)
}

fn case(
    name: impl Into<String>,
    shapes: &[&[usize]],
    limit: f64,
    run: impl Fn(&[Tensor], &Device) -> Result<Tensor> + 'static,
) -> Result<Case> {
    let inputs = shapes
        .iter()
        .enumerate()
        .map(|(i, dims)| random(dims, i as u64 + 1));
    Ok(Case {
        name: name.into(),
        inputs: inputs.collect::<Result<_>>()?,
        limit,
        run: Box::new(run),
        gradients: true,
        fused: false,
    })
}

fn cases() -> Result<Vec<Case>> {
    let mut all = rows::cases()?;
    for precision in [Precision::F32, Precision::Bf16] {
        all.extend(linear::cases(precision)?);
        all.extend(convolutions::cases(precision)?);
        all.extend(attention::cases(precision)?);
        all.extend(branch::cases(precision)?);
    }
    all.push(linear::for_products()?);
    all.extend(linear::eight_bits()?);
    #[cfg(feature = "cuda")]
    all.extend(fused::cases()?);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_fails() {
        let bad = Outcome {
            name: String::new(),
            forward: 0.0,
            backward: f64::NAN,
            limit: 1.0,
            time: Duration::ZERO,
            failure: None,
        };
        assert!(!bad.passed());
        let case_of = |run: fn() -> Result<Tensor>| case("", &[], 1.0, move |_, _| run()).unwrap();
        let failing = case_of(|| candle_core::bail!("no such operation"));
        let found = evaluate(&failing, &Device::Cpu).map(|found| (found, Duration::ZERO));
        let outcome_of_it = judged(&failing, found, &[]);
        assert!(!outcome_of_it.passed());
        assert!(outcome_of_it.failure.unwrap().contains("no such operation"));
        let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        let one = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        let case = case("", &[], 1.0, |_, _| unreachable!()).unwrap();
        let pair = [one.clone(), one.clone()];
        let outcome = outcome(&case, &[one, nan], &pair, Duration::ZERO).unwrap();
        assert!(!outcome.passed());
    }

    #[test]
    fn instruction_sets_agree() {
        let passed = compare_instruction_sets(|isa, outcome| {
            assert!(outcome.passed(), "{isa:?}: {outcome:?}");
        });
        assert!(passed.unwrap());
    }
}
