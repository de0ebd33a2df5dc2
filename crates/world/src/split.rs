//! What is kept from training: whole combinations of attributes, phrases and wordings.

use serde::{Deserialize, Serialize};

use crate::Attributes;

/// The part of the world that a clip is drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For training.
    #[default]
    Train,
    /// For evaluation: combinations and wordings that never occur in `Train`.
    Heldout,
}

/// One combination in so many is held out.
const COMBINATION: u64 = 9;
/// One spoken phrase in so many is held out.
const PHRASE: u64 = 6;

/// Whether a clip of these attributes is kept from training.
///
/// The rule looks at what the subject is, its first colour and what it is on (or does), so that
/// each of them occurs in training but that combination never does; and at the spoken phrase.
pub fn is_heldout(attributes: &Attributes) -> bool {
    if let Some(phrase) = &attributes.phrase {
        return phrase_is_heldout(phrase);
    }
    let mut combination = vec![attributes.family.as_str(), attributes.subject.as_str()];
    if let Some(colour) = attributes.colours.first() {
        combination.push(colour.key());
    }
    combination.extend(attributes.floor.as_deref());
    combination.extend(attributes.action.as_deref());
    hash(&combination).is_multiple_of(COMBINATION)
}

/// Whether a spoken phrase is kept from training.
pub fn phrase_is_heldout(phrase: &str) -> bool {
    hash(&["phrase", phrase]).is_multiple_of(PHRASE)
}

/// FNV-1a with a final mix: the same on every machine and in every release.
fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_stable() {
        assert_eq!(hash(&["ball", "red"]), hash(&["ball", "red"]));
        assert_ne!(hash(&["ball", "red"]), hash(&["ballr", "ed"]));
    }
}
