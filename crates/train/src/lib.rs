//! Training: data streams, the loop, the optimiser, checkpoints, and the four trainings themselves.
//!
//! Batch `i` of a training is a function of its recipe and `i`, and noise one of the step, so a
//! training that goes on from a checkpoint is bit for bit the one that was never stopped.
#![warn(missing_docs)]

mod align;
mod audio_ae;
mod checkpoint;
mod curves;
mod data;
mod dit;
mod dit_data;
mod dit_sample;
mod error;
mod export;
mod font;
mod importance;
mod loss;
mod metrics;
mod motion;
mod optimiser;
mod photos;
mod recipe;
mod recordings;
mod rng;
mod sheet;
mod stft_loss;
mod strange;
mod stream;
mod teacher;
mod throughput;
mod trainer;
mod upscaler;
mod video_ae;

pub use audio_ae::{AudioAeRecipe, AudioLoss, train_audio_ae};
pub use data::{View, WorldRecipe};
pub use dit::{DitRecipe, DitSize, Stage, train_dit};
pub use dit_data::DitView;
pub use error::{Result, TrainError};
pub use metrics::{Line, Metrics, read_log};
pub use recipe::{Decay, OptimiserRecipe, RunRecipe, read_recipe};
pub use recordings::RecordingFolders;
pub use teacher::TeacherRecipe;
pub use teacher::distil::DistilRecipe;
pub use teacher::transfer::TransferRecipe;
pub use trainer::Outcome;
pub use upscaler::{UpscalerLoss, UpscalerRecipe, train_upscaler};
pub use video_ae::{PhotoFolders, VideoAeRecipe, VideoLoss, psnr, train_video_ae};
