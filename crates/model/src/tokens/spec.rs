//! What one sample of a sequence consists of.

use gallop_core::LatentShape;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};

/// What text sees, and who sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextRole {
    /// Text and clip see each other, both ways: the public weights.
    Everything,
    /// A condition: text sees earlier text, the clip sees all text. The next token can be learned.
    Prompt,
    /// A description: text sees the clip and earlier text, the clip does not see text. The next token can
    /// be learned.
    Caption,
}

/// A task, as which latents are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Nothing is given but the text.
    TextToClip,
    /// The first latent frames are given: 1 for an image, more to continue a clip.
    FirstFrames(usize),
    /// The last latent frame is given.
    LastFrame,
    /// The video is given, its sound is made.
    SoundForVideo,
    /// The sound is given, its video is made.
    VideoForSound,
    /// The whole clip is given, its text is made.
    Describe,
}

/// One sample: the sizes of its parts and which of them are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleSpec {
    /// Latents; no audio latents for a silent clip or a picture, no frames for sound alone.
    pub latents: LatentShape,
    /// Text tokens; 0 for unconditional.
    pub text: usize,
    /// What text sees.
    pub text_role: TextRole,
    /// For each latent frame whether it is given; those beyond its end are not.
    pub given_frames: Vec<bool>,
    /// For each audio latent whether it is given; those beyond its end are not.
    pub given_audio: Vec<bool>,
}

impl SampleSpec {
    /// A sample of a task of foal: its text is a [`TextRole::Prompt`], or a [`TextRole::Caption`] where the
    /// text is what is made.
    pub fn new(task: Task, latents: LatentShape, text: usize) -> Self {
        let (frames, audio) = (latents.frames, latents.audio);
        let (given_frames, given_audio) = match task {
            Task::TextToClip => (vec![], vec![]),
            Task::FirstFrames(n) => (vec![true; n.min(frames)], vec![]),
            Task::LastFrame => ((0..frames).map(|i| i + 1 == frames).collect(), vec![]),
            Task::SoundForVideo => (vec![true; frames], vec![]),
            Task::VideoForSound => (vec![], vec![true; audio]),
            Task::Describe => (vec![true; frames], vec![true; audio]),
        };
        Self {
            latents,
            text,
            text_role: match task {
                Task::Describe => TextRole::Caption,
                _ => TextRole::Prompt,
            },
            given_frames,
            given_audio,
        }
    }

    /// A sample as the public weights know it: everything sees everything, nothing is given.
    pub fn public(latents: LatentShape, text: usize) -> Self {
        Self {
            text_role: TextRole::Everything,
            ..Self::new(Task::TextToClip, latents, text)
        }
    }

    /// Whether a latent frame is given.
    pub fn is_frame_given(&self, frame: usize) -> bool {
        self.given_frames.get(frame).copied().unwrap_or(false)
    }

    /// Whether an audio latent is given.
    pub fn is_audio_given(&self, i: usize) -> bool {
        self.given_audio.get(i).copied().unwrap_or(false)
    }

    /// Frames, rows and columns of video tokens.
    pub(super) fn grid(&self, patch: [usize; 3]) -> Result<[usize; 3]> {
        let size = [self.latents.frames, self.latents.height, self.latents.width];
        if (0..3).any(|i| !size[i].is_multiple_of(patch[i])) {
            return Err(ModelError::Config(format!(
                "latents of {size:?} cannot be cut into patches of {patch:?}"
            )));
        }
        Ok([0, 1, 2].map(|i| size[i] / patch[i]))
    }
}
