//! The three-part prompt that the public model was trained on, from plain parts.

use std::str::FromStr;

use gallop_core::{Result, UserError, check_lines};

/// What guidance pushes away from; the public code's own words.
pub const NEGATIVE_PROMPT: &str = include_str!("negative.txt");

const DIALOGUE: &str = "Dialogue:";
const BACKGROUND: &str = "Background Sound:";
const NO_BACKGROUND: &str = "No prominent background sound";

/// One spoken line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who speaks, in a few words.
    pub speaker: String,
    /// In which language.
    pub language: String,
    /// What is said.
    pub words: String,
}

impl FromStr for Line {
    type Err = UserError;

    /// `woman, English: Hello`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            UserError::new(
                format!("--dialogue `{text}` is not of the form `speaker, language: words`"),
                "write, for instance, --dialogue \"woman, English: Hello\"",
            )
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (head, words) = text.split_once([':', '：']).ok_or_else(wrong)?;
        let (speaker, language) = head.rsplit_once([',', '，']).ok_or_else(wrong)?;
        let [speaker, language, words] = [
            speaker.trim().trim_start_matches('<'),
            language.trim().trim_end_matches('>'),
            words.trim().trim_matches(['"', '“', '”']).trim(),
        ];
        if speaker.is_empty() || language.is_empty() || words.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            speaker: speaker.into(),
            language: language.into(),
            words: spaced(words),
        })
    }
}

/// The prompt as the model knows it: a description, what is said, and what else is heard.
///
/// A `description` that has these parts already stays as it is.
///
/// # Errors
/// When it is empty, or has them and `lines` or `ambience` would add to them.
pub fn assemble(description: &str, lines: &[Line], ambience: Option<&str>) -> Result<String> {
    let description = check_lines(description)?;
    let written = |mark: &str| description.contains(mark);
    for (mark, option, given) in [
        (DIALOGUE, "--dialogue", !lines.is_empty()),
        (BACKGROUND, "--ambience", ambience.is_some()),
    ] {
        if written(mark) && given {
            let what = format!("the prompt has a part `{mark}` and there is {option} too");
            return Err(UserError::new(what, "leave one of them out"));
        }
    }
    let mut prompt = description.clone();
    if !lines.is_empty() {
        let said = lines.iter().map(|line| {
            let Line {
                speaker,
                language,
                words,
            } = line;
            format!("\n<{speaker}, {language}>: \"{words}\"")
        });
        prompt.push_str(&format!("\n\n{DIALOGUE}{}", said.collect::<String>()));
    }
    if !written(BACKGROUND) {
        let ambience = ambience.map(str::trim).filter(|text| !text.is_empty());
        let heard = ambience.unwrap_or(NO_BACKGROUND);
        prompt.push_str(&format!("\n\n{BACKGROUND}\n<{heard}>"));
    }
    Ok(prompt)
}

/// The public prompts have a blank between any two Chinese, Japanese or Korean characters.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut before = None;
    for c in text.chars() {
        if before.is_some_and(is_cjk) && is_cjk(c) {
            out.push(' ');
        }
        out.push(c);
        before = Some(c);
    }
    out
}

/// Ideographs, kana and hangul; not their punctuation.
fn is_cjk(c: char) -> bool {
    matches!(c,
        '\u{3041}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        text.parse().unwrap()
    }

    #[test]
    fn three_parts_from_plain_flags() {
        let lines = [
            line("woman, English: Hello: you"),
            line("man in a coat, old, Mandarin：你好，世界"),
        ];
        let prompt = assemble(" A cafe. ", &lines, Some("rain")).unwrap();
        let want = "A cafe.\n\nDialogue:\n<woman, English>: \"Hello: you\"\n\
                    <man in a coat, old, Mandarin>: \"你 好，世 界\"\n\nBackground Sound:\n<rain>";
        assert_eq!(prompt, want);
        let alone = assemble("A cafe.", &[], None).unwrap();
        let want = "A cafe.\n\nBackground Sound:\n<No prominent background sound>";
        assert_eq!(alone, want);
    }

    #[test]
    fn a_whole_prompt_stays_as_it_is() {
        let whole = assemble("A cafe.", &[line("a, b: c")], Some("rain")).unwrap();
        assert_eq!(assemble(&whole, &[], None).unwrap(), whole);
        assert!(assemble(&whole, &[line("a, b: c")], None).is_err());
        assert!(assemble(&whole, &[], Some("wind")).is_err());
    }

    #[test]
    fn lines_that_lack_something_are_refused() {
        for text in [
            "",
            "hello",
            "woman: hello",
            "woman, English:",
            ", English: x",
            "woman,: x",
        ] {
            let error = text.parse::<Line>().unwrap_err().to_string();
            assert!(error.contains("--dialogue"), "{error}");
        }
    }
}
