//! Random weights without files, as many as a model asks for: to measure speed and memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use half::bf16;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64Mcg;

use super::Init;
use crate::error::Result;

/// Numbers that are drawn; all weights are made of runs of them, since billions would take minutes.
const DRAWN: usize = 1 << 20;

/// What places where weights begin are a multiple of.
const ALIGNED: usize = 64;

/// A run of random numbers for each standard deviation, on the device.
#[derive(Clone, Default)]
pub(super) struct Drawn {
    seed: u64,
    runs: Arc<Mutex<HashMap<u64, Tensor>>>,
}

impl Drawn {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            runs: Arc::default(),
        }
    }

    /// A weight that begins as `init`: matrices bf16, as files have them, all else f32.
    pub fn get(&self, name: &str, shape: &Shape, init: Init, device: &Device) -> Result<Tensor> {
        let dtype = match shape.rank() {
            2 => DType::BF16,
            _ => DType::F32,
        };
        let deviation = match init {
            Init::Zeros => return Ok(Tensor::zeros(shape, DType::F32, device)?.to_dtype(dtype)?),
            Init::Ones => return Ok(Tensor::ones(shape, DType::F32, device)?.to_dtype(dtype)?),
            Init::Normal(deviation) => deviation,
            // The deviation of even numbers in plus or minus a bound.
            Init::Uniform(bound) => bound / 3f64.sqrt(),
        };
        let run = self.run(deviation, device)?;
        // Each begins somewhere else, where products can read whole words.
        let from = name
            .bytes()
            .fold(0usize, |sum, b| sum * 31 % DRAWN + b as usize)
            % DRAWN
            / ALIGNED
            * ALIGNED;
        let count = shape.elem_count();
        let copies = vec![run; (from + count).div_ceil(DRAWN)];
        let numbers = Tensor::cat(&copies, 0)?.narrow(0, from, count)?;
        Ok(numbers.reshape(shape)?.to_dtype(dtype)?)
    }

    fn run(&self, deviation: f64, device: &Device) -> Result<Tensor> {
        // A panic elsewhere leaves the map whole.
        let mut runs = self.runs.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(run) = runs.get(&deviation.to_bits()) {
            return Ok(run.clone());
        }
        let mut rng = Pcg64Mcg::seed_from_u64(self.seed ^ deviation.to_bits());
        let draw = |_| {
            let x: f32 = StandardNormal.sample(&mut rng);
            bf16::from_f32(x * deviation as f32)
        };
        let numbers: Vec<bf16> = (0..DRAWN).map(draw).collect();
        let run = Tensor::from_vec(numbers, DRAWN, device)?;
        runs.insert(deviation.to_bits(), run.clone());
        Ok(run)
    }
}
