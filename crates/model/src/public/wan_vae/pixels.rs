//! The parts of the VAE without weights: patches, and the shortcuts that average or repeat.

use candle_core::{DType, Tensor};

use crate::public::error::Result;

/// Pixels of one patch, in each direction.
pub(in crate::public) const PATCH: usize = 2;

/// Pictures `[T, H, W, C]` to patches `[1, T, H/2, W/2, C*4]`, channels in the order (C, x, y).
pub(super) fn patchify(pictures: &Tensor) -> Result<Tensor> {
    let (t, h, w, c) = pictures.dims4()?;
    let split = pictures.reshape(vec![t, h / PATCH, PATCH, w / PATCH, PATCH, c])?;
    let patches = split.permute(vec![0, 1, 3, 5, 4, 2])?;
    Ok(patches.reshape((1, t, h / PATCH, w / PATCH, c * PATCH * PATCH))?)
}

/// Patches `[1, T, H, W, C*4]` to pictures `[T, 2H, 2W, C]`: the inverse of [`patchify`].
pub(in crate::public) fn unpatchify(patches: &Tensor) -> Result<Tensor> {
    let (_, t, h, w, c) = patches.dims5()?;
    let c = c / (PATCH * PATCH);
    let split = patches.reshape(vec![t, h, w, c, PATCH, PATCH])?;
    let pictures = split.permute(vec![0, 1, 5, 2, 4, 3])?;
    Ok(pictures.reshape((t, h * PATCH, w * PATCH, c))?)
}

/// How much a stage's shortcut changes time, height and width, and its channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortcut {
    pub(super) time: usize,
    pub(super) space: usize,
    pub(super) out_channels: usize,
}

impl Shortcut {
    /// `x` `[1, T, H, W, C]` to `[1, T/time, H/space, W/space, out]`: each block of pixels becomes
    /// channels, and neighbouring channels are averaged. Missing frames count as zeros in front.
    pub(super) fn average(&self, x: &Tensor) -> Result<Tensor> {
        let (_, t, h, w, c) = x.dims5()?;
        let (time, space) = (self.time, self.space);
        if time * space == 1 && c == self.out_channels {
            return Ok(x.clone());
        }
        let x = match t % time {
            0 => x.clone(),
            rest => Tensor::cat(
                &[
                    &Tensor::zeros((1, time - rest, h, w, c), DType::F32, x.device())?,
                    x,
                ],
                1,
            )?,
        };
        let t = t.div_ceil(time);
        let (h, w) = (h / space, w / space);
        let split = x.reshape(vec![t, time, h, space, w, space, c])?;
        let blocks = split.permute(vec![0, 2, 4, 6, 1, 3, 5])?;
        let group = c * time * space * space / self.out_channels;
        let groups = blocks.reshape((1, t, h, w, self.out_channels, group))?;
        Ok(groups.mean(5)?)
    }

    /// `x` `[1, T, H, W, C]` to `[1, T*time, H*space, W*space, out]`: channels are repeated, and
    /// spread over the new pixels. A clip's first frame stays one frame: the earlier ones go.
    pub(super) fn repeat(&self, x: &Tensor, first: bool) -> Result<Tensor> {
        let (_, t, h, w, c) = x.dims5()?;
        let (time, space, out) = (self.time, self.space, self.out_channels);
        let repeats = out * time * space * space / c;
        let wide = x.unsqueeze(5)?.expand((1, t, h, w, c, repeats))?;
        let split = wide.reshape(vec![t, h, w, out, time, space, space])?;
        let spread = split.permute(vec![0, 4, 1, 5, 2, 6, 3])?;
        let y = spread.reshape((1, t * time, h * space, w * space, out))?;
        let skip = if first { time - 1 } else { 0 };
        Ok(y.narrow(1, skip, t * time - skip)?)
    }
}
