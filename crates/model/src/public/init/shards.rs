//! Safetensors files of random numbers.

use std::path::Path;

use candle_core::DType;

use super::{SHARD_BYTES, random::fill};
use crate::{
    public::{error::Result, manifest::TensorSpec},
    weights::writer::{Entry, TensorWriter, shards, write_index},
};

/// Numbers made at a time: a multiple of the generators' runs.
const CHUNK: usize = 1 << 24;

/// What is written with the numbers: an entry of the header, the seed, and who hears of the bytes.
pub(super) struct Filling<'a> {
    pub about: Option<(String, String)>,
    pub seed: u64,
    pub progress: &'a mut dyn FnMut(u64) -> Result<()>,
}

/// Writes tensors into as many files as their size asks for, and their index.
pub(super) fn write_shards(folder: &Path, specs: &[TensorSpec], with: &mut Filling) -> Result<()> {
    let groups = specs.iter().map(|spec| vec![entry(spec)]).collect();
    let shards = shards(groups, SHARD_BYTES);
    let mut rest = specs;
    for (name, entries) in &shards {
        let (now, later) = rest.split_at(entries.len());
        write_file(&folder.join(name), now, with)?;
        rest = later;
    }
    Ok(write_index(folder, &shards)?)
}

fn entry(spec: &TensorSpec) -> Entry {
    Entry {
        name: spec.name.clone(),
        dtype: match spec.dtype {
            DType::BF16 => "BF16",
            _ => "F32",
        },
        shape: spec.shape.clone(),
        bytes: spec.bytes(),
    }
}

/// Writes tensors into one file.
pub(super) fn write_file(path: &Path, specs: &[TensorSpec], with: &mut Filling) -> Result<()> {
    let entries: Vec<Entry> = specs.iter().map(entry).collect();
    let mut file = TensorWriter::create(path, &entries, with.about.as_slice())?;
    let mut buffer = Vec::new();
    for spec in specs {
        let (count, size) = (spec.parameters() as usize, spec.dtype.size_in_bytes());
        for start in (0..count).step_by(CHUNK) {
            buffer.resize((count - start).min(CHUNK) * size, 0);
            fill(spec, with.seed, start, &mut buffer);
            file.write(&buffer)?;
            (with.progress)(buffer.len() as u64)?;
        }
    }
    Ok(file.finish()?)
}
