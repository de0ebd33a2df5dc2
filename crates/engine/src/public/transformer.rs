//! Where a transformer's weights are is no matter of the pipeline's: it asks a loader, and runs what it gets.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use gallop_core::{Progress, UserError};
use gallop_kernels::{Precision, device_memory};
use gallop_model::{
    ModelError, WeightFiles, Weights,
    dit::{Batch, Dit, DitConfig, MemoryPlan, MemoryRequest, Outputs},
    lora::{Lora, open_loras},
    memory::{available, give_back, in_use},
    public::{Part, PublicError, PublicModel, manifest},
};
use rayon::prelude::*;
use safetensors::Dtype;

use super::estimate::{enough, too_little};
use crate::error::{EngineError, Result};

/// Numbers looked at by one thread at a time.
const RUN: usize = 1 << 20;
/// The share of the free memory that is taken where nobody says how much.
const SHARE: f64 = 0.8;
/// The share of a GPU's free memory that is taken: nobody else is expected to want it.
const GPU_SHARE: f64 = 0.95;
/// What a GPU's driver holds for a process beside its tensors: its context and the kernels' code.
const GPU_DRIVER: u64 = 512 * MIB;
/// Where the layers' weights are; their matrices are checked when they are first read.
const LAYERS: &str = "block.layers.";
const MIB: u64 = 1 << 20;

/// A transformer that can be run: its weights in memory, read as they are used, or in fewer bits.
pub trait Transformer {
    /// Its shape.
    fn config(&self) -> &DitConfig;

    /// Velocities of a batch; `watch` hears of each layer before it is run, and stops the work by an error.
    ///
    /// # Errors
    /// As [`Dit::forward_watched`].
    fn forward(
        &mut self,
        batch: &Batch,
        watch: &mut dyn FnMut(usize) -> gallop_model::Result<()>,
    ) -> gallop_model::Result<Outputs>;
}

impl Transformer for Dit {
    fn config(&self) -> &DitConfig {
        Dit::config(self)
    }

    fn forward(
        &mut self,
        batch: &Batch,
        watch: &mut dyn FnMut(usize) -> gallop_model::Result<()>,
    ) -> gallop_model::Result<Outputs> {
        self.forward_watched(batch, watch)
    }
}

/// How the transformers of a model are loaded. What is loaded lives for one stage.
pub trait LoadTransformer {
    /// One of the four transformers, for sequences of at most so many tokens; says how to `progress`.
    ///
    /// # Errors
    /// Weights that are missing, of another shape, or not finite; too little memory.
    fn load(
        &self,
        model: &PublicModel,
        part: Part,
        tokens: usize,
        progress: &dyn Progress,
    ) -> Result<Box<dyn Transformer>>;

    /// What loading it would take now.
    ///
    /// # Errors
    /// As [`Self::load`], as far as headers tell; [`ModelError::Memory`] where less is allowed than is needed.
    fn plan(&self, model: &PublicModel, part: Part, tokens: usize) -> Result<MemoryPlan>;

    /// Bytes that the process may hold at any time, if anybody says.
    fn budget(&self) -> Option<u64>;
}

/// Uses weights where they lie in mapped files, or, for a model on a GPU, copies them there in the form that they are
/// stored in. As many layers stay in memory as fit; the others are read in each step, while the one before is in use.
#[derive(Clone, Debug)]
pub struct Planned {
    precision: Precision,
    budget: Option<u64>,
    /// The transformer that is changed, and how.
    loras: Option<(Part, Arc<Vec<Lora>>)>,
}

impl Planned {
    /// In four fifths of the memory that is free when a transformer is loaded. `precision` is that of matrix
    /// products: bf16 as in the public code, 8-bit floats to be fast, or f32 to compare pipelines sharply.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            budget: None,
            loras: None,
        }
    }

    /// In so many bytes, which are all that the process may hold, of the memory of the device that it computes on.
    pub fn within(self, budget: Option<u64>) -> Self {
        Self { budget, ..self }
    }

    /// Merges low-rank changes, each a file and its strength, into the weights of `part` as they are read. Also gives
    /// the modules that are to be changed but that the transformer does not have.
    ///
    /// # Errors
    /// A file that cannot be read, or is for another model; names it.
    pub fn with_loras(
        self,
        model: &PublicModel,
        part: Part,
        files: &[(PathBuf, f64)],
    ) -> Result<(Self, Vec<String>)> {
        if files.is_empty() {
            return Ok((self, Vec::new()));
        }
        let of = model.transformer(part)?;
        let names = of.names();
        let (loras, unmatched) = open_loras(files, &names)?;
        for (lora, name) in loras.iter().flat_map(|l| names.iter().map(move |n| (l, n))) {
            lora.check_shape(name, of.shape(name).unwrap_or_default())?;
        }
        let loras = Some((part, loras));
        Ok((Self { loras, ..self }, unmatched))
    }

    fn weights(&self, model: &PublicModel, part: Part) -> Result<(Weights, DitConfig)> {
        let files = model.transformer(part)?;
        let config = model.transformer_config(part, &files)?;
        check_shapes(&files, &config)?;
        check_finite(&files)?;
        let weights = Weights::files(files, model.device());
        let weights = match &self.loras {
            Some((of, loras)) if *of == part => weights.with_loras(loras.clone()),
            _ => weights,
        };
        Ok((weights, config))
    }

    fn plan_for(
        &self,
        part: Part,
        (weights, config): (&Weights, &DitConfig),
        tokens: usize,
    ) -> Result<MemoryPlan> {
        // What earlier stages freed is no longer held.
        give_back();
        let request = self.request(weights.device(), tokens)?;
        let beside = match weights.device().is_cpu() {
            true => 0,
            false => GPU_DRIVER,
        };
        let plan = MemoryPlan::new(config, weights, request);
        plan.map_err(|error| match error {
            ModelError::Memory { allowed, needed } => {
                let (allowed, needed) = (allowed + beside, needed + beside);
                match self.budget {
                    None => too_little_free(part, allowed, needed).into(),
                    Some(_) => ModelError::Memory { allowed, needed }.into(),
                }
            }
            error => error.into(),
        })
    }

    /// What may be held where the weights are to be.
    fn request(&self, device: &Device, tokens: usize) -> Result<MemoryRequest> {
        let Some(memory) = device_memory(device)? else {
            let free = || available().map(|bytes| in_use() + (bytes as f64 * SHARE) as u64);
            return Ok(MemoryRequest::new(self.budget.or_else(free), tokens));
        };
        let free = memory.held + (memory.free as f64 * GPU_SHARE) as u64;
        let budget = self.budget.map(|bytes| bytes.saturating_sub(GPU_DRIVER));
        let request = MemoryRequest::new(Some(budget.unwrap_or(free).min(free)), tokens);
        Ok(request.holding(memory.held))
    }
}

impl LoadTransformer for Planned {
    fn load(
        &self,
        model: &PublicModel,
        part: Part,
        tokens: usize,
        progress: &dyn Progress,
    ) -> Result<Box<dyn Transformer>> {
        let (weights, config) = self.weights(model, part)?;
        let plan = self.plan_for(part, (&weights, &config), tokens);
        let plan = plan.map_err(|error| match error {
            EngineError::Model(ModelError::Memory { allowed, needed }) => {
                too_little(allowed, part, needed).into()
            }
            error => error,
        })?;
        progress.note(&format!("{}: {plan}", part.folder()));
        let dit = Dit::planned(&config, &weights, &plan)?.with_precision(self.precision);
        Ok(Box::new(dit))
    }

    fn plan(&self, model: &PublicModel, part: Part, tokens: usize) -> Result<MemoryPlan> {
        let (weights, config) = self.weights(model, part)?;
        self.plan_for(part, (&weights, &config), tokens)
    }

    fn budget(&self) -> Option<u64> {
        self.budget
    }
}

fn too_little_free(part: Part, allowed: u64, needed: u64) -> UserError {
    UserError::new(
        format!(
            "too little memory is free: {} needs {} MiB for this clip, and four fifths of what is free are {} MiB",
            part.folder(),
            needed.div_ceil(MIB),
            allowed / MIB
        ),
        format!(
            "end other programs, or allow as much with --memory {}MiB",
            enough(needed)
        ),
    )
}

/// Every weight that the configuration asks for is there and of its shape: known before hours of work.
pub(super) fn check_shapes(files: &WeightFiles, config: &DitConfig) -> gallop_model::Result<()> {
    for spec in manifest::transformer(config) {
        // Positions are computed; some files leave the table of their frequencies out.
        if spec.name == "adapter.rope.bands" {
            continue;
        }
        let got = files.shape(&spec.name);
        let got = got.ok_or_else(|| ModelError::Missing(spec.name.clone()))?;
        if got != spec.shape {
            return Err(ModelError::Shape {
                name: spec.name,
                got: got.to_vec(),
                want: spec.shape,
            });
        }
    }
    Ok(())
}

/// No weight outside the layers' matrices is infinite or not a number: kernels that clamp could hide one.
/// Matrices are checked when a layer is first read.
fn check_finite(files: &WeightFiles) -> Result<()> {
    for name in files.names() {
        let matrix = files.shape(&name).is_some_and(|shape| shape.len() == 2);
        if matrix && name.starts_with(LAYERS) {
            continue;
        }
        let (Some(dtype), Some(bytes)) = (files.dtype(&name), files.bytes(&name)) else {
            continue;
        };
        // All bits of the exponent set: infinite, or no number.
        let finite = match dtype {
            Dtype::F32 => all(bytes, |b: [u8; 4]| u32::from_le_bytes(b) << 1 < 0xff00_0000),
            Dtype::BF16 => all(bytes, |b: [u8; 2]| u16::from_le_bytes(b) << 1 < 0xff00),
            Dtype::F16 => all(bytes, |b: [u8; 2]| u16::from_le_bytes(b) << 1 < 0xf800),
            _ => true,
        };
        // What was looked at is not to be counted as held.
        files.release(&name);
        if !finite {
            return Err(PublicError::NotFinite { name }.into());
        }
    }
    Ok(())
}

fn all<const N: usize>(bytes: &[u8], fine: impl Fn([u8; N]) -> bool + Sync) -> bool {
    bytes
        .par_chunks(RUN * N)
        .all(|run| run.as_chunks().0.iter().fold(true, |all, &b| all & fine(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_seen() {
        let f32s = |x: f32| {
            all(
                &[1.0f32.to_le_bytes(), x.to_le_bytes()].concat(),
                |b: [u8; 4]| u32::from_le_bytes(b) << 1 < 0xff00_0000,
            )
        };
        for x in [0.0, -1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE / 2.0] {
            assert!(f32s(x), "{x}");
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!f32s(x), "{x}");
        }
    }
}
