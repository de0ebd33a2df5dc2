//! Fitting the detectors to clips that the world renders.

use std::collections::BTreeMap;
use std::error::Error;

use gallop_core::{Cancel, Clip, Progress};
use gallop_world::{Attributes, Rendered, Split, Struck, Track, Truth, WorldConfig};
use rayon::prelude::*;

use crate::classifier::Classifier;
use crate::detectors::{ATTRIBUTES, Detectors, Fitted, PLAIN, label, numbers, strokes_by};
use crate::error::EvalError;
use crate::features::{Features, Seen};
use crate::finder::{Example, Finder};
use crate::lessons::{Glimpse, colour_namer, is_thing, sorted, subject_namer};
use crate::lips::{self, Reader, Talk};
use crate::measure::{INSTRUMENT, pair};
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
/// Frames of each clip that the finder learns from, and of how long a clip: it compares a frame with its neighbours
/// alone.
const FRAMES: usize = 4;
const SHORT: usize = 17;
/// A stroke seen within so many seconds of a true one is that.
const NEAR: f64 = 0.06;

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
            rounds: (24, 40),
            tests: clips.div_ceil(4),
        }
    }
}

/// What clips become before they are looked at: a model's autoencoders, there and back.
pub type Coding<'a> = dyn Fn(&Clip) -> Result<Clip, Box<dyn Error + Send + Sync>> + Sync + 'a;

/// The clips that detectors learn from.
pub struct Course<'a> {
    /// The worlds that they are drawn from, in turn.
    pub worlds: Vec<WorldConfig>,
    /// What every other clip of each world goes through.
    ///
    /// What a model makes was decoded from latents, and is softer than what the world draws. Detectors that
    /// only know the one take the other for what it is not. Both come from the same worlds: else they would
    /// learn that soft pictures show one world and sharp ones the other.
    pub coding: &'a Coding<'a>,
}

impl Course<'_> {
    /// The same clips, changed by `change` in what is drawn of them.
    fn with(&self, change: impl Fn(&WorldConfig) -> WorldConfig) -> Self {
        Self {
            worlds: self.worlds.iter().map(change).collect(),
            coding: self.coding,
        }
    }

    /// The same clips of one family alone; no worlds where none has it.
    fn of_family(&self, family: &str) -> Self {
        let has = |world: &&WorldConfig| world.families.iter().any(|f| f == family);
        let worlds = self.worlds.iter().filter(has).map(|world| WorldConfig {
            families: vec![family.to_owned()],
            ..world.clone()
        });
        Self {
            worlds: worlds.collect(),
            coding: self.coding,
        }
    }

    /// Whether clip `i` is coded.
    fn is_coded(&self, i: usize) -> bool {
        i / self.worlds.len() % 2 == 1
    }

    /// Renders clip `i`, of a part of the world or of both.
    fn render(&self, i: usize, seed: u64, split: Option<Split>) -> Result<Rendered, EvalError> {
        let mut in_turn = self.worlds.iter().cycle();
        let world = in_turn.nth(i).ok_or(EvalError::Nothing)?;
        let one = WorldConfig {
            split: split.unwrap_or_else(|| natural(i)),
            ..world.clone()
        };
        let mut rendered = one.render(seed)?;
        if self.is_coded(i) {
            rendered.clip = (self.coding)(&rendered.clip).map_err(EvalError::Coding)?;
        }
        Ok(rendered)
    }
}

/// What was seen of a rendered clip, and what it truly shows.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// What was seen.
    pub features: Features,
    /// What is shown.
    pub attributes: Attributes,
    /// The true colour of each thing in `features`; `None` if it is not one of the world's.
    pub colours: Vec<Option<String>>,
    /// Mouth and voice, and how far the mouth is truly open in each frame; `None` where nobody
    /// speaks or no head is seen.
    pub talk: Option<(Talk, Vec<f32>)>,
    /// Strokes of mallets that were seen, and those that there are, in seconds; `None` without instruments.
    pub strokes: Option<[Vec<f64>; 2]>,
}

/// How far the mouth is open in each frame, in halves of the head's height.
fn opening(truth: &Truth) -> Option<Vec<f32>> {
    let track = |label: &str| truth.tracks.iter().find(|t| t.label == label);
    let (mouth, head) = (track("mouth")?, track("head")?);
    let both = mouth.points.iter().zip(&head.points);
    Some(both.map(|(m, h)| m.ry / h.ry.max(1e-6)).collect())
}

/// When mallets strike.
fn strikes(truth: &Truth) -> Vec<f64> {
    let strikes = truth.events.iter().filter(|event| event.kind == "strike");
    strikes.map(|event| event.time).collect()
}

fn is_mallet(track: &Track) -> bool {
    track.label == "mallet"
}

/// Frames of one clip for a finder of those things to learn from.
fn examples(rendered: &Rendered, is_wanted: fn(&Track) -> bool) -> Vec<Example> {
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
                .filter(|t| is_wanted(t) && t.points[frame].visible)
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

impl Watched {
    /// Looks at a rendered clip, for strokes too where there is a finder of mallets.
    pub fn new(rendered: &Rendered, finder: &Finder, mallets: Option<&Finder>) -> Self {
        let seen = Seen::new(&rendered.clip, finder);
        let attributes = &rendered.truth.attributes;
        let mallets = mallets.filter(|_| attributes.family == INSTRUMENT);
        let strokes = mallets.map(|mallets| {
            let strokes = strokes_by(mallets, &seen, Struck::fall(attributes));
            let seen = strokes.iter().map(|stroke| stroke.time).collect();
            [seen, strikes(&rendered.truth)]
        });
        let colours = seen
            .paths
            .iter()
            .take(seen.features.things.len())
            .map(|path| colour_of(path, &rendered.truth))
            .collect();
        Self {
            talk: seen.talk.zip(opening(&rendered.truth)),
            features: seen.features,
            strokes,
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
fn natural(i: usize) -> Split {
    if i.is_multiple_of(9) {
        Split::Heldout
    } else {
        Split::Train
    }
}

/// Renders `n` clips of a part of the world or of both, their seeds from `from` on, and keeps what `look` makes of
/// them; `None` when cancelled.
fn rendered<T: Send>(
    (course, split): (&Course, Option<Split>),
    (from, n): (u64, usize),
    look: impl Fn(&Rendered) -> T + Sync,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Option<Vec<T>>, EvalError> {
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        if cancel.is_cancelled() {
            return Ok(None);
        }
        let batch: Result<Vec<T>, EvalError> = (all.len()..(all.len() + BATCH).min(n))
            .into_par_iter()
            .map(|i| Ok(look(&course.render(i, from + i as u64, split)?)))
            .collect();
        all.extend(batch?);
        progress.at(all.len() as u64);
    }
    Ok(Some(all))
}

impl Detectors {
    /// Renders clips of `course` and fits detectors to them; tries them on the held-out part of its worlds.
    /// `None` when cancelled.
    ///
    /// Of `kept` all stays but what lists of numbers tell (count, direction, look, camera): these depend most on what
    /// the pictures are like, and need neither finder nor glimpses. A finder of mallets is added where it has none.
    ///
    /// # Errors
    /// A family that is not registered; no clip; what coding says.
    pub fn fit(
        course: &Course,
        effort: Effort,
        kept: Option<Self>,
        (progress, cancel): (&dyn Progress, &Cancel),
    ) -> Result<Option<Self>, EvalError> {
        let Some((finder, mallets)) = finders(course, effort, kept.as_ref(), (progress, cancel))?
        else {
            return Ok(None);
        };
        progress.stage("clips for names", effort.clips as u64);
        let watched = rendered(
            (course, None),
            (FIRST_SEED, effort.clips),
            |r| Watched::new(r, &finder, None),
            (progress, cancel),
        )?;
        let Some(watched) = watched else {
            return Ok(None);
        };
        let mut detectors = match kept {
            Some(kept) => Self {
                plain: plain(&watched, effort.rounds.1),
                mallets,
                ..kept
            },
            None => {
                let Some(glimpses) = glimpses(course, effort, progress, cancel)? else {
                    return Ok(None);
                };
                progress.stage("names", 3);
                let report = |done| progress.at(done);
                let finders = (finder, mallets);
                Self::of(finders, (&watched, &glimpses), effort.rounds, report)?
            }
        };
        detectors.fitted.clips = watched.len();
        let worlds = course.worlds.iter();
        detectors.fitted.families = sorted(worlds.clone().flat_map(|w| w.families.clone()));
        let looks = worlds.flat_map(|w| &w.looks);
        detectors.fitted.looks = sorted(looks.map(|look| look.key().to_string()));
        progress.stage("held-out clips", 2 * effort.tests as u64);
        let Some([plain, coded]) = detectors.tests(course, effort.tests, (progress, cancel))?
        else {
            return Ok(None);
        };
        detectors.fitted.accuracy = detectors.tried(&plain);
        detectors.fitted.lips = detectors.lips_tried(&plain);
        detectors.fitted.strokes = strokes_tried(&plain);
        detectors.fitted.coded = detectors.tried(&coded);
        Ok(Some(detectors))
    }

    /// `n` held-out clips as rendered, and about as many coded: watched. `None` when cancelled.
    ///
    /// # Errors
    /// As rendering and coding.
    fn tests(
        &self,
        course: &Course,
        n: usize,
        (progress, cancel): (&dyn Progress, &Cancel),
    ) -> Result<Option<[Vec<Watched>; 2]>, EvalError> {
        let all = rendered(
            (course, Some(Split::Heldout)),
            (TEST_SEED, 2 * n),
            |r| Watched::new(r, &self.finder, self.mallets.as_ref()),
            (progress, cancel),
        )?;
        Ok(all.map(|all| {
            let mut of_kind = [Vec::new(), Vec::new()];
            for (i, watched) in all.into_iter().enumerate() {
                of_kind[usize::from(course.is_coded(i))].push(watched);
            }
            of_kind
        }))
    }

    /// Detectors from finders of things and of mallets and what the former saw, and glimpses of more.
    ///
    /// # Errors
    /// If no clip was watched.
    fn of(
        (finder, mallets): (Finder, Option<Finder>),
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
        let talks: Vec<_> = watched.iter().filter_map(|w| w.talk.as_ref()).collect();
        let lips = (!talks.is_empty()).then(|| Reader::learn(&talks, numbers_rounds.div_ceil(2)));
        report(3);
        Ok(Self {
            fitted: Fitted::default(),
            finder,
            mallets,
            subject,
            colour,
            plain: plain(watched, numbers_rounds),
            lips,
        })
    }

    /// How often each attribute is named right.
    fn tried(&self, tests: &[Watched]) -> BTreeMap<String, (usize, usize)> {
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
    fn lips_tried(&self, tests: &[Watched]) -> Option<(f64, f64)> {
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

/// Strokes that were seen within [`NEAR`] of a true one, strokes seen, and true ones. `None` where nobody looked.
fn strokes_tried(tests: &[Watched]) -> Option<(usize, usize, usize)> {
    let strokes = tests.iter().filter_map(|test| test.strokes.as_ref());
    let counts =
        strokes.map(|[seen, there]| (pair(there, seen, NEAR).len(), seen.len(), there.len()));
    counts.reduce(|a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2))
}

/// Learns what lists of numbers tell.
fn plain(watched: &[Watched], rounds: usize) -> BTreeMap<String, Classifier> {
    let mut found = BTreeMap::new();
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
            let classifier = Classifier::learn(&features, &labels, rounds);
            found.insert(attribute.to_string(), classifier);
        }
    }
    found
}

/// Glimpses of the things of short clips; `None` when cancelled.
///
/// # Errors
/// As rendering and coding.
fn glimpses(
    course: &Course,
    effort: Effort,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Option<Vec<Glimpse>>, EvalError> {
    progress.stage("short clips for names", effort.glimpses as u64);
    let all = rendered(
        (&course.with(Glimpse::world), None),
        (GLIMPSE_SEED, effort.glimpses),
        Glimpse::of,
        (progress, cancel),
    )?;
    Ok(all.map(|all| all.into_iter().flatten().collect()))
}

/// The same part of the world in clips for finders.
fn short(world: &WorldConfig) -> WorldConfig {
    WorldConfig {
        audio: false,
        frames: vec![SHORT],
        ..world.clone()
    }
}

/// The finder of things and, where the course has instruments, the finder of mallets: of `kept` those that it has.
/// `None` when cancelled.
///
/// # Errors
/// As rendering and coding.
fn finders(
    course: &Course,
    effort: Effort,
    kept: Option<&Detectors>,
    running: (&dyn Progress, &Cancel),
) -> Result<Option<(Finder, Option<Finder>)>, EvalError> {
    let things = match kept {
        Some(kept) => Some(kept.finder.clone()),
        None => fit_finder((&course.with(short), is_thing), "things", effort, running)?,
    };
    let Some(things) = things else {
        return Ok(None);
    };
    let struck = course.of_family(INSTRUMENT).with(short);
    let known = kept.and_then(|kept| kept.mallets.clone());
    if known.is_some() || struck.worlds.is_empty() {
        return Ok(Some((things, known)));
    }
    let mallets = fit_finder((&struck, is_mallet), "mallets", effort, running)?;
    Ok(mallets.map(|mallets| (things, Some(mallets))))
}

/// A finder of the tracks that are wanted, taught by frames of rendered clips; `None` when cancelled.
///
/// # Errors
/// As rendering and coding.
fn fit_finder(
    (course, is_wanted): (&Course, fn(&Track) -> bool),
    what: &str,
    effort: Effort,
    (progress, cancel): (&dyn Progress, &Cancel),
) -> Result<Option<Finder>, EvalError> {
    let (clips, rounds) = effort.finder;
    progress.stage(&format!("clips for the finder of {what}"), clips as u64);
    let frames = rendered(
        (course, None),
        (FINDER_SEED, clips),
        |rendered| examples(rendered, is_wanted),
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
    let batches = examples.len() * rounds / 16;
    progress.stage(&format!("finder of {what}"), batches as u64);
    finder.learn(&examples, rounds, |done, _| {
        progress.at(done as u64);
        !cancel.is_cancelled()
    });
    Ok((!cancel.is_cancelled()).then_some(finder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gallop_core::PixelSize;

    /// Every other clip of each world goes through the coding, whose errors are told.
    #[test]
    fn half_of_each_world_is_coded() {
        let world = |family: &str| WorldConfig {
            families: vec![family.to_string()],
            sizes: vec![PixelSize::new(64, 48)],
            frames: vec![2],
            audio: false,
            ..WorldConfig::default()
        };
        let cut = |clip: &Clip| {
            let mut clip = clip.clone();
            clip.frames.truncate(1);
            Ok(clip)
        };
        let course = Course {
            worlds: vec![world("ball"), world("face")],
            coding: &cut,
        };
        let seen: Vec<(String, usize)> = (0..6)
            .map(|i| {
                let rendered = course.render(i, 7, None).expect("both are registered");
                (rendered.truth.attributes.family, rendered.clip.frames.len())
            })
            .collect();
        let want = [
            ("ball", 2),
            ("face", 2),
            ("ball", 1),
            ("face", 1),
            ("ball", 2),
            ("face", 2),
        ];
        assert_eq!(
            seen,
            want.map(|(family, frames)| (family.to_string(), frames))
        );
        let broken = |_: &Clip| Err("no memory".into());
        let course = Course {
            coding: &broken,
            ..course
        };
        assert!(course.render(0, 7, None).is_ok());
        let error = course.render(2, 7, None).expect_err("coding fails");
        assert!(error.to_string().contains("no memory"), "{error}");
        let nothing = Course {
            worlds: Vec::new(),
            coding: &cut,
        };
        assert!(nothing.render(0, 7, None).is_err());
    }
}
