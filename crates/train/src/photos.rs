//! Clips from photographs: a still picture that a slow camera moves over.
//!
//! People give an autoencoder their own pictures, which look like nothing in the world; photographs
//! have the textures and the noise that rendered clips lack.

use std::path::Path;

use gallop_core::{Frame, PixelSize};
use gallop_media::{fit_image, read_image};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::data::files_in;
use crate::error::Result;

/// Photographs are kept at most this wide.
const WIDEST: usize = 1280;
/// Pixels of the picture that one pixel of a clip covers, at least and at most.
const SCALES: [f64; 2] = [0.8, 3.0];
/// Most that the camera moves in a frame, in pixels of the clip, and closes in, as a share.
const PAN: f64 = 3.0;
const ZOOM: f64 = 0.01;
/// Ends of names that are taken for pictures.
const ENDS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "gif", "bmp"];

/// Photographs of a folder, each with its halves, quarters and so on.
pub(crate) struct Photos(Vec<Vec<Frame>>);

/// Where the camera is: centre in shares of the picture, pixels of the picture a pixel of the clip.
#[derive(Clone, Copy)]
struct Camera {
    centre: [f64; 2],
    scale: f64,
}

impl Photos {
    /// Reads all pictures of a folder, in the order of their names.
    ///
    /// # Errors
    /// If the folder or a picture cannot be read, or there is none.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let paths = files_in(folder, &ENDS, ("picture", "tools/photographs"))?;
        let pictures = paths.iter().map(|path| Ok(pyramid(read_image(path)?)));
        Ok(Self(pictures.collect::<Result<_>>()?))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A clip over a photograph drawn by chance.
    pub(crate) fn clip(&self, size: PixelSize, frames: usize, rng: &mut Pcg64) -> Vec<Frame> {
        let which = rng.random_range(0..self.0.len());
        self.clip_of(which, size, frames, rng)
    }

    /// A clip over the photograph `which`.
    pub(crate) fn clip_of(
        &self,
        which: usize,
        size: PixelSize,
        frames: usize,
        rng: &mut Pcg64,
    ) -> Vec<Frame> {
        let picture = &self.0[which % self.0.len()];
        let whole = picture[0].size;
        let across = whole.width as f64 / size.width as f64;
        let down = whole.height as f64 / size.height as f64;
        let most = across.min(down).min(SCALES[1]);
        let least = SCALES[0].min(most);
        let scale = least * (most / least).powf(rng.random());
        let mut even = |half: f64| (rng.random::<f64>() * 2.0 - 1.0) * half;
        let zoom = even(ZOOM);
        let speed = [even(PAN), even(PAN)];
        let start = [even(0.5) + 0.5, even(0.5) + 0.5];
        (0..frames)
            .map(|t| {
                let t = t as f64;
                let scale = (scale * (zoom * t).exp()).min(most);
                let centre = [0, 1].map(|axis| {
                    let (length, shown) = match axis {
                        0 => (whole.width as f64, size.width as f64),
                        _ => (whole.height as f64, size.height as f64),
                    };
                    let margin = (0.5 * shown * scale / length).min(0.5);
                    let at = start[axis] * (1.0 - 2.0 * margin) + margin;
                    (at + speed[axis] * scale * t / length).clamp(margin, 1.0 - margin)
                });
                look(picture, size, Camera { centre, scale })
            })
            .collect()
    }
}

/// The picture, at most [`WIDEST`] wide, and its halves.
fn pyramid(frame: Frame) -> Vec<Frame> {
    let PixelSize { width, height } = frame.size;
    let first = if width > WIDEST {
        fit_image(
            &frame,
            PixelSize::new(WIDEST, (height * WIDEST / width).max(1)),
        )
    } else {
        frame
    };
    let mut levels = vec![first];
    loop {
        let last = levels.last().expect("it begins with one");
        let half = PixelSize::new(last.size.width / 2, last.size.height / 2);
        if half.width < 16 || half.height < 16 {
            return levels;
        }
        levels.push(fit_image(last, half));
    }
}

/// What a camera sees: bilinear, from the level whose pixels are nearest to the clip's in size.
fn look(levels: &[Frame], size: PixelSize, camera: Camera) -> Frame {
    let level = camera.scale.log2().round().max(0.0) as usize;
    let level = &levels[level.min(levels.len() - 1)];
    let (width, height) = (level.size.width, level.size.height);
    let step = camera.scale * width as f64 / levels[0].size.width as f64;
    let left = camera.centre[0] * width as f64 - 0.5 * step * size.width as f64;
    let top = camera.centre[1] * height as f64 - 0.5 * step * size.height as f64;
    let mut rgb = Vec::with_capacity(size.width * size.height * 3);
    for y in 0..size.height {
        let (y0, y1, fy) = between(top + (y as f64 + 0.5) * step - 0.5, height);
        for x in 0..size.width {
            let (x0, x1, fx) = between(left + (x as f64 + 0.5) * step - 0.5, width);
            for c in 0..3 {
                let at = |x: usize, y: usize| f64::from(level.rgb[(y * width + x) * 3 + c]);
                let upper = at(x0, y0) + (at(x1, y0) - at(x0, y0)) * fx;
                let lower = at(x0, y1) + (at(x1, y1) - at(x0, y1)) * fx;
                rgb.push((upper + (lower - upper) * fy).round() as u8);
            }
        }
    }
    Frame { size, rgb }
}

/// The two pixels beside a place, and how far it is from the first to the second.
fn between(at: f64, count: usize) -> (usize, usize, f64) {
    let at = at.clamp(0.0, (count - 1) as f64);
    let first = at.floor() as usize;
    (first, (first + 1).min(count - 1), at - first as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// A picture whose red says how far right and whose green says how far down a pixel is.
    fn ramp(width: usize, height: usize) -> Frame {
        let pixel = |i: usize| {
            let (x, y) = (i % width, i / width);
            [
                (x * 255 / (width - 1)) as u8,
                (y * 255 / (height - 1)) as u8,
                7,
            ]
        };
        Frame {
            size: PixelSize::new(width, height),
            rgb: (0..width * height).flat_map(pixel).collect(),
        }
    }

    #[test]
    fn a_camera_in_the_middle_sees_the_middle() {
        let levels = pyramid(ramp(256, 128));
        for scale in [1.0, 1.7, 2.0] {
            let camera = Camera {
                centre: [0.5, 0.5],
                scale,
            };
            let seen = look(&levels, PixelSize::new(33, 33), camera);
            let middle = (16 * 33 + 16) * 3;
            assert!(seen.rgb[middle].abs_diff(127) <= 2, "{}", seen.rgb[middle]);
            assert!(seen.rgb[middle + 1].abs_diff(127) <= 3);
            // The red of neighbours differs by what a pixel covers.
            let across = f64::from(seen.rgb[32 * 3]) - f64::from(seen.rgb[0]);
            assert!((across - 32.0 * scale).abs() < 4.0, "{across}");
        }
    }

    #[test]
    fn clips_stay_within_the_picture_and_move_slowly() {
        let photos = Photos(vec![pyramid(ramp(640, 400)), pyramid(ramp(50, 300))]);
        let mut rng = Pcg64::seed_from_u64(4);
        for size in [PixelSize::new(128, 128), PixelSize::new(64, 48)] {
            for _ in 0..20 {
                let clip = photos.clip(size, 9, &mut rng);
                assert_eq!(clip.len(), 9);
                for pair in clip.windows(2) {
                    assert_eq!(pair[0].rgb.len(), size.width * size.height * 3);
                    let middle = (size.height / 2 * size.width + size.width / 2) * 3;
                    let moved = pair[0].rgb[middle].abs_diff(pair[1].rgb[middle]);
                    assert!(moved < 48, "{moved}");
                }
            }
        }
    }

    #[test]
    fn an_empty_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Photos::read(folder.path()).err().unwrap().to_string();
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
    }
}
