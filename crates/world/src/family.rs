//! A family is one kind of scene: what may vary in it, and how it looks, moves and sounds.

use gallop_core::ClipShape;

use crate::WorldRng;
use crate::attributes::{Attributes, Colour};
use crate::families;
use crate::render::{Painter, Setting};
use crate::sound::Score;
use crate::truth::{Phoneme, Word};

/// One kind of scene. To add one: a file under `families/`, a line in [`registry`], and its
/// words and templates in `data/*.toml`.
pub trait Family: Sync {
    /// The name in files, flags and the grammar.
    fn name(&self) -> &'static str;

    /// What a clip of `seconds` seconds shall show, drawn by chance.
    fn sample(&self, rng: &mut WorldRng, seconds: f64) -> Attributes;

    /// Works out everything that happens: after this only time varies.
    fn stage(
        &self,
        attributes: &Attributes,
        shape: ClipShape,
        rng: &mut WorldRng,
    ) -> Box<dyn Stage>;
}

/// One scene, worked out in closed form: any moment can be asked for, in any order.
///
/// Space: one unit is the shorter side of the picture at the subject's depth; X grows to the
/// right, Y upwards from the floor, Z away from the camera; the subject stands about z = 0.
pub trait Stage: Send + Sync {
    /// What lies behind and beneath.
    fn setting(&self) -> Setting;

    /// Draws the objects of the moment `time` (seconds) over the setting, far to near.
    fn draw(&self, time: f64, painter: &mut Painter);

    /// Everything that is seen and heard to happen, sorted by time.
    fn events(&self) -> Vec<StageEvent>;

    /// Where the objects are; the same number and order at every `time`.
    fn objects(&self, time: f64) -> Vec<Placed>;

    /// What sounds. Times are those of the clip; negative ones ring into it.
    fn score(&self) -> Score;

    /// What is said; empty where nobody speaks.
    fn speech(&self) -> (Vec<Phoneme>, Vec<Word>) {
        (Vec::new(), Vec::new())
    }

    /// Where the camera stands along X, for families that it travels with.
    fn camera_x(&self, _time: f64) -> f64 {
        0.0
    }
}

/// An event with its place in space.
#[derive(Clone, Debug, PartialEq)]
pub struct StageEvent {
    /// Seconds to the moment it is seen.
    pub time: f64,
    /// Seconds to the moment it is heard.
    pub heard: f64,
    /// `impact`, `strike`, `hoof`, `burst`, ...
    pub kind: &'static str,
    /// Index into [`Stage::objects`].
    pub object: usize,
    /// 0 to 1.
    pub strength: f32,
    /// Where: X, Y, Z.
    pub at: [f64; 3],
}

/// An object's place at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// What it is.
    pub label: &'static str,
    /// Its middle: X, Y, Z.
    pub at: [f64; 3],
    /// Half its extent along X and Y.
    pub half: [f64; 2],
    /// Whether it is there at all (a burst is not, before it happens).
    pub present: bool,
    /// Its colour, if it is what the captions count and name the colour of.
    pub colour: Option<Colour>,
}

/// Every family there is, in a fixed order.
pub fn registry() -> &'static [&'static dyn Family] {
    &[
        &families::Ball,
        &families::Struck,
        &families::Face,
        &families::Horse,
        &families::Vehicle,
        &families::Fireworks,
    ]
}

/// The family of that name.
pub fn family(name: &str) -> Option<&'static dyn Family> {
    registry().iter().copied().find(|f| f.name() == name)
}
