//! Fitting the detectors to clips that the world renders.

use std::collections::BTreeMap;

use gallop_core::{Cancel, Progress};
use gallop_world::{Attributes, Rendered, Split, Truth, WorldConfig, WorldError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::classifier::Classifier;
use crate::detectors::{ATTRIBUTES, Detectors, Fitted, PLAIN, label, numbers};
use crate::error::EvalError;
use crate::features::{Features, Seen};
use crate::finder::{Example, Finder};
use crate::lessons::{Glimpse, colour_namer, is_thing, subject_namer};
use crate::lips::{self, Reader, Talk};
use crate::motion::small_frames;
use crate::net::Noise;
use crate::tracks::Path;

/// Seeds of fitting clips begin here, far from those of training and of prompts.
const FIRST_SEED: u64 = 7_000_000_000;
/// Seeds of the clips that the finder learns from, likewise.
const FINDER_SEED: u64 = 8_000_000_000;
/// Seeds of the clips that are only glimpsed at, likewise.
const GLIMPSE_SEED: u64 = 6_000_000_000;
/// Seeds of the clips that fitted detectors are tried on.
const TEST_SEED: u64 = 9_000_000_000;
/// Clips rendered between two reports of progress.
const BATCH: usize = 16;
/// Frames of each clip that the finder learns from.
const FRAMES: usize = 4;

/// Clips that the finder learns from, at most: more make it hardly surer.
const MOST_FOR_FINDER: usize = 1000;

/// How much work a fit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Clips that the finder learns from, and times that each frame is shown.
    pub finder: (usize, usize),
    /// Clips that the names are learnt from.
    pub clips: usize,
    /// Short clips beside them, of which things are only glimpsed at.
    pub glimpses: usize,
    /// Times that each is shown to the networks of subject and colour, and to the other ones.
    pub rounds: (usize, usize),
    /// Held-out clips that the result is tried on.
    pub tests: usize,
}

impl Effort {
    /// As much as `clips` clips allow.
    pub fn of_clips(clips: usize) -> Self {
        Self {
            finder: (clips.min(MOST_FOR_FINDER), 7),
            clips,
            glimpses: 4 * clips,
            rounds: (7, 40),
            tests: clips.div_ceil(6),
        }
    }
}

/// What was seen of a rendered clip, and what it truly shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// What was seen.
    pub features: Features,
    /// What is shown.
    pub attributes: Attributes,
    /// The true colour of each thing in `features`; `None` if it is not one of the world's.
    pub colours: Vec<Option<String>>,
    /// Mouth and voice, and how far the mouth is truly open in each frame; `None` where nobody
    /// speaks or no head is seen.
    pub talk: Option<(Talk, Vec<f32>)>,
}

/// How far the mouth is open in each frame, in halves of the head's height.
fn opening(truth: &Truth) -> Option<Vec<f32>> {
    let track = |label: &str| truth.tracks.iter().find(|t| t.label == label);
    let (mouth, head) = (track("mouth")?, track("head")?);
    let both = mouth.points.iter().zip(&head.points);
    Some(both.map(|(m, h)| m.ry / h.ry.max(1e-6)).collect())
}

/// Frames for the finder to learn from.
pub struct Material(pub Vec<Example>);

impl Material {
    /// Frames of one clip.
    fn of(rendered: &Rendered) -> Vec<Example> {
        let rgb = small_frames(&rendered.clip);
        let size = rgb[0][0].size;
        let mut noise = Noise::new(rendered.truth.seed);
        (0..FRAMES)
            .map(|_| {
                let frame = noise.below(rgb.len());
                let things = rendered
                    .truth
                    .tracks
                    .iter()
                    .filter(|t| is_thing(t) && t.points[frame].visible)
                    .map(|t| {
                        let p = t.points[frame];
                        let (w, h) = (size.width as f32, size.height as f32);
                        ([p.x * w, p.y * h], [p.rx * w, p.ry * h])
                    })
                    .collect();
                Example::new(&rgb, frame, things)
            })
            .collect()
    }
}

impl Watched {
    /// Looks at a rendered clip.
    pub fn new(rendered: &Rendered, finder: &Finder) -> Self {
        let seen = Seen::new(&rendered.clip, finder);
        let colours = seen
            .paths
            .iter()
            .take(seen.features.things.len())
            .map(|path| colour_of(path, &rendered.truth))
            .collect();
        Self {
            talk: seen.talk.zip(opening(&rendered.truth)),
            features: seen.features,
            attributes: rendered.truth.attributes.clone(),
            colours,
        }
    }
}

/// The colour of the true object that the path follows; `None` of one that has none.
fn colour_of(path: &Path, truth: &Truth) -> Option<String> {
    let size = truth.shape.size;
    let long = size.width.max(size.height) as f32;
    let sides = [size.width, size.height].map(|s| s as f32 / long);
    let (far, track) = truth
        .tracks
        .iter()
        .filter(|t| is_thing(t))
        .map(|track| {
            let far: f32 = path
                .iter()
                .map(|(frame, spot)| {
                    let p = track.points[*frame];
                    let at = [(p.x - 0.5) * sides[0], (p.y - 0.5) * sides[1]];
                    let reach = (p.rx * sides[0]).max(p.ry * sides[1]).max(1e-3);
                    (at[0] - spot.seen[0]).hypot(at[1] - spot.seen[1]) / reach
                })
                .sum();
            (far / path.len() as f32, track)
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    track
        .colour
        .filter(|_| far < 0.7)
        .map(|c| c.key().to_string())
}

/// The part of the world that fitting clip `i` is drawn from: both, as often as they are.
///
/// Detectors measure; they are not measured by what they never saw. From the training part alone
/// they would learn that combinations which it leaves out do not exist.
pub fn natural(i: usize) -> Split {
    if i.is_multiple_of(9) {
        Split::Heldout
    } else {
        Split::Train
    }
}

/// Renders clips `from..from + n`, of one part of the world or of both, and keeps what `look` makes of them; `None` when cancelled.
fn rendered<T: Send>(
    (world, split): (&WorldConfig, Option<Split>),
    (from, n): (u64, usize),
    look: impl Fn(&Rendered) -> T + Sync,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Option<Vec<T>>, WorldError> {
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let batch: Result<Vec<T>, WorldError> = (all.len()..(all.len() + BATCH).min(n))
            .into_par_iter()
            .map(|i| {
                let one = match split {
                    Some(split) => part(world, split),
                    None => part(world, natural(i)),
                };
                Ok(look(&one.render(from + i as u64)?))
            })
            .collect();
        all.extend(batch?);
        progress.at(all.len() as u64);
    }
    Ok(Some(all))
}

impl Detectors {
    /// Renders clips of `world` and fits detectors to them; tries them on its held-out part.
    /// `None` when cancelled.
    ///
    /// # Errors
    /// A family that is not registered; no clip.
    pub fn fit(
        world: &WorldConfig,
        effort: Effort,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<Self>, EvalError> {
        let Some(finder) = fit_finder(world, effort, progress, cancel)? else {
            return Ok(None);
        };
        progress.stage("clips for names", effort.clips as u64);
        let watched = rendered(
            (world, None),
            (FIRST_SEED, effort.clips),
            |r| Watched::new(r, &finder),
            (progress, cancel),
        )?;
        let Some(watched) = watched else {
            return Ok(None);
        };
        let Some(glimpses) = glimpses(world, effort, progress, cancel)? else {
            return Ok(None);
        };
        progress.stage("names", 3);
        let mut detectors = Self::of(finder, (&watched, &glimpses), effort.rounds, |done| {
            progress.at(done);
        })?;
        detectors.fitted.families.clone_from(&world.families);
        detectors.fitted.looks = world.looks.iter().map(|l| l.key().to_string()).collect();
        progress.stage("held-out clips", effort.tests as u64);
        let tests = rendered(
            (world, Some(Split::Heldout)),
            (TEST_SEED, effort.tests),
            |r| Watched::new(r, &detectors.finder),
            (progress, cancel),
        )?;
        let Some(tests) = tests else {
            return Ok(None);
        };
        detectors.fitted.accuracy = detectors.tried(&tests);
        detectors.fitted.lips = detectors.lips_tried(&tests);
        Ok(Some(detectors))
    }

    /// Detectors from a finder and what it saw, and glimpses of more.
    ///
    /// # Errors
    /// If no clip was watched.
    pub fn of(
        finder: Finder,
        (watched, glimpses): (&[Watched], &[Glimpse]),
        (looks, numbers_rounds): (usize, usize),
        mut report: impl FnMut(u64),
    ) -> Result<Self, EvalError> {
        if watched.is_empty() {
            return Err(EvalError::Nothing);
        }
        let subject = subject_namer(watched, glimpses, looks);
        report(1);
        let colour = colour_namer(watched, glimpses, looks);
        report(2);
        let mut plain = BTreeMap::new();
        for attribute in PLAIN {
            let (features, labels): (Vec<_>, Vec<_>) = watched
                .iter()
                .filter_map(|w| {
                    let label = label(&w.attributes, attribute)?;
                    Some((numbers(&w.features, attribute), label))
                })
                .unzip();
            // What never varies needs no detector.
            if labels.windows(2).any(|w| w[0] != w[1]) {
                let classifier = Classifier::learn(&features, &labels, numbers_rounds);
                plain.insert(attribute.to_string(), classifier);
            }
        }
        let talks: Vec<_> = watched.iter().filter_map(|w| w.talk.as_ref()).collect();
        let lips = (!talks.is_empty()).then(|| Reader::learn(&talks, numbers_rounds.div_ceil(2)));
        report(3);
        Ok(Self {
            fitted: Fitted {
                clips: watched.len(),
                ..Fitted::default()
            },
            finder,
            subject,
            colour,
            plain,
            lips,
        })
    }

    /// How often each attribute is named right.
    pub fn tried(&self, tests: &[Watched]) -> BTreeMap<String, (usize, usize)> {
        let mut accuracy: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for test in tests {
            for attribute in ATTRIBUTES {
                let (Some(want), Some(got)) = (
                    label(&test.attributes, attribute),
                    self.name(attribute, &test.features),
                ) else {
                    continue;
                };
                let entry = accuracy.entry(attribute.to_string()).or_default();
                entry.0 += usize::from(want == got);
                entry.1 += 1;
            }
        }
        accuracy
    }

    /// The mean correlation of lips and voice in clips, and of lips with the voice of the next
    /// clip: what nothing in common gives. `None` where nobody speaks.
    pub fn lips_tried(&self, tests: &[Watched]) -> Option<(f64, f64)> {
        let reader = self.lips.as_ref()?;
        let read: Vec<_> = tests
            .iter()
            .filter_map(|t| t.talk.as_ref())
            .map(|(talk, _)| reader.read(talk))
            .collect();
        let mean = |apart: usize| {
            let pairs = (0..read.len()).map(|i| (&read[i].0, &read[(i + apart) % read.len()].1));
            let sum: f64 = pairs.map(|(mouth, voice)| lips::go(mouth, voice, 0)).sum();
            sum / read.len() as f64
        };
        (!read.is_empty()).then(|| (mean(0), mean(1)))
    }
}

fn part(world: &WorldConfig, split: Split) -> WorldConfig {
    WorldConfig {
        split,
        ..world.clone()
    }
}

/// Glimpses of the things of short clips; `None` when cancelled.
///
/// # Errors
/// As rendering.
pub fn glimpses(
    world: &WorldConfig,
    effort: Effort,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Option<Vec<Glimpse>>, WorldError> {
    progress.stage("short clips for names", effort.glimpses as u64);
    let all = rendered(
        (&Glimpse::world(world), None),
        (GLIMPSE_SEED, effort.glimpses),
        Glimpse::of,
        (progress, cancel),
    )?;
    Ok(all.map(|all| all.into_iter().flatten().collect()))
}

/// A finder taught by frames of rendered clips; `None` when cancelled.
///
/// # Errors
/// As rendering.
pub fn fit_finder(
    world: &WorldConfig,
    effort: Effort,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Option<Finder>, EvalError> {
    let (clips, rounds) = effort.finder;
    progress.stage("clips for the finder", clips as u64);
    let silent = WorldConfig {
        audio: false,
        ..world.clone()
    };
    let frames = rendered(
        (&silent, None),
        (FINDER_SEED, clips),
        Material::of,
        (progress, cancel),
    )?;
    let Some(frames) = frames else {
        return Ok(None);
    };
    let examples: Vec<Example> = frames.into_iter().flatten().collect();
    if examples.is_empty() {
        return Err(EvalError::Nothing);
    }
    let mut finder = Finder::new();
    progress.stage("finder", (examples.len() * rounds / 16) as u64);
    finder.learn(&examples, rounds, |done, _| {
        progress.at(done as u64);
        !cancel.is_cancelled()
    });
    Ok((!cancel.is_cancelled()).then_some(finder))
}
