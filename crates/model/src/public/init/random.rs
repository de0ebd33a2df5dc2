//! Random numbers for tensors, the same for the same seed whatever the number of threads.

use candle_core::DType;
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use crate::public::manifest::{Fill, TensorSpec};

/// Numbers drawn from one generator.
const RUN: usize = 1 << 16;

/// The numbers from `start` on, row-major, in the tensor's number type.
pub(super) fn fill(spec: &TensorSpec, seed: u64, start: usize, out: &mut [u8]) {
    let size = spec.dtype.size_in_bytes();
    debug_assert_eq!(start % RUN, 0, "runs begin at multiples of their length");
    let runs = out.par_chunks_mut(RUN * size).enumerate();
    runs.for_each(|(i, out)| {
        let run = start / RUN + i;
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ mix(&spec.name, run as u64));
        for (j, out) in out.chunks_exact_mut(size).enumerate() {
            let value = number(spec, run * RUN + j, &mut rng);
            match spec.dtype {
                DType::BF16 => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                _ => out.copy_from_slice(&value.to_le_bytes()),
            }
        }
    });
}

/// All numbers of a tensor.
pub(super) fn bytes(spec: &TensorSpec, seed: u64) -> Vec<u8> {
    let mut out = vec![0; spec.bytes() as usize];
    fill(spec, seed, 0, &mut out);
    out
}

fn number(spec: &TensorSpec, index: usize, rng: &mut impl Rng) -> f32 {
    match spec.fill {
        Fill::Zeros => 0.0,
        Fill::Ones => 1.0,
        Fill::Normal(std) => {
            let x: f32 = StandardNormal.sample(rng);
            x * std
        }
        Fill::Frequencies => 10_000f32.powf(-(index as f32) / spec.shape[0] as f32),
    }
}

/// FNV-1a of the name and the run's number.
fn mix(name: &str, run: u64) -> u64 {
    let bytes = name.bytes().chain(run.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
