//! Reads the tensors of a PyTorch `.pth`, `.pt` or `.ckpt` file, in place and without running it.
//!
//! Such a file is a zip archive of a pickle, which is a program. Ours is an interpreter of the few
//! instructions that build dictionaries and name tensors; every other name, such as
//! `os.system`, is refused as soon as it is read.

mod machine;
mod value;
mod writer;
mod zip;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    ops::Range,
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use machine::Pickle;
use memmap2::{Mmap, UncheckedAdvice};
use thiserror::Error;
pub use value::Element;
use value::{Strided, Value};
pub use writer::{PickleTensor, write_pickle};

/// Why a pickle was not read.
#[derive(Debug, Error)]
pub enum PickleError {
    /// The file could not be opened or mapped.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The container is not what PyTorch writes.
    #[error("{0}")]
    Archive(String),
    /// The pickle names something that is not part of a tensor.
    #[error("it holds code, {0}, and not just tensors: refused, nothing of it was run")]
    Code(String),
    /// The pickle's instructions make no sense.
    #[error("its pickle is damaged at byte {at}: {what}")]
    Damaged {
        /// Offset in the pickle.
        at: usize,
        /// What is wrong there.
        what: String,
    },
    /// One tensor cannot be had.
    #[error("tensor {name}: {what}")]
    Tensor {
        /// Its full name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

/// Containers nested deeper than this hold no weights.
const MAX_DEPTH: usize = 16;
/// Values visited in search of tensors; a pickle can share its parts and so unfold without end.
const MAX_VISITS: usize = 4_000_000;
/// Copying so many bytes gives their pages back.
const WORTH_RELEASING: usize = 1 << 20;
/// The longest full name of a tensor.
const MAX_NAME: usize = 1024;

/// An open file of tensors, memory-mapped.
#[derive(Debug)]
pub struct PickleFile {
    map: Mmap,
    tensors: BTreeMap<String, Entry>,
}

/// One tensor's place in the file.
#[derive(Clone, Debug)]
struct Entry {
    element: Element,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// The bytes from its first element to the end of its storage.
    bytes: Range<usize>,
}

impl PickleFile {
    /// Opens a file and lists its tensors. A tensor's name is the path of dictionary keys that leads
    /// to it, joined by dots.
    ///
    /// # Errors
    /// When the file cannot be read, is cut short, holds anything but data, or holds a tensor whose
    /// numbers lie outside it.
    pub fn open(path: &Path) -> Result<Self, PickleError> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only; as with every mapped weight file, whoever rewrites the file
        // while it is in use gets what they asked for.
        let map = unsafe { Mmap::map(&file)? };
        let tensors = list(&map)?;
        Ok(Self { map, tensors })
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape and number format of a tensor.
    pub fn info(&self, name: &str) -> Option<(&[usize], Element)> {
        let entry = self.tensors.get(name)?;
        Some((&entry.shape, entry.element))
    }

    /// A tensor in its stored format, contiguous, on the CPU.
    ///
    /// # Errors
    /// When there is none of that name, or candle has no such number format.
    pub fn tensor(&self, name: &str) -> Result<Tensor, PickleError> {
        let fail = |what: String| PickleError::Tensor {
            name: name.into(),
            what,
        };
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| fail("not in the file".into()))?;
        let dtype = dtype(entry.element)
            .ok_or_else(|| fail(format!("numbers of type {:?}", entry.element)))?;
        let bytes = &self.map[entry.bytes.clone()];
        let tensor = match contiguous_size(entry) {
            Some(size) => {
                Tensor::from_raw_buffer(&bytes[..size], dtype, &entry.shape, &Device::Cpu)
            }
            None => {
                Tensor::from_raw_buffer(&gather(entry, bytes), dtype, &entry.shape, &Device::Cpu)
            }
        };
        self.release(&entry.bytes);
        tensor.map_err(|error| fail(error.to_string()))
    }

    /// Gives back the memory of pages that were copied; they are read again when they are used again.
    fn release(&self, range: &Range<usize>) {
        if range.len() < WORTH_RELEASING {
            return;
        }
        // SAFETY: the map is never written, so pages that are dropped come back from the file unchanged. A refusal does
        // no harm.
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }
}

fn dtype(element: Element) -> Option<DType> {
    Some(match element {
        Element::F32 => DType::F32,
        Element::F64 => DType::F64,
        Element::F16 => DType::F16,
        Element::BF16 => DType::BF16,
        Element::I64 => DType::I64,
        Element::I32 => DType::I32,
        Element::I16 => DType::I16,
        Element::U8 | Element::Bool => DType::U8,
        Element::I8 => return None,
    })
}

fn list(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, PickleError> {
    let entries = zip::entries(bytes)?;
    let pickle_name = entries
        .keys()
        .find(|name| name.ends_with("/data.pkl") || *name == "data.pkl")
        .ok_or_else(|| PickleError::Archive("a zip archive without data.pkl in it".into()))?;
    let root = pickle_name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && &bytes[order.clone()] == b"big"
    {
        let what = "its numbers are big-endian: save it again on a little-endian machine";
        return Err(PickleError::Archive(what.into()));
    }
    let pickle = machine::run(&bytes[entries[pickle_name].clone()])?;
    let mut walk = Walk {
        pickle: &pickle,
        root,
        entries: &entries,
        found: BTreeMap::new(),
        visits: 0,
    };
    walk.visit(&pickle.top, "", 0)?;
    Ok(walk.found)
}

/// The search for tensors through the containers of a pickle.
struct Walk<'a> {
    pickle: &'a Pickle,
    root: &'a str,
    entries: &'a HashMap<String, Range<usize>>,
    found: BTreeMap<String, Entry>,
    visits: usize,
}

impl Walk<'_> {
    fn visit(&mut self, value: &Value, name: &str, depth: usize) -> Result<(), PickleError> {
        self.visits += 1;
        if self.visits > MAX_VISITS || depth > MAX_DEPTH || name.len() > MAX_NAME {
            let what = "its containers unfold without end";
            return Err(PickleError::Archive(what.into()));
        }
        let pickle = self.pickle;
        match value {
            Value::Tensor(tensor) => {
                let entry = self.locate(tensor, name)?;
                self.found.insert(name.into(), entry);
            }
            Value::Dict(at) => {
                for (key, value) in &pickle.dicts[*at] {
                    let key = match key {
                        Value::Str(key) if key.len() <= MAX_NAME => key.to_string(),
                        Value::Int(key) => key.to_string(),
                        _ => continue,
                    };
                    self.visit(value, &join(name, &key), depth + 1)?;
                }
            }
            Value::Sequence(at) => {
                for (index, value) in pickle.sequences[*at].iter().enumerate() {
                    self.visit(value, &join(name, &index.to_string()), depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn locate(&self, tensor: &Strided, name: &str) -> Result<Entry, PickleError> {
        let fail = |what: &str| PickleError::Tensor {
            name: name.into(),
            what: what.into(),
        };
        let stored = self
            .entries
            .get(&format!("{}data/{}", self.root, tensor.storage.key))
            .ok_or_else(|| fail("its numbers are not in the archive"))?;
        let size = tensor.storage.element.size();
        let capacity = stored.len() / size;
        let overrun = || fail("its shape reaches beyond its numbers");
        let extent = extent(tensor).ok_or_else(overrun)?;
        let end = tensor.offset.checked_add(extent).ok_or_else(overrun)?;
        let count = count(&tensor.shape).ok_or_else(overrun)?;
        // A view that repeats its numbers could ask for any amount of memory.
        if end > capacity || count > capacity {
            return Err(overrun());
        }
        Ok(Entry {
            element: tensor.storage.element,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            bytes: stored.start + tensor.offset * size..stored.end,
        })
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.into()
    } else {
        format!("{prefix}.{key}")
    }
}

fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |n: usize, &d| n.checked_mul(d))
}

/// Elements from a view's first to its last; `None` when the view makes no sense.
fn extent(tensor: &Strided) -> Option<usize> {
    if tensor.shape.len() != tensor.strides.len() {
        return None;
    }
    if tensor.shape.contains(&0) {
        return Some(0);
    }
    let mut last = 0usize;
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides) {
        last = last.checked_add((size - 1).checked_mul(stride)?)?;
    }
    last.checked_add(1)
}

/// The size in bytes of a row-major tensor; `None` when its elements lie otherwise.
fn contiguous_size(entry: &Entry) -> Option<usize> {
    if entry.shape.contains(&0) {
        return Some(0);
    }
    let mut expected = 1;
    for (&size, &stride) in entry.shape.iter().zip(&entry.strides).rev() {
        if size != 1 && stride != expected {
            return None;
        }
        expected *= size;
    }
    Some(expected * entry.element.size())
}

/// The elements of a strided tensor in row-major order.
fn gather(entry: &Entry, bytes: &[u8]) -> Vec<u8> {
    let size = entry.element.size();
    let count: usize = entry.shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; entry.shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(&entry.strides).map(|(i, s)| i * s).sum();
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for (i, &n) in index.iter_mut().zip(&entry.shape).rev() {
            *i += 1;
            if *i < n {
                break;
            }
            *i = 0;
        }
    }
    out
}
