//! foal's tokenizer: byte-level BPE learned from captions.
//!
//! Text is folded to NFKC lower case; each Chinese or Japanese character and each digit stands alone before the merges, so
//! that a token never joins an adjective to its noun. What no merge knows is spelt in bytes, but characters beyond ASCII
//! that no caption had are left out: a network knows their bytes only from other characters, and takes them for those.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{
    Lowercase, NFKC, NormalizerWrapper, Prepend, Sequence as Normalizers,
};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizedString, Normalizer, SplitDelimiterBehavior};

use crate::error::{ModelError, Result};

/// Scripts written without spaces, whose characters carry meaning alone.
const IDEOGRAPHS: &str = r"[\p{Han}\p{Hiragana}\p{Katakana}]";
/// The pattern of characters that are left out is this, those that are known, and `]`.
const UNKNOWN: &str = r"[^\x00-\x7F";
/// Bytes, and tokens with a meaning of their own.
const SMALLEST_VOCABULARY: usize = 256 + Special::ALL.len();

/// Tokens with a meaning of their own; their ids are 0, 1, ... in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Fills up; never learned.
    Pad,
    /// Begins every text.
    Begin,
    /// Ends every text.
    End,
    /// Begins the next shot.
    Shot,
    /// Before a full prompt that is to follow a short one.
    Expand,
}

impl Special {
    /// In the order of their ids.
    pub const ALL: [Self; 5] = [Self::Pad, Self::Begin, Self::End, Self::Shot, Self::Expand];

    /// Its id.
    pub fn id(self) -> u32 {
        self as u32
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pad => "<|pad|>",
            Self::Begin => "<|begin|>",
            Self::End => "<|end|>",
            Self::Shot => "<|shot|>",
            Self::Expand => "<|expand|>",
        }
    }
}

/// foal's tokenizer.
#[derive(Clone)]
pub struct TextTokenizer(tokenizers::Tokenizer);

impl TextTokenizer {
    /// Learns a vocabulary of at most this size from captions.
    ///
    /// # Errors
    /// When the vocabulary cannot even hold the bytes.
    pub fn train(captions: &[String], vocabulary: usize) -> Result<Self> {
        if vocabulary < SMALLEST_VOCABULARY {
            let why = format!("a vocabulary of {vocabulary} is less than {SMALLEST_VOCABULARY}");
            return Err(ModelError::Config(why));
        }
        let special = Special::ALL.map(|s| AddedToken::from(s.name(), true));
        let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
        let trainer = BpeTrainerBuilder::new()
            .vocab_size(vocabulary)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(special.to_vec())
            .initial_alphabet(alphabet)
            .build();
        let mut tokenizer = untrained()?;
        tokenizer
            .train(&mut TrainerWrapper::BpeTrainer(trainer), captions.iter())
            .map_err(failed)?;
        let mut tokenizer = Self::checked(tokenizer)?;
        tokenizer.learn_characters(captions)?;
        Ok(tokenizer)
    }

    /// From now on characters beyond ASCII have tokens only if one of `captions` has them, or one that was given here before.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn learn_characters(&mut self, captions: &[String]) -> Result<()> {
        let mut known: BTreeSet<char> = match self.0.get_normalizer() {
            Some(NormalizerWrapper::Sequence(steps)) => {
                steps.as_ref().iter().flat_map(known_characters).collect()
            }
            _ => BTreeSet::new(),
        };
        let all = normalizers(None)?;
        for caption in captions {
            let mut text = NormalizedString::from(caption.as_str());
            all.normalize(&mut text).map_err(failed)?;
            known.extend(text.get().chars().filter(|c| !c.is_ascii()));
        }
        self.0
            .with_normalizer(Some(normalizers(Some(&known))?))
            .map_err(failed)?;
        Ok(())
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// When it is not such a tokenizer.
    pub fn from_json(json: &str) -> Result<Self> {
        Self::checked(json.parse().map_err(failed)?)
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When it cannot be read or is not such a tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let json = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
        Self::from_json(&json).map_err(|e| ModelError::format(path, e))
    }

    /// The contents of a `tokenizer.json`.
    ///
    /// # Errors
    /// When it cannot be serialised.
    pub fn to_json(&self) -> Result<String> {
        self.0.to_string(false).map_err(failed)
    }

    /// Ids are less than this.
    pub fn vocabulary(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// The ids of a text, between [`Special::Begin`] and [`Special::End`]. Names of special tokens in it
    /// are text like any other.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_shots(&[text])
    }

    /// The ids of the texts of several shots, between [`Special::Begin`] and [`Special::End`], each but
    /// the first after a [`Special::Shot`].
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_shots(&self, shots: &[&str]) -> Result<Vec<u32>> {
        let mut ids = vec![Special::Begin.id()];
        for (i, shot) in shots.iter().enumerate() {
            if i > 0 {
                ids.push(Special::Shot.id());
            }
            ids.extend(self.pieces(shot)?);
        }
        ids.push(Special::End.id());
        Ok(ids)
    }

    /// The ids of a text alone.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.0.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, without special tokens.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.0.decode(ids, true).map_err(failed)?;
        Ok(text.trim().to_string())
    }

    fn checked(mut tokenizer: tokenizers::Tokenizer) -> Result<Self> {
        for special in Special::ALL {
            if tokenizer.token_to_id(special.name()) != Some(special.id()) {
                let why = format!("{} is not its token {}", special.name(), special.id());
                return Err(ModelError::Tokenizer(why));
            }
        }
        tokenizer.set_encode_special_tokens(true);
        Ok(Self(tokenizer))
    }
}

fn failed(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

/// How text is folded, and which characters beyond ASCII stay; all of them where none are named.
fn normalizers(known: Option<&BTreeSet<char>>) -> Result<Normalizers> {
    let mut steps: Vec<NormalizerWrapper> = vec![NFKC.into(), Lowercase.into()];
    if let Some(known) = known {
        let pattern = format!("{UNKNOWN}{}]", String::from_iter(known));
        let unknown = Replace::new(ReplacePattern::Regex(pattern), "").map_err(failed)?;
        steps.push(unknown.into());
    }
    // The first word looks like any other.
    steps.push(Prepend::new(" ".to_string()).into());
    Ok(Normalizers::new(steps))
}

/// The characters that a step of [`normalizers`] lets through, if it is the one that leaves out the others.
fn known_characters(step: &NormalizerWrapper) -> Vec<char> {
    let NormalizerWrapper::Replace(replace) = step else {
        return Vec::new();
    };
    // The pattern is told to serde alone.
    let json = serde_json::to_value(replace).unwrap_or_default();
    let pattern = json["pattern"]["Regex"].as_str().unwrap_or_default();
    let known = pattern
        .strip_prefix(UNKNOWN)
        .and_then(|known| known.strip_suffix(']'));
    known.unwrap_or_default().chars().collect()
}

fn untrained() -> Result<tokenizers::Tokenizer> {
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    let ideographs = SplitPattern::Regex(IDEOGRAPHS.to_string());
    let alone = Split::new(ideographs, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    let steps: Vec<PreTokenizerWrapper> = vec![
        alone.into(),
        Digits::new(true).into(),
        ByteLevel::new(false, false, true).into(),
    ];
    tokenizer
        .with_normalizer(Some(normalizers(None)?))
        .map_err(failed)?
        .with_pre_tokenizer(Some(PreTokenizers::new(steps)))
        .with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn captions() -> Vec<String> {
        (0..200)
            .flat_map(|i| {
                let colour = ["red", "blue", "green"][i % 3];
                let zh = ["红色", "蓝色", "绿色"][i % 3];
                [
                    format!("A {colour} basketball bounces on a wooden floor."),
                    format!("一个{zh}的篮球在木地板上弹跳{i}次。"),
                ]
            })
            .collect()
    }

    fn tokenizer() -> &'static TextTokenizer {
        static TRAINED: OnceLock<TextTokenizer> = OnceLock::new();
        TRAINED.get_or_init(|| TextTokenizer::train(&captions(), 400).unwrap())
    }

    #[test]
    fn known_words_are_single_tokens_and_case_does_not_count() {
        let t = tokenizer();
        let ids = t.encode("A red basketball").unwrap();
        assert_eq!(ids.len(), 5);
        assert_eq!(ids, t.encode("  a RED basketball").unwrap());
        assert_eq!((ids[0], ids[4]), (Special::Begin.id(), Special::End.id()));
        // A space, then a token a character.
        assert_eq!(t.pieces("红色篮球").unwrap().len(), 5);
        assert!(t.vocabulary() <= 400);
    }

    #[test]
    fn special_names_in_a_prompt_are_text() {
        let t = tokenizer();
        let ids = t.pieces("a <|end|> <|shot|>").unwrap();
        assert!(ids.iter().all(|&id| id as usize >= Special::ALL.len()));
        let shots = t.encode_shots(&["a red", "a blue"]).unwrap();
        assert_eq!(
            shots.iter().filter(|&&id| id == Special::Shot.id()).count(),
            1
        );
    }

    #[test]
    fn it_is_the_same_after_saving_and_when_trained_again() {
        let t = tokenizer();
        let json = t.to_json().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, &json).unwrap();
        let read = TextTokenizer::load(&path).unwrap();
        let text = "a green basketball 红色 12 🏀";
        assert_eq!(read.encode(text).unwrap(), t.encode(text).unwrap());
        let again = TextTokenizer::train(&captions(), 400).unwrap();
        assert_eq!(again.to_json().unwrap(), json);
        std::fs::write(&path, &json[..json.len() / 2]).unwrap();
        assert!(TextTokenizer::load(&path).is_err());
        assert!(TextTokenizer::train(&captions(), 200).is_err());
    }

    #[test]
    fn characters_that_no_caption_had_are_left_out() {
        let t = tokenizer();
        let same = |a: &str, b: &str| assert_eq!(t.encode(a).unwrap(), t.encode(b).unwrap());
        same("红色的篮球掉在木地板上", "红色的篮球在木地板上");
        same("a red 🏀 basketball", "a red  basketball");
        same("ｒｅｄ　ball", "red ball");
        same("掉", "");
        let mut more = t.clone();
        more.learn_characters(&["篮球掉É".to_string()]).unwrap();
        let more = TextTokenizer::from_json(&more.to_json().unwrap()).unwrap();
        for text in ["红色的篮球掉在木地板上", "é"] {
            assert_eq!(more.decode(&more.encode(text).unwrap()).unwrap(), text);
        }
        assert_eq!(more.encode("蹦").unwrap(), more.encode("").unwrap());
        assert_eq!(
            more.encode("a red ball").unwrap(),
            t.encode("a red ball").unwrap()
        );
    }

    proptest! {
        #[test]
        fn every_known_string_has_tokens_and_comes_back(text in "[a-z0-9红蓝绿色的篮球 .,!-]{0,60}") {
            let t = tokenizer();
            let ids = t.encode(&text).unwrap();
            let limit = t.vocabulary() as u32;
            prop_assert!(ids.iter().all(|&id| id < limit));
            prop_assert_eq!(t.decode(&ids).unwrap(), text.trim());
        }

        #[test]
        fn no_string_panics(text in any::<String>()) {
            tokenizer().encode(&text).unwrap();
        }
    }
}
