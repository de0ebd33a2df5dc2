//! Words that mean nothing, put into captions.
//!
//! People's words are not all in the captions. Pieces that a network hardly ever sees but in what faces say would come to
//! mean faces, wherever they stand; so they stand anywhere now and then, and mean nothing.

use rand::RngExt;
use rand_pcg::Pcg64;

/// Chinese characters as they are numbered in Unicode: the common block.
const CHARACTERS: std::ops::Range<u32> = 0x4e00..0x9fa5;

/// `caption` with one or two strange words between its own: Chinese ones where it is Chinese. What stands between quotation
/// marks is said, and stays as it is.
pub fn with_strange_words(caption: &str, rng: &mut Pcg64) -> String {
    let chinese = caption.chars().any(|c| CHARACTERS.contains(&u32::from(c)));
    let mut text = caption.to_owned();
    for _ in 0..rng.random_range(1..=2) {
        let gaps = gaps(&text, chinese);
        if gaps.is_empty() {
            return text;
        }
        let at = gaps[rng.random_range(0..gaps.len())];
        let word = match chinese {
            true => chinese_word(rng),
            false => format!("{} ", latin_word(rng)),
        };
        text.insert_str(at, &word);
    }
    text
}

/// Where words may stand, in bytes: before a word, or before a Chinese character, outside quotation marks.
fn gaps(text: &str, chinese: bool) -> Vec<usize> {
    let (mut gaps, mut quoted, mut before) = (Vec::new(), false, ' ');
    for (at, c) in text.char_indices() {
        let starts = match chinese {
            true => CHARACTERS.contains(&u32::from(c)),
            false => before == ' ' && c.is_alphabetic(),
        };
        if starts && !quoted {
            gaps.push(at);
        }
        match c {
            '"' => quoted = !quoted,
            '“' => quoted = true,
            '”' => quoted = false,
            _ => {}
        }
        before = c;
    }
    gaps
}

fn chinese_word(rng: &mut Pcg64) -> String {
    let length = rng.random_range(1..=2);
    (0..length)
        .filter_map(|_| char::from_u32(rng.random_range(CHARACTERS)))
        .collect()
}

/// Syllables, so that it is cut into pieces as words are.
fn latin_word(rng: &mut Pcg64) -> String {
    let one = |of: &[u8], rng: &mut Pcg64| char::from(of[rng.random_range(0..of.len())]);
    let mut word = String::new();
    for _ in 0..rng.random_range(1..=3) {
        word.push(one(b"bcdfghjklmnprstvwz", rng));
        word.push(one(b"aeiou", rng));
        if rng.random_bool(0.4) {
            word.push(one(b"lmnrst", rng));
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn strange_words_stand_between_and_speech_stays() {
        let mut rng = Pcg64::seed_from_u64(3);
        for caption in [
            "A red ball bounces on wood.",
            "A man says \"good morning\".",
            "一个红球在木地板上弹跳。",
            "一个男人说“早上好”。",
        ] {
            let said = |text: &str| {
                let from = text.find(['"', '“'])?;
                Some(text[from..].to_owned())
            };
            let mut more = 0;
            for _ in 0..50 {
                let strange = with_strange_words(caption, &mut rng);
                more += strange.chars().count() - caption.chars().count();
                // What was there is there in its order.
                let mut rest = strange.chars();
                assert!(caption.chars().all(|c| rest.any(|s| s == c)), "{strange}");
                if let Some(said) = said(caption) {
                    let words = said.trim_start_matches(['"', '“']).split(['"', '”']).next();
                    assert!(strange.contains(words.unwrap_or_default()), "{strange}");
                }
            }
            assert!(more >= 50, "{caption}: {more} characters more");
        }
        assert_eq!(with_strange_words("", &mut rng), "");
        assert_eq!(with_strange_words("“好”", &mut rng), "“好”");
    }
}
