use super::*;
use gallop_core::SAMPLE_RATE;

const VOICES: [Voice; 3] = [Voice::MAN, Voice::WOMAN, Voice::CHILD];

fn all() -> impl Iterator<Item = &'static Phrase> {
    phrases("en").iter().chain(phrases("zh"))
}

/// A phrase of one made-up word.
fn word(lang: &'static str, reading: &str) -> Phrase {
    Phrase {
        lang,
        text: reading.to_owned(),
        words: vec![(reading.to_owned(), reading.to_owned())],
    }
}

/// The period with the strongest autocorrelation, as a frequency near `expected`.
fn pitch_of(samples: &[f32], expected: f32) -> f32 {
    let rate = SAMPLE_RATE as f32;
    let (low, high) = (
        (rate / expected * 0.7) as usize,
        (rate / expected * 1.4) as usize,
    );
    let n = samples.len().saturating_sub(high);
    let score = |lag: usize| {
        let (a, b) = (&samples[..n], &samples[lag..lag + n]);
        let dot: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
        let power = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        dot / (power(a) * power(b)).max(1e-9)
    };
    let best = (low..high)
        .max_by(|&a, &b| score(a).total_cmp(&score(b)))
        .unwrap();
    rate / best as f32
}

/// Peaks of the envelope by linear prediction, hertz, from the lowest.
fn formants_of(samples: &[f32]) -> Vec<f32> {
    const ORDER: usize = 12;
    let rate = SAMPLE_RATE as f32 / 4.0;
    let coarse: Vec<f32> = samples.chunks_exact(4).map(|c| c.iter().sum()).collect();
    let n = coarse.len() as f32;
    let x: Vec<f32> = coarse
        .windows(2)
        .enumerate()
        .map(|(i, w)| {
            let window = 0.54 - 0.46 * (std::f32::consts::TAU * i as f32 / n).cos();
            (w[1] - 0.96 * w[0]) * window
        })
        .collect();
    let r: Vec<f32> = (0..=ORDER)
        .map(|lag| x.iter().zip(&x[lag..]).map(|(a, b)| a * b).sum())
        .collect();
    let mut a = [0.0f32; ORDER + 1];
    a[0] = 1.0;
    let mut error = r[0];
    for i in 1..=ORDER {
        let k = -(0..i).map(|j| a[j] * r[i - j]).sum::<f32>() / error;
        let old = a;
        for j in 1..=i {
            a[j] = old[j] + k * old[i - j];
        }
        error *= 1.0 - k * k;
    }
    let gain = |hz: f32| {
        let w = std::f32::consts::TAU * hz / rate;
        let (re, im) = a.iter().enumerate().fold((0.0, 0.0), |(re, im), (k, c)| {
            (re + c * (w * k as f32).cos(), im + c * (w * k as f32).sin())
        });
        1.0 / (re * re + im * im)
    };
    (20..400)
        .map(|i| 10.0 * i as f32)
        .filter(|&hz| gain(hz) > gain(hz - 10.0) && gain(hz) > gain(hz + 10.0))
        .collect()
}

#[test]
fn there_are_tens_of_phrases_and_every_word_can_be_read() {
    for lang in ["en", "zh"] {
        assert!(phrases(lang).len() >= 60, "{lang}");
    }
    assert!(phrases("tlh").is_empty());
    for phrase in all() {
        let said = speak(phrase, &Voice::MAN, 1);
        assert_eq!(said.words.len(), phrase.words.len(), "{}", phrase.text);
        for (_, reading) in &phrase.words {
            for part in reading.split(' ') {
                let known = match phrase.lang {
                    "zh" => pinyin::syllable(part)
                        .is_some_and(|(s, _)| s.iter().all(|s| phones::phone(s).is_some())),
                    _ => phones::phone(part.trim_end_matches(['0', '1'])).is_some(),
                };
                assert!(known, "{part} in {}", phrase.text);
            }
        }
    }
}

#[test]
fn sounds_follow_each_other_and_no_sample_leaves_the_scale() {
    for (i, phrase) in all().enumerate() {
        let said = speak(phrase, &VOICES[i % 3], i as u64);
        for pair in said.phonemes.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        for pair in said.words.windows(2) {
            assert!(pair[0].end <= pair[1].start + 1e-9);
        }
        assert!(said.phonemes.iter().all(|p| p.end > p.start + 0.02));
        let samples = said.samples();
        assert!(samples.iter().all(|x| x.is_finite() && x.abs() <= 0.951));
        let end = (said.seconds() * SAMPLE_RATE as f64) as usize;
        assert!(samples.len() > end && samples.len() < end + SAMPLE_RATE / 4);
        assert!((0.25..4.0).contains(&said.seconds()));
    }
}

#[test]
fn equal_seeds_say_the_same() {
    let phrase = phrase("en", "good morning").unwrap();
    let say = |seed| speak(phrase, &Voice::WOMAN, seed).samples();
    assert_eq!(say(3), say(3));
    assert_ne!(say(3), say(4));
}

#[test]
fn vowels_have_the_pitch_of_the_melody() {
    let (mut right, mut total) = (0, 0);
    for (i, phrase) in all().enumerate().step_by(7) {
        let voice = VOICES[i % 2];
        let said = speak(phrase, &voice, 5);
        let samples = said.samples();
        for p in said
            .phonemes
            .iter()
            .filter(|p| p.open > 0.4 && p.end - p.start > 0.1)
        {
            let middle = 0.5 * (p.start + p.end);
            let expected = said.pitch[(middle * 1000.0) as usize];
            let at = (middle * SAMPLE_RATE as f64) as usize;
            let found = pitch_of(&samples[at - 1200..at + 1200], expected);
            total += 1;
            right += usize::from((found / expected - 1.0).abs() < 0.08);
            assert!((0.5..2.2).contains(&(expected / voice.pitch)));
        }
    }
    assert!(total > 30 && right * 10 >= total * 9, "{right} of {total}");
}

#[test]
fn vowels_have_their_formants() {
    let voice = Voice {
        pitch: 95.0,
        ..Voice::MAN
    };
    for (symbol, f1, f2) in [
        ("IY", 280.0, 2250.0),
        ("IH", 400.0, 1950.0),
        ("EH", 560.0, 1790.0),
        ("AE", 690.0, 1660.0),
        ("AA", 740.0, 1110.0),
        ("AH", 630.0, 1220.0),
        ("ER", 480.0, 1330.0),
    ] {
        let said = speak(&word("en", &format!("{symbol}1")), &voice, 2);
        let at = (0.5 * said.seconds() * SAMPLE_RATE as f64) as usize;
        let found = formants_of(&said.samples()[at - 2400..at + 2400]);
        let near = |f: f32| found.iter().any(|p| (p / f - 1.0).abs() < 0.15);
        assert!(near(f1) && near(f2), "{symbol}: {found:?}");
    }
}

#[test]
fn tones_rise_and_fall() {
    let ends = |tone: u8| {
        let said = speak(&word("zh", &format!("ma{tone}")), &Voice::WOMAN, 1);
        let vowel = &said.phonemes[1];
        let at = |share: f64| {
            let time = vowel.start + share * (vowel.end - vowel.start);
            said.pitch[(time * 1000.0) as usize]
        };
        (at(0.1), at(0.5), at(0.9))
    };
    let (high, rising, low, falling) = (ends(1), ends(2), ends(3), ends(4));
    assert!((high.2 / high.0 - 1.0).abs() < 0.12, "{high:?}");
    assert!(rising.2 > 1.15 * rising.0, "{rising:?}");
    assert!(low.1 < 0.8 * high.1 && low.2 > low.1, "{low:?}");
    assert!(falling.2 < 0.75 * falling.0, "{falling:?}");
}

#[test]
fn a_low_tone_before_a_low_tone_rises() {
    let said = speak(phrase("zh", "你好").unwrap(), &Voice::MAN, 1);
    let vowel = &said.phonemes[1];
    let at = |time: f64| said.pitch[(time * 1000.0) as usize];
    assert!(at(vowel.end - 0.02) > 1.1 * at(vowel.start + 0.02));
}

#[test]
fn lips_meet_for_lip_sounds_and_open_for_wide_vowels() {
    let mut met = 0;
    for phrase in all() {
        let said = speak(phrase, &Voice::WOMAN, 1);
        for p in &said.phonemes {
            let middle = said.mouth_at(0.5 * (p.start + p.end));
            match p.symbol.as_str() {
                "m" | "b" | "p" => {
                    let shut = (0..10).any(|k| {
                        let t = p.start + (p.end - p.start) * f64::from(k) / 10.0;
                        said.mouth_at(t).open < 0.06
                    });
                    assert!(shut, "{} in {}", p.symbol, phrase.text);
                    met += 1;
                }
                "a" | "ɑ" | "aɪ" => assert!(middle.open > 0.4, "{} {}", phrase.text, middle.open),
                _ => {}
            }
        }
        assert_eq!(said.mouth_at(-1.0), Mouth::default());
        assert_eq!(said.mouth_at(1e3), Mouth::default());
    }
    assert!(met > 30);
}

#[test]
fn the_mouth_is_open_when_the_voice_is_loud() {
    let mut sum = 0.0;
    let mut count = 0.0;
    for (i, phrase) in all().enumerate().step_by(3) {
        let said = speak(phrase, &VOICES[i % 3], 1);
        let envelope: Vec<f32> = said
            .samples()
            .chunks(480)
            .map(|c| (c.iter().map(|x| x * x).sum::<f32>() / 480.0).sqrt())
            .collect();
        let open: Vec<f32> = (0..envelope.len())
            .map(|k| said.mouth_at(0.01 * k as f64 + 0.005).open)
            .collect();
        sum += correlation(&envelope, &open);
        count += 1.0;
    }
    assert!(sum / count > 0.6, "{}", sum / count);
}

fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    ab / (aa * bb).sqrt().max(1e-9)
}
