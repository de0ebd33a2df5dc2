//! Sizes of models of the public architecture: the public one, and smaller ones of the same form.

use super::{
    error::Result,
    folder::Part,
    manifest::{
        TensorSpec, VideoWidths, audio_autoencoder, fast_decoder, text_encoder, transformer,
        video_autoencoder,
    },
    oobleck::OobleckConfig,
    t5gemma::T5GemmaConfig,
    turbo_vaed::TurboConfig,
};
use crate::dit::{DitConfig, sandwich};

/// The sizes of a model's parts. Text, audio and the fast decoder are given by the JSON files that the
/// model's folder holds.
#[derive(Clone, Debug)]
pub struct Preset {
    /// The transformer.
    pub transformer: DitConfig,
    /// The text encoder's `config.json`.
    pub text: String,
    /// The video autoencoder.
    pub video: VideoWidths,
    /// The audio autoencoder's `model_config.json`.
    pub audio: String,
    /// The fast decoder's JSON file.
    pub fast: String,
}

impl Preset {
    /// Names that [`Preset::named`] knows.
    pub const NAMES: [&str; 4] = ["horse-15b", "3b", "1b", "tiny"];

    /// The preset of this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "horse-15b" | "15b" => Self::horse_15b(),
            "3b" => Self::horse_3b(),
            "1b" => Self::horse_1b(),
            "tiny" => Self::tiny(),
            _ => return None,
        })
    }

    /// The public model.
    pub fn horse_15b() -> Self {
        Self {
            transformer: DitConfig::horse_15b(),
            text: T5GemmaConfig::PUBLIC_JSON.into(),
            video: VideoWidths::PUBLIC,
            audio: OobleckConfig::PUBLIC_JSON.into(),
            fast: TurboConfig::PUBLIC_JSON.into(),
        }
    }

    /// The public model with about 3 billion weights in its transformer.
    pub fn horse_3b() -> Self {
        Self::scaled(2560, 32, 12)
    }

    /// The public model with about 1 billion weights in its transformer.
    pub fn horse_1b() -> Self {
        Self::scaled(1536, 28, 8)
    }

    /// The public model with a narrower and shallower transformer and a shallower text encoder.
    fn scaled(width: usize, depth: usize, text_layers: usize) -> Self {
        let public = Self::horse_15b();
        let heads = width / public.transformer.head_dim;
        let layers = r#""num_hidden_layers": "#;
        Self {
            transformer: DitConfig {
                width,
                num_heads_q: heads,
                num_heads_kv: heads / 4,
                layers: gelu_first(depth, 4),
                ..public.transformer
            },
            text: public
                .text
                .replace(&format!("{layers}42"), &format!("{layers}{text_layers}")),
            ..public
        }
    }

    /// A model of a few million weights, for tests of everything around it.
    pub fn tiny() -> Self {
        let transformer = DitConfig {
            width: 128,
            head_dim: 32,
            num_heads_q: 4,
            num_heads_kv: 2,
            layers: gelu_first(6, 2),
            text: crate::dit::TextConfig {
                channels: 64,
                vocabulary: None,
            },
            ..DitConfig::horse_15b()
        };
        Self {
            transformer,
            text: include_str!("t5gemma/tiny.json").into(),
            video: VideoWidths {
                encoder: 8,
                decoder: 8,
                blocks: 1,
                latents: 48,
            },
            audio: include_str!("oobleck/tiny.json").into(),
            fast: include_str!("turbo_vaed/tiny.json").into(),
        }
    }

    /// The transformer's configuration in one of its four parts.
    pub fn transformer_of(&self, part: Part) -> DitConfig {
        let mut config = self.transformer.clone();
        if matches!(part, Part::Super540p | Part::Super1080p) {
            config.positions = DitConfig::horse_15b_540p().positions;
        }
        if part == Part::Super1080p {
            let public = DitConfig::horse_15b_1080p().layers;
            for (layer, public) in config.layers.iter_mut().zip(public) {
                layer.attention = public.attention;
            }
        }
        config
    }

    /// The tensors of a part, under the names that its files have.
    ///
    /// # Errors
    /// When the preset's JSON is not known here.
    pub fn tensors(&self, part: Part) -> Result<Vec<TensorSpec>> {
        Ok(match part {
            Part::FastDecoder => {
                prefixed(fast_decoder(&TurboConfig::parse(&self.fast)?), "module.")
            }
            Part::VideoAutoencoder => video_autoencoder(self.video),
            Part::AudioAutoencoder => prefixed(
                audio_autoencoder(&OobleckConfig::parse(&self.audio)?),
                "pretransform.model.",
            ),
            Part::TextEncoder => text_encoder(&T5GemmaConfig::parse(&self.text)?),
            _ => transformer(&self.transformer_of(part)),
        })
    }
}

/// `depth` layers of the sandwich with `outer` at each end; the first ones have GELU7.
fn gelu_first(depth: usize, outer: usize) -> Vec<crate::dit::LayerKind> {
    let mut layers = sandwich(depth, outer);
    for layer in &mut layers[..outer] {
        layer.mlp = crate::dit::MlpKind::Gelu7;
    }
    layers
}

fn prefixed(mut specs: Vec<TensorSpec>, prefix: &str) -> Vec<TensorSpec> {
    for spec in &mut specs {
        spec.name.insert_str(0, prefix);
    }
    specs
}
