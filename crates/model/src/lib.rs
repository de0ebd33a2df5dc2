//! gallop-model.

pub mod pickle;
