//! The words and templates of one language.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use super::Length;
use crate::split::Split;
use crate::world::WorldConfig;

/// Every language's files. A language joins by a line here, a family's words by a file in it.
const SOURCES: &[(&str, &[&str])] = &[
    (
        "en",
        &[
            include_str!("../../data/en/common.toml"),
            include_str!("../../data/en/ball.toml"),
            include_str!("../../data/en/horse.toml"),
            include_str!("../../data/en/vehicle.toml"),
            include_str!("../../data/en/fireworks.toml"),
            include_str!("../../data/en/instrument.toml"),
            include_str!("../../data/en/face.toml"),
        ],
    ),
    (
        "zh",
        &[
            include_str!("../../data/zh/common.toml"),
            include_str!("../../data/zh/ball.toml"),
            include_str!("../../data/zh/horse.toml"),
            include_str!("../../data/zh/vehicle.toml"),
            include_str!("../../data/zh/fireworks.toml"),
            include_str!("../../data/zh/instrument.toml"),
            include_str!("../../data/zh/face.toml"),
        ],
    ),
];

/// One `data/<lang>/*.toml` file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    grammar: BTreeMap<String, String>,
    known: Vec<String>,
    said: Vec<String>,
    words: BTreeMap<String, Vec<String>>,
    templates: BTreeMap<String, Templates>,
}

/// A family's templates; a leading `!` marks a wording that is kept from training.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Templates {
    short: Vec<String>,
    medium: Vec<String>,
    long: Vec<String>,
}

/// All files of one language, merged.
#[derive(Debug, Default)]
pub struct Lexicon {
    /// `en`, `zh`, ...
    pub lang: String,
    /// Words that mean nothing to the world but are no reason for a warning.
    pub known: Vec<String>,
    /// Words that the subjects of a family say, by its name.
    said: BTreeMap<String, Vec<String>>,
    grammar: BTreeMap<String, String>,
    words: BTreeMap<String, Vec<String>>,
    templates: BTreeMap<String, Templates>,
}

impl Lexicon {
    fn parse(lang: &str, sources: &[&str]) -> Self {
        let mut lexicon = Self {
            lang: lang.to_owned(),
            ..Self::default()
        };
        for source in sources {
            let file: File = toml::from_str(source)
                .expect("the grammar's files are compiled in and parsed by every test");
            lexicon.known.extend(file.known);
            lexicon.grammar.extend(file.grammar);
            // A file with templates speaks for its families, any other for all.
            if file.templates.is_empty() {
                lexicon.words.extend(file.words.clone());
            }
            for family in file.templates.keys() {
                let scoped = file.words.iter();
                let scoped = scoped.map(|(k, v)| (format!("{family}/{k}"), v.clone()));
                lexicon.words.extend(scoped);
                lexicon.said.insert(family.clone(), file.said.clone());
            }
            lexicon.templates.extend(file.templates);
        }
        lexicon
    }

    /// The synonyms for a concept such as `floor.wood`, the family's own or the language's;
    /// empty if the language lacks it.
    pub fn synonyms(&self, family: &str, concept: &str) -> &[String] {
        let own = self.words.get(&format!("{family}/{concept}"));
        own.or_else(|| self.words.get(concept))
            .map_or(&[], Vec::as_slice)
    }

    /// A piece of the language's noun-phrase grammar (`one`, `bare`, `many`, `comma`, `and`).
    pub fn rule(&self, name: &str) -> &str {
        self.grammar.get(name).map_or("", String::as_str)
    }

    /// The templates of one family, length and split, without their mark.
    pub fn templates(&self, family: &str, length: Length, split: Split) -> Vec<&str> {
        let Some(templates) = self.templates.get(family) else {
            return Vec::new();
        };
        let list = match length {
            Length::Short => &templates.short,
            Length::Medium => &templates.medium,
            Length::Long => &templates.long,
        };
        list.iter()
            .filter_map(|t| match (t.strip_prefix('!'), split) {
                (Some(held), Split::Heldout) => Some(held),
                (None, Split::Train) => Some(t.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Words that are said in clips of `world`, which captions quote.
    pub fn said<'a>(&'a self, world: &'a WorldConfig) -> impl Iterator<Item = &'a str> {
        let said = self.said.iter().filter(|(f, _)| world.has_family(f));
        said.flat_map(|(_, words)| words).map(String::as_str)
    }

    /// Words for what clips of `world` never show.
    pub fn excluded<'a>(&'a self, world: &'a WorldConfig) -> impl Iterator<Item = &'a str> {
        let words = self.words.iter().filter(|(key, _)| {
            let (_, concept) = family_and_concept(key);
            !world.may_show(concept)
        });
        words.flat_map(|(_, words)| words).map(String::as_str)
    }

    /// Every literal text that captions of `world`'s clips have in training: words, templates, noun phrases.
    pub fn literals<'a>(&'a self, world: &'a WorldConfig) -> impl Iterator<Item = &'a str> {
        let templates = (self.templates.keys())
            .filter(|family| world.has_family(family))
            .flat_map(|family| Length::ALL.map(|length| (family, length)))
            .flat_map(|(family, length)| self.templates(family, length, Split::Train));
        let words = self.words.iter().filter(|(key, _)| {
            let (family, concept) = family_and_concept(key);
            (family.is_empty() || world.has_family(family)) && world.may_show(concept)
        });
        words
            .flat_map(|(_, words)| words)
            .chain(self.grammar.values())
            .chain(&self.known)
            .map(String::as_str)
            .chain(templates)
    }
}

/// The two halves of a key of [`Lexicon::words`]; no family where the word is for all.
fn family_and_concept(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// Every language there is.
pub fn all() -> &'static [Lexicon] {
    static ALL: OnceLock<Vec<Lexicon>> = OnceLock::new();
    ALL.get_or_init(|| {
        SOURCES
            .iter()
            .map(|(lang, sources)| Lexicon::parse(lang, sources))
            .collect()
    })
}
