//! What all recipes have in common.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// How long, how often, with how many threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecipe {
    /// Seed of weights, data and noise.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Threads that compute; 0 takes all.
    #[serde(default)]
    pub threads: usize,
    /// Threads that render and prepare batches; 0 takes one a core.
    #[serde(default = "one")]
    pub workers: usize,
    /// The device's bf16 peak in TFLOP/s, which the log names the share of.
    #[serde(default)]
    pub peak_tflops: Option<f64>,
    /// Seconds between checkpoints.
    #[serde(default = "checkpoint_seconds")]
    pub checkpoint_seconds: f64,
    /// Steps between lines of the log; a line holds their mean.
    #[serde(default = "log_every")]
    pub log_every: u64,
    /// Steps between validations.
    #[serde(default = "validate_every")]
    pub validate_every: u64,
}

impl RunRecipe {
    /// Threads that render and prepare batches.
    pub fn worker_threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}

fn one() -> usize {
    1
}

fn checkpoint_seconds() -> f64 {
    180.0
}

fn log_every() -> u64 {
    20
}

fn validate_every() -> u64 {
    500
}

/// How the learning rate moves after its warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// Constant, then straight down to zero over the last `cooldown` of the run.
    Cooldown,
}

/// The optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserRecipe {
    /// Highest learning rate of AdamW.
    pub learning_rate: f64,
    /// Learning rate of Muon for the inner matrices; 0 trains everything with AdamW.
    #[serde(default)]
    pub muon_learning_rate: f64,
    /// Steps of linear warmup.
    #[serde(default)]
    pub warmup: u64,
    /// What comes after.
    #[serde(default)]
    pub decay: Decay,
    /// Share of the steps that [`Decay::Cooldown`] takes.
    #[serde(default = "cooldown")]
    pub cooldown: f64,
    /// AdamW's two decay rates.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Greatest norm of the whole gradient; 0 does not clip.
    #[serde(default)]
    pub clip: f64,
    /// Decay rate of the moving average of the weights.
    #[serde(default = "ema")]
    pub ema: f64,
}

fn cooldown() -> f64 {
    0.3
}

fn betas() -> [f64; 2] {
    [0.9, 0.95]
}

fn ema() -> f64 {
    0.998
}

impl OptimiserRecipe {
    /// What the learning rates are multiplied by at `step` of `steps`.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = ((step + 1) as f64 / (self.warmup + 1) as f64).min(1.0);
        let done = step as f64 / steps.max(1) as f64;
        let decayed = match self.decay {
            Decay::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * done.min(1.0)).cos(),
            Decay::Cooldown => ((1.0 - done) / self.cooldown.max(1e-9)).clamp(0.0, 1.0),
        };
        warm * decayed
    }
}

/// Reads a recipe file.
///
/// # Errors
/// If it cannot be read, or holds an unknown or missing key.
pub fn read_recipe<R: DeserializeOwned>(path: &Path) -> Result<R> {
    let text = std::fs::read_to_string(path).map_err(TrainError::file(path))?;
    Ok(toml::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(decay: Decay) -> OptimiserRecipe {
        OptimiserRecipe {
            decay,
            ..toml::from_str("learning_rate = 1e-3\nwarmup = 9").unwrap()
        }
    }

    #[test]
    fn rates_rise_and_fall() {
        for decay in [Decay::Cosine, Decay::Cooldown] {
            let recipe = recipe(decay);
            assert!((recipe.rate(0, 1000) - 0.1).abs() < 1e-9);
            assert!(recipe.rate(9, 1000) > 0.99);
            assert!(recipe.rate(999, 1000) < 0.01);
        }
        assert_eq!(recipe(Decay::Cooldown).rate(690, 1000), 1.0);
        assert!((recipe(Decay::Cooldown).rate(850, 1000) - 0.5).abs() < 1e-9);
    }
}
