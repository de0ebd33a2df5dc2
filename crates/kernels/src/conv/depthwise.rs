//! Convolutions of each channel by itself: no product of matrices, but sums over taps of whole rows of channels.

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::gemm::source::Data;
use crate::gemm::windows::{Place, Windows};

/// Output positions a task.
const ROWS: usize = 64;
/// Rows whose weight gradients one task sums; fixed, so that the sum does not depend on the threads.
const GRAD_ROWS: usize = 2048;

/// Weights `[C, taps]` as `[taps, C]`, so that channels are adjacent.
fn by_taps(g: &Geometry, w: Data) -> Vec<f32> {
    let (taps, channels) = (g.taps(), g.input);
    let value = |i: usize| match w {
        Data::F32(w) => w[i],
        Data::Bf16(w) => w[i].to_f32(),
    };
    (0..taps * channels)
        .map(|i| value(i % channels * taps + i / channels))
        .collect()
}

fn add_product(out: &mut [f32], a: &[f32], b: &[f32]) {
    out.iter_mut()
        .zip(a.iter().zip(b))
        .for_each(|(o, (a, b))| *o += a * b);
}

/// Calls `f(tap, offset)` for the taps of a place that lie inside.
fn inside(windows: &Windows, place: &Place, mut f: impl FnMut(usize, usize)) {
    for tap in 0..windows.taps() {
        if let Some(offset) = windows.offset(place, tap) {
            f(tap, offset);
        }
    }
}

/// `y += ` the convolution, y being zero.
pub fn forward(g: &Geometry, x: &[f32], w: Data, bias: Option<&[f32]>, y: &mut [f32]) {
    let (channels, windows, w) = (g.input, g.windows(), by_taps(g, w));
    y.par_chunks_mut(ROWS * channels)
        .enumerate()
        .for_each(|(task, part)| {
            for (i, out) in part.chunks_mut(channels).enumerate() {
                if let Some(bias) = bias {
                    out.copy_from_slice(bias);
                }
                inside(&windows, &windows.locate(task * ROWS + i), |tap, offset| {
                    add_product(
                        out,
                        &x[offset..offset + channels],
                        &w[tap * channels..][..channels],
                    );
                });
            }
        });
}

/// The gradient of the input: each output row is spread over its window, one image a task.
pub fn grad_x(g: &Geometry, dy: &[f32], w: Data) -> Vec<f32> {
    let (channels, windows, w) = (g.input, g.windows(), by_taps(g, w));
    let mut dx = vec![0.0; g.input_rows() * channels];
    let image = dx.len() / g.batch.max(1);
    let positions = windows.positions();
    dx.par_chunks_mut(image.max(1))
        .enumerate()
        .for_each(|(batch, dx)| {
            for row in batch * positions..(batch + 1) * positions {
                let grad = &dy[row * channels..(row + 1) * channels];
                inside(&windows, &windows.locate(row), |tap, offset| {
                    let at = offset - batch * image;
                    add_product(
                        &mut dx[at..at + channels],
                        grad,
                        &w[tap * channels..][..channels],
                    );
                });
            }
        });
    dx
}

/// The gradient of the weights, `[C, taps]`.
pub fn grad_w(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (channels, taps, windows) = (g.input, g.taps(), g.windows());
    let sums: Vec<Vec<f32>> = (dy.par_chunks(GRAD_ROWS * channels).enumerate())
        .map(|(task, part)| {
            let mut dw = vec![0.0; taps * channels];
            for (i, grad) in part.chunks(channels).enumerate() {
                inside(
                    &windows,
                    &windows.locate(task * GRAD_ROWS + i),
                    |tap, offset| {
                        add_product(
                            &mut dw[tap * channels..][..channels],
                            grad,
                            &x[offset..offset + channels],
                        );
                    },
                );
            }
            dw
        })
        .collect();
    let total = |i: usize| sums.iter().map(|s| s[i]).sum::<f32>();
    (0..channels * taps)
        .map(|i| total(i % taps * channels + i / taps))
        .collect()
}
