//! The detectors of all attributes.

use std::collections::BTreeMap;

use gallop_core::Clip;
use gallop_world::Attributes;
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, best};
use crate::features::{Features, Seen};
use crate::finder::Finder;
use crate::impacts::{Impact, strokes};
use crate::lips::{Lips, Reader};
use crate::motion::Moving;
use crate::namer::{Namer, Thing};
use crate::paint;
use crate::tracks::paths;

/// What is detected in a clip.
pub const ATTRIBUTES: [&str; 6] = ["subject", "colour", "count", "direction", "look", "camera"];
/// Attributes that a list of numbers is enough for.
pub(crate) const PLAIN: [&str; 4] = ["count", "direction", "look", "camera"];
/// A thing seen for less than this share of the longest seen one's time is a stray.
const LASTING: f32 = 0.3;

/// What detectors were fitted on, and so what they can be asked about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// Families of the world.
    pub families: Vec<String>,
    /// Looks.
    pub looks: Vec<String>,
    /// Clips.
    pub clips: usize,
    /// Attribute -> (right, all) on clips of the world's held-out part.
    pub accuracy: BTreeMap<String, (usize, usize)>,
    /// The same on coded clips of it; empty if they learnt from none.
    #[serde(default)]
    pub coded: BTreeMap<String, (usize, usize)>,
    /// Of the rendered ones with instruments: strokes of mallets that were seen within 60 ms of one, strokes seen, and
    /// strokes that there are.
    #[serde(default)]
    pub strokes: Option<(usize, usize, usize)>,
    /// Correlation of lips and voice on the clips that were not coded, and with the voice of another clip.
    #[serde(default)]
    pub lips: Option<(f64, f64)>,
}

/// Detectors of all attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Detectors {
    /// What they were fitted on.
    pub fitted: Fitted,
    /// Finds things.
    pub finder: Finder,
    /// Finds the heads of mallets, if these detectors know what they look like.
    pub mallets: Option<Finder>,
    /// Names what they are.
    pub subject: Option<Namer>,
    /// Names their colours.
    pub colour: Option<Namer>,
    /// Names what lists of numbers tell.
    pub plain: BTreeMap<String, Classifier>,
    /// Tells how far a mouth is open.
    pub lips: Option<Reader>,
}

/// What an attribute is called in `attributes`; `None` where it does not apply.
///
/// The colour of several things is the set of their colours, such as `blue+red`.
pub fn label(attributes: &Attributes, attribute: &str) -> Option<String> {
    match attribute {
        "subject" => Some(attributes.subject.clone()),
        "colour" if attributes.colours.is_empty() => None,
        "colour" => Some(together(
            (0..attributes.count).map(|i| attributes.colour(i).key().to_string()),
        )),
        "count" => Some(attributes.count.to_string()),
        "direction" => attributes.direction.map(|d| d.key().to_string()),
        "look" => Some(attributes.look.key().to_string()),
        "camera" => Some(attributes.camera.key().to_string()),
        _ => None,
    }
}

/// Names in order, each once, joined.
fn together(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names.join("+")
}

/// The numbers of a clip that a plain attribute is named from.
pub(crate) fn numbers(features: &Features, attribute: &str) -> Vec<f32> {
    match attribute {
        "look" => features.picture.clone(),
        "count" => features.number.clone(),
        // A camera's numbers beside them make it see ways where there are none, from few clips.
        "direction" => features.ways.clone(),
        _ => [&features.camera[..], &features.ways].concat(),
    }
}

/// What is known besides the looks of a thing: for the subject sound and light, for the colour its
/// paint and light.
pub(crate) fn around(features: &Features, thing: &Thing, attribute: &str) -> Vec<f32> {
    match attribute {
        "colour" => {
            let mut known = thing.paint.clone();
            known.resize(paint::LENGTH, 0.0);
            known.extend(&features.light);
            known
        }
        _ => [&features.timbre[..], &features.voice, &features.light].concat(),
    }
}

impl Detectors {
    /// Looks at a clip that has at least one frame.
    pub fn see(&self, clip: &Clip) -> Seen {
        Seen::new(clip, &self.finder)
    }

    /// The attribute's value in a clip of these features; `None` without a detector for it.
    pub fn name(&self, attribute: &str, features: &Features) -> Option<String> {
        match attribute {
            "subject" => {
                let namer = self.subject.as_ref()?;
                let scores = scores(namer, features);
                Some(namer.classes[best(&scores)].clone())
            }
            "colour" => self.colours(features),
            _ => {
                let numbers = numbers(features, attribute);
                Some(self.plain.get(attribute)?.name(&numbers).to_string())
            }
        }
    }

    /// Strokes of mallets that fall in the direction `fall` ([`gallop_world::Struck::fall`]), if these detectors know what
    /// mallets look like.
    pub fn strokes(&self, seen: &Seen, fall: [f64; 2]) -> Option<Vec<Impact>> {
        Some(strokes_by(self.mallets.as_ref()?, seen, fall))
    }

    /// How mouth and voice go together, if these detectors know: not at all where no head is seen.
    pub fn lips(&self, seen: &Seen) -> Option<Lips> {
        let reader = self.lips.as_ref()?;
        let talk = seen.talk.as_ref();
        Some(talk.map_or_else(Lips::default, |talk| reader.lips(talk)))
    }

    /// The colours of as many things as there are said to be; none seen, none named.
    fn colours(&self, features: &Features) -> Option<String> {
        let namer = self.colour.as_ref()?;
        let count = self.name("count", features);
        let count: usize = count.and_then(|c| c.parse().ok()).unwrap_or(1);
        let named = lasting(features).take(count).map(|thing| {
            let scores = namer.name(thing, &around(features, thing, "colour"));
            namer.classes[best(&scores)].clone()
        });
        Some(together(named))
    }
}

/// Strokes of the mallets that `finder` finds.
pub(crate) fn strokes_by(finder: &Finder, seen: &Seen, fall: [f64; 2]) -> Vec<Impact> {
    let Moving { rgb, to_first, .. } = &seen.moving;
    strokes(&paths(&finder.find(rgb), to_first, rgb[0][0].size), fall)
}

/// The things that are not strays, the longest seen first.
fn lasting(features: &Features) -> impl Iterator<Item = &Thing> {
    let longest = features.things.first().map_or(0, |t| t.frames) as f32;
    let things = features.things.iter();
    things.filter(move |t| t.frames as f32 >= LASTING * longest)
}

/// Log probabilities over the things, each as much as it is seen; of the sound alone without any.
fn scores(namer: &Namer, features: &Features) -> Vec<f32> {
    if features.things.is_empty() {
        let nothing = Thing::default();
        return namer.name(&nothing, &around(features, &nothing, "subject"));
    }
    let mut scores = vec![0.0; namer.classes.len()];
    for thing in lasting(features) {
        let one = namer.name(thing, &around(features, thing, "subject"));
        for (sum, score) in scores.iter_mut().zip(one) {
            *sum += score * thing.frames as f32;
        }
    }
    scores
}
