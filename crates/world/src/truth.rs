//! What truly happens in a clip: the ground that evaluation stands on.

use gallop_core::ClipShape;
use serde::{Deserialize, Serialize};

use crate::{Attributes, Colour};

/// Everything known about one rendered clip; written beside it as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// The seed that made it.
    pub seed: u64,
    /// Frames and size; time runs at 24 frames a second.
    pub shape: ClipShape,
    /// What it shows.
    pub attributes: Attributes,
    /// What happens when, sorted by time; only what falls within the clip.
    pub events: Vec<Event>,
    /// Where every object is in every frame.
    pub tracks: Vec<Track>,
    /// What is said and how the mouth moves; empty where nobody speaks.
    pub speech: Vec<Phoneme>,
    /// The spoken words in order with their times.
    pub words: Vec<Word>,
}

/// One thing that is seen and heard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds from the start of the clip to the moment it is *seen*.
    pub time: f64,
    /// Seconds from the start of the clip to the moment it is *heard* (later for distant things).
    pub heard: f64,
    /// `impact`, `strike`, `hoof`, `burst`, ...
    pub kind: String,
    /// Which track it belongs to.
    pub object: usize,
    /// 0 (faint) to 1 (as strong as the family gets).
    pub strength: f32,
    /// Place in the picture: 0 left edge, 1 right edge (may lie outside).
    pub x: f32,
    /// Place in the picture: 0 top edge, 1 bottom edge (may lie outside).
    pub y: f32,
}

/// One object through the clip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// What it is.
    pub label: String,
    /// Its colour, if it is what the captions count and name the colour of.
    #[serde(default)]
    pub colour: Option<Colour>,
    /// One entry a frame.
    pub points: Vec<TrackPoint>,
}

/// Where an object is in one frame, as fractions of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackPoint {
    /// Centre, 0 left to 1 right.
    pub x: f32,
    /// Centre, 0 top to 1 bottom.
    pub y: f32,
    /// Half its width, as a fraction of the picture's width.
    pub rx: f32,
    /// Half its height, as a fraction of the picture's height.
    pub ry: f32,
    /// Whether any of it is in the picture.
    pub visible: bool,
}

/// One spoken sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phoneme {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// IPA or pinyin symbol.
    pub symbol: String,
    /// How far the mouth opens at its middle: 0 shut, 1 wide open.
    pub open: f32,
    /// How the lips are shaped at its middle: -1 rounded, 0 at rest, 1 spread.
    pub spread: f32,
}

/// One spoken word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// As written.
    pub text: String,
}

impl Truth {
    /// The truth as indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("truth holds only plain data")
    }
}
