//! Every operation, forward and backward, against the same operation elsewhere.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::{
    AttentionBlock, AttentionPlan, ConvSpec, Isa, Padding, Precision, Segments, SelfAttention,
    set_isa,
};

/// Errors allowed where both sides round the same numbers to bf16, and where what is rounded was computed.
const EXACT: f64 = 3e-5;
const ROUNDED: f64 = 6e-3;
/// Error allowed where both sides round outputs to 8-bit floats, of which one rounds the probabilities too: numbers
/// that are almost equal may become neighbours, 6% apart.
#[cfg(feature = "cuda")]
const EIGHT: f64 = 7e-2;

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
/// `each`; true if all passed.
///
/// # Errors
/// If an operation fails to run; its name is in the message.
pub fn compare_devices(device: &Device, mut each: impl FnMut(&Outcome)) -> Result<bool> {
    let mut passed = true;
    for case in cases()? {
        let wanted = evaluate(&case, &Device::Cpu)?;
        evaluate(&case, device)?;
        let start = Instant::now();
        let found = evaluate(&case, device)?;
        let outcome = outcome(&case, &found, &wanted, start.elapsed())?;
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
            let found = evaluate(&case, &Device::Cpu)?;
            let outcome = outcome(&case, &found, &wanted, start.elapsed())?;
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
    let _only = case.fused.then(Fusing::new);
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

/// All that cuDNN can compute goes to it as long as this is there.
#[cfg(feature = "cuda")]
struct Fusing;

#[cfg(feature = "cuda")]
impl Fusing {
    fn new() -> Self {
        crate::cuda::set_fused(crate::cuda::Fused::Always);
        Self
    }
}

#[cfg(feature = "cuda")]
impl Drop for Fusing {
    fn drop(&mut self) {
        crate::cuda::set_fused(crate::cuda::Fused::Auto);
    }
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
    let mut all = pointwise()?;
    for precision in [Precision::F32, Precision::Bf16] {
        all.extend(linear(precision)?);
        all.extend(conv(precision)?);
        all.extend(attention(precision)?);
    }
    all.push(for_products()?);
    all.extend(eight_bits()?);
    all.extend(fused()?);
    all.extend(norms()?);
    all.extend(positions()?);
    Ok(all)
}

fn pointwise() -> Result<Vec<Case>> {
    let unary = [
        ("silu", crate::silu as fn(&Tensor) -> Result<Tensor>),
        ("gelu", crate::gelu),
        ("gelu tanh", crate::gelu_tanh),
        ("gelu7", crate::gelu7),
        ("swiglu7", crate::swiglu7),
    ];
    // Up to 10, beyond where the last two clamp.
    let wide =
        |f: fn(&Tensor) -> Result<Tensor>| move |x: &[Tensor], _: &Device| f(&(&x[0] * 10.0)?);
    let mut all = (unary.into_iter())
        .map(|(name, f)| case(name, &[&[37, 54]], EXACT, wide(f)))
        .collect::<Result<Vec<_>>>()?;
    all.push(case(
        "head gate",
        &[&[13, 3, 24], &[13, 3]],
        EXACT,
        |x, _| crate::head_gate(&x[0], &x[1]),
    )?);
    all.push(case("snake", &[&[2, 31, 9], &[9], &[9]], EXACT, |x, _| {
        crate::snake(&x[0], &x[1], &(&x[2] + 1.5)?)
    })?);
    Ok(all)
}

/// Three groups, one with two ranges, one range between them that is nobody's.
fn ragged() -> Result<Segments> {
    Segments::new(vec![(0..17, 0), (17..50, 2), (60..61, 1), (61..97, 0)])
}

fn linear(precision: Precision) -> Result<Vec<Case>> {
    let named = |what: &str| format!("linear {what} {precision:?}");
    Ok(vec![
        case(
            named("one group"),
            &[&[65, 34], &[51, 34]],
            EXACT,
            move |x, _| crate::linear(&x[0], &x[1], None, &Segments::single(65), precision),
        )?,
        case(
            named("3 groups, bias"),
            &[&[97, 33], &[3 * 21, 33], &[63]],
            EXACT,
            move |x, _| crate::linear(&x[0], &x[1], Some(&x[2]), &ragged()?, precision),
        )?,
        case(
            named("3 groups, wide bias"),
            &[&[97, 40], &[3 * 24, 40], &[72]],
            EXACT,
            move |x, _| crate::linear(&x[0], &x[1], Some(&x[2]), &ragged()?, precision),
        )?,
        case(
            named("bf16 weights"),
            &[&[40, 48], &[32, 48]],
            ROUNDED,
            move |x, _| {
                let w = x[1].to_dtype(DType::BF16)?;
                crate::linear(&x[0], &w, None, &Segments::single(40), precision)
            },
        )?,
    ])
}

/// An MLP without gradients, whose middle a GPU stores as the products read it.
fn for_products() -> Result<Case> {
    let shapes: [&[usize]; 4] = [&[97, 40], &[3 * 40], &[3 * 48, 40], &[3 * 40, 24]];
    let run = |x: &[Tensor], _: &Device| {
        let (segments, precision) = (ragged()?, Precision::Bf16);
        let normed = crate::rms_norm_for_product(&x[0], &x[1], &segments, 1e-6, precision)?;
        let up = crate::linear(&normed, &x[2], None, &segments, precision)?;
        let (whole, half) = (
            crate::gelu7_for_product(&up, precision)?,
            crate::swiglu7_for_product(&up, precision)?,
        );
        let back = x[2].reshape((3 * 40, 48))?;
        crate::linear(&whole, &back, None, &segments, precision)?
            + crate::linear(&half, &x[3], None, &segments, precision)?
    };
    let case = case("norm and MLP for products Bf16", &shapes, ROUNDED, run)?;
    Ok(Case {
        gradients: false,
        ..case
    })
}

/// Linear maps in 8-bit floats: sizes that their products take, and sizes that are multiplied as bf16.
fn eight_bits() -> Result<Vec<Case>> {
    let kinds: [(&str, [usize; 3], bool); 3] = [
        ("one group", [65, 48, 80], false),
        ("3 groups, bias", [97, 16, 40], true),
        ("odd outputs", [97, 21, 33], true),
    ];
    let cases = kinds.map(|(name, [rows, output, input], ragged_rows)| {
        let segments = match ragged_rows {
            true => ragged()?,
            false => Segments::single(rows),
        };
        let outputs = segments.groups() * output;
        let shapes: [&[usize]; 3] = [&[rows, input], &[outputs, input], &[outputs]];
        let mut case = case(format!("linear {name} Fp8"), &shapes, EXACT, move |x, _| {
            let bias = ragged_rows.then_some(&x[2]);
            crate::linear(&x[0], &x[1], bias, &segments, Precision::Fp8)
        })?;
        case.gradients = false;
        Ok(case)
    });
    cases.into_iter().collect()
}

/// Attention by cuDNN in 8-bit floats, if it is there; the processor does not round the probabilities.
#[cfg(feature = "cuda")]
fn fused_eight() -> Result<Case> {
    let shapes: [&[usize]; 3] = [&[150, 4, 64], &[131, 2, 64], &[131, 2, 64]];
    let case = case("attention of 64, cuDNN Fp8", &shapes, EIGHT, |x, _| {
        crate::attention(&x[0], &x[1], &x[2], &plan(false, None), Precision::Fp8)
    })?;
    Ok(Case {
        gradients: false,
        ..case
    })
}

/// Attention and convolutions by cuDNN, if it is there.
#[cfg(feature = "cuda")]
fn fused() -> Result<Vec<Case>> {
    if crate::cuda::fused_attention().is_err() {
        return Ok(Vec::new());
    }
    let kinds: [(&str, usize, bool); 3] = [
        ("of 64", 64, false),
        ("of 64, one block causal", 64, true),
        ("of 128", 128, false),
    ];
    let attentions = kinds.map(|(name, head, causal)| {
        let shapes: [&[usize]; 3] = [&[150, 4, head], &[131, 2, head], &[131, 2, head]];
        let name = format!("attention {name}, cuDNN");
        case(name, &shapes, ROUNDED, move |x, _| {
            let plan = plan(causal, None);
            crate::attention(&x[0], &x[1], &x[2], &plan, Precision::Bf16)
        })
    });
    let mut all = attentions.into_iter().collect::<Result<Vec<_>>>()?;
    all.push(fused_eight()?);
    for Window { name, x, w, spec } in fused_windows() {
        for bias in [true, false] {
            let name = format!("conv {name}, {}cuDNN", if bias { "bias, " } else { "" });
            let spec = spec.clone();
            let plain = |steps: &[usize]| steps.iter().all(|n| *n == 1);
            let gradients = plain(&spec.stride) && plain(&spec.dilation);
            let run = move |x: &[Tensor], _: &Device| {
                crate::conv(&x[0], &x[1], x.get(2), &spec, Precision::Bf16)
            };
            let shapes: [&[usize]; 3] = [x, w, &w[..1]];
            let case = case(name, &shapes[..if bias { 3 } else { 2 }], EXACT, run)?;
            all.push(Case { gradients, ..case });
        }
    }
    Ok(all
        .into_iter()
        .map(|case| Case {
            fused: true,
            ..case
        })
        .collect())
}

/// Convolutions that cuDNN takes: eights of channels. It knows no gradient of the input over strides or dilations.
#[cfg(feature = "cuda")]
fn fused_windows() -> Vec<Window> {
    let of = |name, x, w, spec| Window { name, x, w, spec };
    let causal = ConvSpec {
        padding: vec![(2, 0), (1, 1), (1, 1)],
        ..ConvSpec::new(3)
    };
    let replicated = ConvSpec {
        mode: Padding::Replicate,
        ..causal.clone()
    };
    let dilated = ConvSpec {
        dilation: vec![3],
        padding: vec![(5, 7)],
        ..ConvSpec::new(1)
    };
    let strided = ConvSpec {
        stride: vec![2, 2],
        padding: vec![(0, 1), (0, 1)],
        ..ConvSpec::new(2)
    };
    let groups = ConvSpec {
        groups: 2,
        ..ConvSpec::same(&[3, 3])
    };
    vec![
        of("1-D dilated", &[2, 29, 8], &[16, 5, 8], dilated),
        of("2-D, 2 groups", &[2, 9, 7, 16], &[32, 3, 3, 8], groups),
        of("2-D strided", &[1, 9, 12, 16], &[8, 3, 3, 16], strided),
        of("3-D causal", &[1, 5, 6, 7, 8], &[24, 3, 3, 3, 8], causal),
        of(
            "3-D causal, replicated",
            &[2, 3, 6, 5, 8],
            &[16, 3, 3, 3, 8],
            replicated,
        ),
    ]
}

#[cfg(not(feature = "cuda"))]
fn fused() -> Result<Vec<Case>> {
    Ok(Vec::new())
}

/// A convolution of the self-test: sizes of the input and of the weights, and how.
struct Window {
    name: &'static str,
    x: &'static [usize],
    w: &'static [usize],
    spec: ConvSpec,
}

fn windows() -> Vec<Window> {
    let same = ConvSpec::same;
    let of = |name, x, w, spec| Window { name, x, w, spec };
    let causal = ConvSpec {
        padding: vec![(2, 0), (1, 1), (1, 1)],
        mode: Padding::Replicate,
        ..ConvSpec::new(3)
    };
    let strided = ConvSpec {
        stride: vec![2, 3],
        dilation: vec![2, 1],
        padding: vec![(1, 2), (0, 1)],
        ..ConvSpec::new(2)
    };
    let replicated = ConvSpec {
        mode: Padding::Replicate,
        stride: vec![2],
        padding: vec![(3, 1)],
        ..ConvSpec::new(1)
    };
    let by_channel = |taps: &[usize], groups| ConvSpec {
        groups,
        ..same(taps)
    };
    vec![
        of("1-D", &[2, 29, 6], &[10, 5, 6], same(&[5])),
        of(
            "1-D strided, replicated",
            &[2, 29, 6],
            &[10, 4, 6],
            replicated,
        ),
        of("2-D", &[2, 9, 7, 8], &[12, 3, 3, 8], same(&[3, 3])),
        of(
            "2-D strided, dilated",
            &[1, 17, 13, 5],
            &[7, 3, 4, 5],
            strided,
        ),
        of(
            "2-D, 2 groups",
            &[1, 6, 7, 8],
            &[6, 3, 3, 4],
            by_channel(&[3, 3], 2),
        ),
        of(
            "2-D pointwise",
            &[2, 5, 6, 9],
            &[11, 1, 1, 9],
            same(&[1, 1]),
        ),
        of(
            "3-D causal, replicated",
            &[1, 5, 6, 7, 4],
            &[8, 3, 3, 3, 4],
            causal,
        ),
        of(
            "1-D by channel",
            &[2, 90, 35],
            &[35, 7, 1],
            by_channel(&[7], 35),
        ),
        of(
            "3-D by channel",
            &[1, 4, 6, 5, 6],
            &[6, 3, 3, 3, 1],
            by_channel(&[3, 3, 3], 6),
        ),
    ]
}

fn conv(precision: Precision) -> Result<Vec<Case>> {
    let cases = windows().into_iter().map(|Window { name, x, w, spec }| {
        let name = format!("conv {name} {precision:?}");
        case(name, &[x, w, &w[..1]], EXACT, move |x, _| {
            crate::conv(&x[0], &x[1], Some(&x[2]), &spec, precision)
        })
    });
    cases.collect()
}

/// Blocks that see several ranges, a causal one, and queries in none.
fn plan(causal: bool, softcap: Option<f32>) -> AttentionPlan {
    let block = |q, k: &[std::ops::Range<usize>], causal| AttentionBlock {
        q,
        k: k.to_vec(),
        causal,
    };
    AttentionPlan {
        blocks: vec![
            block(0..70, &[0..33, 40..131], false),
            block(75..150, &[3..9, 60..131], causal),
        ],
        scale: 0.3,
        softcap,
    }
}

fn attention(precision: Precision) -> Result<Vec<Case>> {
    let limit = match precision {
        Precision::F32 => EXACT,
        _ => ROUNDED,
    };
    let mut all = Vec::new();
    let kinds: [(&str, usize, bool, Option<f32>); 4] = [
        ("of 16", 16, false, None),
        ("of 40, causal", 40, true, None),
        ("of 64, capped", 64, false, Some(1.5)),
        ("of 128", 128, false, None),
    ];
    for (name, head, causal, softcap) in kinds {
        let name = format!("attention {name} {precision:?}");
        let shapes: [&[usize]; 3] = [&[150, 4, head], &[131, 2, head], &[131, 2, head]];
        all.push(case(name, &shapes, limit, move |x, _| {
            crate::attention(&x[0], &x[1], &x[2], &plan(causal, softcap), precision)
        })?);
    }
    let (heads, head, rows, turning) = ((4, 2), 24, 97, 9);
    let width = (heads.0 + 2 * heads.1) * head + heads.0;
    let shapes: [&[usize]; 3] = [&[rows, width], &[2 * head], &[2 * head]];
    let name = format!("self-attention {precision:?}");
    all.push(case(name, &shapes, limit, move |x, device| {
        let angles = (random(&[rows, turning], 7)? * 3.0)?.to_device(device)?;
        let layer = SelfAttention {
            heads: (heads.0, heads.1, head),
            rope: (&angles.sin()?, &angles.cos()?),
            segments: &Segments::new(vec![(0..40, 1), (40..97, 0)])?,
            plan: &AttentionPlan::full(rows, rows, 0.2),
            eps: 1e-6,
            precision,
        };
        crate::self_attention(&x[0], (&x[1], &x[2]), &layer)
    })?);
    Ok(all)
}

fn norms() -> Result<Vec<Case>> {
    Ok(vec![
        case("rms norm", &[&[97, 51], &[3 * 51]], EXACT, |x, _| {
            crate::rms_norm(&x[0], &x[1], &ragged()?, 1e-6)
        })?,
        case(
            "layer norm",
            &[&[5, 29, 70], &[70], &[70]],
            EXACT,
            |x, _| crate::layer_norm(&x[0], &x[1], &x[2], 1e-5),
        )?,
        case(
            "qk norm and rope",
            &[&[97, 3, 22], &[3 * 22]],
            EXACT,
            |x, device| {
                let angles = (random(&[97, 8], 7)? * 3.0)?.to_device(device)?;
                let rope = (&angles.sin()?, &angles.cos()?);
                crate::qk_norm_rope(&x[0], &x[1], rope, &ragged()?, 1e-6)
            },
        )?,
    ])
}

fn positions() -> Result<Vec<Case>> {
    Ok(vec![
        case("upsample 1-D", &[&[2, 9, 5]], EXACT, |x, _| {
            crate::upsample_nearest(&x[0], &[3])
        })?,
        case("upsample 3-D", &[&[2, 3, 4, 5, 6]], EXACT, |x, _| {
            crate::upsample_nearest(&x[0], &[1, 2, 3])
        })?,
        case("frames", &[&[2, 50, 3]], EXACT, |x, _| {
            crate::frames(&x[0], 9, 4)
        })?,
        case("overlap add", &[&[2, 11, 9, 3]], EXACT, |x, _| {
            crate::overlap_add(&x[0], 4, 50)
        })?,
    ])
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
        };
        assert!(!bad.passed());
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
