//! The shape of a transformer, as data.

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::weights::WeightFiles;

/// Audio latents that last as long as a video latent.
pub(crate) const AUDIO_A_FRAME: usize = 4;

/// Under which name a header of weights says how the channels of a video latent come out of the noise.
pub const VIDEO_SHIFTS: &str = "video_shifts";

/// How much later than the first each of the `channels` of a video latent comes out of the noise, from the header of a
/// transformer's weights; none where it says nothing.
///
/// # Errors
/// A header that says it of another number of channels, or other than by positive numbers.
pub fn video_shifts(files: &WeightFiles, channels: usize) -> Result<Vec<f64>> {
    let Some(json) = files.metadata(VIDEO_SHIFTS) else {
        return Ok(Vec::new());
    };
    let shifts: Vec<f64> = serde_json::from_str(json).unwrap_or_default();
    if shifts.len() != channels || !shifts.iter().all(|s| s.is_finite() && *s > 0.0) {
        let what = format!("the transformer's weights have no {channels} positive {VIDEO_SHIFTS}");
        return Err(ModelError::Config(what));
    }
    Ok(shifts)
}

/// The gated unit between the two projections of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// `g * sigmoid(1.702 g)` of inputs clamped above at 7; hidden size 4 x width.
    Gelu7,
    /// Gate and linear columns in turn; hidden size about 8/3 x width.
    Swiglu7,
}

/// Which tokens a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// All.
    Full,
    /// A video token sees the frames within [`DitConfig::local_frames`] of its own, all audio and all text; audio and
    /// text see everything.
    Local,
    /// An audio token sees the video frame that it is heard with, all audio and all text; video and text see everything.
    ///
    /// Not of the public weights. A small transformer does not find out by itself that picture and sound go by one
    /// clock; with such layers it need not (docs/log.md, 2026-11-26).
    InStep,
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerKind {
    /// Three sets of weights, for video, audio and text, instead of one.
    pub per_modality: bool,
    /// The MLP.
    pub mlp: MlpKind,
    /// The attention.
    pub attention: AttentionKind,
}

/// How audio and text are placed in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionStyle {
    /// The super-resolution models: audio stretched over the video, text at its start.
    V1,
    /// The base model: audio at a quarter of video's pace, text before the clip.
    V2,
}

/// What text tokens are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Numbers a token.
    pub channels: usize,
    /// With a vocabulary, tokens come as ids, are embedded by a table, and the next one is predicted;
    /// without, as features of a text encoder.
    pub vocabulary: Option<usize>,
}

/// The shape of a transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DitConfig {
    /// D.
    pub width: usize,
    /// K; a multiple of 8.
    pub head_dim: usize,
    /// Query heads.
    pub num_heads_q: usize,
    /// Key and value heads; a divisor of the query heads.
    pub num_heads_kv: usize,
    /// From the first to the last.
    pub layers: Vec<LayerKind>,
    /// Channels of a video latent.
    pub video_channels: usize,
    /// Latents a token along time, height, width.
    pub patch: [usize; 3],
    /// Channels of an audio latent.
    pub audio_channels: usize,
    /// Text.
    pub text: TextConfig,
    /// Placement in time.
    pub positions: PositionStyle,
    /// The base of the rotary bands, `theta^(-i / (K / 8))` radians a position for each axis. With few bands a large one
    /// leaves only the first to tell neighbours apart.
    #[serde(default = "rope_theta")]
    pub rope_theta: u32,
    /// Reach of [`AttentionKind::Local`] in frames to each side.
    pub local_frames: usize,
}

/// The base of the public weights' rotary bands.
pub const ROPE_THETA: u32 = 10_000;

fn rope_theta() -> u32 {
    ROPE_THETA
}

impl DitConfig {
    /// The full-size model of the public weights: 15.28B parameters in its layers, 15.30B in all.
    pub fn horse_15b() -> Self {
        let mut layers = sandwich(40, 4);
        for layer in &mut layers[..4] {
            layer.mlp = MlpKind::Gelu7;
        }
        Self {
            width: 5120,
            head_dim: 128,
            num_heads_q: 40,
            num_heads_kv: 8,
            layers,
            video_channels: 48,
            patch: [1, 2, 2],
            audio_channels: 64,
            text: TextConfig {
                channels: 3584,
                vocabulary: None,
            },
            positions: PositionStyle::V2,
            rope_theta: ROPE_THETA,
            local_frames: 11,
        }
    }

    /// The public 540p super-resolution model.
    pub fn horse_15b_540p() -> Self {
        Self {
            positions: PositionStyle::V1,
            ..Self::horse_15b()
        }
    }

    /// The public 1080p super-resolution model: local attention in all but every fourth of the first 32
    /// layers.
    pub fn horse_15b_1080p() -> Self {
        let mut config = Self::horse_15b_540p();
        for (i, layer) in config.layers.iter_mut().enumerate() {
            if i % 4 != 3 || i >= 32 {
                layer.attention = AttentionKind::Local;
            }
        }
        config
    }

    /// A model for one's own training, with `depth` layers of which `outer` at each end have weights a modality.
    pub fn small(width: usize, depth: usize, outer: usize, vocabulary: usize) -> Self {
        let head_dim = if width >= 256 { 64 } else { 32 };
        Self {
            width,
            head_dim,
            num_heads_q: 1,
            num_heads_kv: 1,
            layers: sandwich(depth, outer),
            video_channels: 48,
            patch: [1, 1, 1],
            audio_channels: 64,
            text: TextConfig {
                channels: width,
                vocabulary: Some(vocabulary),
            },
            positions: PositionStyle::V2,
            rope_theta: ROPE_THETA,
            local_frames: 0,
        }
        .with_heads_of(head_dim)
    }

    /// The same with as many heads of `head_dim` numbers as the width holds; a quarter of the query heads are key and value
    /// heads where that divides.
    #[must_use]
    pub fn with_heads_of(self, head_dim: usize) -> Self {
        let heads = (self.width / head_dim).max(1);
        let num_heads_kv = [4, 3, 2].into_iter().find(|n| heads.is_multiple_of(*n));
        Self {
            head_dim,
            num_heads_q: heads,
            num_heads_kv: num_heads_kv.map_or(1, |n| heads / n),
            ..self
        }
    }

    /// The header entry of weight files that holds the configuration as JSON.
    pub const METADATA_KEY: &str = "dit_config";

    /// The configuration that weight files carry in their header.
    ///
    /// # Errors
    /// When they carry none, or one that is not possible.
    pub fn of_files(files: &WeightFiles) -> Result<Self> {
        let text = files
            .metadata(Self::METADATA_KEY)
            .ok_or_else(|| ModelError::Missing(Self::METADATA_KEY.to_string()))?;
        let config: Self =
            serde_json::from_str(text).map_err(|e| ModelError::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The header entry that [`Self::of_files`] reads.
    pub fn metadata(&self) -> (String, String) {
        let text = serde_json::to_string(self).expect("plain numbers and names become JSON");
        (Self::METADATA_KEY.to_string(), text)
    }

    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// Says which do not.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: &str| Err(ModelError::Config(why.to_string()));
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(8) {
            return wrong("head_dim is not a multiple of 8");
        }
        if self.num_heads_kv == 0 || !self.num_heads_q.is_multiple_of(self.num_heads_kv) {
            return wrong("num_heads_kv does not divide num_heads_q");
        }
        if self.num_heads_q == 0 || self.width == 0 || self.layers.is_empty() {
            return wrong("it has no width, no head or no layer");
        }
        if self.patch.contains(&0) || self.video_channels == 0 || self.audio_channels == 0 {
            return wrong("a patch size or channel count is 0");
        }
        if self.text.channels == 0 || self.text.vocabulary == Some(0) {
            return wrong("the text has no channel or no vocabulary");
        }
        if self.rope_theta == 0 {
            return wrong("rope_theta is 0");
        }
        Ok(())
    }

    /// Numbers a video token.
    pub fn video_token_channels(&self) -> usize {
        self.video_channels * self.patch.iter().product::<usize>()
    }

    /// Rows of `linear_qkv` a modality: queries, keys, values, and a gate a query head.
    pub fn qkv_rows(&self) -> usize {
        (self.num_heads_q + 2 * self.num_heads_kv) * self.head_dim + self.num_heads_q
    }

    /// Columns of `down_proj`.
    pub fn mlp_hidden(&self, kind: MlpKind) -> usize {
        match kind {
            MlpKind::Gelu7 => 4 * self.width,
            MlpKind::Swiglu7 => self.width * 4 * 2 / 3 / 4 * 4,
        }
    }

    /// Rows of `up_gate_proj` a modality.
    pub fn mlp_rows(&self, kind: MlpKind) -> usize {
        match kind {
            MlpKind::Gelu7 => self.mlp_hidden(kind),
            MlpKind::Swiglu7 => 2 * self.mlp_hidden(kind),
        }
    }

    /// With layers that are in step, how many audio latents a video latent lasts: each learns which it is.
    pub fn audio_phases(&self) -> Option<usize> {
        let in_step = |layer: &LayerKind| layer.attention == AttentionKind::InStep;
        self.layers.iter().any(in_step).then_some(AUDIO_A_FRAME)
    }

    /// The number of parameters in the layers alone.
    pub fn layers_parameters(&self) -> usize {
        self.layers.iter().map(|l| self.layer_parameters(l)).sum()
    }

    /// The number of all parameters, embedders and heads too.
    pub fn parameters(&self) -> usize {
        let (video, audio) = (self.video_token_channels(), self.audio_channels);
        let embedders = (video + audio + self.text.channels + 3) * self.width;
        let heads = (video + audio + 2) * self.width;
        let phases = self.audio_phases().map_or(0, |phases| phases * self.width);
        let text = self
            .text
            .vocabulary
            .map_or(0, |v| v * self.text.channels + (v + 1) * self.width);
        self.layers_parameters() + embedders + phases + heads + text
    }

    fn layer_parameters(&self, layer: &LayerKind) -> usize {
        let groups = if layer.per_modality { 3 } else { 1 };
        let attention = self.qkv_rows() + self.num_heads_q * self.head_dim;
        let mlp = self.mlp_rows(layer.mlp) + self.mlp_hidden(layer.mlp);
        groups * ((attention + mlp + 2) * self.width + 2 * self.head_dim)
    }
}

/// `outer` layers with weights a modality, shared ones, and `outer` again; SwiGLU7 and full attention.
pub fn sandwich(depth: usize, outer: usize) -> Vec<LayerKind> {
    (0..depth)
        .map(|i| LayerKind {
            per_modality: i < outer || i + outer >= depth,
            mlp: MlpKind::Swiglu7,
            attention: AttentionKind::Full,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::save_weights;
    use std::collections::BTreeMap;

    #[test]
    fn the_full_model_has_15_28_billion_parameters() {
        let config = DitConfig::horse_15b();
        config.check().unwrap();
        assert_eq!(config.layers_parameters(), 15_278_422_016);
        assert_eq!(config.parameters(), 15_299_419_136);
        assert_eq!(config.mlp_hidden(MlpKind::Swiglu7), 13652);
    }

    #[test]
    fn the_1080p_model_has_eight_full_layers() {
        let full: Vec<usize> = DitConfig::horse_15b_1080p()
            .layers
            .iter()
            .enumerate()
            .filter(|(_, l)| l.attention == AttentionKind::Full)
            .map(|(i, _)| i)
            .collect();
        assert_eq!(full, [3, 7, 11, 15, 19, 23, 27, 31]);
    }

    #[test]
    fn weight_files_carry_their_config() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dit.safetensors");
        let config = DitConfig::small(384, 10, 2, 2048);
        config.check().unwrap();
        save_weights(&file, vec![], &BTreeMap::from([config.metadata()])).unwrap();
        let read = DitConfig::of_files(&WeightFiles::open(&file).unwrap()).unwrap();
        assert_eq!(read, config);
        let impossible = DitConfig {
            head_dim: 12,
            ..config
        };
        save_weights(&file, vec![], &BTreeMap::from([impossible.metadata()])).unwrap();
        assert!(DitConfig::of_files(&WeightFiles::open(&file).unwrap()).is_err());
    }

    #[test]
    fn weight_files_say_how_channels_come_out_of_the_noise() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dit.safetensors");
        let read = |said: Option<&str>| {
            let said = said.map(|said| (VIDEO_SHIFTS.to_string(), said.to_string()));
            save_weights(&file, vec![], &said.into_iter().collect()).unwrap();
            video_shifts(&WeightFiles::open(&file).unwrap(), 3)
        };
        assert!(read(None).unwrap().is_empty());
        assert_eq!(read(Some("[1, 2.5, 4]")).unwrap(), [1.0, 2.5, 4.0]);
        for wrong in ["[1, 2]", "[1, 2, 0]", "[1, 2, -3]", "soon", "[]"] {
            let error = read(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("video_shifts"), "{error}");
        }
    }
}
