//! Functions of one number, gates, upsampling and windows of signals on the GPU.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{CudaStorage, Layout, Result, Tensor};

use super::gpu::{Address, Gpu, Text, Threads, floats, launch, with_floats};
use super::rows::{Sum, View, sum_parts};
use crate::gemm::Precision;
use crate::segments::Segments;

/// The kernels whose results are f32.
pub const POINTWISE: Text = Text::Pointwise(Precision::F32);

/// A function of one number: `name` is the kernels' name without its ending.
pub fn unary(name: &str, x: &CudaStorage, lx: &Layout, stored: Precision) -> Result<CudaStorage> {
    let name = format!("{}_forward", name.replace('-', "_"));
    each(&name, (x, lx), 1, stored)
}

/// Its gradient.
pub fn unary_backward(name: &str, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    each_backward(&format!("{}_backward", name.replace('-', "_")), x, grad)
}

/// `swiglu7`.
pub fn swiglu(x: &CudaStorage, lx: &Layout, stored: Precision) -> Result<CudaStorage> {
    each("swiglu7_forward", (x, lx), 2, stored)
}

/// Its gradient.
pub fn swiglu_backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    each_backward("swiglu7_backward", x, grad)
}

/// One number of the result for `inputs` of x.
fn each(
    name: &str,
    (x, lx): (&CudaStorage, &Layout),
    inputs: usize,
    stored: Precision,
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let count = lx.shape().elem_count() / inputs;
    let x = floats(x, lx)?;
    let (y, at) = gpu.result(count, stored)?;
    launch!(
        gpu,
        Text::Pointwise(stored),
        name,
        Threads::each(count),
        x,
        at,
        count as u64
    );
    Ok(y)
}

fn each_backward(name: &str, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    with_floats([x, grad], |gpu, [x_at, g]| {
        let dx = gpu.alloc(x.elem_count())?;
        let (to, count) = (gpu.address(&dx), grad.elem_count());
        launch!(
            gpu,
            POINTWISE,
            name,
            Threads::each(count),
            x_at,
            g,
            to,
            count as u64
        );
        Ok(gpu.tensor(dx, x.dims()))
    })
}

/// `head_gate` of x `[L, N, K]`.
pub fn gate(
    (x, lx): (&CudaStorage, &Layout),
    (gates, lg): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let (_, heads, width) = lx.shape().dims3()?;
    let count = lx.shape().elem_count();
    let y = gpu.alloc(count)?;
    let gates = (floats(gates, lg)?, heads, 0);
    gate_heads(
        &gpu,
        floats(x, lx)?,
        gates,
        (gpu.address(&y), Precision::F32),
        (count, width, heads),
    )?;
    Ok(gpu.storage(y))
}

/// Multiplies heads by the sigmoids of their gates: `gates` are where they begin, the numbers from one row to the next
/// and those before the first; sizes are all numbers, those of a head, and heads a row. What is written is f32 or bf16.
pub fn gate_heads(
    gpu: &Gpu,
    x: Address,
    (gates, stride, offset): (Address, usize, usize),
    (y, stored): (Address, Precision),
    (count, width, heads): (usize, usize, usize),
) -> Result<()> {
    let (width, heads, stride, offset) = (width as i32, heads as i32, stride as i32, offset as i32);
    let threads = Threads::each(count);
    launch!(
        gpu,
        Text::Pointwise(stored),
        "gate_heads",
        threads,
        x,
        gates,
        y,
        count as u64,
        width,
        heads,
        stride,
        offset
    );
    Ok(())
}

/// The gradients of x and of the gates.
pub fn gate_backward(x: &Tensor, gates: &Tensor, grad: &Tensor) -> Result<[Tensor; 2]> {
    with_floats([x, gates, grad], |gpu, [x_at, gates_at, g]| {
        let (rows, heads, width) = x.dims3()?;
        let dx = gpu.alloc(x.elem_count())?;
        let to = gpu.address(&dx);
        gate_heads(
            gpu,
            g,
            (gates_at, heads, 0),
            (to, Precision::F32),
            (x.elem_count(), width, heads),
        )?;
        let dgates = gpu.alloc(rows * heads)?;
        let (to, count) = (gpu.address(&dgates), rows * heads);
        let threads = Threads::warps(count);
        launch!(
            gpu,
            POINTWISE,
            "gate_gradient",
            threads,
            x_at,
            gates_at,
            g,
            to,
            count as u64,
            width as i32
        );
        Ok([gpu.tensor(dx, x.dims()), gpu.tensor(dgates, gates.dims())])
    })
}

/// `snake`.
pub fn snake(
    (x, lx): (&CudaStorage, &Layout),
    (alpha, la): (&CudaStorage, &Layout),
    (beta, lb): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let (count, width) = (lx.shape().elem_count(), la.shape().elem_count());
    let (x, alpha, beta) = (floats(x, lx)?, floats(alpha, la)?, floats(beta, lb)?);
    let y = gpu.alloc(count)?;
    let at = gpu.address(&y);
    let threads = Threads::each(count);
    launch!(
        gpu,
        POINTWISE,
        "snake_forward",
        threads,
        x,
        alpha,
        beta,
        at,
        count as u64,
        width as i32
    );
    Ok(gpu.storage(y))
}

/// The gradients of x, alpha and beta.
pub fn snake_backward([x, alpha, beta, grad]: [&Tensor; 4]) -> Result<[Tensor; 3]> {
    with_floats([x, alpha, beta, grad], |gpu, [x_at, a, b, g]| {
        let (count, width) = (x.elem_count(), alpha.elem_count());
        let dx = gpu.alloc(count)?;
        let (da, db) = (gpu.alloc::<f32>(count)?, gpu.alloc::<f32>(count)?);
        let [to, da, db] = [&dx, &da, &db].map(|slice| gpu.address(slice));
        let threads = Threads::each(count);
        launch!(
            gpu,
            POINTWISE,
            "snake_backward",
            threads,
            x_at,
            a,
            b,
            g,
            to,
            da,
            db,
            count as u64,
            width as i32
        );
        let segments = Segments::single(count / width.max(1));
        let sum = |at| sum_parts(gpu, (at, View::whole(width)), Sum::Plain, width, &segments);
        Ok([
            gpu.tensor(dx, x.dims()),
            gpu.tensor(sum(da)?, width),
            gpu.tensor(sum(db)?, width),
        ])
    })
}

/// Sizes of an upsampling, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Grid {
    size: [i32; 3],
    factor: [i32; 3],
    channels: i32,
}

// SAFETY: seven numbers, laid out as in the kernels.
unsafe impl DeviceRepr for Grid {}

impl Grid {
    fn new(dims: &[usize], factors: &[usize]) -> Self {
        let mut grid = Self {
            size: [1; 3],
            factor: [1; 3],
            channels: dims[dims.len() - 1] as i32,
        };
        let inner = &dims[1..dims.len() - 1];
        for (i, (size, factor)) in inner.iter().zip(factors).enumerate() {
            grid.size[3 - factors.len() + i] = *size as i32;
            grid.factor[3 - factors.len() + i] = *factor as i32;
        }
        grid
    }
}

/// `upsample_nearest`, of up to three inner dimensions.
pub fn upsample(x: &CudaStorage, lx: &Layout, factors: &[usize]) -> Result<CudaStorage> {
    check_dimensions(factors)?;
    let gpu = Gpu::of(x);
    let count = lx.shape().elem_count() * factors.iter().product::<usize>();
    let x = floats(x, lx)?;
    let y = gpu.alloc(count)?;
    let at = gpu.address(&y);
    let grid = Grid::new(lx.dims(), factors);
    launch!(
        gpu,
        POINTWISE,
        "upsample_forward",
        Threads::each(count),
        x,
        at,
        count as u64,
        grid
    );
    Ok(gpu.storage(y))
}

fn check_dimensions(factors: &[usize]) -> Result<()> {
    if factors.len() > 3 {
        candle_core::bail!("upsample_nearest: {factors:?} has more than three dimensions");
    }
    Ok(())
}

/// Its gradient.
pub fn upsample_backward(x: &Tensor, grad: &Tensor, factors: &[usize]) -> Result<Tensor> {
    with_floats([grad], |gpu, [g]| {
        let count = x.elem_count();
        let dx = gpu.alloc(count)?;
        let to = gpu.address(&dx);
        let grid = Grid::new(x.dims(), factors);
        launch!(
            gpu,
            POINTWISE,
            "upsample_backward",
            Threads::each(count),
            g,
            to,
            count as u64,
            grid
        );
        Ok(gpu.tensor(dx, x.dims()))
    })
}

/// Windows of signals: how many, their size, positions between them, and the signal's length.
#[derive(Clone, Copy)]
pub struct Cut {
    pub frames: usize,
    pub size: usize,
    pub hop: usize,
    pub length: usize,
    pub channels: usize,
}

impl Cut {
    /// Numbers of all windows or signals of a batch.
    fn count(&self, batch: usize, cut: bool) -> usize {
        let positions = match cut {
            true => self.frames * self.size,
            false => self.length,
        };
        batch * positions * self.channels
    }

    fn run(&self, gpu: &Gpu, x: Address, y: Address, count: usize, cut: bool) -> Result<()> {
        let name = if cut { "cut_frames" } else { "join_frames" };
        let [frames, size, hop, length, channels] =
            [self.frames, self.size, self.hop, self.length, self.channels].map(|v| v as i32);
        let threads = Threads::each(count);
        launch!(
            gpu,
            POINTWISE,
            name,
            threads,
            x,
            y,
            count as u64,
            frames,
            size,
            hop,
            length,
            channels
        );
        Ok(())
    }
}

/// Cuts signals into windows, or sums windows to signals.
pub fn overlap(x: &CudaStorage, lx: &Layout, windows: Cut, cut: bool) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let count = windows.count(lx.dims()[0], cut);
    let y = gpu.alloc(count)?;
    windows.run(&gpu, floats(x, lx)?, gpu.address(&y), count, cut)?;
    Ok(gpu.storage(y))
}

/// The gradient of `x`: the other one of the two, of the gradient.
pub fn overlap_backward(x: &Tensor, grad: &Tensor, windows: Cut, cut: bool) -> Result<Tensor> {
    with_floats([grad], |gpu, [g]| {
        let count = windows.count(x.dim(0)?, cut);
        let dx = gpu.alloc(count)?;
        windows.run(gpu, g, gpu.address(&dx), count, cut)?;
        Ok(gpu.tensor(dx, x.dims()))
    })
}
