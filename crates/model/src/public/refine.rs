//! The entry into super-resolution: latents enlarged and made noisy again.

use candle_core::Tensor;

use super::error::Result;

/// The share of noise in the sound that the refining transformer is shown.
pub const AUDIO_NOISE: f64 = 0.7;

/// Latents `[C, F, h, w]` to `[C, F, height, width]`, linearly, corners on corners.
///
/// # Errors
/// When memory runs out.
pub fn enlarge(latents: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, h, w) = latents.dims4()?;
    let tall = along(latents, 2, &places(h, height))?;
    along(&tall, 3, &places(w, width))
}

/// Enlarged latents on their way back into noise: `signal * x + sqrt(1 - signal^2) * noise`.
///
/// # Errors
/// When the shapes differ.
pub fn renoise(latents: &Tensor, noise: &Tensor, signal: f64) -> Result<Tensor> {
    let noise = (noise * (1.0 - signal * signal).sqrt())?;
    Ok(((latents * signal)? + noise)?)
}

/// The sound that the refining transformer is shown; what it makes of it is dropped.
///
/// # Errors
/// When the shapes differ.
pub fn renoise_audio(latents: &Tensor, noise: &Tensor) -> Result<Tensor> {
    Ok(((noise * AUDIO_NOISE)? + (latents * (1.0 - AUDIO_NOISE))?)?)
}

/// For each output: the input at or before it, the one after, and how far it lies between them.
fn places(from: usize, to: usize) -> Vec<(u32, u32, f32)> {
    let scale = if to > 1 {
        (from - 1) as f32 / (to - 1) as f32
    } else {
        0.0
    };
    let place = |out: usize| {
        let at = out as f32 * scale;
        let before = (at as usize).min(from - 1);
        let after = (before + 1).min(from - 1);
        (before as u32, after as u32, at - before as f32)
    };
    (0..to).map(place).collect()
}

fn along(x: &Tensor, dim: usize, places: &[(u32, u32, f32)]) -> Result<Tensor> {
    let pick = |index: Vec<u32>| x.index_select(&Tensor::new(index, x.device())?, dim);
    let before = pick(places.iter().map(|p| p.0).collect())?;
    let after = pick(places.iter().map(|p| p.1).collect())?;
    let mut shape = vec![1; x.rank()];
    shape[dim] = places.len();
    let share: Vec<f32> = places.iter().map(|p| p.2).collect();
    let share = Tensor::from_vec(share, shape, x.device())?;
    let rest = (1.0 - &share)?;
    Ok((before.broadcast_mul(&rest)? + after.broadcast_mul(&share)?)?)
}
