//! Functions of one number, and gates.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};
use rayon::prelude::*;

use crate::gemm::Precision;
use crate::rows::{Part, fold_parts, for_rows, parts};
use crate::segments::Segments;
use crate::simd::{Loop, erf, exp, sigmoid, sin_cos_half_turns, sum, tanh, vectorised};
use crate::storage::{floats, with_floats};

/// Where SwiGLU7 and GELU7 clamp.
const LIMIT: f32 = 7.0;
/// The steepness of their sigmoid.
const STEEPNESS: f32 = 1.702;

/// A function of one number with its derivative, without branches so that it becomes vectors.
trait Function: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    fn value(x: f32) -> f32;
    fn slope(x: f32) -> f32;
}

/// Applies F to every number.
struct Unary<F> {
    function: F,
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "a processor stores f32")
    )]
    stored: Precision,
}

impl<F> Unary<F> {
    fn new(function: F) -> Self {
        Self {
            function,
            stored: Precision::F32,
        }
    }
}

struct Values<'a, F>(&'a [f32], &'a mut [f32], F);

impl<F: Function> Loop for Values<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (y, x) in self.1.iter_mut().zip(self.0) {
            *y = F::value(*x);
        }
    }
}

struct Slopes<'a, F>(&'a [f32], &'a [f32], &'a mut [f32], F);

impl<F: Function> Loop for Slopes<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for ((d, x), g) in self.2.iter_mut().zip(self.0).zip(self.1) {
            *d = g * F::slope(*x);
        }
    }
}

impl<F: Function> CustomOp1 for Unary<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, lx)?;
        let mut y = vec![0.0; x.len()];
        for_rows(&mut y, 1, |at, y| {
            vectorised(Values(&x[at..at + y.len()], y, self.function))
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let y = crate::cuda::unary(F::NAME, x, lx, self.stored)?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return Ok(Some(crate::cuda::unary_backward(F::NAME, x, grad)?));
        }
        let mut dx = vec![0.0; x.elem_count()];
        with_floats(grad, |g| {
            with_floats(x, |x| {
                for_rows(&mut dx, 1, |at, dx| {
                    let range = at..at + dx.len();
                    vectorised(Slopes(&x[range.clone()], &g[range], dx, self.function));
                });
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.dims(), x.device())?))
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Function for Silu {
    const NAME: &'static str = "silu";
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * sigmoid(x)
    }
    #[inline(always)]
    fn slope(x: f32) -> f32 {
        let s = sigmoid(x);
        s * (1.0 + x * (1.0 - s))
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Function for Gelu {
    const NAME: &'static str = "gelu";
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }
    #[inline(always)]
    fn slope(x: f32) -> f32 {
        /// 1 / sqrt(2 pi).
        const DENSITY: f32 = 0.398_942_3;
        let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        below + x * DENSITY * exp(-0.5 * x * x)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl GeluTanh {
    /// sqrt(2 / pi).
    const INNER: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
}

impl Function for GeluTanh {
    const NAME: &'static str = "gelu-tanh";
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + tanh(Self::INNER * (x + Self::CUBIC * x * x * x)))
    }
    #[inline(always)]
    fn slope(x: f32) -> f32 {
        let t = tanh(Self::INNER * (x + Self::CUBIC * x * x * x));
        let inner = Self::INNER * (1.0 + 3.0 * Self::CUBIC * x * x);
        0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
    }
}

#[derive(Clone, Copy)]
struct Gelu7;

impl Function for Gelu7 {
    const NAME: &'static str = "gelu7";
    #[inline(always)]
    fn value(x: f32) -> f32 {
        let x = x.min(LIMIT);
        x * sigmoid(STEEPNESS * x)
    }
    #[inline(always)]
    fn slope(x: f32) -> f32 {
        let s = sigmoid(STEEPNESS * x.min(LIMIT));
        let slope = s * (1.0 + STEEPNESS * x * (1.0 - s));
        if x <= LIMIT { slope } else { 0.0 }
    }
}

/// `x * sigmoid(x)`, of any shape.
///
/// # Errors
/// If x is not f32 on the CPU.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Unary::new(Silu))
}

/// `x * (1 + erf(x / sqrt 2)) / 2`, of any shape.
///
/// # Errors
/// If x is not f32 on the CPU.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Unary::new(Gelu))
}

/// GELU by the hyperbolic tangent, of any shape.
///
/// # Errors
/// If x is not f32 on the CPU.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Unary::new(GeluTanh))
}

/// `y * sigmoid(1.702 y)` with y = min(x, 7), of any shape.
///
/// # Errors
/// If x is not f32 on the CPU.
pub fn gelu7(x: &Tensor) -> Result<Tensor> {
    gelu7_for_product(x, Precision::F32)
}

/// [`gelu7`] that nothing but products in `precision` reads: a GPU stores it as they take it, if no gradient is wanted.
///
/// # Errors
/// As [`gelu7`].
pub fn gelu7_for_product(x: &Tensor, precision: Precision) -> Result<Tensor> {
    let op = Unary {
        function: Gelu7,
        stored: precision.stored(x.track_op()),
    };
    x.contiguous()?.apply_op1(op)
}

/// The gated MLP's middle: even columns are the gate, clamped above at 7; odd ones are linear, clamped to -7..7;
/// `gate * sigmoid(1.702 gate) * (linear + 1)`.
///
/// # Shapes
/// x `[.., 2H]` -> `[.., H]`.
///
/// # Errors
/// If the last dimension is odd, or x is not f32 on the CPU.
pub fn swiglu7(x: &Tensor) -> Result<Tensor> {
    swiglu7_for_product(x, Precision::F32)
}

/// [`swiglu7`] that nothing but products in `precision` reads: a GPU stores it as they take it, if no gradient is wanted.
///
/// # Errors
/// As [`swiglu7`].
pub fn swiglu7_for_product(x: &Tensor, precision: Precision) -> Result<Tensor> {
    if x.dim(candle_core::D::Minus1)? % 2 != 0 {
        bail!("swiglu7: {:?} has an odd number of columns", x.dims());
    }
    let stored = precision.stored(x.track_op());
    x.contiguous()?.apply_op1(Swiglu7 { stored })
}

struct Swiglu7 {
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "a processor stores f32")
    )]
    stored: Precision,
}

/// What is between the two products of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// [`gelu_tanh`].
    GeluTanh,
    /// [`gelu7`].
    Gelu7,
    /// [`swiglu7`]: twice as many columns before as after.
    Swiglu7,
}

impl Activation {
    /// Columns before, where there is one after.
    pub fn fan_in(self) -> usize {
        match self {
            Self::GeluTanh | Self::Gelu7 => 1,
            Self::Swiglu7 => 2,
        }
    }

    /// Values of `x` into `y`.
    pub(crate) fn values(self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::GeluTanh => vectorised(Values(x, y, GeluTanh)),
            Self::Gelu7 => vectorised(Values(x, y, Gelu7)),
            Self::Swiglu7 => vectorised(SwigluForward(x.as_chunks().0, y)),
        }
    }

    /// The gradient of `x` into `dx`, given that of the values.
    pub(crate) fn gradients(self, x: &[f32], grad: &[f32], dx: &mut [f32]) {
        match self {
            Self::GeluTanh => vectorised(Slopes(x, grad, dx, GeluTanh)),
            Self::Gelu7 => vectorised(Slopes(x, grad, dx, Gelu7)),
            Self::Swiglu7 => {
                vectorised(SwigluBackward(x.as_chunks().0, grad, dx.as_chunks_mut().0))
            }
        }
    }
}

struct SwigluForward<'a>(&'a [[f32; 2]], &'a mut [f32]);

impl Loop for SwigluForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (y, [gate, linear]) in self.1.iter_mut().zip(self.0) {
            *y = Gelu7::value(*gate) * (linear.clamp(-LIMIT, LIMIT) + 1.0);
        }
    }
}

struct SwigluBackward<'a>(&'a [[f32; 2]], &'a [f32], &'a mut [[f32; 2]]);

impl Loop for SwigluBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for ((d, [gate, linear]), g) in self.2.iter_mut().zip(self.0).zip(self.1) {
            let inside = if linear.abs() <= LIMIT { 1.0 } else { 0.0 };
            *d = [
                g * Gelu7::slope(*gate) * (linear.clamp(-LIMIT, LIMIT) + 1.0),
                g * Gelu7::value(*gate) * inside,
            ];
        }
    }
}

impl Swiglu7 {
    /// Half as wide as the input.
    fn shape(input: &Layout) -> Shape {
        let mut dims = input.dims().to_vec();
        dims.iter_mut().last().into_iter().for_each(|d| *d /= 2);
        dims.into()
    }
}

impl CustomOp1 for Swiglu7 {
    fn name(&self) -> &'static str {
        "swiglu7"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (pairs, _) = floats(x, lx)?.as_chunks::<2>();
        let mut y = vec![0.0; pairs.len()];
        for_rows(&mut y, 1, |at, y| {
            vectorised(SwigluForward(&pairs[at..at + y.len()], y))
        });
        Ok((CpuStorage::F32(y), Self::shape(lx)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((crate::cuda::swiglu(x, lx, self.stored)?, Self::shape(lx)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return Ok(Some(crate::cuda::swiglu_backward(x, grad)?));
        }
        let mut dx = vec![0.0; x.elem_count()];
        with_floats(grad, |g| {
            with_floats(x, |x| {
                let (pairs, _) = x.as_chunks::<2>();
                for_rows(&mut dx, 2, |at, dx| {
                    let (dx, _) = dx.as_chunks_mut::<2>();
                    let range = at..at + dx.len();
                    vectorised(SwigluBackward(&pairs[range.clone()], &g[range], dx));
                });
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.dims(), x.device())?))
    }
}

/// `x * sigmoid(gate)`, one gate a head.
///
/// # Shapes
/// x `[L, N, K]`; gate `[L, N]` -> `[L, N, K]`.
///
/// # Errors
/// If the shapes do not agree, or a tensor is not f32 on the CPU.
pub fn head_gate(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let (rows, heads, _) = x.dims3()?;
    if gate.dims() != [rows, heads] {
        bail!("head_gate: x {:?}, gate {:?}", x.dims(), gate.dims());
    }
    x.contiguous()?.apply_op2(&gate.contiguous()?, HeadGate)
}

struct HeadGate;

struct GateForward<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    head: usize,
    y: &'a mut [f32],
}

impl Loop for GateForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let heads = self.x.chunks_exact(self.head).zip(self.gate);
        for ((x, gate), y) in heads.zip(self.y.chunks_exact_mut(self.head)) {
            let s = sigmoid(*gate);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * s);
        }
    }
}

/// Writes the gradients of x and of the gate one after the other, K + 1 numbers a head.
struct GateBackward<'a> {
    x: &'a [f32],
    gate: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
    dgate: &'a mut [f32],
}

impl Loop for GateBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let head = self.x.len() / self.gate.len();
        let inputs = self.x.chunks_exact(head).zip(self.g.chunks_exact(head));
        let outputs = self.dx.chunks_exact_mut(head).zip(self.dgate);
        for (((x, g), gate), (dx, dgate)) in inputs.zip(self.gate).zip(outputs) {
            let s = sigmoid(*gate);
            dx.iter_mut().zip(g).for_each(|(d, g)| *d = g * s);
            *dgate = s * (1.0 - s) * sum(x, g, |x, g| x * g);
        }
    }
}

impl CustomOp2 for HeadGate {
    fn name(&self) -> &'static str {
        "head-gate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gate: &CpuStorage,
        lgate: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gate, head) = (floats(x, lx)?, floats(gate, lgate)?, lx.dims()[2]);
        let mut y = vec![0.0; x.len()];
        for_rows(&mut y, head, |at, y| {
            let heads = at..at + y.len() / head;
            vectorised(GateForward {
                x: &x[heads.start * head..heads.end * head],
                gate: &gate[heads],
                head,
                y,
            });
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
        w: &candle_core::CudaStorage,
        lw: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Ok((crate::cuda::gate((x, lx), (w, lw))?, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, dgate] = crate::cuda::gate_backward(x, gate, grad)?;
            return Ok((Some(dx), Some(dgate)));
        }
        /// Heads that one task handles.
        const TASK: usize = 256;
        let head = x.dim(2)?;
        let mut dx = vec![0.0; x.elem_count()];
        let mut dgate = vec![0.0; gate.elem_count()];
        with_floats(grad, |g| {
            with_floats(x, |x| {
                with_floats(gate, |gate| {
                    let inputs = x
                        .par_chunks(TASK * head.max(1))
                        .zip(g.par_chunks(TASK * head.max(1)))
                        .zip(gate.par_chunks(TASK));
                    let outputs = dx
                        .par_chunks_mut(TASK * head.max(1))
                        .zip(dgate.par_chunks_mut(TASK));
                    inputs
                        .zip(outputs)
                        .for_each(|(((x, g), gate), (dx, dgate))| {
                            vectorised(GateBackward {
                                x,
                                gate,
                                g,
                                dx,
                                dgate,
                            });
                        });
                    Ok(())
                })
            })
        })?;
        Ok((
            Some(Tensor::from_vec(dx, x.dims(), x.device())?),
            Some(Tensor::from_vec(dgate, gate.dims(), gate.device())?),
        ))
    }
}

/// Kept out of a division by zero.
const SNAKE_EPS: f32 = 1e-9;

/// `x + sin^2(alpha x) / (beta + 1e-9)` with one alpha and beta a channel, taken as they are: where a checkpoint
/// holds their logarithms (Stable Audio's SnakeBeta), the caller takes `exp` of them first.
///
/// # Shapes
/// x `[.., C]`; alpha, beta `[C]` -> `[.., C]`.
///
/// # Errors
/// If the shapes do not agree, or a tensor is not f32 on the CPU.
pub fn snake(x: &Tensor, alpha: &Tensor, beta: &Tensor) -> Result<Tensor> {
    let channels = x.dim(candle_core::D::Minus1)?;
    if alpha.dims() != [channels] || beta.dims() != [channels] {
        bail!(
            "snake: x {:?}, alpha {:?}, beta {:?}",
            x.dims(),
            alpha.dims(),
            beta.dims()
        );
    }
    x.contiguous()?
        .apply_op3(&alpha.contiguous()?, &beta.contiguous()?, Snake)
}

struct Snake;

struct SnakeForward<'a> {
    x: &'a [f32],
    alpha: &'a [f32],
    beta: &'a [f32],
    y: &'a mut [f32],
}

impl Loop for SnakeForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let width = self.alpha.len();
        let rows = self.x.chunks_exact(width);
        for (x, y) in rows.zip(self.y.chunks_exact_mut(width)) {
            for ((y, x), (a, b)) in y.iter_mut().zip(x).zip(self.alpha.iter().zip(self.beta)) {
                let (s, _) = sin_cos_half_turns(a * x);
                *y = x + s * s / (b + SNAKE_EPS);
            }
        }
    }
}

struct SnakeBackward<'a> {
    inputs: (&'a [f32], &'a [f32]),
    alpha: &'a [f32],
    beta: &'a [f32],
    part: Part<'a>,
    /// The sums of the gradients of alpha and beta.
    both: &'a mut [f32],
}

impl Loop for SnakeBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let width = self.alpha.len();
        let (x, g) = self.inputs;
        let (da, db) = self.both.split_at_mut(width);
        let rows = x.chunks_exact(width).zip(g.chunks_exact(width));
        for ((x, g), dx) in rows.zip(self.part.out.chunks_exact_mut(width)) {
            let parameters = self.alpha.iter().zip(self.beta);
            let sums = da.iter_mut().zip(db.iter_mut());
            for ((((d, x), g), (a, b)), (da, db)) in
                dx.iter_mut().zip(x).zip(g).zip(parameters).zip(sums)
            {
                let (s, c) = sin_cos_half_turns(a * x);
                let r = 1.0 / (b + SNAKE_EPS);
                let slope = 2.0 * s * c * r;
                *d = g * (1.0 + a * slope);
                *da += g * x * slope;
                *db -= g * s * s * r * r;
            }
        }
    }
}

impl CustomOp3 for Snake {
    fn name(&self) -> &'static str {
        "snake"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        alpha: &CpuStorage,
        la: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, alpha, beta) = (floats(x, lx)?, floats(alpha, la)?, floats(beta, lb)?);
        let width = alpha.len();
        let mut y = vec![0.0; x.len()];
        for_rows(&mut y, width, |at, y| {
            let x = &x[at * width..][..y.len()];
            vectorised(SnakeForward { x, alpha, beta, y });
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
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
        let y = crate::cuda::snake((x, lx), (w, lw), (b, lb))?;
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        alpha: &Tensor,
        beta: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let [dx, da, db] = crate::cuda::snake_backward([x, alpha, beta, grad])?;
            return Ok((Some(dx), Some(da), Some(db)));
        }
        let width = alpha.dim(0)?;
        let mut dx = vec![0.0; x.elem_count()];
        let rows = Segments::single(x.elem_count() / width.max(1));
        let all = parts(&rows, width, &mut dx);
        let (a, b) = (alpha.to_vec1::<f32>()?, beta.to_vec1::<f32>()?);
        let both = with_floats(grad, |g| {
            with_floats(x, |x| {
                Ok(fold_parts(all, (1, 2 * width), |part, both| {
                    let range = part.rows.start * width..part.rows.end * width;
                    vectorised(SnakeBackward {
                        inputs: (&x[range.clone()], &g[range]),
                        alpha: &a,
                        beta: &b,
                        part,
                        both,
                    });
                }))
            })
        })?;
        let dx = Tensor::from_vec(dx, x.dims(), x.device())?;
        let da = Tensor::from_slice(&both[..width], width, alpha.device())?;
        let db = Tensor::from_slice(&both[width..], width, beta.device())?;
        Ok((Some(dx), Some(da), Some(db)))
    }
}
