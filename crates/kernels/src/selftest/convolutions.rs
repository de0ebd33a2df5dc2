//! Convolutions.

use candle_core::{DType, Device, Result, Tensor};

use super::{Case, EXACT, ROUNDED, case};
use crate::{ConvSpec, Padding, Precision, Then};

/// A convolution of the self-test: sizes of the input and of the weights, and how.
pub struct Window {
    pub name: &'static str,
    pub x: &'static [usize],
    pub w: &'static [usize],
    pub spec: ConvSpec,
}

fn windows() -> Vec<Window> {
    let same = ConvSpec::same;
    let of = |name, x, w, spec| Window { name, x, w, spec };
    let causal = ConvSpec {
        mode: Padding::Replicate,
        ..ConvSpec::causal(&[3, 3, 3])
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

/// A norm, a function and the convolution of what they give, without gradients: a GPU stores that as products read it.
pub fn after_norm(window: Window, precision: Precision, then: Then) -> Result<Case> {
    let Window { name, x, w, spec } = window;
    let name = format!("norm, {then:?}, conv {name} {precision:?}");
    let width = &x[x.len() - 1..];
    let run = move |x: &[Tensor], _: &Device| {
        let rows = x[0].flatten_to(candle_core::D::Minus2)?;
        let rows = crate::rms_norm_then(&rows, &x[2], 1e-6, then, precision)?;
        crate::conv(&rows.reshape(x[0].dims())?, &x[1], None, &spec, precision)
    };
    Ok(Case {
        gradients: false,
        ..case(name, &[x, w, width], ROUNDED, run)?
    })
}

pub fn cases(precision: Precision) -> Result<Vec<Case>> {
    let cases = windows().into_iter().map(|Window { name, x, w, spec }| {
        let name = format!("conv {name} {precision:?}");
        case(name, &[x, w, &w[..1]], EXACT, move |x, _| {
            crate::conv(&x[0], &x[1], Some(&x[2]), &spec, precision)
        })
    });
    let narrow = windows().into_iter().map(|Window { name, x, w, spec }| {
        let name = format!("conv {name}, all bf16, {precision:?}");
        case(name, &[x, w, &w[..1]], ROUNDED, move |x, _| {
            let input = x[0].to_dtype(DType::BF16)?;
            let y = crate::conv_to_bf16(&input, &x[1], Some(&x[2]), &spec, precision)?;
            y.to_dtype(DType::F32)
        })
    });
    let functions = [Then::Silu, Then::Relu].into_iter().cycle();
    let after = (windows().into_iter().zip(functions))
        .map(|(window, then)| after_norm(window, precision, then));
    cases.chain(narrow).chain(after).collect()
}
