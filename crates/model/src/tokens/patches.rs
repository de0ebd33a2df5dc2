//! Latents <-> tokens.

use candle_core::{Result, Tensor};

/// The order of the numbers in a video token; input and output of the public weights differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOrder {
    /// (C, pT, pH, pW).
    Input,
    /// (pT, pH, pW, C).
    Output,
}

/// Cuts latents [F, H, W, C] into tokens [F/pT * H/pH * W/pW, C * pT * pH * pW].
///
/// # Errors
/// When a size is not a multiple of the patch.
pub fn patchify(latents: &Tensor, patch: [usize; 3], order: PatchOrder) -> Result<Tensor> {
    let (f, h, w, c) = latents.dims4()?;
    let [pt, ph, pw] = patch;
    if f * h * w == 0 {
        return latents.reshape((0, c * pt * ph * pw));
    }
    if patch == [1, 1, 1] {
        return latents.reshape((f * h * w, c));
    }
    // [F, pT, H, pH, W, pW, C]
    let cut = latents.reshape(vec![f / pt, pt, h / ph, ph, w / pw, pw, c])?;
    let cut = match order {
        PatchOrder::Input => cut.permute([0, 2, 4, 6, 1, 3, 5].as_slice())?,
        PatchOrder::Output => cut.permute([0, 2, 4, 1, 3, 5, 6].as_slice())?,
    };
    cut.reshape((f * h * w / (pt * ph * pw), c * pt * ph * pw))
}

/// Puts tokens of a `grid` of F, H, W tokens back into latents [F * pT, H * pH, W * pW, C].
///
/// # Errors
/// When there are not as many numbers as the grid needs.
pub fn unpatchify(
    tokens: &Tensor,
    grid: [usize; 3],
    patch: [usize; 3],
    order: PatchOrder,
) -> Result<Tensor> {
    let [f, h, w] = grid;
    let [pt, ph, pw] = patch;
    let c = tokens.dim(1)? / (pt * ph * pw);
    let size = (f * pt, h * ph, w * pw, c);
    if patch == [1, 1, 1] {
        return tokens.reshape(size);
    }
    let cut = match order {
        PatchOrder::Input => tokens
            .reshape(vec![f, h, w, c, pt, ph, pw])?
            .permute([0, 4, 1, 5, 2, 6, 3].as_slice())?,
        PatchOrder::Output => tokens
            .reshape(vec![f, h, w, pt, ph, pw, c])?
            .permute([0, 3, 1, 4, 2, 5, 6].as_slice())?,
    };
    cut.reshape(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn both_orders_come_back() -> Result<()> {
        let n = 4 * 6 * 4 * 3;
        let x = Tensor::arange(0.0_f32, n as f32, &Device::Cpu)?.reshape((4, 6, 4, 3))?;
        for patch in [[1, 1, 1], [1, 2, 2], [2, 3, 1]] {
            for order in [PatchOrder::Input, PatchOrder::Output] {
                let tokens = patchify(&x, patch, order)?;
                let grid = [4 / patch[0], 6 / patch[1], 4 / patch[2]];
                assert_eq!(tokens.dim(0)?, grid.iter().product::<usize>());
                let back = unpatchify(&tokens, grid, patch, order)?;
                assert_eq!((back - &x)?.abs()?.sum_all()?.to_scalar::<f32>()?, 0.0);
            }
        }
        Ok(())
    }

    #[test]
    fn orders_are_as_named() -> Result<()> {
        // Two channels, one patch of 1x2x2: the values say channel * 10 + place.
        let x = Tensor::new(
            &[0.0_f32, 10.0, 1.0, 11.0, 2.0, 12.0, 3.0, 13.0],
            &Device::Cpu,
        )?;
        let x = x.reshape((1, 2, 2, 2))?;
        let row = |order| patchify(&x, [1, 2, 2], order)?.get(0)?.to_vec1::<f32>();
        assert_eq!(
            row(PatchOrder::Input)?,
            [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]
        );
        assert_eq!(
            row(PatchOrder::Output)?,
            [0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 3.0, 13.0]
        );
        Ok(())
    }
}
