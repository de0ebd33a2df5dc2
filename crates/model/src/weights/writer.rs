//! Safetensors files written as their numbers are made, of any size.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{ModelError, Result};

/// One tensor of a file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The name of its number type in the format, such as `BF16`.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes of its numbers.
    pub bytes: u64,
}

/// A safetensors file under way: its header is written first, then the numbers of all tensors in order.
pub struct TensorWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// Bytes of numbers still to come.
    left: u64,
}

impl TensorWriter {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, entries: &[Entry], metadata: &[(String, String)]) -> Result<Self> {
        let mut file = BufWriter::new(File::create(path).map_err(ModelError::io(path))?);
        let header = header(entries, metadata);
        file.write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(header.as_bytes()))
            .map_err(ModelError::io(path))?;
        Ok(Self {
            path: path.into(),
            file,
            left: entries.iter().map(|entry| entry.bytes).sum(),
        })
    }

    /// The next numbers, little-endian.
    ///
    /// # Errors
    /// When they cannot be written, or are more than was said.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = (self.left.checked_sub(bytes.len() as u64))
            .ok_or_else(|| ModelError::format(&self.path, "more numbers than its header says"))?;
        self.file
            .write_all(bytes)
            .map_err(ModelError::io(&self.path))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When it cannot be written, or numbers are missing.
    pub fn finish(mut self) -> Result<()> {
        if self.left > 0 {
            return Err(ModelError::format(
                &self.path,
                "fewer numbers than its header says",
            ));
        }
        self.file.flush().map_err(ModelError::io(&self.path))
    }
}

/// The index beside sharded files.
///
/// # Errors
/// When it cannot be written.
pub fn write_index(folder: &Path, files: &[(String, Vec<Entry>)]) -> Result<()> {
    let mut map = Map::new();
    let mut total = 0;
    for (file, entries) in files {
        for entry in entries {
            map.insert(entry.name.clone(), file.clone().into());
            total += entry.bytes;
        }
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let path = folder.join("model.safetensors.index.json");
    std::fs::write(&path, index.to_string()).map_err(ModelError::io(&path))
}

/// Tensors in files of at most `most` bytes each, where one tensor is not more; the files' names tell their number.
pub fn shards(groups: Vec<Vec<Entry>>, most: u64) -> Vec<(String, Vec<Entry>)> {
    let size = |entries: &[Entry]| entries.iter().map(|entry| entry.bytes).sum::<u64>();
    let mut files: Vec<Vec<Entry>> = vec![Vec::new()];
    for group in groups {
        match files.last_mut() {
            Some(file) if file.is_empty() || size(file) + size(&group) <= most => {
                file.extend(group)
            }
            _ => files.push(group),
        }
    }
    let count = files.len();
    let named = |(i, entries)| {
        (
            format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            entries,
        )
    };
    files.into_iter().enumerate().map(named).collect()
}

/// The JSON header, filled up with blanks so that the numbers begin at a multiple of eight bytes.
fn header(entries: &[Entry], metadata: &[(String, String)]) -> String {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let about = metadata
            .iter()
            .map(|(key, text)| (key.clone(), text.clone().into()));
        header.insert("__metadata__".into(), Value::Object(about.collect()));
    }
    let mut at = 0;
    for entry in entries {
        let end = at + entry.bytes;
        let about = json!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, end]});
        header.insert(entry.name.clone(), about);
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    header
}
