//! A face that says a phrase aloud: the lips follow the sounds.

mod draw;
mod hair;
mod mouth;

use gallop_core::{ClipShape, FPS};
use rand::{Rng, RngExt};

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Setting, room_for};
use crate::sound::{Cue, Score, Sound};
use crate::speech::{Mouth, Phrase, Utterance, Voice, phrase, phrases, speak};
use crate::truth::{Phoneme, Word};
use draw::{Looks, Pose};

/// A face that says a phrase.
#[derive(Clone, Copy, Debug)]
pub struct Face;

const SUBJECTS: &[&str] = &["man", "woman", "child"];
const LANGS: &[&str] = &["en", "zh"];
/// Places, and the floors that they have.
const PLACES: &[(&str, Floor)] = &[
    ("room", Floor::Wood),
    ("stage", Floor::Wood),
    ("hall", Floor::Stone),
    ("garden", Floor::Grass),
    ("beach", Floor::Sand),
];
/// Hair colours, by the names that the grammar has for them.
const HAIR: &[&str] = &[
    "black", "brown", "blond", "red", "white", "blue", "pink", "green",
];
const STYLES: &[&str] = &["short", "long", "curly", "bun"];
const WEAR: &[&str] = &["glasses", "hat"];
/// Seconds of silence before a phrase is said again.
const PAUSE: f64 = 0.55;
/// How far the floor under the subject is from the lower edge, in units.
const MARGIN: f32 = 0.12;

impl Family for Face {
    fn name(&self) -> &'static str {
        "face"
    }

    fn sample(&self, rng: &mut WorldRng, seconds: f64) -> Attributes {
        let subject = pick(rng, SUBJECTS);
        let place = pick(rng, PLACES).0;
        let outdoor = !Backdrop::from_key(place).indoor();
        let mut a = Attributes::sample(rng, "face", subject, outdoor);
        a.place = place.to_owned();
        let lang = pick(rng, LANGS);
        let phrase = fitting(lang, seconds, rng);
        a.phrase = Some(phrase.text.clone());
        a.phrase_lang = Some(lang.to_owned());
        let once = about_seconds(phrase);
        let times = ((seconds - 0.3) / (once + PAUSE)).clamp(1.0, 3.0) as u32;
        a.details.insert("times".into(), times.to_string());
        dress(&mut a, rng);
        a
    }

    fn stage(
        &self,
        attributes: &Attributes,
        shape: ClipShape,
        rng: &mut WorldRng,
    ) -> Box<dyn Stage> {
        Box::new(FaceStage::new(attributes, shape, rng))
    }
}

/// Hair and what is worn.
fn dress(a: &mut Attributes, rng: &mut WorldRng) {
    let hair = pick(rng, HAIR);
    let styles = if a.subject == "man" {
        &STYLES[..3]
    } else {
        STYLES
    };
    let details = &mut a.details;
    details.insert("style".into(), pick(rng, styles).to_owned());
    details.insert("hair_colour".into(), hair.to_owned());
    // Told either before the person or after.
    if rng.random_bool(0.5) {
        a.material = Some(format!("hair_{hair}"));
    } else {
        details.insert("hair".into(), hair.to_owned());
    }
    if rng.random_bool(0.45) {
        let wear = pick(rng, WEAR);
        // No hat fits over a bun.
        let bun = details.get("style").is_some_and(|s| s == "bun");
        let wear = if bun { "glasses" } else { wear };
        details.insert("wear".into(), wear.to_owned());
    }
}

/// Roughly how long a phrase takes to say.
fn about_seconds(phrase: &Phrase) -> f64 {
    let sounds: usize = phrase
        .words
        .iter()
        .map(|(_, reading)| reading.split(' ').count())
        .sum();
    0.15 + sounds as f64 * if phrase.lang == "zh" { 0.29 } else { 0.10 }
}

/// A phrase that can be said in the time; a short one where none can.
fn fitting(lang: &str, seconds: f64, rng: &mut WorldRng) -> &'static Phrase {
    let all = phrases(lang);
    let mut best = &all[rng.random_range(0..all.len())];
    for _ in 0..12 {
        if about_seconds(best) + 0.35 <= seconds || seconds < 0.5 {
            break;
        }
        let other = &all[rng.random_range(0..all.len())];
        if about_seconds(other) < about_seconds(best) {
            best = other;
        }
    }
    best
}

struct FaceStage {
    setting: Setting,
    attributes: Attributes,
    said: Utterance,
    /// When each repetition begins, seconds.
    starts: Vec<f64>,
    looks: Looks,
    /// Phases of the small movements of the head and eyes.
    phases: [f64; 6],
    /// Middles of blinks, seconds.
    blinks: Vec<f64>,
}

impl FaceStage {
    fn new(a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Self {
        let backdrop = Backdrop::from_key(&a.place);
        let floor = PLACES
            .iter()
            .find(|(place, _)| *place == a.place)
            .map_or(Floor::Wood, |(_, floor)| *floor);
        let mut setting = Setting::new(floor, backdrop, rng.random_range(0.42..0.52), rng.random());
        setting.margin = MARGIN;
        let seconds = shape.frames as f64 / FPS as f64;
        let said = say(a, rng);
        let starts = starts(a, &said, seconds, rng);
        let mut blinks = Vec::new();
        let mut next = rng.random_range(-0.5..2.5);
        while next < seconds + 0.5 {
            blinks.push(next);
            next += rng.random_range(1.4..3.8);
        }
        Self {
            looks: Looks::new(a, room_for(a, shape, MARGIN), rng),
            setting,
            attributes: a.clone(),
            said,
            starts,
            phases: std::array::from_fn(|_| rng.random_range(0.0..std::f64::consts::TAU)),
            blinks,
        }
    }

    /// The mouth at a moment of the clip.
    fn mouth(&self, time: f64) -> Mouth {
        self.starts
            .iter()
            .rev()
            .find(|start| **start <= time)
            .map_or(Mouth::default(), |start| self.said.mouth_at(time - start))
    }

    /// Everything that moves, at a moment.
    fn pose(&self, time: f64) -> Pose {
        let p = &self.phases;
        let wave = |hz: f64, phase: f64| (std::f64::consts::TAU * hz * time + phase).sin();
        // A slow nod with the loud parts of speech.
        let talk: f64 = (0..5)
            .map(|k| f64::from(self.mouth(time - 0.03 * f64::from(k)).open))
            .sum::<f64>()
            / 5.0;
        let blink = self
            .blinks
            .iter()
            .map(|middle| 1.0 - ((time - middle) / 0.09).powi(2))
            .fold(0.0, f64::max);
        Pose {
            x: 0.010 * wave(0.31, p[0]) + 0.006 * wave(0.73, p[1]),
            y: 0.004 * wave(0.43, p[2]) - 0.012 * talk,
            tilt: (0.035 * wave(0.23, p[3]) + 0.012 * wave(0.61, p[4])) as f32,
            blink: blink as f32,
            gaze: [
                0.006 * wave(0.19, p[5]) as f32,
                0.003 * wave(0.27, p[0]) as f32,
            ],
            brows: (0.018 * talk) as f32,
            mouth: self.mouth(time),
        }
    }
}

fn say(a: &Attributes, rng: &mut WorldRng) -> Utterance {
    let lang = a.phrase_lang.as_deref().unwrap_or("en");
    let text = a.phrase.as_deref().unwrap_or_default();
    let said = phrase(lang, text).unwrap_or(&phrases("en")[0]);
    let mut voice = Voice::from_key(&a.subject);
    voice.pitch *= rng.random_range(0.90..1.12);
    voice.tract *= rng.random_range(0.97..1.03);
    voice.rate *= rng.random_range(0.92..1.06);
    speak(said, &voice, rng.next_u64())
}

/// When the phrase is said, and said again.
fn starts(a: &Attributes, said: &Utterance, seconds: f64, rng: &mut WorldRng) -> Vec<f64> {
    let times: u32 = a
        .details
        .get("times")
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let once = said.seconds();
    let gap = once + PAUSE;
    let whole = once + gap * f64::from(times.max(1) - 1);
    let spare = seconds - whole;
    // Too short a clip shows any part of it.
    let first = if spare > 0.25 {
        rng.random_range(0.12..spare.clamp(0.13, 0.5))
    } else {
        let late = rng.random_range(0.0..1.0);
        if spare > 0.0 {
            0.5 * spare
        } else {
            spare * late
        }
    };
    (0..times.max(1))
        .map(|i| first + gap * f64::from(i))
        .collect()
}

impl Stage for FaceStage {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn draw(&self, time: f64, painter: &mut Painter) {
        draw::portrait(painter, &self.looks, &self.pose(time));
    }

    fn events(&self) -> Vec<StageEvent> {
        Vec::new()
    }

    fn objects(&self, time: f64) -> Vec<Placed> {
        let pose = self.pose(time);
        let head = self.looks.head_at(&pose, [0.0, 0.0]);
        let mouth = self.looks.head_at(&pose, mouth::MIDDLE);
        let (half, open) = mouth::extent(&pose.mouth);
        let k = self.looks.scale;
        vec![
            Placed {
                label: "head",
                at: [head[0], head[1], 0.0],
                half: [draw::HEAD[0] * k, draw::HEAD[1] * k],
                present: true,
                colour: None,
            },
            // Its height is that of the opening between the lips.
            Placed {
                label: "mouth",
                at: [mouth[0], mouth[1], 0.0],
                half: [f64::from(half) * k, 0.5 * f64::from(open) * k],
                present: true,
                colour: None,
            },
        ]
    }

    fn score(&self) -> Score {
        let a = &self.attributes;
        let mut cues = ambience(a, self.setting.backdrop.indoor());
        let samples: std::sync::Arc<[f32]> = self.said.samples().into();
        cues.extend(self.starts.iter().map(|&time| Cue {
            time,
            strength: 1.0,
            pan: 0.0,
            sound: Sound::Samples(samples.clone()),
        }));
        Score {
            room: a.place.clone(),
            cues,
        }
    }

    fn speech(&self) -> (Vec<Phoneme>, Vec<Word>) {
        let (mut phonemes, mut words) = (Vec::new(), Vec::new());
        for start in &self.starts {
            phonemes.extend(self.said.phonemes.iter().cloned().map(|mut p| {
                (p.start, p.end) = (p.start + start, p.end + start);
                p
            }));
            words.extend(self.said.words.iter().cloned().map(|mut w| {
                (w.start, w.end) = (w.start + start, w.end + start);
                w
            }));
        }
        (phonemes, words)
    }
}

#[cfg(test)]
mod tests;
