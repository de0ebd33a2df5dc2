//! The joined operation against its parts.

mod common;

use candle_core::{Result, Tensor};
use common::{check_gradients, plan_of_halves, relative_error, rng, uniform, with_gradients};
use gallop_kernels::{
    Precision, Segments, SelfAttention, attention, head_gate, qk_norm_rope, self_attention,
};

fn parts(t: &[Tensor], layer: &SelfAttention) -> Result<Tensor> {
    let (nq, nk, head) = layer.heads;
    let rows = t[0].dim(0)?;
    let part = |start: usize, heads: usize| {
        t[0].narrow(1, start * head, heads * head)?
            .reshape((rows, heads, head))
    };
    let q = qk_norm_rope(&part(0, nq)?, &t[1], layer.rope, layer.segments, layer.eps)?;
    let k = qk_norm_rope(&part(nq, nk)?, &t[2], layer.rope, layer.segments, layer.eps)?;
    let out = attention(&q, &k, &part(nq + nk, nk)?, layer.plan, layer.precision)?;
    head_gate(&out, &t[0].narrow(1, (nq + 2 * nk) * head, nq)?)?.reshape((rows, nq * head))
}

fn with_layer(
    rows: usize,
    heads: (usize, usize, usize),
    precision: Precision,
    f: impl Fn(&[Tensor], &SelfAttention),
) {
    let (nq, nk, head) = heads;
    let mut rng = rng(rows as u64);
    let angles = uniform(&mut rng, &[rows, head * 3 / 8]);
    let (sin, cos) = (angles.sin().unwrap(), angles.cos().unwrap());
    let segments = Segments::new(vec![(0..rows / 3, 1), (rows / 3..rows, 0)]).unwrap();
    let plan = plan_of_halves(rows);
    let inputs = [
        uniform(&mut rng, &[rows, (nq + 2 * nk) * head + nq]),
        uniform(&mut rng, &[2 * head]),
        uniform(&mut rng, &[2 * head]),
    ];
    f(
        &inputs,
        &SelfAttention {
            heads,
            rope: (&sin, &cos),
            segments: &segments,
            plan: &plan,
            eps: 0.05,
            precision,
        },
    );
}

#[test]
fn equals_its_parts() {
    for (rows, heads) in [(7, (1, 1, 8)), (131, (4, 2, 16)), (300, (6, 2, 24))] {
        for (precision, most) in [(Precision::F32, 1e-5), (Precision::Bf16, 5e-3)] {
            with_layer(rows, heads, precision, |t, layer| {
                let joined =
                    with_gradients(t, |t| self_attention(&t[0], (&t[1], &t[2]), layer).unwrap());
                let apart = with_gradients(t, |t| parts(t, layer).unwrap());
                for (i, (a, b)) in joined.iter().zip(&apart).enumerate() {
                    let error = relative_error(a, b);
                    assert!(error < most, "{rows} {heads:?} {precision:?} {i}: {error}");
                }
            });
        }
    }
}

#[test]
fn gradients_equal_differences() {
    with_layer(23, (2, 1, 8), Precision::F32, |t, layer| {
        check_gradients(&mut rng(4), t, 1e-2, 1e-2, |t| {
            self_attention(&t[0], (&t[1], &t[2]), layer)
        });
    });
}

#[test]
fn wrong_shapes_are_refused() {
    with_layer(10, (2, 1, 8), Precision::F32, |t, layer| {
        let wrong = SelfAttention {
            heads: (3, 1, 8),
            ..*layer
        };
        assert!(self_attention(&t[0], (&t[1], &t[2]), &wrong).is_err());
        let some = Segments::single(9).with_groups(2);
        let left_out = SelfAttention {
            segments: &some,
            ..*layer
        };
        assert!(self_attention(&t[0], (&t[1], &t[2]), &left_out).is_err());
        assert!(self_attention(&t[0], (&t[1], &t[2]), layer).is_ok());
    });
}
