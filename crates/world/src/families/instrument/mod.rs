//! Instruments being struck: drums, bells, xylophones, cymbals.

mod draw;
mod strokes;
mod xylophone;

use gallop_core::{ClipShape, FPS};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::ambience;
use crate::WorldRng;
use crate::attributes::{Attributes, Colour, Size, pick};
use crate::family::{Family, Placed, Stage, StageEvent};
use crate::render::{Backdrop, Floor, Painter, Setting, room_for};
use crate::sound::{Cue, Instrument, Score, Sound};
use strokes::{Stroke, plan};

/// Instruments being struck.
#[derive(Clone, Copy, Debug)]
pub struct Struck;

impl Struck {
    /// Which way a mallet falls on an instrument of these attributes: a direction of length 1 in the picture, to the right
    /// and down.
    pub fn fall(attributes: &Attributes) -> [f64; 2] {
        let (dx, dy) = draw::rise(kind(&attributes.subject));
        let length = dx.hypot(dy);
        // Heights grow upwards.
        [-dx / length, dy / length]
    }
}

fn kind(subject: &str) -> Instrument {
    match subject {
        "bell" => Instrument::Bell,
        "xylophone" => Instrument::Xylophone,
        "cymbal" => Instrument::Cymbal,
        _ => Instrument::Drum,
    }
}

const SUBJECTS: &[&str] = &["drum", "bell", "xylophone", "cymbal"];
/// Places, and the floors that they have.
const PLACES: &[(&str, Floor)] = &[
    ("stage", Floor::Wood),
    ("room", Floor::Wood),
    ("hall", Floor::Stone),
    ("garden", Floor::Grass),
];
/// How far the floor under the instruments is from the lower edge, in units.
const MARGIN: f32 = 0.12;
/// Bars of a xylophone, from the left: C5 to C6, a C major scale.
const BARS: [(&str, f32); 8] = [
    ("bar_c5", 523.25),
    ("bar_d5", 587.33),
    ("bar_e5", 659.26),
    ("bar_f5", 698.46),
    ("bar_g5", 783.99),
    ("bar_a5", 880.0),
    ("bar_b5", 987.77),
    ("bar_c6", 1046.5),
];

impl Family for Struck {
    fn name(&self) -> &'static str {
        "instrument"
    }

    fn sample(&self, rng: &mut WorldRng, seconds: f64) -> Attributes {
        let subject = pick(rng, SUBJECTS);
        let place = pick(rng, PLACES).0;
        let outdoor = !Backdrop::from_key(place).indoor();
        let mut a = Attributes::sample(rng, "instrument", subject, outdoor);
        a.place = place.to_owned();
        a.size = Some(pick(rng, Size::ALL));
        if subject == "xylophone" {
            if rng.random_bool(0.5) {
                a.colours = vec![pick(rng, Colour::PAINTS)];
            } else {
                a.material = Some("rainbow".to_owned());
            }
        } else {
            a.count = pick(rng, &[1, 1, 1, 1, 2, 2, 3]);
            let mut colours = Colour::PAINTS.to_vec();
            colours.shuffle(rng);
            if a.count > 1 && rng.random_bool(0.25) {
                colours = vec![colours[0]; a.count];
            }
            colours.truncate(a.count);
            a.colours = colours;
        }
        strokes::sample(&mut a, rng, seconds);
        a
    }

    fn stage(
        &self,
        attributes: &Attributes,
        shape: ClipShape,
        rng: &mut WorldRng,
    ) -> Box<dyn Stage> {
        Box::new(StruckStage::new(attributes, shape, rng))
    }
}

/// One instrument and where it stands.
struct One {
    instrument: Instrument,
    x: f64,
    scale: f64,
    hz: f32,
    colour: Colour,
    /// Each bar in its own colour.
    rainbow: bool,
}

/// Half the width and the height of an instrument at scale one, its mallet at work included.
fn bounds(instrument: Instrument) -> (f64, f64) {
    match instrument {
        Instrument::Xylophone => (0.72, 0.62),
        Instrument::Bell => (0.43, 0.80),
        Instrument::Cymbal => (0.36, 0.74),
        Instrument::Drum | Instrument::Snare => (0.32, 0.76),
    }
}

struct StruckStage {
    setting: Setting,
    half_width: f64,
    instruments: Vec<One>,
    strokes: Vec<Stroke>,
    attributes: Attributes,
}

impl StruckStage {
    fn new(a: &Attributes, shape: ClipShape, rng: &mut WorldRng) -> Self {
        let backdrop = Backdrop::from_key(&a.place);
        let floor = PLACES
            .iter()
            .find(|(place, _)| *place == a.place)
            .map_or(Floor::Wood, |(_, floor)| *floor);
        let mut setting = Setting::new(floor, backdrop, rng.random_range(0.62..0.72), rng.random());
        setting.margin = MARGIN;
        let room = room_for(a, shape, MARGIN);
        let instruments: Vec<One> = (0..a.count.max(1))
            .map(|i| place(a, i, room, rng))
            .collect();
        let seconds = shape.frames as f64 / FPS as f64;
        let targets = if a.subject == "xylophone" {
            BARS.len()
        } else {
            instruments.len()
        };
        Self {
            setting,
            half_width: room.0,
            strokes: plan(a, (seconds, targets), rng),
            instruments,
            attributes: a.clone(),
        }
    }

    fn is_xylophone(&self) -> bool {
        self.attributes.subject == "xylophone"
    }

    /// The strokes on one instrument or bar.
    fn strokes_on(&self, target: usize) -> impl DoubleEndedIterator<Item = &Stroke> {
        self.strokes.iter().filter(move |s| s.target == target)
    }

    /// Seconds since the last stroke on `target`, and its strength.
    fn since(&self, target: usize, time: f64) -> Option<(f64, f32)> {
        self.strokes_on(target)
            .rev()
            .find(|s| s.time <= time)
            .map(|s| (time - s.time, s.strength))
    }

    /// Where a stroke on `target` lands.
    fn contact(&self, target: usize) -> [f64; 3] {
        if self.is_xylophone() {
            xylophone::bar_middle(&self.instruments[0], target)
        } else {
            draw::contact(&self.instruments[target])
        }
    }

    /// The height of the mallet above what it strikes next: 0 at a stroke, 1 when raised.
    fn lift(&self, time: f64, target: Option<usize>) -> f64 {
        let on = |s: &&Stroke| target.is_none_or(|t| s.target == t);
        let since = self
            .strokes
            .iter()
            .filter(on)
            .rev()
            .find(|s| s.time <= time);
        let until = self.strokes.iter().filter(on).find(|s| s.time > time);
        strokes::lift(since.map(|s| time - s.time), until.map(|s| s.time - time))
    }

    /// Between which bars the mallet is, and how far on its way.
    fn bar_position(&self, time: f64) -> [f64; 3] {
        let next = self.strokes.iter().position(|s| s.time > time);
        let at = |i: usize| self.contact(self.strokes[i].target);
        match next {
            None => self.strokes.len().checked_sub(1).map_or([0.0; 3], at),
            Some(0) => at(0),
            Some(i) => {
                let (from, to) = (self.strokes[i - 1].time, self.strokes[i].time);
                // It is over the next bar well before it falls.
                let t = ((time - from) / (0.75 * (to - from))).clamp(0.0, 1.0);
                let t = t * t * (3.0 - 2.0 * t);
                let (a, b) = (at(i - 1), at(i));
                std::array::from_fn(|k| a[k] + (b[k] - a[k]) * t)
            }
        }
    }

    /// The heads of the mallets at `time`, one a mallet.
    fn heads(&self, time: f64) -> Vec<[f64; 3]> {
        if self.is_xylophone() {
            let at = self.bar_position(time);
            return vec![draw::head(&self.instruments[0], at, self.lift(time, None))];
        }
        (0..self.instruments.len())
            .map(|i| {
                draw::head(
                    &self.instruments[i],
                    self.contact(i),
                    self.lift(time, Some(i)),
                )
            })
            .collect()
    }
}

/// Instrument `index` of a clip: side by side, as large as fits.
fn place(a: &Attributes, index: usize, room: (f64, f64), rng: &mut WorldRng) -> One {
    let instrument = kind(&a.subject);
    let size: f64 = match a.size.unwrap_or(Size::Medium) {
        Size::Small => 0.72,
        Size::Medium => 0.88,
        Size::Large => 1.05,
    };
    let count = a.count.max(1) as f64;
    let slot = room.0 / count;
    let (half, height) = bounds(instrument);
    let scale = (size * rng.random_range(0.96..1.04))
        .min(slot * 0.98 / half)
        .min(room.1 * 0.97 / height);
    let loose = (slot - half * scale).max(0.0) * 0.7;
    let x = (2.0 * index as f64 + 1.0) * slot - room.0;
    // Lower for larger, and each of several its own pitch.
    let step = [1.0, 1.26, 0.84][index % 3];
    let hz = step / scale.max(0.3) as f32
        * match instrument {
            Instrument::Bell => 560.0,
            Instrument::Cymbal => 300.0,
            _ => 92.0,
        };
    One {
        instrument,
        x: x + a.aside(rng.random_range(-loose..=loose)),
        scale,
        hz: hz * rng.random_range(0.94..1.06),
        colour: a.colour(index),
        rainbow: a.material.as_deref() == Some("rainbow"),
    }
}

impl Stage for StruckStage {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn draw(&self, time: f64, painter: &mut Painter) {
        for one in &self.instruments {
            draw::shadow(painter, one);
        }
        for (i, one) in self.instruments.iter().enumerate() {
            if self.is_xylophone() {
                let since: [_; 8] = std::array::from_fn(|bar| self.since(bar, time));
                xylophone::draw(painter, one, &since);
            } else {
                draw::instrument(painter, one, self.since(i, time));
            }
        }
        for (i, head) in self.heads(time).into_iter().enumerate() {
            draw::mallet(painter, &self.instruments[i], head);
        }
    }

    fn events(&self) -> Vec<StageEvent> {
        self.strokes
            .iter()
            .map(|stroke| StageEvent {
                time: stroke.time,
                heard: stroke.time,
                kind: "strike",
                // Bars come after their xylophone.
                object: stroke.target + usize::from(self.is_xylophone()),
                strength: stroke.strength,
                at: self.contact(stroke.target),
            })
            .collect()
    }

    fn objects(&self, time: f64) -> Vec<Placed> {
        let label = SUBJECTS
            .iter()
            .copied()
            .find(|s| *s == self.attributes.subject)
            .unwrap_or("drum");
        let mut objects: Vec<Placed> = self
            .instruments
            .iter()
            .map(|one| {
                let (half, middle) = draw::body(one);
                Placed {
                    label,
                    at: [one.x, middle, 0.0],
                    half,
                    present: true,
                    colour: Some(one.colour),
                }
            })
            .collect();
        if self.is_xylophone() {
            objects.extend(BARS.iter().enumerate().map(|(i, (label, _))| Placed {
                label,
                at: self.contact(i),
                half: xylophone::bar_half(&self.instruments[0], i),
                present: true,
                colour: None,
            }));
        }
        objects.extend(self.heads(time).into_iter().map(|at| Placed {
            label: "mallet",
            at,
            half: [draw::HEAD, draw::HEAD],
            present: true,
            colour: None,
        }));
        objects
    }

    fn score(&self) -> Score {
        let a = &self.attributes;
        let mut cues = ambience(a, self.setting.backdrop.indoor());
        cues.extend(self.strokes.iter().map(|stroke| {
            let one = &self.instruments[if self.is_xylophone() {
                0
            } else {
                stroke.target
            }];
            let hz = if self.is_xylophone() {
                BARS[stroke.target].1
            } else {
                one.hz
            };
            Cue {
                time: stroke.time,
                strength: stroke.strength,
                pan: (self.contact(stroke.target)[0] / self.half_width).clamp(-1.0, 1.0) as f32,
                sound: Sound::Strike {
                    instrument: one.instrument,
                    hz,
                },
            }
        }));
        Score {
            room: a.place.clone(),
            cues,
        }
    }
}

#[cfg(test)]
mod tests;
