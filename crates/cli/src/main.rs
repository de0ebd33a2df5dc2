//! The gallop command.
fn main() {}
