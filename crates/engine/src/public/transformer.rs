//! Where a transformer's weights are is no matter of the pipeline's: it asks a loader, and runs what it gets.

use candle_core::Device;
use gallop_kernels::Precision;
use gallop_model::{
    ModelError, WeightFiles, Weights,
    dit::{Batch, Dit, DitConfig, Outputs},
    public::{Part, PublicError, PublicModel, manifest},
};
use rayon::prelude::*;
use safetensors::Dtype;

/// Numbers looked at by one thread at a time.
const RUN: usize = 1 << 20;

/// A transformer that can be run: its weights in memory, read as they are used, or in fewer bits.
pub trait Transformer {
    /// Its shape.
    fn config(&self) -> &DitConfig;

    /// Velocities of a batch.
    ///
    /// # Errors
    /// As [`Dit::forward`].
    fn forward(&mut self, batch: &Batch) -> gallop_model::Result<Outputs>;
}

impl Transformer for Dit {
    fn config(&self) -> &DitConfig {
        Dit::config(self)
    }

    fn forward(&mut self, batch: &Batch) -> gallop_model::Result<Outputs> {
        Dit::forward(self, batch)
    }
}

/// How the transformers of a model are loaded. What is loaded lives for one stage.
pub trait LoadTransformer {
    /// One of the four transformers.
    ///
    /// # Errors
    /// Weights that are missing, of another shape, or not finite; no memory.
    fn load(
        &self,
        model: &PublicModel,
        part: Part,
    ) -> gallop_model::public::Result<Box<dyn Transformer>>;

    /// Bytes of weights that are in memory at once, for the plan.
    fn resident(&self, config: &DitConfig) -> u64;
}

/// Reads each layer from its mapped file when it comes to it, and forgets it after.
#[derive(Clone, Copy, Debug)]
pub struct LayerByLayer {
    /// Of matrix products: bf16 as in the public code, or f32 to compare pipelines sharply.
    pub precision: Precision,
}

impl LoadTransformer for LayerByLayer {
    fn load(
        &self,
        model: &PublicModel,
        part: Part,
    ) -> gallop_model::public::Result<Box<dyn Transformer>> {
        let files = model.transformer(part)?;
        let config = model.transformer_config(part, &files)?;
        check_shapes(&files, &config)?;
        check_finite(&files)?;
        let weights = Weights::files(files, &Device::Cpu);
        let dit = Dit::streamed(&config, &weights)?.with_precision(self.precision);
        Ok(Box::new(dit))
    }

    fn resident(&self, config: &DitConfig) -> u64 {
        let bytes = |prefix: &str| -> u64 {
            let specs = manifest::transformer(config).into_iter();
            let specs = specs.filter(|spec| spec.name.starts_with(prefix));
            specs.map(|spec| spec.bytes()).sum()
        };
        let layers = 0..config.layers.len();
        let largest = layers.map(|i| bytes(&format!("block.layers.{i}."))).max();
        bytes("adapter.") + bytes("final_") + largest.unwrap_or(0)
    }
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

/// No weight is infinite or not a number: kernels that clamp could hide one.
fn check_finite(files: &WeightFiles) -> gallop_model::public::Result<()> {
    for name in files.names() {
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
        if !finite {
            return Err(PublicError::NotFinite { name });
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
