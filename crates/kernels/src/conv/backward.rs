//! Gradients of a convolution.
//!
//! The gradient of the input is itself a convolution of the output's gradient. With strides it falls apart into
//! phases: input positions with the same remainder modulo the stride see the same subset of taps.

use rayon::prelude::*;

use super::geometry::{Dim, Geometry};
use super::{Conv, Padding, depthwise};
use crate::gemm::Kernel;
use crate::gemm::product::{Output, Product, Stored, run};
use crate::gemm::source::{Data, Operand, Rows, Source};
use crate::gemm::windows::{Axis, DIMS, Windows};
#[cfg(target_arch = "x86_64")]
use crate::memory::filled;
use crate::memory::zeros;

/// The positions of one phase of one dimension, and the taps that reach them.
struct AxisPhase {
    /// Position p of the phase is `first + p * stride` of the padded input.
    first: usize,
    stride: usize,
    positions: usize,
    taps: Vec<usize>,
}

impl AxisPhase {
    /// All phases of a dimension over padded positions `from..to`.
    fn all(d: &Dim, from: usize, to: usize) -> Vec<AxisPhase> {
        (from..to.min(from + d.stride))
            .map(|first| AxisPhase {
                first,
                stride: d.stride,
                positions: (to - first).div_ceil(d.stride),
                taps: (0..d.taps)
                    .filter(|k| (k * d.dilation) % d.stride == first % d.stride)
                    .collect(),
            })
            .collect()
    }

    /// For each position and tap of the phase, the output that saw it.
    fn axis(&self, d: &Dim) -> Axis {
        Axis::new(self.positions, self.taps.len(), |p, t| {
            let reach = (self.first + p * self.stride).checked_sub(self.taps[t] * d.dilation)?;
            let output = reach / d.stride;
            (output < d.output).then_some(output)
        })
    }
}

impl Conv {
    /// dX, from dY and the weights.
    pub fn grad_x<T: Stored>(&self, dy: Data, w: Data) -> Vec<T> {
        let g = &self.geometry;
        if g.depthwise() {
            return T::rounded(depthwise::grad_x(g, &dy.to_f32(), w));
        }
        // Replicated borders are first given gradients of their own.
        let extent = g.dims.map(|d| match g.mode {
            Padding::Zero => (d.padding.0, d.padding.0 + d.input),
            Padding::Replicate => (0, d.padded()),
        });
        let sizes = extent.map(|(from, to)| to - from);
        let numbers = g.batch * sizes.iter().product::<usize>() * g.input;
        let bordered = sizes != g.input_sizes();
        #[cfg(target_arch = "x86_64")]
        if let Some(shift) = g.shift_back(extent)
            && let kernel = Kernel::new(self.precision)
            && shift.suits(kernel)
        {
            let weights = turned(g, &w.to_f32());
            // SAFETY: every position of the extent is computed.
            return unsafe {
                match bordered {
                    true => {
                        let fill = |dx: &mut [f32]| shift.run(kernel, dy, &weights, None, dx);
                        T::rounded(fold_borders(g, &filled(numbers, fill), sizes))
                    }
                    false => filled(numbers, |dx: &mut [T]| {
                        shift.run(kernel, dy, &weights, None, dx);
                    }),
                }
            };
        }
        let mut dx = zeros(numbers);
        let phases: [Vec<AxisPhase>; DIMS] =
            std::array::from_fn(|d| AxisPhase::all(&g.dims[d], extent[d].0, extent[d].1));
        for p0 in &phases[0] {
            for p1 in &phases[1] {
                for p2 in &phases[2] {
                    self.grad_x_phase(dy, w, [p0, p1, p2], (&mut dx, sizes, extent.map(|e| e.0)));
                }
            }
        }
        T::rounded(match bordered {
            true => fold_borders(g, &dx, sizes),
            false => dx,
        })
    }

    fn grad_x_phase(
        &self,
        dy: Data,
        w: Data,
        phase: [&AxisPhase; DIMS],
        (dx, sizes, from): (&mut [f32], [usize; DIMS], [usize; DIMS]),
    ) {
        let g = &self.geometry;
        let taps = tap_list(g, phase);
        if taps.is_empty() {
            return;
        }
        let axes = std::array::from_fn(|d| phase[d].axis(&g.dims[d]));
        let windows = Windows::new(axes, g.output_sizes(), g.output);
        let rows = g.batch * windows.positions();
        let whole = rows * g.input == dx.len();
        let mut part = if whole {
            Vec::new()
        } else {
            zeros(rows * g.input)
        };
        let target: &mut [f32] = if whole { dx } else { &mut part };
        let lists: Vec<Vec<u32>> = (0..g.groups)
            .map(|group| weight_rows(g, &taps, group))
            .collect();
        let products: Vec<Product> = (lists.iter().enumerate())
            .map(|(group, list)| Product {
                a: Operand::by_rows(Source {
                    data: dy,
                    rows: Rows::Windows {
                        windows: &windows,
                        start: group * g.output_width(),
                        whole: g.groups == 1,
                    },
                    count: rows,
                    taps: taps.len(),
                    width: g.output_width(),
                }),
                b: Operand::by_columns(Source {
                    rows: Rows::Listed {
                        list,
                        stride: g.input_width(),
                    },
                    ..Source::matrix(w, list.len(), g.input_width(), 0)
                }),
                c: Output::F32(target[group * g.input_width()..].as_mut_ptr()),
                ldc: g.input,
                bias: None,
                packed: None,
            })
            .collect();
        // SAFETY: each group writes its own columns.
        unsafe { run(Kernel::new(self.precision), &products) };
        if !whole {
            let firsts = std::array::from_fn(|d| {
                (
                    phase[d].first - from[d],
                    phase[d].stride,
                    phase[d].positions,
                )
            });
            scatter(&part, dx, (sizes, firsts), g.input);
        }
    }

    /// dW, from the input and dY.
    pub fn grad_w(&self, x: Data, dy: Data) -> Vec<f32> {
        let g = &self.geometry;
        if g.depthwise() {
            return depthwise::grad_w(g, &x.to_f32(), &dy.to_f32());
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(shift) = g.shift()
            && let kernel = Kernel::new(self.precision)
            && shift.suits_gradient(kernel)
        {
            return shift.gradient(kernel, x, dy);
        }
        let windows = g.windows();
        let size = g.output_width() * g.taps() * g.input_width();
        let mut dw = vec![0.0; g.groups * size];
        let products: Vec<Product> = (dw.chunks_mut(size).enumerate())
            .map(|(group, dw)| Product {
                a: Operand::by_columns(Source {
                    rows: Rows::Strided {
                        start: group * g.output_width(),
                        stride: g.output,
                    },
                    ..Source::matrix(dy, g.output_rows(), g.output_width(), g.output)
                }),
                b: Operand::by_columns(g.window_source(x, &windows, group)),
                c: Output::F32(dw.as_mut_ptr()),
                ldc: g.taps() * g.input_width(),
                bias: None,
                packed: None,
            })
            .collect();
        // SAFETY: each group has its own part of dw.
        unsafe { run(Kernel::new(self.precision), &products) };
        dw
    }
}

/// The weights `[out, taps, in]` as `[in, taps, out]`, the last tap first.
#[cfg(target_arch = "x86_64")]
fn turned(g: &Geometry, w: &[f32]) -> Vec<f32> {
    let (taps, inputs, outputs) = (g.taps(), g.input, g.output);
    let mut found = vec![0.0; w.len()];
    for (i, row) in w.chunks_exact(inputs).enumerate() {
        let (o, tap) = (i / taps, taps - 1 - i % taps);
        for (c, value) in row.iter().enumerate() {
            found[(c * taps + tap) * outputs + o] = *value;
        }
    }
    found
}

/// The taps of a phase, as indices into the kernel.
fn tap_list(g: &Geometry, phase: [&AxisPhase; DIMS]) -> Vec<usize> {
    let mut taps = Vec::new();
    for t0 in &phase[0].taps {
        for t1 in &phase[1].taps {
            taps.extend(
                phase[2]
                    .taps
                    .iter()
                    .map(|t2| (t0 * g.dims[1].taps + t1) * g.dims[2].taps + t2),
            );
        }
    }
    taps
}

/// The rows of W (of one tap's input channels each) that belong to each (tap, output of the group).
fn weight_rows(g: &Geometry, taps: &[usize], group: usize) -> Vec<u32> {
    let outputs = group * g.output_width()..(group + 1) * g.output_width();
    taps.iter()
        .flat_map(|tap| outputs.clone().map(move |o| (o * g.taps() + tap) as u32))
        .collect()
}

/// Copies the rows of a phase to their places; `axes` holds (first, stride, positions).
fn scatter(
    part: &[f32],
    dx: &mut [f32],
    (sizes, axes): ([usize; DIMS], [(usize, usize, usize); DIMS]),
    width: usize,
) {
    let plane = sizes[1] * sizes[2] * width;
    let [(f0, s0, n0), (f1, s1, n1), (f2, s2, n2)] = axes;
    dx.par_chunks_mut(plane).enumerate().for_each(|(i, plane)| {
        let (batch, at) = (i / sizes[0], i % sizes[0]);
        if at < f0 || (at - f0) % s0 != 0 {
            return;
        }
        let p0 = (at - f0) / s0;
        for (p1, p2) in (0..n1).flat_map(|p1| (0..n2).map(move |p2| (p1, p2))) {
            let from = (((batch * n0 + p0) * n1 + p1) * n2 + p2) * width;
            let to = ((f1 + p1 * s1) * sizes[2] + f2 + p2 * s2) * width;
            plane[to..to + width].copy_from_slice(&part[from..from + width]);
        }
    });
}

/// Adds the gradients of replicated positions to those of the positions that they repeat.
pub fn fold_borders(g: &Geometry, padded: &[f32], sizes: [usize; DIMS]) -> Vec<f32> {
    let mut dx = zeros(g.input_rows() * g.input);
    let [_, h, w] = g.input_sizes();
    // The padded positions that repeat input position i of dimension d.
    let sources = |d: usize, i: usize| {
        let Dim { input, padding, .. } = g.dims[d];
        let from = if i == 0 { 0 } else { i + padding.0 };
        let to = if i + 1 == input {
            sizes[d]
        } else {
            i + padding.0 + 1
        };
        from..to
    };
    dx.par_chunks_mut(h * w * g.input)
        .enumerate()
        .for_each(|(i, plane)| {
            let (batch, t) = (i / g.dims[0].input, i % g.dims[0].input);
            for (row, out) in plane.chunks_mut(g.input).enumerate() {
                for p0 in sources(0, t) {
                    for p1 in sources(1, row / w) {
                        for p2 in sources(2, row % w) {
                            let at = (((batch * sizes[0] + p0) * sizes[1] + p1) * sizes[2] + p2)
                                * g.input;
                            out.iter_mut()
                                .zip(&padded[at..at + g.input])
                                .for_each(|(o, v)| *o += v);
                        }
                    }
                }
            }
        });
    dx
}
