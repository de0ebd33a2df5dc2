//! Pinyin to sounds.

/// Initials, the longer ones first.
const INITIALS: &[&str] = &[
    "zh", "ch", "sh", "b", "p", "m", "f", "d", "t", "n", "l", "g", "k", "h", "j", "q", "x", "r",
    "z", "c", "s",
];

/// Initials whose sounds have another name in the table of sounds.
fn initial_sound(initial: &str) -> &str {
    match initial {
        "p" => "P",
        "t" => "T",
        "k" => "K",
        "m" => "M",
        "n" => "N",
        "l" => "L",
        "f" => "F",
        "s" => "S",
        other => other,
    }
}

/// The sounds of a final, as written after an initial or alone.
fn final_sounds(final_: &str) -> Option<&'static [&'static str]> {
    Some(match final_ {
        "a" => &["a"],
        "o" => &["u-", "o"],
        "e" => &["e"],
        "i" => &["i"],
        "u" => &["u"],
        "v" => &["v"],
        "ai" => &["ai"],
        "ei" => &["ei"],
        "ao" => &["ao"],
        "ou" => &["ou"],
        "an" => &["a", "N"],
        "en" => &["AX", "N"],
        "ang" => &["a", "ng"],
        "eng" => &["e", "ng"],
        "ong" => &["UH", "ng"],
        "er" => &["er"],
        "ia" => &["i-", "a"],
        "ie" => &["i-", "eh"],
        "iao" => &["i-", "ao"],
        "iu" => &["i-", "ou"],
        "ian" => &["i-", "eh", "N"],
        "in" => &["i", "N"],
        "iang" => &["i-", "a", "ng"],
        "ing" => &["i", "ng"],
        "iong" => &["i-", "UH", "ng"],
        "ua" => &["u-", "a"],
        "uo" => &["u-", "o"],
        "uai" => &["u-", "ai"],
        "ui" => &["u-", "ei"],
        "uan" => &["u-", "a", "N"],
        "un" => &["u-", "AX", "N"],
        "uang" => &["u-", "a", "ng"],
        "ve" => &["v-", "eh"],
        "van" => &["v-", "eh", "N"],
        "vn" => &["v", "N"],
        _ => return None,
    })
}

/// A syllable written without its initial: `yi`, `wo`, `yuan`, `an`.
fn bare(syllable: &str) -> String {
    if let Some(rest) = syllable.strip_prefix("yu") {
        return format!("v{rest}");
    }
    if syllable == "you" {
        return "iu".to_owned();
    }
    if let Some(rest) = syllable.strip_prefix('y') {
        return if rest.starts_with('i') {
            rest.to_owned()
        } else {
            format!("i{rest}")
        };
    }
    if let Some(rest) = syllable.strip_prefix('w') {
        return match rest {
            "u" => "u".to_owned(),
            "ei" => "ui".to_owned(),
            "en" => "un".to_owned(),
            "eng" => "ong".to_owned(),
            rest => format!("u{rest}"),
        };
    }
    syllable.to_owned()
}

/// The sounds and the tone (1 to 5) of a syllable such as `hao3`.
pub(super) fn syllable(text: &str) -> Option<(Vec<&str>, u8)> {
    let tone = text.bytes().last().filter(u8::is_ascii_digit)? - b'0';
    let plain = &text[..text.len() - 1];
    let initial = INITIALS.iter().find(|i| plain.starts_with(**i));
    let Some(initial) = initial else {
        return Some((final_sounds(&bare(plain))?.to_vec(), tone));
    };
    let rest = &plain[initial.len()..];
    let mut sounds = vec![initial_sound(initial)];
    match (*initial, rest) {
        ("z" | "c" | "s", "i") => sounds.push("z_i"),
        ("zh" | "ch" | "sh" | "r", "i") => sounds.push("r_i"),
        // After j, q and x a written u is said ü.
        ("j" | "q" | "x", _) if rest.starts_with('u') => {
            sounds.extend(final_sounds(&format!("v{}", &rest[1..]))?);
        }
        // After lips the o has no glide worth hearing.
        ("b" | "p" | "m" | "f", "o") => sounds.push("o"),
        _ => sounds.extend(final_sounds(rest)?),
    }
    Some((sounds, tone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syllables_are_read() {
        assert_eq!(syllable("hao3"), Some((vec!["h", "ao"], 3)));
        assert_eq!(syllable("zhi1"), Some((vec!["zh", "r_i"], 1)));
        assert_eq!(syllable("xue2"), Some((vec!["x", "v-", "eh"], 2)));
        assert_eq!(syllable("yi1"), Some((vec!["i"], 1)));
        assert_eq!(syllable("wo3"), Some((vec!["u-", "o"], 3)));
        assert_eq!(syllable("yuan2"), Some((vec!["v-", "eh", "N"], 2)));
        assert_eq!(syllable("wan3"), Some((vec!["u-", "a", "N"], 3)));
        assert_eq!(syllable("qq"), None);
    }
}
