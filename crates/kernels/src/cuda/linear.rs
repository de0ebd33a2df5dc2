//! `linear` on the GPU: a product a segment.

use candle_core::{CudaStorage, DType, Layout, Result, Tensor};

use super::eight::{Eight, product};
use super::gpu::{Address, Data, Gpu, data, floats, with_data};
use super::product::{Gemm, Matrix};
use super::rows::sum_columns;
use crate::gemm::Precision;
use crate::segments::Segments;

/// All sizes: rows, inputs, outputs a group.
#[derive(Clone, Copy)]
struct Extents {
    rows: usize,
    input: usize,
    output: usize,
}

fn extents(x: &[usize], w: &[usize], segments: &Segments) -> Extents {
    Extents {
        rows: x[0],
        input: x[1],
        output: w[0] / segments.groups(),
    }
}

fn rows(at: Address, pitch: usize) -> Matrix {
    Matrix {
        at,
        pitch,
        turned: false,
    }
}

fn turned(at: Address, pitch: usize) -> Matrix {
    Matrix {
        at,
        pitch,
        turned: true,
    }
}

/// The operation itself.
pub fn linear(
    (x, lx): (&CudaStorage, &Layout),
    (w, lw): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
    segments: &Segments,
    precision: Precision,
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let e = extents(lx.dims(), lw.dims(), segments);
    let bytes = Gpu::width(precision);
    let bias = bias.map(|(b, lb)| floats(b, lb)).transpose()?;
    let outputs = segments.groups() * e.output;
    if precision == Precision::Fp8 {
        let x = Eight::new(&gpu, data(x, lx)?, (e.rows, e.input))?;
        let w = Eight::new(&gpu, data(w, lw)?, (outputs, e.input))?;
        return product(&gpu, [&x, &w], bias, segments);
    }
    let (x, pitch) = gpu.operand_rows(data(x, lx)?, (e.rows, e.input), precision)?;
    let (w, _) = gpu.operand_rows(data(w, lw)?, (outputs, e.input), precision)?;
    let y = match segments.covers(e.rows) {
        true => gpu.alloc(e.rows * e.output)?,
        false => gpu.zeros(e.rows * e.output)?,
    };
    for (range, group) in segments.parts() {
        let to = gpu.address(&y) + (4 * range.start * e.output) as u64;
        let mut gemm = Gemm {
            // What is behind the inputs is zero on both sides.
            size: [range.len(), e.output, pitch],
            a: rows(x.at + (bytes * range.start * pitch) as u64, pitch),
            b: turned(w.at + (bytes * group * e.output * pitch) as u64, pitch),
            c: (to, e.output),
            beta: 0.0,
        };
        if let Some(bias) = bias {
            let row = bias + (4 * group * e.output) as u64;
            if precision == Precision::Bf16 && gpu.multiply_and_add(&gemm, row)? {
                continue;
            }
            gpu.fill_rows(row, to, range.len(), e.output)?;
            gemm.beta = 1.0;
        }
        gpu.gemm(gemm, precision)?;
    }
    Ok(gpu.storage(y))
}

/// The gradients of x and w where they are asked for, and of the bias.
pub fn linear_backward(
    [x, w, grad]: [&Tensor; 3],
    (bias, wanted): (Option<&Tensor>, [bool; 2]),
    segments: &Segments,
    precision: Precision,
) -> Result<[Option<Tensor>; 3]> {
    let e = extents(x.dims(), w.dims(), segments);
    let [rows, wide] = [&x.detach(), grad].map(|t| t.to_dtype(DType::F32));
    with_data([&rows?, w, &wide?], |gpu, [x_data, w_data, dy_data]| {
        let (dy, pitch) = gpu.operand_rows(dy_data, (e.rows, e.output), precision)?;
        let dy_rows = (dy.at, pitch);
        let for_x = wanted[0].then(|| grad_x(gpu, w_data, dy_rows, e, segments, precision));
        let for_w = wanted[1].then(|| grad_w(gpu, x_data, dy_rows, e, segments, precision));
        let for_bias = bias.map(|b| -> Result<Tensor> {
            let sums = sum_columns(gpu, dy_data.at, e.rows, e.output, segments)?;
            Ok(gpu.tensor(sums, b.dims()))
        });
        let for_w = for_w.transpose()?.map(|t| t.to_dtype(w.dtype()));
        Ok([
            for_x
                .transpose()?
                .map(|t| t.to_dtype(x.dtype()))
                .transpose()?,
            for_w.transpose()?,
            for_bias.transpose()?,
        ])
    })
}

/// dX = dY W.
fn grad_x(
    gpu: &Gpu,
    w: Data,
    (dy, dy_pitch): (Address, usize),
    e: Extents,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    let bytes = Gpu::width(precision);
    let (w, pitch) = gpu.operand_rows(w, (segments.groups() * e.output, e.input), precision)?;
    let dx = match segments.covers(e.rows) {
        true => gpu.alloc(e.rows * e.input)?,
        false => gpu.zeros(e.rows * e.input)?,
    };
    for (range, group) in segments.parts() {
        let gemm = Gemm {
            size: [range.len(), e.input, e.output],
            a: rows(dy + (bytes * range.start * dy_pitch) as u64, dy_pitch),
            b: rows(w.at + (bytes * group * e.output * pitch) as u64, pitch),
            c: (
                gpu.address(&dx) + (4 * range.start * e.input) as u64,
                e.input,
            ),
            beta: 0.0,
        };
        gpu.gemm(gemm, precision)?;
    }
    Ok(gpu.tensor(dx, (e.rows, e.input)))
}

/// dW = dY' X, summed over all ranges of each group.
fn grad_w(
    gpu: &Gpu,
    x: Data,
    (dy, dy_pitch): (Address, usize),
    e: Extents,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    let bytes = Gpu::width(precision);
    let (x, pitch) = gpu.operand_rows(x, (e.rows, e.input), precision)?;
    let dw = gpu.zeros(segments.groups() * e.output * e.input)?;
    for (range, group) in segments.parts() {
        let gemm = Gemm {
            size: [e.output, e.input, range.len()],
            a: turned(dy + (bytes * range.start * dy_pitch) as u64, dy_pitch),
            b: rows(x.at + (bytes * range.start * pitch) as u64, pitch),
            c: (
                gpu.address(&dw) + (4 * group * e.output * e.input) as u64,
                e.input,
            ),
            beta: 1.0,
        };
        gpu.gemm(gemm, precision)?;
    }
    Ok(gpu.tensor(dw, (segments.groups() * e.output, e.input)))
}
