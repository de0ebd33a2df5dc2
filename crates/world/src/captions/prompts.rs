//! Prompts for evaluation, from the part of the world that training never sees.

use serde::{Deserialize, Serialize};

use super::{Caption, Length};
use crate::attributes::Attributes;
use crate::split::Split;
use crate::world::{WorldConfig, rng};
use crate::{WorldError, captions};

/// A prompt and what a clip made from it must show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldoutPrompt {
    /// What to ask for.
    pub prompt: String,
    /// Its language.
    pub lang: String,
    /// Which attributes the prompt speaks of; only these can be expected of a clip.
    pub mentions: Vec<String>,
    /// What it speaks of.
    pub attributes: Attributes,
    /// The world's seed of a clip that shows it (the same `WorldConfig`, with `Split::Heldout`).
    pub seed: u64,
}

/// `n` prompts in `lang` of clips that `world` would draw from its held-out part, medium and long in turn.
///
/// # Errors
/// As [`WorldConfig::spec`].
pub fn heldout_prompts(
    n: usize,
    lang: &str,
    world: &WorldConfig,
) -> Result<Vec<HeldoutPrompt>, WorldError> {
    let config = WorldConfig {
        split: Split::Heldout,
        ..world.clone()
    };
    let mut prompts = Vec::with_capacity(n);
    // A language without a family's templates skips it; one without any would never end.
    for seed in 0..(n as u64).saturating_mul(64) {
        if prompts.len() == n {
            break;
        }
        let spec = config.spec(seed)?;
        let length = [Length::Medium, Length::Long][prompts.len() % 2];
        let all = captions(&spec.attributes, Split::Heldout, &mut rng(seed, 4));
        let wanted = |c: &Caption| c.lang == lang && c.length == length;
        if let Some(caption) = all.into_iter().find(wanted) {
            prompts.push(HeldoutPrompt {
                prompt: caption.text,
                lang: caption.lang,
                mentions: caption.mentions,
                attributes: spec.attributes,
                seed,
            });
        }
    }
    Ok(prompts)
}
