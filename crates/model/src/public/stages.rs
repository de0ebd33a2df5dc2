//! The stages of the full-size model, each loaded from its part of the folder and let go by its owner.

use std::{path::Path, sync::Arc};

use gallop_kernels::Precision;

use super::{
    error::Result,
    folder::{
        AUDIO_CONFIG, AUDIO_WEIGHTS, FAST_DECODER_CONFIG, FAST_DECODER_WEIGHTS, Part, PublicModel,
        VIDEO_WEIGHTS,
    },
    oobleck::{OobleckConfig, OobleckDecoder, OobleckEncoder},
    source::{Checkpoint, Renamed},
    t5gemma::{GemmaTokenizer, T5GemmaConfig, T5GemmaEncoder},
    turbo_vaed::{TurboConfig, TurboDecoder, unwrap_checkpoint},
    wan_vae::{LatentStats, WanDecoder, WanEncoder},
};
use crate::{error::ModelError, pickle::PickleFile, weights::WeightFiles};

/// Where the audio autoencoder's tensors are in its file.
const AUDIO_PREFIX: &str = "pretransform.model.";

/// The text encoder's files, opened.
pub struct TextStage {
    tokenizer: GemmaTokenizer,
    config: T5GemmaConfig,
    files: WeightFiles,
}

impl TextStage {
    /// The tokenizer.
    pub fn tokenizer(&self) -> &GemmaTokenizer {
        &self.tokenizer
    }

    /// The encoder, which reads its layers as it uses them.
    ///
    /// # Errors
    /// When the files hold no encoder of this configuration.
    pub fn encoder(&self, precision: Precision) -> Result<T5GemmaEncoder<'_>> {
        T5GemmaEncoder::new(&self.files, self.config.clone(), precision)
    }
}

impl PublicModel {
    /// The text encoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn text(&self) -> Result<TextStage> {
        let part = Part::TextEncoder;
        let folder = self.require(part)?;
        self.require_file(part, "tokenizer.json")?;
        let (config, files) = self.text_files()?;
        Ok(TextStage {
            config,
            tokenizer: GemmaTokenizer::open(&folder)?,
            files,
        })
    }

    /// The text encoder's configuration and weights.
    pub(super) fn text_files(&self) -> Result<(T5GemmaConfig, WeightFiles)> {
        let part = Part::TextEncoder;
        let config = T5GemmaConfig::parse(&read(&self.require_file(part, "config.json")?)?)?;
        Ok((config, WeightFiles::open(&self.require(part)?)?))
    }

    /// A transformer's files: of the base, distilled or a super-resolution part.
    ///
    /// # Errors
    /// When they are missing, or not what they should be.
    pub fn transformer(&self, part: Part) -> Result<Arc<WeightFiles>> {
        Ok(Arc::new(WeightFiles::open(&self.require(part)?)?))
    }

    /// The video encoder.
    ///
    /// # Errors
    /// When its file is missing, or not what it should be.
    pub fn video_encoder(&self, precision: Precision) -> Result<WanEncoder> {
        let file = self.pickle(Part::VideoAutoencoder, VIDEO_WEIGHTS)?;
        WanEncoder::load(&Checkpoint::new(&file), LatentStats::public()?, precision)
    }

    /// The slow, exact video decoder.
    ///
    /// # Errors
    /// When its file is missing, or not what it should be.
    pub fn video_decoder(&self, precision: Precision) -> Result<WanDecoder> {
        let file = self.pickle(Part::VideoAutoencoder, VIDEO_WEIGHTS)?;
        WanDecoder::load(&Checkpoint::new(&file), LatentStats::public()?, precision)
    }

    /// The fast video decoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn fast_video_decoder(&self, precision: Precision) -> Result<TurboDecoder> {
        let (config, file) = self.fast()?;
        let weights = Checkpoint::new(&file);
        TurboDecoder::load(&weights, config, LatentStats::public()?, precision)
    }

    /// The audio encoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn audio_encoder(&self, precision: Precision) -> Result<OobleckEncoder> {
        let (config, files) = self.audio()?;
        OobleckEncoder::load(&Checkpoint::new(&files), &config, precision)
    }

    /// The audio decoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn audio_decoder(&self, precision: Precision) -> Result<OobleckDecoder> {
        let (config, files) = self.audio()?;
        OobleckDecoder::load(&Checkpoint::new(&files), &config, precision)
    }

    pub(super) fn fast(&self) -> Result<(TurboConfig, Renamed<PickleFile>)> {
        let part = Part::FastDecoder;
        let config = TurboConfig::parse(&read(&self.require_file(part, FAST_DECODER_CONFIG)?)?)?;
        let file = self.pickle(part, FAST_DECODER_WEIGHTS)?;
        Ok((config, unwrap_checkpoint(file)))
    }

    pub(super) fn audio(&self) -> Result<(OobleckConfig, Renamed<WeightFiles>)> {
        let part = Part::AudioAutoencoder;
        let config = OobleckConfig::parse(&read(&self.require_file(part, AUDIO_CONFIG)?)?)?;
        let files = WeightFiles::open(&self.require_file(part, AUDIO_WEIGHTS)?)?;
        let rename = |name: &str| Some(name.strip_prefix(AUDIO_PREFIX)?.into());
        Ok((config, Renamed::new(files, rename)))
    }

    pub(super) fn pickle(&self, part: Part, file: &str) -> Result<PickleFile> {
        let path = self.require_file(part, file)?;
        Ok(PickleFile::open(&path).map_err(|error| ModelError::format(&path, error))?)
    }
}

fn read(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).map_err(ModelError::io(path))?)
}
