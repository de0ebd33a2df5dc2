//! The branches of a layer against the operations that they join.

mod common;

use candle_core::{DType, Result, Tensor};
use common::{
    check_gradients, plan_of_halves, relative_error, rng, under_each, uniform, values,
    with_gradients,
};
use gallop_kernels::{
    Activation, AttentionWeights, BranchMatrix, Frozen, MlpBranch, Numbers, Precision, Segments,
    SelfAttention, attention_branch, gelu_tanh, gelu7, linear, mlp_branch, rms_norm,
    self_attention, swiglu7,
};

const EPS: f64 = 0.05;
const PRECISIONS: [(Precision, f64); 2] = [(Precision::F32, 1e-5), (Precision::Bf16, 6e-3)];

fn mlp_apart(t: &[Tensor], layer: &MlpBranch) -> Result<Tensor> {
    let (segments, precision) = (&layer.segments, layer.precision);
    let up = linear(
        &rms_norm(&t[0], &t[1], segments, layer.eps)?,
        &t[2],
        None,
        segments,
        precision,
    )?;
    let hidden = match layer.activation {
        Activation::GeluTanh => gelu_tanh(&up)?,
        Activation::Gelu7 => gelu7(&up)?,
        Activation::Swiglu7 => swiglu7(&up)?,
    };
    &t[0] + linear(&hidden, &t[3], None, segments, precision)?
}

/// Two groups, one of them with two ranges.
fn groups(rows: usize) -> Segments {
    let third = rows / 3;
    let ranges = vec![(0..third, 1), (third..2 * third, 0), (2 * third..rows, 1)];
    Segments::new(ranges).unwrap()
}

/// A matrix where nothing trains.
fn with_frozen<T>(matrix: &Tensor, f: impl FnOnce(&BranchMatrix) -> T) -> T {
    let numbers = matrix.flatten_all().unwrap().to_vec1().unwrap();
    let (rows, columns) = matrix.dims2().unwrap();
    let frozen = Frozen::new(Numbers::F32(&numbers), rows, columns).unwrap();
    f(&BranchMatrix::Frozen(frozen))
}

fn tensor(t: &Tensor) -> BranchMatrix<'_> {
    BranchMatrix::Tensor(t.clone())
}

fn all_equal(sizes: impl std::fmt::Debug, most: f64, f: impl Fn() -> [Vec<Vec<f64>>; 2]) {
    for (isa, [joined, apart]) in under_each(f) {
        for (i, (a, b)) in joined.iter().zip(&apart).enumerate() {
            let error = relative_error(a, b);
            assert!(error < most, "{isa:?} {sizes:?}, {i}: {error}");
        }
    }
}

/// Inputs and weights.
fn with_mlp(
    (rows, width, hidden): (usize, usize, usize),
    activation: Activation,
    precision: Precision,
    f: impl Fn(&[Tensor], &MlpBranch),
) {
    let mut rng = rng(rows as u64);
    let layer = MlpBranch {
        segments: groups(rows),
        activation,
        eps: EPS,
        precision,
    };
    let scale = (width as f64).powf(-0.5);
    let mut small = |shape: &[usize]| (uniform(&mut rng, shape) * scale).unwrap();
    let weights = [
        small(&[2 * width]),
        small(&[2 * hidden * activation.fan_in(), width]),
        small(&[2 * width, hidden]),
    ];
    let x = (uniform(&mut rng, &[rows, width]) * 2.0).unwrap();
    let [norm, up, down] = weights;
    f(&[x, norm, up, down], &layer);
}

fn mlp(t: &[Tensor], layer: &MlpBranch) -> Result<Tensor> {
    mlp_branch(
        &t[0],
        &t[1],
        (&tensor(&t[2]), &tensor(&t[3])),
        layer.clone(),
    )
}

#[test]
fn an_mlp_equals_its_parts() {
    let activations = [Activation::GeluTanh, Activation::Gelu7, Activation::Swiglu7];
    for sizes in [(3, 8, 5), (70, 40, 52), (601, 48, 450)] {
        for activation in activations {
            for (precision, most) in PRECISIONS {
                with_mlp(sizes, activation, precision, |t, layer| {
                    all_equal((sizes, activation, precision), most, || {
                        [
                            with_gradients(t, |t| mlp(t, layer).unwrap()),
                            with_gradients(t, |t| mlp_apart(t, layer).unwrap()),
                        ]
                    });
                });
            }
        }
    }
}

#[test]
fn an_mlps_gradients_equal_differences() {
    for activation in [Activation::Gelu7, Activation::Swiglu7] {
        with_mlp((23, 12, 10), activation, Precision::F32, |t, layer| {
            check_gradients(&mut rng(4), t, 1e-2, 1e-2, |t| mlp(t, layer));
        });
    }
}

#[test]
fn an_mlp_over_frozen_weights_gives_the_same() {
    for (precision, _) in PRECISIONS {
        with_mlp((301, 32, 64), Activation::Swiglu7, precision, |t, layer| {
            let both = under_each(|| {
                let found = with_frozen(&t[2], |up| {
                    with_frozen(&t[3], |down| {
                        // One of them may be a tensor.
                        let down = [down, &tensor(&t[3])].map(BranchMatrix::clone);
                        down.map(|down| mlp_branch(&t[0], &t[1], (up, &down), layer.clone()))
                    })
                });
                let [both, one] = found.map(|y| values(&y.unwrap()));
                [both, one, values(&mlp(t, layer).unwrap())]
            });
            assert!((both.iter()).all(|(_, [a, b, wanted])| a == wanted && b == wanted));
        });
    }
}

#[test]
fn an_mlp_takes_weights_of_bf16() {
    with_mlp(
        (40, 32, 64),
        Activation::Gelu7,
        Precision::Bf16,
        |t, layer| {
            let narrow = |t: &Tensor| t.to_dtype(DType::BF16).unwrap();
            let both = under_each(|| {
                let weights = [&t[2], &t[3]].map(|w| BranchMatrix::Tensor(narrow(w)));
                let found = mlp_branch(&t[0], &t[1], (&weights[0], &weights[1]), layer.clone());
                [found, mlp(t, layer)].map(|y| values(&y.unwrap()))
            });
            assert!(both.iter().all(|(_, [found, wanted])| found == wanted));
        },
    );
}

#[test]
fn wrong_shapes_of_an_mlp_are_refused() {
    with_mlp(
        (10, 8, 12),
        Activation::Gelu7,
        Precision::F32,
        |t, layer| {
            assert!(mlp(t, layer).is_ok());
            let other = |layer: MlpBranch| mlp(t, &layer).is_err();
            assert!(other(MlpBranch {
                activation: Activation::Swiglu7,
                ..layer.clone()
            }));
            assert!(other(MlpBranch {
                segments: Segments::single(9).with_groups(2),
                ..layer.clone()
            }));
            assert!(other(MlpBranch {
                precision: Precision::Fp8,
                ..layer.clone()
            }));
            let turned = [&t[0], &t[1], &t[3], &t[2]].map(Tensor::clone);
            assert!(mlp(&turned, layer).is_err());
        },
    );
}

fn attention_apart(t: &[Tensor], layer: &SelfAttention) -> Result<Tensor> {
    let (segments, precision) = (layer.segments, layer.precision);
    let normed = rms_norm(&t[0], &t[1], segments, layer.eps)?;
    let qkv = linear(&normed, &t[2], None, segments, precision)?;
    let out = self_attention(&qkv, (&t[3], &t[4]), layer)?;
    &t[0] + linear(&out, &t[5], None, segments, precision)?
}

fn attend(t: &[Tensor], layer: &SelfAttention) -> Result<Tensor> {
    attend_by(t, (&tensor(&t[2]), &tensor(&t[5])), layer)
}

fn attend_by(
    t: &[Tensor],
    (qkv, proj): (&BranchMatrix, &BranchMatrix),
    layer: &SelfAttention,
) -> Result<Tensor> {
    let weights = AttentionWeights {
        norm: &t[1],
        qkv,
        heads: (&t[3], &t[4]),
        proj,
    };
    attention_branch(&t[0], weights, layer)
}

fn with_attention(
    (rows, width): (usize, usize),
    heads: (usize, usize, usize),
    precision: Precision,
    f: impl Fn(&[Tensor], &SelfAttention),
) {
    let (queries, keys, head) = heads;
    let mut rng = rng(rows as u64);
    let angles = uniform(&mut rng, &[rows, head * 3 / 8]);
    let (sin, cos) = (angles.sin().unwrap(), angles.cos().unwrap());
    let segments = groups(rows);
    let plan = plan_of_halves(rows);
    let scale = (width as f64).powf(-0.5);
    let joined = (queries + 2 * keys) * head + queries;
    let mut small = |shape: &[usize]| (uniform(&mut rng, shape) * scale).unwrap();
    let mut inputs = vec![
        (small(&[rows, width]) / scale).unwrap(),
        small(&[2 * width]),
        small(&[2 * joined, width]),
    ];
    inputs.extend([0, 1].map(|_| small(&[2 * head])));
    inputs.push(small(&[2 * width, queries * head]));
    f(
        &inputs,
        &SelfAttention {
            heads,
            rope: (&sin, &cos),
            segments: &segments,
            plan: &plan,
            eps: EPS,
            precision,
        },
    );
}

#[test]
fn an_attention_equals_its_parts() {
    for (sizes, heads) in [
        ((4, 8), (1, 1, 8)),
        ((131, 40), (4, 2, 16)),
        ((500, 72), (6, 2, 24)),
    ] {
        for (precision, most) in PRECISIONS {
            with_attention(sizes, heads, precision, |t, layer| {
                all_equal((sizes, heads, precision), most, || {
                    let joined = |t: &[Tensor]| attend(t, layer).unwrap();
                    [
                        with_gradients(t, joined),
                        with_gradients(t, |t| attention_apart(t, layer).unwrap()),
                    ]
                });
            });
        }
    }
}

#[test]
fn an_attentions_gradients_equal_differences() {
    with_attention((23, 12), (2, 1, 8), Precision::F32, |t, layer| {
        check_gradients(&mut rng(4), t, 1e-2, 1e-2, |t| attend(t, layer));
    });
}

#[test]
fn an_attention_over_frozen_weights_gives_the_same() {
    for (precision, _) in PRECISIONS {
        with_attention((301, 32), (2, 1, 16), precision, |t, layer| {
            let both = under_each(|| {
                let found = with_frozen(&t[2], |qkv| {
                    with_frozen(&t[5], |proj| attend_by(t, (qkv, proj), layer))
                });
                [found, attend(t, layer)].map(|y| values(&y.unwrap()))
            });
            assert!(both.iter().all(|(_, [found, wanted])| found == wanted));
        });
    }
}

#[test]
fn wrong_shapes_of_an_attention_are_refused() {
    with_attention((10, 12), (2, 1, 8), Precision::F32, |t, layer| {
        assert!(attend(t, layer).is_ok());
        let some = Segments::single(9).with_groups(2);
        for wrong in [
            SelfAttention {
                heads: (3, 1, 8),
                ..*layer
            },
            SelfAttention {
                segments: &some,
                ..*layer
            },
            SelfAttention {
                precision: Precision::Fp8,
                ..*layer
            },
        ] {
            assert!(attend(t, &wrong).is_err());
        }
        let mut turned = t.to_vec();
        turned[5] = t[5].t().unwrap().contiguous().unwrap();
        assert!(attend(&turned, layer).is_err());
    });
}
