//! `gallop eval --fit`: detectors for what a model makes.

use std::path::Path;

use anyhow::Result;
use gallop_core::{Cancel, Clip, PixelSize, Progress, UserError};
use gallop_engine::{EngineError, reconstruct};
use gallop_eval::{Course, Detectors, Effort};
use gallop_train::{WorldRecipe, read_recipe};
use gallop_world::{Look, Split, WorldConfig};
use serde::Deserialize;

use crate::args::Eval;
use crate::device::open_device;
use crate::model::{foal_info, known_looks, load, world_of};
use crate::world::write_aside;

/// Sizes of the clips; the first counts double.
const SIZES: [(usize, usize); 4] = [(160, 96), (160, 96), (128, 80), (224, 128)];
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
    let worlds = worlds(args)?.into_iter().map(|world| WorldConfig {
        sizes: SIZES.map(|(w, h)| PixelSize::new(w, h)).to_vec(),
        frames: vec![FRAMES],
        ..world
    });
    let model = load(args.model.as_deref(), &open_device(args.device)?)?;
    let coding = |clip: &Clip| reconstruct(&model, clip).map_err(Into::into);
    let course = Course {
        worlds: worlds.collect(),
        coding: &coding,
    };
    let effort = Effort::of_clips(args.fitting_clips);
    let Some(detectors) = Detectors::fit(&course, effort, progress, cancel)? else {
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
    write_aside(file, &detectors.to_bytes()?)?;
    progress.note(&format!("wrote {}", file.display()));
    Ok(())
}

/// Those of the recipe, or the model's own.
fn worlds(args: &Eval) -> Result<Vec<WorldConfig>> {
    if let Some(path) = &args.recipe {
        let recipe: Recipe = read_recipe(path)?;
        if recipe.worlds.is_empty() {
            let what = format!("`{}` has no [[worlds]]", path.display());
            return Err(UserError::new(what, "see recipes/detectors.toml").into());
        }
        let worlds = recipe.worlds.iter();
        return Ok(worlds.map(|world| world.config(Split::Train)).collect());
    }
    let trained = foal_info(args.model.as_deref())?.trained;
    let looks = match (args.look.as_slice(), trained.looks.as_slice()) {
        ([], []) => Look::ALL.to_vec(),
        ([], names) | (names, _) => known_looks(names)?,
    };
    let own = WorldConfig {
        looks,
        ..world_of(&trained)?
    };
    Ok(vec![own])
}
