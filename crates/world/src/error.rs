//! What can be wrong with a wish to the world.

use thiserror::Error;

use crate::family::registry;

/// Why a clip of the world cannot be drawn.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WorldError {
    /// No family of that name.
    #[error("the world has no family `{name}`; it has {known}")]
    UnknownFamily {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A condition on something that clips do not have.
    #[error(
        "clips have no attribute `{name}` that can be chosen by its value; there are subject, count, size, material, floor, action, direction, place, look, camera, time_of_day, weather"
    )]
    NoAttribute {
        /// What was asked for.
        name: String,
    },
    /// No clip of a family is as asked for.
    #[error("no clip of the family `{family}` has the attributes asked for; allow more values")]
    NothingLeft {
        /// Which family.
        family: String,
    },
    /// The list of sizes is empty.
    #[error("the list of picture sizes is empty; give at least one")]
    NoSize,
    /// The list of lengths is empty.
    #[error("the list of clip lengths is empty; give at least one")]
    NoLength,
    /// A clip without a frame or a pixel.
    #[error("a clip needs at least one frame of at least one pixel")]
    Empty,
}

impl WorldError {
    pub(crate) fn unknown_family(name: &str) -> Self {
        let known: Vec<_> = registry().iter().map(|f| f.name()).collect();
        Self::UnknownFamily {
            name: name.to_owned(),
            known: known.join(", "),
        }
    }
}
