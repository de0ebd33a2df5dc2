//! Noise levels of their own for the parts of a clip.

use candle_core::{D, Result, Tensor};

use crate::shifted;

/// How the noise levels of a video's channels and frames and of its sound follow the schedule's.
///
/// A sampler's state has a part for each level: of a video the bands of its channels, or the bands of its first frame,
/// of its second and so on, where frames have levels of their own; then its sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// The shift of each channel of the video latents; empty if they have the schedule's own level.
    pub video: Vec<f64>,
    /// How far each latent frame is ahead of the next, in log-SNR; 0 if all have one level. The middle of the clip has
    /// the schedule's. What comes early is then settled while what follows from it is still noise, as in Rolling
    /// Diffusion (arXiv 2402.09470) and Diffusion Forcing (arXiv 2407.01392).
    pub lead: f64,
    /// The shift of the sound against the last frame: above 1 the picture is ahead.
    pub audio: f64,
}

impl Levels {
    /// How many levels a frame has.
    fn bands(&self) -> usize {
        self.video.len().max(1)
    }

    /// How many parts of a state a video of `frames` latent frames is.
    pub fn parts(&self, frames: usize) -> usize {
        match self.lead == 0.0 {
            true => self.bands(),
            false => self.bands() * frames,
        }
    }

    /// The parts of a video `[F, ..., C]`.
    ///
    /// # Errors
    /// If there are not as many channels as shifts.
    pub fn split(&self, video: &Tensor) -> Result<Vec<Tensor>> {
        if !self.video.is_empty() && video.dim(D::Minus1)? != self.video.len() {
            candle_core::bail!(
                "{} noise levels for channels of {video:?}",
                self.video.len()
            );
        }
        let frames = match self.lead == 0.0 {
            true => vec![video.clone()],
            false => video.chunk(video.dim(0)?, 0)?,
        };
        let bands = frames.iter().map(|x| x.chunk(self.bands(), D::Minus1));
        Ok(bands.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The video that [`Levels::split`] took apart.
    ///
    /// # Errors
    /// If tensors fail.
    pub fn join(&self, parts: &[Tensor]) -> Result<Tensor> {
        let frames = parts.chunks(self.bands());
        let frames = frames.map(|bands| Tensor::cat(bands, D::Minus1));
        Tensor::cat(&frames.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The shift of each frame of a video: 1 in its middle, less before it.
    pub fn frames(&self, frames: usize) -> Vec<f64> {
        let middle = frames.saturating_sub(1) as f64 / 2.0;
        let shift = |frame: usize| (self.lead * (frame as f64 - middle)).exp();
        (0..frames).map(shift).collect()
    }

    /// The shift of each part of a video.
    pub fn shifts(&self, frames: usize) -> Vec<f64> {
        let bands = match self.video.as_slice() {
            [] => &[1.0],
            shifts => shifts,
        };
        if self.lead == 0.0 {
            return bands.to_vec();
        }
        let frames = self.frames(frames).into_iter();
        frames
            .flat_map(|frame| bands.iter().map(move |band| frame * band))
            .collect()
    }

    /// The shift of the sound of a video: it follows the last frame.
    pub fn sound(&self, frames: usize) -> f64 {
        self.audio * self.frames(frames).last().copied().unwrap_or(1.0)
    }

    /// The levels of the parts of a video when the schedule is at `sigma`, as numbers to multiply it with:
    /// `[F or 1, 1, ..., C or 1]`.
    ///
    /// # Errors
    /// If tensors fail.
    pub fn of(&self, video: &Tensor, sigma: f64) -> Result<Tensor> {
        let shifts = self.shifts(video.dim(0)?);
        let mut shape = vec![1; video.rank()];
        shape[0] = shifts.len() / self.bands();
        shape[video.rank() - 1] = self.bands();
        let levels = shifts.into_iter().map(|shift| shifted(sigma, shift));
        Tensor::from_iter(levels, video.device())?
            .reshape(shape)?
            .to_dtype(video.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn levels(video: &[f64], lead: f64) -> Levels {
        Levels {
            video: video.to_vec(),
            lead,
            audio: 3.0,
        }
    }

    #[test]
    fn parts_join_to_what_they_were_split_from() -> Result<()> {
        let video = Tensor::arange(0.0, 24.0, &Device::Cpu)?.reshape((2, 2, 2, 3))?;
        for (lead, parts) in [(0.0, 1), (0.5, 2)] {
            for (shifts, bands) in [(&[][..], 1), (&[1.0, 2.0, 4.0][..], 3)] {
                let levels = levels(shifts, lead);
                let split = levels.split(&video)?;
                assert_eq!(split.len(), parts * bands);
                assert_eq!([levels.parts(2), levels.shifts(2).len()], [split.len(); 2]);
                let error = (levels.join(&split)? - &video)?.abs()?.sum_all()?;
                assert_eq!(error.to_scalar::<f64>()?, 0.0);
            }
        }
        let four = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu)?;
        assert!(levels(&[1.0; 3], 0.0).split(&four).is_err());
        Ok(())
    }

    #[test]
    fn the_schedule_is_what_the_middle_and_the_first_channel_have() -> Result<()> {
        let together = levels(&[], 0.0);
        assert_eq!((together.shifts(5), together.sound(5)), (vec![1.0], 3.0));
        let apart = levels(&[1.0, 3.0], 0.7);
        let shifts = apart.shifts(3);
        assert_eq!([shifts[2], shifts[3]], [1.0, 3.0]);
        let log_snr = |sigma: f64| ((1.0 - sigma) / sigma).ln();
        let video = Tensor::zeros((3, 2, 4, 2), candle_core::DType::F64, &Device::Cpu)?;
        let of = apart.of(&video, 0.5)?;
        assert_eq!(of.dims(), [3, 1, 1, 2]);
        let of = of.flatten_all()?.to_vec1::<f64>()?;
        let ahead = log_snr(of[0]) - log_snr(of[2]);
        assert!((ahead - 0.7).abs() < 1e-12, "{ahead}");
        assert_eq!(of[3], 0.75);
        assert!((apart.sound(3) - 3.0 * 0.7f64.exp()).abs() < 1e-12);
        assert_eq!(together.of(&video, 0.3)?.dims(), [1, 1, 1, 1]);
        Ok(())
    }
}
