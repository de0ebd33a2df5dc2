//! `gallop train`.

use anyhow::Result;
use gallop_core::{Cancel, Progress};
use gallop_train::{
    DitRecipe, read_recipe, train_audio_ae, train_dit, train_upscaler, train_video_ae,
};

use crate::args::{Part, Train};
use crate::device::{bf16_peak, open_device};

/// Trains until the recipe's end or until asked to stop.
pub fn run(args: &Train, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let (recipe, run) = (args.recipe.as_path(), args.run.as_path());
    let device = open_device(args.device)?;
    let hear = (progress, cancel);
    let outcome = match args.part {
        Part::VideoAe => train_video_ae(&read_recipe(recipe)?, run, &device, hear)?,
        Part::AudioAe => train_audio_ae(&read_recipe(recipe)?, run, &device, hear)?,
        Part::Upscaler => train_upscaler(&read_recipe(recipe)?, run, &device, hear)?,
        Part::Dit => {
            let mut recipe: DitRecipe = read_recipe(recipe)?;
            let peak = &mut recipe.run.peak_tflops;
            *peak = args.peak.or(*peak).or_else(|| bf16_peak(&device));
            train_dit(&recipe, run, &device, hear)?
        }
    };
    let (steps, run) = (outcome.steps, run.display());
    progress.note(&if outcome.stopped {
        format!("stopped after step {steps}; run the same command again to go on from the checkpoint in {run}")
    } else {
        format!("finished after step {steps}; weights and curves are in {run}")
    });
    Ok(())
}
