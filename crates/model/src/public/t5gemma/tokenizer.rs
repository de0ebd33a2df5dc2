//! The Gemma tokenizer.

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::{error::ModelError, public::error::Result};

/// Text to token numbers, with the marks that the public code puts around a text.
pub struct GemmaTokenizer {
    tokenizer: Tokenizer,
    before: Option<u32>,
    after: Option<u32>,
}

/// What matters of `tokenizer_config.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Marks {
    add_bos_token: bool,
    add_eos_token: bool,
    bos_token: Mark,
    eos_token: Mark,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            add_bos_token: true,
            add_eos_token: false,
            bos_token: Mark::Text("<bos>".into()),
            eos_token: Mark::Text("<eos>".into()),
        }
    }
}

/// A special token, written as text or as an object around it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Mark {
    Text(String),
    Object { content: String },
}

impl Mark {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

impl GemmaTokenizer {
    /// Reads `tokenizer.json`, and `tokenizer_config.json` where there is one, from a folder.
    ///
    /// # Errors
    /// When a file cannot be read, is malformed, or lacks the marks that it asks for.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("tokenizer.json");
        let wrong = |why: String| ModelError::format(&file, why);
        let tokenizer = Tokenizer::from_file(&file).map_err(|e| wrong(e.to_string()))?;
        let marks_file = folder.join("tokenizer_config.json");
        let marks = match std::fs::read_to_string(&marks_file) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|e| ModelError::format(&marks_file, e))?
            }
            Err(_) => Marks::default(),
        };
        let number = |mark: &Mark| {
            let number = tokenizer.token_to_id(mark.text());
            number.ok_or_else(|| wrong(format!("it has no token {}", mark.text())))
        };
        Ok(Self {
            before: marks
                .add_bos_token
                .then(|| number(&marks.bos_token))
                .transpose()?,
            after: marks
                .add_eos_token
                .then(|| number(&marks.eos_token))
                .transpose()?,
            tokenizer,
        })
    }

    /// The tokens of a text, begun with the mark of a text's start.
    ///
    /// # Errors
    /// When the tokenizer cannot take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let ids = encoding.get_ids().iter().copied();
        Ok(self
            .before
            .into_iter()
            .chain(ids)
            .chain(self.after)
            .collect())
    }
}
