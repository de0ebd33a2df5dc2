//! The stages of the full-size model, each loaded from its part of the folder and let go by its owner.

use std::{path::Path, sync::Arc};

use candle_core::Device;
use gallop_kernels::Precision;

use super::{
    error::Result,
    folder::{
        AUDIO_CONFIG, AUDIO_WEIGHTS, FAST_DECODER_CONFIG, FAST_DECODER_WEIGHTS, Part, PublicModel,
        VIDEO_WEIGHTS,
    },
    init::RandomPart,
    oobleck::{OobleckConfig, OobleckDecoder, OobleckEncoder},
    preset::Preset,
    source::{Checkpoint, Renamed, TensorSource},
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
    device: Device,
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
        let encoder = T5GemmaEncoder::new(&self.files, self.config.clone(), precision)?;
        Ok(encoder.on(&self.device))
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
            device: self.device().clone(),
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
        WanEncoder::load(&self.read(&file), LatentStats::public()?, precision)
    }

    /// The slow, exact video decoder.
    ///
    /// # Errors
    /// When its file is missing, or not what it should be.
    pub fn video_decoder(&self, precision: Precision) -> Result<WanDecoder> {
        let file = self.pickle(Part::VideoAutoencoder, VIDEO_WEIGHTS)?;
        WanDecoder::load(&self.read(&file), LatentStats::public()?, precision)
    }

    /// The fast video decoder's configuration.
    ///
    /// # Errors
    /// When its file is missing, or not what it should be.
    fn fast_decoder_config(&self) -> Result<TurboConfig> {
        let path = self.require_file(Part::FastDecoder, FAST_DECODER_CONFIG)?;
        TurboConfig::parse(&read(&path)?)
    }

    /// The fast video decoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn fast_video_decoder(&self, precision: Precision) -> Result<TurboDecoder> {
        let (config, file) = self.fast()?;
        let weights = self.read(&file);
        TurboDecoder::load(&weights, config, LatentStats::public()?, precision)
    }

    /// The audio encoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn audio_encoder(&self, precision: Precision) -> Result<OobleckEncoder> {
        let (config, files) = self.audio()?;
        OobleckEncoder::load(&self.read(&files), &config, precision)
    }

    /// The audio decoder.
    ///
    /// # Errors
    /// When a file is missing, or not what it should be.
    pub fn audio_decoder(&self, precision: Precision) -> Result<OobleckDecoder> {
        let (config, files) = self.audio()?;
        OobleckDecoder::load(&self.read(&files), &config, precision)
    }

    /// Tensors as the stages are given them.
    fn read<'a>(&self, source: &'a dyn TensorSource) -> Checkpoint<'a> {
        Checkpoint::new(source).on(self.device())
    }

    pub(super) fn fast(&self) -> Result<(TurboConfig, Renamed<PickleFile>)> {
        let config = self.fast_decoder_config()?;
        let file = self.pickle(Part::FastDecoder, FAST_DECODER_WEIGHTS)?;
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

impl Preset {
    /// The fast video decoder with random weights, on a device; needs no files.
    ///
    /// # Errors
    /// When the preset's JSON is not known here, or memory runs out.
    pub fn fast_decoder(
        &self,
        seed: u64,
        precision: Precision,
        device: &Device,
    ) -> Result<TurboDecoder> {
        let source = RandomPart::new(self, Part::FastDecoder, seed)?;
        let source = Renamed::new(source, |name| Some(name.strip_prefix("module.")?.into()));
        let config = TurboConfig::parse(&self.fast)?;
        let weights = Checkpoint::new(&source).on(device);
        TurboDecoder::load(&weights, config, LatentStats::public()?, precision)
    }

    /// The audio decoder with random weights, on a device; needs no files.
    ///
    /// # Errors
    /// As [`Self::fast_decoder`].
    pub fn audio_decoder(
        &self,
        seed: u64,
        precision: Precision,
        device: &Device,
    ) -> Result<OobleckDecoder> {
        let source = RandomPart::new(self, Part::AudioAutoencoder, seed)?;
        let source = Renamed::new(source, |name| Some(name.strip_prefix(AUDIO_PREFIX)?.into()));
        let weights = Checkpoint::new(&source).on(device);
        OobleckDecoder::load(&weights, &OobleckConfig::parse(&self.audio)?, precision)
    }
}

fn read(path: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(path).map_err(ModelError::io(path))?)
}
