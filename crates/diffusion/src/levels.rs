//! Noise levels of their own for the parts of a clip.

use candle_core::{D, Result, Tensor};

use crate::shifted;

/// How the noise levels of a video's channels and of its sound follow the schedule's.
///
/// A sampler's state has a part for each level. Of several clips these are the bands of all videos, clip by clip, then the
/// sounds: `[band 0 of video 0, band 1 of video 0, ..., sound 0, sound 1, ...]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// The shift of each channel of the video latents; empty if they have the schedule's own level.
    pub video: Vec<f64>,
    /// The shift of the sound: above 1 the picture is ahead.
    pub audio: f64,
}

impl Levels {
    /// How many parts of a state one video is.
    pub fn bands(&self) -> usize {
        self.video.len().max(1)
    }

    /// The parts of videos `[..., C]`.
    ///
    /// # Errors
    /// If there are not as many channels as shifts.
    pub fn split(&self, videos: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut parts = Vec::with_capacity(videos.len() * self.bands());
        for video in videos {
            if !self.video.is_empty() && video.dim(D::Minus1)? != self.video.len() {
                candle_core::bail!(
                    "{} noise levels for channels of {video:?}",
                    self.video.len()
                );
            }
            parts.extend(video.chunk(self.bands(), D::Minus1)?);
        }
        Ok(parts)
    }

    /// The videos that [`Levels::split`] took apart.
    ///
    /// # Errors
    /// If tensors fail.
    pub fn join(&self, parts: &[Tensor]) -> Result<Vec<Tensor>> {
        let videos = parts.chunks(self.bands());
        videos.map(|parts| Tensor::cat(parts, D::Minus1)).collect()
    }

    /// The level of part `part` of the state of `clips` clips when the schedule is at `sigma`.
    pub fn of(&self, part: usize, clips: usize, sigma: f64) -> f64 {
        if part >= clips * self.bands() {
            return self.audio(sigma);
        }
        match self.video.as_slice() {
            [] => sigma,
            shifts => shifted(sigma, shifts[part % shifts.len()]),
        }
    }

    /// The levels of a video's bands when the schedule is at `sigma`.
    pub fn video(&self, sigma: f64) -> Vec<f64> {
        (0..self.bands())
            .map(|band| self.of(band, 1, sigma))
            .collect()
    }

    /// The level of the sound when the schedule is at `sigma`.
    pub fn audio(&self, sigma: f64) -> f64 {
        shifted(sigma, self.audio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn parts_join_to_what_they_were_split_from() -> Result<()> {
        let videos = [0.0, 1.0].map(|from| {
            Tensor::arange(from, from + 24.0, &Device::Cpu)
                .and_then(|x| x.reshape((2, 2, 2, 3)))
                .expect("numbers from nought")
        });
        for video in [vec![], vec![1.0, 2.0, 4.0]] {
            let levels = Levels { video, audio: 3.0 };
            let parts = levels.split(&videos)?;
            assert_eq!(parts.len(), 2 * levels.bands());
            for (joined, video) in levels.join(&parts)?.iter().zip(&videos) {
                let error = (joined - video)?.abs()?.sum_all()?.to_scalar::<f64>()?;
                assert_eq!(error, 0.0);
            }
        }
        let three = Levels {
            video: vec![1.0; 3],
            audio: 1.0,
        };
        let four = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu)?;
        assert!(three.split(&[four]).is_err());
        Ok(())
    }

    #[test]
    fn every_clip_has_the_same_levels() {
        let levels = Levels {
            video: vec![1.0, 3.0],
            audio: 4.0,
        };
        let state: Vec<f64> = (0..6).map(|part| levels.of(part, 2, 0.5)).collect();
        assert_eq!(state, [0.5, 0.75, 0.5, 0.75, 0.8, 0.8]);
        assert_eq!(levels.video(0.5), [0.5, 0.75]);
        assert_eq!(levels.audio(0.5), 0.8);
        let together = Levels {
            video: Vec::new(),
            audio: 1.0,
        };
        assert_eq!(together.video(0.3), [0.3]);
        assert_eq!(together.of(1, 1, 0.3), 0.3);
    }
}
