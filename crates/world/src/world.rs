//! From a seed to a clip with its captions and truth.

use std::collections::BTreeMap;

use gallop_core::{Clip, ClipShape, FPS, Frame, PixelSize, SAMPLES_PER_FRAME};
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::captions::{self, Caption};
use crate::family::{Family, Stage, StageEvent, family, registry};
use crate::render::{self, Cameraman};
use crate::split::{Split, is_heldout};
use crate::truth::{Event, Track, TrackPoint, Truth};
use crate::{Attributes, Look, WorldError, WorldRng};

/// Draws of one clip's attributes before it is said that there are none as asked for.
const MOST_DRAWS: usize = 100_000;

/// Values that attributes must have: name of the attribute -> names of its values. An attribute that
/// does not apply to a family is left alone.
///
/// `{"weather": ["clear"], "count": ["1", "2"]}` keeps clips of one or two things under a clear sky.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Only(pub BTreeMap<String, Vec<String>>);

impl Only {
    /// Whether the attribute called `name` may have this value.
    fn allows(&self, name: &str, value: &str) -> bool {
        (self.0.get(name)).is_none_or(|values| values.iter().any(|v| v == value))
    }

    /// Whether the attributes have these values.
    ///
    /// # Errors
    /// If there is no attribute of a name.
    pub fn holds(&self, attributes: &Attributes) -> Result<bool, WorldError> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let all = serde_json::to_value(attributes).expect("attributes hold only plain data");
        for name in self.0.keys() {
            let value = match all.get(name) {
                Some(serde_json::Value::String(value)) => value.clone(),
                Some(serde_json::Value::Number(value)) => value.to_string(),
                Some(serde_json::Value::Null) => continue,
                _ => return Err(WorldError::NoAttribute { name: name.clone() }),
            };
            if !self.allows(name, &value) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Which clips to draw from the world.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Names of registered families; empty means all.
    pub families: Vec<String>,
    /// Looks to draw from; empty means all.
    pub looks: Vec<Look>,
    /// Values that attributes must have.
    pub only: Only,
    /// Whether what stays in its place stays in the middle of the picture (of an upright one as in the square in its middle,
    /// with more of the scene above and below).
    pub centred: bool,
    /// Sizes to draw from; one is chosen for each clip.
    pub sizes: Vec<PixelSize>,
    /// Lengths in frames to draw from, 1 to 361.
    pub frames: Vec<usize>,
    /// Whether to render the sound.
    pub audio: bool,
    /// The part of the world to draw from.
    pub split: Split,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            families: Vec::new(),
            looks: Vec::new(),
            only: Only::default(),
            centred: false,
            sizes: vec![PixelSize::new(448, 256)],
            frames: vec![5 * FPS + 1],
            audio: true,
            split: Split::Train,
        }
    }
}

/// A clip and what is known about it.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Pictures and sound.
    pub clip: Clip,
    /// What truly happens.
    pub truth: Truth,
    /// Sentences that describe it, in every language of the grammar, short to long.
    pub captions: Vec<Caption>,
}

impl Rendered {
    /// Truth and captions as indented JSON, for a file beside the clip.
    pub fn to_json(&self) -> String {
        let all = serde_json::json!({ "truth": self.truth, "captions": self.captions });
        serde_json::to_string_pretty(&all).expect("truth and captions hold only plain data")
    }
}

/// What a clip will show, before any pixel is drawn.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The seed it came from.
    pub seed: u64,
    /// Frames and size.
    pub shape: ClipShape,
    /// What it shows.
    pub attributes: Attributes,
    /// Which part of the world it belongs to.
    pub split: Split,
}

impl WorldConfig {
    /// Draws what the clip of `seed` shows.
    ///
    /// # Errors
    /// A family that is not registered, an empty list of sizes or lengths, a length of nothing.
    pub fn spec(&self, seed: u64) -> Result<Spec, WorldError> {
        let mut rng = rng(seed, 0);
        let families = self.families()?;
        let family = crate::attributes::pick(&mut rng, &families);
        let size = choose(&mut rng, &self.sizes).ok_or(WorldError::NoSize)?;
        let frames = choose(&mut rng, &self.frames).ok_or(WorldError::NoLength)?;
        if frames == 0 || size.width == 0 || size.height == 0 {
            return Err(WorldError::Empty);
        }
        let shape = ClipShape { frames, size };
        let attributes = self.attributes(family, frames as f64 / FPS as f64, &mut rng)?;
        Ok(Spec {
            seed,
            shape,
            attributes,
            split: self.split,
        })
    }

    /// Renders the clip of `seed` on the calling thread.
    ///
    /// # Errors
    /// As [`WorldConfig::spec`].
    pub fn render(&self, seed: u64) -> Result<Rendered, WorldError> {
        render_spec(&self.spec(seed)?, self.audio)
    }

    /// Whether clips of this family are drawn.
    pub(crate) fn has_family(&self, name: &str) -> bool {
        self.families.is_empty() || self.families.iter().any(|f| f == name)
    }

    /// Whether a clip may show what the captions' grammar calls `concept`, such as `floor.wood`.
    pub(crate) fn may_show(&self, concept: &str) -> bool {
        let Some((name, value)) = concept.split_once('.') else {
            return true;
        };
        match name {
            "look" => self.looks.is_empty() || self.looks.iter().any(|l| l.key() == value),
            "time" => self.only.allows("time_of_day", value),
            _ => self.only.allows(name, value),
        }
    }

    pub(crate) fn families(&self) -> Result<Vec<&'static dyn Family>, WorldError> {
        if self.families.is_empty() {
            return Ok(registry().to_vec());
        }
        self.families
            .iter()
            .map(|name| family(name).ok_or_else(|| WorldError::unknown_family(name)))
            .collect()
    }

    /// Draws until the attributes belong to the split and have the values asked for.
    fn attributes(
        &self,
        family: &dyn Family,
        seconds: f64,
        rng: &mut WorldRng,
    ) -> Result<Attributes, WorldError> {
        for _ in 0..MOST_DRAWS {
            let mut attributes = family.sample(rng, seconds);
            attributes.centred = self.centred;
            if let Some(look) = choose(rng, &self.looks) {
                attributes.look = look;
            }
            let of_split = is_heldout(&attributes) == (self.split == Split::Heldout);
            if of_split && self.only.holds(&attributes)? {
                return Ok(attributes);
            }
        }
        Err(WorldError::NothingLeft {
            family: family.name().to_owned(),
        })
    }
}

/// Renders what `spec` says, on the calling thread. Equal specs give equal bytes.
///
/// # Errors
/// If the spec names a family that is not registered.
pub fn render_spec(spec: &Spec, audio: bool) -> Result<Rendered, WorldError> {
    let (stage, cameraman) = prepare(spec)?;
    let frames = render::frames(&*stage, &cameraman, spec);
    let samples = spec.shape.frames * SAMPLES_PER_FRAME;
    let audio = audio.then(|| stage.score().render(samples, rng(spec.seed, 3).next_u64()));
    Ok(Rendered {
        clip: Clip { frames, audio },
        truth: truth(&*stage, &cameraman, spec),
        captions: captions::captions(&spec.attributes, spec.split, &mut rng(spec.seed, 4)),
    })
}

/// One frame of what `spec` says, without rendering the others.
///
/// # Errors
/// If the spec names a family that is not registered.
pub fn render_still(spec: &Spec, frame: usize) -> Result<Frame, WorldError> {
    let (stage, cameraman) = prepare(spec)?;
    Ok(render::still(&*stage, &cameraman, spec, frame))
}

/// Everything that the pictures of a clip come from.
fn prepare(spec: &Spec) -> Result<(Box<dyn Stage>, Cameraman), WorldError> {
    let name = &spec.attributes.family;
    let family = family(name).ok_or_else(|| WorldError::unknown_family(name))?;
    let stage = family.stage(&spec.attributes, spec.shape, &mut rng(spec.seed, 1));
    let cameraman = Cameraman::new(
        &stage.setting(),
        &spec.attributes,
        spec.shape,
        &mut rng(spec.seed, 2),
    );
    Ok((stage, cameraman))
}

/// A stream of chance that depends on the clip's seed and on what it is for.
pub(crate) fn rng(seed: u64, purpose: u64) -> WorldRng {
    WorldRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (purpose << 56))
}

fn choose<T: Copy>(rng: &mut WorldRng, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| from[rng.random_range(0..from.len())])
}

fn truth(stage: &dyn Stage, cameraman: &Cameraman, spec: &Spec) -> Truth {
    let seconds = spec.shape.frames as f64 / FPS as f64;
    let (speech, words) = stage.speech();
    let events = stage.events();
    Truth {
        seed: spec.seed,
        shape: spec.shape,
        attributes: spec.attributes.clone(),
        events: events
            .iter()
            .filter(|e| (0.0..seconds).contains(&e.time) || (0.0..seconds).contains(&e.heard))
            .map(|e| event(e, stage, cameraman))
            .collect(),
        tracks: tracks(stage, cameraman, spec.shape),
        speech,
        words,
    }
}

fn event(event: &StageEvent, stage: &dyn Stage, cameraman: &Cameraman) -> Event {
    let view = cameraman.view(event.time, stage.camera_x(event.time));
    let at = view.project(event.at);
    Event {
        time: event.time,
        heard: event.heard,
        kind: event.kind.to_owned(),
        object: event.object,
        strength: event.strength,
        x: at.x / view.width,
        y: at.y / view.height,
    }
}

fn tracks(stage: &dyn Stage, cameraman: &Cameraman, shape: ClipShape) -> Vec<Track> {
    let mut tracks: Vec<Track> = stage
        .objects(0.0)
        .iter()
        .map(|placed| Track {
            label: placed.label.to_owned(),
            colour: placed.colour,
            points: Vec::with_capacity(shape.frames),
        })
        .collect();
    for frame in 0..shape.frames {
        let time = frame as f64 / FPS as f64;
        let view = cameraman.view(time, stage.camera_x(time));
        for (track, placed) in tracks.iter_mut().zip(stage.objects(time)) {
            let at = view.project(placed.at);
            let (rx, ry) = (
                placed.half[0] as f32 * at.scale,
                placed.half[1] as f32 * at.scale,
            );
            let inside = at.x + rx > 0.0
                && at.x - rx < view.width
                && at.y + ry > 0.0
                && at.y - ry < view.height;
            track.points.push(TrackPoint {
                x: at.x / view.width,
                y: at.y / view.height,
                rx: rx / view.width,
                ry: ry / view.height,
                visible: placed.present && inside,
            });
        }
    }
    tracks
}
