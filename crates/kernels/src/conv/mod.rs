//! Convolutions in one, two and three dimensions over channels-last tensors, as products over windows.

mod backward;
mod depthwise;
pub(crate) mod geometry;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use half::bf16;

use crate::gemm::product::{Product, Stored, run};
use crate::gemm::source::{Data, Operand, Source};
use crate::gemm::{Kernel, Precision};
use crate::linear::{chunks, stored, sum_rows, tensor_of};
use crate::memory::filled;
use crate::storage::{data, floats, with_data};
use geometry::Geometry;

/// What lies outside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Zeros.
    Zero,
    /// The nearest position inside.
    Replicate,
}

/// A convolution, but for its weights. The lists have one entry a spatial dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Input positions from one output to the next.
    pub stride: Vec<usize>,
    /// Input positions from one tap to the next.
    pub dilation: Vec<usize>,
    /// Positions added before and after. Causal in time: `(k - 1, 0)` for k taps.
    pub padding: Vec<(usize, usize)>,
    /// What is in the positions added.
    pub mode: Padding,
    /// Groups of channels: outputs of a group see only its inputs.
    pub groups: usize,
}

impl ConvSpec {
    /// Stride and dilation 1, no padding, one group, in `dims` dimensions.
    pub fn new(dims: usize) -> Self {
        Self {
            stride: vec![1; dims],
            dilation: vec![1; dims],
            padding: vec![(0, 0); dims],
            mode: Padding::Zero,
            groups: 1,
        }
    }

    /// Stride 1 and padding that keeps the size, for odd kernel sizes `taps`.
    pub fn same(taps: &[usize]) -> Self {
        let padding = taps.iter().map(|k| (k / 2, (k - 1) / 2)).collect();
        Self {
            padding,
            ..Self::new(taps.len())
        }
    }

    /// As [`ConvSpec::same`], but the first dimension is time, of which an output sees no more than has been.
    pub fn causal(taps: &[usize]) -> Self {
        let mut spec = Self::same(taps);
        spec.padding[0] = (taps[0] - 1, 0);
        spec
    }

    /// The sizes of the output for input `sizes` and kernel sizes `taps`.
    ///
    /// # Errors
    /// If the lists differ in length, a number that must be positive is 0, or the kernel is larger than the
    /// padded input.
    pub fn output_sizes(&self, sizes: &[usize], taps: &[usize]) -> Result<Vec<usize>> {
        let n = sizes.len();
        let lists = [
            taps.len(),
            self.stride.len(),
            self.dilation.len(),
            self.padding.len(),
        ];
        let positive = sizes
            .iter()
            .chain(taps)
            .chain(&self.stride)
            .chain(&self.dilation)
            .all(|v| *v > 0);
        if lists != [n; 4] || !positive || self.groups == 0 {
            bail!("conv: {self:?} for an input of {sizes:?} and a kernel of {taps:?}");
        }
        (0..n)
            .map(|d| {
                let padded = sizes[d] + self.padding[d].0 + self.padding[d].1;
                match padded.checked_sub(self.dilation[d] * (taps[d] - 1) + 1) {
                    Some(room) => Ok(room / self.stride[d] + 1),
                    None => bail!(
                        "conv: a kernel of {taps:?} does not fit into {sizes:?} with {self:?}"
                    ),
                }
            })
            .collect()
    }
}

/// Convolution (without flipping the kernel), channels last.
///
/// # Shapes
/// x `[B, spatial.., Cin]` with 1 to 3 spatial dimensions; w `[Cout, taps.., Cin / groups]`, f32 or bf16;
/// bias `[Cout]` -> `[B, output_sizes.., Cout]`. x is f32 or bf16, as is its gradient; the bias and the result are f32
/// ([`conv_to_bf16`]: bf16).
///
/// # Errors
/// If the shapes do not agree with each other and the spec.
pub fn conv(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    precision: Precision,
) -> Result<Tensor> {
    apply(x, w, bias, (spec, precision), DType::F32)
}

/// [`conv`] with sums of f32 that are rounded to bf16, to nearest even, when they are whole, and a gradient in bf16: half the
/// bytes that are moved.
///
/// # Errors
/// As [`conv`].
pub fn conv_to_bf16(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    precision: Precision,
) -> Result<Tensor> {
    apply(x, w, bias, (spec, precision), DType::BF16)
}

/// The gradients of x, w and the bias, if there is one, out of that of the result of [`conv`] or [`conv_to_bf16`]: in bf16
/// where x or w are. For those who keep no tape (candle's adds each gradient to zeros).
///
/// # Errors
/// As [`conv`].
pub fn conv_backward(
    [x, w, grad]: [&Tensor; 3],
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    precision: Precision,
) -> Result<[Option<Tensor>; 3]> {
    let op = Conv {
        geometry: Geometry::new(x.dims(), w.dims(), spec)?,
        precision: precision.wider(),
        result: grad.dtype(),
    };
    let (shape, output) = (op.geometry.output_shape(), op.geometry.output);
    if grad.shape() != &shape || bias.is_some_and(|b| b.dims() != [output]) {
        bail!(
            "conv: a gradient {:?} of {shape:?}, bias {:?}",
            grad.dims(),
            bias.map(Tensor::dims)
        );
    }
    op.gradients([x, w, grad], bias, [true; 2])
}

fn apply(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    (spec, precision): (&ConvSpec, Precision),
    result: DType,
) -> Result<Tensor> {
    let geometry = Geometry::new(x.dims(), w.dims(), spec)?;
    let output = geometry.output;
    let op = Conv {
        geometry,
        precision: precision.wider(),
        result,
    };
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        None => x.apply_op2(&w, op),
        Some(b) if b.dims() == [output] => x.apply_op3(&w, &b.contiguous()?, op),
        Some(b) => bail!("conv: bias {:?} for {output} channels", b.dims()),
    }
}

struct Conv {
    geometry: Geometry,
    precision: Precision,
    /// f32 or bf16.
    result: DType,
}

impl Conv {
    /// The result, as it is stored.
    fn run(&self, x: Data, w: Data, bias: Option<&[f32]>) -> CpuStorage {
        match self.result {
            DType::BF16 => Stored::storage(self.forward::<bf16>(x, w, bias)),
            _ => Stored::storage(self.forward::<f32>(x, w, bias)),
        }
    }

    fn forward<T: Stored>(&self, x: Data, w: Data, bias: Option<&[f32]>) -> Vec<T> {
        let g = &self.geometry;
        if g.depthwise() {
            return T::rounded(depthwise::forward(g, &x.to_f32(), w, bias));
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(shift) = g.shift()
            && let kernel = Kernel::new(self.precision)
            && shift.suits(kernel)
        {
            let fill = |y: &mut [T]| shift.run(kernel, x, &w.to_f32(), bias, y);
            // SAFETY: every position of the output is computed.
            return unsafe { filled(g.output_rows() * g.output, fill) };
        }
        let (windows, width) = (g.windows(), g.output_width());
        let fill = |y: &mut [T]| {
            let products: Vec<Product> = (0..g.groups)
                .map(|group| Product {
                    a: Operand::by_rows(g.window_source(x, &windows, group)),
                    b: Operand::by_rows(self.weights(w, group)),
                    packed: None,
                    c: T::output(y[group * width..].as_mut_ptr()),
                    ldc: g.output,
                    bias: bias.map(|b| &b[group * width..][..width]),
                })
                .collect();
            // SAFETY: each group writes its own columns of y.
            unsafe { run(Kernel::new(self.precision), &products) };
        };
        // SAFETY: the groups' columns are all there are.
        unsafe { filled(g.output_rows() * g.output, fill) }
    }

    /// The weights of a group, one row an output.
    fn weights<'a>(&self, w: Data<'a>, group: usize) -> Source<'a> {
        let g = &self.geometry;
        let row = g.taps() * g.input_width();
        let rows = group * g.output_width()..(group + 1) * g.output_width();
        Source::matrix(w.rows(rows, row), g.output_width(), row, row)
    }

    /// The gradients of x and w, where they are `wanted`, and of the bias.
    fn gradients(
        &self,
        [x, w, grad]: [&Tensor; 3],
        bias: Option<&Tensor>,
        wanted: [bool; 2],
    ) -> Result<[Option<Tensor>; 3]> {
        let g = &self.geometry;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let given = [x, w, grad];
            return crate::cuda::conv_backward(given, (bias, wanted), g, self.precision);
        }
        let mut found = [None, None, None];
        with_data(grad, |dy| {
            if wanted[0] {
                let dx = with_data(w, |w| match x.dtype() {
                    DType::BF16 => tensor_of(self.grad_x::<bf16>(dy, w), x),
                    _ => tensor_of(self.grad_x::<f32>(dy, w), x),
                });
                found[0] = Some(dx?);
            }
            if wanted[1] {
                found[1] = Some(with_data(x, |x| stored(self.grad_w(x, dy), w))?);
            }
            if let Some(bias) = bias {
                let rows = chunks(0..g.output_rows()).collect();
                found[2] = Some(tensor_of(sum_rows(dy, rows, g.output), bias)?);
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.run(data(x, lx)?, data(w, lw)?, None);
        Ok((y, self.geometry.output_shape()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        w: &candle_core::CudaStorage,
        lw: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let y = crate::cuda::conv((x, lx), (w, lw), None, &self.geometry, self.precision)?;
        crate::cuda::stored((y, self.geometry.output_shape()), self.result)
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

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv-bias"
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
        let y = self.run(data(x, lx)?, data(w, lw)?, Some(floats(b, lb)?));
        Ok((y, self.geometry.output_shape()))
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
        let bias = Some((b, lb));
        let y = crate::cuda::conv((x, lx), (w, lw), bias, &self.geometry, self.precision)?;
        crate::cuda::stored((y, self.geometry.output_shape()), self.result)
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
