//! The shape of a T5Gemma encoder, as `config.json` gives it.

use serde::Deserialize;

use crate::{error::ModelError, public::error::Result};

/// The encoder's configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct T5GemmaConfig {
    /// Entries of the token table.
    pub vocab_size: usize,
    /// Width D of a token.
    pub hidden_size: usize,
    /// Width inside the gated layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width K of a head.
    pub head_dim: usize,
    /// Guards the norms.
    pub rms_norm_eps: f64,
    /// The slowest rotation's base.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Attention logits are divided by its root.
    pub query_pre_attn_scalar: f32,
    /// Attention logits stay within plus and minus this; without it, anywhere.
    #[serde(default)]
    pub attn_logit_softcapping: Option<f32>,
    /// How far a token of a sliding layer sees: to less than this many tokens away.
    pub sliding_window: usize,
    /// `sliding_attention` or `full_attention` for each layer; where absent, they alternate.
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(default = "default_activation")]
    hidden_activation: String,
    #[serde(default)]
    attention_bias: bool,
}

fn default_theta() -> f64 {
    10_000.0
}

fn default_activation() -> String {
    "gelu_pytorch_tanh".into()
}

impl T5GemmaConfig {
    /// The public model's `config.json`, as far as the encoder needs it.
    pub const PUBLIC_JSON: &str = include_str!("public.json");

    /// The public model's configuration: 9 billion weights.
    pub fn public() -> Self {
        Self::parse(Self::PUBLIC_JSON).expect("the embedded configuration is known here")
    }

    /// From a `config.json`: the encoder's alone, or the whole model's with an `encoder` in it.
    ///
    /// # Errors
    /// When it is no such configuration, or one that is not known here.
    pub fn parse(json: &str) -> Result<Self> {
        let fail = |what: String| ModelError::Config(format!("T5Gemma: {what}"));
        let json: serde_json::Value =
            serde_json::from_str(json).map_err(|e| fail(e.to_string()))?;
        let encoder = json.get("encoder").unwrap_or(&json);
        let config = Self::deserialize(encoder).map_err(|e| fail(e.to_string()))?;
        config.check().map_err(fail)?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.hidden_activation != default_activation() || self.attention_bias {
            return Err("only tanh-approximated GELU and attention without bias".into());
        }
        let heads = self.num_key_value_heads;
        if heads == 0
            || !self.num_attention_heads.is_multiple_of(heads)
            || !self.head_dim.is_multiple_of(2)
        {
            return Err("heads that do not divide".into());
        }
        if let Some(types) = &self.layer_types {
            let known = ["sliding_attention", "full_attention"];
            if types.len() != self.num_hidden_layers
                || types.iter().any(|kind| !known.contains(&kind.as_str()))
            {
                return Err("layer_types that do not fit its layers".into());
            }
        }
        Ok(())
    }

    /// How far a token of this layer sees; `None` for everything.
    pub(super) fn window(&self, layer: usize) -> Option<usize> {
        let sliding = match &self.layer_types {
            Some(types) => types[layer] == "sliding_attention",
            None => layer.is_multiple_of(2),
        };
        sliding.then_some(self.sliding_window)
    }
}
