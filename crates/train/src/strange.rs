//! Words that mean nothing, put into captions.
//!
//! People's words are not all in the captions, and are cut into pieces that stand in other words, whose meaning they must not
//! take on; so such words stand anywhere now and then, and mean nothing. Characters that no caption has need none of this:
//! the tokenizer leaves them out.

use rand::RngExt;
use rand_pcg::Pcg64;

/// `caption` with one or two strange words between its own. What stands between quotation marks is said, and stays as it is,
/// and so does all of a caption without Latin words.
pub fn with_strange_words(caption: &str, rng: &mut Pcg64) -> String {
    let mut text = caption.to_owned();
    for _ in 0..rng.random_range(1..=2) {
        let gaps = gaps(&text);
        if gaps.is_empty() {
            return text;
        }
        let at = gaps[rng.random_range(0..gaps.len())];
        text.insert_str(at, &format!("{} ", latin_word(rng)));
    }
    text
}

/// Where words may stand, in bytes: before a Latin word, outside quotation marks.
fn gaps(text: &str) -> Vec<usize> {
    let (mut gaps, mut quoted, mut before) = (Vec::new(), false, ' ');
    for (at, c) in text.char_indices() {
        if before == ' ' && c.is_ascii_alphabetic() && !quoted {
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
        ] {
            let mut more = 0;
            for _ in 0..50 {
                let strange = with_strange_words(caption, &mut rng);
                more += strange.len() - caption.len();
                // What was there is there in its order.
                let mut rest = strange.chars();
                assert!(caption.chars().all(|c| rest.any(|s| s == c)), "{strange}");
                if let Some(said) = caption.split('"').nth(1) {
                    assert!(strange.contains(&format!("\"{said}\"")), "{strange}");
                }
            }
            assert!(more >= 50, "{caption}: {more} characters more");
        }
        for same in [
            "",
            "\"good\"",
            "一个红球在木地板上弹跳。",
            "一个男人说“hello”。",
        ] {
            assert_eq!(with_strange_words(same, &mut rng), same);
        }
    }
}
