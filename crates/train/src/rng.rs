//! Random numbers as functions of (seed, purpose, index), so that nothing depends on history.

use rand::SeedableRng;
use rand_pcg::Pcg64;

/// What numbers are drawn for; each purpose has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clips by number.
    Clips,
    /// Batches of training data.
    Data,
    /// Noise within a step.
    Noise,
    /// Held-out data.
    Validation,
}

/// A generator for item `index` of a purpose.
pub fn stream(seed: u64, purpose: Purpose, index: u64) -> Pcg64 {
    let purpose = (purpose as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Pcg64::seed_from_u64(mix(mix(seed ^ purpose).wrapping_add(index)))
}

/// SplitMix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
