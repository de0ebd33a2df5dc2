//! gallop-engine.
