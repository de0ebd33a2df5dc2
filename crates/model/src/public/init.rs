//! Writes a model of random weights in the public layout, so that size, memory and speed can be tried
//! without the public files. Streams: a part of any size is written in little memory.

mod random;
mod shards;

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use random::bytes;
use shards::{Filling, write_shards};

use super::{
    error::Result,
    folder::{
        AUDIO_CONFIG, AUDIO_WEIGHTS, FAST_DECODER_CONFIG, FAST_DECODER_WEIGHTS, Part, VIDEO_WEIGHTS,
    },
    manifest::TensorSpec,
    preset::Preset,
    source::TensorSource,
};
use crate::{
    error::ModelError,
    pickle::{Element, PickleTensor, write_pickle},
};

/// The bytes of a shard, about.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes one part of a random model into its folder under `folder`. The same seed gives the same
/// numbers. `progress` hears of the bytes written.
///
/// # Errors
/// When a file cannot be written.
pub fn write_random_part(
    folder: &Path,
    preset: &Preset,
    part: Part,
    seed: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut progress = |bytes| {
        progress(bytes);
        Ok(())
    };
    RandomModel { preset, seed }.write_part(folder, part, &mut progress)
}

/// A model of random weights.
#[derive(Clone, Copy, Debug)]
pub struct RandomModel<'a> {
    /// Its sizes.
    pub preset: &'a Preset,
    /// The same seed gives the same numbers.
    pub seed: u64,
}

impl RandomModel<'_> {
    /// Writes one part into its folder under `folder`. `progress` hears of the bytes written, and stops the work by an
    /// error.
    ///
    /// # Errors
    /// When a file cannot be written, or by `progress`.
    pub fn write_part(
        &self,
        folder: &Path,
        part: Part,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let folder = folder.join(part.folder());
        fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
        let specs = self.preset.tensors(part)?;
        let text = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(ModelError::io(&path))
        };
        let mut with = Filling {
            about: None,
            seed: self.seed,
            progress,
        };
        match part {
            Part::FastDecoder => {
                text(FAST_DECODER_CONFIG, &self.preset.fast)?;
                let path = folder.join(FAST_DECODER_WEIGHTS);
                pickle(&path, Some("ema_state_dict"), &specs, &mut with)
            }
            Part::VideoAutoencoder => pickle(&folder.join(VIDEO_WEIGHTS), None, &specs, &mut with),
            Part::AudioAutoencoder => {
                text(AUDIO_CONFIG, &self.preset.audio)?;
                shards::write_file(&folder.join(AUDIO_WEIGHTS), &specs, &mut with)
            }
            Part::TextEncoder => {
                text("config.json", &self.preset.text)?;
                text("tokenizer.json", &byte_tokenizer().to_string())?;
                write_shards(&folder, &specs, &mut with)
            }
            _ => {
                with.about = Some(self.preset.transformer_of(part).metadata());
                write_shards(&folder, &specs, &mut with)
            }
        }
    }
}

/// The tensors of a part, random, made when they are asked for: a part without files.
pub struct RandomPart {
    specs: BTreeMap<String, TensorSpec>,
    seed: u64,
}

impl RandomPart {
    /// The same numbers as [`RandomModel::write_part`] writes.
    ///
    /// # Errors
    /// When the preset's JSON is not known here.
    pub fn new(preset: &Preset, part: Part, seed: u64) -> Result<Self> {
        let specs = preset.tensors(part)?.into_iter();
        Ok(Self {
            specs: specs.map(|spec| (spec.name.clone(), spec)).collect(),
            seed,
        })
    }
}

impl TensorSource for RandomPart {
    fn names(&self) -> Vec<String> {
        self.specs.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.specs.get(name)?.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let missing = || ModelError::Missing(name.into());
        let spec = self.specs.get(name).ok_or_else(missing)?;
        let numbers = bytes(spec, self.seed);
        Ok(Tensor::from_raw_buffer(
            &numbers,
            spec.dtype,
            &spec.shape,
            &Device::Cpu,
        )?)
    }
}

fn pickle(path: &Path, key: Option<&str>, specs: &[TensorSpec], with: &mut Filling) -> Result<()> {
    let tensors: Vec<PickleTensor> = specs
        .iter()
        .map(|spec| PickleTensor {
            name: spec.name.clone(),
            element: match spec.dtype {
                DType::BF16 => Element::BF16,
                _ => Element::F32,
            },
            shape: spec.shape.clone(),
        })
        .collect();
    // The pickle's writer knows no reason to stop; these files are small enough to be finished first.
    let mut heard = Ok(());
    write_pickle(path, key, &tensors, |index| {
        let numbers = bytes(&specs[index], with.seed);
        if heard.is_ok() {
            heard = (with.progress)(numbers.len() as u64);
        }
        numbers
    })?;
    heard
}

/// A tokenizer of bytes, with the special tokens of Gemma's, for text encoders of random weights.
fn byte_tokenizer() -> serde_json::Value {
    let specials = ["<pad>", "<eos>", "<bos>", "<unk>"];
    let mut vocabulary = serde_json::Map::new();
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let names = specials.iter().map(|name| name.to_string());
    for (id, name) in names.chain(bytes).enumerate() {
        vocabulary.insert(name, id.into());
    }
    let added = specials.iter().enumerate().map(|(id, name)| {
        serde_json::json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    });
    serde_json::json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary, "merges": []
        }
    })
}
