//! Where tensors come from, by name, and a view of them under a prefix.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use super::error::{PublicError, Result};
use crate::{
    error::ModelError,
    numbers::{self, with_numbers},
    pickle::PickleFile,
    weights::WeightFiles,
};

/// Named tensors: a file, several files, or memory.
pub trait TensorSource: Send + Sync {
    /// All names, in order.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor, if there is one of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A tensor as it is stored, contiguous, on the CPU.
    ///
    /// # Errors
    /// When it is missing, or cannot be read.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// Some rows of a matrix, for tables too large to be read whole.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or a row is beyond its end.
    fn rows(&self, name: &str, rows: &[u32]) -> Result<Tensor> {
        let table = self.tensor(name)?;
        let rows = Tensor::new(rows, table.device())?;
        Ok(table.index_select(&rows, 0)?)
    }
}

fn missing(name: &str) -> PublicError {
    ModelError::Missing(name.into()).into()
}

impl TensorSource for HashMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.get(name)?.dims().to_vec())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.get(name).cloned().ok_or_else(|| missing(name))
    }
}

impl TensorSource for PickleFile {
    fn names(&self) -> Vec<String> {
        PickleFile::names(self).map(String::from).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.info(name)?.0.to_vec())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.info(name).ok_or_else(|| missing(name))?;
        Ok(PickleFile::tensor(self, name)?)
    }
}

impl<S: TensorSource + ?Sized> TensorSource for std::sync::Arc<S> {
    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        (**self).shape(name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        (**self).tensor(name)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Tensor> {
        (**self).rows(name, rows)
    }
}

impl TensorSource for WeightFiles {
    fn names(&self) -> Vec<String> {
        WeightFiles::names(self)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(WeightFiles::shape(self, name)?.to_vec())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        Ok(self.load(name, &Device::Cpu)?)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Tensor> {
        let dtype = self.dtype(name).ok_or_else(|| missing(name))?;
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            // Numbers in fewer bits are not taken apart by rows.
            let rows = Tensor::new(rows, &Device::Cpu)?;
            return Ok(self.load(name, &Device::Cpu)?.index_select(&rows, 0)?);
        }
        let table = self.bytes(name).ok_or_else(|| missing(name))?;
        let [count, width] = *WeightFiles::shape(self, name).ok_or_else(|| missing(name))? else {
            return Err(PublicError::Input(format!("{name} is no matrix")));
        };
        let size = table.len() / count.max(1);
        let mut chosen = Vec::with_capacity(rows.len() * size);
        for &row in rows {
            let row = row as usize;
            let bytes = table.get(row * size..(row + 1) * size);
            let beyond = || PublicError::Input(format!("{name} has no row {row}"));
            chosen.extend_from_slice(bytes.ok_or_else(beyond)?);
        }
        // The pages around the rows are not needed in memory.
        self.release(name);
        let dtype = DType::try_from(dtype)?;
        Ok(Tensor::from_raw_buffer(
            &chosen,
            dtype,
            &[rows.len(), width],
            &Device::Cpu,
        )?)
    }
}

/// Tensors under other names than their source's: a prefix taken off, wrappers unwrapped.
pub struct Renamed<S> {
    source: S,
    /// New name to the source's name.
    names: BTreeMap<String, String>,
}

impl<S: TensorSource> Renamed<S> {
    /// Keeps the tensors for which `rename` gives a name.
    pub fn new(source: S, rename: impl Fn(&str) -> Option<String>) -> Self {
        let names = source.names().into_iter();
        let names = names.filter_map(|name| Some((rename(&name)?, name)));
        Self {
            names: names.collect(),
            source,
        }
    }

    fn old(&self, name: &str) -> Result<&str> {
        let old = self.names.get(name).ok_or_else(|| missing(name))?;
        Ok(old)
    }
}

impl<S: TensorSource> TensorSource for Renamed<S> {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(self.old(name).ok()?)
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.source.tensor(self.old(name)?)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Tensor> {
        self.source.rows(self.old(name)?, rows)
    }
}

/// The tensors under one prefix of a source.
#[derive(Clone)]
pub struct Checkpoint<'a> {
    source: &'a dyn TensorSource,
    prefix: String,
    device: Device,
}

impl<'a> Checkpoint<'a> {
    /// All tensors of a source.
    pub fn new(source: &'a dyn TensorSource) -> Self {
        Self {
            source,
            prefix: String::new(),
            device: Device::Cpu,
        }
    }

    /// The same tensors, put on a device as they are read.
    pub fn on(self, device: &Device) -> Self {
        Self {
            device: device.clone(),
            ..self
        }
    }

    /// Where tensors are put.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tensors one step down: `w.at("a").at(0)` has those called `a.0.…`.
    pub fn at(&self, part: impl std::fmt::Display) -> Self {
        Self {
            source: self.source,
            prefix: format!("{}{part}.", self.prefix),
            device: self.device.clone(),
        }
    }

    /// Whether the tensor exists.
    pub fn has(&self, name: &str) -> bool {
        self.source.shape(&self.name(name)).is_some()
    }

    /// How many parts numbered from 0 hold the tensor `name`.
    pub fn count(&self, name: &str) -> usize {
        (0..).take_while(|i| self.at(i).has(name)).count()
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let name = self.name(name);
        self.source.shape(&name).ok_or_else(|| missing(&name))
    }

    /// A tensor in 32-bit floats, checked to be finite.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or holds what is no number.
    pub fn f32(&self, name: &str) -> Result<Tensor> {
        let name = self.name(name);
        let tensor = finite(self.source.tensor(&name)?.to_dtype(DType::F32)?, name)?;
        Ok(tensor.to_device(&self.device)?)
    }

    /// As [`Checkpoint::f32`], of this shape.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`], and when the shape differs.
    pub fn f32_of(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.expect(name, shape)?;
        self.f32(name)
    }

    /// A matrix for products: bfloat16 stays as it is, anything else becomes 32-bit floats.
    ///
    /// # Errors
    /// When it is missing, of another shape, cannot be read, or holds what is no number.
    pub fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.expect(name, shape)?;
        let full = self.name(name);
        let tensor = self.source.tensor(&full)?;
        match tensor.dtype() {
            DType::BF16 => Ok(finite(tensor, full)?.to_device(&self.device)?),
            _ => self.f32(name),
        }
    }

    /// Some rows of a matrix in 32-bit floats.
    ///
    /// # Errors
    /// When it is missing, cannot be read, a row is beyond its end, or holds what is no number.
    pub fn rows(&self, name: &str, rows: &[u32]) -> Result<Tensor> {
        let name = self.name(name);
        let tensor = finite(self.source.rows(&name, rows)?.to_dtype(DType::F32)?, name)?;
        Ok(tensor.to_device(&self.device)?)
    }

    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = self.shape(name)?;
        if found == shape {
            return Ok(());
        }
        Err(ModelError::Shape {
            name: self.name(name),
            got: found,
            want: shape.to_vec(),
        }
        .into())
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The tensor `name`, if it holds numbers only.
fn finite(tensor: Tensor, name: String) -> Result<Tensor> {
    match with_numbers(&tensor, |numbers| Ok(numbers::finite(&numbers)))? {
        true => Ok(tensor),
        false => Err(PublicError::NotFinite { name }),
    }
}
