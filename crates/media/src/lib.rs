//! gallop-media.
