//! Everything a training needs to go on, in one file that exists whole or not at all.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Result, TrainError};
use crate::optimiser::Optimiser;

/// How many are kept.
const KEPT: usize = 2;
/// Metadata key of the number of steps done.
const STEP: &str = "step";

/// A training's checkpoints, in one folder.
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(TrainError::file(folder))?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    /// Saves after `step` steps, and removes all but the last two.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, optimiser: &Optimiser, step: u64) -> Result<()> {
        let mut views = Vec::new();
        for slot in &optimiser.slots {
            for (kind, values) in slot.parts() {
                let view = TensorView::new(Dtype::F32, vec![values.len()], as_bytes(values))
                    .expect("the length is the values' own");
                views.push((format!("{kind}/{}", slot.name), view));
            }
        }
        let metadata = HashMap::from([(STEP.to_string(), step.to_string())]);
        let path = self.folder.join(format!("step-{step:08}.safetensors"));
        write_whole(&path, views, metadata)?;
        for old in self.list()?.iter().rev().skip(KEPT) {
            fs::remove_file(old).map_err(TrainError::file(old))?;
        }
        Ok(())
    }

    /// Restores the newest checkpoint; returns how many steps were done, 0 without one.
    ///
    /// # Errors
    /// If it is not of this training.
    pub fn restore(&self, optimiser: &mut Optimiser) -> Result<u64> {
        let Some(path) = self.list()?.pop() else {
            return Ok(0);
        };
        let wrong = |what: String| TrainError::Checkpoint {
            path: path.clone(),
            what,
        };
        let bytes = fs::read(&path).map_err(TrainError::file(&path))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let step = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(STEP)?.parse().ok());
        let step = step.ok_or_else(|| wrong("it does not say its step".into()))?;
        for slot in &mut optimiser.slots {
            let name = slot.name.clone();
            for (kind, values) in slot.parts_mut() {
                let name = format!("{kind}/{name}");
                let view = tensors.tensor(&name).map_err(|e| wrong(e.to_string()))?;
                if view.data().len() != values.len() * 4 {
                    return Err(wrong(format!("`{name}` has another size")));
                }
                for (value, bytes) in values.iter_mut().zip(view.data().chunks_exact(4)) {
                    *value = f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
                }
            }
            slot.reload()?;
        }
        Ok(step)
    }

    /// The checkpoints there are, oldest first.
    fn list(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder).map_err(TrainError::file(&self.folder))?;
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            // Weights that were exported lie beside them.
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("step-") && name.ends_with(".safetensors")
            })
            .collect();
        paths.sort();
        Ok(paths)
    }
}

impl crate::optimiser::Slot {
    fn parts(&self) -> [(&'static str, &[f32]); 4] {
        [
            ("value", &self.value),
            ("first", &self.first),
            ("second", &self.second),
            ("ema", &self.ema),
        ]
    }

    fn parts_mut(&mut self) -> [(&'static str, &mut [f32]); 4] {
        [
            ("value", &mut self.value),
            ("first", &mut self.first),
            ("second", &mut self.second),
            ("ema", &mut self.ema),
        ]
    }
}

/// Little-endian bytes of f32 values, without a copy.
fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: any f32 is four valid bytes, and u8 has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// Writes a safetensors file beside its place, flushes it to the disk, then renames it.
pub(crate) fn write_whole(
    path: &Path,
    views: Vec<(String, TensorView)>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let part = path.with_extension("part");
    let bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|e| TrainError::Checkpoint {
            path: path.to_path_buf(),
            what: e.to_string(),
        })?;
    fs::write(&part, bytes).map_err(TrainError::file(&part))?;
    fs::File::open(&part)
        .and_then(|file| file.sync_all())
        .map_err(TrainError::file(&part))?;
    fs::rename(&part, path).map_err(TrainError::file(path))
}
