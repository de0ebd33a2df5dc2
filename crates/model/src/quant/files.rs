//! Whole models to fewer bits.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::codec::Quant;
use crate::{
    dit::DitConfig,
    error::{ModelError, Result},
    weights::{WeightFiles, save_weights},
};

/// Bytes after which a file is closed and the next one begun.
const SHARD_BYTES: usize = 2_000_000_000;
/// Matrices with a smaller side are left as they are: they weigh little and often matter much.
const MIN_SIDE: usize = 64;
/// Where the header names the format.
const METADATA_KEY: &str = "quantization";

/// What became of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// Its name.
    pub name: String,
    /// The length of the difference as a share of the matrix's.
    pub error: f64,
}

/// What became of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantReport {
    /// The matrices in fewer bits.
    pub tensors: Vec<QuantizedTensor>,
    /// Bytes of all tensors before.
    pub bytes_before: usize,
    /// Bytes of all tensors after.
    pub bytes_after: usize,
}

/// Writes the weights of `files` to `folder`, the large matrices of inner layers in fewer bits. The first
/// and the last layer, tables, embedders, heads and norms stay as they are: errors there cost most.
///
/// # Errors
/// When a weight cannot be read, or a file not written.
pub fn quantize_files(
    files: &WeightFiles,
    quant: Quant,
    folder: &Path,
    progress: &mut dyn FnMut(&QuantizedTensor),
) -> Result<QuantReport> {
    fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    let names = files.names();
    let last = names.iter().filter_map(|name| layer(name)).max();
    let mut report = QuantReport::default();
    let mut output = Output::new(files, quant, folder);
    for name in &names {
        let tensor = files.load(name, &Device::Cpu)?;
        report.bytes_before += size(&tensor);
        if layer(name).is_none_or(|i| i == 0 || Some(i) == last) || !fits(&tensor, quant) {
            output.push(name.clone(), tensor)?;
            continue;
        }
        let small = quant.quantize(&tensor)?;
        let done = QuantizedTensor {
            name: name.clone(),
            error: difference(&tensor, &small.dequantize()?)?,
        };
        progress(&done);
        report.tensors.push(done);
        output.push(name.clone(), small.data)?;
        output.push(format!("{name}.scale"), small.scale)?;
    }
    report.bytes_after = output.finish()?;
    Ok(report)
}

/// The number of the layer that a weight belongs to.
fn layer(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

fn fits(tensor: &Tensor, quant: Quant) -> bool {
    let float = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
    let large = matches!(tensor.dims(), [rows, columns] if *rows.min(columns) >= MIN_SIDE);
    float && large && quant.takes(tensor.dims()[1])
}

fn size(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

fn difference(whole: &Tensor, small: &Tensor) -> Result<f64> {
    let whole = whole.to_dtype(DType::F32)?;
    let apart = (&whole - small.to_dtype(DType::F32)?)?;
    let norm = |x: &Tensor| Ok::<_, ModelError>(x.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt());
    Ok(f64::from(
        norm(&apart)? / norm(&whole)?.max(f32::MIN_POSITIVE),
    ))
}

/// The files being written.
struct Output<'a> {
    folder: &'a Path,
    metadata: BTreeMap<String, String>,
    pending: Vec<(String, Tensor)>,
    pending_bytes: usize,
    /// Bytes of finished files.
    bytes: usize,
    shards: usize,
    index: serde_json::Map<String, serde_json::Value>,
}

impl<'a> Output<'a> {
    fn new(files: &WeightFiles, quant: Quant, folder: &'a Path) -> Self {
        let mut metadata = BTreeMap::from([(METADATA_KEY.into(), quant.name().to_string())]);
        if let Some(config) = files.metadata(DitConfig::METADATA_KEY) {
            metadata.insert(DitConfig::METADATA_KEY.into(), config.into());
        }
        Self {
            folder,
            metadata,
            pending: Vec::new(),
            pending_bytes: 0,
            bytes: 0,
            shards: 0,
            index: serde_json::Map::new(),
        }
    }

    fn push(&mut self, name: String, tensor: Tensor) -> Result<()> {
        self.pending_bytes += size(&tensor);
        self.pending.push((name, tensor));
        if self.pending_bytes >= SHARD_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.shards += 1;
        let file = format!("model-{:05}.safetensors", self.shards);
        for (name, _) in &self.pending {
            self.index.insert(name.clone(), file.clone().into());
        }
        let pending = std::mem::take(&mut self.pending);
        self.bytes += std::mem::take(&mut self.pending_bytes);
        save_weights(&self.folder.join(file), pending, &self.metadata)
    }

    fn finish(mut self) -> Result<usize> {
        self.flush()?;
        let index = json!({
            "metadata": {"total_size": self.bytes},
            "weight_map": self.index,
        });
        let path = self.folder.join("model.safetensors.index.json");
        fs::write(&path, index.to_string()).map_err(ModelError::io(&path))?;
        Ok(self.bytes)
    }
}
