//! Attention against the plain softmax: values, gradients, instruction sets.
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a block sees a list of ranges, often one"
)]

mod common;

use candle_core::{Device, Result, Tensor, Var};
use common::{relative_error, rng, under_each, uniform, values};
use gallop_kernels::{AttentionBlock, AttentionPlan, Precision, attention};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};

/// The same by tensor operations with a mask.
fn naive(q: &Tensor, k: &Tensor, v: &Tensor, plan: &AttentionPlan) -> Result<Tensor> {
    let (rows, heads, _) = q.dims3()?;
    let (keys, key_heads, _) = k.dims3()?;
    let mut mask = vec![f32::NEG_INFINITY; rows * keys];
    let mut live = vec![0.0f32; rows];
    for block in &plan.blocks {
        for (n, range) in block.k.iter().enumerate() {
            let causal = block.causal && n + 1 == block.k.len();
            for i in block.q.clone() {
                for j in range.clone() {
                    if !causal || j - range.start <= i - block.q.start {
                        mask[i * keys + j] = 0.0;
                        live[i] = 1.0;
                    }
                }
            }
        }
    }
    for i in (0..rows).filter(|&i| live[i] == 0.0) {
        mask[i * keys..(i + 1) * keys].fill(0.0);
    }
    let mask = Tensor::from_vec(mask, (rows, keys), q.device())?;
    let live = Tensor::from_vec(live, (rows, 1, 1), q.device())?;
    let per_head = |x: &Tensor, head: usize| x.narrow(1, head, 1)?.squeeze(1)?.contiguous();
    let mut out = Vec::new();
    for head in 0..heads {
        let at = head * key_heads / heads;
        let logits = per_head(q, head)?.matmul(&per_head(k, at)?.t()?)?;
        let mut logits = (logits * f64::from(plan.scale))?;
        if let Some(cap) = plan.softcap {
            logits = ((logits / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let logits = logits.broadcast_add(&mask)?;
        let top = logits.max_keepdim(1)?.detach();
        let weights = logits.broadcast_sub(&top)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(1)?)?;
        out.push(weights.matmul(&per_head(v, at)?)?);
    }
    Tensor::stack(&out, 1)?.broadcast_mul(&live)
}

fn random(shape: (usize, usize, usize), size: f32, seed: u64) -> Result<Var> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.0 * shape.1 * shape.2)
        .map(|_| rng.random_range(-size..size))
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn error(got: &Tensor, want: &Tensor) -> Result<f32> {
    let gap = (got - want)?.sqr()?.sum_all()?.to_scalar::<f32>()?;
    let size = want.sqr()?.sum_all()?.to_scalar::<f32>()?;
    // A gradient that is nothing but rounding has no relative error.
    Ok((gap / size.max(1e-2)).sqrt())
}

/// Values and the three gradients, by relative L2 error.
fn errors(
    shape: [usize; 5],
    plan: &AttentionPlan,
    precision: Precision,
    size: f32,
) -> Result<[f32; 4]> {
    let [rows, keys, heads, key_heads, dim] = shape;
    let q = random((rows, heads, dim), size, 1)?;
    let k = random((keys, key_heads, dim), size, 2)?;
    let v = random((keys, key_heads, dim), 1.0, 3)?;
    let along = random((rows, heads, dim), 1.0, 4)?;
    let got = attention(&q, &k, &v, plan, precision)?;
    let want = naive(&q, &k, &v, plan)?;
    let gradients = |y: &Tensor| (y * along.as_tensor())?.sum_all()?.backward();
    let (a, b) = (gradients(&got)?, gradients(&want)?);
    let mut out = [error(&got, &want)?, 0.0, 0.0, 0.0];
    for (slot, var) in out[1..].iter_mut().zip([&q, &k, &v]) {
        let (a, b) = (
            a.get(var).expect("a gradient"),
            b.get(var).expect("a gradient"),
        );
        *slot = error(a, b)?;
    }
    Ok(out)
}

fn plan(blocks: Vec<AttentionBlock>, softcap: Option<f32>) -> AttentionPlan {
    AttentionPlan {
        blocks,
        scale: 0.3,
        softcap,
    }
}

fn block(
    q: std::ops::Range<usize>,
    k: Vec<std::ops::Range<usize>>,
    causal: bool,
) -> AttentionBlock {
    AttentionBlock { q, k, causal }
}

#[test]
fn equals_softmax_in_every_instruction_set() -> Result<()> {
    let blocks = vec![
        block(0..150, vec![0..300, 310..330], false),
        block(150..160, vec![], false),
        block(170..300, vec![305..311, 0..130], true),
    ];
    for softcap in [None, Some(2.0)] {
        let plan = plan(blocks.clone(), softcap);
        for (precision, most) in [(Precision::F32, 2e-5), (Precision::Bf16, 1.5e-2)] {
            let shape = [300, 330, 4, 2, 24];
            for (isa, found) in under_each(|| errors(shape, &plan, precision, 1.0)) {
                let found = found?;
                assert!(
                    found.iter().all(|e| *e < most),
                    "{isa:?} {precision:?} {softcap:?}: {found:?}"
                );
            }
        }
    }
    Ok(())
}

/// Clips packed behind each other: the parts of the keys that tasks take are seen by some of the queries only.
#[test]
fn packed_clips_have_gradients_of_their_own() -> Result<()> {
    let blocks = vec![
        block(0..290, vec![0..310], false),
        block(300..620, vec![310..500, 520..700], true),
        block(620..900, vec![700..900, 310..330], false),
    ];
    let plan = plan(blocks, None);
    for (isa, found) in under_each(|| errors([910, 900, 2, 1, 40], &plan, Precision::Bf16, 1.0)) {
        let found = found?;
        assert!(found.iter().all(|e| *e < 1.5e-2), "{isa:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn huge_logits_do_not_overflow() -> Result<()> {
    let plan = plan(vec![block(0..40, vec![0..300], false)], None);
    let q = random((40, 1, 16), 300.0, 1)?;
    let k = random((300, 1, 16), 300.0, 2)?;
    let y = attention(&q, &k, &k, &plan, Precision::F32)?;
    assert!(error(&y, &naive(&q, &k, &k, &plan)?)? < 1e-3);
    Ok(())
}

/// A long query that sees nothing makes the logits of its head unbounded for all that is known beforehand, so that the
/// greatest one of each row is taken off; the other rows come out the same.
#[test]
fn bounded_logits_come_out_as_others_do() -> Result<()> {
    let k = random((300, 1, 40), 1.0, 2)?;
    let v = random((300, 1, 40), 1.0, 3)?;
    let plan = plan(
        vec![
            block(0..50, vec![3..300], false),
            block(50..90, vec![0..11, 20..290], true),
        ],
        None,
    );
    let short = random((91, 1, 40), 1.0, 1)?;
    let last = (short.narrow(0, 90, 1)? * 1e3)?;
    let long = Tensor::cat(&[&short.narrow(0, 0, 90)?, &last], 0)?;
    for (precision, most) in [(Precision::F32, 1e-6), (Precision::Bf16, 4e-3)] {
        let apart = |q| attention(q, &k, &v, &plan, precision);
        for (isa, found) in under_each(|| error(&apart(&short)?, &apart(&long)?)) {
            let found = found?;
            assert!(found < most, "{isa:?} {precision:?}: {found}");
        }
    }
    Ok(())
}

#[test]
fn no_queries_and_no_keys_are_fine() -> Result<()> {
    for (rows, keys) in [(0, 5), (5, 0), (0, 0)] {
        let q = Var::from_tensor(&Tensor::zeros(
            (rows, 2, 4),
            candle_core::DType::F32,
            &Device::Cpu,
        )?)?;
        let k = Var::from_tensor(&Tensor::zeros(
            (keys, 1, 4),
            candle_core::DType::F32,
            &Device::Cpu,
        )?)?;
        let plan = AttentionPlan::full(rows, keys, 1.0);
        let y = attention(&q, &k, &k, &plan, Precision::Bf16)?;
        assert_eq!(y.dims(), [rows, 2, 4]);
        let grads = y.sum_all()?.backward()?;
        assert_eq!(grads.get(&k).expect("a gradient").dims(), [keys, 1, 4]);
    }
    Ok(())
}

#[test]
fn wrong_plans_and_shapes_are_errors() -> Result<()> {
    let x = random((8, 2, 4), 1.0, 0)?;
    let wrong = [
        vec![block(0..9, vec![0..8], false)],
        vec![block(0..8, vec![0..9], false)],
        vec![
            block(0..5, vec![0..8], false),
            block(4..8, vec![0..8], false),
        ],
    ];
    for blocks in wrong {
        assert!(attention(&x, &x, &x, &plan(blocks, None), Precision::F32).is_err());
    }
    let narrow = random((8, 3, 4), 1.0, 0)?;
    assert!(attention(&x, &narrow, &narrow, &plan(vec![], None), Precision::F32).is_err());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn odd_sizes(
        rows in 1usize..140, keys in 1usize..270, key_heads in 1usize..3, group in 1usize..4, dim in 1usize..40,
        cut in 0.0f64..1.0, causal: bool,
    ) {
        let (row_cut, key_cut) = ((rows as f64 * cut) as usize, (keys as f64 * cut) as usize);
        let plan = plan(
            vec![
                block(0..row_cut, vec![key_cut..keys, 0..key_cut], causal),
                block(row_cut..rows, vec![0..keys], causal),
            ],
            None,
        );
        let shape = [rows, keys, key_heads * group, key_heads, dim];
        let found = errors(shape, &plan, Precision::F32, 1.0).unwrap();
        prop_assert!(found.iter().all(|e| *e < 1e-4), "{found:?}");
    }
}

/// Without gradients, 8-bit floats cost what they cost, and with them they are not used.
#[test]
fn eight_bits_cost_little_and_are_not_trained() {
    let mut rng = rng(5);
    let x = |l: usize, n: usize, rng: &mut _| uniform(rng, &[l, n, 16]);
    let (q, k, v) = (x(70, 4, &mut rng), x(90, 2, &mut rng), x(90, 2, &mut rng));
    let plan = AttentionPlan::full(70, 90, 0.25);
    let by = |v: &Tensor, precision| values(&attention(&q, &k, v, &plan, precision).unwrap());
    let trained = Var::from_tensor(&v).unwrap();
    let all = under_each(|| {
        let eight = relative_error(&by(&v, Precision::Fp8), &by(&v, Precision::F32));
        (
            eight,
            [Precision::Fp8, Precision::Bf16].map(|p| by(&trained, p)),
        )
    });
    for (isa, (error, [trained, wanted])) in all {
        assert!(error > 1e-2 && error < 6e-2, "{isa:?}: {error}");
        assert_eq!(trained, wanted, "{isa:?}");
    }
}
