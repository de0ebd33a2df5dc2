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
    /// Frames of one clip of a split, of the part of the world that it shows, where `whole` is the recipe's.
    ///
    /// # Errors
    /// As [`WorldRecipe::render`].
    pub(crate) fn render(
        &self,
        whole: &WorldRecipe,
        (seed, size): (u64, PixelSize),
        split: Split,
    ) -> Result<Vec<Frame>> {
        let what = ClipOf {
            seed,
            size,
            frames: self.frames,
            audio: false,
        };
        let world = self.world.as_ref().unwrap_or(whole);
        Ok(world.render(what, split)?.clip.frames)
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

/// Pixels between the places that [`Moving::cut`] chooses from: a piece's latents are those of the whole picture.
const GRID: usize = gallop_model::video_ae::STRIDE;
/// Least change of a value from one frame to the next, of 255, of what counts as moving.
const MOVES: u8 = 25;

/// Whether a value that was `before` in the frame before counts as moving.
pub(crate) fn moves(before: u8, now: u8) -> bool {
    before.abs_diff(now) >= MOVES
}

/// The same piece of every frame, at a place drawn by chance.
pub fn cut(frames: &[Frame], crop: PixelSize, rng: &mut Pcg64) -> Vec<Frame> {
    let [right, down] = last_place(frames[0].size, crop);
    let at = [rng.random_range(0..=right), rng.random_range(0..=down)];
    Piece::new(frames[0].size, crop, at).of(frames)
}

/// A clip, and where in it things move.
pub struct Moving<'a> {
    frames: &'a [Frame],
    /// For every place between pixels, how many values move above and to the left of it: `[height + 1, width + 1]`.
    sums: Vec<u64>,
}

impl<'a> Moving<'a> {
    /// Looks at a clip that has at least one frame.
    pub fn of(frames: &'a [Frame]) -> Self {
        let PixelSize { width, height } = frames[0].size;
        let mut sums = vec![0; (height + 1) * (width + 1)];
        for pair in frames.windows(2) {
            let pixels = pair[0].rgb.chunks_exact(3).zip(pair[1].rgb.chunks_exact(3));
            for (i, (before, now)) in pixels.enumerate() {
                let count = before
                    .iter()
                    .zip(now)
                    .filter(|(b, n)| moves(**b, **n))
                    .count();
                sums[(i / width + 1) * (width + 1) + i % width + 1] += count as u64;
            }
        }
        for y in 1..=height {
            let (above, row) = sums[(y - 1) * (width + 1)..].split_at_mut(width + 1);
            let mut left = 0;
            for (sum, above) in row.iter_mut().zip(above) {
                left += *sum;
                *sum = left + *above;
            }
        }
        Self { frames, sums }
    }

    /// [`cut`] at a place on the latents' grid, the sooner the more moves there: most of a picture stands still, and what
    /// does is learned from few of its pieces.
    ///
    /// # Errors
    /// If there is no place, which there always is.
    pub fn cut(&self, crop: PixelSize, rng: &mut Pcg64) -> Result<Vec<Frame>> {
        let whole = self.frames[0].size;
        let [right, down] = last_place(whole, crop);
        let rows = (0..=down).step_by(GRID);
        let places: Vec<(Piece, f64)> = rows
            .flat_map(|y| (0..=right).step_by(GRID).map(move |x| [x, y]))
            .map(|at| {
                let piece = Piece::new(whole, crop, at);
                (piece, self.within(&piece) as f64 + 1.0)
            })
            .collect();
        let (piece, _) = choose_by(&places, |(_, moves)| *moves, rng)?;
        Ok(piece.of(self.frames))
    }

    /// How many values of a piece move.
    fn within(&self, piece: &Piece) -> u64 {
        let Piece { at: [x, y], size } = *piece;
        let sum = |x: usize, y: usize| self.sums[y * (self.frames[0].size.width + 1) + x];
        let (right, below) = (x + size.width, y + size.height);
        sum(right, below) + sum(x, y) - sum(right, y) - sum(x, below)
    }
}

/// The last place to the right and down where a piece begins.
fn last_place(whole: PixelSize, crop: PixelSize) -> [usize; 2] {
    [
        whole.width.saturating_sub(crop.width),
        whole.height.saturating_sub(crop.height),
    ]
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

    /// It alone.
    fn of(&self, frames: &[Frame]) -> Vec<Frame> {
        let Self { at: [x, y], size } = *self;
        let piece = |frame: &Frame| {
            let mut rgb = Vec::with_capacity(size.width * size.height * 3);
            for y in y..y + size.height {
                let at = (y * frame.size.width + x) * 3;
                rgb.extend_from_slice(&frame.rgb[at..at + size.width * 3]);
            }
            Frame { size, rgb }
        };
        frames.iter().map(piece).collect()
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
        let moving = seen(&|rng| Moving::of(&frames).cut(crop, rng))?;
        assert!(
            moving > 3 * anywhere,
            "{moving} of 100, {anywhere} anywhere"
        );
        Ok(())
    }

    #[test]
    fn what_moves_in_a_piece_is_what_is_counted_there() {
        let size = PixelSize::new(13, 9);
        let mut rng = Pcg64::seed_from_u64(6);
        let frames: Vec<Frame> = (0..4)
            .map(|_| Frame {
                size,
                rgb: (0..13 * 9 * 3).map(|_| rng.random_range(0..60)).collect(),
            })
            .collect();
        let moving = Moving::of(&frames);
        for (at, crop) in [([0, 0], [13, 9]), ([3, 2], [7, 5]), ([12, 8], [1, 1])] {
            let piece = Piece::new(size, PixelSize::new(crop[0], crop[1]), at);
            let alone = piece.of(&frames);
            let pairs = alone.windows(2);
            let values = pairs.flat_map(|pair| pair[0].rgb.iter().zip(&pair[1].rgb));
            let counted = values
                .filter(|(before, now)| moves(**before, **now))
                .count();
            assert_eq!(moving.within(&piece), counted as u64, "{at:?} {crop:?}");
        }
    }
}
