//! Convolutions of each channel by itself: no product of matrices, but sums over taps of whole rows of channels.

use rayon::prelude::*;

use super::Padding;
use super::backward::fold_borders;
use super::geometry::Geometry;
use crate::gemm::source::Data;
use crate::gemm::windows::{Axis, DIMS, Windows};
use crate::memory;
use crate::simd::{Loop, vectorised};

/// Output positions a task.
const ROWS: usize = 64;
/// Rows whose weight gradients one task sums; fixed, so that the sum does not depend on the threads.
const GRAD_ROWS: usize = 1024;
/// Channels that are summed in registers.
const LANES: usize = 64;

/// Weights `[C, taps]` as `[taps, C]`, so that channels are adjacent.
fn by_taps(g: &Geometry, w: Data) -> Vec<f32> {
    let (taps, channels) = (g.taps(), g.input);
    let value = |i: usize| match w {
        Data::F32(w) => w[i],
        Data::Bf16(w) => w[i].to_f32(),
        Data::Few(w) => {
            let mut number = [0.0];
            w.expand(i, &mut number);
            number[0]
        }
    };
    (0..taps * channels)
        .map(|i| value(i % channels * taps + i / channels))
        .collect()
}

/// `out[c] = bias[c] + sum over places of x[offset + c] * w[tap * C + c]`.
struct WindowSum<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    w: &'a [f32],
    bias: Option<&'a [f32]>,
    /// (tap, offset) of the taps that lie inside.
    places: &'a [(usize, usize)],
}

impl Loop for WindowSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let channels = self.out.len();
        for from in (0..channels).step_by(LANES) {
            let len = LANES.min(channels - from);
            let mut sums = [0.0f32; LANES];
            if let Some(bias) = self.bias {
                sums[..len].copy_from_slice(&bias[from..from + len]);
            }
            for (tap, offset) in self.places {
                let (x, w) = (
                    &self.x[offset + from..][..len],
                    &self.w[tap * channels + from..][..len],
                );
                add_products(&mut sums, x, w);
            }
            self.out[from..from + len].copy_from_slice(&sums[..len]);
        }
    }
}

/// `sums[i] += a[i] * b[i]`, quickly where all lanes are there.
#[inline(always)]
fn add_products(sums: &mut [f32; LANES], a: &[f32], b: &[f32]) {
    match (a.first_chunk::<LANES>(), b.first_chunk::<LANES>()) {
        (Some(a), Some(b)) => (0..LANES).for_each(|i| sums[i] += a[i] * b[i]),
        _ => sums
            .iter_mut()
            .zip(a.iter().zip(b))
            .for_each(|(s, (a, b))| *s += a * b),
    }
}

/// Sums over the windows of every position, `[positions, C]`.
fn window_sums(
    windows: &Windows,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    rows: usize,
) -> Vec<f32> {
    let channels = w.len() / windows.taps();
    let fill = |y: &mut [f32]| {
        y.par_chunks_mut(ROWS * channels)
            .enumerate()
            .for_each(|(task, part)| {
                let mut places = Vec::with_capacity(windows.taps());
                for (i, out) in part.chunks_mut(channels).enumerate() {
                    let place = windows.locate(task * ROWS + i);
                    places.clear();
                    places.extend(
                        (0..windows.taps())
                            .filter_map(|tap| Some((tap, windows.offset(&place, tap)?))),
                    );
                    vectorised(WindowSum {
                        out,
                        x,
                        w,
                        bias,
                        places: &places,
                    });
                }
            });
    };
    // SAFETY: each row of channels is written.
    unsafe { memory::filled(rows * channels, fill) }
}

/// The convolution.
pub fn forward(g: &Geometry, x: &[f32], w: Data, bias: Option<&[f32]>) -> Vec<f32> {
    window_sums(&g.windows(), x, &by_taps(g, w), bias, g.output_rows())
}

/// The gradient of the input: for each input position, a sum over the outputs that saw it.
pub fn grad_x(g: &Geometry, dy: &[f32], w: Data) -> Vec<f32> {
    let extent = g.dims.map(|d| match g.mode {
        Padding::Zero => (d.padding.0, d.padding.0 + d.input),
        Padding::Replicate => (0, d.padded()),
    });
    let sizes = extent.map(|(from, to)| to - from);
    let axes: [Axis; DIMS] = std::array::from_fn(|i| {
        let d = g.dims[i];
        Axis::new(sizes[i], d.taps, |p, k| {
            let reach = (extent[i].0 + p).checked_sub(k * d.dilation)?;
            (reach % d.stride == 0 && reach / d.stride < d.output).then_some(reach / d.stride)
        })
    });
    let windows = Windows::new(axes, g.output_sizes(), g.output);
    let rows = g.batch * sizes.iter().product::<usize>();
    let dx = window_sums(&windows, dy, &by_taps(g, w), None, rows);
    if sizes == g.input_sizes() {
        dx
    } else {
        fold_borders(g, &dx, sizes)
    }
}

/// Adds to one tap's weight gradients the products of some rows.
struct TapSum<'a> {
    dw: &'a mut [f32],
    x: &'a [f32],
    dy: &'a [f32],
    /// Where each row's input lies, if it does.
    places: &'a [Option<usize>],
}

impl Loop for TapSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let channels = self.dw.len();
        for from in (0..channels).step_by(LANES) {
            let len = LANES.min(channels - from);
            let mut sums = [0.0f32; LANES];
            for (row, offset) in self.places.iter().enumerate() {
                if let Some(offset) = offset {
                    let (x, dy) = (
                        &self.x[offset + from..][..len],
                        &self.dy[row * channels + from..][..len],
                    );
                    add_products(&mut sums, x, dy);
                }
            }
            self.dw[from..from + len].copy_from_slice(&sums[..len]);
        }
    }
}

/// The gradient of the weights, `[C, taps]`.
pub fn grad_w(g: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (channels, taps, windows) = (g.input, g.taps(), g.windows());
    let sums: Vec<Vec<f32>> = (dy.par_chunks(GRAD_ROWS * channels).enumerate())
        .map(|(task, dy)| {
            let mut dw = vec![0.0; taps * channels];
            let rows = task * GRAD_ROWS..task * GRAD_ROWS + dy.len() / channels;
            let places: Vec<_> = rows.map(|row| windows.locate(row)).collect();
            for (tap, dw) in dw.chunks_mut(channels).enumerate() {
                let places: Vec<_> = places
                    .iter()
                    .map(|place| windows.offset(place, tap))
                    .collect();
                vectorised(TapSum {
                    dw,
                    x,
                    dy,
                    places: &places,
                });
            }
            dw
        })
        .collect();
    let total = |i: usize| sums.iter().map(|s| s[i]).sum::<f32>();
    (0..channels * taps)
        .map(|i| total(i % taps * channels + i / taps))
        .collect()
}
