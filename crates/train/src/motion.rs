//! Where a clip moves, so that learning can look there.
//!
//! A mouth that speaks or a ball that falls is a few tokens of a thousand, and a wall that stands still has
//! the rest: with all alike, what keeps step with the sound has hardly a say.

use candle_core::{D, Result, Tensor};

/// The most that a place moves, in units of the clip's mean.
const MOST: f64 = 8.0;
/// Mean squared change that counts as standing still: latents have a variance of about 1.
const STILL: f64 = 0.01;

/// How much each place of latents `[F, H, W, C]` changes to or from its neighbours in time, `[F, H, W, 1]`:
/// mean about 1 over the clip, [`MOST`] at the most.
///
/// The first latent frame, coded alone, is compared with none and counts 1.
pub(crate) fn motion(latents: &Tensor) -> Result<Tensor> {
    let frames = latents.dim(0)?;
    let first = latents
        .narrow(0, 0, 1)?
        .narrow(D::Minus1, 0, 1)?
        .ones_like()?;
    if frames < 3 {
        return Tensor::cat(&vec![first; frames], 0);
    }
    let pairs = frames - 2;
    let change = (latents.narrow(0, 2, pairs)? - latents.narrow(0, 1, pairs)?)?
        .sqr()?
        .mean_keepdim(D::Minus1)?;
    let before = Tensor::cat(&[&change.narrow(0, 0, 1)?, &change], 0)?;
    let after = Tensor::cat(&[&change, &change.narrow(0, pairs - 1, 1)?], 0)?;
    let most = before.maximum(&after)?;
    let scale = 1.0 / (most.mean_all()?.to_scalar::<f32>()? as f64 + STILL);
    Tensor::cat(&[first, most.affine(scale, 0.0)?.minimum(MOST)?], 0)
}

/// What places count whose motion is `motion`, at the noise level of each frame: `1 + strength * (1 - sigma)^6 * motion`.
///
/// Only where it is known already what moves where. As long as it is not, the network's answer is a mean over
/// all that may be, and to weigh clips by where things happen to be draws them everywhere: a falling ball is
/// seen above and below at once. Of foal's clips that is decided between the levels 0.75 and 0.45
/// (docs/log.md, 2026-11-26), and channels that have levels of their own are mostly noisier than `sigma`.
pub(crate) fn moving(motion: &Tensor, strength: f64, sigmas: &[f64]) -> Result<Tensor> {
    let known = (sigmas.iter()).map(|sigma| (strength * (1.0 - sigma).powi(6)) as f32);
    let known = Tensor::from_iter(known, motion.device())?.reshape((sigmas.len(), 1, 1, 1))?;
    motion.broadcast_mul(&known)?.affine(1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, IndexOp};

    #[test]
    fn what_moves_counts_and_what_stands_does_not() -> Result<()> {
        // Five frames of two places; the second changes between frames 2 and 3. The first frame differs
        // everywhere, as frames coded alone do.
        let rows = [[9f32, 9.0], [1.0, 1.0], [1.0, 1.0], [1.0, 3.0], [1.0, 3.0]];
        let latents = Tensor::new(&rows, &Device::Cpu)?.reshape((5, 1, 2, 1))?;
        let found = motion(&latents)?;
        assert_eq!(found.dims(), [5, 1, 2, 1]);
        let place = |w| found.i((.., 0, w, 0))?.to_vec1::<f32>();
        assert_eq!(place(0)?, [1.0, 0.0, 0.0, 0.0, 0.0]);
        // Mean of (0, 4, 4, 0) and four zeros: 1.
        let moved = place(1)?;
        assert_eq!((moved[0], moved[1], moved[4]), (1.0, 0.0, 0.0));
        assert!((moved[2] - 4.0 / 1.01).abs() < 1e-5 && moved[2] == moved[3]);
        let counted = moving(&found, 2.0, &[0.75, 0.75, 0.25, 0.75, 0.75])?
            .i((2, 0, .., 0))?
            .to_vec1::<f32>()?;
        let known = 1.0 + 2.0 * 0.75f32.powi(6) * 4.0 / 1.01;
        assert!((counted[0] - 1.0).abs() < 1e-6 && (counted[1] - known).abs() < 1e-4);
        let unknown = moving(&found, 2.0, &[0.25, 0.25, 0.75, 0.25, 0.25])?
            .i((2, 0, 1, 0))?
            .to_scalar::<f32>()?;
        assert!(unknown < 1.01);
        Ok(())
    }

    #[test]
    fn pictures_count_alike() -> Result<()> {
        let found = motion(&Tensor::zeros(
            (1, 2, 2, 3),
            candle_core::DType::F32,
            &Device::Cpu,
        )?)?;
        assert_eq!(found.flatten_all()?.to_vec1::<f32>()?, [1.0; 4]);
        Ok(())
    }
}
