//! gallop-train.
