//! What a clip shows, as data: the one description that staging, captions, truth and the
//! held-out split all read.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

use crate::WorldRng;

/// Declares a closed list of concepts: an enum with a stable key for files and grammar.
macro_rules! concepts {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $key:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vmeta])* #[serde(rename = $key)] $variant),+
        }

        impl $name {
            /// Every value, in a fixed order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The stable name in files and in the grammar.
            pub fn key(self) -> &'static str {
                match self { $($name::$variant => $key),+ }
            }

            /// The value of that name.
            pub fn from_key(key: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.key() == key)
            }
        }
    };
}

concepts! {
    /// How the picture is drawn.
    Look {
        /// Flat areas of colour, as in a poster.
        Flat = "flat",
        /// Softly lit three-dimensional shading.
        Soft3d = "soft_3d",
        /// Coloured pencil on paper.
        Pencil = "pencil",
        /// Glowing outlines in the dark.
        Neon = "neon",
        /// Large square pixels and few colours.
        Pixel = "pixel",
    }
}

concepts! {
    /// How the camera moves.
    Camera {
        /// It does not.
        Still = "still",
        /// It moves to the left: things drift to the right.
        PanLeft = "pan_left",
        /// It moves to the right: things drift to the left.
        PanRight = "pan_right",
        /// It comes nearer.
        PushIn = "push_in",
        /// It draws away.
        PullOut = "pull_out",
        /// It is held in a shaking hand.
        Shake = "shake",
    }
}

concepts! {
    /// When it happens; sets the light.
    TimeOfDay {
        /// Low cool sun.
        Morning = "morning",
        /// High white sun.
        Day = "day",
        /// Low orange sun.
        Sunset = "sunset",
        /// Moon and lamps.
        Night = "night",
    }
}

concepts! {
    /// What falls from the sky.
    Weather {
        /// Nothing.
        Clear = "clear",
        /// Rain.
        Rain = "rain",
        /// Snow.
        Snow = "snow",
        /// Distance fades away.
        Fog = "fog",
    }
}

concepts! {
    /// Where the subject goes, as the camera sees it.
    Direction {
        /// It stays where it is.
        InPlace = "in_place",
        /// Toward the right edge.
        Right = "right",
        /// Toward the left edge.
        Left = "left",
    }
}

concepts! {
    /// How large the subject is in the picture.
    Size {
        /// Small.
        Small = "small",
        /// Neither small nor large.
        Medium = "medium",
        /// Large.
        Large = "large",
    }
}

concepts! {
    /// A colour that has a name in every language of the grammar.
    Colour {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Between green and blue.
        Teal = "teal",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink",
        /// Brown.
        Brown = "brown",
        /// White.
        White = "white",
        /// Grey.
        Grey = "grey",
        /// Black.
        Black = "black",
    }
}

impl Colour {
    /// The ten colours that things are painted in.
    pub const PAINTS: &'static [Colour] = &[
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Teal,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
        Colour::White,
        Colour::Black,
    ];

    /// 8-bit sRGB.
    pub fn srgb(self) -> [u8; 3] {
        match self {
            Self::Red => [222, 38, 34],
            Self::Orange => [245, 128, 22],
            Self::Yellow => [250, 212, 28],
            Self::Green => [42, 160, 60],
            Self::Teal => [16, 178, 176],
            Self::Blue => [34, 84, 222],
            Self::Purple => [132, 50, 190],
            Self::Pink => [248, 120, 176],
            Self::Brown => [126, 74, 38],
            Self::White => [240, 240, 236],
            Self::Grey => [142, 146, 150],
            Self::Black => [30, 30, 34],
        }
    }
}

/// Everything about a clip that a caption may tell and an evaluation may check.
///
/// Fields that do not apply to a family stay `None`, and its captions do not mention them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    /// The family's registered name.
    pub family: String,
    /// What kind of thing: `basketball`, `drum`, `truck`, ...
    pub subject: String,
    /// How many of them.
    pub count: usize,
    /// The colour of each; may be shorter than `count` when all share the first.
    pub colours: Vec<Colour>,
    /// How large.
    pub size: Option<Size>,
    /// What it is made of, where the subject does not say it.
    pub material: Option<String>,
    /// What it stands, runs or falls on.
    pub floor: Option<String>,
    /// What it does, where the family leaves a choice: a gait, a number of strokes, ...
    pub action: Option<String>,
    /// Where it goes.
    pub direction: Option<Direction>,
    /// Where it happens; also sets the echo.
    pub place: String,
    /// How it is drawn.
    pub look: Look,
    /// How the camera moves.
    pub camera: Camera,
    /// The light.
    pub time_of_day: TimeOfDay,
    /// The sky.
    pub weather: Weather,
    /// Whether what stays in its place stays in the middle of the picture (of an upright one as in the square in its middle,
    /// with more of the scene above and below).
    #[serde(default)]
    pub centred: bool,
    /// The words that are spoken.
    pub phrase: Option<String>,
    /// The language they are spoken in (`en`, `zh`).
    pub phrase_lang: Option<String>,
    /// What else a family wants told: slot of its caption templates -> word of the lexicon.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
}

impl Attributes {
    /// A subject in a place, alone and at rest: looks, camera, light and weather drawn by chance.
    ///
    /// Under a roof (`outdoor` false) the weather is clear.
    pub fn sample(rng: &mut WorldRng, family: &str, subject: &str, outdoor: bool) -> Self {
        let weather = if outdoor && rng.random_bool(0.4) {
            pick(rng, &[Weather::Rain, Weather::Snow, Weather::Fog])
        } else {
            Weather::Clear
        };
        let look = if rng.random_bool(0.4) {
            Look::Soft3d
        } else {
            pick(rng, Look::ALL)
        };
        let camera = if rng.random_bool(0.3) {
            Camera::Still
        } else {
            pick(rng, Camera::ALL)
        };
        Self {
            family: family.to_owned(),
            subject: subject.to_owned(),
            count: 1,
            colours: Vec::new(),
            size: None,
            material: None,
            floor: None,
            action: None,
            direction: None,
            place: String::new(),
            look,
            camera,
            time_of_day: pick(rng, TimeOfDay::ALL),
            weather,
            centred: false,
            phrase: None,
            phrase_lang: None,
            details: BTreeMap::new(),
        }
    }

    /// `offset` from where a subject stands by itself; none where it is to be in the middle.
    pub fn aside(&self, offset: f64) -> f64 {
        if self.centred { 0.0 } else { offset }
    }

    /// The colour of object `index`; the first one's where only that is given.
    pub fn colour(&self, index: usize) -> Colour {
        let fallback = self.colours.first().copied().unwrap_or(Colour::Grey);
        self.colours.get(index).copied().unwrap_or(fallback)
    }
}

/// One of `from`, each as likely.
///
/// # Panics
/// If `from` is empty.
pub fn pick<T: Copy>(rng: &mut WorldRng, from: &[T]) -> T {
    *from
        .choose(rng)
        .expect("a list to pick from is never empty")
}
