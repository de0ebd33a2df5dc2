//! `gallop eval --fit`: detectors for what a model makes.

use std::path::Path;

use anyhow::Result;
use gallop_core::{Cancel, Clip, PixelSize, Progress, Ratio, Resolution, UserError};
use gallop_engine::{EngineError, Trained, reconstruct};
use gallop_eval::{Course, Detectors, Effort};
use gallop_train::{WorldRecipe, read_recipe};
use gallop_world::{Look, Split, WorldConfig};
use serde::Deserialize;

use super::{detectors, resolution};
use crate::args::Eval;
use crate::device::open_device;
use crate::model::{foal_info, known_looks, load, world_of};
use crate::world::write_aside;

/// A size beside the model's own, so that smaller pictures are not strange.
const SMALL: PixelSize = PixelSize::new(224, 128);
/// Their length.
const FRAMES: usize = 49;

/// What `--recipe` holds.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// The parts of the world that clips are drawn from, in turn.
    worlds: Vec<WorldRecipe>,
}

/// Fits detectors to clips of the world, half of them through the model's autoencoders, and writes them to `file`.
pub fn run(args: &Eval, file: &Path, (progress, cancel): (&dyn Progress, &Cancel)) -> Result<()> {
    let info = foal_info(args.model.as_deref())?;
    let sizes = sizes(resolution(args, &info)?);
    let worlds = worlds(args, &info.trained)?
        .into_iter()
        .map(|world| WorldConfig {
            sizes: sizes.clone(),
            frames: vec![FRAMES],
            ..world
        });
    let worlds: Vec<_> = worlds.collect();
    let families: Vec<_> = worlds.iter().flat_map(|w| w.families.clone()).collect();
    let kept = args.keep_networks.then(|| detectors(args, &families));
    let kept = kept.transpose()?;
    let model = load(args.model.as_deref(), &open_device(args.device)?)?;
    let coding = |clip: &Clip| reconstruct(&model, clip).map_err(Into::into);
    let course = Course {
        worlds,
        coding: &coding,
    };
    let effort = Effort::of_clips(args.fitting_clips);
    let Some(detectors) = Detectors::fit(&course, effort, kept, (progress, cancel))? else {
        return Err(EngineError::Cancelled.into());
    };
    let fitted = &detectors.fitted;
    for (what, accuracy) in [("", &fitted.accuracy), (" coded", &fitted.coded)] {
        for (attribute, (right, all)) in accuracy {
            let share = 100.0 * *right as f64 / (*all).max(1) as f64;
            progress.note(&format!(
                "{attribute}: {share:.1}% of {all} held-out{what} clips"
            ));
        }
    }
    if let Some((own, other)) = fitted.lips {
        progress.note(&format!(
            "lips: {own:.2}, with another clip's voice {other:.2}"
        ));
    }
    if let Some((right, seen, there)) = fitted.strokes {
        progress.note(&format!(
            "strokes: {right} of {there} seen, and {} that are none",
            seen - right
        ));
    }
    write_aside(file, &detectors.to_bytes()?)?;
    progress.note(&format!("wrote {}", file.display()));
    Ok(())
}

/// Sizes of the clips, of which one is drawn for each: what the model makes, half of them 16:9. How sharp a picture is
/// tells its look, and is another at every size.
fn sizes(resolution: Resolution) -> Vec<PixelSize> {
    let [wide, tall, ..] = Ratio::ALL.map(|ratio| resolution.size(ratio));
    vec![wide, wide, tall, SMALL]
}

/// Those of the recipe, or the model's own.
fn worlds(args: &Eval, trained: &Trained) -> Result<Vec<WorldConfig>> {
    if let Some(path) = &args.recipe {
        let recipe: Recipe = read_recipe(path)?;
        if recipe.worlds.is_empty() {
            let what = format!("`{}` has no [[worlds]]", path.display());
            return Err(UserError::new(what, "see recipes/detectors.toml").into());
        }
        let worlds = recipe.worlds.iter();
        return Ok(worlds.map(|world| world.config(Split::Train)).collect());
    }
    let looks = match (args.look.as_slice(), trained.looks.as_slice()) {
        ([], []) => Look::ALL.to_vec(),
        ([], names) | (names, _) => known_looks(names)?,
    };
    let own = WorldConfig {
        looks,
        ..world_of(trained)?
    };
    Ok(vec![own])
}
