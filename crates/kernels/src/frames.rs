//! Overlapping windows of a signal, and their sum: the two halves of short-time transforms.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::storage::{floats, with_floats};

/// Cuts out windows of `size` positions, one every `hop`; what is left at the end is in none.
///
/// # Shapes
/// x `[B, S, C]` -> `[B, n, size, C]`, n = (S - size) / hop + 1, or 0 if S < size.
///
/// # Errors
/// If `size` or `hop` is 0, or x is not f32 on the CPU.
pub fn frames(x: &Tensor, size: usize, hop: usize) -> Result<Tensor> {
    let (_, length, _) = x.dims3()?;
    if size == 0 || hop == 0 {
        bail!("frames: size {size}, hop {hop}");
    }
    x.contiguous()?
        .apply_op1(Frames(Windows { length, size, hop }))
}

/// The adjoint of `frames`: sums windows that start `hop` apart into a signal of `length` positions,
/// which must hold all windows; positions in no window are 0.
///
/// # Shapes
/// x `[B, n, size, C]` -> `[B, length, C]`.
///
/// # Errors
/// If `hop` is 0, the number of windows is not that of `frames` at this length, or x is not f32 on the CPU.
pub fn overlap_add(x: &Tensor, hop: usize, length: usize) -> Result<Tensor> {
    let (_, count, size, _) = x.dims4()?;
    if hop == 0 || size == 0 {
        bail!("overlap_add: size {size}, hop {hop}");
    }
    let windows = Windows { length, size, hop };
    if windows.count() != count {
        bail!("overlap_add: {count} windows {hop} apart do not make {length}");
    }
    x.contiguous()?.apply_op1(OverlapAdd(windows))
}

#[derive(Clone, Copy)]
struct Windows {
    length: usize,
    size: usize,
    hop: usize,
}

impl Windows {
    fn count(&self) -> usize {
        (self.length.checked_sub(self.size)).map_or(0, |rest| rest / self.hop + 1)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, channels: usize) -> crate::cuda::Cut {
        crate::cuda::Cut {
            frames: self.count(),
            size: self.size,
            hop: self.hop,
            length: self.length,
            channels,
        }
    }

    /// `[B, S, C]` to `[B, n, size, C]`.
    fn cut(&self, x: &[f32], batch: usize, channels: usize) -> Vec<f32> {
        let (count, width) = (self.count(), self.size * channels);
        let mut y = vec![0.0; batch * count * width];
        y.par_chunks_mut(width.max(1))
            .with_min_len(8)
            .enumerate()
            .for_each(|(i, y)| {
                let at = i / count * self.length + i % count * self.hop;
                y.copy_from_slice(&x[at * channels..][..width]);
            });
        y
    }

    /// `[B, n, size, C]` to `[B, S, C]`.
    fn join(&self, x: &[f32], batch: usize, channels: usize) -> Vec<f32> {
        /// Positions that one task sums.
        const TASK: usize = 1024;
        let count = self.count();
        let mut y = vec![0.0; batch * self.length * channels];
        let one = (self.length * channels).max(1);
        y.par_chunks_mut(one).enumerate().for_each(|(b, y)| {
            let x = &x[b * count * self.size * channels..][..count * self.size * channels];
            y.par_chunks_mut(TASK * channels)
                .enumerate()
                .for_each(|(i, y)| self.join_part(x, i * TASK, y, channels));
        });
        y
    }

    /// Positions from `start` on, of one signal.
    fn join_part(&self, x: &[f32], start: usize, y: &mut [f32], channels: usize) {
        let end = start + y.len() / channels;
        let first = (start + 1).saturating_sub(self.size).div_ceil(self.hop);
        for i in first..self.count().min(end.div_ceil(self.hop)) {
            let at = i * self.hop;
            let (from, to) = (at.max(start), (at + self.size).min(end));
            let x = &x[(i * self.size + from - at) * channels..][..(to - from) * channels];
            let y = &mut y[(from - start) * channels..][..(to - from) * channels];
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
    }
}

struct Frames(Windows);

impl CustomOp1 for Frames {
    fn name(&self) -> &'static str {
        "frames"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, _, channels) = lx.shape().dims3()?;
        let y = self.0.cut(floats(x, lx)?, batch, channels);
        let shape = (batch, self.0.count(), self.0.size, channels);
        Ok((CpuStorage::F32(y), shape.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (batch, _, channels) = lx.shape().dims3()?;
        let y = crate::cuda::overlap(x, lx, self.0.cuda(channels), true)?;
        Ok((y, (batch, self.0.count(), self.0.size, channels).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (batch, _, channels) = x.dims3()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let windows = self.0.cuda(channels);
            return Ok(Some(crate::cuda::overlap_backward(
                x, grad, windows, false,
            )?));
        }
        let dx = with_floats(grad, |g| Ok(self.0.join(g, batch, channels)))?;
        Ok(Some(Tensor::from_vec(dx, x.dims(), x.device())?))
    }
}

struct OverlapAdd(Windows);

impl CustomOp1 for OverlapAdd {
    fn name(&self) -> &'static str {
        "overlap-add"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, _, _, channels) = lx.shape().dims4()?;
        let y = self.0.join(floats(x, lx)?, batch, channels);
        Ok((CpuStorage::F32(y), (batch, self.0.length, channels).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let (batch, _, _, channels) = lx.shape().dims4()?;
        let y = crate::cuda::overlap(x, lx, self.0.cuda(channels), false)?;
        Ok((y, (batch, self.0.length, channels).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (batch, _, _, channels) = x.dims4()?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let windows = self.0.cuda(channels);
            return Ok(Some(crate::cuda::overlap_backward(x, grad, windows, true)?));
        }
        let dx = with_floats(grad, |g| Ok(self.0.cut(g, batch, channels)))?;
        Ok(Some(Tensor::from_vec(dx, x.dims(), x.device())?))
    }
}
