//! What can be said: phrases of a small grammar, with their words' readings.

use std::sync::OnceLock;

/// A phrase and how it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    /// `en` or `zh`.
    pub lang: &'static str,
    /// As written.
    pub text: String,
    /// Its words: as written, and their sounds (English) or pinyin (Mandarin).
    pub words: Vec<(String, String)>,
}

/// Every phrase of a language; empty for one that is not spoken here.
pub fn phrases(lang: &str) -> &'static [Phrase] {
    static ALL: OnceLock<[Vec<Phrase>; 2]> = OnceLock::new();
    let [english, mandarin] = ALL.get_or_init(|| [all("en", EN), all("zh", ZH)]);
    match lang {
        "en" => english,
        "zh" => mandarin,
        _ => &[],
    }
}

/// The phrase of that wording.
pub fn phrase(lang: &str, text: &str) -> Option<&'static Phrase> {
    phrases(lang).iter().find(|p| p.text == text)
}

/// Words of one language and the patterns that they fill.
struct Grammar {
    /// `word reading`, one a word.
    lexicon: &'static [(&'static str, &'static str)],
    /// Words that may stand for `{name}`.
    slots: &'static [(&'static str, &'static [&'static str])],
    /// Words and slots with spaces between.
    patterns: &'static [&'static str],
    /// What stands between words as written.
    gap: &'static str,
}

fn all(lang: &'static str, grammar: &Grammar) -> Vec<Phrase> {
    let mut phrases: Vec<Phrase> = grammar
        .patterns
        .iter()
        .flat_map(|pattern| grammar.expand(pattern))
        .map(|words| Phrase {
            lang,
            text: words.join(grammar.gap),
            words: words
                .iter()
                .map(|word| (word.clone(), grammar.reading(word).to_owned()))
                .collect(),
        })
        .collect();
    phrases.dedup();
    phrases
}

impl Grammar {
    fn reading(&self, word: &str) -> &'static str {
        self.lexicon
            .iter()
            .find(|(w, _)| *w == word)
            .map_or("", |(_, reading)| reading)
    }

    /// Every way to fill a pattern.
    fn expand(&self, pattern: &str) -> Vec<Vec<String>> {
        let mut filled: Vec<Vec<String>> = vec![Vec::new()];
        for part in pattern.split(' ') {
            let slot = part.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
            let choices: Vec<&str> = match slot {
                Some(name) => self
                    .slots
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map_or(Vec::new(), |(_, words)| words.to_vec()),
                None => vec![part],
            };
            filled = filled
                .into_iter()
                .flat_map(|words| {
                    choices.iter().map(move |choice| {
                        let mut words = words.clone();
                        words.push((*choice).to_owned());
                        words
                    })
                })
                .collect();
        }
        filled
    }
}

const EN: &Grammar = &Grammar {
    gap: " ",
    lexicon: &[
        ("hello", "HH AX0 L OW1"),
        ("good", "G UH1 D"),
        ("morning", "M AO1 R N IH0 NG"),
        ("evening", "IY1 V N IH0 NG"),
        ("night", "N AY1 T"),
        ("thank", "TH AE1 NG K"),
        ("you", "Y UW0"),
        ("see", "S IY1"),
        ("tomorrow", "T AX0 M AA1 R OW0"),
        ("welcome", "W EH1 L K AX0 M"),
        ("goodbye", "G UH1 D B AY1"),
        ("nice", "N AY1 S"),
        ("to", "T AX0"),
        ("meet", "M IY1 T"),
        ("happy", "HH AE1 P IY0"),
        ("birthday", "B ER1 TH D EY0"),
        ("how", "HH AW1"),
        ("are", "AA0 R"),
        ("one", "W AH1 N"),
        ("two", "T UW1"),
        ("three", "TH R IY1"),
        ("four", "F AO1 R"),
        ("five", "F AY1 V"),
        ("six", "S IH1 K S"),
        ("seven", "S EH1 V AX0 N"),
        ("eight", "EY1 T"),
        ("nine", "N AY1 N"),
        ("ten", "T EH1 N"),
        ("and", "AX0 N D"),
        ("a", "AX0"),
        ("the", "DH AX0"),
        ("is", "IH0 Z"),
        ("I", "AY0"),
        ("like", "L AY1 K"),
        ("my", "M AY0"),
        ("red", "R EH1 D"),
        ("blue", "B L UW1"),
        ("green", "G R IY1 N"),
        ("yellow", "Y EH1 L OW0"),
        ("white", "W AY1 T"),
        ("black", "B L AE1 K"),
        ("cat", "K AE1 T"),
        ("dog", "D AO1 G"),
        ("horse", "HH AO1 R S"),
        ("bird", "B ER1 D"),
        ("fish", "F IH1 SH"),
        ("cow", "K AW1"),
        ("cats", "K AE1 T S"),
        ("dogs", "D AO1 G Z"),
        ("horses", "HH AO1 R S AX0 Z"),
        ("birds", "B ER1 D Z"),
    ],
    slots: &[
        (
            "colour",
            &["red", "blue", "green", "yellow", "white", "black"],
        ),
        ("animal", &["cat", "dog", "horse", "bird", "fish", "cow"]),
        ("animals", &["cats", "dogs", "horses", "birds"]),
        ("count", &["two", "three", "four", "five", "six"]),
    ],
    patterns: &[
        "hello",
        "good morning",
        "good evening",
        "good night",
        "thank you",
        "see you tomorrow",
        "welcome",
        "goodbye",
        "nice to meet you",
        "happy birthday",
        "how are you",
        "hello and welcome",
        "one two three",
        "four five six",
        "seven eight nine ten",
        "a {colour} {animal}",
        "the {animal} is {colour}",
        "I like {colour}",
        "I like my {animal}",
        "I see {count} {animals}",
        "good morning {animal}",
    ],
};

const ZH: &Grammar = &Grammar {
    gap: "",
    lexicon: &[
        ("你好", "ni3 hao3"),
        ("早上", "zao3 shang5"),
        ("晚上", "wan3 shang5"),
        ("好", "hao3"),
        ("晚安", "wan3 an1"),
        ("谢谢", "xie4 xie5"),
        ("再见", "zai4 jian4"),
        ("明天", "ming2 tian1"),
        ("见", "jian4"),
        ("吗", "ma5"),
        ("生日", "sheng1 ri4"),
        ("快乐", "kuai4 le4"),
        ("欢迎", "huan1 ying2"),
        ("你", "ni3"),
        ("我", "wo3"),
        ("一", "yi1"),
        ("二", "er4"),
        ("三", "san1"),
        ("四", "si4"),
        ("五", "wu3"),
        ("六", "liu4"),
        ("七", "qi1"),
        ("八", "ba1"),
        ("九", "jiu3"),
        ("十", "shi2"),
        ("两", "liang3"),
        ("喜欢", "xi3 huan5"),
        ("看见", "kan4 jian4"),
        ("爱", "ai4"),
        ("的", "de5"),
        ("是", "shi4"),
        ("红色", "hong2 se4"),
        ("蓝色", "lan2 se4"),
        ("绿色", "lv4 se4"),
        ("黄色", "huang2 se4"),
        ("白色", "bai2 se4"),
        ("黑色", "hei1 se4"),
        ("猫", "mao1"),
        ("狗", "gou3"),
        ("马", "ma3"),
        ("鸟", "niao3"),
        ("鱼", "yu2"),
        ("牛", "niu2"),
        ("只", "zhi1"),
    ],
    slots: &[
        ("colour", &["红色", "蓝色", "绿色", "黄色", "白色", "黑色"]),
        ("animal", &["猫", "狗", "马", "鸟", "鱼", "牛"]),
        ("pet", &["猫", "狗", "鸟"]),
        ("count", &["两", "三", "四", "五", "六"]),
    ],
    patterns: &[
        "你好",
        "早上 好",
        "晚上 好",
        "晚安",
        "谢谢",
        "谢谢 你",
        "再见",
        "明天 见",
        "你好 吗",
        "生日 快乐",
        "欢迎 你",
        "我 爱 你",
        "一 二 三",
        "四 五 六",
        "七 八 九 十",
        "{colour} 的 {animal}",
        "{animal} 是 {colour} 的",
        "我 喜欢 {colour}",
        "我 喜欢 {animal}",
        "我 看见 {count} 只 {pet}",
        "早上 好 {animal}",
    ],
};
