//! Linear maps whose weights depend on the row.

use std::ops::Range;

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail,
};
use half::bf16;
use rayon::prelude::*;

use crate::frozen::Frozen;
use crate::gemm::eight::Eight;
use crate::gemm::product::{Output, Product, Stored, run};
use crate::gemm::source::{Data, Operand, Rows, Source};
use crate::gemm::{Kernel, Packed, Precision, Side};
use crate::memory::{filled, zeros};
use crate::rows::parts;
use crate::segments::Segments;
use crate::storage::{data, floats, with_data};

/// `y[l] = W_g x[l] + b_g`, where g is the group of row l. Rows in no segment give zeros.
///
/// # Shapes
/// x `[L, in]`; w `[G * out, in]`, the groups stacked along the rows, f32 or bf16; bias `[G * out]` -> `[L, out]`.
/// x is f32 or bf16, as is its gradient; the bias and y are f32 ([`linear_to_bf16`]: bf16).
///
/// # Errors
/// If the shapes do not agree, or G is less than `segments.groups()`.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    apply(x, w, bias, (segments, precision), DType::F32)
}

/// [`linear`] with sums of f32 that are rounded to bf16, to nearest even, when they are whole, and a gradient in bf16: half
/// the bytes that are moved.
///
/// # Errors
/// As [`linear`].
pub fn linear_to_bf16(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    segments: &Segments,
    precision: Precision,
) -> Result<Tensor> {
    apply(x, w, bias, (segments, precision), DType::BF16)
}

/// The gradients of x, w and the bias, if there is one, out of that of the result of [`linear`] or [`linear_to_bf16`]: in bf16
/// where x or w are. For those who keep no tape (candle's adds each gradient to zeros, which takes as long again).
///
/// # Errors
/// As [`linear`]; in [`Precision::Fp8`] there are none.
pub fn linear_backward(
    [x, w, grad]: [&Tensor; 3],
    bias: Option<&Tensor>,
    segments: &Segments,
    precision: Precision,
) -> Result<[Option<Tensor>; 3]> {
    let stacked = check(x, w, segments)?;
    let output = stacked / segments.groups();
    let fits = bias.is_none_or(|b| b.dims() == [stacked]);
    if !fits || grad.dims() != [x.dim(0)?, output] {
        bail!(
            "linear: a gradient {:?} of {output} outputs, bias {:?}",
            grad.dims(),
            bias.map(Tensor::dims)
        );
    }
    let op = Linear {
        segments: segments.clone(),
        precision,
        result: grad.dtype(),
    };
    op.gradients([x, w, grad], bias, [true; 2])
}

fn apply(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    (segments, precision): (&Segments, Precision),
    result: DType,
) -> Result<Tensor> {
    let stacked = check(x, w, segments)?;
    let op = Linear {
        segments: segments.clone(),
        precision,
        result,
    };
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        None => x.apply_op2(&w, op),
        Some(b) if b.dims() == [stacked] => x.apply_op3(&w, &b.contiguous()?, op),
        Some(b) => bail!("linear: bias {:?} for weights {:?}", b.dims(), w.dims()),
    }
}

/// The rows of w, if the shapes agree.
fn check(x: &Tensor, w: &Tensor, segments: &Segments) -> Result<usize> {
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
    Ok(stacked)
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
        result: DType::F32,
    };
    let e = op.extents(&[rows, input], &[stacked]);
    let y = with_data(x, |x| Ok(op.forward::<f32>(x, w.data, None, e)))?;
    Tensor::from_vec(y, (rows, e.output), x.device())
}

struct Linear {
    segments: Segments,
    precision: Precision,
    /// f32 or bf16.
    result: DType,
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

    /// The result, as it is stored.
    fn run(&self, x: Data, w: Data, bias: Option<&[f32]>, e: Extents) -> CpuStorage {
        match self.result {
            DType::BF16 => Stored::storage(self.forward::<bf16>(x, w, bias, e)),
            _ => Stored::storage(self.forward::<f32>(x, w, bias, e)),
        }
    }

    fn forward<T: Stored>(&self, x: Data, w: Data, bias: Option<&[f32]>, e: Extents) -> Vec<T> {
        if self.precision == Precision::Fp8 {
            return self.forward_eight(x, w, bias, e);
        }
        let bias = |group: usize| bias.map(|b| &b[group * e.output..][..e.output]);
        self.by_rows((x, e.rows, e.input), e.output, bias, |group| {
            Operand::by_rows(group_of(w, group, e))
        })
    }

    /// In 8-bit floats: their products are exact in bf16 as they are, and are scaled afterwards.
    fn forward_eight<T: Stored>(
        &self,
        x: Data,
        w: Data,
        bias: Option<&[f32]>,
        e: Extents,
    ) -> Vec<T> {
        let outputs = self.segments.groups() * e.output;
        let x = Eight::new(x, e.rows, e.input);
        let w = Eight::new(w, outputs, e.input);
        let operand = |group: usize| w.operand(group * e.output..(group + 1) * e.output, e.input);
        let mut y: Vec<f32> = self.by_rows(
            (Data::F32(&x.numbers), e.rows, e.input),
            e.output,
            |_| None,
            operand,
        );
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
        T::rounded(y)
    }

    /// An error if gradients are wanted in a precision that has none.
    fn check_gradients(&self) -> Result<()> {
        match self.precision {
            Precision::Fp8 => bail!("linear maps in 8-bit floats give no gradients; train in bf16"),
            _ => Ok(()),
        }
    }

    /// dX = dY W.
    fn grad_x<T: Stored>(&self, grad: Data, w: Data, e: Extents) -> Vec<T> {
        self.by_rows(
            (grad, e.rows, e.output),
            e.input,
            |_| None,
            |group| Operand::by_columns(group_of(w, group, e)),
        )
    }

    /// Each row of `x`, of `width` numbers, times the matrix of its group.
    fn by_rows<'a, T: Stored>(
        &self,
        (x, rows, width): (Data<'a>, usize, usize),
        output: usize,
        bias: impl Fn(usize) -> Option<&'a [f32]>,
        weights: impl Fn(usize) -> Operand<'a>,
    ) -> Vec<T> {
        let kernel = Kernel::new(self.precision);
        let packed: Vec<Option<Packed>> = (0..self.segments.groups())
            .map(|g| {
                let operand = weights(g);
                let whole = self.shared(g) && !matches!(operand.source.data, Data::Few(_));
                whole.then(|| Packed::whole(kernel, Side::Right, &operand))
            })
            .collect();
        let fill = |y: &mut [T]| {
            let products: Vec<Product> = (self.segments.parts().iter())
                .map(|(rows, group)| Product {
                    a: Operand::by_rows(matrix(x.rows(rows.clone(), width), rows.len(), width)),
                    b: weights(*group),
                    packed: packed[*group].as_ref(),
                    c: T::output(y[rows.start * output..].as_mut_ptr()),
                    ldc: output,
                    bias: bias(*group),
                })
                .collect();
            // SAFETY: segments are disjoint rows of y.
            unsafe { run(kernel, &products) };
        };
        if self.segments.covers(rows) {
            // SAFETY: every row is in a segment.
            return unsafe { filled(rows * output, fill) };
        }
        let mut y = vec![T::ZERO; rows * output];
        fill(&mut y);
        y
    }

    /// Whether several ranges use the weights of a group.
    fn shared(&self, group: usize) -> bool {
        self.segments.of_group(group).count() > 1
    }

    fn grad_bias(&self, grad: Data, output: usize) -> Vec<f32> {
        let of_group = |group| {
            let ranges = self.segments.of_group(group);
            let parts = ranges.flat_map(chunks).collect();
            sum_rows(grad, parts, output)
        };
        (0..self.segments.groups()).flat_map(of_group).collect()
    }

    /// The gradients of x and w, where they are `wanted`, and of the bias.
    fn gradients(
        &self,
        [x, w, grad]: [&Tensor; 3],
        bias: Option<&Tensor>,
        wanted: [bool; 2],
    ) -> Result<[Option<Tensor>; 3]> {
        self.check_gradients()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return crate::cuda::linear_backward(
                [x, w, grad],
                (bias, wanted),
                &self.segments,
                self.precision,
            );
        }
        let e = self.extents(x.dims(), w.dims());
        let mut found = [None, None, None];
        with_data(grad, |dy| {
            if wanted[0] {
                let dx = with_data(w, |w| match x.dtype() {
                    DType::BF16 => tensor_of(self.grad_x::<bf16>(dy, w, e), x),
                    _ => tensor_of(self.grad_x::<f32>(dy, w, e), x),
                });
                found[0] = Some(dx?);
            }
            if wanted[1] {
                let kernel = Kernel::new(self.precision);
                let dw = with_data(x, |x| {
                    let dw = over_rows(kernel, &self.segments, (dy, e.output), (x, e.input));
                    stored(dw, w)
                });
                found[1] = Some(dw?);
            }
            if let Some(bias) = bias {
                found[2] = Some(tensor_of(self.grad_bias(dy, e.output), bias)?);
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Sums as another tensor holds them: its shape, f32 or bf16.
pub(crate) fn stored(sums: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    match like.dtype() {
        DType::BF16 => tensor_of(<bf16 as Stored>::rounded(sums), like),
        _ => tensor_of(sums, like),
    }
}

/// A tensor like another one.
pub(crate) fn tensor_of<T: Stored>(numbers: Vec<T>, like: &Tensor) -> Result<Tensor> {
    let storage = Storage::Cpu(T::storage(numbers));
    Ok(Tensor::from_storage(
        storage,
        like.dims(),
        BackpropOp::none(),
        false,
    ))
}

/// Rows summed by one task of `sum_rows`.
const CHUNK: usize = 256;

/// Rows cut into those of tasks.
pub(crate) fn chunks(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let starts = rows.clone().step_by(CHUNK);
    starts.map(move |first| first..(first + CHUNK).min(rows.end))
}

/// The sum of all rows, of `width` numbers, in `parts`; the order of summation does not depend on the threads.
pub(crate) fn sum_rows(numbers: Data, parts: Vec<Range<usize>>, width: usize) -> Vec<f32> {
    let add = |total: &mut [f32], row: &[f32]| {
        total.iter_mut().zip(row).for_each(|(t, v)| *t += v);
    };
    let sum = |rows: Range<usize>| {
        let (mut total, mut row) = (vec![0.0; width], vec![0.0; width]);
        let source = matrix(numbers.rows(rows.clone(), width), rows.len(), width);
        let mut at = source.at(0);
        for _ in rows {
            source.copy_row(&at, 0..width, &mut row);
            source.step(&mut at);
            add(&mut total, &row);
        }
        total
    };
    let sums: Vec<Vec<f32>> = parts.into_par_iter().map(sum).collect();
    let mut total = vec![0.0; width];
    sums.iter().for_each(|row| add(&mut total, row));
    total
}

/// Adjacent rows.
fn matrix(numbers: Data<'_>, rows: usize, width: usize) -> Source<'_> {
    Source::matrix(numbers, rows, width, width)
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
            c: Output::F32(sums.as_mut_ptr()),
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
    matrix(w.rows(rows, e.input), e.output, e.input)
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
        let y = self.run(data(x, lx)?, data(w, lw)?, None, e);
        Ok((y, (e.rows, e.output).into()))
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
        crate::cuda::stored((y, (e.rows, e.output).into()), self.result)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let wanted = [x, w].map(Tensor::track_op);
        let [dx, dw, _] = self.gradients([x, w, grad], None, wanted)?;
        Ok((dx, dw))
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
        let y = self.run(data(x, lx)?, data(w, lw)?, Some(floats(b, lb)?), e);
        Ok((y, (e.rows, e.output).into()))
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
        crate::cuda::stored((y, (e.rows, e.output).into()), self.result)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = [x, w].map(Tensor::track_op);
        let [dx, dw, db] = self.gradients([x, w, grad], Some(b), wanted)?;
        Ok((dx, dw, db))
    }
}
