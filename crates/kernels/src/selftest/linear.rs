//! Linear maps.

use candle_core::{DType, Device, Result, Tensor};

use super::{Case, EIGHT, EXACT, ROUNDED, case};
use crate::{Precision, Segments};

/// Three groups, one with two ranges, one range between them that is nobody's.
pub fn ragged() -> Result<Segments> {
    Segments::new(vec![(0..17, 0), (17..50, 2), (60..61, 1), (61..97, 0)])
}

pub fn cases(precision: Precision) -> Result<Vec<Case>> {
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
        case(
            named("bf16 rows, results and gradients"),
            &[&[97, 33], &[3 * 21, 33], &[63]],
            ROUNDED,
            move |x, _| {
                let rows = x[0].to_dtype(DType::BF16)?;
                let y = crate::linear_to_bf16(&rows, &x[1], Some(&x[2]), &ragged()?, precision)?;
                y.to_dtype(DType::F32)
            },
        )?,
    ])
}

/// An MLP without gradients, whose middle a GPU stores as the products read it.
pub fn for_products() -> Result<Case> {
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
pub fn eight_bits() -> Result<Vec<Case>> {
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
        let mut case = case(format!("linear {name} Fp8"), &shapes, EIGHT, move |x, _| {
            let bias = ragged_rows.then_some(&x[2]);
            crate::linear(&x[0], &x[1], bias, &segments, Precision::Fp8)
        })?;
        case.gradients = false;
        Ok(case)
    });
    cases.into_iter().collect()
}
