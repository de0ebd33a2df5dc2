//! Residual blocks of the video autoencoder, and what they carry over time.

use candle_core::Tensor;
use gallop_kernels::Precision;

use crate::ae_layers::{Conv, ConvShape, Norm, zero_steps};
use crate::{Result, Weights};

/// Groups a causal convolution sees: its own and the two before.
const TIME_TAPS: usize = 3;

/// The last inputs of every causal convolution: what the past is to the next chunk.
pub struct Carry {
    slots: Vec<Option<Tensor>>,
}

impl Carry {
    /// Before the first chunk.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: vec![None; slots],
        }
    }

    /// Puts the past before `x: [B, T, ..]` and remembers its last `n` steps.
    fn extend(&mut self, slot: usize, x: &Tensor, n: usize) -> Result<Tensor> {
        let past = match self.slots[slot].take() {
            Some(past) => past,
            None => zero_steps(x, n)?,
        };
        let whole = Tensor::cat(&[&past, x], 1)?;
        self.slots[slot] = Some(whole.narrow(1, whole.dim(1)? - n, n)?.contiguous()?);
        Ok(whole)
    }
}

/// Residual blocks at one stride.
pub(crate) struct Stage {
    blocks: Vec<Block>,
}

impl Stage {
    /// With `slots`, the number of causal convolutions made so far, every second block mixes over
    /// time.
    pub(crate) fn new(
        weights: &Weights,
        [width, blocks]: [usize; 2],
        mut slots: Option<&mut usize>,
    ) -> Result<Self> {
        let blocks = (0..blocks)
            .map(|i| {
                let slots = slots.as_deref_mut().filter(|_| i % 2 == 1);
                let slot = slots.map(|slots| {
                    *slots += 1;
                    *slots - 1
                });
                Block::new(&weights.at(i), width, slot)
            })
            .collect::<Result<_>>()?;
        Ok(Self { blocks })
    }

    /// `[B, T, H, W, C]` to the same.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        mut carry: Option<&mut Carry>,
        precision: Precision,
    ) -> Result<Tensor> {
        for block in &self.blocks {
            x = block.forward(&x, carry.as_deref_mut(), precision)?;
        }
        Ok(x)
    }
}

/// x + second(silu(first(norm(x)))); `second` is spatial, or causal in time where it has a slot.
struct Block {
    norm: Norm,
    first: Conv,
    second: Conv,
    slot: Option<usize>,
}

impl Block {
    fn new(weights: &Weights, width: usize, slot: Option<usize>) -> Result<Self> {
        let spatial = ConvShape {
            channels: [width, width],
            taps: &[3, 3],
            groups: 1,
            gain: 1.4,
        };
        let second = ConvShape {
            taps: if slot.is_some() {
                &[TIME_TAPS, 1, 1]
            } else {
                &[3, 3]
            },
            gain: 0.2,
            ..spatial
        };
        let norm = Norm::new(&weights.at("norm"), width)?;
        let first = Conv::new(&weights.at("first"), spatial)?;
        let second = Conv::new(&weights.at("second"), second)?;
        Ok(Self {
            norm,
            first,
            second: if slot.is_some() {
                second.causal()
            } else {
                second
            },
            slot,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        carry: Option<&mut Carry>,
        precision: Precision,
    ) -> Result<Tensor> {
        let (b, t, h, w, c) = x.dims5()?;
        let y = self.norm.forward(x)?.reshape((b * t, h, w, c))?;
        let y = gallop_kernels::silu(&self.first.forward(&y, precision)?)?;
        let y = match self.slot {
            None => self.second.forward(&y, precision)?,
            Some(slot) => {
                let y = y.reshape((b, t, h, w, c))?;
                let past = self.second.first_taps() - 1;
                let y = match carry {
                    Some(carry) => carry.extend(slot, &y, past)?,
                    None => Tensor::cat(&[&zero_steps(&y, past)?, &y], 1)?,
                };
                self.second.forward(&y, precision)?
            }
        };
        Ok((x + y.reshape((b, t, h, w, c))?)?)
    }
}
