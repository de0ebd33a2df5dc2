//! AdamW and Muon on f32 master weights, with a moving average.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use gallop_kernels::{AdamStep, Precision, Segments};
use gallop_model::Vars;
use rayon::prelude::*;

use crate::recipe::OptimiserRecipe;

/// Elements a task of the thread pool.
const CHUNK: usize = 1 << 15;
/// AdamW's guard against division by zero.
const EPS: f32 = 1e-8;
/// Momentum of Muon.
const MUON_MOMENTUM: f64 = 0.95;
/// Newton-Schulz steps and coefficients of Muon (Jordan et al. 2024).
const MUON_STEPS: usize = 5;
const MUON_COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Smaller matrices than this are left to AdamW.
const MUON_LEAST: usize = 32;

/// One weight and everything that is kept for it.
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) var: Var,
    /// The master weight.
    pub(crate) value: Vec<f32>,
    /// First moment, or Muon's momentum.
    pub(crate) first: Vec<f32>,
    /// Second moment; empty for Muon.
    pub(crate) second: Vec<f32>,
    /// Moving average of the weight.
    pub(crate) ema: Vec<f32>,
    /// Where a weight on a GPU has its moments and average; the lists are then as old as the last
    /// [`Optimiser::gather`].
    gpu: Option<OnGpu>,
}

/// What is kept for a weight beside it; the master weight is the variable itself. Muon keeps no second moment.
struct OnGpu {
    first: Tensor,
    second: Option<Tensor>,
    ema: Tensor,
}

/// Updates the weights of one network.
pub struct Optimiser {
    recipe: OptimiserRecipe,
    pub(crate) slots: Vec<Slot>,
}

impl Optimiser {
    /// Weights whose name starts with one of `frozen` stay as they are.
    ///
    /// # Errors
    /// If a weight is not f32.
    pub fn new(recipe: &OptimiserRecipe, vars: &Vars, frozen: &[&str]) -> Result<Self> {
        let slots = vars
            .all()
            .into_iter()
            .filter(|(name, _)| !frozen.iter().any(|f| name.starts_with(f)))
            .map(|(name, var)| {
                let value = var.flatten_all()?.to_vec1::<f32>()?;
                let muon = recipe.muon_learning_rate > 0.0 && is_inner_matrix(&name, &var);
                Ok(Slot {
                    name,
                    var,
                    first: vec![0.0; value.len()],
                    second: vec![0.0; if muon { 0 } else { value.len() }],
                    ema: value.clone(),
                    value,
                    gpu: None,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            recipe: recipe.clone(),
            slots,
        })
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.slots.iter().map(|slot| slot.value.len()).sum()
    }

    /// One update; `rate` multiplies the learning rates. Returns the gradient's norm before clipping.
    ///
    /// # Errors
    /// If a gradient cannot be read.
    pub fn step(&mut self, grads: &GradStore, step: u64, rate: f64) -> Result<f64> {
        if self.slots.iter().any(|slot| slot.var.device().is_cuda()) {
            return self.step_on_gpu(grads, step, rate);
        }
        let grads = self
            .slots
            .iter()
            .map(|slot| match grads.get(slot.var.as_tensor()) {
                Some(grad) => grad.flatten_all()?.to_vec1::<f32>().map(Some),
                None => Ok(None),
            })
            .collect::<Result<Vec<_>>>()?;
        let norm = grads
            .iter()
            .flatten()
            .map(|g| sum_of_squares(g))
            .sum::<f64>()
            .sqrt();
        let scale = if self.recipe.clip > 0.0 && norm > self.recipe.clip {
            self.recipe.clip / norm
        } else {
            1.0
        };
        let ema = self.recipe.ema.min((step + 1) as f64 / (step + 10) as f64) as f32;
        for (slot, grad) in self.slots.iter_mut().zip(grads) {
            let Some(grad) = grad else { continue };
            if slot.second.is_empty() {
                slot.muon(&grad, &self.recipe, rate)?;
            } else {
                let adam = Adam::new(&self.recipe, slot.var.rank(), step, rate);
                slot.adam(&grad, scale as f32, adam);
            }
            average(&mut slot.ema, &slot.value, ema);
            slot.publish(&slot.value)?;
        }
        Ok(norm)
    }

    /// The same where the weights are.
    fn step_on_gpu(&mut self, grads: &GradStore, step: u64, rate: f64) -> Result<f64> {
        let of = |slot: &Slot| grads.get(slot.var.as_tensor());
        let squares = (self.slots.iter().filter_map(of))
            .map(|grad| gallop_kernels::sum_in_parts(&grad.sqr()?)?.reshape(1))
            .collect::<Result<Vec<_>>>()?;
        if squares.is_empty() {
            return Ok(0.0);
        }
        let norm = f64::from(Tensor::cat(&squares, 0)?.sum_all()?.to_scalar::<f32>()?).sqrt();
        let scale = if self.recipe.clip > 0.0 && norm > self.recipe.clip {
            self.recipe.clip / norm
        } else {
            1.0
        };
        let ema = self.recipe.ema.min((step + 1) as f64 / (step + 10) as f64) as f32;
        for slot in &mut self.slots {
            let Some(grad) = grads.get(slot.var.as_tensor()) else {
                continue;
            };
            if slot.second.is_empty() {
                slot.muon_on_gpu(grad, &self.recipe, rate, ema)?;
            } else {
                let adam = Adam::new(&self.recipe, slot.var.rank(), step, rate);
                slot.adam_on_gpu(grad, adam.step(scale as f32, ema))?;
            }
        }
        Ok(norm)
    }

    /// Brings what a GPU keeps into the lists, for a checkpoint.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub(crate) fn gather(&mut self) -> Result<()> {
        let list = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        for slot in &mut self.slots {
            if let Some(gpu) = &slot.gpu {
                slot.first = list(&gpu.first)?;
                if let Some(second) = &gpu.second {
                    slot.second = list(second)?;
                }
                slot.ema = list(&gpu.ema)?;
                slot.value = list(slot.var.as_tensor())?;
            }
        }
        Ok(())
    }

    /// Runs `f` with the averaged weights in place.
    ///
    /// # Errors
    /// What `f` fails with.
    pub fn with_ema<T, E: From<candle_core::Error>>(
        &self,
        f: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut kept = Vec::new();
        for slot in &self.slots {
            match &slot.gpu {
                Some(gpu) => {
                    kept.push(slot.var.as_tensor().copy()?);
                    slot.var.set(&gpu.ema)?;
                }
                None => slot.publish(&slot.ema)?,
            }
        }
        let result = f();
        let mut kept = kept.into_iter();
        for slot in &self.slots {
            match &slot.gpu {
                Some(_) => {
                    if let Some(value) = kept.next() {
                        slot.var.set(&value)?;
                    }
                }
                None => slot.publish(&slot.value)?,
            }
        }
        result
    }
}

impl Slot {
    /// Makes the network see these values.
    pub(crate) fn publish(&self, values: &[f32]) -> Result<()> {
        let device = self.var.device();
        self.var
            .set(&Tensor::from_slice(values, self.var.shape(), device)?)
    }

    /// Forgets what a GPU kept: the lists are newer.
    pub(crate) fn reload(&mut self) -> Result<()> {
        self.gpu = None;
        self.publish(&self.value)
    }

    /// What a GPU keeps for it, taken there the first time.
    fn on_gpu(&mut self) -> Result<&mut OnGpu> {
        let (shape, device) = (self.var.shape(), self.var.device());
        let tensor = |values: &[f32]| Tensor::from_slice(values, shape, device);
        Ok(match &mut self.gpu {
            Some(gpu) => gpu,
            none => none.insert(OnGpu {
                first: tensor(&self.first)?,
                second: match self.second.is_empty() {
                    true => None,
                    false => Some(tensor(&self.second)?),
                },
                ema: tensor(&self.ema)?,
            }),
        })
    }

    fn adam_on_gpu(&mut self, grad: &Tensor, step: AdamStep) -> Result<()> {
        let var = self.var.clone();
        let gpu = self.on_gpu()?;
        let second = gpu
            .second
            .as_ref()
            .expect("AdamW's weights have a second moment");
        let state = [var.as_tensor(), &gpu.first, second, &gpu.ema];
        gallop_kernels::adam_on_gpu(state, grad, step)
    }

    /// [`Self::muon`] where the weight is, and its moving average.
    fn muon_on_gpu(
        &mut self,
        grad: &Tensor,
        recipe: &OptimiserRecipe,
        rate: f64,
        ema: f32,
    ) -> Result<()> {
        let var = self.var.clone();
        let gpu = self.on_gpu()?;
        let towards = |from: &Tensor, to: &Tensor, share: f64| from + ((to - from)? * share)?;
        gpu.first = towards(&gpu.first, grad, 1.0 - MUON_MOMENTUM)?;
        let ahead = towards(grad, &gpu.first, MUON_MOMENTUM)?;
        let rows = var.dims()[0];
        let columns = var.elem_count() / rows;
        let update = orthogonalise(&ahead.reshape((rows, columns))?)?.reshape(var.shape())?;
        let (step, keep) = muon_step([rows, columns], recipe, rate);
        let value = ((var.as_tensor() * keep)? - (update * step)?)?;
        gpu.ema = towards(&gpu.ema, &value, f64::from(1.0 - ema))?;
        var.set(&value)
    }

    fn adam(&mut self, grad: &[f32], scale: f32, adam: Adam) {
        self.value
            .par_chunks_mut(CHUNK)
            .zip(self.first.par_chunks_mut(CHUNK))
            .zip(self.second.par_chunks_mut(CHUNK))
            .zip(grad.par_chunks(CHUNK))
            .for_each(|(((value, first), second), grad)| {
                for (((w, m), v), g) in value.iter_mut().zip(first).zip(second).zip(grad) {
                    let g = g * scale;
                    *m += (g - *m) * (1.0 - adam.beta1);
                    *v += (g * g - *v) * (1.0 - adam.beta2);
                    let update = *m * adam.correct1 / ((*v * adam.correct2).sqrt() + EPS);
                    *w -= adam.rate * (update + adam.decay * *w);
                }
            });
    }

    /// Momentum, orthogonalised (Nesterov form).
    fn muon(&mut self, grad: &[f32], recipe: &OptimiserRecipe, rate: f64) -> Result<()> {
        for (m, g) in self.first.iter_mut().zip(grad) {
            *m += (g - *m) * (1.0 - MUON_MOMENTUM as f32);
        }
        let ahead: Vec<f32> = (self.first.iter().zip(grad))
            .map(|(m, g)| g + (m - g) * MUON_MOMENTUM as f32)
            .collect();
        let rows = self.var.dims()[0];
        let columns = ahead.len() / rows;
        let update = Tensor::from_vec(ahead, (rows, columns), self.var.device())?;
        let update = orthogonalise(&update)?.flatten_all()?.to_vec1::<f32>()?;
        let (step, keep) = muon_step([rows, columns], recipe, rate);
        for (w, u) in self.value.iter_mut().zip(update) {
            *w = *w * keep as f32 - step as f32 * u;
        }
        Ok(())
    }
}

/// How far Muon goes along an update, and what it keeps of the weight.
fn muon_step([rows, columns]: [usize; 2], recipe: &OptimiserRecipe, rate: f64) -> (f64, f64) {
    let rate = recipe.muon_learning_rate * rate;
    // Tall matrices need longer steps for the same change of their outputs.
    let step = rate * (rows as f64 / columns as f64).max(1.0).sqrt();
    (step, 1.0 - rate * recipe.weight_decay)
}

#[derive(Clone, Copy)]
struct Adam {
    beta1: f32,
    beta2: f32,
    correct1: f32,
    correct2: f32,
    rate: f32,
    decay: f32,
}

impl Adam {
    fn new(recipe: &OptimiserRecipe, rank: usize, step: u64, rate: f64) -> Self {
        let [beta1, beta2] = recipe.betas;
        let correct = |beta: f64| 1.0 / (1.0 - beta.powf((step + 1) as f64));
        Self {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            correct1: correct(beta1) as f32,
            correct2: correct(beta2) as f32,
            rate: (recipe.learning_rate * rate) as f32,
            decay: if rank > 1 {
                recipe.weight_decay as f32
            } else {
                0.0
            },
        }
    }
}

impl Adam {
    fn step(self, scale: f32, keep: f32) -> AdamStep {
        AdamStep {
            scale,
            betas: [self.beta1, self.beta2],
            corrections: [self.correct1, self.correct2],
            rate: self.rate,
            decay: self.decay,
            keep,
        }
    }
}

fn average(ema: &mut [f32], value: &[f32], keep: f32) {
    ema.par_chunks_mut(CHUNK)
        .zip(value.par_chunks(CHUNK))
        .for_each(|(ema, value)| {
            for (e, v) in ema.iter_mut().zip(value) {
                *e += (v - *e) * (1.0 - keep);
            }
        });
}

/// The same whatever the number of threads: partial sums of fixed chunks, added in order.
fn sum_of_squares(values: &[f32]) -> f64 {
    let sums: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|&v| f64::from(v) * f64::from(v)).sum())
        .collect();
    sums.iter().sum()
}

/// Matrices between hidden layers; the first and last layers and all vectors are AdamW's.
fn is_inner_matrix(name: &str, var: &Var) -> bool {
    let dims = var.dims();
    dims.len() >= 2
        && dims[0] >= MUON_LEAST
        && var.elem_count() / dims[0] >= MUON_LEAST
        && !["embed", "head"].iter().any(|outer| name.contains(outer))
}

/// The nearest matrix with singular values about 1, by Newton-Schulz iteration.
fn orthogonalise(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    let tall = rows > columns;
    let x = if tall {
        matrix.t()?.contiguous()?
    } else {
        matrix.clone()
    };
    let norm = x.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let mut x = (x / f64::from(norm + 1e-7))?;
    let [a, b, c] = MUON_COEFFICIENTS;
    // `linear(p, q)` is p q^T.
    let times_transposed = |p: &Tensor, q: &Tensor| {
        let segments = Segments::single(p.dim(0)?);
        gallop_kernels::linear(p, q, None, &segments, Precision::Bf16)
    };
    for _ in 0..MUON_STEPS {
        let gram = times_transposed(&x, &x)?;
        let poly = ((&gram * b)? + (times_transposed(&gram, &gram)? * c)?)?;
        let pulled = times_transposed(&poly, &x.t()?.contiguous()?)?;
        x = ((x * a)? + pulled)?;
    }
    if tall { x.t()?.contiguous() } else { Ok(x) }
}
