//! Matrices where they lie in mapped files: read in place, fetched ahead, and let go.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use gallop_kernels::{Frozen, Numbers};
use half::bf16;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use safetensors::Dtype;

use super::files::{Bytes, Shard, WeightFiles};
use crate::error::{ModelError, Result};
use crate::numbers::finite;
use crate::quant::{Quant, expand};

/// The least distance between pages that are touched to have them read.
const PAGE: usize = 4096;

/// A matrix in mapped files, used where it lies. Cheap to clone; keeps the files open.
#[derive(Clone)]
pub struct MappedMatrix {
    files: Arc<WeightFiles>,
    name: String,
    rows: usize,
    columns: usize,
}

impl MappedMatrix {
    /// The matrix `name`, if it can be used where it lies: f32, bf16 or fewer bits, and aligned.
    pub fn new(files: &Arc<WeightFiles>, name: &str) -> Option<Self> {
        let [rows, columns] = *files.shape(name)? else {
            return None;
        };
        Frozen::new(files.numbers(name)?, rows, columns).ok()?;
        Some(Self {
            files: files.clone(),
            name: name.into(),
            rows,
            columns,
        })
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The matrix, for products.
    ///
    /// # Errors
    /// Never: it was looked at when it was made.
    pub fn frozen(&self) -> Result<Frozen<'_>> {
        let missing = || ModelError::Missing(self.name.clone());
        let numbers = self.files.numbers(&self.name).ok_or_else(missing)?;
        Ok(Frozen::new(numbers, self.rows, self.columns)?)
    }

    /// Bytes in the files.
    pub fn bytes(&self) -> u64 {
        self.files.stored_bytes(&self.name)
    }

    /// Its form, if it is kept in fewer bits.
    pub fn quant(&self) -> Option<Quant> {
        self.files.quant(&self.name)
    }

    /// Checks that it holds numbers only.
    ///
    /// # Errors
    /// When one is infinite or not a number; names the file.
    pub fn check_finite(&self) -> Result<()> {
        match self.files.numbers(&self.name) {
            Some(numbers) if !finite(&numbers) => Err(self.files.not_finite(&self.name)),
            _ => Ok(()),
        }
    }

    /// Reads it from the disk now, rather than when its numbers are first used.
    pub fn fetch(&self) {
        self.files
            .each_part(&self.name, |shard, range| shard.fetch(range));
    }

    /// Gives its memory back; it is read again when it is used again.
    pub fn release(&self) {
        self.files.release(&self.name);
    }
}

/// The stored form of a matrix in fewer bits.
struct Few<'a> {
    quant: Quant,
    bytes: &'a [u8],
    scales: &'a [u8],
}

impl WeightFiles {
    /// The form of a matrix in fewer bits.
    pub fn quant(&self, name: &str) -> Option<Quant> {
        let scale = self.scales.get(name)?;
        let scale = self.shards[scale.shard].metadata.info(&scale_name(name))?;
        Some(match (self.dtype(name)?, scale.shape.len()) {
            (Dtype::F8_E4M3, _) => Quant::Fp8,
            (_, 2) => Quant::Q4,
            _ => Quant::Int8,
        })
    }

    /// The numbers of a matrix in place, if the kernels can read them so.
    pub fn numbers(&self, name: &str) -> Option<Numbers<'_>> {
        if let Some(few) = self.few(name) {
            return match few.quant {
                Quant::Int8 => Some(Numbers::Int8 {
                    bytes: few.bytes,
                    scales: floats(few.scales)?,
                }),
                Quant::Fp8 => Some(Numbers::Fp8 {
                    bytes: few.bytes,
                    scales: floats(few.scales)?,
                }),
                Quant::Q4 => Some(Numbers::Q4 {
                    bytes: few.bytes,
                    scales: halves(few.scales)?,
                }),
            };
        }
        match self.dtype(name)? {
            Dtype::F32 => floats(self.bytes(name)?).map(Numbers::F32),
            Dtype::BF16 => halves(self.bytes(name)?).map(Numbers::Bf16),
            _ => None,
        }
    }

    /// Bytes of a tensor and its scales.
    pub fn stored_bytes(&self, name: &str) -> u64 {
        let mut bytes = 0;
        self.each_part(name, |_, range| bytes += range.len() as u64);
        bytes
    }

    /// Gives back the memory of a tensor's pages; they are read again when they are used again.
    pub fn release(&self, name: &str) {
        self.each_part(name, |shard, range| shard.release(range));
    }

    /// A matrix in fewer bits, in bfloat16.
    pub(super) fn expanded(&self, name: &str) -> Result<Tensor> {
        let wrong = |why: &str| match self.routes.get(name) {
            Some(shard) => ModelError::format(&self.shards[*shard].path, format!("`{name}` {why}")),
            None => ModelError::Missing(name.into()),
        };
        let few = self
            .few(name)
            .ok_or_else(|| wrong("has scales of a type not known here"))?;
        let &[rows, columns] = self.shape(name).unwrap_or_default() else {
            return Err(wrong("has scales but is no matrix"));
        };
        let (floats, halves);
        let bytes = few.bytes;
        let numbers = match few.quant {
            Quant::Q4 => {
                halves = copied(few.scales, bf16::from_le_bytes);
                Numbers::Q4 {
                    bytes,
                    scales: &halves,
                }
            }
            quant => {
                floats = copied(few.scales, f32::from_le_bytes);
                match quant {
                    Quant::Fp8 => Numbers::Fp8 {
                        bytes,
                        scales: &floats,
                    },
                    _ => Numbers::Int8 {
                        bytes,
                        scales: &floats,
                    },
                }
            }
        };
        let matrix = Frozen::new(numbers, rows, columns);
        expand(&matrix.map_err(|_| wrong("has scales that do not fit it"))?)
    }

    /// An error about a weight that holds what is no number.
    pub(crate) fn not_finite(&self, name: &str) -> ModelError {
        let shard = self.routes.get(name);
        let path = shard.map(|shard| self.shards[*shard].path.clone());
        let why =
            format!("the weight `{name}` holds a value that is not finite: the file is damaged");
        ModelError::format(path.unwrap_or_default(), why)
    }

    fn few(&self, name: &str) -> Option<Few<'_>> {
        let quant = self.quant(name)?;
        let shard = &self.shards[self.scales.get(name)?.shard];
        let info = shard.metadata.info(&scale_name(name))?;
        let wanted = match quant {
            Quant::Q4 => Dtype::BF16,
            _ => Dtype::F32,
        };
        (info.dtype == wanted).then_some(Few {
            quant,
            bytes: self.bytes(name)?,
            scales: shard.part(&scale_name(name))?,
        })
    }

    /// The places of a tensor and of its scales.
    fn each_part(&self, name: &str, mut f: impl FnMut(&Shard, Range<usize>)) {
        let shard = self
            .routes
            .get(name)
            .map(|shard| (*shard, Cow::Borrowed(name)));
        let scale = self.scales.get(name);
        let scale = scale.map(|scale| (scale.shard, Cow::Owned(scale_name(name))));
        for (shard, name) in shard.into_iter().chain(scale) {
            let shard = &self.shards[shard];
            if let Some(range) = shard.range(&name) {
                f(shard, range);
            }
        }
    }
}

/// Where the scales of a matrix are.
pub(super) fn scale_name(name: &str) -> String {
    format!("{name}.scale")
}

impl Shard {
    fn fetch(&self, range: Range<usize>) {
        let Bytes::Mapped(map) = &self.map else {
            return;
        };
        // Reading in is started for the whole range before the first page is waited for. Advice that is refused does
        // no harm: the pages are then touched one by one.
        let _ = map.advise_range(Advice::WillNeed, range.start, range.len());
        if !populate(map, &range) {
            let touch = |sum: u8, at: usize| sum ^ map[at];
            std::hint::black_box(range.step_by(PAGE).fold(0, touch));
        }
    }

    fn release(&self, range: Range<usize>) {
        let Bytes::Mapped(map) = &self.map else {
            return;
        };
        // SAFETY: the map is shared and never written, so pages that are dropped come back from the file unchanged.
        // A refusal does no harm.
        let _ = unsafe {
            map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }
}

#[cfg(target_os = "linux")]
fn populate(map: &Mmap, range: &Range<usize>) -> bool {
    map.advise_range(Advice::PopulateRead, range.start, range.len())
        .is_ok()
}

#[cfg(not(target_os = "linux"))]
fn populate(_: &Mmap, _: &Range<usize>) -> bool {
    false
}

fn floats(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern is a number.
    match unsafe { bytes.align_to() } {
        ([], numbers, []) => Some(numbers),
        _ => None,
    }
}

fn halves(bytes: &[u8]) -> Option<&[bf16]> {
    // SAFETY: every bit pattern is a number.
    match unsafe { bytes.align_to() } {
        ([], numbers, []) => Some(numbers),
        _ => None,
    }
}

fn copied<T, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|bytes| number(*bytes))
        .collect()
}
