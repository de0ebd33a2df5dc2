//! Larger pictures out of smaller ones.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::storage::{floats, with_floats};

/// Repeats each position `factors[i]` times along dimension `i + 1`, channels last.
///
/// # Shapes
/// x `[B, d1, .., dn, C]`, n factors -> `[B, d1 * f1, .., dn * fn, C]`.
///
/// # Errors
/// If the number of factors is not that of the inner dimensions, one is 0, or x is not f32 on the CPU.
pub fn upsample_nearest(x: &Tensor, factors: &[usize]) -> Result<Tensor> {
    if x.rank() != factors.len() + 2 || factors.is_empty() || factors.contains(&0) {
        bail!("upsample_nearest: x {:?}, factors {factors:?}", x.dims());
    }
    let op = Upsample {
        factors: factors.to_vec(),
    };
    x.contiguous()?.apply_op1(op)
}

struct Upsample {
    factors: Vec<usize>,
}

impl Upsample {
    /// The sizes after repeating.
    fn dims(&self, input: &Layout) -> Vec<usize> {
        let mut dims = input.dims().to_vec();
        let inner = dims[1..].iter_mut().zip(&self.factors);
        inner.for_each(|(d, f)| *d *= f);
        dims
    }
}

/// Lines along the last inner dimension.
struct Lines {
    /// All sizes but those of the line and the channels, before repeating.
    outer: Vec<usize>,
    /// How often each is repeated.
    factors: Vec<usize>,
    /// Positions of a line, before repeating.
    line: usize,
    /// How often a position is repeated.
    repeat: usize,
    channels: usize,
}

impl Lines {
    fn new(dims: &[usize], factors: &[usize]) -> Self {
        let n = dims.len();
        let mut all = vec![1];
        all.extend_from_slice(&factors[..factors.len() - 1]);
        Self {
            outer: dims[..n - 2].to_vec(),
            factors: all,
            line: dims[n - 2],
            repeat: factors[factors.len() - 1],
            channels: dims[n - 1],
        }
    }

    /// Numbers of a line before and after.
    fn widths(&self) -> (usize, usize) {
        let small = self.line * self.channels;
        (small, small * self.repeat)
    }

    /// The small line that large line `index` repeats.
    fn source(&self, mut index: usize) -> usize {
        let (mut at, mut stride) = (0, 1);
        for (size, factor) in self.outer.iter().zip(&self.factors).rev() {
            at += index % (size * factor) / factor * stride;
            index /= size * factor;
            stride *= size;
        }
        at
    }

    /// The large lines that repeat small line `index`.
    fn copies(&self, mut index: usize) -> Vec<usize> {
        let (mut found, mut stride) = (vec![0], 1);
        for (size, factor) in self.outer.iter().zip(&self.factors).rev() {
            let first = index % size * factor;
            found = (found.iter())
                .flat_map(|at| (first..first + factor).map(move |i| at + i * stride))
                .collect();
            index /= size;
            stride *= size * factor;
        }
        found
    }
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample-nearest"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, lx)?;
        let lines = Lines::new(lx.dims(), &self.factors);
        let (small, large) = lines.widths();
        let dims = self.dims(lx);
        let mut y = vec![0.0; dims.iter().product()];
        y.par_chunks_mut(large.max(1))
            .with_min_len(8)
            .enumerate()
            .for_each(|(i, y)| {
                let x = &x[lines.source(i) * small..][..small];
                let pixels = x.chunks_exact(lines.channels);
                for (x, y) in pixels.zip(y.chunks_exact_mut(lines.channels * lines.repeat)) {
                    y.chunks_exact_mut(lines.channels)
                        .for_each(|y| y.copy_from_slice(x));
                }
            });
        Ok((CpuStorage::F32(y), dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        lx: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let y = crate::cuda::upsample(x, lx, &self.factors)?;
        Ok((y, self.dims(lx).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            let dx = crate::cuda::upsample_backward(x, grad, &self.factors)?;
            return Ok(Some(dx));
        }
        let lines = Lines::new(x.dims(), &self.factors);
        let (small, large) = lines.widths();
        let mut dx = vec![0.0; x.elem_count()];
        with_floats(grad, |g| {
            dx.par_chunks_mut(small.max(1))
                .with_min_len(8)
                .enumerate()
                .for_each(|(i, dx)| {
                    for copy in lines.copies(i) {
                        add_line(&g[copy * large..][..large], dx, &lines);
                    }
                });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(dx, x.dims(), x.device())?))
    }
}

fn add_line(g: &[f32], dx: &mut [f32], lines: &Lines) {
    let pixels = g.chunks_exact(lines.channels * lines.repeat);
    for (g, dx) in pixels.zip(dx.chunks_exact_mut(lines.channels)) {
        for g in g.chunks_exact(lines.channels) {
            dx.iter_mut().zip(g).for_each(|(d, g)| *d += g);
        }
    }
}
