//! A transformer that knows the latents of one autoencoder teaches those of another.
//!
//! The student sees a clip in the new latents, its teacher the same clip under the same noise in those it knows. For what the
//! teacher says it is asked, and the difference of the two clips' own velocities is added: `S(x) + v_new - v_old`, in which
//! the noise cancels. So its mean is that of a clip's velocity where the teacher's is, what the teacher has learned beside
//! clips (guidance) stays, and it varies only by what the two latents do not share, which is what there is to learn. The
//! latents must have the same axes as nearly as may be (`align` in recipes of `train video-ae`).
//!
//! What the teacher draws wrong is taught too, so a student gets no further than it. With the weights from before guidance
//! was learned beside it only the guidance is the teacher's: `v_new + S(x) - U(x)`, in which what both do wrong cancels and
//! a clip's noise does not.

use std::path::PathBuf;

use candle_core::Tensor;
use gallop_model::dit::Dit;
use serde::{Deserialize, Serialize};

use crate::dit_data::DitBatch;
use crate::error::Result;
use crate::teacher::said;

/// Who teaches, and the latents that it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRecipe {
    /// Weights of the teacher, of the student's size.
    pub weights: PathBuf,
    /// The same network before it learned guidance; then that alone is taught, and the rest is the clips' own.
    #[serde(default)]
    pub unguided: Option<PathBuf>,
    /// Folder of the `video_ae.safetensors` and `audio_ae.safetensors` whose latents it knows.
    pub autoencoders: PathBuf,
}

/// A batch in the teacher's latents: tokens as in [`DitBatch`], and what its clips' velocities lack of the new ones'.
pub(crate) struct Before {
    pub video: Option<Tensor>,
    pub video_gap: Option<Tensor>,
    pub audio: Option<Tensor>,
    pub audio_gap: Option<Tensor>,
}

pub(crate) struct Transfer {
    dit: Dit,
    unguided: Option<Dit>,
}

impl Transfer {
    pub fn new(dit: Dit, unguided: Option<Dit>) -> Self {
        Self { dit, unguided }
    }

    /// What a student should say of a batch's video and of its audio tokens.
    pub fn velocities(&self, batch: &DitBatch, before: &Before) -> Result<[Option<Tensor>; 2]> {
        let seen = [&before.video, &before.audio].map(Option::as_ref);
        let say = |dit: &Dit| said(dit, &batch.sequence, seen, batch.ids.as_ref());
        let said = say(&self.dit)?;
        let (beside, own) = match &self.unguided {
            Some(dit) => (say(dit)?, [&batch.video_target, &batch.audio_target]),
            None => ([None, None], [&before.video_gap, &before.audio_gap]),
        };
        let mut targets = [None, None];
        for (part, target) in targets.iter_mut().enumerate() {
            let (Some(said), Some(own)) = (&said[part], own[part]) else {
                continue;
            };
            *target = Some(match &beside[part] {
                Some(beside) => ((said - beside)? + own)?,
                None => (said + own)?,
            });
        }
        Ok(targets)
    }
}
