//! Linear maps whose weights depend on the row.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::frozen::Frozen;
use crate::gemm::eight::Eight;
use crate::gemm::product::{Product, run};
use crate::gemm::source::{Data, Operand, Rows, Source};
use crate::gemm::{Kernel, Packed, Precision, Side};
use crate::memory::{filled, zeros};
use crate::rows::parts;
use crate::segments::Segments;
use crate::storage::{data, floats, with_data, with_floats};

/// `y[l] = W_g x[l] + b_g`, where g is the group of row l. Rows in no segment give zeros.
///
/// # Shapes
/// x `[L, in]`; w `[G * out, in]`, the groups stacked along the rows, f32 or bf16; bias `[G * out]` -> `[L, out]`.
/// All but w are f32; on a GPU x may be bf16, as the operations `.._for_product` give it.
///
/// # Errors
/// If the shapes do not agree, G is less than `segments.groups()`, or a tensor is not on the CPU.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    let (rows, input) = x.dims2()?;
    let (stacked, columns) = w.dims2()?;
    if columns != input || stacked % segments.groups() != 0 || segments.end() > rows {
        bail!(
            "linear: x {:?}, w {:?}, {} groups over {} rows",
            x.dims(),
            w.dims(),
            segments.groups(),
            segments.end()
        );
    }
    let op = Linear {
        segments: segments.clone(),
        precision,
    };
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        None => x.apply_op2(&w, op),
        Some(b) if b.dims() == [stacked] => x.apply_op3(&w, &b.contiguous()?, op),
        Some(b) => bail!("linear: bias {:?} for weights {:?}", b.dims(), w.dims()),
    }
}

/// [`linear`] without a bias over weights that are not trained and not in a tensor: they are read where they lie,
/// and those in fewer bits are expanded only a block at a time.
///
/// # Shapes
/// x `[L, in]`; w `[G * out, in]` -> `[L, out]`.
///
/// # Errors
/// If the shapes do not agree, G is less than `segments.groups()`, x is not on the CPU, or a gradient of x would be
/// wanted: there is none.
pub fn linear_frozen(
    x: &Tensor,
    w: &Frozen,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    let (rows, input) = x.dims2()?;
    let (stacked, columns) = w.dims();
    if columns != input || stacked % segments.groups() != 0 || segments.end() > rows {
        bail!(
            "linear: x {:?}, w [{stacked}, {columns}], {} groups over {} rows",
            x.dims(),
            segments.groups(),
            segments.end()
        );
    }
    if x.track_op() {
        bail!("linear over frozen weights gives no gradient");
    }
    let op = Linear {
        segments: segments.clone(),
        precision,
    };
    let e = op.extents(&[rows, input], &[stacked]);
    let y = with_floats(x, |x| Ok(op.forward(x, w.data, None, e)))?;
    Tensor::from_vec(y, (rows, e.output), x.device())
}

struct Linear {
    segments: Segments,
    precision: Precision,
}

/// Extents of one call: rows, inputs, outputs a group.
#[derive(Clone, Copy)]
struct Extents {
    rows: usize,
    input: usize,
    output: usize,
}

impl Linear {
    fn extents(&self, x: &[usize], w: &[usize]) -> Extents {
        Extents {
            rows: x[0],
            input: x[1],
            output: w[0] / self.segments.groups(),
        }
    }

    fn forward(&self, x: &[f32], w: Data, bias: Option<&[f32]>, e: Extents) -> Vec<f32> {
        if self.precision == Precision::Fp8 {
            return self.forward_eight(x, w, bias, e);
        }
        let bias = |group: usize| bias.map(|b| &b[group * e.output..][..e.output]);
        self.by_rows((x, e.input), e.output, bias, |group| {
            Operand::by_rows(group_of(w, group, e))
        })
    }

    /// In 8-bit floats: their products are exact in bf16 as they are, and are scaled afterwards.
    fn forward_eight(&self, x: &[f32], w: Data, bias: Option<&[f32]>, e: Extents) -> Vec<f32> {
        let outputs = self.segments.groups() * e.output;
        let x = Eight::new(Data::F32(x), e.rows, e.input);
        let w = Eight::new(w, outputs, e.input);
        let operand = |group: usize| w.operand(group * e.output..(group + 1) * e.output, e.input);
        let mut y = self.by_rows((&x.numbers, e.input), e.output, |_| None, operand);
        let all = parts(&self.segments, e.output, &mut y);
        all.into_par_iter().for_each(|part| {
            let columns = part.group * e.output..(part.group + 1) * e.output;
            let scales = &w.scales[columns.clone()];
            for (row, y) in part.rows.zip(part.out.chunks_exact_mut(e.output)) {
                y.iter_mut()
                    .zip(scales)
                    .for_each(|(y, w)| *y *= x.scales[row] * w);
                if let Some(bias) = bias {
                    let bias = &bias[columns.clone()];
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
        });
        y
    }

    /// An error if gradients are wanted in a precision that has none.
    fn check_gradients(&self) -> Result<()> {
        match self.precision {
            Precision::Fp8 => bail!("linear maps in 8-bit floats give no gradients; train in bf16"),
            _ => Ok(()),
        }
    }

    /// dX = dY W.
    fn grad_x(&self, grad: &[f32], w: Data, e: Extents) -> Vec<f32> {
        self.by_rows(
            (grad, e.output),
            e.input,
            |_| None,
            |group| Operand::by_columns(group_of(w, group, e)),
        )
    }

    /// Each row of `x`, of `width` numbers, times the matrix of its group.
    fn by_rows<'a>(
        &self,
        (x, width): (&'a [f32], usize),
        output: usize,
        bias: impl Fn(usize) -> Option<&'a [f32]>,
        weights: impl Fn(usize) -> Operand<'a>,
    ) -> Vec<f32> {
        let kernel = Kernel::new(self.precision);
        let packed: Vec<Option<Packed>> = (0..self.segments.groups())
            .map(|g| {
                let operand = weights(g);
                let whole = self.shared(g) && !matches!(operand.source.data, Data::Few(_));
                whole.then(|| Packed::whole(kernel, Side::Right, &operand))
            })
            .collect();
        let fill = |y: &mut [f32]| {
            let products: Vec<Product> = (self.segments.parts().iter())
                .map(|(rows, group)| Product {
                    a: Operand::by_rows(rows_of(x, rows.start, rows.len(), width)),
                    b: weights(*group),
                    packed: packed[*group].as_ref(),
                    c: y[rows.start * output..].as_mut_ptr(),
                    ldc: output,
                    bias: bias(*group),
                })
                .collect();
            // SAFETY: segments are disjoint rows of y.
            unsafe { run(kernel, &products) };
        };
        let rows = x.len() / width.max(1);
        if self.segments.covers(rows) {
            // SAFETY: every row is in a segment.
            return unsafe { filled(rows * output, fill) };
        }
        let mut y = zeros(rows * output);
        fill(&mut y);
        y
    }

    /// Whether several ranges use the weights of a group.
    fn shared(&self, group: usize) -> bool {
        self.segments.of_group(group).count() > 1
    }

    fn grad_bias(&self, grad: &[f32], output: usize) -> Vec<f32> {
        let ranges = |g| {
            self.segments
                .of_group(g)
                .map(|r| &grad[r.start * output..r.end * output])
        };
        (0..self.segments.groups())
            .flat_map(|g| {
                sum_rows(
                    ranges(g)
                        .flat_map(|part| part.chunks(CHUNK * output))
                        .collect(),
                    output,
                )
            })
            .collect()
    }

    fn gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let e = self.extents(x.dims(), w.dims());
        let device = x.device();
        with_floats(grad, |dy| {
            let mut found = (None, None);
            if x.track_op() {
                let dx = with_data(w, |w| Ok(self.grad_x(dy, w, e)))?;
                found.0 = Some(Tensor::from_vec(dx, x.dims(), device)?);
            }
            if w.track_op() {
                let dw = with_floats(x, |x| {
                    let (dy, x) = ((Data::F32(dy), e.output), (Data::F32(x), e.input));
                    Ok(over_rows(
                        Kernel::new(self.precision),
                        &self.segments,
                        dy,
                        x,
                    ))
                })?;
                found.1 = Some(Tensor::from_vec(dw, w.dims(), device)?.to_dtype(w.dtype())?);
            }
            Ok(found)
        })
    }
}

/// Rows summed by one task of `sum_rows`.
const CHUNK: usize = 256;

/// The sum of all rows of `width` numbers in `parts`; the order of summation does not depend on the threads.
pub(crate) fn sum_rows(parts: Vec<&[f32]>, width: usize) -> Vec<f32> {
    let sum = |mut total: Vec<f32>, row: &[f32]| {
        total.iter_mut().zip(row).for_each(|(t, v)| *t += v);
        total
    };
    let sums: Vec<Vec<f32>> = parts
        .into_par_iter()
        .map(|part| part.chunks_exact(width).fold(vec![0.0; width], sum))
        .collect();
    sums.iter()
        .fold(vec![0.0; width], |total, row| sum(total, row))
}

fn rows_of(x: &[f32], start: usize, count: usize, width: usize) -> Source<'_> {
    Source::matrix(
        Data::F32(&x[start * width..][..count * width]),
        count,
        width,
        width,
    )
}

/// `a^T b`, summed over all rows of each group, `[G * M, N]`: the gradient of a map's weights out of those of its outputs
/// `[L, M]` and its inputs `[L, N]`. Both with their widths.
pub(crate) fn over_rows(
    kernel: Kernel,
    segments: &Segments,
    (a, m): (Data, usize),
    (b, n): (Data, usize),
) -> Vec<f32> {
    let groups = segments.groups();
    let rows = |group| -> Vec<u32> {
        let rows = segments.of_group(group).flatten();
        rows.map(|row| row as u32).collect()
    };
    let lists: Vec<Vec<u32>> = (0..groups).map(rows).collect();
    let mut sums = zeros(groups * m * n);
    let products: Vec<Product> = (lists.iter().zip(sums.chunks_mut((m * n).max(1))))
        .map(|(list, sums)| Product {
            a: Operand::by_columns(listed(a, list, m)),
            b: Operand::by_columns(listed(b, list, n)),
            c: sums.as_mut_ptr(),
            ldc: n,
            bias: None,
            packed: None,
        })
        .collect();
    // SAFETY: each group has its own part of the sums.
    unsafe { run(kernel, &products) };
    sums
}

fn listed<'a>(data: Data<'a>, list: &'a [u32], width: usize) -> Source<'a> {
    Source {
        rows: Rows::Listed {
            list,
            stride: width,
        },
        ..Source::matrix(data, list.len(), width, width)
    }
}

fn group_of(w: Data<'_>, group: usize, e: Extents) -> Source<'_> {
    let rows = group * e.output..(group + 1) * e.output;
    Source::matrix(w.rows(rows, e.input), e.output, e.input, e.input)
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let e = self.extents(lx.dims(), lw.dims());
        let y = self.forward(floats(x, lx)?, data(w, lw)?, None, e);
        Ok((CpuStorage::F32(y), (e.rows, e.output).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        w: &candle_core::CudaStorage,
        lw: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let segments = &self.segments;
        let y = crate::cuda::linear((x, lx), (w, lw), None, segments, self.precision)?;
        let e = self.extents(lx.dims(), lw.dims());
        Ok((y, (e.rows, e.output).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.check_gradients()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dw, _] =
                crate::cuda::linear_backward([x, w, grad], None, &self.segments, self.precision)?;
            return Ok((dx, dw));
        }
        self.gradients(x, w, grad)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let e = self.extents(lx.dims(), lw.dims());
        let y = self.forward(floats(x, lx)?, data(w, lw)?, Some(floats(b, lb)?), e);
        Ok((CpuStorage::F32(y), (e.rows, e.output).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        w: &candle_core::CudaStorage,
        lw: &Layout,
        b: &candle_core::CudaStorage,
        lb: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (segments, bias) = (&self.segments, Some((b, lb)));
        let y = crate::cuda::linear((x, lx), (w, lw), bias, segments, self.precision)?;
        let e = self.extents(lx.dims(), lw.dims());
        Ok((y, (e.rows, e.output).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.check_gradients()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dw, db] = crate::cuda::linear_backward(
                [x, w, grad],
                Some(b),
                &self.segments,
                self.precision,
            )?;
            return Ok((dx, dw, db));
        }
        let (dx, dw) = self.gradients(x, w, grad)?;
        let output = w.dim(0)? / self.segments.groups();
        let db = with_floats(grad, |dy| Ok(self.grad_bias(dy, output)))?;
        Ok((dx, dw, Some(Tensor::from_vec(db, b.dims(), b.device())?)))
    }
}
