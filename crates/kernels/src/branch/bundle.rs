//! More inputs than candle's operations take.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Two or three weights that one operation takes as a single input: a number that stands for them in the graph.
///
/// candle's operations have up to three inputs. The operation keeps the weights themselves, gives the number no
/// gradient that matters, and hands the weights' gradients over here; the graph comes to the number afterwards.
pub struct Bundle {
    /// What stands for the weights. One operation may take it, once.
    pub handle: Tensor,
    /// Where their gradients are handed over.
    pub gradients: Gradients,
}

/// Gradients on their way from the operation that finds them.
#[derive(Clone, Default)]
pub struct Gradients(Arc<Mutex<Option<Vec<Tensor>>>>);

impl Bundle {
    /// Of two weights.
    pub fn two([a, b]: [&Tensor; 2]) -> Result<Self> {
        let gradients = Gradients::default();
        let handle = a.apply_op2(b, Weights(gradients.clone()))?;
        Ok(Self { handle, gradients })
    }

    /// Of three weights.
    pub fn three([a, b, c]: [&Tensor; 3]) -> Result<Self> {
        let gradients = Gradients::default();
        let handle = a.apply_op3(b, c, Weights(gradients.clone()))?;
        Ok(Self { handle, gradients })
    }
}

impl Gradients {
    /// Hands them over; gives the gradient of the bundle's number.
    pub fn give(&self, found: Vec<Tensor>) -> Result<Tensor> {
        let zero = Tensor::zeros((), found[0].dtype(), found[0].device())?;
        let Ok(mut place) = self.0.lock() else {
            bail!("gradients of weights were being given when a thread failed");
        };
        *place = Some(found);
        Ok(zero)
    }

    fn take<const N: usize>(&self) -> Result<[Option<Tensor>; N]> {
        let found = self.0.lock().ok().and_then(|mut place| place.take());
        match found.map(<[Tensor; N]>::try_from) {
            Some(Ok(found)) => Ok(found.map(Some)),
            _ => bail!("the operation that a bundle of weights was for gave no gradients"),
        }
    }
}

struct Weights(Gradients);

/// One number, of no meaning.
fn number() -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![0.0]), ().into())
}

impl CustomOp2 for Weights {
    fn name(&self) -> &'static str {
        "two-weights"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(number())
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.0.take()?;
        Ok((a, b))
    }
}

impl CustomOp3 for Weights {
    fn name(&self) -> &'static str {
        "three-weights"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(number())
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.0.take()?;
        Ok((a, b, c))
    }
}
