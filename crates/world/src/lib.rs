//! gallop-world.
