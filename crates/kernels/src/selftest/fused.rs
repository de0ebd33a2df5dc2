//! What cuDNN computes on a GPU, if it is there.

use candle_core::{Device, Result, Tensor};

use super::attention::plan;
use super::convolutions::{Window, after_norm};
use super::{Case, EXACT, ROUNDED, case};
use crate::{ConvSpec, Padding, Precision, Then};

/// Error allowed where both sides round outputs to 8-bit floats, of which one rounds the probabilities too: numbers
/// that are almost equal may become neighbours, 6% apart.
const EIGHT: f64 = 7e-2;

/// All that cuDNN can compute goes to it as long as this is there.
pub struct Fusing;

impl Fusing {
    pub fn new() -> Self {
        crate::cuda::set_fused(crate::cuda::Fused::Always);
        Self
    }
}

impl Drop for Fusing {
    fn drop(&mut self) {
        crate::cuda::set_fused(crate::cuda::Fused::Auto);
    }
}

/// Attention by cuDNN in 8-bit floats, if it is there; the processor does not round the probabilities.
fn eight_bits() -> Result<Case> {
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
pub fn cases() -> Result<Vec<Case>> {
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
    all.push(eight_bits()?);
    for Window { name, x, w, spec } in windows() {
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
    for window in windows() {
        let case = after_norm(window, Precision::Bf16, Then::Silu)?;
        all.push(Case {
            name: format!("{}, cuDNN", case.name),
            ..case
        });
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
fn windows() -> Vec<Window> {
    let of = |name, x, w, spec| Window { name, x, w, spec };
    let causal = ConvSpec::causal(&[3, 3, 3]);
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
