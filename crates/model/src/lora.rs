//! Low-rank changes to a model's weights (LoRA), merged into each weight as it is read.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};

use crate::{
    error::{ModelError, Result},
    numbers::{finite, with_numbers},
    weights::WeightFiles,
};

/// Rows of a matrix that are changed at a time.
const MERGED_ROWS: usize = 1024;

/// What trainers put before a module's name.
const PREFIXES: [&str; 8] = [
    "base_model.model.",
    "diffusion_model.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    "transformer.",
    "dit.",
    "model.",
];

/// What trainers put after it, and what the tensor then is.
const SUFFIXES: [(&str, Role); 12] = [
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".diff", Role::Difference),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Alpha,
    Difference,
}

/// The change to one matrix.
#[derive(Clone, Debug, Default)]
struct Change {
    /// `[rank, in]`.
    down: Option<Tensor>,
    /// `[out, rank]`.
    up: Option<Tensor>,
    /// The scale times the rank; the rank itself where absent.
    alpha: Option<f64>,
    /// `[out, in]`.
    difference: Option<Tensor>,
}

/// A file of changes, and how strongly they are made.
#[derive(Clone, Debug)]
pub struct Lora {
    path: PathBuf,
    strength: f64,
    /// By the module's name with `_` for `.`, since some trainers write it so.
    changes: HashMap<String, Change>,
}

/// `file` or `file:strength`; a strength is a number, 1 where absent.
pub fn parse_lora(text: &str) -> (PathBuf, f64) {
    if let Some((file, strength)) = text.rsplit_once(':')
        && let Ok(strength) = strength.parse()
        && !file.is_empty()
    {
        return (file.into(), strength);
    }
    (text.into(), 1.0)
}

/// Opens several files, each with its strength, for [`crate::Weights::with_loras`], and says what of them a model
/// with the weights `names` does not have.
///
/// # Errors
/// As [`Lora::open`], and when a file changes nothing that the model has.
pub fn open_loras(
    files: &[(PathBuf, f64)],
    names: &[String],
) -> Result<(Arc<Vec<Lora>>, Vec<String>)> {
    let mut unmatched = Vec::new();
    let mut loras = Vec::with_capacity(files.len());
    for (path, strength) in files {
        let lora = Lora::open(path, *strength)?;
        let missing = lora.unmatched(names);
        if missing.len() == lora.changes.len() {
            let first = missing.first().map_or("", String::as_str);
            let why = format!(
                "it changes nothing that this model has (`{first}`): it is for another model"
            );
            return Err(ModelError::format(path, why));
        }
        unmatched.extend(missing);
        loras.push(lora);
    }
    Ok((Arc::new(loras), unmatched))
}

impl Lora {
    /// Reads a safetensors file of low-rank matrices in the key styles of the usual trainers.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else than such matrices.
    pub fn open(path: &Path, strength: f64) -> Result<Self> {
        let files = WeightFiles::open(path)?;
        let mut changes: HashMap<String, Change> = HashMap::new();
        for name in files.names() {
            let (module, role) = module(&name).ok_or_else(|| {
                ModelError::format(path, format!("`{name}` is no low-rank change known here"))
            })?;
            let tensor = files.load(&name, &Device::Cpu)?.to_dtype(DType::F32)?;
            if !with_numbers(&tensor, |numbers| Ok(finite(&numbers)))? {
                let why = format!("`{name}` holds a value that is not finite");
                return Err(ModelError::format(path, why));
            }
            let change = changes.entry(module).or_default();
            match role {
                Role::Down => change.down = Some(tensor),
                Role::Up => change.up = Some(tensor),
                Role::Difference => change.difference = Some(tensor),
                Role::Alpha => {
                    let alpha = tensor.flatten_all()?.get(0)?.to_scalar::<f32>()?;
                    change.alpha = Some(f64::from(alpha));
                }
            }
        }
        let lora = Self {
            path: path.into(),
            strength,
            changes,
        };
        lora.check()?;
        Ok(lora)
    }

    fn check(&self) -> Result<()> {
        for (module, change) in &self.changes {
            let whole = match (&change.down, &change.up) {
                (Some(down), Some(up)) => {
                    let pair = down.rank() == 2 && up.rank() == 2 && down.dim(0)? == up.dim(1)?;
                    let full = change.difference.as_ref().map(Tensor::dims);
                    pair && full.is_none_or(|full| change.shape().is_ok_and(|s| s == full))
                }
                (None, None) => change.difference.is_some(),
                _ => false,
            };
            if !whole {
                let why = format!("the change of `{module}` is not a pair of matrices that fit");
                return Err(ModelError::format(&self.path, why));
            }
        }
        if self.changes.is_empty() {
            return Err(ModelError::format(&self.path, "it holds no change"));
        }
        Ok(())
    }

    /// The weight `name`, changed where this file changes it, in its own number type.
    ///
    /// # Errors
    /// When the change has another shape than the weight.
    pub fn merge(&self, name: &str, weight: &Tensor) -> Result<Tensor> {
        let Some(change) = self.changes.get(&plain(name)) else {
            return Ok(weight.clone());
        };
        self.check_shape(name, weight.dims())?;
        let shape = weight.dims();
        // Some rows at a time: the sums are in f32, and a whole matrix of them would be large.
        let mut parts = Vec::with_capacity(shape[0].div_ceil(MERGED_ROWS));
        for row in (0..shape[0]).step_by(MERGED_ROWS) {
            let rows = row..(row + MERGED_ROWS).min(shape[0]);
            let old = weight.narrow(0, row, rows.len())?;
            let delta = (change.delta(rows)? * self.strength)?;
            let sum = (old.to_dtype(DType::F32)? + delta)?;
            parts.push(sum.to_dtype(weight.dtype())?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Checks that the change of the weight `name`, if there is one, is of the weight's shape.
    ///
    /// # Errors
    /// When it is not; names the file.
    pub fn check_shape(&self, name: &str, weight: &[usize]) -> Result<()> {
        let Some(change) = self.changes.get(&plain(name)) else {
            return Ok(());
        };
        let shape = change.shape()?;
        if shape == weight {
            return Ok(());
        }
        let why =
            format!("it changes `{name}` by a matrix of {shape:?}, but the model's is {weight:?}");
        Err(ModelError::format(&self.path, why))
    }

    /// Whether this file changes the weight `name`.
    pub fn changes(&self, name: &str) -> bool {
        self.changes.contains_key(&plain(name))
    }

    /// The modules that it changes but a model with these weights lacks.
    pub fn unmatched(&self, names: &[String]) -> Vec<String> {
        let known: std::collections::HashSet<String> =
            names.iter().map(|name| plain(name)).collect();
        let modules = self
            .changes
            .keys()
            .filter(|module| !known.contains(*module));
        let mut missing: Vec<String> = modules.cloned().collect();
        missing.sort_unstable();
        missing
    }
}

impl Change {
    /// Of the matrix that is changed.
    fn shape(&self) -> Result<Vec<usize>> {
        match (&self.down, &self.up, &self.difference) {
            (Some(down), Some(up), _) => Ok(vec![up.dim(0)?, down.dim(1)?]),
            (_, _, Some(difference)) => Ok(difference.dims().to_vec()),
            _ => Err(ModelError::Missing("lora".into())),
        }
    }

    /// Some rows of the change.
    fn delta(&self, rows: Range<usize>) -> Result<Tensor> {
        let part = |matrix: &Tensor| matrix.narrow(0, rows.start, rows.len());
        let full = self.difference.as_ref().map(part).transpose()?;
        let (Some(down), Some(up)) = (&self.down, &self.up) else {
            return full.ok_or_else(|| ModelError::Missing("lora".into()));
        };
        let rank = down.dim(0)? as f64;
        let scale = self.alpha.map_or(1.0, |alpha| alpha / rank);
        let low = (part(up)?.matmul(down)? * scale)?;
        Ok(match full {
            Some(full) => (low + full)?,
            None => low,
        })
    }
}

/// A weight's module, with `_` for `.`, since some trainers write it so.
fn plain(name: &str) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    name.replace('.', "_")
}

/// The module that a tensor is about, with `_` for `.`, and what it is of it.
fn module(name: &str) -> Option<(String, Role)> {
    let (mut name, role) = SUFFIXES
        .iter()
        .find_map(|(suffix, role)| Some((name.strip_suffix(suffix)?, *role)))?;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    Some((name.replace('.', "_"), role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Init, Weights, save_weights};
    use std::collections::BTreeMap;

    const NAME: &str = "block.layers.3.attention.linear_qkv";

    fn tensor(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn write(folder: &Path, tensors: Vec<(String, Tensor)>) -> PathBuf {
        let path = folder.join("lora.safetensors");
        save_weights(&path, tensors, &BTreeMap::new()).unwrap();
        path
    }

    /// A change of rank 1 whose product is [[3, 6], [4, 8]].
    fn pair(down: String, up: String) -> Vec<(String, Tensor)> {
        vec![
            (down, tensor(&[1., 2.], (1, 2))),
            (up, tensor(&[3., 4.], (2, 1))),
        ]
    }

    #[test]
    fn every_key_style_makes_the_same_change() {
        let folder = tempfile::tempdir().unwrap();
        let flat = NAME.replace('.', "_");
        for (down, up) in [
            (
                format!("base_model.model.{NAME}.lora_A.weight"),
                format!("base_model.model.{NAME}.lora_B.weight"),
            ),
            (
                format!("{NAME}.lora_A.default.weight"),
                format!("{NAME}.lora_B.default.weight"),
            ),
            (
                format!("transformer.{NAME}.lora.down.weight"),
                format!("transformer.{NAME}.lora.up.weight"),
            ),
            (
                format!("diffusion_model.{NAME}.lora_down.weight"),
                format!("diffusion_model.{NAME}.lora_up.weight"),
            ),
            (
                format!("lora_unet_{flat}.lora_down.weight"),
                format!("lora_unet_{flat}.lora_up.weight"),
            ),
            (
                format!("lora_transformer_{flat}.lora_A.weight"),
                format!("lora_transformer_{flat}.lora_B.weight"),
            ),
            (
                format!("lycoris_{flat}.lora_down.weight"),
                format!("lycoris_{flat}.lora_up.weight"),
            ),
            (
                format!("dit.{NAME}.lora_linear_layer.down.weight"),
                format!("dit.{NAME}.lora_linear_layer.up.weight"),
            ),
            (
                format!("base_model.model.model.{NAME}.lora_A.default.weight"),
                format!("base_model.model.model.{NAME}.lora_B.default.weight"),
            ),
        ] {
            let lora = Lora::open(&write(folder.path(), pair(down, up)), 0.5).unwrap();
            let weight = tensor(&[1., 1., 1., 1.], (2, 2));
            let merged = lora.merge(&format!("{NAME}.weight"), &weight).unwrap();
            assert_eq!(merged.to_vec2::<f32>().unwrap(), [[2.5, 4.], [3., 5.]]);
            let other = lora.merge("block.layers.4.attention.linear_qkv.weight", &weight);
            assert_eq!(
                other.unwrap().to_vec2::<f32>().unwrap(),
                [[1., 1.], [1., 1.]]
            );
            assert_eq!(lora.unmatched(&[format!("{NAME}.weight")]), [""; 0]);
            assert_eq!(lora.unmatched(&[]), [flat.as_str()]);
        }
    }

    #[test]
    fn alpha_is_over_the_rank_and_several_files_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = pair(
            format!("{NAME}.lora_down.weight"),
            format!("{NAME}.lora_up.weight"),
        );
        tensors.push((
            format!("{NAME}.alpha"),
            Tensor::new(&[2f32], &Device::Cpu).unwrap(),
        ));
        let lora = Lora::open(&write(folder.path(), tensors), 1.0).unwrap();
        let weight = tensor(&[0.; 4], (2, 2)).to_dtype(DType::BF16).unwrap();
        let map = HashMap::from([(format!("{NAME}.weight"), weight)]);
        let weights = Weights::memory(map, &Device::Cpu);
        let weights = weights.with_loras(Arc::new(vec![lora.clone(), lora]));
        let merged = weights.at(NAME).get((2, 2), "weight", Init::Zeros).unwrap();
        assert_eq!(merged.dtype(), DType::BF16);
        let merged = merged.to_dtype(DType::F32).unwrap();
        assert_eq!(merged.to_vec2::<f32>().unwrap(), [[12., 24.], [16., 32.]]);
    }

    #[test]
    fn files_of_several_styles_are_merged_together() {
        let folder = tempfile::tempdir().unwrap();
        let flat = NAME.replace('.', "_");
        let files = [
            (format!("base_model.model.{NAME}.lora_A.weight"), "lora_B"),
            (format!("lora_unet_{flat}.lora_down.weight"), "lora_up"),
            (format!("transformer.{NAME}.lora.down.weight"), "lora.up"),
        ];
        let files: Vec<(PathBuf, f64)> = (files.into_iter().enumerate())
            .map(|(i, (down, up))| {
                let known = ["lora_A", "lora_down", "lora.down"][i];
                let path = folder.path().join(format!("{i}.safetensors"));
                let tensors = pair(down.clone(), down.replace(known, up));
                save_weights(&path, tensors, &BTreeMap::new()).unwrap();
                (path, [1.0, 0.5, -2.0][i])
            })
            .collect();
        // A whole difference as well, of which the model has only one.
        let whole = folder.path().join("whole.safetensors");
        let difference = |name: &str| (format!("{name}.diff"), tensor(&[1., 0., 0., 1.], (2, 2)));
        save_weights(
            &whole,
            vec![difference(NAME), difference("other")],
            &BTreeMap::new(),
        )
        .unwrap();
        let files = [files, vec![(whole, 2.0)]].concat();
        let name = format!("{NAME}.weight");
        let (loras, unmatched) = open_loras(&files, std::slice::from_ref(&name)).unwrap();
        assert_eq!(unmatched, ["other"]);
        let map = HashMap::from([(name, tensor(&[0.; 4], (2, 2)))]);
        let weights = Weights::memory(map, &Device::Cpu).with_loras(loras);
        let merged = weights.at(NAME).get((2, 2), "weight", Init::Zeros).unwrap();
        // Minus a half of [[3, 6], [4, 8]], and two on the diagonal.
        assert_eq!(merged.to_vec2::<f32>().unwrap(), [[0.5, -3.], [-2., -2.]]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let open = |tensors| Lora::open(&write(folder.path(), tensors), 1.0);
        let half = vec![(format!("{NAME}.lora_A.weight"), tensor(&[1.], (1, 1)))];
        assert!(open(half).is_err());
        let foreign = vec![(format!("{NAME}.hada_w1_a"), tensor(&[1.], (1, 1)))];
        let error = open(foreign).unwrap_err().to_string();
        assert!(error.contains("hada_w1_a"), "{error}");
        let fine = pair(
            format!("{NAME}.lora_A.weight"),
            format!("{NAME}.lora_B.weight"),
        );
        let lora = open(fine).unwrap();
        let error = lora.merge(&format!("{NAME}.weight"), &tensor(&[0.; 6], (3, 2)));
        assert!(error.unwrap_err().to_string().contains(NAME));
    }

    #[test]
    fn a_strength_follows_the_last_colon() {
        assert_eq!(parse_lora("a.safetensors"), ("a.safetensors".into(), 1.0));
        assert_eq!(
            parse_lora("a.safetensors:-0.5"),
            ("a.safetensors".into(), -0.5)
        );
        assert_eq!(parse_lora("c:dir/a"), ("c:dir/a".into(), 1.0));
    }
}
