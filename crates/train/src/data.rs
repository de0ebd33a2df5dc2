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
    /// Whether pieces are cut out where things move, rather than anywhere; the upscaler's always lie anywhere.
    #[serde(default)]
    pub crop_moving: bool,
    /// Whether it shows photographs, not the world.
    #[serde(default)]
    pub photos: bool,
    /// The part of the world that it shows; the recipe's if missing.
    pub world: Option<WorldRecipe>,
}

impl View {
    /// The part of the world that it shows, where `whole` is the recipe's.
    pub(crate) fn world<'a>(&'a self, whole: &'a WorldRecipe) -> &'a WorldRecipe {
        self.world.as_ref().unwrap_or(whole)
    }
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

/// Pixels between the places that [`cut_moving`] chooses from: a piece's latents are those of the whole picture.
const GRID: usize = gallop_model::video_ae::STRIDE;
/// Least change of a value from one frame to the next, of 255, of what counts as moving.
pub(crate) const MOVES: u8 = 25;

/// The same piece of every frame, at a place drawn by chance.
pub fn cut(frames: &[Frame], crop: PixelSize, rng: &mut Pcg64) -> Vec<Frame> {
    let whole = frames[0].size;
    let x = rng.random_range(0..=whole.width.saturating_sub(crop.width));
    let y = rng.random_range(0..=whole.height.saturating_sub(crop.height));
    let piece = Piece::new(whole, crop, [x, y]);
    frames.iter().map(|frame| piece.of(frame)).collect()
}

/// [`cut`] at a place on the latents' grid, the sooner the more moves there: most of a picture stands still, and what does
/// is learned from few of its pieces.
///
/// # Errors
/// If the frames are no pictures.
pub fn cut_moving(frames: &[Frame], crop: PixelSize, rng: &mut Pcg64) -> Result<Vec<Frame>> {
    let whole = frames[0].size;
    let last = |whole: usize, crop: usize| whole.saturating_sub(crop);
    let rows = (0..=last(whole.height, crop.height)).step_by(GRID);
    let places = rows.flat_map(|y| {
        let columns = (0..=last(whole.width, crop.width)).step_by(GRID);
        columns.map(move |x| Piece::new(whole, crop, [x, y]))
    });
    let places: Vec<(Piece, f64)> = places
        .map(|piece| (piece, piece.moving(frames) as f64 + 1.0))
        .collect();
    let (piece, _) = choose_by(&places, |(_, moves)| *moves, rng)?;
    Ok(frames.iter().map(|frame| piece.of(frame)).collect())
}

/// A part of every frame of a clip.
#[derive(Clone, Copy)]
struct Piece {
    at: [usize; 2],
    size: PixelSize,
}

impl Piece {
    /// A piece of pictures of `whole` at a place, and no larger than they are.
    fn new(whole: PixelSize, crop: PixelSize, at: [usize; 2]) -> Self {
        let size = PixelSize::new(crop.width.min(whole.width), crop.height.min(whole.height));
        Self { at, size }
    }

    /// Its rows in a frame, as bytes.
    fn rows<'a>(&self, frame: &'a Frame) -> impl Iterator<Item = &'a [u8]> {
        let Self { at: [x, y], size } = *self;
        let across = frame.size.width;
        (y..y + size.height).map(move |y| {
            let at = (y * across + x) * 3;
            &frame.rgb[at..at + size.width * 3]
        })
    }

    /// It alone.
    fn of(&self, frame: &Frame) -> Frame {
        let rgb = self.rows(frame).flatten().copied().collect();
        let size = self.size;
        Frame { size, rgb }
    }

    /// How many of its values change by [`MOVES`] or more from one frame to the next.
    fn moving(&self, frames: &[Frame]) -> usize {
        let pairs = frames.windows(2);
        let moves = |(a, b): (&[u8], &[u8])| {
            let both = a.iter().zip(b);
            both.filter(|(a, b)| a.abs_diff(**b) >= MOVES).count()
        };
        pairs
            .flat_map(|pair| self.rows(&pair[0]).zip(self.rows(&pair[1])))
            .map(moves)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn pieces_lie_where_things_move() -> Result<()> {
        // A dot that goes along the upper left corner of a grey picture.
        let size = PixelSize::new(64, 64);
        let frames: Vec<Frame> = (0..8)
            .map(|t| {
                let mut frame = Frame::black(size);
                let at = (3 * 64 + 2 + t) * 3;
                frame.rgb[at..at + 3].fill(255);
                frame
            })
            .collect();
        let seen = |cut: &dyn Fn(&mut Pcg64) -> Result<Vec<Frame>>| -> Result<usize> {
            let mut rng = Pcg64::seed_from_u64(5);
            (0..100).try_fold(0, |sum, _| {
                let piece = cut(&mut rng)?;
                assert_eq!(piece.len(), 8);
                assert_eq!(piece[0].size, PixelSize::new(24, 24));
                Ok(sum + usize::from(piece.iter().any(|frame| frame.rgb.contains(&255))))
            })
        };
        let crop = PixelSize::new(24, 24);
        // On the grid there are nine places, and only the first shows the dot.
        let anywhere = seen(&|rng| Ok(cut(&frames, crop, rng)))?;
        let moving = seen(&|rng| cut_moving(&frames, crop, rng))?;
        assert!(
            moving > 3 * anywhere,
            "{moving} of 100, {anywhere} anywhere"
        );
        Ok(())
    }
}
