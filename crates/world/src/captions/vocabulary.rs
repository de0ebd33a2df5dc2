//! Which words the grammar knows, and which words of a prompt it does not.

use std::collections::BTreeSet;

use super::lexicon;
use crate::world::WorldConfig;

/// The words of `prompt` that no caption of a clip of `world` has in training, once each: first those that tell, then those
/// that are said, which may also be any that the world's faces say.
///
/// A word for what the world never shows is known only within a longer phrase of its captions: "a small room" does not make
/// small things known. Words of alphabets are compared whole; runs of Han characters are read from the left by the
/// longest known word, and what is left between known words is reported together.
pub fn unknown_words(prompt: &str, world: &WorldConfig) -> Vec<String> {
    let literals: Vec<Vec<String>> = (lexicon::all().iter())
        .flat_map(|l| l.literals(world))
        .map(literal_words)
        .collect();
    let alone: BTreeSet<&String> = literals.iter().filter(|l| l.len() == 1).flatten().collect();
    let excluded: BTreeSet<String> = (lexicon::all().iter())
        .flat_map(|l| l.excluded(world))
        .map(literal_words)
        .filter(|words| words.len() == 1 && !alone.contains(&words[0]))
        .flatten()
        .collect();
    let phrases: Vec<&Vec<String>> = (literals.iter())
        .filter(|literal| literal.iter().any(|word| excluded.contains(word)))
        .collect();
    let mut known: BTreeSet<String> = literals.iter().flatten().cloned().collect();
    let (told, said) = told_and_said(prompt);
    let mut unknown = unknown_among(&without_phrases(runs(&told), &phrases), &|word| {
        known.contains(word) && !excluded.contains(word)
    });
    let words = lexicon::all().iter().flat_map(|l| l.said(world));
    known.extend(words.flat_map(runs));
    unknown.extend(unknown_among(&runs(&said), &|word| known.contains(word)));
    let mut seen = BTreeSet::new();
    unknown.retain(|w| seen.insert(w.clone()));
    unknown
}

fn unknown_among(runs: &[String], known: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut unknown = Vec::new();
    for run in runs {
        if run.chars().any(is_han) {
            unknown.extend(unknown_han(run, known));
        } else if !run.chars().all(|c| c.is_ascii_digit()) && !knows(known, run) {
            unknown.push(run.clone());
        }
    }
    unknown
}

/// `runs` less those that follow each other as a phrase has them.
fn without_phrases(mut runs: Vec<String>, phrases: &[&Vec<String>]) -> Vec<String> {
    let mut at = 0;
    while at < runs.len() {
        let here = phrases
            .iter()
            .filter(|phrase| runs[at..].starts_with(phrase));
        match here.map(|phrase| phrase.len()).max() {
            Some(length) => drop(runs.drain(at..at + length)),
            None => at += 1,
        }
    }
    runs
}

/// What of `prompt` tells, and what is said in it: what stands in quotation marks, or after "says" up to the next mark.
fn told_and_said(prompt: &str) -> (String, String) {
    let (mut told, mut said) = (String::new(), String::new());
    let (mut quoted, mut reported) = (false, false);
    let mut word = String::new();
    for (at, c) in prompt.char_indices() {
        let was = (quoted, reported);
        match c {
            '"' => quoted = !quoted,
            '“' | '「' | '『' | '«' => quoted = true,
            '”' | '」' | '』' | '»' => quoted = false,
            '.' | ',' | ';' | ':' | '!' | '?' | '。' | '，' | '；' | '：' | '！' | '？' => {
                reported = false;
            }
            // "说话" is to talk.
            '说' if !quoted => reported = !prompt[at..].starts_with("说话"),
            _ => {}
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        } else {
            reported |= !quoted && ["say", "says", "saying"].contains(&word.as_str());
            word.clear();
        }
        if (quoted, reported) == was {
            if quoted || reported {
                &mut said
            } else {
                &mut told
            }
            .push(c);
        } else {
            // Words on both sides stay apart; the verb itself tells.
            told.push(if c.is_alphanumeric() { c } else { ' ' });
            said.push(' ');
        }
    }
    (told, said)
}

/// Known as it is, or in its singular or base form.
fn knows(known: &dyn Fn(&str) -> bool, word: &str) -> bool {
    let forms = ["", "s", "es", "'s", "ing", "ed"];
    forms.iter().any(|ending| {
        word.strip_suffix(ending)
            .is_some_and(|stem| known(stem) || known(&format!("{stem}e")))
    }) || known(&format!("{word}s"))
}

/// The words of a template's text, its slots left out.
fn literal_words(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut slot = String::new();
    let mut in_slot = false;
    for c in text.chars() {
        match c {
            '{' => in_slot = true,
            '}' => {
                // A choice by number holds words, a slot holds a name.
                if slot.contains('|') {
                    plain.push_str(&slot);
                }
                plain.push(' ');
                slot.clear();
                in_slot = false;
            }
            _ if in_slot => slot.push(c),
            _ => plain.push(c),
        }
    }
    runs(&plain)
}

/// Maximal runs of letters, split where the script changes, lower case.
fn runs(text: &str) -> Vec<String> {
    let mut runs: Vec<String> = Vec::new();
    let mut open = false;
    let mut han = false;
    for c in text.chars().flat_map(char::to_lowercase) {
        if !(c.is_alphanumeric() || (c == '\'' && open)) {
            open = false;
            continue;
        }
        match runs.last_mut() {
            Some(run) if open && han == is_han(c) => run.push(c),
            _ => runs.push(c.to_string()),
        }
        open = true;
        han = is_han(c);
    }
    runs
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{2fa1f}')
}

/// What of a run of Han characters is left when the longest known words are taken from it.
fn unknown_han(run: &str, known: &dyn Fn(&str) -> bool) -> Vec<String> {
    let chars: Vec<char> = run.chars().collect();
    let (mut at, mut left, mut unknown) = (0, String::new(), Vec::new());
    while at < chars.len() {
        let longest = (1..=(chars.len() - at).min(12))
            .rev()
            .find(|&n| known(&chars[at..at + n].iter().collect::<String>()));
        match longest {
            Some(n) => {
                if !left.is_empty() {
                    unknown.push(std::mem::take(&mut left));
                }
                at += n;
            }
            None => {
                left.push(chars[at]);
                at += 1;
            }
        }
    }
    if !left.is_empty() {
        unknown.push(left);
    }
    unknown
}
