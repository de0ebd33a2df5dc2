//! Those who teach the transformer in place of the clips themselves: `[teacher.distil]` and `[teacher.transfer]` of a recipe.
//!
//! A training with a teacher sees the captions, clips and noise that one without would; only what the network should say
//! of them is the teacher's.

pub(crate) mod distil;
pub(crate) mod transfer;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_model::dit::{Batch, Dit, DitConfig, Text, video_shifts};
use gallop_model::tokens::TokenSequence;
use gallop_model::{WeightFiles, Weights};
use serde::{Deserialize, Serialize};

use crate::dit_data::DitBatch;
use crate::error::{Result, TrainError};
use crate::export::config_of;
use distil::{Distil, DistilRecipe, Unguided};
use transfer::{Before, Transfer, TransferRecipe};

/// Who teaches, and what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum TeacherRecipe {
    /// Guidance, so that one evaluation does what three did.
    Distil(DistilRecipe),
    /// What is known of other latents.
    Transfer(TransferRecipe),
}

/// What a batch is besides, for its teacher.
pub(crate) enum Beside {
    Unguided(Box<Unguided>),
    Before(Before),
}

enum Kind {
    Distil(Box<Distil>),
    Transfer(Box<Transfer>),
}

pub(crate) struct Teacher {
    kind: Kind,
    /// Its video channels' shifts of noise levels.
    pub shifts: Vec<f64>,
}

impl Teacher {
    /// Reads its weights.
    ///
    /// # Errors
    /// If they cannot be read, or are of another network than the student's.
    pub fn new(recipe: &TeacherRecipe, student: &DitConfig, device: &Device) -> Result<Self> {
        let (kind, shifts) = match recipe {
            TeacherRecipe::Distil(recipe) => {
                let (dit, shifts) = read(&recipe.weights, student, device)?;
                let teacher = Distil::new(dit, recipe.clone());
                (Kind::Distil(Box::new(teacher)), shifts)
            }
            TeacherRecipe::Transfer(recipe) => {
                let (dit, shifts) = read(&recipe.weights, student, device)?;
                let unguided = (recipe.unguided.as_ref())
                    .map(|path| read(path, student, device))
                    .transpose()?
                    .map(|(dit, _)| dit);
                let teacher = Transfer::new(dit, unguided);
                (Kind::Transfer(Box::new(teacher)), shifts)
            }
        };
        Ok(Self { kind, shifts })
    }

    /// What a student should say of a batch's video and of its audio tokens.
    pub fn velocities(&self, batch: &DitBatch, beside: Beside) -> Result<[Option<Tensor>; 2]> {
        match (&self.kind, beside) {
            (Kind::Distil(teacher), Beside::Unguided(beside)) => teacher.velocities(batch, &beside),
            (Kind::Transfer(teacher), Beside::Before(before)) => teacher.velocities(batch, &before),
            _ => unreachable!("batches are made for the recipe's teacher"),
        }
    }
}

/// A teacher's network, and its video channels' shifts of noise levels.
///
/// # Errors
/// If it cannot be read, or is of another network than the student's.
fn read(path: &Path, student: &DitConfig, device: &Device) -> Result<(Dit, Vec<f64>)> {
    let files = WeightFiles::open(path)?;
    if config_of::<DitConfig>(&files, path)? != *student {
        let why = "the teacher is another network than the student";
        return Err(TrainError::Setting(format!("{}: {why}", path.display())));
    }
    let shifts = video_shifts(&files, student.video_channels)?;
    let weights = Weights::files(Arc::new(files), device);
    Ok((Dit::new(student, &weights)?, shifts))
}

/// What a network says of noisy video and audio tokens, without a graph.
fn said(
    dit: &Dit,
    sequence: &TokenSequence,
    [video, audio]: [Option<&Tensor>; 2],
    ids: Option<&Tensor>,
) -> Result<[Option<Tensor>; 2]> {
    let outputs = dit.forward(&Batch {
        sequence,
        video: video.cloned(),
        audio: audio.cloned(),
        text: ids.cloned().map(Text::Ids),
        predict_text: false,
    })?;
    Ok([outputs.video, outputs.audio].map(|x| x.map(|x| x.detach())))
}
