//! Weights by name: read from files, taken from memory, or made at random for training.
//!
//! A model asks a [`Weights`] for each of its tensors by the checkpoint's own name, with the shape it
//! expects and how to begin training it; it does not know where they come from.

mod files;
mod random;
mod stored;
mod vars;
pub(crate) mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor};

pub use files::{WeightFiles, save_weights};
pub use stored::MappedMatrix;
pub use vars::Vars;

use crate::error::{ModelError, Result};
use crate::lora::Lora;
use random::Drawn;

/// How a weight begins when it is trained from nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Even in plus or minus this.
    Uniform(f64),
}

#[derive(Clone)]
enum Source {
    Files(Arc<WeightFiles>),
    Memory(Arc<HashMap<String, Tensor>>),
    Vars { vars: Vars, seed: Option<u64> },
    Random(Drawn),
}

/// A place in a tree of named weights. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    source: Source,
    prefix: String,
    device: Device,
    loras: Arc<Vec<Lora>>,
}

impl Weights {
    /// Weights of files, read when asked for.
    pub fn files(files: Arc<WeightFiles>, device: &Device) -> Self {
        Self::of(Source::Files(files), device)
    }

    /// Weights that are in memory already.
    pub fn memory(tensors: HashMap<String, Tensor>, device: &Device) -> Self {
        Self::of(Source::Memory(Arc::new(tensors)), device)
    }

    /// Trainable weights. Those that `vars` lacks are made at random from `seed` and their name, or, without
    /// a seed, are errors.
    pub fn vars(vars: &Vars, seed: Option<u64>, device: &Device) -> Self {
        let vars = vars.clone();
        Self::of(Source::Vars { vars, seed }, device)
    }

    /// Random weights, made on the device when they are asked for; matrices in bf16. They repeat, so they serve to
    /// measure speed and memory alone.
    pub fn random(seed: u64, device: &Device) -> Self {
        Self::of(Source::Random(Drawn::new(seed)), device)
    }

    fn of(source: Source, device: &Device) -> Self {
        Self {
            source,
            prefix: String::new(),
            device: device.clone(),
            loras: Arc::default(),
        }
    }

    /// The same weights, each with these changes merged into it as it is read.
    pub fn with_loras(self, loras: Arc<Vec<Lora>>) -> Self {
        Self { loras, ..self }
    }

    /// The place `name` below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            prefix: self.path(name),
            ..self.clone()
        }
    }

    /// The full name of `name` at this place.
    pub fn path(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    /// The device that weights are put on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether there is a weight of this name. Trainable sources say no until it has been made.
    pub fn contains(&self, name: &str) -> bool {
        let name = self.path(name);
        match &self.source {
            Source::Files(files) => files.contains(&name),
            Source::Memory(tensors) => tensors.contains_key(&name),
            Source::Vars { vars, .. } => vars.get(&name).is_some(),
            Source::Random(_) => true,
        }
    }

    /// A weight as it is stored, whatever its number type.
    ///
    /// # Errors
    /// When it is missing or of another shape.
    pub fn get(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Tensor> {
        let (shape, name) = (shape.into(), self.path(name));
        // Changes are on the CPU, and are merged there.
        let changed = self.loras.iter().any(|lora| lora.changes(&name));
        let place = if changed { &Device::Cpu } else { &self.device };
        let mut tensor = match &self.source {
            Source::Files(files) => files.load(&name, place)?,
            Source::Memory(tensors) => tensors
                .get(&name)
                .ok_or_else(|| ModelError::Missing(name.clone()))?
                .to_device(place)?,
            Source::Vars { vars, seed } => match vars.get(&name) {
                Some(var) => var.as_tensor().clone(),
                None => {
                    let seed = seed.ok_or_else(|| ModelError::Missing(name.clone()))?;
                    vars.create(&name, &shape, (init, seed), &self.device)?
                }
            },
            Source::Random(drawn) => drawn.get(&name, &shape, init, &self.device)?,
        };
        if tensor.dims() != shape.dims() {
            return Err(ModelError::Shape {
                name,
                got: tensor.dims().to_vec(),
                want: shape.dims().to_vec(),
            });
        }
        if changed {
            tensor = tensor.to_device(&Device::Cpu)?;
            for lora in self.loras.iter() {
                tensor = lora.merge(&name, &tensor)?;
            }
            tensor = tensor.to_device(&self.device)?;
        }
        Ok(tensor)
    }

    /// The matrix `name` where it lies in mapped files, whatever the device, if it can be used as it is: the source is
    /// files, no change is merged into it, and the kernels can read its numbers.
    ///
    /// # Errors
    /// When it is missing or of another shape.
    pub fn mapped(&self, shape: (usize, usize), name: &str) -> Result<Option<MappedMatrix>> {
        let Source::Files(files) = &self.source else {
            return Ok(None);
        };
        let name = self.path(name);
        let got = files
            .shape(&name)
            .ok_or_else(|| ModelError::Missing(name.clone()))?;
        if got != [shape.0, shape.1] {
            return Err(ModelError::Shape {
                got: got.to_vec(),
                want: vec![shape.0, shape.1],
                name,
            });
        }
        if self.loras.iter().any(|lora| lora.changes(&name)) {
            return Ok(None);
        }
        Ok(MappedMatrix::new(files, &name))
    }

    /// A weight in f32.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_f32(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Tensor> {
        Ok(self.get(shape, name, init)?.to_dtype(DType::F32)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn random_weights_depend_on_seed_and_name_only() -> Result<()> {
        let make = |seed, names: &[&str]| -> Result<Vec<f32>> {
            let weights = Weights::vars(&Vars::default(), Some(seed), &Device::Cpu).at("a");
            for name in names {
                weights.get(4, name, Init::Normal(1.0))?;
            }
            Ok(weights.get(4, "x", Init::Zeros)?.to_vec1()?)
        };
        let alone = make(1, &["x"])?;
        assert_eq!(alone, make(1, &["b", "x"])?);
        assert_ne!(alone, make(2, &["x"])?);
        Ok(())
    }

    #[test]
    fn random_weights_have_their_deviation_and_number_type() -> Result<()> {
        let weights = Weights::random(1, &Device::Cpu).at("a");
        let matrix = weights.get((3000, 700), "x", Init::Normal(0.5))?;
        assert_eq!(matrix.dtype(), DType::BF16);
        let numbers = matrix.to_dtype(DType::F32)?.flatten_all()?;
        let deviation = numbers.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt();
        assert!((deviation - 0.5).abs() < 0.01, "{deviation}");
        let vector = weights.get(5, "n", Init::Ones)?;
        assert_eq!(vector.to_vec1::<f32>()?, [1.0; 5]);
        Ok(())
    }

    #[test]
    fn a_saved_model_comes_back_with_its_metadata() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("w.safetensors");
        let vars = Vars::default();
        let weights = Weights::vars(&vars, Some(0), &Device::Cpu);
        let made = weights
            .at("layer")
            .get((2, 3), "weight", Init::Uniform(0.5))?;
        let about = BTreeMap::from([("config".to_string(), "{}".to_string())]);
        save_weights(&file, vars.tensors(), &about)?;
        let files = Arc::new(WeightFiles::open(&file)?);
        assert_eq!(files.metadata("config"), Some("{}"));
        let read = Weights::files(files.clone(), &Device::Cpu);
        let got = read.get((2, 3), "layer.weight", Init::Zeros)?;
        assert_eq!(got.to_vec2::<f32>()?, made.to_vec2::<f32>()?);
        assert!(matches!(
            read.get((3, 2), "layer.weight", Init::Zeros),
            Err(ModelError::Shape { .. })
        ));
        assert!(matches!(
            read.get(1, "nothing", Init::Zeros),
            Err(ModelError::Missing(_))
        ));
        let again = Vars::from_files(&files, &Device::Cpu)?;
        assert_eq!(again.names(), ["layer.weight"]);
        Ok(())
    }

    #[test]
    fn shards_are_found_through_their_index() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let tensor = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
        for (file, name, value) in [("1.safetensors", "a", 1.0), ("2.safetensors", "b", 2.0)] {
            let path = folder.path().join(file);
            save_weights(&path, vec![(name.into(), tensor(value))], &BTreeMap::new())?;
        }
        let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        let index_file = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index_file, index).unwrap();
        let files = WeightFiles::open(folder.path())?;
        assert_eq!(files.load("b", &Device::Cpu)?.to_vec1::<f32>()?, [2.0]);
        assert_eq!(files.parameters(), 2);
        std::fs::write(&index_file, index.replace("2.s", "../2.s")).unwrap();
        assert!(WeightFiles::open(folder.path()).is_err());
        Ok(())
    }

    proptest! {
        #[test]
        fn no_file_panics(header in "[ -~]{0,120}", length in 0u64..200, rest in any::<Vec<u8>>()) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("w.safetensors");
            let bytes = [&length.to_le_bytes(), header.as_bytes(), &rest].concat();
            std::fs::write(&file, bytes).unwrap();
            if let Ok(files) = WeightFiles::open(&file) {
                for name in files.names() {
                    let _ = files.load(&name, &Device::Cpu);
                }
            }
            let index = folder.path().join("a.safetensors.index.json");
            std::fs::write(&index, header).unwrap();
            prop_assert!(WeightFiles::open(&index).is_err());
        }
    }

    #[test]
    fn damaged_files_are_errors_that_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("w.safetensors");
        let tensor = Tensor::ones(100, DType::F32, &Device::Cpu).unwrap();
        save_weights(&file, vec![("a".into(), tensor)], &BTreeMap::new()).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for length in [0, 7, 8, 40, whole.len() - 1] {
            std::fs::write(&file, &whole[..length]).unwrap();
            let error = WeightFiles::open(&file).err().expect("it is cut off");
            assert!(error.to_string().contains("w.safetensors"), "{error}");
        }
        assert!(WeightFiles::open(&folder.path().join("none")).is_err());
    }
}
