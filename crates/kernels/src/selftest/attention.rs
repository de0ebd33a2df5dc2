//! Attention.

use candle_core::Result;

use super::{Case, EXACT, ROUNDED, case, random};
use crate::{AttentionBlock, AttentionPlan, Precision, Segments, SelfAttention};

/// Blocks that see several ranges, a causal one, and queries in none.
pub fn plan(causal: bool, softcap: Option<f32>) -> AttentionPlan {
    let block = |q, k: &[std::ops::Range<usize>], causal| AttentionBlock {
        q,
        k: k.to_vec(),
        causal,
    };
    AttentionPlan {
        blocks: vec![
            block(0..70, &[0..33, 40..131], false),
            block(75..150, &[3..9, 60..131], causal),
        ],
        scale: 0.3,
        softcap,
    }
}

pub fn cases(precision: Precision) -> Result<Vec<Case>> {
    let limit = match precision {
        Precision::F32 => EXACT,
        _ => ROUNDED,
    };
    let mut all = Vec::new();
    let kinds: [(&str, usize, bool, Option<f32>); 4] = [
        ("of 16", 16, false, None),
        ("of 40, causal", 40, true, None),
        ("of 64, capped", 64, false, Some(1.5)),
        ("of 128", 128, false, None),
    ];
    for (name, head, causal, softcap) in kinds {
        let name = format!("attention {name} {precision:?}");
        let shapes: [&[usize]; 3] = [&[150, 4, head], &[131, 2, head], &[131, 2, head]];
        all.push(case(name, &shapes, limit, move |x, _| {
            crate::attention(&x[0], &x[1], &x[2], &plan(causal, softcap), precision)
        })?);
    }
    let (heads, head, rows, turning) = ((4, 2), 24, 97, 9);
    let width = (heads.0 + 2 * heads.1) * head + heads.0;
    let shapes: [&[usize]; 3] = [&[rows, width], &[2 * head], &[2 * head]];
    let name = format!("self-attention {precision:?}");
    all.push(case(name, &shapes, limit, move |x, device| {
        let angles = (random(&[rows, turning], 7)? * 3.0)?.to_device(device)?;
        let layer = SelfAttention {
            heads: (heads.0, heads.1, head),
            rope: (&angles.sin()?, &angles.cos()?),
            segments: &Segments::new(vec![(0..40, 1), (40..97, 0)])?,
            plan: &AttentionPlan::full(rows, rows, 0.2),
            eps: 1e-6,
            precision,
        };
        crate::self_attention(&x[0], (&x[1], &x[2]), &layer)
    })?);
    Ok(all)
}
