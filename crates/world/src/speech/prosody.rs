//! From a phrase to sounds with lengths and a melody.

use super::Voice;
use super::phones::{Class, Phone, phone};
use super::phrases::Phrase;
use super::pinyin;
use crate::sound::noise::Noise;

/// One sound of an utterance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) phone: &'static Phone,
    /// Milliseconds.
    pub(super) ms: f32,
    /// The word it belongs to.
    pub(super) word: usize,
    /// Whether its syllable is stressed (English).
    pub(super) stressed: bool,
    /// Tone 1 to 5 of its syllable (Mandarin), 0 where there is none.
    pub(super) tone: u8,
    /// Number of its syllable (Mandarin).
    pub(super) syllable: usize,
}

/// The sounds of a phrase in order, with their lengths.
pub(super) fn sounds(phrase: &Phrase, voice: &Voice, noise: &mut Noise) -> Vec<Said> {
    let mut said = match phrase.lang {
        "zh" => mandarin(phrase),
        _ => english(phrase),
    };
    shape_lengths(&mut said, phrase.lang == "zh");
    for sound in &mut said {
        sound.ms *= noise.about_one(0.05) / voice.rate;
    }
    said
}

fn english(phrase: &Phrase) -> Vec<Said> {
    let mut said = Vec::new();
    for (word, (_, reading)) in phrase.words.iter().enumerate() {
        for name in reading.split(' ') {
            let symbol = name.trim_end_matches(['0', '1']);
            said.extend(phone(symbol).map(|phone| Said {
                phone,
                ms: phone.ms,
                word,
                stressed: name.ends_with('1'),
                tone: 0,
                syllable: 0,
            }));
        }
    }
    said
}

fn mandarin(phrase: &Phrase) -> Vec<Said> {
    let syllables: Vec<(usize, Vec<&str>, u8)> = phrase
        .words
        .iter()
        .enumerate()
        .flat_map(|(word, (_, reading))| {
            reading
                .split(' ')
                .filter_map(pinyin::syllable)
                .map(move |(sounds, tone)| (word, sounds, tone))
        })
        .collect();
    let mut said = Vec::new();
    for (i, (word, sounds, tone)) in syllables.iter().enumerate() {
        let next = syllables.get(i + 1).map(|s| s.2);
        // A low tone before another low tone is said rising.
        let tone = if *tone == 3 && next == Some(3) {
            2
        } else {
            *tone
        };
        for symbol in sounds {
            said.extend(phone(symbol).map(|phone| Said {
                phone,
                ms: phone.ms * if tone == 5 { 0.72 } else { 1.0 },
                word: *word,
                stressed: tone != 5,
                tone,
                syllable: i,
            }));
        }
    }
    said
}

/// Unstressed vowels are short; the end of a phrase is long; vowels before voiceless sounds
/// are short (English).
fn shape_lengths(said: &mut [Said], mandarin: bool) {
    let last_vowel = said.iter().rposition(|s| s.phone.is_vowel());
    for i in 0..said.len() {
        let next = said.get(i + 1).map(|s| s.phone);
        let sound = &mut said[i];
        if sound.phone.is_vowel() && !mandarin {
            sound.ms *= if sound.stressed { 1.12 } else { 0.80 };
            let cut = next.is_some_and(|n| {
                matches!(
                    n.class,
                    Class::Stop { voiced: false, .. } | Class::Fricative { voiced: false }
                )
            });
            if cut {
                sound.ms *= 0.85;
            }
        }
        if mandarin && sound.phone.is_vowel() {
            sound.ms *= 1.15;
        }
        if last_vowel.is_some_and(|v| i >= v) {
            sound.ms *= if mandarin { 1.25 } else { 1.4 };
        }
    }
}

/// The pitch every millisecond, hertz: `starts` holds where each sound begins, in milliseconds,
/// and at its end the length of the whole.
pub(super) fn melody(said: &[Said], starts: &[f32], voice: &Voice) -> Vec<f32> {
    let length = starts.last().copied().unwrap_or(0.0) as usize + 1;
    let mut semitones: Vec<f32> = (0..length)
        .map(|ms| 1.5 - 4.0 * ms as f32 / length as f32)
        .collect();
    if said.iter().any(|s| s.tone > 0) {
        tones(said, starts, &mut semitones);
    } else {
        accents(said, starts, &mut semitones);
    }
    super::tracks::smooth(&mut semitones, 22.0);
    semitones
        .iter()
        .map(|s| voice.pitch * (s * voice.liveliness / 12.0).exp2())
        .collect()
}

/// A rise on every stressed vowel, a fall at the end.
fn accents(said: &[Said], starts: &[f32], semitones: &mut [f32]) {
    let stressed: Vec<usize> = (0..said.len())
        .filter(|&i| said[i].stressed && said[i].phone.is_vowel())
        .collect();
    for (k, &i) in stressed.iter().enumerate() {
        let middle = 0.5 * (starts[i] + starts[i + 1]);
        let height = if k + 1 == stressed.len() { 4.0 } else { 3.0 };
        for (ms, s) in semitones.iter_mut().enumerate() {
            let away = (ms as f32 - middle) / 95.0;
            *s += height * (-away * away).exp();
        }
    }
    let length = semitones.len();
    for (ms, s) in semitones.iter_mut().enumerate() {
        let left = (length - ms) as f32;
        *s -= 4.0 * (1.0 - left / 160.0).max(0.0);
    }
}

/// The five levels of Chao at the start, middle and end of a tone.
fn levels(tone: u8, last: bool) -> [f32; 3] {
    match tone {
        1 => [5.0, 5.0, 5.0],
        2 => [2.8, 3.2, 5.0],
        3 if last => [2.2, 1.0, 2.6],
        3 => [2.2, 1.2, 1.0],
        4 => [5.3, 3.8, 1.0],
        _ => [2.8, 2.4, 2.0],
    }
}

fn tones(said: &[Said], starts: &[f32], semitones: &mut [f32]) {
    let count = said.last().map_or(0, |s| s.syllable + 1);
    for syllable in 0..count {
        let mut voiced =
            (0..said.len()).filter(|&i| said[i].syllable == syllable && said[i].phone.is_voiced());
        let Some(first) = voiced.next() else { continue };
        let last = voiced.next_back().unwrap_or(first);
        let (from, to) = (starts[first], starts[last + 1]);
        let shape = levels(said[first].tone, syllable + 1 == count);
        // Until the next syllable's voice begins the pitch stays where the tone ends.
        let until = semitones.len().min(to as usize + 60);
        let begin = if syllable == 0 { 0 } else { from as usize };
        for ms in begin..until.max(begin) {
            let t = ((ms as f32 - from) / (to - from).max(1.0)).clamp(0.0, 1.0);
            let level = if t < 0.5 {
                shape[0] + (shape[1] - shape[0]) * 2.0 * t
            } else {
                shape[1] + (shape[2] - shape[1]) * (2.0 * t - 1.0)
            };
            // Levels three semitones apart, and the whole sinking slowly.
            let sink = 1.0 - 2.0 * ms as f32 / semitones.len() as f32;
            semitones[ms] = 2.6 * (level - 3.0) + sink;
        }
    }
}
