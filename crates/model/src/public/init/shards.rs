//! Safetensors files written as they are made, of any size.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use candle_core::DType;
use serde_json::{Map, Value, json};

use super::{SHARD_BYTES, random::fill};
use crate::{
    error::ModelError,
    public::{error::Result, manifest::TensorSpec},
};

/// Numbers made at a time: a multiple of the generators' runs.
const CHUNK: usize = 1 << 24;

/// Writes tensors into as many files as their size asks for, and their index.
pub(super) fn write_shards(
    folder: &Path,
    specs: &[TensorSpec],
    about: Option<(String, String)>,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let shards = split(specs);
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_file(&folder.join(&name), shard, about.clone(), seed, progress)?;
        map.extend(
            shard
                .iter()
                .map(|spec| (spec.name.clone(), name.clone().into())),
        );
    }
    let total: u64 = specs.iter().map(TensorSpec::bytes).sum();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let path = folder.join("model.safetensors.index.json");
    Ok(std::fs::write(&path, index.to_string()).map_err(ModelError::io(&path))?)
}

fn split(specs: &[TensorSpec]) -> Vec<&[TensorSpec]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, spec) in specs.iter().enumerate() {
        if i > start && bytes + spec.bytes() > SHARD_BYTES {
            shards.push(&specs[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += spec.bytes();
    }
    shards.push(&specs[start..]);
    shards
}

/// Writes tensors into one file.
pub(super) fn write_file(
    path: &Path,
    specs: &[TensorSpec],
    about: Option<(String, String)>,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).map_err(ModelError::io(path))?);
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(ModelError::io(path));
    let header = header(specs, about);
    put(&(header.len() as u64).to_le_bytes())?;
    put(header.as_bytes())?;
    let mut buffer = Vec::new();
    for spec in specs {
        let (count, size) = (spec.parameters() as usize, spec.dtype.size_in_bytes());
        for start in (0..count).step_by(CHUNK) {
            buffer.resize((count - start).min(CHUNK) * size, 0);
            fill(spec, seed, start, &mut buffer);
            put(&buffer)?;
            progress(buffer.len() as u64);
        }
    }
    Ok(file.flush().map_err(ModelError::io(path))?)
}

/// The JSON header, filled up with blanks so that the numbers begin at a multiple of eight bytes.
fn header(specs: &[TensorSpec], about: Option<(String, String)>) -> String {
    let mut header = Map::new();
    if let Some((key, text)) = about {
        header.insert("__metadata__".into(), json!({key: text}));
    }
    let mut at = 0;
    for spec in specs {
        let end = at + spec.bytes();
        let dtype = match spec.dtype {
            DType::BF16 => "BF16",
            _ => "F32",
        };
        let entry = json!({"dtype": dtype, "shape": spec.shape, "data_offsets": [at, end]});
        header.insert(spec.name.clone(), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    header
}
