//! Norms of rows and sums over rows on the GPU.

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{CudaStorage, Layout, Result, Tensor};

use super::gpu::{Address, Floats, Gpu, Text, Threads, floats, launch, with_floats};
use crate::gemm::Precision;
use crate::norm::Then;
use crate::segments::Segments;

/// Kernels that do not depend on the precision are in this one.
pub const ROWS: Text = Text::Rows(Precision::F32);

/// Parts that long sums are cut into, and the fewest rows of one.
const PARTS: usize = 256;
const LEAST: usize = 64;

/// Where rows of heads lie: head h of row l begins at `l * stride + offset + h * width`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub heads: i32,
    pub stride: i32,
    pub offset: i32,
}

// SAFETY: three numbers, laid out as in the kernels.
unsafe impl DeviceRepr for View {}

impl View {
    /// Rows of one head one after the other.
    pub fn whole(width: usize) -> Self {
        Self::heads(1, width)
    }

    /// Rows of heads one after the other.
    pub fn heads(heads: usize, width: usize) -> Self {
        Self {
            heads: heads as i32,
            stride: (heads * width) as i32,
            offset: 0,
        }
    }
}

/// Lists of groups that are kept: those of the layers of a network are few.
const KEPT: usize = 16;

/// The group of each row, -1 for none, sent once for all operations on the same rows; none where all are of the first.
pub fn groups(gpu: &Gpu, segments: &Segments, rows: usize) -> Result<Option<Arc<CudaSlice<i32>>>> {
    if let [(range, 0)] = segments.parts()
        && *range == (0..rows)
    {
        return Ok(None);
    }
    type Known = (DeviceId, usize, Segments, Arc<CudaSlice<i32>>);
    static KNOWN: OnceLock<Mutex<Vec<Known>>> = OnceLock::new();
    let id = gpu.device().id();
    let mut known = (KNOWN.get_or_init(Default::default).lock())
        // Another thread's panic leaves the list whole.
        .unwrap_or_else(|e| e.into_inner());
    let same = |k: &Known| k.0 == id && k.1 == rows && k.2.parts() == segments.parts();
    if let Some(at) = known.iter().position(same) {
        let found = known.remove(at);
        let groups = found.3.clone();
        known.push(found);
        return Ok(Some(groups));
    }
    let mut groups = vec![-1i32; rows];
    for (range, group) in segments.parts() {
        groups[range.clone()].fill(*group as i32);
    }
    let groups = Arc::new(gpu.upload(&groups)?);
    if known.len() == KEPT {
        known.remove(0);
    }
    known.push((id, rows, segments.clone(), groups.clone()));
    Ok(Some(groups))
}

/// Where [`groups`] are.
pub fn place(gpu: &Gpu, groups: &Option<Arc<CudaSlice<i32>>>) -> Address {
    groups.as_ref().map_or(0, |groups| gpu.address(groups))
}

/// What is summed over rows by `sum_parts`.
pub enum Sum {
    /// `a`.
    Plain,
    /// `a * b * scale`, with one scale a row.
    Scaled { b: (Address, View), scale: Address },
    /// `a * (b - shift) * scale`.
    Centred {
        b: (Address, View),
        scale: Address,
        shift: Address,
    },
}

/// The sums of each group over its rows (and heads), `[G, width]`.
pub fn sum_parts(
    gpu: &Gpu,
    a: (Address, View),
    sum: Sum,
    width: usize,
    segments: &Segments,
) -> Result<Floats> {
    let rows: usize = segments.parts().iter().map(|(r, _)| r.len()).sum();
    let step = rows.div_ceil(PARTS).max(LEAST);
    let (mut parts, mut owners) = (Vec::new(), Vec::new());
    for (range, group) in segments.parts() {
        for start in range.clone().step_by(step) {
            parts.extend([start as i32, (start + step).min(range.end) as i32]);
            owners.push(*group as i32);
        }
    }
    let count = owners.len();
    let (parts, owners) = (gpu.upload(&parts)?, gpu.upload(&owners)?);
    let sums = gpu.alloc::<f32>(count * width)?;
    let (kind, b, scale, shift) = match sum {
        Sum::Plain => (0i32, a, 0, 0),
        Sum::Scaled { b, scale } => (1, b, scale, 0),
        Sum::Centred { b, scale, shift } => (2, b, scale, shift),
    };
    let at = gpu.address(&sums);
    let threads = Threads::blocks((width.div_ceil(32), count, 1), (32, 8), 0);
    let parts = gpu.address(&parts);
    launch!(
        gpu,
        ROWS,
        "column_parts",
        threads,
        a.0,
        a.1,
        b.0,
        b.1,
        scale,
        shift,
        kind,
        parts,
        width as i32,
        at
    );
    total(
        gpu,
        (at, Some(gpu.address(&owners))),
        count,
        width,
        segments.groups(),
    )
}

/// Sums the parts of each group, whose owners tell which it is of; none where there is one group.
pub fn total(
    gpu: &Gpu,
    (sums, owners): (Address, Option<Address>),
    parts: usize,
    width: usize,
    groups: usize,
) -> Result<Floats> {
    let out = gpu.alloc(groups * width)?;
    let at = gpu.address(&out);
    let threads = Threads::blocks((width.div_ceil(32), groups, 1), (32, 8), 0);
    launch!(
        gpu,
        ROWS,
        "column_totals",
        threads,
        sums,
        owners.unwrap_or(0),
        parts as i32,
        width as i32,
        at
    );
    Ok(out)
}

/// The sums of each group's rows of `width` numbers.
pub fn sum_columns(
    gpu: &Gpu,
    x: Address,
    _rows: usize,
    width: usize,
    segments: &Segments,
) -> Result<Floats> {
    sum_parts(gpu, (x, View::whole(width)), Sum::Plain, width, segments)
}

/// A norm with rotation: what `rms_norm` and `qk_norm_rope` share.
pub struct Norm<'a> {
    pub segments: &'a Segments,
    pub eps: f32,
    /// Heads a row, and numbers a head.
    pub heads: usize,
    pub width: usize,
    /// Sines and cosines, `[L, R]`.
    pub angles: Option<[&'a Tensor; 2]>,
}

impl Norm<'_> {
    /// Calls `f` with where the angles are, and how many numbers of a head turn.
    pub fn with_angles<T>(&self, f: impl FnOnce([Address; 2], usize) -> Result<T>) -> Result<T> {
        match self.angles {
            Some(angles) => with_floats(angles, |_, at| f(at, angles[0].dim(1)?)),
            None => f([0, 0], 0),
        }
    }
}

/// Forward, with what follows the norm, if anything; the result is f32 or bf16.
pub fn norm_turn(
    (x, lx): (&CudaStorage, &Layout),
    (w, lw): (&CudaStorage, &Layout),
    norm: &Norm,
    (then, stored): (Option<Then>, Precision),
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let count = lx.shape().elem_count();
    let rows = count / norm.width.max(1);
    let (x, w) = (floats(x, lx)?, floats(w, lw)?);
    let groups = groups(&gpu, norm.segments, rows / norm.heads.max(1))?;
    let (y, at) = gpu.result(count, stored)?;
    let groups = place(&gpu, &groups);
    // The kernel's numbers for what follows.
    let then = match then {
        None => 0i32,
        Some(Then::Silu) => 1,
        Some(Then::Relu) => 2,
    };
    let view = View::heads(norm.heads, norm.width);
    norm.with_angles(|[sin, cos], turning| {
        launch!(
            gpu,
            Text::Rows(stored),
            "norm_turn",
            Threads::warps(rows),
            x,
            view,
            w,
            groups,
            sin,
            cos,
            turning as i32,
            norm.eps,
            norm.width as i32,
            rows as u64,
            then,
            at
        );
        Ok(())
    })?;
    Ok(y)
}

/// The gradients of x and of the weights.
pub fn norm_turn_backward([x, w, grad]: [&Tensor; 3], norm: &Norm) -> Result<[Tensor; 2]> {
    with_floats([x, w, grad], |gpu, [x_at, w_at, g]| {
        let rows = x.elem_count() / norm.width.max(1);
        let view = View::heads(norm.heads, norm.width);
        let dx = gpu.alloc(x.elem_count())?;
        let to = gpu.address(&dx);
        let dw = norm_turn_gradient(gpu, norm, (x_at, view), (g, w_at), (to, rows))?;
        let dw = padded(gpu, dw, w, norm)?;
        Ok([gpu.tensor(dx, x.dims()), dw])
    })
}

/// Writes the gradient of the heads of `view` within x, of which there are `rows` in all, to their places within `to`;
/// gives that of the weights. The gradient of the result, `grad`, has those heads alone.
pub fn norm_turn_gradient(
    gpu: &Gpu,
    norm: &Norm,
    (x, view): (Address, View),
    (grad, w): (Address, Address),
    (to, rows): (Address, usize),
) -> Result<Floats> {
    let heads = view.heads as usize;
    let groups = groups(gpu, norm.segments, rows / heads.max(1))?;
    let turned = gpu.alloc::<f32>(rows * norm.width)?;
    let inverse = gpu.alloc::<f32>(rows)?;
    let [turned_at, inverse_at] = [&turned, &inverse].map(|slice| gpu.address(slice));
    let groups = place(gpu, &groups);
    norm.with_angles(|[sin, cos], turning| {
        launch!(
            gpu,
            ROWS,
            "norm_turn_backward",
            Threads::warps(rows),
            x,
            view,
            grad,
            w,
            groups,
            sin,
            cos,
            turning as i32,
            norm.eps,
            norm.width as i32,
            rows as u64,
            to,
            view,
            turned_at,
            inverse_at
        );
        Ok(())
    })?;
    let own = View::heads(heads, norm.width);
    let sum = Sum::Scaled {
        b: (x, view),
        scale: inverse_at,
    };
    sum_parts(gpu, (turned_at, own), sum, norm.width, norm.segments)
}

/// The weights' gradient in the weights' shape.
fn padded(gpu: &Gpu, dw: Floats, w: &Tensor, norm: &Norm) -> Result<Tensor> {
    let found = gpu.tensor(dw, norm.segments.groups() * norm.width);
    found.reshape(w.dims())
}

/// Forward.
pub fn layer_norm(
    (x, lx): (&CudaStorage, &Layout),
    (w, lw): (&CudaStorage, &Layout),
    (b, lb): (&CudaStorage, &Layout),
    eps: f32,
) -> Result<CudaStorage> {
    let gpu = Gpu::of(x);
    let (count, width) = (lx.shape().elem_count(), lw.shape().elem_count());
    let rows = count / width.max(1);
    let (x, w, b) = (floats(x, lx)?, floats(w, lw)?, floats(b, lb)?);
    let y = gpu.alloc(count)?;
    let at = gpu.address(&y);
    let threads = Threads::warps(rows);
    launch!(
        gpu,
        ROWS,
        "layer_norm_forward",
        threads,
        x,
        w,
        b,
        at,
        eps,
        width as i32,
        rows as u64
    );
    Ok(gpu.storage(y))
}

/// The gradients of x, weight and bias.
pub fn layer_norm_backward([x, w, grad]: [&Tensor; 3], eps: f32) -> Result<[Tensor; 3]> {
    with_floats([x, w, grad], |gpu, [x_at, w_at, g]| {
        let width = w.elem_count();
        let rows = x.elem_count() / width.max(1);
        let dx = gpu.alloc(x.elem_count())?;
        let (means, inverse) = (gpu.alloc::<f32>(rows)?, gpu.alloc::<f32>(rows)?);
        let [to, shift, scale] = [&dx, &means, &inverse].map(|slice| gpu.address(slice));
        launch!(
            gpu,
            ROWS,
            "layer_norm_backward",
            Threads::warps(rows),
            x_at,
            w_at,
            g,
            to,
            shift,
            scale,
            eps,
            width as i32,
            rows as u64
        );
        let (view, segments) = (View::whole(width), Segments::single(rows));
        let sum = Sum::Centred {
            b: (x_at, view),
            scale,
            shift,
        };
        let dw = sum_parts(gpu, (g, view), sum, width, &segments)?;
        let db = sum_parts(gpu, (g, view), Sum::Plain, width, &segments)?;
        Ok([
            gpu.tensor(dx, x.dims()),
            gpu.tensor(dw, width),
            gpu.tensor(db, width),
        ])
    })
}
