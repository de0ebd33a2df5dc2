//! Classifier-free guidance.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::timestep;

/// How far one modality is pushed away from the unconditional velocity. 1 is no guidance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// At high noise, or everywhere where nothing below says otherwise.
    pub scale: f64,
    /// From this timestep (0 to 1000) down, this scale.
    #[serde(default)]
    pub late: Option<(i64, f64)>,
    /// The first so many entries of the time axis get at most this scale: guidance overexposes what
    /// follows a given picture.
    #[serde(default)]
    pub first_frames: Option<(usize, f64)>,
}

impl Scale {
    /// The same everywhere.
    pub fn constant(scale: f64) -> Self {
        Self {
            scale,
            late: None,
            first_frames: None,
        }
    }

    fn at(&self, sigma: f64) -> f64 {
        match self.late {
            Some((from, late)) if timestep(sigma) <= from => late,
            _ => self.scale,
        }
    }

    /// `uncond + scale * (cond - uncond)`; `time_dim` is the axis of [`Scale::first_frames`].
    fn apply(&self, cond: &Tensor, uncond: &Tensor, sigma: f64, time_dim: usize) -> Result<Tensor> {
        let scale = self.at(sigma);
        let difference = (cond - uncond)?;
        let Some((frames, most)) = self.first_frames else {
            return uncond + difference.affine(scale, 0.0)?;
        };
        let length = difference.dim(time_dim)?;
        let frames = frames.min(length);
        let head = difference.narrow(time_dim, 0, frames)?;
        let tail = difference.narrow(time_dim, frames, length - frames)?;
        let pushed = Tensor::cat(
            &[head.affine(scale.min(most), 0.0)?, tail.affine(scale, 0.0)?],
            time_dim,
        )?;
        uncond + pushed
    }
}

/// One [`Scale`] a modality, in the order of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guidance {
    /// The scales.
    pub scales: Vec<Scale>,
    /// The axis of time in every tensor of the state.
    #[serde(default)]
    pub time_dim: usize,
}

impl Guidance {
    /// The same scale for `modalities` modalities at every noise level.
    pub fn constant(scale: f64, modalities: usize) -> Self {
        Self {
            scales: vec![Scale::constant(scale); modalities],
            time_dim: 0,
        }
    }

    /// The base model of the public weights: video 5 above timestep 500 and 2 below, audio 5.
    pub fn public_base() -> Self {
        let video = Scale {
            late: Some((500, 2.0)),
            ..Scale::constant(5.0)
        };
        Self {
            scales: vec![video, Scale::constant(5.0)],
            time_dim: 0,
        }
    }

    /// Whether a step at `sigma` needs no unconditional velocity.
    pub fn is_off(&self, sigma: f64) -> bool {
        self.scales.iter().all(|scale| scale.at(sigma) == 1.0)
    }

    /// `uncond + scale * (cond - uncond)` a modality.
    ///
    /// # Errors
    /// When there are not as many velocities as scales, or shapes differ.
    pub fn apply(&self, cond: &[Tensor], uncond: &[Tensor], sigma: f64) -> Result<Vec<Tensor>> {
        if cond.len() != self.scales.len() || uncond.len() != self.scales.len() {
            candle_core::bail!(
                "guidance for {} modalities, velocities of {} and {}",
                self.scales.len(),
                cond.len(),
                uncond.len()
            );
        }
        let pairs = cond.iter().zip(uncond);
        self.scales
            .iter()
            .zip(pairs)
            .map(|(scale, (cond, uncond))| scale.apply(cond, uncond, sigma, self.time_dim))
            .collect()
    }
}

/// Above this noise level a picture shows nothing.
const SHOWS_NOTHING: f64 = 0.9;
/// Above this noise level a sound is moved by little of itself: a push there costs as much as below and is hardly felt.
const STILL_NOISE: f64 = 0.94;

/// Whether a push of the sound towards its picture does anything, at these noise levels of the two.
pub fn push_is_felt(picture: f64, sound: f64) -> bool {
    picture < SHOWS_NOTHING && sound < STILL_NOISE
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn pair() -> (Tensor, Tensor) {
        let cond = Tensor::new(&[1.0_f32, 2.0, 3.0], &Device::Cpu).unwrap();
        (cond.clone(), (cond * 0.5).unwrap())
    }

    #[test]
    fn scales_change_below_the_threshold() -> Result<()> {
        let (cond, uncond) = pair();
        let guidance = Guidance::public_base();
        let [c, u] = [[cond.clone(), cond], [uncond.clone(), uncond]];
        let first = |sigma| -> Result<Vec<f32>> {
            let out = guidance.apply(&c, &u, sigma)?;
            out.iter().map(|t| t.get(0)?.to_scalar()).collect()
        };
        assert_eq!(first(0.501)?, [3.0, 3.0]);
        assert_eq!(first(0.5009)?, [1.5, 3.0]);
        assert!(!guidance.is_off(0.9) && Guidance::constant(1.0, 2).is_off(0.9));
        Ok(())
    }

    #[test]
    fn the_first_frames_are_pushed_less() -> Result<()> {
        let (cond, uncond) = pair();
        let scale = Scale {
            first_frames: Some((2, 2.0)),
            ..Scale::constant(3.0)
        };
        let out = scale.apply(&cond, &uncond, 0.9, 0)?;
        assert_eq!(out.to_vec1::<f32>()?, [1.5, 3.0, 6.0]);
        Ok(())
    }
}
