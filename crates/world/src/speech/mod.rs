//! Speech: phrases of a closed grammar, read aloud by a formant synthesiser, with the movements
//! of the mouth that made them.
//!
//! Words are read from lexicons (English sounds, Mandarin pinyin), given lengths and a melody
//! (accents, or tones), turned into tracks of resonances, voice and hiss, and synthesised.

mod phones;
mod phrases;
mod pinyin;
mod prosody;
mod synth;
mod tracks;

pub use phones::Mouth;
pub use phrases::{Phrase, phrase, phrases};

use crate::sound::noise::Noise;
use crate::truth::{Phoneme, Word};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Voice {
    /// Mean pitch, hertz.
    pub pitch: f32,
    /// How much shorter than a man's the tract is; formants grow by this factor.
    pub tract: f32,
    /// How much breath is in the voice.
    pub breath: f32,
    /// Where the voice's treble begins to fall, hertz.
    pub brightness: f32,
    /// How far the melody moves, 1 as usual.
    pub liveliness: f32,
    /// How fast, 1 as usual.
    pub rate: f32,
}

impl Voice {
    /// A man.
    pub const MAN: Self = Self {
        pitch: 112.0,
        tract: 1.0,
        breath: 0.12,
        brightness: 2600.0,
        liveliness: 1.0,
        rate: 1.0,
    };
    /// A woman.
    pub const WOMAN: Self = Self {
        pitch: 205.0,
        tract: 1.16,
        breath: 0.22,
        brightness: 2400.0,
        liveliness: 1.0,
        rate: 1.0,
    };
    /// A child.
    pub const CHILD: Self = Self {
        pitch: 275.0,
        tract: 1.30,
        breath: 0.2,
        brightness: 2800.0,
        liveliness: 1.1,
        rate: 0.94,
    };

    /// The voice of that name: `man`, `woman` or `child`; any other is a man's.
    pub fn from_key(key: &str) -> Self {
        match key {
            "woman" => Self::WOMAN,
            "child" => Self::CHILD,
            _ => Self::MAN,
        }
    }
}

/// A phrase ready to be said: how the mouth and the voice move.
#[derive(Clone, Debug)]
pub struct Utterance {
    /// The sounds, one after another, in seconds from the start.
    pub phonemes: Vec<Phoneme>,
    /// The words, likewise.
    pub words: Vec<Word>,
    /// The mouth every millisecond.
    pub mouth: Vec<Mouth>,
    /// The pitch every millisecond, hertz, also where nothing is voiced.
    pub pitch: Vec<f32>,
    track: Vec<tracks::Control>,
    voice: Voice,
    noise: Noise,
}

impl Utterance {
    /// The sound at 48 kHz, its loudest stretch at a fixed level; the same at every call.
    pub fn samples(&self) -> Vec<f32> {
        let mut samples = synth::speak(&self.track, &self.voice, &mut self.noise.clone());
        level(&mut samples);
        samples
    }

    /// Seconds to the end of the last sound.
    pub fn seconds(&self) -> f64 {
        self.phonemes.last().map_or(0.0, |p| p.end)
    }

    /// The mouth at `time` seconds from the start; shut before and after.
    pub fn mouth_at(&self, time: f64) -> Mouth {
        let ms = time * 1000.0;
        if ms < 0.0 {
            return Mouth::default();
        }
        let (i, t) = (ms as usize, ms.fract() as f32);
        let at = |i: usize| self.mouth.get(i).copied().unwrap_or_default();
        let (a, b) = (at(i), at(i + 1));
        let mix = |a: f32, b: f32| a + (b - a) * t;
        Mouth {
            open: mix(a.open, b.open),
            spread: mix(a.spread, b.spread),
            teeth: mix(a.teeth, b.teeth),
            tongue: mix(a.tongue, b.tongue),
        }
    }
}

/// Works out how `phrase` is said; equal seeds give equal samples.
pub fn speak(phrase: &Phrase, voice: &Voice, seed: u64) -> Utterance {
    let mut noise = Noise::new(seed);
    let said = prosody::sounds(phrase, voice, &mut noise);
    let (mut track, starts) = tracks::controls(&said, voice);
    let pitch = prosody::melody(&said, &starts, voice);
    let last = pitch.last().copied().unwrap_or(voice.pitch);
    for (i, control) in track.iter_mut().enumerate() {
        control.pitch = pitch.get(i).copied().unwrap_or(last);
    }
    let seconds = |ms: f32| f64::from(ms) / 1000.0;
    let phonemes: Vec<Phoneme> = said
        .iter()
        .enumerate()
        .map(|(i, sound)| {
            let middle = track[(0.5 * (starts[i] + starts[i + 1])) as usize].mouth;
            Phoneme {
                start: seconds(starts[i]),
                end: seconds(starts[i + 1]),
                symbol: sound.phone.ipa.to_owned(),
                open: middle.open,
                spread: middle.spread,
            }
        })
        .collect();
    Utterance {
        words: words(phrase, &said, &phonemes),
        phonemes,
        mouth: track.iter().map(|c| c.mouth).collect(),
        pitch,
        track,
        voice: *voice,
        noise,
    }
}

fn words(phrase: &Phrase, said: &[prosody::Said], phonemes: &[Phoneme]) -> Vec<Word> {
    phrase
        .words
        .iter()
        .enumerate()
        .filter_map(|(word, (text, _))| {
            let first = said.iter().position(|s| s.word == word)?;
            let last = said.iter().rposition(|s| s.word == word)?;
            Some(Word {
                start: phonemes[first].start,
                end: phonemes[last].end,
                text: text.clone(),
            })
        })
        .collect()
}

/// Brings the loudest 50 ms to a root mean square of 0.25, so that peaks stay below 1.
fn level(samples: &mut [f32]) {
    let loudest = samples
        .chunks(2400)
        .map(|c| c.iter().map(|x| x * x).sum::<f32>() / 2400.0)
        .fold(0.0f32, f32::max)
        .sqrt();
    let peak = samples.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if loudest > 0.0 {
        let gain = (0.25 / loudest).min(0.95 / peak);
        samples.iter_mut().for_each(|x| *x *= gain);
    }
}

#[cfg(test)]
mod tests;
