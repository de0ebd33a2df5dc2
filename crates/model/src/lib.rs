//! gallop-model.
