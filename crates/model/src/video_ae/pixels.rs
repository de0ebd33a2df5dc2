//! Frames <-> the patches that the video autoencoder reads and writes.

use candle_core::{DType, Device, Tensor};
use gallop_core::{Frame, PixelSize};

use crate::{ModelError, Result};

/// Frames that share a latent.
pub const GROUP: usize = 4;
/// Pixels a side that share a latent.
pub const STRIDE: usize = 16;
/// Pixels a side of what the encoder reads as one position.
pub const PATCH_IN: usize = 8;
/// Pixels a side of what the decoder writes as one position.
pub const PATCH_OUT: usize = 4;

/// Columns and rows of latents that cover a picture.
pub fn latent_size(size: PixelSize) -> (usize, usize) {
    (size.width.div_ceil(STRIDE), size.height.div_ceil(STRIDE))
}

/// Frames to `[1, F, H8, W8, 4*8*8*3]` in [-1, 1], edges repeated up to a multiple of 16.
///
/// With `first` the first frame is a group of its own. The rest must be whole groups.
///
/// # Errors
/// If frames are left over, or their sizes differ.
pub fn frames_to_groups(frames: &[Frame], first: bool, device: &Device) -> Result<Tensor> {
    clips_to_groups(&[frames], first, device)
}

/// [`frames_to_groups`] of several clips alike, one after another in the first dimension.
///
/// # Errors
/// As there, or if the clips differ in length.
pub fn clips_to_groups(clips: &[&[Frame]], first: bool, device: &Device) -> Result<Tensor> {
    let lone = usize::from(first);
    let count = clips.first().map_or(0, |frames| frames.len());
    if count < lone || !(count - lone).is_multiple_of(GROUP) || count == 0 {
        let what = format!("{count} frames are not whole groups of {GROUP}");
        return Err(ModelError::Config(what));
    }
    let size = clips[0][0].size;
    if clips.iter().any(|frames| frames.len() != count) {
        let what = "clips that are encoded together differ in length";
        return Err(ModelError::Config(what.into()));
    }
    if clips
        .iter()
        .any(|frames| frames.iter().any(|frame| frame.size != size))
    {
        let what = "the frames of a clip differ in size";
        return Err(ModelError::Config(what.into()));
    }
    let (width, height) = latent_size(size);
    let (w8, h8) = (width * STRIDE / PATCH_IN, height * STRIDE / PATCH_IN);
    let groups = (count + lone * (GROUP - 1)) / GROUP;
    let patch = PATCH_IN * PATCH_IN * 3;
    // Bytes, a quarter of what floats would be, are what a GPU is sent.
    let mut out = vec![0u8; clips.len() * groups * h8 * w8 * GROUP * patch];
    let clip_bytes = groups * h8 * w8 * GROUP * patch;
    for (frames, out) in clips.iter().zip(out.chunks_exact_mut(clip_bytes)) {
        let mut order: Vec<&Frame> = Vec::with_capacity(groups * GROUP);
        if first {
            order.extend([&frames[0]; GROUP - 1]);
        }
        order.extend(*frames);
        for (row, cells) in out.chunks_exact_mut(w8 * GROUP * patch).enumerate() {
            let (group, y8) = (row / h8, row % h8);
            for (k, cell) in cells.chunks_exact_mut(patch).enumerate() {
                let frame = order[group * GROUP + k % GROUP];
                read_patch(frame, [k / GROUP * PATCH_IN, y8 * PATCH_IN], PATCH_IN, cell);
            }
        }
    }
    let shape = (clips.len(), groups, h8, w8, GROUP * patch);
    bytes_to_values(Tensor::from_vec(out, shape, device)?)
}

/// Bytes of colours to [-1, 1].
fn bytes_to_values(bytes: Tensor) -> Result<Tensor> {
    Ok(((bytes.to_dtype(DType::F32)? / 127.5)? - 1.0)?)
}

/// Frames of one size to `[T, H/side, W/side, side*side*3]` in [-1, 1], edges repeated up to a multiple of `side`.
///
/// # Errors
/// If there is no frame, or their sizes differ.
pub fn frames_to_patches(frames: &[Frame], side: usize, device: &Device) -> Result<Tensor> {
    let size = frames.first().map(|frame| frame.size);
    let Some(size) = size.filter(|size| frames.iter().all(|frame| frame.size == *size)) else {
        let what = "there are no frames, or they differ in size";
        return Err(ModelError::Config(what.into()));
    };
    let (across, down) = (size.width.div_ceil(side), size.height.div_ceil(side));
    let patch = side * side * 3;
    let mut out = vec![0u8; frames.len() * down * across * patch];
    for (frame, out) in frames
        .iter()
        .zip(out.chunks_exact_mut(down * across * patch))
    {
        for (k, cell) in out.chunks_exact_mut(patch).enumerate() {
            let at = [k % across * side, k / across * side];
            read_patch(frame, at, side, cell);
        }
    }
    let shape = (frames.len(), down, across, patch);
    bytes_to_values(Tensor::from_vec(out, shape, device)?)
}

/// Copies a patch of `side` pixels a side, repeating the picture's edges.
fn read_patch(frame: &Frame, [x0, y0]: [usize; 2], side: usize, out: &mut [u8]) {
    let PixelSize { width, height } = frame.size;
    for (dy, row) in out.chunks_exact_mut(side * 3).enumerate() {
        let y = (y0 + dy).min(height - 1);
        for (dx, rgb) in row.chunks_exact_mut(3).enumerate() {
            let i = (y * width + (x0 + dx).min(width - 1)) * 3;
            rgb.copy_from_slice(&frame.rgb[i..i + 3]);
        }
    }
}

/// What the encoder reads, `[B, F, H8, W8, 4*8*8*3]`, as the decoder should write it:
/// `[B, 4*F, H4, W4, 4*4*3]`.
///
/// # Errors
/// If the shape is another.
pub fn groups_to_patches(groups: &Tensor) -> Result<Tensor> {
    let (b, f, h, w, _) = groups.dims5()?;
    let halves = PATCH_IN / PATCH_OUT;
    let split = vec![b * f, h, w, GROUP, halves, PATCH_OUT, halves, PATCH_OUT * 3];
    let patch = PATCH_OUT * PATCH_OUT * 3;
    Ok(groups
        .reshape(split)?
        .permute(vec![0, 3, 1, 4, 2, 6, 5, 7])?
        .contiguous()?
        .reshape((b, f * GROUP, h * halves, w * halves, patch))?)
}

/// `[T, H/side, W/side, side*side*3]` to frames of `size`, without the first `skip`.
///
/// # Errors
/// If the patches are not square or do not cover the size.
pub fn patches_to_frames(patches: &Tensor, skip: usize, size: PixelSize) -> Result<Vec<Frame>> {
    let (t, down, across, patch) = patches.dims4()?;
    let side = (patch / 3).isqrt();
    if side * side * 3 != patch || size.width > across * side || size.height > down * side {
        let what = format!("{across}x{down} patches of {patch} numbers do not cover {size:?}");
        return Err(ModelError::Config(what));
    }
    let values = patches.flatten_all()?.to_vec1::<f32>()?;
    let frames = values.chunks_exact(down * across * patch).take(t);
    Ok(frames
        .skip(skip)
        .map(|values| {
            let mut frame = Frame::black(size);
            for (y, row) in frame.rgb.chunks_exact_mut(size.width * 3).enumerate() {
                let line = &values[y / side * across * patch..];
                for (x, rgb) in row.chunks_exact_mut(3).enumerate() {
                    let at = x / side * patch + (y % side * side + x % side) * 3;
                    for (byte, value) in rgb.iter_mut().zip(&line[at..at + 3]) {
                        *byte = ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
                    }
                }
            }
            frame
        })
        .collect())
}
