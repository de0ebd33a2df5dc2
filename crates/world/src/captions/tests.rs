use super::*;
use crate::world::{WorldConfig, rng};
use crate::{Colour, registry};

fn every_caption(split: Split, seeds: u64, mut check: impl FnMut(&Attributes, &Caption)) {
    for family in registry() {
        let config = WorldConfig {
            families: vec![family.name().into()],
            split,
            ..WorldConfig::default()
        };
        for seed in 0..seeds {
            let spec = config.spec(seed).expect("a registered family");
            for caption in captions(&spec.attributes, split, &mut rng(seed, 4)) {
                check(&spec.attributes, &caption);
            }
        }
    }
}

#[test]
fn every_family_has_every_length_in_every_language_and_split() {
    for lexicon in lexicon::all() {
        for family in registry() {
            for length in Length::ALL {
                for split in [Split::Train, Split::Heldout] {
                    let found = lexicon.templates(family.name(), length, split);
                    let (name, lang) = (family.name(), &lexicon.lang);
                    assert!(!found.is_empty(), "{name} {lang} {length:?} {split:?}");
                }
            }
        }
    }
}

#[test]
fn captions_are_clean_sentences() {
    for split in [Split::Train, Split::Heldout] {
        every_caption(split, 80, |a, caption| {
            let text = &caption.text;
            // A Chinese noun is a whole caption of training.
            let least = if (split, caption.lang.as_str()) == (Split::Train, "zh") {
                1
            } else {
                4
            };
            assert!(text.chars().count() >= least, "{caption:?} of {a:?}");
            let odd = [
                "{", "}", "[", "]", "|", "^", "  ", " ,", "，，", "。，", "， ", " .",
            ];
            assert!(odd.iter().all(|o| !text.contains(o)), "{text}");
            assert!(!text.starts_with(['，', ',', ' ']), "{text}");
        });
    }
}

#[test]
fn captions_mention_no_other_colour() {
    every_caption(Split::Train, 120, |a, caption| {
        // What is said may name any colour, and hair has its own.
        if caption.lang != "en" || a.phrase.is_some() {
            return;
        }
        let about: Vec<&str> = a.colours.iter().map(|c| c.key()).collect();
        for colour in Colour::ALL {
            let named = caption
                .text
                .split(|c: char| !c.is_alphabetic())
                .any(|w| w == colour.key());
            // Grass is green and leaves are, whatever the subject's colour.
            let scenery = ["green grass"].iter().any(|s| caption.text.contains(s));
            assert!(
                !named || about.contains(&colour.key()) || scenery,
                "{}",
                caption.text
            );
        }
    });
}

#[test]
fn the_general_word_leaves_the_subject_open() {
    let mut open = 0;
    every_caption(Split::Train, 120, |a, caption| {
        let told = caption.mentions.iter().any(|m| m == "subject");
        let kinds = match (a.family.as_str(), caption.lang.as_str()) {
            ("ball", "en") => &["basketball", "rubber", "steel", "metal", "glass"][..],
            ("ball", "zh") => &["篮球", "橡皮", "橡胶", "钢球", "金属球", "玻璃"],
            ("face", "en") => &[" man", " woman", " child", " men", " women"],
            ("face", "zh") => &["男人", "女人", "孩"],
            _ => return assert!(told, "{caption:?}"),
        };
        // Sounds and voices also tell what it is.
        if !caption.mentions.iter().any(|m| m == "sound") {
            let text = format!(" {}", caption.text.to_lowercase());
            let named = kinds.iter().any(|kind| text.contains(kind));
            assert_eq!(named, told, "{caption:?}");
        }
        open += usize::from(!told);
    });
    assert!(open > 20, "{open}");
}

#[test]
fn speech_is_told_with_marks_and_without() {
    let marked = |split| {
        let (mut with, mut without, mut wordless) = (0, 0, 0);
        every_caption(split, 120, |a, caption| {
            let Some(phrase) = &a.phrase else { return };
            let quoted = [format!("\"{phrase}\""), format!("“{phrase}”")];
            match caption.text.to_lowercase().contains(&phrase.to_lowercase()) {
                true if quoted.iter().any(|q| caption.text.contains(q)) => with += 1,
                true => without += 1,
                false => wordless += 1,
            }
        });
        [with, without, wordless]
    };
    assert!(marked(Split::Train).iter().all(|n| *n > 20));
    assert_eq!(marked(Split::Heldout)[1..], [0, 0]);
}

#[test]
fn long_captions_tell_more() {
    every_caption(Split::Train, 40, |_, caption| match caption.length {
        Length::Long => assert!(caption.mentions.len() >= 4, "{caption:?}"),
        Length::Short => assert!(caption.mentions.len() <= 7, "{caption:?}"),
        Length::Medium => {}
    });
}

#[test]
fn every_word_a_caption_uses_is_known() {
    every_caption(Split::Train, 40, |a, caption| {
        let mut unknown = unknown_words(&caption.text, &WorldConfig::default());
        // Spoken phrases are anyone's words.
        if let Some(phrase) = &a.phrase {
            unknown.retain(|w| !phrase.to_lowercase().contains(w.as_str()));
        }
        assert!(unknown.is_empty(), "{unknown:?} in {}", caption.text);
    });
}

#[test]
fn words_of_wordings_kept_from_training_are_strange() {
    let unknown = |prompt| unknown_words(prompt, &WorldConfig::default());
    assert_eq!(unknown("篮球掉在木地板上"), ["掉"]);
}

#[test]
fn strange_words_are_reported_once() {
    let unknown = |prompt| unknown_words(prompt, &WorldConfig::default());
    assert_eq!(
        unknown("a red zeppelin, a zeppelin and 3 balls"),
        ["zeppelin"]
    );
    assert_eq!(unknown("红色的篮球在飞碟上弹跳"), ["飞碟"]);
    assert!(unknown("A RED basketball bounces on a wooden court").is_empty());
    assert!(unknown("").is_empty());
    assert_eq!(
        unknown("A man says \"Good zeppelin, cat\" to a cat"),
        ["cat", "zeppelin"]
    );
}

#[test]
fn what_is_said_may_be_any_word_that_faces_say() {
    let unknown = |prompt| unknown_words(prompt, &WorldConfig::default());
    for told in [
        "A woman says hello",
        "a man saying I like my cat, in a room",
        "一位女人说你好",
        "孩子在说话，镜头静止",
        "A man says \"a blue cat\" in Chinese",
    ] {
        assert!(unknown(told).is_empty(), "{told}: {:?}", unknown(told));
    }
    assert_eq!(unknown("A woman says hello to the zeppelin"), ["zeppelin"]);
    assert_eq!(
        unknown("A woman says hello, a cat sleeps"),
        ["cat", "sleeps"]
    );
    assert_eq!(unknown("a man talks to a cat"), ["cat"]);
    assert_eq!(unknown("一位女人说飞碟"), ["飞碟"]);
}

#[test]
fn words_for_what_a_world_never_shows_are_strange_to_it() {
    let only = [("size", "large"), ("time_of_day", "day"), ("count", "1")];
    let narrow = WorldConfig {
        families: vec!["ball".into()],
        looks: vec![crate::Look::Soft3d],
        only: crate::Only(
            only.map(|(name, value)| (name.to_owned(), vec![value.to_owned()]))
                .into(),
        ),
        ..WorldConfig::default()
    };
    let unknown = |prompt: &str| unknown_words(prompt, &narrow);
    assert!(unknown("A large red basketball bounces by day, in a soft 3D style.").is_empty());
    assert_eq!(
        unknown("Two little horses at sunset, in neon style"),
        ["two", "little", "horses", "sunset", "neon"]
    );
    assert_eq!(unknown("夜晚的篮球"), ["夜晚"]);
    assert!(unknown("a large ball in a small room").is_empty());
    assert_eq!(unknown("a small ball in a small room"), ["small"]);
    for seed in 0..200 {
        let spec = narrow.spec(seed).unwrap();
        for caption in captions(&spec.attributes, Split::Train, &mut rng(seed, 4)) {
            let unknown = unknown(&caption.text);
            assert!(unknown.is_empty(), "{unknown:?} in {}", caption.text);
        }
    }
}

#[test]
fn wordings_of_the_splits_are_disjoint() {
    for lexicon in lexicon::all() {
        for family in registry() {
            for length in Length::ALL {
                let train = lexicon.templates(family.name(), length, Split::Train);
                let held = lexicon.templates(family.name(), length, Split::Heldout);
                assert!(train.iter().all(|t| !held.contains(t)));
            }
        }
    }
}

#[test]
fn heldout_prompts_are_shared_among_families_and_languages() {
    let world = WorldConfig {
        // A family that is drawn more often is not asked for more often.
        families: ["face", "face", "ball", "instrument"]
            .map(String::from)
            .to_vec(),
        ..WorldConfig::default()
    };
    let prompts = heldout_prompts(62, &["en", "zh"], &world).expect("families are registered");
    assert!(prompts.iter().all(|p| crate::is_heldout(&p.attributes)));
    for (family, many) in [("ball", 21), ("face", 21), ("instrument", 20)] {
        let of_family: Vec<_> = prompts
            .iter()
            .filter(|p| p.attributes.family == family)
            .collect();
        assert_eq!(of_family.len(), many, "{family}");
        let english = of_family.iter().filter(|p| p.lang == "en").count();
        assert!(
            english.abs_diff(many / 2) <= 1,
            "{family}: {english} of {many} in English"
        );
    }
    // A clip is found again from its seed alone.
    let held = WorldConfig {
        split: Split::Heldout,
        ..world
    };
    for prompt in &prompts {
        let spec = held.spec(prompt.seed).expect("families are registered");
        assert_eq!(spec.attributes, prompt.attributes);
    }
    let all = heldout_prompts(120, &["en", "zh"], &WorldConfig::default()).expect("as above");
    assert_eq!(all.len(), 120);
}
