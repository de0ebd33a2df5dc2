//! Every instruction set that this processor has gives the same results within rounding.

mod common;

use common::{relative_error, rng, under_each, uniform, with_gradients};
use gallop_kernels::gemm::{Kernel, Matrix, describe};
use gallop_kernels::{ConvSpec, Isa, Padding, Precision, Segments, conv, linear};
use proptest::prelude::*;

fn all_equal(results: &[(Isa, Vec<Vec<f64>>)]) {
    let (_, expected) = results.last().unwrap();
    for (isa, found) in results {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = relative_error(found, expected);
            assert!(error < 2e-5, "{isa:?}, result {i}: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn blocks_agree(m in 1usize..70, n in 1usize..70, k in 1usize..130, pad in 0usize..5, seed: u64) {
        let mut rng = rng(seed);
        let mut numbers = |count: usize| uniform(&mut rng, &[count]).to_vec1::<f32>().unwrap();
        let (a, b, at, bt) = (numbers(m * (k + pad)), numbers(n * (k + pad)), numbers(k * m), numbers(k * n));
        for precision in [Precision::F32, Precision::Bf16] {
            let results = under_each(|| {
                let kernel = Kernel::new(precision);
                let (mut left, mut right) = (kernel.left(), kernel.right());
                let mut c = vec![0.5; m * (n + pad)];
                left.pack_rows(Matrix::strided(&a[..a.len() - pad], m, k, k + pad));
                right.pack_rows(Matrix::strided(&b[..b.len() - pad], n, k, k + pad));
                kernel.multiply(&left, &right, &mut c, n + pad, false);
                left.pack_columns(Matrix::new(&at, k, m));
                right.pack_columns(Matrix::new(&bt, k, n));
                kernel.multiply(&left, &right, &mut c, n + pad, true);
                vec![c.into_iter().map(f64::from).collect::<Vec<f64>>()]
            });
            all_equal(&results);
            let gaps = |c: &[f64]| (0..m).all(|i| c[i * (n + pad) + n..(i + 1) * (n + pad)].iter().all(|v| *v == 0.5));
            prop_assert!(results.iter().all(|(_, c)| gaps(&c[0])), "numbers between the rows were written");
        }
    }

    #[test]
    fn linear_agrees(rows in 1usize..200, input in 1usize..100, output in 1usize..130, seed: u64) {
        let mut rng = rng(seed);
        let segments = Segments::new(vec![(0..rows / 2, 1), (rows / 2..rows, 0)]).unwrap().with_groups(2);
        let inputs = [[rows, input], [2 * output, input]].map(|s| uniform(&mut rng, &s));
        let bias = uniform(&mut rng, &[2 * output]);
        for precision in [Precision::F32, Precision::Bf16] {
            all_equal(&under_each(|| with_gradients(&inputs, |t| {
                linear(&t[0], &t[1], Some(&bias), &segments, precision).unwrap()
            })));
        }
    }

    #[test]
    fn conv_agrees(size in 1usize..9, cin in 1usize..70, cout in 1usize..70, stride in 1usize..3, replicate: bool) {
        let mut rng = rng((size * 7 + cin * 31 + cout) as u64);
        let mode = if replicate { Padding::Replicate } else { Padding::Zero };
        let spec = ConvSpec { stride: vec![1, stride], mode, ..ConvSpec::same(&[3, 3]) };
        let inputs = [vec![2, size, size + 1, cin], vec![cout, 3, 3, cin]].map(|s| uniform(&mut rng, &s));
        for precision in [Precision::F32, Precision::Bf16] {
            all_equal(&under_each(|| with_gradients(&inputs, |t| {
                conv(&t[0], &t[1], None, &spec, precision).unwrap()
            })));
        }
    }
}

#[test]
fn long_sums_are_split_and_large_weights_packed_once() {
    let mut rng = rng(2);
    let inputs = [[20_000, 40], [72, 40]].map(|s| uniform(&mut rng, &s));
    all_equal(&under_each(|| {
        with_gradients(&inputs, |t| {
            linear(
                &t[0],
                &t[1],
                None,
                &Segments::single(20_000),
                Precision::Bf16,
            )
            .unwrap()
        })
    }));
    let inputs = [vec![2, 9, 20, 21, 48], vec![96, 3, 3, 3, 48]].map(|s| uniform(&mut rng, &s));
    all_equal(&under_each(|| {
        with_gradients(&inputs, |t| {
            conv(
                &t[0],
                &t[1],
                None,
                &ConvSpec::same(&[3, 3, 3]),
                Precision::Bf16,
            )
            .unwrap()
        })
    }));
}

#[test]
fn the_choice_has_a_name() {
    for (isa, name) in under_each(describe) {
        assert!(!name.is_empty());
        assert_eq!(Isa::named(isa.name()), Some(isa));
        assert!(
            isa != Isa::Amx || name == "AMX BF16",
            "AMX failed its check on this processor"
        );
    }
}
