//! The matrix of a linear map, wherever its numbers are.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use gallop_kernels::{
    BranchMatrix, Precision, Resident, Segments, linear, linear_frozen, linear_resident,
    sum_in_parts,
};

use crate::error::{ModelError, Result};
use crate::numbers::{finite, with_numbers};
use crate::quant::{MIN_SIDE, Quant, Quantized, expand};
use crate::weights::{Init, MappedMatrix, Weights};

/// What is done to matrices when they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Nothing: they are used as they are stored.
    #[default]
    Stored,
    /// Those of f32 are rounded to bf16. Products of bf16 inputs stay the same.
    Bf16,
    /// The large ones of inner layers are put in fewer bits, if they are not; those of f32 are rounded to bf16.
    Fewer(Quant),
}

/// The matrix of a linear map, the groups of a segmented one stacked along the rows.
#[derive(Clone)]
pub(super) enum Matrix {
    /// In memory; it can be trained.
    Tensor(Tensor),
    /// Used where it lies in mapped files.
    Mapped(MappedMatrix),
    /// In memory, in fewer bits.
    Small(Arc<Quantized>),
    /// In the memory of another device than the processor, as it is stored.
    Resident(Resident),
}

/// How the matrices of one layer are to be had.
#[derive(Clone)]
pub(super) struct MatrixSource {
    /// Where they are.
    pub weights: Weights,
    /// What is done to them, or nothing and as tensors, to be trained.
    pub form: Option<Form>,
    /// Whether their numbers are looked at, where that cannot be done later.
    pub look: bool,
}

impl MatrixSource {
    /// The place `name` below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            weights: self.weights.at(name),
            ..*self
        }
    }
}

/// What a matrix weighs in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Bytes while it is there.
    pub kept: u64,
    /// Bytes beside these while it is made.
    pub making: u64,
}

impl Matrix {
    /// The matrix `name` of such a shape.
    pub fn new(from: &MatrixSource, shape: (usize, usize), name: &str, init: Init) -> Result<Self> {
        let Some(form) = from.form else {
            return Ok(Self::Tensor(from.weights.get(shape, name, init)?));
        };
        let Some(mapped) = from.weights.mapped(shape, name)? else {
            // A matrix that a change is merged into stays as wide as it is: in fewer bits the change would be lost.
            let tensor = from.weights.get(shape, name, init)?;
            return Ok(Self::Tensor(narrowed(tensor, form)?));
        };
        if !from.weights.device().is_cpu() {
            return Self::resident(from, form, &mapped);
        }
        let made = match target(form, &mapped) {
            None => return Ok(Self::Mapped(mapped)),
            Some(Target::Bf16) => Self::Tensor(expand(&mapped.frozen()?)?),
            Some(Target::Few(quant)) => {
                Self::Small(Arc::new(quant.quantize_frozen(&mapped.frozen()?)?.0))
            }
        };
        mapped.release();
        Ok(made)
    }

    /// A copy on the device of `from`. The pages of the files stay as they are: the system takes them back when it needs
    /// them, and a layer that is copied in each step finds them.
    fn resident(from: &MatrixSource, form: Form, mapped: &MappedMatrix) -> Result<Self> {
        let device = from.weights.device();
        mapped.fetch();
        if from.look {
            mapped.check_finite()?;
        }
        Ok(match target(form, mapped) {
            None => Self::Resident(Resident::new(&mapped.frozen()?, device)?),
            Some(Target::Bf16) => Self::Tensor(expand(&mapped.frozen()?)?.to_device(device)?),
            Some(Target::Few(quant)) => {
                let small = quant.quantize_frozen(&mapped.frozen()?)?.0;
                Self::Resident(Resident::new(&small.frozen()?, device)?)
            }
        })
    }

    /// What the matrix `name` will weigh.
    pub fn weight(from: &MatrixSource, shape: (usize, usize), name: &str) -> Result<Weight> {
        let count = (shape.0 * shape.1) as u64;
        let form = from.form.unwrap_or_default();
        let Some(mapped) = from.weights.mapped(shape, name)? else {
            // The stored numbers and, where a change is merged, its sum.
            let kept = 2 * count;
            return Ok(Weight { kept, making: kept });
        };
        let stored = mapped.bytes();
        let cpu = from.weights.device().is_cpu();
        let kept = match target(form, &mapped) {
            None => {
                // Other devices expand a matrix that is not bf16 each time they use it.
                let making = if cpu || stored == 2 * count {
                    0
                } else {
                    2 * count
                };
                return Ok(Weight {
                    kept: stored,
                    making,
                });
            }
            Some(Target::Bf16) => 2 * count,
            Some(Target::Few(quant)) => {
                (shape.0 * (quant.row_bytes(shape.1) + quant.scale_bytes(shape.1))) as u64
            }
        };
        // The processor makes it beside what is stored; other devices get it made, and expand it.
        let making = if cpu { stored } else { 2 * count };
        Ok(Weight { kept, making })
    }

    /// Numbers of a matrix of one group that stays in a processor's caches beside the rows that pass.
    const NEAR: usize = 2 << 20;

    /// The first `groups` of `sets` stacked matrices, to be taken by a branch in one operation; nothing if they are
    /// resident elsewhere, or too large for a processor's caches.
    pub fn near(&self, sets: usize, groups: usize) -> Result<Option<BranchMatrix<'_>>> {
        let Ok(matrix) = self.first(sets, groups)? else {
            return Ok(None);
        };
        let (rows, columns) = matrix.dims()?;
        Ok((rows * columns <= Self::NEAR * groups.min(sets)).then_some(matrix))
    }

    /// The first `groups` of `sets` stacked matrices, or where they are on another device.
    fn first(
        &self,
        sets: usize,
        groups: usize,
    ) -> Result<std::result::Result<BranchMatrix<'_>, &Resident>> {
        let groups = groups.min(sets);
        let frozen = match self {
            Self::Mapped(mapped) => mapped.frozen()?,
            Self::Small(small) => small.frozen()?,
            Self::Resident(matrix) => return Ok(Err(matrix)),
            Self::Tensor(weight) => {
                return Ok(Ok(BranchMatrix::Tensor(match groups == sets {
                    true => weight.clone(),
                    false => weight.narrow(0, 0, weight.dim(0)? / sets * groups)?,
                })));
            }
        };
        let used = frozen.dims().0 / sets * groups;
        Ok(Ok(BranchMatrix::Frozen(frozen.rows(0..used))))
    }

    /// `x W^T`, each row by the matrix of its group; of `sets` stacked matrices only the first groups may be used.
    pub fn linear(&self, x: &Tensor, sets: usize, rows: (&Segments, Precision)) -> Result<Tensor> {
        let (segments, precision) = rows;
        let groups = segments.groups();
        Ok(match self.first(sets, groups)? {
            Ok(BranchMatrix::Tensor(weight)) => linear(x, &weight, None, segments, precision)?,
            Ok(BranchMatrix::Frozen(weight)) => linear_frozen(x, &weight, segments, precision)?,
            Err(matrix) => {
                let used = matrix.dims().0 / sets * groups.min(sets);
                linear_resident(x, matrix, used, segments, precision)?
            }
        })
    }

    /// Reads it from the disk now, if it is there.
    pub fn fetch(&self) {
        if let Self::Mapped(mapped) = self {
            mapped.fetch();
        }
    }

    /// Gives back the memory of mapped files.
    pub fn release(&self) {
        if let Self::Mapped(mapped) = self {
            mapped.release();
        }
    }

    /// Checks that it holds numbers only.
    pub fn check_finite(&self, name: &str) -> Result<()> {
        let fine = match self {
            Self::Mapped(mapped) => return mapped.check_finite(),
            Self::Small(small) => finite(&small.numbers()),
            // They were looked at before they were copied.
            Self::Resident(_) => true,
            Self::Tensor(weight) if !weight.device().is_cpu() => finite_sums(weight)?,
            Self::Tensor(weight) => with_numbers(weight, |numbers| Ok(finite(&numbers)))?,
        };
        let why = || format!("the weight `{name}` holds a value that is not finite");
        fine.then_some(()).ok_or_else(|| ModelError::Config(why()))
    }
}

/// What a stored matrix is to become.
enum Target {
    Bf16,
    Few(Quant),
}

fn target(form: Form, mapped: &MappedMatrix) -> Option<Target> {
    if mapped.quant().is_some() {
        return None;
    }
    let (rows, columns) = mapped.dims();
    let wide = mapped.bytes() > (2 * rows * columns) as u64;
    match form {
        Form::Stored => None,
        Form::Fewer(quant) if rows.min(columns) >= MIN_SIDE && quant.takes(columns) => {
            Some(Target::Few(quant))
        }
        Form::Bf16 | Form::Fewer(_) => wide.then_some(Target::Bf16),
    }
}

/// Whether all numbers are finite, of a tensor on any device: a sum of magnitudes is finite only if all its terms are.
/// Some rows at a time, as the sums are in f32.
fn finite_sums(weight: &Tensor) -> Result<bool> {
    const ROWS: usize = 4096;
    let rows = weight.dim(0)?;
    for start in (0..rows).step_by(ROWS) {
        let part = weight.narrow(0, start, ROWS.min(rows - start))?;
        let sum = sum_in_parts(&part.to_dtype(DType::F32)?.abs()?)?;
        if !sum.to_scalar::<f32>()?.is_finite() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn narrowed(tensor: Tensor, form: Form) -> Result<Tensor> {
    Ok(match form {
        Form::Stored => tensor,
        Form::Bf16 | Form::Fewer(_) => tensor.to_dtype(DType::BF16)?,
    })
}
