//! Filling a template: slots, optional parts, number, capitals.

use std::collections::BTreeSet;

use rand::RngExt;

use super::lexicon::Lexicon;
use crate::WorldRng;
use crate::attributes::{Attributes, Colour};

/// A filled template.
#[derive(Debug, Default)]
pub struct Filled {
    /// The sentence.
    pub text: String,
    /// The attributes it tells of.
    pub mentions: BTreeSet<String>,
}

/// Fills `template` with words for `attributes`.
pub fn fill(
    lexicon: &Lexicon,
    attributes: &Attributes,
    template: &str,
    rng: &mut WorldRng,
) -> Filled {
    let mut filler = Filler {
        lexicon,
        attributes,
        count: attributes.count,
        colour: attributes.colours.first().copied(),
        general: false,
        bare: false,
        rng,
        mentions: BTreeSet::new(),
    };
    let text = filler.expand(template).unwrap_or_default();
    Filled {
        text: polish(&text),
        mentions: filler.mentions,
    }
}

struct Filler<'a> {
    lexicon: &'a Lexicon,
    attributes: &'a Attributes,
    /// Number and colour of the noun phrase being filled.
    count: usize,
    colour: Option<Colour>,
    /// Subjects are told by their family's general word: a ball, not a basketball.
    general: bool,
    /// One subject comes without its article: as people type who search.
    bare: bool,
    rng: &'a mut WorldRng,
    mentions: BTreeSet<String>,
}

impl Filler<'_> {
    /// Expands one template; `None` if a slot outside optional parts has no word.
    fn expand(&mut self, template: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = template;
        while let Some(start) = rest.find(['{', '[']) {
            out.push_str(&rest[..start]);
            let (inner, after) = bracketed(&rest[start..]);
            if rest[start..].starts_with('{') {
                out.push_str(&self.slot(inner)?);
            } else {
                out.push_str(&self.optional(inner));
            }
            rest = after;
        }
        out.push_str(rest);
        Some(out)
    }

    /// `[...]` is left out where it cannot be filled, `[?...]` also half of the time.
    fn optional(&mut self, inner: &str) -> String {
        let (by_chance, inner) = match inner.strip_prefix('?') {
            Some(rest) => (true, rest),
            None => (false, inner),
        };
        if by_chance && self.rng.random_bool(0.5) {
            return String::new();
        }
        let before = self.mentions.clone();
        match self.expand(inner) {
            Some(text) => text,
            None => {
                self.mentions = before;
                String::new()
            }
        }
    }

    fn slot(&mut self, slot: &str) -> Option<String> {
        if ["np", "np_general", "np_bare"].contains(&slot) {
            (self.general, self.bare) = (slot == "np_general", slot == "np_bare");
            let phrase = self.noun_phrase();
            (self.general, self.bare) = (false, false);
            return Some(phrase);
        }
        if slot.contains('|') {
            return Some(self.by_number(slot).to_owned());
        }
        // What the general word leaves open is not told.
        if !(self.general && slot == "subject") {
            self.mentions.insert(slot.to_owned());
        }
        if slot == "phrase" {
            return self.attributes.phrase.clone();
        }
        let value = self.value(slot)?;
        let word = self.word(&format!("{slot}.{value}"))?;
        // A word may itself hold slots (a direction that needs the subject's number).
        let word = if word.contains('|') && !word.contains('{') {
            self.by_number(&word).to_owned()
        } else {
            self.expand(&word)?
        };
        Some(word)
    }

    /// `one|many` by the number of things.
    fn by_number<'t>(&self, forms: &'t str) -> &'t str {
        let mut parts = forms.split('|');
        let one = parts.next().unwrap_or_default();
        if self.count == 1 {
            one
        } else {
            parts.next().unwrap_or(one)
        }
    }

    fn value(&self, slot: &str) -> Option<String> {
        let a = self.attributes;
        match slot {
            "subject" | "measure" if self.general => Some("general".to_owned()),
            "subject" | "measure" => Some(a.subject.clone()),
            "count" => Some(self.count.to_string()),
            "colour" => self.colour.map(|c| c.key().to_owned()),
            "size" => a.size.map(|s| s.key().to_owned()),
            "material" => a.material.clone(),
            "floor" => a.floor.clone(),
            "action" => a.action.clone(),
            "direction" => a.direction.map(|d| d.key().to_owned()),
            "place" => Some(a.place.clone()),
            "look" => Some(a.look.key().to_owned()),
            "camera" => Some(a.camera.key().to_owned()),
            "time" => Some(a.time_of_day.key().to_owned()),
            "weather" => Some(a.weather.key().to_owned()),
            "lang" => a.phrase_lang.clone(),
            "sound" => Some(a.details.get("sound").unwrap_or(&a.subject).clone()),
            other => a.details.get(other).cloned(),
        }
    }

    fn word(&mut self, concept: &str) -> Option<String> {
        let synonyms = self.lexicon.synonyms(&self.attributes.family, concept);
        if synonyms.is_empty() {
            return None;
        }
        Some(synonyms[self.rng.random_range(0..synonyms.len())].clone())
    }

    /// All subjects: those of one colour together, joined as the language joins lists.
    fn noun_phrase(&mut self) -> String {
        let groups = self.groups();
        let mut parts = Vec::new();
        for (colour, count) in groups {
            let rule = match (count, self.bare) {
                (1, true) => "bare",
                (1, false) => "one",
                _ => "many",
            };
            let saved = (self.count, self.colour);
            (self.count, self.colour) = (count, colour);
            let rule = self.lexicon.rule(rule);
            parts.extend(self.expand(rule));
            (self.count, self.colour) = saved;
        }
        self.mentions.extend(["count".to_owned()]);
        let last = parts.pop().unwrap_or_default();
        if parts.is_empty() {
            return last;
        }
        let comma = self.lexicon.rule("comma");
        format!("{}{}{last}", parts.join(comma), self.lexicon.rule("and"))
    }

    /// The subjects grouped by colour, in order of appearance.
    fn groups(&self) -> Vec<(Option<Colour>, usize)> {
        let mut groups: Vec<(Option<Colour>, usize)> = Vec::new();
        for index in 0..self.attributes.count {
            let colour =
                (!self.attributes.colours.is_empty()).then(|| self.attributes.colour(index));
            match groups.iter_mut().find(|g| g.0 == colour) {
                Some(group) => group.1 += 1,
                None => groups.push((colour, 1)),
            }
        }
        groups
    }
}

/// Splits `"{a}b"` into `("a", "b")`, minding nested brackets of both kinds.
fn bracketed(text: &str) -> (&str, &str) {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&text[1..i], &text[i + c.len_utf8()..]);
        }
    }
    (&text[1..], "")
}

/// Capitals where `^` asks for one, `an` before vowels, single spaces.
fn polish(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut capital = false;
    for c in text.chars() {
        match c {
            '^' => capital = true,
            ' ' if words.is_empty() || words.ends_with(' ') => {}
            _ if capital => {
                words.extend(c.to_uppercase());
                capital = false;
            }
            _ => words.push(c),
        }
    }
    articles(words.trim_end())
}

/// `a orange ball` -> `an orange ball`.
fn articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        out.push_str(word);
        let next = words.peek();
        let vowel = next.is_some_and(|w| w.starts_with(['a', 'e', 'i', 'o', 'u']));
        if vowel && (word == "a" || word == "A") {
            out.push('n');
        }
        if next.is_some() {
            out.push(' ');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_follow_their_word() {
        assert_eq!(
            articles("a orange and a red one"),
            "an orange and a red one"
        );
        assert_eq!(polish("^a  old. ^yes"), "An old. Yes");
    }

    #[test]
    fn brackets_nest() {
        assert_eq!(bracketed("[a {b} [c]] d"), ("a {b} [c]", " d"));
    }
}
