//! Training clips: from the world, or from photographs that a camera moves over.

use std::path::{Path, PathBuf};

use gallop_core::{Frame, PixelSize};
use gallop_world::{Rendered, Split, WorldConfig};
use rand::RngExt;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// One way to look at the world; each batch is of one view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// How often it is chosen, relative to the others.
    #[serde(default = "one")]
    pub weight: f64,
    /// Width and height that clips are rendered at.
    pub size: [usize; 2],
    /// Width and height cut out of them; all of them if missing.
    pub crop: Option<[usize; 2]>,
    /// Frames of a clip.
    pub frames: usize,
    /// Clips rendered for a batch.
    pub clips: usize,
    /// Pieces cut out of each.
    #[serde(default = "one_piece")]
    pub crops: usize,
    /// Whether it shows photographs, not the world.
    #[serde(default)]
    pub photos: bool,
}

/// What weights and shifts are where a recipe is silent.
pub(crate) fn one() -> f64 {
    1.0
}

fn one_piece() -> usize {
    1
}

/// Which part of the world a training sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldRecipe {
    /// Families; empty for all.
    #[serde(default)]
    pub families: Vec<String>,
    /// Looks; empty for all.
    #[serde(default)]
    pub looks: Vec<gallop_world::Look>,
    /// Values that attributes must have; others are left out.
    #[serde(default)]
    pub only: gallop_world::Only,
    /// Whether what stays in its place stays in the middle of the picture (of an upright one as in the square in its middle,
    /// with more of the scene above and below).
    #[serde(default)]
    pub centred: bool,
}

impl WorldRecipe {
    /// This part of the world, of a split, at the world's own sizes.
    pub fn config(&self, split: Split) -> WorldConfig {
        WorldConfig {
            families: self.families.clone(),
            looks: self.looks.clone(),
            only: self.only.clone(),
            centred: self.centred,
            split,
            ..WorldConfig::default()
        }
    }

    /// Renders one clip of a split.
    ///
    /// # Errors
    /// If a family does not exist.
    pub fn render(&self, what: ClipOf, split: Split) -> Result<Rendered> {
        let config = WorldConfig {
            sizes: vec![what.size],
            frames: vec![what.frames],
            audio: what.audio,
            ..self.config(split)
        };
        config
            .render(what.seed)
            .map_err(|e| TrainError::Data(e.to_string()))
    }
}

/// Which clip of the world.
#[derive(Clone, Copy, Debug)]
pub struct ClipOf {
    /// Seed of the clip.
    pub seed: u64,
    /// Its size.
    pub size: PixelSize,
    /// Its length.
    pub frames: usize,
    /// Whether its sound is wanted.
    pub audio: bool,
}

/// The files of a folder whose names end with one of `ends`, in the order of their names; `kind` is what they are, and
/// `script` what fetches some.
///
/// # Errors
/// If the folder cannot be read, or has no such file.
pub(crate) fn files_in(
    folder: &Path,
    ends: &[&str],
    (kind, script): (&str, &str),
) -> Result<Vec<PathBuf>> {
    let without = |why: String| {
        let folder = folder.display();
        TrainError::Data(format!("{folder}: {why}; {script} fetches some"))
    };
    let entries = std::fs::read_dir(folder).map_err(|e| without(e.to_string()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let end = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            ends.contains(&end.to_lowercase().as_str())
        })
        .collect();
    if paths.is_empty() {
        return Err(without(format!("there is no {kind} here")));
    }
    paths.sort();
    Ok(paths)
}

/// Draws one of `all` by weight.
///
/// # Errors
/// If there is nothing to draw.
pub fn choose_by<'a, T>(
    all: &'a [T],
    weight: impl Fn(&T) -> f64,
    rng: &mut Pcg64,
) -> Result<&'a T> {
    let weights: Vec<f64> = all.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    if weights.is_empty() || total <= 0.0 {
        return Err(TrainError::Setting(
            "there is nothing to choose from".into(),
        ));
    }
    let mut left = rng.random::<f64>() * total;
    let found = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    Ok(&all[found.unwrap_or(all.len() - 1)])
}

/// Width and height as recipes write them.
pub fn pixel_size([width, height]: [usize; 2]) -> PixelSize {
    PixelSize::new(width, height)
}

/// The same piece of every frame, at a place drawn by chance.
pub fn cut(frames: &[Frame], crop: PixelSize, rng: &mut Pcg64) -> Vec<Frame> {
    let size = frames[0].size;
    let width = crop.width.min(size.width);
    let height = crop.height.min(size.height);
    let x = rng.random_range(0..=size.width - width);
    let y = rng.random_range(0..=size.height - height);
    let piece = |frame: &Frame| {
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in y..y + height {
            let at = (y * size.width + x) * 3;
            rgb.extend_from_slice(&frame.rgb[at..at + width * 3]);
        }
        Frame {
            size: PixelSize::new(width, height),
            rgb,
        }
    };
    frames.iter().map(piece).collect()
}
