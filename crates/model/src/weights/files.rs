//! Safetensors files, one or sharded, memory-mapped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::stored::scale_name;
use crate::error::{ModelError, Result};

/// Memory-mapped safetensors files; a tensor is copied when it is asked for.
pub struct WeightFiles {
    pub(super) shards: Vec<Shard>,
    /// Tensor -> index of its shard.
    pub(super) routes: HashMap<String, usize>,
    /// Matrices in fewer bits -> where their scales are.
    pub(super) scales: HashMap<String, Scale>,
}

/// Copying a tensor of so many bytes gives its pages back.
const WORTH_RELEASING: u64 = 1 << 20;

/// Of a matrix in fewer bits.
pub(super) struct Scale {
    /// Index of the shard that holds its scales.
    pub(super) shard: usize,
    /// The matrix's own shape, however it is packed.
    shape: Vec<usize>,
}

/// The bytes of one file.
pub(super) enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) map: Bytes,
    /// Bytes before the tensors.
    header: usize,
    pub(super) metadata: Metadata,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl WeightFiles {
    /// Opens a `.safetensors` file, an `.index.json`, or a folder that holds an index or such files.
    ///
    /// # Errors
    /// When a file is missing, cut off or malformed; the error names it.
    pub fn open(path: &Path) -> Result<Self> {
        let shards = shard_paths(path)?
            .iter()
            .map(|path| Shard::open(path))
            .collect::<Result<Vec<_>>>()?;
        Self::of(shards)
    }

    /// A safetensors file that is part of the program; `name` stands for it in errors.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::of(vec![Shard::new(Path::new(name), Bytes::Static(bytes))?])
    }

    fn of(shards: Vec<Shard>) -> Result<Self> {
        let mut routes = HashMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.metadata.tensors().into_keys() {
                if routes.insert(name.clone(), i).is_some() {
                    return Err(ModelError::format(
                        &shard.path,
                        format!("the weight `{name}` is in another file too"),
                    ));
                }
            }
        }
        let mut files = Self {
            shards,
            routes,
            scales: HashMap::new(),
        };
        files.part_scales();
        Ok(files)
    }

    /// Takes the scales of matrices in fewer bits (see [`crate::quant`]) out of the list of tensors.
    fn part_scales(&mut self) {
        for name in self.names() {
            let packed = matches!(self.dtype(&name), Some(Dtype::U8 | Dtype::F8_E4M3));
            let scale_name = scale_name(&name);
            let (Some(shape), Some(scale)) = (self.shape(&name), self.shape(&scale_name)) else {
                continue;
            };
            let mut shape = shape.to_vec();
            if let (true, [_, columns], [_, _]) = (packed, &mut shape[..], scale) {
                *columns = columns.saturating_mul(2);
            }
            if packed && let Some(shard) = self.routes.remove(&scale_name) {
                self.scales.insert(name, Scale { shard, shape });
            }
        }
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.routes.contains_key(name)
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.routes.keys().cloned().collect();
        names.sort();
        names
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        if let Some(scale) = self.scales.get(name) {
            return Some(&scale.shape);
        }
        let shard = &self.shards[*self.routes.get(name)?];
        Some(&shard.metadata.info(name)?.shape)
    }

    /// The number type that a tensor is stored in.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        let shard = &self.shards[*self.routes.get(name)?];
        Some(shard.metadata.info(name)?.dtype)
    }

    /// A tensor's bytes where they lie in the file: row-major, little-endian.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.shards[*self.routes.get(name)?].part(name)
    }

    /// A value of the header of the first file that has it.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.shards
            .iter()
            .find_map(|shard| shard.metadata.metadata().as_ref()?.get(key))
            .map(String::as_str)
    }

    /// The number of numbers in all tensors.
    pub fn parameters(&self) -> usize {
        self.routes
            .keys()
            .filter_map(|name| self.shape(name))
            .map(|shape| shape.iter().product::<usize>())
            .sum()
    }

    /// Copies a tensor to `device` in its stored number type; matrices in fewer bits in bfloat16.
    ///
    /// # Errors
    /// When it is missing or of a type that tensors cannot have.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let missing = || ModelError::Missing(name.to_string());
        let shard = *self.routes.get(name).ok_or_else(missing)?;
        let tensor = match self.scales.contains_key(name) {
            false => self.shards[shard].load(name, device)?,
            true => self.expanded(name)?.to_device(device)?,
        };
        // What was copied is not needed twice in memory.
        if self.stored_bytes(name) >= WORTH_RELEASING {
            self.release(name);
        }
        Ok(tensor)
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: as with every mapped file, it must not be cut while we run; weights are written under
        // another name and moved into place, so a reader keeps the old file.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        Self::new(path, Bytes::Mapped(map))
    }

    fn new(path: &Path, map: Bytes) -> Result<Self> {
        let wrong = |e| ModelError::format(path, format!("not a whole safetensors file: {e}"));
        SafeTensors::deserialize(&map).map_err(wrong)?;
        let (length, metadata) = SafeTensors::read_metadata(&map).map_err(wrong)?;
        Ok(Self {
            path: path.to_path_buf(),
            map,
            // The header's length is itself stored in 8 bytes.
            header: length + 8,
            metadata,
        })
    }

    /// Where a tensor's bytes lie in the file.
    pub(super) fn range(&self, name: &str) -> Option<std::ops::Range<usize>> {
        let (start, end) = self.metadata.info(name)?.data_offsets;
        Some(self.header + start..self.header + end)
    }

    /// A tensor's bytes.
    pub(super) fn part(&self, name: &str) -> Option<&[u8]> {
        self.map.get(self.range(name)?)
    }

    fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| ModelError::Missing(name.to_string()))?;
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.header + start..self.header + end];
        let view = safetensors::tensor::TensorView::new(info.dtype, info.shape.clone(), bytes)
            .map_err(|e| ModelError::format(&self.path, e))?;
        Ok(view.load(device)?)
    }
}

fn shard_paths(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return if path.extension().is_some_and(|e| e == "json") {
            indexed_paths(path)
        } else {
            Ok(vec![path.to_path_buf()])
        };
    }
    let listing = std::fs::read_dir(path).map_err(ModelError::io(path))?;
    let mut files = Vec::new();
    for entry in listing {
        files.push(entry.map_err(ModelError::io(path))?.path());
    }
    files.sort();
    let ends = |file: &&PathBuf, end: &str| file.to_string_lossy().ends_with(end);
    if let Some(index) = files.iter().find(|f| ends(f, ".safetensors.index.json")) {
        return indexed_paths(index);
    }
    files.retain(|f| ends(&f, ".safetensors"));
    if files.is_empty() {
        return Err(ModelError::format(path, "no safetensors file in it"));
    }
    Ok(files)
}

fn indexed_paths(index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index).map_err(ModelError::io(index))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| ModelError::format(index, e))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|n| n.contains(['/', '\\'])) {
        let why = format!("it names `{name}`, which is not a file beside it");
        return Err(ModelError::format(index, why));
    }
    let folder = index.parent().unwrap_or(Path::new("."));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Writes tensors and `metadata` to a safetensors file: whole under another name first, then moved into
/// place, so that no reader and no crash sees half of it.
///
/// # Errors
/// When it cannot be written.
pub fn save_weights(
    path: &Path,
    tensors: Vec<(String, Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let part = path.with_extension("part");
    let about: HashMap<String, String> = metadata.clone().into_iter().collect();
    let about = (!about.is_empty()).then_some(about);
    safetensors::serialize_to_file(tensors, about, &part)
        .map_err(|e| ModelError::format(&part, e))?;
    File::open(&part)
        .and_then(|file| file.sync_all())
        .map_err(ModelError::io(&part))?;
    std::fs::rename(&part, path).map_err(ModelError::io(path))
}
