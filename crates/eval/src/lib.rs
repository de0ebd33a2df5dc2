//! gallop-eval.
