//! What the namers learn from: things that were watched in whole clips, and glimpses of many more.

use gallop_world::{Rendered, Track, WorldConfig};

use crate::detectors::around;
use crate::features::{Features, light};
use crate::fit::Watched;
use crate::namer::{Cut, Lesson, Namer, Study, Thing, cut_out};
use crate::net::Noise;
use crate::paint::paint;

/// Frames of the clips that are only glimpsed at, and between two cut-outs of them.
const FRAMES: usize = 9;
const STEP: usize = 2;
/// How far the finder is off, about: its middles in halves of a thing, its sides as logarithms.
const OFF: (f32, f32) = (0.05, 0.08);
/// Things of one watched clip that subjects are learnt from, at most.
const MOST: usize = 3;

/// Whether the track is of one of the things that are counted.
pub(crate) fn is_thing(track: &Track) -> bool {
    track.colour.is_some() || track.label == "head"
}

/// A thing of a short silent clip, cut out about where it truly is: a tenth of the work of watching
/// a whole clip, so that many more things can be seen.
#[derive(Clone, Debug)]
pub(crate) struct Glimpse {
    /// The thing and the light it is in; nothing else is known.
    features: Features,
    subject: String,
    colour: Option<String>,
}

impl Glimpse {
    /// The world that clips to glimpse at are drawn from.
    pub fn world(world: &WorldConfig) -> WorldConfig {
        WorldConfig {
            frames: vec![FRAMES],
            audio: false,
            ..world.clone()
        }
    }

    /// The things of a clip.
    pub fn of(rendered: &Rendered) -> Vec<Self> {
        let mut noise = Noise::new(rendered.truth.seed);
        let tracks = rendered.truth.tracks.iter().filter(|t| is_thing(t));
        tracks
            .filter_map(|track| {
                let cuts = cuts(rendered, track, &mut noise);
                let thing = Thing {
                    paint: paint(&cuts),
                    frames: cuts.len(),
                    cuts,
                };
                (thing.frames > 0).then(|| Self {
                    features: Features {
                        light: light(&rendered.clip),
                        things: vec![thing],
                        ..Features::default()
                    },
                    subject: rendered.truth.attributes.subject.clone(),
                    colour: track.colour.map(|c| c.key().to_string()),
                })
            })
            .collect()
    }
}

/// Cut-outs of the track's thing where it is seen, as far off as the finder would be.
fn cuts(rendered: &Rendered, track: &Track, noise: &mut Noise) -> Vec<Cut> {
    let frames = rendered.clip.frames.iter().zip(&track.points);
    let seen = frames.step_by(STEP).filter(|(_, p)| p.visible);
    seen.map(|(frame, p)| {
        let (w, h) = (frame.size.width as f32, frame.size.height as f32);
        let half = [p.rx * w, p.ry * h];
        let mut at = [p.x * w, p.y * h];
        at.iter_mut()
            .zip(half)
            .for_each(|(at, half)| *at += OFF.0 * half * noise.gaussian());
        cut_out(
            frame,
            at,
            half.map(|r| r * (OFF.1 * noise.gaussian()).exp()),
        )
    })
    .collect()
}

/// Each of the labels once, in order.
pub(crate) fn sorted(labels: impl Iterator<Item = String>) -> Vec<String> {
    let mut classes: Vec<String> = labels.collect();
    classes.sort();
    classes.dedup();
    classes
}

/// Learns subjects from every thing, and from clips in which nothing was found.
pub(crate) fn subject_namer(
    watched: &[Watched],
    glimpses: &[Glimpse],
    rounds: usize,
) -> Option<Namer> {
    let classes = sorted(watched.iter().map(|w| w.attributes.subject.clone()));
    if classes.len() < 2 {
        return None;
    }
    let nothing = [Thing::default()];
    let mut lessons = Vec::new();
    for w in watched {
        let name = classes.binary_search(&w.attributes.subject).unwrap_or(0);
        let things = match &w.features.things[..] {
            [] => &nothing[..],
            things => &things[..things.len().min(MOST)],
        };
        lessons.extend(things.iter().map(|thing| Lesson {
            thing,
            around: around(&w.features, thing, "subject"),
            name,
        }));
    }
    // Twice, as they are few beside the glimpses and alone have sound.
    lessons.extend_from_within(..);
    for glimpse in glimpses {
        if let Ok(name) = classes.binary_search(&glimpse.subject) {
            lessons.push(Lesson {
                thing: &glimpse.features.things[0],
                around: Vec::new(),
                name,
            });
        }
    }
    // What a thing is does not depend on its colour, nor much on which way up it is.
    let study = Study {
        rounds,
        deaf: 0.15,
        altered: 0.5,
    };
    Some(Namer::learn(classes, &lessons, study, |_, _| true))
}

/// Learns colours from the things whose colour is known.
pub(crate) fn colour_namer(
    watched: &[Watched],
    glimpses: &[Glimpse],
    rounds: usize,
) -> Option<Namer> {
    let seen = watched.iter().flat_map(|w| {
        let things = w.features.things.iter().zip(&w.colours);
        things.map(|(thing, colour)| (&w.features, thing, colour))
    });
    let glimpsed = glimpses
        .iter()
        .map(|g| (&g.features, &g.features.things[0], &g.colour));
    let known: Vec<_> = seen
        .chain(glimpsed)
        .filter_map(|(features, thing, colour)| Some((features, thing, colour.as_ref()?)))
        .collect();
    let classes = sorted(known.iter().map(|(_, _, colour)| (*colour).clone()));
    if classes.len() < 2 {
        return None;
    }
    let lessons: Vec<Lesson> = known
        .into_iter()
        .map(|(features, thing, colour)| Lesson {
            thing,
            around: around(features, thing, "colour"),
            name: classes.binary_search(colour).unwrap_or(0),
        })
        .collect();
    let study = Study {
        rounds,
        deaf: 0.1,
        altered: 0.0,
    };
    Some(Namer::learn(classes, &lessons, study, |_, _| true))
}
