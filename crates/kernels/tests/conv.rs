//! Convolutions against plain loops, and their gradients.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{check_gradients, relative_error, rng, uniform, values};
use gallop_kernels::{ConvSpec, Padding, Precision, conv, conv_backward, conv_to_bf16};
use proptest::prelude::*;

/// The definition in three dimensions, in f64: (values, shape).
fn plain3(x: &Tensor, w: &Tensor, bias: &Tensor, spec: &ConvSpec) -> Vec<f64> {
    let (xd, wd) = (x.dims().to_vec(), w.dims().to_vec());
    let out = spec.output_sizes(&xd[1..4], &wd[1..4]).unwrap();
    let (x, w, bias) = (values(x), values(w), values(bias));
    let (cin, cout) = (wd[4], wd[0]);
    let mut y = Vec::new();
    let positions = |sizes: &[usize]| {
        let (a, b, c) = (sizes[0], sizes[1], sizes[2]);
        (0..a * b * c).map(move |i| [i / (b * c), i / c % b, i % c])
    };
    for batch in 0..xd[0] {
        for o in positions(&out) {
            for (c, start) in bias.iter().enumerate() {
                let group = c / (cout / spec.groups);
                let mut sum = *start;
                for (tap, k) in positions(&wd[1..4]).enumerate() {
                    let mut at = batch;
                    let mut outside = false;
                    for d in 0..3 {
                        let i = (o[d] * spec.stride[d] + k[d] * spec.dilation[d]) as isize
                            - spec.padding[d].0 as isize;
                        outside |= !(0..xd[d + 1] as isize).contains(&i);
                        at = at * xd[d + 1] + i.clamp(0, xd[d + 1] as isize - 1) as usize;
                    }
                    if outside && spec.mode == Padding::Zero {
                        continue;
                    }
                    let wrow = (c * wd[1] * wd[2] * wd[3] + tap) * cin;
                    sum += (0..cin)
                        .map(|i| x[at * xd[4] + group * cin + i] * w[wrow + i])
                        .sum::<f64>();
                }
                y.push(sum);
            }
        }
    }
    y
}

/// A convolution with its input, weights and bias.
#[derive(Debug, Clone)]
struct Case {
    spec: ConvSpec,
    x: Vec<usize>,
    w: Vec<usize>,
    seed: u64,
}

fn axis() -> impl Strategy<Value = (usize, usize, usize, usize, usize, usize)> {
    // size, taps, stride, dilation, padding
    (
        1usize..8,
        1usize..4,
        1usize..4,
        1usize..3,
        0usize..3,
        0usize..3,
    )
}

fn case() -> impl Strategy<Value = Case> {
    let axes = prop::collection::vec(axis(), 3);
    (
        axes,
        1usize..3,
        1usize..6,
        1usize..6,
        1usize..4,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(axes, batch, cin, cout, groups, replicate, seed)| {
            let padding = axes
                .iter()
                .map(|(n, k, _, d, a, b)| (*a, *b + (d * (k - 1) + 1).saturating_sub(n + a + b)));
            let spec = ConvSpec {
                stride: axes.iter().map(|a| a.2).collect(),
                dilation: axes.iter().map(|a| a.3).collect(),
                padding: padding.collect(),
                mode: if replicate {
                    Padding::Replicate
                } else {
                    Padding::Zero
                },
                groups,
            };
            let (n, k): (Vec<_>, Vec<_>) = axes.iter().map(|a| (a.0, a.1)).unzip();
            Case {
                spec,
                x: vec![batch, n[0], n[1], n[2], cin * groups],
                w: vec![cout * groups, k[0], k[1], k[2], cin],
                seed,
            }
        })
}

impl Case {
    fn tensors(&self) -> [Tensor; 3] {
        let mut rng = rng(self.seed);
        [
            uniform(&mut rng, &self.x),
            uniform(&mut rng, &self.w),
            uniform(&mut rng, &self.w[..1]),
        ]
    }

    fn check(&self) {
        let [x, w, bias] = self.tensors();
        // Products in bf16 round what they multiply; a channel alone is no product.
        let groups = self.spec.groups;
        let by_channel = groups > 1 && [self.x[4], self.w[0]] == [groups; 2];
        let rounded = |t: &Tensor| match by_channel {
            true => t.clone(),
            false => t
                .to_dtype(DType::BF16)
                .and_then(|t| t.to_dtype(DType::F32))
                .unwrap(),
        };
        for (precision, x_given, w_given) in [
            (Precision::F32, x.clone(), w.clone()),
            (Precision::Bf16, rounded(&x), rounded(&w)),
        ] {
            let expected = plain3(&x_given, &w_given, &bias, &self.spec);
            let y = conv(&x, &w, Some(&bias), &self.spec, precision).unwrap();
            assert_eq!(y.elem_count(), expected.len());
            let error = relative_error(&values(&y), &expected);
            assert!(error < 1e-5, "{precision:?}: {error}");
        }
    }

    fn check_bf16(&self, precision: Precision) {
        common::check_bf16(
            &mut rng(self.seed ^ 2),
            &self.tensors(),
            |t| conv_to_bf16(&t[0], &t[1], Some(&t[2]), &self.spec, precision),
            |t| conv(&t[0], &t[1], Some(&t[2]), &self.spec, precision),
        );
    }

    fn check_gradients(&self, precision: Precision, tolerance: f64) {
        check_gradients(
            &mut rng(self.seed ^ 1),
            &self.tensors(),
            1.0,
            tolerance,
            |t| conv(&t[0], &t[1], Some(&t[2]), &self.spec, precision),
        );
    }
}

fn depthwise(mode: Padding, stride: usize) -> Case {
    let spec = ConvSpec {
        stride: vec![1, stride, stride],
        mode,
        groups: 37,
        ..ConvSpec::causal(&[3, 3, 3])
    };
    Case {
        spec,
        x: vec![2, 4, 7, 6, 37],
        w: vec![37, 3, 3, 3, 1],
        seed: 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn equals_the_definition(case in case()) {
        case.check();
    }

    #[test]
    fn gradients_equal_differences(case in case()) {
        case.check_gradients(Precision::F32, 1e-3);
    }

    #[test]
    fn inputs_in_bf16_give_rounded_results_and_gradients(case in case()) {
        case.check_bf16(Precision::F32);
        case.check_bf16(Precision::Bf16);
    }
}

#[test]
fn depthwise_equals_the_definition() {
    for (mode, stride) in [
        (Padding::Zero, 1),
        (Padding::Replicate, 2),
        (Padding::Zero, 2),
    ] {
        depthwise(mode, stride).check();
        depthwise(mode, stride).check_bf16(Precision::F32);
        depthwise(mode, stride).check_gradients(Precision::F32, 1e-3);
    }
}

#[test]
fn training_shapes_in_bf16() {
    let wide = |cin: usize, cout: usize, mode| Case {
        spec: ConvSpec {
            mode,
            ..ConvSpec::same(&[3, 3, 3])
        },
        x: vec![2, 3, 12, 11, cin],
        w: vec![cout, 3, 3, 3, cin],
        seed: 9,
    };
    for (cin, cout) in [(64, 64), (96, 40), (3, 70), (48, 3)] {
        let case = wide(cin, cout, Padding::Zero);
        case.check();
        common::under_each(|| {
            case.check_bf16(Precision::Bf16);
            wide(cin, cout, Padding::Replicate).check_bf16(Precision::Bf16);
        });
        case.check_gradients(Precision::Bf16, 2e-2);
        wide(cin, cout, Padding::Replicate).check_gradients(Precision::Bf16, 2e-2);
    }
}

#[test]
fn one_and_two_dimensions_are_slices_of_three() {
    let mut rng = rng(4);
    let (x, w) = (uniform(&mut rng, &[2, 9, 5]), uniform(&mut rng, &[4, 3, 5]));
    let spec = ConvSpec {
        padding: vec![(2, 0)],
        ..ConvSpec::new(1)
    };
    let one = conv(&x, &w, None, &spec, Precision::F32).unwrap();
    assert_eq!(one.dims(), [2, 9, 4]);
    let spec2 = ConvSpec {
        padding: vec![(0, 0), (2, 0)],
        ..ConvSpec::new(2)
    };
    let (x2, w2) = (x.unsqueeze(1).unwrap(), w.unsqueeze(1).unwrap());
    let two = conv(&x2, &w2, None, &spec2, Precision::F32).unwrap();
    assert_eq!(two.dims(), [2, 1, 9, 4]);
    assert_eq!(values(&one), values(&two));
    let x = values(&x);
    let w = values(&w);
    let first: f64 = (0..5).map(|c| x[c] * w[2 * 5 + c]).sum();
    assert!(
        (values(&one)[0] - first).abs() < 1e-5,
        "causal: the first output sees only the first input"
    );
}

#[test]
fn wrong_shapes_are_refused() {
    let t = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let f = |x: &[usize], w: &[usize], spec: &ConvSpec| {
        conv(&t(x), &t(w), None, spec, Precision::F32).is_err()
    };
    assert!(
        f(&[1, 4, 4, 3], &[2, 3, 3, 2], &ConvSpec::new(2)),
        "channels"
    );
    assert!(
        f(&[1, 2, 2, 3], &[2, 3, 3, 3], &ConvSpec::new(2)),
        "kernel larger than the input"
    );
    assert!(
        f(&[1, 4, 4, 3], &[2, 3, 3, 3], &ConvSpec::new(1)),
        "dimensions of the spec"
    );
    assert!(
        f(
            &[1, 4, 4, 4],
            &[3, 3, 3, 2],
            &ConvSpec {
                groups: 2,
                ..ConvSpec::new(2)
            }
        ),
        "outputs by groups"
    );
    assert!(
        f(
            &[1, 4, 4, 3],
            &[2, 3, 3, 3],
            &ConvSpec {
                stride: vec![0, 1],
                ..ConvSpec::new(2)
            }
        ),
        "stride"
    );
}

#[test]
fn gradients_without_a_tape_are_those_with_one() {
    let mut rng = rng(13);
    let spec = ConvSpec::same(&[3, 3]);
    let [x, w] = [vec![2, 6, 7, 40], vec![33, 3, 3, 40]].map(|s| uniform(&mut rng, &s));
    let (bias, grad) = (uniform(&mut rng, &[33]), uniform(&mut rng, &[2, 6, 7, 33]));
    let vars = [&x, &w, &bias].map(|t| Var::from_tensor(t).unwrap());
    let [tx, tw, tb] = [0, 1, 2].map(|i| vars[i].as_tensor());
    let y = conv(tx, tw, Some(tb), &spec, Precision::Bf16).unwrap();
    let loss = (y * &grad).unwrap().sum_all().unwrap();
    let taped = loss.backward().unwrap();
    let own = |grad: &Tensor| conv_backward([&x, &w, grad], Some(&bias), &spec, Precision::Bf16);
    for (var, found) in vars.iter().zip(own(&grad).unwrap()) {
        assert_eq!(values(taped.get(var).unwrap()), values(&found.unwrap()));
    }
    assert!(own(&x).is_err(), "a gradient of another shape");
}
