//! What works on rows, and what moves them.

use candle_core::{Device, Result, Tensor};

use super::linear::ragged;
use super::{Case, EXACT, case, random};

pub fn cases() -> Result<Vec<Case>> {
    let mut all = pointwise()?;
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
