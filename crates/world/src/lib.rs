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
//! # Adding to it
//! A family is a file under `families/`, a line in [`registry`], and `data/<lang>/<family>.toml`
//! with its words and caption templates (notation: `data/en/common.toml`). A language is a folder
//! of such files and a line in `captions/lexicon.rs`. A look is a value of [`Look`], its tones in
//! `render/light.rs` and what it does to the finished picture in `render/looks.rs`.
//!
//! # Speed
//! Frames a second on one core, 448x256, five-second clips, sound included (`--example speed`;
//! Zen 4, processor time while other programs kept both cores busy, 2026-11-23):
//!
//! | family     | flat | soft 3-D | pencil | neon | pixel |
//! |------------|-----:|---------:|-------:|-----:|------:|
//! | ball       |  450 |      352 |    327 |  276 |  1831 |
//! | instrument |  441 |      385 |    357 |  295 |  1453 |
//! | face       |  314 |      258 |    246 |  290 |  1568 |
//! | horse      |  306 |      309 |    258 |  258 |  1693 |
//! | vehicle    |  372 |      345 |    315 |  275 |  1482 |
//! | fireworks  |  502 |      492 |    463 |  374 |  1781 |
//!
//! A clip of a single frame takes about 9 ms, most of it for the backdrop.
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
    Caption, HeldoutPrompt, Length, captions, heldout_prompts, languages, unknown_words,
};
pub use error::WorldError;
pub use families::{Ball, Struck};
pub use family::{Family, Placed, Stage, StageEvent, family, registry};
pub use sheet::contact_sheet;
pub use split::{Split, is_heldout, phrase_is_heldout};
pub use truth::{Event, Phoneme, Track, TrackPoint, Truth, Word};
pub use world::{Only, Rendered, Spec, WorldConfig, render_spec, render_still};

/// The source of chance: the same on every machine.
pub type WorldRng = rand_pcg::Pcg64Mcg;
