//! The public repository's folder as it is on disk: which parts it has, and what is missing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::Device;

use super::error::Result;
use crate::{
    dit::DitConfig,
    error::ModelError,
    pickle::{Element, PickleFile},
    weights::WeightFiles,
};

/// A part of the full-size model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The transformer for many guided steps.
    Base,
    /// The transformer for 8 steps without guidance.
    Distilled,
    /// The transformer that refines latents to 540p.
    Super540p,
    /// The transformer that refines latents to 1080p.
    Super1080p,
    /// The fast video decoder.
    FastDecoder,
    /// The video autoencoder.
    VideoAutoencoder,
    /// The audio autoencoder.
    AudioAutoencoder,
    /// The text encoder.
    TextEncoder,
}

/// The fast decoder's files.
pub const FAST_DECODER_CONFIG: &str = "TurboV3-Wan22-TinyShallow_7_7.json";
/// See [`FAST_DECODER_CONFIG`].
pub const FAST_DECODER_WEIGHTS: &str = "checkpoint-340000.ckpt";
/// The video autoencoder's file.
pub const VIDEO_WEIGHTS: &str = "Wan2.2_VAE.pth";
/// The audio autoencoder's files.
pub const AUDIO_CONFIG: &str = "model_config.json";
/// See [`AUDIO_CONFIG`].
pub const AUDIO_WEIGHTS: &str = "model.safetensors";

impl Part {
    /// All parts, in the order in which they are listed.
    pub const ALL: [Self; 8] = [
        Self::Base,
        Self::Distilled,
        Self::Super540p,
        Self::Super1080p,
        Self::FastDecoder,
        Self::VideoAutoencoder,
        Self::AudioAutoencoder,
        Self::TextEncoder,
    ];

    /// Its folder's name.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Distilled => "distill",
            Self::Super540p => "540p_sr",
            Self::Super1080p => "1080p_sr",
            Self::FastDecoder => "turbo_vae",
            Self::VideoAutoencoder => "Wan2.2-TI2V-5B",
            Self::AudioAutoencoder => "stable-audio-open-1.0",
            Self::TextEncoder => "t5gemma-9b-9b-ul2",
        }
    }

    /// What it does, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Base => "transformer, guided",
            Self::Distilled => "transformer, 8 steps",
            Self::Super540p => "transformer, to 540p",
            Self::Super1080p => "transformer, to 1080p",
            Self::FastDecoder => "video decoder, fast",
            Self::VideoAutoencoder => "video autoencoder",
            Self::AudioAutoencoder => "audio autoencoder",
            Self::TextEncoder => "text encoder",
        }
    }

    /// The public repository, on Hugging Face, that has it.
    pub fn origin(self) -> &'static str {
        match self {
            Self::VideoAutoencoder => "Wan-AI/Wan2.2-TI2V-5B",
            Self::AudioAutoencoder => "stabilityai/stable-audio-open-1.0",
            Self::TextEncoder => "google/t5gemma-9b-9b-ul2",
            _ => "GAIR/daVinci-MagiHuman",
        }
    }

    /// Files that must be there beside the weights.
    fn companions(self) -> &'static [&'static str] {
        match self {
            Self::FastDecoder => &[FAST_DECODER_CONFIG],
            Self::AudioAutoencoder => &[AUDIO_CONFIG],
            Self::TextEncoder => &["config.json", "tokenizer.json"],
            _ => &[],
        }
    }

    /// The one file of weights, or `None` for a folder of safetensors.
    fn file(self) -> Option<&'static str> {
        match self {
            Self::FastDecoder => Some(FAST_DECODER_WEIGHTS),
            Self::VideoAutoencoder => Some(VIDEO_WEIGHTS),
            Self::AudioAutoencoder => Some(AUDIO_WEIGHTS),
            _ => None,
        }
    }

    /// The part whose folder has this name.
    pub fn named(folder: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.folder() == folder)
    }

    /// Whether it is one of the four transformers.
    pub fn is_transformer(self) -> bool {
        matches!(
            self,
            Self::Base | Self::Distilled | Self::Super540p | Self::Super1080p
        )
    }

    /// Whether a stored tensor belongs to the part: its files can hold more than we use.
    pub fn owns(self, name: &str) -> bool {
        match self {
            Self::FastDecoder => name.starts_with("ema_state_dict."),
            Self::AudioAutoencoder => name.starts_with("pretransform.model."),
            Self::TextEncoder => name.starts_with("encoder.") || name.starts_with("model.encoder."),
            _ => true,
        }
    }
}

/// What one part weighs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Numbers.
    pub parameters: u64,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Numbers of each type, by its name.
    pub dtypes: BTreeMap<String, u64>,
}

impl Inventory {
    fn add(&mut self, shape: &[usize], dtype: &str, bytes: usize) {
        let count = shape.iter().map(|&d| d as u64).product::<u64>();
        self.parameters += count;
        self.bytes += bytes as u64;
        *self.dtypes.entry(dtype.into()).or_default() += count;
    }
}

/// Whether a part can be used, and why not.
#[derive(Debug)]
pub enum PartState {
    /// It is there and whole, as far as headers tell.
    Present(Inventory),
    /// A folder or file of it is not there: its path, from the model's folder.
    Missing(PathBuf),
    /// It is there but cannot be read.
    Broken(String),
}

/// The folder of a full-size model. Parts by other makers may lie in it or beside it.
#[derive(Clone, Debug)]
pub struct PublicModel {
    folder: PathBuf,
    device: Device,
}

impl PublicModel {
    /// The model in `folder`.
    ///
    /// # Errors
    /// When `folder` is no folder, or holds no part of the model.
    pub fn open(folder: &Path) -> Result<Self> {
        let model = Self {
            folder: folder.into(),
            device: Device::Cpu,
        };
        if Part::ALL.iter().all(|&part| model.locate(part).is_none()) {
            let wanted = Part::ALL.map(Part::folder).join(", ");
            let why = format!(
                "no model of the public layout: it needs folders such as {wanted} (from {} on \
                 Hugging Face)",
                Part::Base.origin()
            );
            return Err(ModelError::format(folder, why).into());
        }
        Ok(model)
    }

    /// Whether `folder` looks like the public layout.
    pub fn is(folder: &Path) -> bool {
        Self::open(folder).is_ok()
    }

    /// The same model, computing on a device: every stage puts its weights there, and takes tensors that are there.
    pub fn on(self, device: &Device) -> Self {
        Self {
            device: device.clone(),
            ..self
        }
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A part's folder, inside the model's or beside it, if it is there.
    pub fn locate(&self, part: Part) -> Option<PathBuf> {
        let inside = self.folder.join(part.folder());
        let beside = self.folder.join("..").join(part.folder());
        [inside, beside].into_iter().find(|path| path.is_dir())
    }

    /// A part's folder.
    ///
    /// # Errors
    /// When it is missing: the error says where to get it.
    pub fn require(&self, part: Part) -> Result<PathBuf> {
        let found = self.locate(part);
        Ok(found.ok_or_else(|| self.missing(part, part.folder()))?)
    }

    /// A file of a part.
    ///
    /// # Errors
    /// When it is missing: the error says where to get it.
    pub fn require_file(&self, part: Part, file: &str) -> Result<PathBuf> {
        let path = self.require(part)?.join(file);
        let missing = || self.missing(part, &format!("{}/{file}", part.folder()));
        Ok(path.exists().then_some(path).ok_or_else(missing)?)
    }

    fn missing(&self, part: Part, what: &str) -> ModelError {
        let why = format!(
            "{what} ({}) is missing: get it from {} on Hugging Face",
            part.title(),
            part.origin()
        );
        ModelError::format(&self.folder, why)
    }

    /// The configuration of one of the four transformers: what its files say, or the public one's.
    ///
    /// # Errors
    /// When the configuration is not possible.
    pub fn transformer_config(&self, part: Part, files: &WeightFiles) -> Result<DitConfig> {
        if files.metadata(DitConfig::METADATA_KEY).is_some() {
            return Ok(DitConfig::of_files(files)?);
        }
        Ok(match part {
            Part::Super540p => DitConfig::horse_15b_540p(),
            Part::Super1080p => DitConfig::horse_15b_1080p(),
            _ => DitConfig::horse_15b(),
        })
    }

    /// The state of every part.
    pub fn inventory(&self) -> Vec<(Part, PartState)> {
        Part::ALL.map(|part| (part, self.state(part))).into()
    }

    fn state(&self, part: Part) -> PartState {
        let Some(folder) = self.locate(part) else {
            return PartState::Missing(part.folder().into());
        };
        let files = part.companions().iter().copied().chain(part.file());
        for file in files {
            if !folder.join(file).exists() {
                return PartState::Missing(Path::new(part.folder()).join(file));
            }
        }
        let weights = part.file().map_or(folder.clone(), |file| folder.join(file));
        let counted = match part {
            Part::FastDecoder | Part::VideoAutoencoder => count_pickle(part, &weights),
            _ => count_files(part, &weights),
        };
        match counted {
            Ok(inventory) if inventory.parameters == 0 => {
                PartState::Broken("none of its tensors are in its files".into())
            }
            Ok(inventory) => PartState::Present(inventory),
            Err(error) => PartState::Broken(error.to_string()),
        }
    }
}

fn count_files(part: Part, path: &Path) -> Result<Inventory> {
    let files = WeightFiles::open(path)?;
    let mut inventory = Inventory::default();
    for name in files.names().iter().filter(|name| part.owns(name)) {
        if let (Some(shape), Some(dtype)) = (files.shape(name), files.dtype(name)) {
            let dtype = match files.quant(name) {
                Some(quant) => quant.name().to_string(),
                None => format!("{dtype:?}").to_lowercase(),
            };
            inventory.add(shape, &dtype, files.stored_bytes(name) as usize);
        }
    }
    Ok(inventory)
}

fn count_pickle(part: Part, path: &Path) -> Result<Inventory> {
    let file = PickleFile::open(path).map_err(|error| ModelError::format(path, error))?;
    let mut inventory = Inventory::default();
    for name in file.names().filter(|name| part.owns(name)) {
        if let Some((shape, element)) = file.info(name) {
            let bytes = shape.iter().product::<usize>() * element.size();
            inventory.add(shape, dtype_name(element), bytes);
        }
    }
    Ok(inventory)
}

fn dtype_name(element: Element) -> &'static str {
    match element {
        Element::F32 => "f32",
        Element::F64 => "f64",
        Element::F16 => "f16",
        Element::BF16 => "bf16",
        Element::I64 => "i64",
        Element::I32 => "i32",
        Element::I16 => "i16",
        Element::I8 => "i8",
        Element::U8 => "u8",
        Element::Bool => "bool",
    }
}
