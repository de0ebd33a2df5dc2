//! A transformer that knows the latents of one autoencoder teaches those of another.
//!
//! The student sees a clip in the new latents, its teacher the same clip under the same noise in those it knows. For what the
//! teacher says it is asked, and the difference of the two clips' own velocities is added: `S(x) + v_new - v_old`, in which
//! the noise cancels. So its mean is that of a clip's velocity where the teacher's is, what the teacher has learned beside
//! clips (guidance) stays, and it varies only by what the two latents do not share, which is what there is to learn. The
//! latents must have the same axes as nearly as may be (`align` in recipes of `train video-ae`).

use std::path::PathBuf;

use candle_core::Tensor;
use gallop_model::dit::{Batch, Dit, Text};
use serde::{Deserialize, Serialize};

use crate::dit_data::DitBatch;
use crate::error::Result;

/// Who teaches, and the latents that it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRecipe {
    /// Weights of the teacher, of the student's size.
    pub weights: PathBuf,
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
}

impl Transfer {
    pub fn new(dit: Dit) -> Self {
        Self { dit }
    }

    /// What a student should say of a batch's video and of its audio tokens.
    pub fn velocities(&self, batch: &DitBatch, before: Before) -> Result<[Option<Tensor>; 2]> {
        let outputs = self.dit.forward(&Batch {
            sequence: &batch.sequence,
            video: before.video,
            audio: before.audio,
            text: batch.ids.clone().map(Text::Ids),
            predict_text: false,
        })?;
        let add = |said: Option<Tensor>, gap: Option<Tensor>| match (said, gap) {
            (Some(said), Some(gap)) => (said.detach() + gap).map(Some),
            _ => Ok(None),
        };
        Ok([
            add(outputs.video, before.video_gap)?,
            add(outputs.audio, before.audio_gap)?,
        ])
    }
}
