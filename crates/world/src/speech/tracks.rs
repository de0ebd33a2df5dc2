//! From sounds with lengths to what moves every millisecond: resonances, voice, hiss, mouth.

use super::Voice;
use super::phones::{Class, Hiss, Mouth, Phone, Place, hiss};
use super::prosody::Said;

/// The controls of the synthesiser for one millisecond.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Control {
    /// First three formants, hertz.
    pub(super) formants: [f32; 3],
    /// Pitch, hertz.
    pub(super) pitch: f32,
    /// Level of the voice.
    pub(super) voice: f32,
    /// Level of breath through the glottis.
    pub(super) breath: f32,
    /// Level of the hiss.
    pub(super) noise: f32,
    pub(super) hiss: Hiss,
    /// 0 by the mouth, 1 by the nose.
    pub(super) nasal: f32,
    pub(super) mouth: Mouth,
}

/// A stretch in which everything aims at one target.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ms: f32,
    target: Control,
}

/// Controls for every millisecond, and where each sound begins and the last ends (ms).
pub(super) fn controls(said: &[Said], voice: &Voice) -> (Vec<Control>, Vec<f32>) {
    let mut segments = Vec::new();
    let mut starts = Vec::with_capacity(said.len() + 1);
    let mut now = 0.0;
    for i in 0..said.len() {
        starts.push(now);
        for segment in expand(said, i) {
            now += segment.ms;
            segments.push(segment);
        }
    }
    starts.push(now);
    let mut track = lay(&segments);
    // The voice dies away after its last sound, the mouth closes.
    track.extend(std::iter::repeat_n(rest(track.last()), 120));
    glide(&mut track);
    for control in &mut track {
        control.formants.iter_mut().for_each(|f| *f *= voice.tract);
        for band in &mut control.hiss.bands {
            band[0] *= voice.tract.sqrt();
        }
    }
    (track, starts)
}

/// Silence in the shape of the last sound, the lips together.
fn rest(last: Option<&Control>) -> Control {
    Control {
        voice: 0.0,
        breath: 0.0,
        noise: 0.0,
        mouth: Mouth::default(),
        ..last.copied().unwrap_or_default()
    }
}

/// Every segment's target, a millisecond each.
fn lay(segments: &[Segment]) -> Vec<Control> {
    let mut track = Vec::new();
    let mut end = 0.0;
    for segment in segments {
        end += segment.ms;
        while (track.len() as f32) < end {
            track.push(segment.target);
        }
    }
    track
}

/// The nearest vowel after sound `i`, or else before it.
fn neighbour(said: &[Said], i: usize) -> Option<[f32; 3]> {
    let after = said[i + 1..].iter().take(3).find(|s| s.phone.is_vowel());
    let before = said[..i].iter().rev().take(3).find(|s| s.phone.is_vowel());
    match (after, before) {
        (Some(s), _) => Some(s.phone.from),
        (None, Some(s)) => Some(s.phone.to.unwrap_or(s.phone.from)),
        (None, None) => None,
    }
}

/// Where a consonant pulls the formants: its locus, shifted toward the vowel beside it.
fn locus(phone: &Phone, vowel: Option<[f32; 3]>) -> [f32; 3] {
    let Some(vowel) = vowel else {
        return phone.from;
    };
    let mut f = phone.from;
    match phone.place {
        // The tongue's back goes where the vowel wants it: the second and third formants meet.
        Place::Velar if phone.class != Class::Nasal => {
            f[1] = (1.12 * vowel[1] + 60.0).clamp(900.0, 2350.0);
            f[2] = f[1].max(1500.0) + 450.0;
        }
        Place::Labial | Place::LipTeeth => f[1] += 0.45 * (vowel[1] - f[1]),
        Place::Open => f = vowel,
        _ => f[1] += 0.25 * (vowel[1] - f[1]),
    }
    f
}

/// The segments of sound `i`.
fn expand(said: &[Said], i: usize) -> Vec<Segment> {
    let sound = &said[i];
    let phone = sound.phone;
    let base = Control {
        formants: phone.from,
        hiss: hiss(phone),
        mouth: phone.mouth,
        ..Control::default()
    };
    let of = |ms: f32, target: Control| Segment { ms, target };
    let formants = locus(phone, neighbour(said, i));
    let closed = Control { formants, ..base };
    match phone.class {
        Class::Vowel => vowel(sound, base),
        Class::Glide => vec![of(
            sound.ms,
            Control {
                voice: 0.72,
                ..base
            },
        )],
        Class::Nasal => {
            let target = Control {
                voice: 0.50,
                nasal: 1.0,
                ..base
            };
            vec![of(sound.ms, target)]
        }
        Class::Fricative { voiced } => {
            let target = Control {
                voice: if voiced { 0.42 } else { 0.0 },
                noise: if voiced { 0.55 } else { 1.0 },
                ..closed
            };
            vec![of(sound.ms, target)]
        }
        Class::Aspirate => vec![of(sound.ms, aspirate(said, i, closed))],
        Class::Stop { voiced, aspirated } => stop(said, i, closed, (voiced, aspirated)),
        Class::Affricate { voiced, aspirated } => affricate(sound, closed, (voiced, aspirated)),
        Class::Pause => vec![of(sound.ms, base)],
    }
}

/// Breath through the shape of the vowel beside it.
fn aspirate(said: &[Said], i: usize, closed: Control) -> Control {
    let phone = said[i].phone;
    // A throat that is nearly shut rasps as well.
    let rasp = phone.place == Place::Velar;
    Control {
        formants: neighbour(said, i).unwrap_or(phone.from),
        breath: if rasp { 0.75 } else { 0.60 },
        noise: if rasp { 0.35 } else { 0.0 },
        ..closed
    }
}

fn vowel(sound: &Said, base: Control) -> Vec<Segment> {
    let phone = sound.phone;
    let stress = if sound.stressed { 1.0 } else { 0.82 };
    // A low first formant radiates less; speakers and ears make up for part of it.
    let level = stress * (700.0 / phone.from[0]).clamp(1.0, 2.4).powf(0.4);
    let target = Control {
        voice: level,
        ..base
    };
    let Some(to) = phone.to else {
        return vec![Segment {
            ms: sound.ms,
            target,
        }];
    };
    let end = Control {
        formants: to,
        mouth: phone.mouth_to.unwrap_or(phone.mouth),
        voice: 0.85 * level,
        ..target
    };
    // Between the ends the tongue is on its way for a third of the time.
    let middle = Control {
        formants: std::array::from_fn(|k| 0.5 * (phone.from[k] + to[k])),
        ..target
    };
    [(0.42, target), (0.20, middle), (0.38, end)]
        .map(|(share, target)| Segment {
            ms: share * sound.ms,
            target,
        })
        .to_vec()
}

/// Closure, burst, and the breath before the voice returns.
fn stop(
    said: &[Said],
    i: usize,
    closed: Control,
    (voiced, aspirated): (bool, bool),
) -> Vec<Segment> {
    let sound = &said[i];
    let after_s = i > 0 && said[i - 1].phone.symbol == "S" && said[i - 1].word == sound.word;
    let before_vowel = said.get(i + 1).is_some_and(|s| s.phone.is_voiced());
    let of = |ms: f32, target: Control| Segment { ms, target };
    let loud = match sound.phone.place {
        Place::Labial => 1.6,
        Place::Velar => 1.5,
        _ => 0.8,
    };
    let mut segments = vec![
        of(
            0.8 * sound.ms,
            Control {
                voice: if voiced { 0.14 } else { 0.0 },
                ..closed
            },
        ),
        of(
            if sound.phone.place == Place::Velar {
                16.0
            } else {
                10.0
            },
            Control {
                noise: if before_vowel { loud } else { 0.5 * loud },
                ..closed
            },
        ),
    ];
    if aspirated && !after_s {
        segments.push(breath(said, i, closed, before_vowel));
    }
    segments
}

/// The breath after a voiceless stop, on its way to the shape of the vowel.
fn breath(said: &[Said], i: usize, closed: Control, before_vowel: bool) -> Segment {
    let next = neighbour(said, i).unwrap_or(closed.formants);
    let target = Control {
        formants: std::array::from_fn(|k| 0.4 * closed.formants[k] + 0.6 * next[k]),
        breath: if before_vowel { 0.42 } else { 0.15 },
        noise: 0.18,
        mouth: said.get(i + 1).map_or(closed.mouth, |s| s.phone.mouth),
        ..closed
    };
    Segment {
        ms: if before_vowel { 48.0 } else { 25.0 },
        target,
    }
}

fn affricate(sound: &Said, closed: Control, (voiced, aspirated): (bool, bool)) -> Vec<Segment> {
    let of = |ms: f32, target: Control| Segment { ms, target };
    let voice = if voiced { 0.12 } else { 0.0 };
    let mut segments = vec![
        of(0.75 * sound.ms, Control { voice, ..closed }),
        of(
            if aspirated { 75.0 } else { 58.0 },
            Control {
                noise: 1.1,
                voice: 0.5 * voice,
                ..closed
            },
        ),
    ];
    if aspirated {
        let breath = Control {
            breath: 0.40,
            noise: 0.25,
            ..closed
        };
        segments.push(of(30.0, breath));
    }
    segments
}

/// Nothing in a mouth jumps: every control is smoothed, each at its own pace.
fn glide(track: &mut [Control]) {
    let mut through = |get: fn(&mut Control) -> &mut f32, ms: f32| {
        let mut values: Vec<f32> = track.iter_mut().map(|c| *get(c)).collect();
        smooth(&mut values, ms);
        for (control, value) in track.iter_mut().zip(values) {
            *get(control) = value;
        }
    };
    through(|c| &mut c.formants[0], 9.0);
    through(|c| &mut c.formants[1], 13.0);
    through(|c| &mut c.formants[2], 13.0);
    through(|c| &mut c.voice, 5.0);
    through(|c| &mut c.breath, 5.0);
    through(|c| &mut c.noise, 2.0);
    through(|c| &mut c.nasal, 8.0);
    let shut: Vec<bool> = track.iter().map(|c| c.mouth.open < 0.01).collect();
    let mut through = |get: fn(&mut Mouth) -> &mut f32, ms: f32| {
        let mut values: Vec<f32> = track.iter_mut().map(|c| *get(&mut c.mouth)).collect();
        smooth(&mut values, ms);
        for (control, value) in track.iter_mut().zip(values) {
            *get(&mut control.mouth) = value;
        }
    };
    through(|m| &mut m.open, 20.0);
    through(|m| &mut m.spread, 28.0);
    through(|m| &mut m.teeth, 22.0);
    through(|m| &mut m.tongue, 22.0);
    // Lips that meet do meet, however short the time.
    let mut together: Vec<f32> = shut.iter().map(|&s| f32::from(u8::from(s))).collect();
    smooth(&mut together, 9.0);
    for (control, together) in track.iter_mut().zip(together) {
        control.mouth.open *= (1.0 - 1.25 * together).max(0.0);
    }
}

/// Smooths forward and backward, so that nothing is delayed; `ms` is the time constant.
pub(super) fn smooth(values: &mut [f32], ms: f32) {
    let k = 1.0 - (-1.0 / ms).exp();
    for _ in 0..2 {
        let Some(&first) = values.first() else { return };
        let mut state = first;
        for v in values.iter_mut() {
            state += k * (*v - state);
            *v = state;
        }
        for v in values.iter_mut().rev() {
            state += k * (*v - state);
            *v = state;
        }
    }
}
