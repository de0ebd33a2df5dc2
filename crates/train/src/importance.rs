//! How much of the picture each channel of a latent makes.

use candle_core::{D, Tensor};
use gallop_core::PixelSize;
use gallop_model::video_ae::{STRIDE, VideoAe};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::error::Result;
use crate::video_ae::psnr;

/// Latent frames of a clip that are looked at.
const FRAMES: usize = 2;

/// Weights of the channels `[C]`, their mean 1: the mean squared change of pixels when a channel of
/// these latents, `[F, H, W, C]` each, changes by its standard deviation, to the power `exponent`.
///
/// Normalised latents give the finest texture as much to say as the colour of the sky; what cannot
/// be known beforehand then drowns what can.
///
/// # Errors
/// If there are no latents, or they are not this autoencoder's.
pub(crate) fn importance(
    ae: &VideoAe,
    clips: &[&Tensor],
    exponent: f64,
    rng: &mut Pcg64,
) -> Result<Tensor> {
    let channels = ae.config().latent_channels;
    let mut changes = vec![0f64; channels];
    for latents in clips.iter().filter(|_| exponent != 0.0) {
        let latents = latents.narrow(0, 0, latents.dim(0)?.min(FRAMES))?;
        let (frames, height, width, _) = latents.dims4()?;
        let size = PixelSize::new(width * STRIDE, height * STRIDE);
        let before = ae.decode(&latents, size)?;
        for (channel, change) in changes.iter_mut().enumerate() {
            let places = frames * height * width;
            let mut push = vec![0f32; places * channels];
            for place in push.chunks_exact_mut(channels) {
                place[channel] = if rng.random::<bool>() { 1.0 } else { -1.0 };
            }
            let push = Tensor::from_vec(push, latents.dims(), latents.device())?;
            let after = ae.decode(&(&latents + push)?, size)?;
            *change += 10f64.powf(-0.1 * psnr(&before, &after));
        }
    }
    let weights: Vec<f32> = (changes.iter())
        .map(|change| change.max(1e-9).powf(exponent) as f32)
        .collect();
    let weights = Tensor::new(weights, ae.device())?;
    Ok(weights.broadcast_div(&weights.mean_keepdim(D::Minus1)?)?)
}

/// Shifts of the noise levels of the channels, least where a channel makes most of the picture, which is 1 there: as if
/// each were as large as the change of the pixels that it makes to the power `spectrum`. None if that is 0.
///
/// # Errors
/// As [`importance`].
pub(crate) fn channel_shifts(
    ae: &VideoAe,
    clips: &[&Tensor],
    spectrum: f64,
    rng: &mut Pcg64,
) -> Result<Vec<f64>> {
    if spectrum == 0.0 {
        return Ok(Vec::new());
    }
    // The weights are of squares. A level shifted by 1 / a is that of a channel a times as large.
    let sizes = importance(ae, clips, 0.5 * spectrum, rng)?.to_vec1::<f32>()?;
    let largest = sizes.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    Ok((sizes.iter())
        .map(|size| f64::from(largest / size))
        .collect())
}
