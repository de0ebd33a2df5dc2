//! Prompts for evaluation, from the part of the world that training never sees.

use std::collections::BTreeMap;

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

/// `n` prompts of clips that `world` would draw from its held-out part: as many of each of its families, and of a
/// family as many in each of the languages `langs`, medium and long in turn.
///
/// There are fewer where a family has no captions in a language.
///
/// # Errors
/// As [`WorldConfig::spec`].
pub fn heldout_prompts(
    n: usize,
    langs: &[&str],
    world: &WorldConfig,
) -> Result<Vec<HeldoutPrompt>, WorldError> {
    let config = WorldConfig {
        split: Split::Heldout,
        ..world.clone()
    };
    let mut left: BTreeMap<&str, usize> =
        config.families()?.iter().map(|f| (f.name(), 0)).collect();
    let families = left.len();
    for (i, left) in left.values_mut().enumerate() {
        *left = n / families + usize::from(i < n % families);
    }
    let mut prompts = Vec::with_capacity(n);
    // A language without a family's templates skips it; one without any would never end.
    for seed in 0..(n as u64).saturating_mul(64) {
        if prompts.len() == n {
            break;
        }
        let spec = config.spec(seed)?;
        let left = left.get_mut(spec.attributes.family.as_str());
        let Some(left) = left.filter(|left| **left > 0) else {
            continue;
        };
        let lang = langs[*left % langs.len()];
        let length = [Length::Medium, Length::Long][*left / langs.len() % 2];
        let all = captions(&spec.attributes, Split::Heldout, &mut rng(seed, 4));
        let wanted = |c: &Caption| c.lang == lang && c.length == length;
        if let Some(caption) = all.into_iter().find(wanted) {
            *left -= 1;
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
