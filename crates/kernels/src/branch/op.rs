//! A branch as an operation of candle's.
//!
//! candle's operations have up to three inputs, a branch has more: a chain of numbers stands for its weights in the graph.
//! The operation keeps the weights themselves, takes the last number as an input whose gradient means nothing, and hands
//! the weights' gradients over beside the graph, which comes to the numbers afterwards.

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::{BranchMatrix, with_numbers};
use crate::gemm::source::Data;
use crate::storage::{floats, with_floats};

/// What a branch computes of the stream `[L, D]` and its weights.
pub trait Branch: Send + Sync {
    /// Its name.
    const NAME: &'static str;
    /// What the forward pass makes and the backward pass starts from.
    type Made: Send + Sync;

    /// The sum of the stream and the branch.
    fn forward(&self, x: &[f32], weights: &[Data]) -> Result<(Vec<f32>, Self::Made)>;

    /// The gradient of the stream, given that of the sum, and those of the weights in their order.
    fn backward(
        &self,
        x: &[f32],
        weights: &[Data],
        made: &Self::Made,
        grad: &[f32],
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)>;
}

/// `branch` of x and its weights, which may be trained if all are tensors.
pub fn apply<B: Branch + 'static>(
    x: &Tensor,
    weights: &[BranchMatrix],
    branch: B,
) -> Result<Tensor> {
    let tensors = weights.iter().map(|weight| match weight {
        BranchMatrix::Tensor(tensor) => Some(tensor),
        BranchMatrix::Frozen(_) => None,
    });
    let Some(tensors) = tensors.collect::<Option<Vec<&Tensor>>>() else {
        if x.track_op() {
            bail!("{} over frozen weights gives no gradient", B::NAME);
        }
        let (y, _) = with_floats(x, |x| with_numbers(weights, |w| branch.forward(x, w)))?;
        return Tensor::from_vec(y, x.dims(), x.device());
    };
    let gradients = Gradients::default();
    let start = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let handle = (tensors.iter().enumerate()).try_fold(start, |handle, (place, weight)| {
        let gradients = gradients.clone();
        handle.apply_op2(weight, Weight { gradients, place })
    })?;
    let op = Op {
        branch,
        trains: x.track_op() || handle.track_op(),
        weights: tensors.iter().map(|w| w.detach()).collect(),
        gradients,
        made: OnceLock::new(),
    };
    x.contiguous()?.apply_op2(&handle, op)
}

/// Gradients of weights on their way from the operation that finds them.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

/// A number that stands for a weight and all before it.
struct Weight {
    gradients: Gradients,
    place: usize,
}

/// The gradient of such a number: one of no meaning.
fn nothing() -> Result<Option<Tensor>> {
    Tensor::zeros((), DType::F32, &Device::Cpu).map(Some)
}

impl CustomOp2 for Weight {
    fn name(&self) -> &'static str {
        "weight-of-a-branch"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let found = (self.gradients.lock().ok())
            .and_then(|mut found| found.get_mut(self.place).and_then(Option::take));
        match found {
            Some(gradient) => Ok((nothing()?, Some(gradient))),
            None => bail!("the branch of a weight gave no gradient"),
        }
    }
}

struct Op<B: Branch> {
    branch: B,
    weights: Vec<Tensor>,
    gradients: Gradients,
    trains: bool,
    /// What the forward pass made, if gradients will be wanted.
    made: OnceLock<B::Made>,
}

impl<B: Branch> Op<B> {
    fn with_weights<T>(&self, f: impl FnOnce(&[Data]) -> Result<T>) -> Result<T> {
        let weights: Vec<_> = (self.weights.iter().cloned())
            .map(BranchMatrix::Tensor)
            .collect();
        with_numbers(&weights, f)
    }
}

impl<B: Branch> CustomOp2 for Op<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        l: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, l)?;
        let (y, made) = self.with_weights(|weights| self.branch.forward(x, weights))?;
        if self.trains {
            // A second call of the same operation has the same inputs.
            let _ = self.made.set(made);
        }
        Ok((CpuStorage::F32(y), l.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(made) = self.made.get() else {
            bail!(
                "{}: the backward pass needs the forward pass first",
                B::NAME
            );
        };
        let (dx, found) = with_floats(grad, |grad| {
            with_floats(x, |x| {
                self.with_weights(|weights| self.branch.backward(x, weights, made, grad))
            })
        })?;
        let found = found.into_iter().zip(&self.weights).map(|(d, w)| {
            let tensor = Tensor::from_vec(d, w.dims(), w.device())?;
            Ok(Some(tensor.to_dtype(w.dtype())?))
        });
        let found = found.collect::<Result<_>>()?;
        let Ok(mut place) = self.gradients.lock() else {
            bail!(
                "{}: gradients were being given when a thread failed",
                B::NAME
            );
        };
        *place = found;
        let dx = Tensor::from_vec(dx, x.dims(), x.device())?;
        Ok((Some(dx), nothing()?))
    }
}
