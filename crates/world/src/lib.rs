//! The procedural world that foal learns from: seeded, exact, fast, and good to look at.
//!
//! A *family* ([`Family`]) is one kind of scene. From a seed it draws [`Attributes`] (what is
//! shown), stages them in closed form ([`Stage`]: where everything is at any moment, what is heard
//! when), and the renderer turns that into pictures and sound, with captions from one grammar and
//! the truth about everything that happens.
//!
//! ```
//! use gallop_core::PixelSize;
//! use gallop_world::WorldConfig;
//!
//! let config = WorldConfig {
//!     families: vec!["ball".into()],
//!     sizes: vec![PixelSize::new(112, 64)],
//!     frames: vec![25],
//!     ..WorldConfig::default()
//! };
//! let rendered = config.render(7)?;
//! assert_eq!(rendered.clip.frames.len(), 25);
//! assert!(!rendered.captions.is_empty());
//! # Ok::<(), gallop_world::WorldError>(())
//! ```
//!
//! One clip is drawn by the calling thread; callers run clips side by side. Equal seeds and
//! configurations give equal bytes. Nothing here knows files, networks or tensors.
#![warn(missing_docs)]

mod attributes;
mod captions;
mod error;
mod families;
mod family;
pub mod render;
mod sheet;
pub mod sound;
pub mod speech;
mod split;
mod truth;
mod world;

pub use attributes::{Attributes, Camera, Colour, Direction, Look, Size, TimeOfDay, Weather, pick};
pub use captions::{
    Caption, HeldoutPrompt, Length, captions, heldout_prompts, languages, unknown_words, vocabulary,
};
pub use error::WorldError;
pub use family::{Family, Placed, Stage, StageEvent, family, registry};
pub use sheet::contact_sheet;
pub use split::{Split, is_heldout, phrase_is_heldout};
pub use truth::{Event, Phoneme, Track, TrackPoint, Truth, Word};
pub use world::{Rendered, Spec, WorldConfig, render_spec, render_still};

/// The source of chance: the same on every machine.
pub type WorldRng = rand_pcg::Pcg64Mcg;
