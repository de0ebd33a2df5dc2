//! Sentences that describe a clip, from one grammar whose languages are data.
//!
//! A language is a set of `data/<lang>/*.toml` files: words for concepts, and templates for
//! families. Nothing here knows a language; see `data/en/common.toml` for the notation.

mod grammar;
mod lexicon;
mod prompts;
mod vocabulary;

pub use prompts::{HeldoutPrompt, heldout_prompts};
pub use vocabulary::unknown_words;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::WorldRng;
use crate::attributes::{Attributes, pick};
use crate::split::Split;
use lexicon::Lexicon;

/// How much a caption tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// A few words: who does what.
    Short,
    /// One sentence.
    Medium,
    /// Several sentences: also light, camera, look and sound.
    Long,
}

impl Length {
    /// Short to long.
    pub const ALL: [Length; 3] = [Length::Short, Length::Medium, Length::Long];
}

/// One description of a clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caption {
    /// `en`, `zh`, ...
    pub lang: String,
    /// How much it tells.
    pub length: Length,
    /// The sentences.
    pub text: String,
    /// The attributes it tells of (`colour`, `floor`, `camera`, ...), sorted.
    pub mentions: Vec<String>,
}

/// The languages that captions are written in.
pub fn languages() -> Vec<&'static str> {
    lexicon::all().iter().map(|l| l.lang.as_str()).collect()
}

/// One caption of each length in each language, with wordings of `split` only.
pub fn captions(attributes: &Attributes, split: Split, rng: &mut WorldRng) -> Vec<Caption> {
    let mut captions = Vec::new();
    for lexicon in lexicon::all() {
        for length in Length::ALL {
            captions.extend(caption(lexicon, attributes, (length, split), rng));
        }
    }
    captions
}

/// One caption, or `None` if the language has no template for this family yet.
fn caption(
    lexicon: &Lexicon,
    attributes: &Attributes,
    (length, split): (Length, Split),
    rng: &mut WorldRng,
) -> Option<Caption> {
    let templates = lexicon.templates(&attributes.family, length, split);
    if templates.is_empty() {
        return None;
    }
    let template = pick(rng, &templates);
    let filled = grammar::fill(lexicon, attributes, template, rng);
    let text = match split {
        Split::Train => as_typed(filled.text, rng),
        Split::Heldout => filled.text,
    };
    Some(Caption {
        lang: lexicon.lang.clone(),
        length,
        text,
        mentions: filled.mentions.into_iter().collect(),
    })
}

/// `text` as people also type it: now and then without its full stop, or with the first letter's case changed.
fn as_typed(mut text: String, rng: &mut WorldRng) -> String {
    if rng.random_bool(0.2) && text.ends_with(['.', '。']) {
        text.pop();
    }
    if rng.random_bool(0.2)
        && let Some(first) = text.get_mut(..1)
    {
        let lower = first.bytes().all(|b| b.is_ascii_lowercase());
        if lower {
            first.make_ascii_uppercase();
        } else {
            first.make_ascii_lowercase();
        }
    }
    text
}

#[cfg(test)]
mod tests;
