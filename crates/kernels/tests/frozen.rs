//! Products with matrices kept in fewer bits, against the expanded matrices, under every instruction set.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{relative_error, rng, under_each, uniform, values};
use gallop_kernels::{Frozen, Numbers, Precision, Segments, linear, linear_frozen};
use half::bf16;
use proptest::prelude::*;
use rand::RngExt;

/// Columns that share a scale in 4-bit matrices, as the format says.
const BLOCK: usize = 32;

/// A random matrix in some form, and its numbers by the definition of the form.
struct Sample {
    bytes: Vec<u8>,
    scales: Vec<f32>,
    short_scales: Vec<bf16>,
    expanded: Vec<bf16>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Int8,
    Fp8,
    Q4,
}

impl Sample {
    fn new(form: Form, rows: usize, columns: usize, seed: u64) -> Self {
        let mut rng = rng(seed);
        let size = match form {
            Form::Q4 => rows * columns / 2,
            _ => rows * columns,
        };
        let mut bytes: Vec<u8> = (0..size).map(|_| rng.random()).collect();
        if matches!(form, Form::Fp8) {
            // Two bytes are no numbers; finite files do not have them.
            bytes
                .iter_mut()
                .filter(|b| **b & 0x7f == 0x7f)
                .for_each(|b| *b ^= 1);
        }
        let blocks = columns.div_ceil(BLOCK);
        let scales: Vec<f32> = (0..rows).map(|_| rng.random_range(1e-3..1e-2)).collect();
        let short_scales: Vec<bf16> = (0..rows * blocks)
            .map(|_| bf16::from_f32(rng.random_range(1e-3..1e-2)))
            .collect();
        let number = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            let number = match form {
                Form::Int8 => (f32::from(bytes[i]) - 128.0) * scales[row],
                Form::Fp8 => float8(bytes[i]) * scales[row],
                Form::Q4 => {
                    let nibble = bytes[i / 2] >> (4 * (i % 2)) & 15;
                    let scale = short_scales[row * blocks + column / BLOCK];
                    (f32::from(nibble) - 8.0) * scale.to_f32()
                }
            };
            bf16::from_f32(number)
        };
        let expanded = (0..rows * columns).map(number).collect();
        Self {
            bytes,
            scales,
            short_scales,
            expanded,
        }
    }

    fn numbers(&self, form: Form) -> Numbers<'_> {
        let (bytes, scales) = (&self.bytes[..], &self.scales[..]);
        match form {
            Form::Int8 => Numbers::Int8 { bytes, scales },
            Form::Fp8 => Numbers::Fp8 { bytes, scales },
            Form::Q4 => Numbers::Q4 {
                bytes,
                scales: &self.short_scales,
            },
        }
    }
}

/// An E4M3 number, from its sign, exponent and mantissa.
fn float8(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    sign * match exponent {
        0 => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    }
}

/// Two groups, one of them with two ranges, and rows in none.
fn mixed(rows: usize) -> Segments {
    let (a, b, c) = (rows / 5, rows / 2, rows - rows / 6);
    Segments::new(vec![(0..a, 1), (a..b, 0), (b..c.max(b), 1)])
        .unwrap()
        .with_groups(2)
}

/// The errors of each form against the expanded matrix, by instruction set.
fn compare(rows: usize, (input, output): (usize, usize), segments: &Segments, seed: u64) {
    let x = uniform(&mut rng(seed), &[rows, input]);
    let stacked = output * segments.groups();
    for form in [Form::Int8, Form::Fp8, Form::Q4] {
        // Only even rows can be kept in nibbles.
        let input = input
            - if matches!(form, Form::Q4) {
                input % 2
            } else {
                0
            };
        let x = x.narrow(1, 0, input).unwrap().contiguous().unwrap();
        let sample = Sample::new(form, stacked, input, seed);
        let frozen = Frozen::new(sample.numbers(form), stacked, input).unwrap();
        let whole = sample.expanded.clone();
        let whole = Tensor::from_vec(whole, (stacked, input), &Device::Cpu).unwrap();
        for precision in [Precision::Bf16, Precision::F32] {
            for (isa, (got, want)) in under_each(|| {
                let got = linear_frozen(&x, &frozen, segments, precision).unwrap();
                let want = linear(&x, &whole, None, segments, precision).unwrap();
                (values(&got), values(&want))
            }) {
                let error = relative_error(&got, &want);
                assert!(error < 2e-6, "{form:?} {precision:?} {isa:?}: {error}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products_are_those_of_the_expanded_matrix(
        rows in 1usize..150, input in 2usize..140, output in 1usize..90, seed: u64,
    ) {
        compare(rows, (input, output), &Segments::single(rows), seed);
        compare(rows, (input, output), &mixed(rows), seed);
    }
}

#[test]
fn large_enough_for_every_block_edge() {
    compare(1030, (200, 40), &Segments::single(1030), 3);
    compare(60, (1093, 301), &Segments::single(60), 4);
    compare(49, (2110, 70), &Segments::single(49), 4);
    // Few rows and a long sum, which is cut into parts.
    compare(3, (8400, 70), &Segments::single(3), 5);
}

#[test]
fn matrices_of_whole_numbers_are_read_as_they_are() {
    let mut rng = rng(6);
    let (x, w) = (uniform(&mut rng, &[33, 65]), uniform(&mut rng, &[40, 65]));
    let half = w.to_dtype(DType::BF16).unwrap();
    let numbers = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let halves = half.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
    let segments = Segments::single(33);
    for precision in [Precision::F32, Precision::Bf16] {
        for (tensor, numbers) in [
            (&w, Numbers::F32(&numbers)),
            (&half, Numbers::Bf16(&halves)),
        ] {
            let frozen = Frozen::new(numbers, 40, 65).unwrap();
            let got = linear_frozen(&x, &frozen, &segments, precision).unwrap();
            let want = linear(&x, tensor, None, &segments, precision).unwrap();
            assert_eq!(values(&got), values(&want));
        }
    }
}

#[test]
fn rows_are_copied_as_products_see_them() {
    for form in [Form::Int8, Form::Fp8, Form::Q4] {
        let sample = Sample::new(form, 5, 70, 7);
        let frozen = Frozen::new(sample.numbers(form), 5, 70).unwrap();
        let mut row = [0.0; 70];
        frozen.rows(2..5).copy_row(1, &mut row);
        let want: Vec<f32> = sample.expanded[3 * 70..4 * 70]
            .iter()
            .map(|x| x.to_f32())
            .collect();
        assert_eq!(row[..], want[..], "{form:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let bytes = [0u8; 12];
    let int8 = |scales| Numbers::Int8 {
        bytes: &bytes,
        scales,
    };
    assert!(Frozen::new(int8(&[1.0; 3]), 3, 4).is_ok());
    assert!(Frozen::new(int8(&[1.0; 4]), 3, 4).is_err());
    assert!(Frozen::new(int8(&[1.0; 3]), 3, 5).is_err());
    let scales = [bf16::ONE; 8];
    let q4 = |scales| Numbers::Q4 {
        bytes: &bytes,
        scales,
    };
    assert!(Frozen::new(q4(&scales[..4]), 4, 6).is_ok());
    assert!(Frozen::new(q4(&scales), 8, 3).is_err());
    let frozen = Frozen::new(int8(&[1.0; 3]), 3, 4).unwrap();
    let x = Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap();
    let product = |x: &Tensor, groups| {
        let segments = Segments::single(2).with_groups(groups);
        linear_frozen(x, &frozen, &segments, Precision::F32)
    };
    assert!(product(&x, 1).is_ok() && product(&x, 3).is_ok());
    assert!(product(&x, 2).is_err());
    assert!(product(&x.narrow(1, 0, 3).unwrap(), 1).is_err());
    let trained = candle_core::Var::from_tensor(&x).unwrap();
    assert!(product(&trained, 1).is_err());
}
