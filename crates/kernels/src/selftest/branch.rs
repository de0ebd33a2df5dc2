//! The branches of a layer, which other devices than processors make of several operations.

use candle_core::{Device, Result, Tensor};

use super::{Case, EXACT, ROUNDED, case, random};
use crate::{
    Activation, AttentionPlan, AttentionWeights, BranchMatrix, MlpBranch, Precision, Segments,
    SelfAttention,
};

const ROWS: usize = 211;
const WIDTH: usize = 40;
const EPS: f64 = 1e-2;

fn segments() -> Result<Segments> {
    Segments::new(vec![(0..40, 1), (40..97, 0), (97..ROWS, 1)])
}

/// Weights as small as keep numbers ordinary.
fn small(t: &Tensor) -> Result<Tensor> {
    t * (WIDTH as f64).powf(-0.5)
}

pub fn cases(precision: Precision) -> Result<Vec<Case>> {
    let limit = match precision {
        Precision::F32 => EXACT,
        _ => ROUNDED,
    };
    let hidden = 52;
    let shapes: [&[usize]; 4] = [
        &[ROWS, WIDTH],
        &[2 * WIDTH],
        &[4 * hidden, WIDTH],
        &[2 * WIDTH, hidden],
    ];
    let name = format!("MLP branch {precision:?}");
    let mlp = case(name, &shapes, limit, move |t, device| {
        mlp(t, device, precision)
    })?;
    let (heads, head) = ((4, 2), 12);
    let joined = (heads.0 + 2 * heads.1) * head + heads.0;
    let shapes: [&[usize]; 6] = [
        &[ROWS, WIDTH],
        &[2 * WIDTH],
        &[2 * joined, WIDTH],
        &[2 * head],
        &[2 * head],
        &[2 * WIDTH, heads.0 * head],
    ];
    let name = format!("attention branch {precision:?}");
    let attention = case(name, &shapes, limit, move |t, device| {
        attention(t, device, ((heads.0, heads.1, head), precision))
    })?;
    Ok(vec![mlp, attention])
}

fn mlp(t: &[Tensor], device: &Device, precision: Precision) -> Result<Tensor> {
    let (norm, up, down) = (&t[1], small(&t[2])?, small(&t[3])?);
    let segments = segments()?;
    if device.is_cpu() {
        let layer = MlpBranch {
            segments,
            activation: Activation::Swiglu7,
            eps: EPS,
            precision,
        };
        let [up, down] = [up, down].map(BranchMatrix::Tensor);
        return crate::mlp_branch(&t[0], norm, (&up, &down), layer);
    }
    let normed = crate::rms_norm(&t[0], norm, &segments, EPS)?;
    let hidden = crate::swiglu7(&crate::linear(&normed, &up, None, &segments, precision)?)?;
    &t[0] + crate::linear(&hidden, &down, None, &segments, precision)?
}

fn attention(
    t: &[Tensor],
    device: &Device,
    (heads, precision): ((usize, usize, usize), Precision),
) -> Result<Tensor> {
    let angles = (random(&[ROWS, 5], 7)? * 3.0)?.to_device(device)?;
    let segments = segments()?;
    let layer = SelfAttention {
        heads,
        rope: (&angles.sin()?, &angles.cos()?),
        segments: &segments,
        plan: &AttentionPlan::full(ROWS, ROWS, 0.3),
        eps: EPS,
        precision,
    };
    let (norm, qkv, heads, proj) = (&t[1], small(&t[2])?, (&t[3], &t[4]), small(&t[5])?);
    if device.is_cpu() {
        let [qkv, proj] = [qkv, proj].map(BranchMatrix::Tensor);
        let weights = AttentionWeights {
            norm,
            qkv: &qkv,
            heads,
            proj: &proj,
        };
        return crate::attention_branch(&t[0], weights, &layer);
    }
    let normed = crate::rms_norm(&t[0], norm, &segments, EPS)?;
    let joined = crate::linear(&normed, &qkv, None, &segments, precision)?;
    let out = crate::self_attention(&joined, heads, &layer)?;
    &t[0] + crate::linear(&out, &proj, None, &segments, precision)?
}
