//! Convolutions on the GPU: by cuDNN, which reads windows where they lie; where there is none, or it refuses, windows are
//! written out as rows, some at a time, and multiplied by cuBLAS.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{CudaStorage, DType, Layout, Result, Tensor, bail};

use super::cudnn::{
    self, BIAS, Convolution, FILTER, Fused, INPUT, OUTPUT, Pass, Plan, Work, chosen,
};
use super::gpu::{
    Address, BLOCK, Data, Floats, Gpu, Text, Threads, data, floats, launch, with_data,
};
use super::product::{Gemm, Matrix, Operand};
use super::rows::{sum_columns, total};
use crate::conv::Padding;
use crate::conv::geometry::{Dim, Geometry};
use crate::gemm::Precision;
use crate::segments::Segments;

/// Bytes of windows that are written out at once.
const BUDGET: usize = 1 << 30;
/// Outputs of a convolution that make it worth a plan of cuDNN's.
const WORTH: usize = 1 << 12;
/// Parts that the sums of a depthwise weight's gradient are cut into, and the fewest rows of one.
const PARTS: usize = 512;
const LEAST: usize = 64;

/// One dimension of windows, as the kernels take it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Axis {
    positions: i32,
    sources: i32,
    taps: i32,
    stride: i32,
    dilation: i32,
    shift: i32,
}

/// Windows over a source, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Windows {
    axes: [Axis; 3],
    channels: i32,
    first: i32,
    width: i32,
    mode: i32,
}

// SAFETY: numbers of 32 bits, laid out as in the kernels.
unsafe impl DeviceRepr for Windows {}

/// What `fold_borders` needs.
#[repr(C)]
#[derive(Clone, Copy)]
struct Borders {
    input: [i32; 3],
    before: [i32; 3],
    after: [i32; 3],
    channels: i32,
}

// SAFETY: numbers of 32 bits, laid out as in the kernels.
unsafe impl DeviceRepr for Borders {}

impl Windows {
    /// The inputs under each output.
    fn forward(g: &Geometry, group: usize) -> Self {
        Self {
            axes: g.dims.map(|d| Axis {
                positions: d.output as i32,
                sources: d.input as i32,
                taps: d.taps as i32,
                stride: d.stride as i32,
                dilation: d.dilation as i32,
                shift: d.padding.0 as i32,
            }),
            channels: g.input as i32,
            first: (group * g.input_width()) as i32,
            width: g.input_width() as i32,
            mode: match g.mode {
                Padding::Zero => 0,
                Padding::Replicate => 1,
            },
        }
    }

    /// The outputs that saw each input; where borders were replicated, each position of the padded input.
    fn backward(g: &Geometry, group: usize) -> Self {
        Self {
            axes: g.dims.map(|d| {
                let (positions, shift) = seen(g, &d);
                Axis {
                    positions: positions as i32,
                    sources: d.output as i32,
                    taps: d.taps as i32,
                    stride: d.stride as i32,
                    dilation: d.dilation as i32,
                    shift: shift as i32,
                }
            }),
            channels: g.output as i32,
            first: (group * g.output_width()) as i32,
            width: g.output_width() as i32,
            mode: 2,
        }
    }

    /// The input with its borders, one position a window.
    fn borders(g: &Geometry) -> Self {
        let whole = Self::forward(g, 0);
        Self {
            axes: g.dims.map(|d| Axis {
                positions: d.padded() as i32,
                sources: d.input as i32,
                taps: 1,
                stride: 1,
                dilation: 1,
                shift: d.padding.0 as i32,
            }),
            width: whole.channels,
            ..whole
        }
    }
}

/// Positions that have gradients, and the padded position of the first.
fn seen(g: &Geometry, d: &Dim) -> (usize, usize) {
    match g.mode {
        Padding::Zero => (d.input, d.padding.0),
        Padding::Replicate => (d.padded(), 0),
    }
}

/// Whether windows are the rows of the input themselves.
fn pointwise(g: &Geometry) -> bool {
    let plain = |d: &Dim| d.taps == 1 && d.stride == 1 && d.padding == (0, 0);
    g.groups == 1 && g.dims.iter().all(plain)
}

/// Windows of some rows, written out.
struct Unfolded {
    _own: CudaSlice<f32>,
    at: Address,
}

/// A tensor of cuDNN's: numbers that are there, or room for f32 numbers.
#[derive(Clone, Copy)]
enum Given {
    Read(Data),
    Written(Address),
}

struct Call<'a> {
    gpu: &'a Gpu,
    g: &'a Geometry,
    precision: Precision,
}

impl Call<'_> {
    fn bytes(&self) -> usize {
        Gpu::width(self.precision)
    }

    /// Calls `f` with parts of so many rows and their windows of `width` numbers a tap.
    fn by_parts(
        &self,
        (x, windows): (Address, Windows),
        (rows, width): (usize, usize),
        mut f: impl FnMut(usize, usize, Address) -> Result<()>,
    ) -> Result<()> {
        let taps = self.g.taps();
        let row = taps * width * self.bytes();
        let step = (BUDGET / row.max(1)).clamp(1, rows.max(1));
        let own = self.gpu.alloc::<f32>((step * row).div_ceil(4))?;
        let part = Unfolded {
            at: self.gpu.address(&own),
            _own: own,
        };
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            self.unfold((x, windows), part.at, (first, count), taps)?;
            f(first, count, part.at)?;
        }
        Ok(())
    }

    fn operand(&self, data: Data, count: usize) -> Result<Operand> {
        self.gpu.operand(data, count, self.precision)
    }

    /// The input in f32, which kernels of our own read.
    fn widened(&self, x: Data) -> Result<Operand> {
        let numbers = self.g.input_rows() * self.g.input;
        self.gpu.operand(x, numbers, Precision::F32)
    }

    /// cuDNN's way to do it, if it is to: none where the windows are written out.
    fn plan(&self, pass: Pass) -> Result<Option<Arc<Plan>>> {
        let large = || self.g.output_rows() >= WORTH && cudnn::version().is_ok();
        let wanted = match chosen() {
            Fused::Always => true,
            Fused::Auto => large(),
            Fused::Never => false,
        };
        let g = self.g;
        let padded = g.dims.iter().map(Dim::padded).product::<usize>();
        let numbers = (g.batch * padded * g.input).max(g.output_rows() * g.output);
        // What is rounded to bf16 is so by one kernel.
        let countable = numbers <= (u32::MAX - BLOCK) as usize;
        if !wanted || !countable || pointwise(g) || self.precision != Precision::Bf16 {
            return Ok(None);
        }
        let work = Work::Convolution(Convolution::of(self.g, pass));
        match cudnn::compiled(self.gpu, work) {
            Ok(plan) => Ok(Some(plan)),
            Err(error) if chosen() == Fused::Always => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Queues cuDNN's plan for a pass; false if the windows are to be written out instead. `bias` is of the forward pass.
    fn fused(&self, pass: Pass, [x, w, y]: [Given; 3], bias: Option<Address>) -> Result<bool> {
        let Some(plan) = self.plan(pass)? else {
            return Ok(false);
        };
        let g = self.g;
        let weights = g.output * g.taps() * g.input_width();
        let x = match x {
            Given::Read(x) => self.with_borders(x)?,
            Given::Written(at) => Operand::at(at),
        };
        let read = |given, count| match given {
            Given::Read(data) => self.operand(data, count),
            Given::Written(at) => Ok(Operand::at(at)),
        };
        let (w, y) = (read(w, weights)?, read(y, g.output_rows() * g.output)?);
        let mut places = vec![(INPUT, x.at), (FILTER, w.at), (OUTPUT, y.at)];
        places.extend(bias.map(|at| (BIAS, at)));
        let aligned = places
            .iter()
            .all(|(_, at)| at % cudnn::ALIGNMENT as u64 == 0);
        if !aligned && chosen() == Fused::Auto {
            return Ok(false);
        }
        cudnn::run(self.gpu, &plan, &places)?;
        Ok(true)
    }

    /// The input in bf16; where borders repeat, with them.
    fn with_borders(&self, x: Data) -> Result<Operand> {
        let (gpu, g) = (self.gpu, self.g);
        if g.mode == Padding::Zero {
            return self.operand(x, g.input_rows() * g.input);
        }
        let x = self.widened(x)?;
        let rows = g.batch * g.dims.iter().map(Dim::padded).product::<usize>();
        let whole = Operand::rounded(gpu, gpu.alloc(rows * g.input)?);
        self.unfold((x.at, Windows::borders(g)), whole.at, (0, rows), 1)?;
        Ok(whole)
    }

    /// Writes `count` windows from the one at `first` on to `to`.
    fn unfold(
        &self,
        (x, windows): (Address, Windows),
        to: Address,
        (first, count): (usize, usize),
        taps: usize,
    ) -> Result<()> {
        let rows = first + count;
        if rows > u32::MAX as usize {
            bail!("conv: {rows} positions are more than a GPU's kernels count; convolve parts");
        }
        let width = windows.width as usize;
        let vector = if width.is_multiple_of(4) { 4 } else { 1 };
        let text = Text::Windows(self.precision);
        let threads = Threads::each(count * taps * width / vector);
        launch!(
            self.gpu,
            text,
            "unfold",
            threads,
            x,
            to,
            windows,
            first as u32,
            count as u64,
            taps as i32
        );
        Ok(())
    }

    fn forward(&self, x: Data, w: Data, bias: Option<Address>) -> Result<Floats> {
        let (gpu, g) = (self.gpu, self.g);
        let rows = g.output_rows();
        let y = gpu.alloc(rows * g.output)?;
        let to = gpu.address(&y);
        if g.depthwise() {
            let x = self.widened(x)?;
            self.depthwise(
                x.at,
                w,
                (bias.unwrap_or(0), to),
                (Windows::forward(g, 0), rows),
            )?;
            return Ok(y);
        }
        let pass = Pass::Forward {
            bias: bias.is_some(),
        };
        let given = [Given::Read(x), Given::Read(w), Given::Written(to)];
        if self.fused(pass, given, bias)? {
            return Ok(y);
        }
        if let Some(bias) = bias {
            gpu.fill_rows(bias, to, rows, g.output)?;
        }
        let depth = g.taps() * g.input_width();
        let w = self.operand(w, g.output * depth)?;
        let beta = if bias.is_some() { 1.0 } else { 0.0 };
        let multiply = |group: usize, first: usize, count: usize, at: Address| {
            let gemm = Gemm {
                size: [count, g.output_width(), depth],
                a: plain(at, depth),
                b: Matrix {
                    turned: true,
                    ..plain(
                        w.at + (self.bytes() * group * g.output_width() * depth) as u64,
                        depth,
                    )
                },
                c: (
                    to + (4 * (first * g.output + group * g.output_width())) as u64,
                    g.output,
                ),
                beta,
            };
            gpu.gemm(gemm, self.precision)
        };
        if pointwise(g) {
            let x = self.operand(x, rows * g.input)?;
            multiply(0, 0, rows, x.at)?;
            return Ok(y);
        }
        let x = self.widened(x)?;
        for group in 0..g.groups {
            let windows = (x.at, Windows::forward(g, group));
            self.by_parts(windows, (rows, g.input_width()), |first, count, at| {
                multiply(group, first, count, at)
            })?;
        }
        Ok(y)
    }

    /// Each channel by itself; w `[C, taps]`.
    fn depthwise(
        &self,
        x: Address,
        w: Data,
        (bias, to): (Address, Address),
        (windows, rows): (Windows, usize),
    ) -> Result<()> {
        let (gpu, g) = (self.gpu, self.g);
        let w = gpu.operand(w, g.input * g.taps(), Precision::F32)?;
        let threads = Threads::each(rows * g.input);
        let text = Text::Windows(self.precision);
        launch!(
            gpu,
            text,
            "depthwise",
            threads,
            x,
            w.at,
            bias,
            to,
            windows,
            rows as u64,
            g.taps() as i32
        );
        Ok(())
    }

    fn grad_x(&self, w: Data, dy: Data) -> Result<Floats> {
        let (gpu, g) = (self.gpu, self.g);
        let sizes = g.dims.map(|d| seen(g, &d).0);
        let rows = g.batch * sizes.iter().product::<usize>();
        let dx = gpu.alloc(rows * g.input)?;
        let to = gpu.address(&dx);
        if g.depthwise() {
            self.depthwise(dy.at, w, (0, to), (Windows::backward(g, 0), rows))?;
        } else if !self.fused(
            Pass::Data,
            [Given::Written(to), Given::Read(w), Given::Read(dy)],
            None,
        )? {
            self.grad_x_products(w, dy.at, (to, rows))?;
        }
        if sizes == g.input_sizes() {
            return Ok(dx);
        }
        let count = g.input_rows() * g.input;
        let folded = gpu.alloc(count)?;
        let at = gpu.address(&folded);
        let borders = Borders {
            input: g.dims.map(|d| d.input as i32),
            before: g.dims.map(|d| d.padding.0 as i32),
            after: g.dims.map(|d| d.padding.1 as i32),
            channels: g.input as i32,
        };
        let text = Text::Windows(self.precision);
        launch!(
            gpu,
            text,
            "fold_borders",
            Threads::each(count),
            to,
            at,
            borders,
            count as u64
        );
        Ok(folded)
    }

    fn grad_x_products(&self, w: Data, dy: Address, (to, rows): (Address, usize)) -> Result<()> {
        let (gpu, g) = (self.gpu, self.g);
        let (taps, inputs, outputs) = (g.taps(), g.input_width(), g.output_width());
        let w = self.operand(w, g.output * taps * inputs)?;
        let size = outputs * taps * inputs;
        let swapped = gpu.alloc::<f32>((size * self.bytes()).div_ceil(4))?;
        let swapped = gpu.address(&swapped);
        for group in 0..g.groups {
            let own = w.at + (self.bytes() * group * size) as u64;
            let text = Text::Windows(self.precision);
            let threads = Threads::each(size);
            launch!(
                gpu,
                text,
                "taps_first",
                threads,
                own,
                swapped,
                outputs as i32,
                taps as i32,
                inputs as i32
            );
            let windows = (dy, Windows::backward(g, group));
            self.by_parts(windows, (rows, outputs), |first, count, at| {
                let gemm = Gemm {
                    size: [count, inputs, taps * outputs],
                    a: plain(at, taps * outputs),
                    b: plain(swapped, inputs),
                    c: (
                        to + (4 * (first * g.input + group * inputs)) as u64,
                        g.input,
                    ),
                    beta: 0.0,
                };
                gpu.gemm(gemm, self.precision)
            })?;
        }
        Ok(())
    }

    fn grad_w(&self, x: Address, dy: Data) -> Result<Floats> {
        let (gpu, g) = (self.gpu, self.g);
        let (rows, depth) = (g.output_rows(), g.taps() * g.input_width());
        if g.depthwise() {
            return self.depthwise_grad_w(x, dy.at);
        }
        let dw = gpu.zeros(g.output * depth)?;
        let to = gpu.address(&dw);
        let input = Given::Read(Data { at: x, bf16: false });
        if self.fused(
            Pass::Filter,
            [input, Given::Written(to), Given::Read(dy)],
            None,
        )? {
            return Ok(dw);
        }
        let dy = self.operand(dy, rows * g.output)?;
        let multiply = |group: usize, first: usize, count: usize, at: Address| {
            let start = first * g.output + group * g.output_width();
            let gemm = Gemm {
                size: [g.output_width(), depth, count],
                a: Matrix {
                    turned: true,
                    ..plain(dy.at + (self.bytes() * start) as u64, g.output)
                },
                b: plain(at, depth),
                c: (to + (4 * group * g.output_width() * depth) as u64, depth),
                beta: 1.0,
            };
            gpu.gemm(gemm, self.precision)
        };
        if pointwise(g) {
            let x = self.operand(Data { at: x, bf16: false }, rows * g.input)?;
            multiply(0, 0, rows, x.at)?;
            return Ok(dw);
        }
        for group in 0..g.groups {
            let windows = (x, Windows::forward(g, group));
            self.by_parts(windows, (rows, g.input_width()), |first, count, at| {
                multiply(group, first, count, at)
            })?;
        }
        Ok(dw)
    }

    fn depthwise_grad_w(&self, x: Address, dy: Address) -> Result<Floats> {
        let (gpu, g) = (self.gpu, self.g);
        let (rows, taps) = (g.output_rows(), g.taps());
        let step = rows.div_ceil(PARTS).max(LEAST);
        let parts = rows.div_ceil(step);
        let sums = gpu.alloc::<f32>(parts * g.input * taps)?;
        let sums = gpu.address(&sums);
        let threads = Threads::blocks((g.input.div_ceil(32), parts, taps), (32, 8), 0);
        let text = Text::Windows(self.precision);
        let windows = Windows::forward(g, 0);
        launch!(
            gpu,
            text,
            "depthwise_parts",
            threads,
            x,
            dy,
            windows,
            rows as u64,
            step as i32,
            taps as i32,
            sums
        );
        total(gpu, (sums, None), parts, g.input * taps, 1)
    }
}

fn plain(at: Address, pitch: usize) -> Matrix {
    Matrix {
        at,
        pitch,
        turned: false,
    }
}

/// The operation itself.
pub fn conv(
    (x, lx): (&CudaStorage, &Layout),
    (w, lw): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
    g: &Geometry,
    precision: Precision,
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let bias = bias.map(|(b, lb)| floats(b, lb)).transpose()?;
    let call = Call {
        gpu: &gpu,
        g,
        precision,
    };
    let y = call.forward(data(x, lx)?, data(w, lw)?, bias)?;
    Ok(gpu.storage(y))
}

/// The gradients of x and w where they are asked for, and of the bias.
pub fn conv_backward(
    [x, w, grad]: [&Tensor; 3],
    (bias, wanted): (Option<&Tensor>, [bool; 2]),
    g: &Geometry,
    precision: Precision,
) -> Result<[Option<Tensor>; 3]> {
    let [rows, wide] = [&x.detach(), grad].map(|t| t.to_dtype(DType::F32));
    with_data([&rows?, w, &wide?], |gpu, [x_data, w_data, dy]| {
        let call = Call { gpu, g, precision };
        let mut found = [None, None, None];
        if wanted[0] {
            let dx = gpu.tensor(call.grad_x(w_data, dy)?, x.dims());
            found[0] = Some(dx.to_dtype(x.dtype())?);
        }
        if wanted[1] {
            let dw = gpu.tensor(call.grad_w(x_data.at, dy)?, w.dims());
            found[1] = Some(dw.to_dtype(w.dtype())?);
        }
        if let Some(bias) = bias {
            let rows = g.output_rows();
            let sums = sum_columns(gpu, dy.at, rows, g.output, &Segments::single(rows))?;
            found[2] = Some(gpu.tensor(sums, bias.dims()));
        }
        Ok(found)
    })
}
