//! Named trainable variables.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{Device, Shape, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;

use super::{Init, WeightFiles};
use crate::error::Result;

/// Named trainable variables, in order of their names. Clones share them.
#[derive(Clone, Default)]
pub struct Vars(Arc<Mutex<BTreeMap<String, Var>>>);

impl Vars {
    /// A variable for every tensor of `files`, in f32.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn from_files(files: &WeightFiles, device: &Device) -> Result<Self> {
        let vars = Self::default();
        for name in files.names() {
            let tensor = files.load(&name, device)?;
            let tensor = tensor.to_dtype(candle_core::DType::F32)?;
            vars.lock().insert(name, Var::from_tensor(&tensor)?);
        }
        Ok(vars)
    }

    /// The variable of this name.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.lock().get(name).cloned()
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// All variables, in the order of their names.
    pub fn all(&self) -> Vec<(String, Var)> {
        let vars = self.lock();
        vars.iter().map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// All values, in the order of their names, as [`super::save_weights`] takes them.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let detached = |(name, var): (String, Var)| (name, var.as_detached_tensor());
        self.all().into_iter().map(detached).collect()
    }

    /// The number of numbers in all variables.
    pub fn parameters(&self) -> usize {
        self.lock().values().map(|v| v.elem_count()).sum()
    }

    /// Makes a variable whose value depends on the seed and the name only.
    pub(super) fn create(
        &self,
        name: &str,
        shape: &Shape,
        (init, seed): (Init, u64),
        device: &Device,
    ) -> Result<Tensor> {
        let mut rng = Pcg64::seed_from_u64(seed ^ fnv1a(name));
        let mut draw = || -> f32 {
            match init {
                Init::Zeros => 0.0,
                Init::Ones => 1.0,
                Init::Normal(std) => {
                    let x: f32 = StandardNormal.sample(&mut rng);
                    x * std as f32
                }
                Init::Uniform(bound) => rng.random_range(-1.0..=1.0) * bound as f32,
            }
        };
        let values: Vec<f32> = (0..shape.elem_count()).map(|_| draw()).collect();
        let var = Var::from_vec(values, shape.clone(), device)?;
        self.lock().insert(name.to_string(), var.clone());
        Ok(var.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        // A panic elsewhere cannot leave the map half changed.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The FNV-1a hash, which is the same in every release of every toolchain.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
