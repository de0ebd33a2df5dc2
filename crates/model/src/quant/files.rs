//! Whole models to fewer bits.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use gallop_kernels::{Frozen, Numbers};
use safetensors::Dtype;

use super::codec::Quant;
use crate::{
    dit::DitConfig,
    error::{ModelError, Result},
    numbers::{finite, with_numbers},
    weights::{
        WeightFiles,
        writer::{Entry, TensorWriter, shards, write_index},
    },
};

/// Bytes after which a file is closed and the next one begun.
const SHARD_BYTES: u64 = 5_000_000_000;
/// Matrices with a smaller side are left as they are: they weigh little and often matter much.
pub(crate) const MIN_SIDE: usize = 64;
/// Where the header names the format.
pub const METADATA_KEY: &str = "quantization";

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
    pub bytes_before: u64,
    /// Bytes of all tensors after.
    pub bytes_after: u64,
}

impl QuantReport {
    /// The greatest error of a matrix in each layer, by the layers' numbers.
    pub fn by_layer(&self) -> Vec<(usize, f64)> {
        let mut layers = std::collections::BTreeMap::new();
        for tensor in &self.tensors {
            let most: &mut f64 = layers.entry(layer(&tensor.name).unwrap_or(0)).or_default();
            *most = most.max(tensor.error);
        }
        layers.into_iter().collect()
    }
}

/// What to make of the files of one part.
#[derive(Clone, Copy)]
pub struct Quantization<'a> {
    /// The format.
    pub quant: Quant,
    /// Which tensors are wanted; files can hold more than is used.
    pub wanted: &'a dyn Fn(&str) -> bool,
}

/// Writes the weights of `files` to `folder`, the large matrices of inner layers in fewer bits. The first
/// and the last layer, tables, embedders, heads and norms stay as they are: errors there cost most.
/// `progress` hears of the bytes of each tensor that is done, and stops the work by an error.
///
/// # Errors
/// When a weight cannot be read, is not finite or in fewer bits already, a file cannot be written, or by `progress`.
pub fn quantize_files(
    files: &WeightFiles,
    work: Quantization,
    folder: &Path,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<QuantReport> {
    fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    let groups = groups(files, work)?;
    // Of a matrix in fewer bits, the last of two entries has its own name.
    let small = groups
        .iter()
        .filter_map(|group| Some((group.last()?.name.clone(), group.len() > 1)));
    let small: HashMap<String, bool> = small.collect();
    let shards = shards(groups, SHARD_BYTES);
    let mut report = QuantReport::default();
    for (file, entries) in &shards {
        let mut writer = TensorWriter::create(&folder.join(file), entries, &metadata(files, work))?;
        for entry in entries
            .iter()
            .filter(|entry| small.contains_key(&entry.name))
        {
            let bytes = files.stored_bytes(&entry.name);
            report.bytes_before += bytes;
            if small[&entry.name] {
                let error = write_small(files, &entry.name, work.quant, &mut writer)?;
                let name = entry.name.clone();
                report.tensors.push(QuantizedTensor { name, error });
            } else {
                writer.write(files.bytes(&entry.name).unwrap_or_default())?;
                files.release(&entry.name);
            }
            progress(bytes)?;
        }
        writer.finish()?;
        report.bytes_after += entries.iter().map(|entry| entry.bytes).sum::<u64>();
    }
    write_index(folder, &shards)?;
    Ok(report)
}

/// Bytes of the tensors that [`quantize_files`] would read and write.
///
/// # Errors
/// As [`quantize_files`], as far as headers tell.
pub fn quantized_bytes(files: &WeightFiles, work: Quantization) -> Result<[u64; 2]> {
    let groups = groups(files, work)?;
    let names = groups.iter().filter_map(|group| Some(&group.last()?.name));
    let read = names.map(|name| files.stored_bytes(name)).sum();
    let written = groups.iter().flatten().map(|entry| entry.bytes).sum();
    Ok([read, written])
}

/// What is written of each tensor.
fn groups(files: &WeightFiles, work: Quantization) -> Result<Vec<Vec<Entry>>> {
    let mut names = files.names();
    names.retain(|name| (work.wanted)(name));
    let last = names.iter().filter_map(|name| layer(name)).max();
    let group = |name: &String| {
        let inner = layer(name).is_some_and(|i| i > 0 && Some(i) < last);
        entries(files, name, inner.then_some(work.quant))
    };
    names.iter().map(group).collect()
}

fn metadata(files: &WeightFiles, work: Quantization) -> Vec<(String, String)> {
    let mut metadata = vec![(METADATA_KEY.into(), work.quant.name().to_string())];
    if let Some(config) = files.metadata(DitConfig::METADATA_KEY) {
        metadata.push((DitConfig::METADATA_KEY.into(), config.into()));
    }
    metadata
}

/// The number of the layer that a weight belongs to.
pub(crate) fn layer(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

/// What is written of a tensor: its scales, if it is to be in fewer bits and can be, and itself.
fn entries(files: &WeightFiles, name: &str, quant: Option<Quant>) -> Result<Vec<Entry>> {
    let missing = || ModelError::Missing(name.into());
    let shape = files.shape(name).ok_or_else(missing)?.to_vec();
    let dtype = files.dtype(name).ok_or_else(missing)?;
    if files.quant(name).is_some() {
        let why = format!("`{name}` is in fewer bits already: begin from the model as it was");
        return Err(ModelError::Config(why));
    }
    let float = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let fits = |quant: &Quant| match shape[..] {
        [rows, columns] => float && rows.min(columns) >= MIN_SIDE && quant.takes(columns),
        _ => false,
    };
    let Some(quant) = quant.filter(fits) else {
        return Ok(vec![Entry {
            name: name.into(),
            dtype: type_name(dtype)
                .ok_or_else(|| ModelError::Config(format!("`{name}` has numbers of {dtype:?}")))?,
            shape,
            bytes: files.stored_bytes(name),
        }]);
    };
    let (rows, columns) = (shape[0], shape[1]);
    let (scale_type, scale_shape, number_type) = match quant {
        Quant::Int8 => ("F32", vec![rows], "U8"),
        Quant::Fp8 => ("F32", vec![rows], "F8_E4M3"),
        Quant::Q4 => (
            "BF16",
            vec![rows, columns.div_ceil(super::codec::BLOCK)],
            "U8",
        ),
    };
    let scales = Entry {
        name: format!("{name}.scale"),
        dtype: scale_type,
        shape: scale_shape,
        bytes: (rows * quant.scale_bytes(columns)) as u64,
    };
    // Scales come first, so that they are aligned whatever the length of the numbers is.
    Ok(vec![
        scales,
        Entry {
            name: name.into(),
            dtype: number_type,
            shape: vec![rows, quant.row_bytes(columns)],
            bytes: (rows * quant.row_bytes(columns)) as u64,
        },
    ])
}

fn type_name(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::F64 => "F64",
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::BF16 => "BF16",
        Dtype::I64 => "I64",
        Dtype::I32 => "I32",
        Dtype::I16 => "I16",
        Dtype::I8 => "I8",
        Dtype::U8 => "U8",
        Dtype::BOOL => "BOOL",
        _ => return None,
    })
}

/// Writes scales and numbers of a matrix; the length of the difference as a share of the matrix's.
fn write_small(
    files: &WeightFiles,
    name: &str,
    quant: Quant,
    writer: &mut TensorWriter,
) -> Result<f64> {
    let &[rows, columns] = files.shape(name).unwrap_or_default() else {
        return Err(ModelError::Missing(name.into()));
    };
    let quantize = |numbers: Numbers| {
        if !finite(&numbers) {
            return Err(files.not_finite(name));
        }
        quant.quantize_frozen(&Frozen::new(numbers, rows, columns)?)
    };
    let (small, error) = match files.numbers(name) {
        Some(numbers) => quantize(numbers)?,
        None => {
            let tensor: Tensor = files.load(name, &Device::Cpu)?.to_dtype(DType::F32)?;
            with_numbers(&tensor, quantize)?
        }
    };
    files.release(name);
    match small.numbers() {
        Numbers::Int8 { bytes, scales } | Numbers::Fp8 { bytes, scales } => {
            writer.write(&little(scales, |scale| scale.to_le_bytes()))?;
            writer.write(bytes)?;
        }
        Numbers::Q4 { bytes, scales } => {
            writer.write(&little(scales, |scale| scale.to_le_bytes()))?;
            writer.write(bytes)?;
        }
        Numbers::F32(_) | Numbers::Bf16(_) => {}
    }
    Ok(error)
}

fn little<T: Copy, const N: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| bytes(number)).collect()
}
