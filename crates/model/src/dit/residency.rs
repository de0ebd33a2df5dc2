//! Which layers stay in memory and which are read anew in each step, within a number of bytes.

use std::fmt;

use super::DitConfig;
use super::block::{self, Block};
use super::matrix::{Form, Weight};
use crate::error::{ModelError, Result};
use crate::memory::{in_use, kernel_bytes, readable};
use crate::weights::Weights;

/// Bytes of an activation.
const F32: u64 = 4;
/// Bytes that a GPU's libraries hold beside tensors: the working memory of cuBLAS, lists of what attention sees.
const LIBRARIES: u64 = 256 << 20;

/// What a transformer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRequest {
    /// Bytes that the whole process may hold at any time, of the memory in which the weights will be: the machine's, or
    /// a GPU's; `None` for as many as there are.
    pub budget: Option<u64>,
    /// Bytes of these that others hold while the transformer runs.
    pub held: u64,
    /// Tokens of the longest sequence.
    pub tokens: usize,
    /// What is done to matrices when they are read.
    pub form: Form,
}

impl MemoryRequest {
    /// For sequences of so many tokens, in `budget` bytes of which the process already holds what it holds now;
    /// matrices as they are stored.
    pub fn new(budget: Option<u64>, tokens: usize) -> Self {
        Self {
            budget,
            held: in_use(),
            tokens,
            form: Form::Stored,
        }
    }

    /// The same where others hold so many bytes.
    pub fn holding(self, held: u64) -> Self {
        Self { held, ..self }
    }

    /// The same with another form of the matrices.
    pub fn with_form(self, form: Form) -> Self {
        Self { form, ..self }
    }
}

/// How a transformer is kept in memory: what stays, what is read anew, and what all of it weighs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    request: MemoryRequest,
    /// Bytes of each layer.
    layers: Vec<u64>,
    /// Whether each layer stays.
    stays: Vec<bool>,
    /// Bytes of embedders and heads.
    ends: u64,
    /// Bytes of activations and of what the kernels hold.
    activations: u64,
    /// Rows of the MLP's hidden activations that are there at a time.
    chunk: usize,
    /// Bytes of the layers on their way: the one in use and the one being read.
    moving: u64,
}

impl MemoryPlan {
    /// The plan in which most stays. The large layers stay first, since two layers on their way need room too; others
    /// are spread over the depth, so that there is time to read the next one.
    ///
    /// # Errors
    /// When a weight is missing or of a wrong shape, or even one layer at a time does not fit.
    pub fn new(config: &DitConfig, weights: &Weights, request: MemoryRequest) -> Result<Self> {
        config.check()?;
        let layers = (0..config.layers.len())
            .map(|i| Block::weight(config, i, weights, request.form))
            .collect::<Result<Vec<_>>>()?;
        let gpu = !weights.device().is_cpu();
        let (activations, chunk) = activations(config, request.tokens, gpu);
        let mut plan = Self {
            request,
            layers: layers.iter().map(|layer| layer.kept).collect(),
            stays: vec![true; layers.len()],
            ends: (config.parameters() - config.layers_parameters()) as u64 * F32,
            activations,
            chunk,
            moving: layers.iter().map(|layer| layer.making).max().unwrap_or(0),
        };
        if let Some(budget) = request.budget {
            let fixed = plan.request.held + plan.ends + plan.activations;
            if fixed + plan.resident_bytes() + plan.moving > budget {
                plan.choose(&layers, budget.saturating_sub(fixed))?;
            }
        }
        Ok(plan)
    }

    /// Chooses layers whose bytes, with those on their way, are at most `room`.
    fn choose(&mut self, layers: &[Weight], room: u64) -> Result<()> {
        let mut order: Vec<usize> = (0..layers.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(layers[i].kept), i));
        let mut best: Option<Vec<bool>> = None;
        let kept = |stays: &[bool]| -> u64 {
            let staying = layers.iter().zip(stays).filter(|(_, stays)| **stays);
            staying.map(|(layer, _)| layer.kept).sum()
        };
        for large in 0..order.len() {
            let mut stays = vec![false; layers.len()];
            order[..large].iter().for_each(|&i| stays[i] = true);
            if kept(&stays) + moving(layers, &stays) > room {
                continue;
            }
            for i in spread(&order[large..]) {
                stays[i] = true;
                if kept(&stays) + moving(layers, &stays) > room {
                    stays[i] = false;
                }
            }
            if best.as_ref().is_none_or(|best| kept(&stays) > kept(best)) {
                best = Some(stays);
            }
        }
        let least = moving(layers, &vec![false; layers.len()]);
        self.stays = best.ok_or_else(|| ModelError::Memory {
            allowed: self.request.budget.unwrap_or(u64::MAX),
            needed: self.request.held + self.ends + self.activations + least,
        })?;
        self.moving = moving(layers, &self.stays);
        Ok(())
    }

    /// Whether layer `i` stays in memory.
    pub fn stays(&self, i: usize) -> bool {
        self.stays[i]
    }

    /// What is done to matrices when they are read.
    pub fn form(&self) -> Form {
        self.request.form
    }

    /// Bytes of the layers that stay.
    pub fn resident_bytes(&self) -> u64 {
        let layers = self.layers.iter().zip(&self.stays);
        layers
            .filter(|(_, stays)| **stays)
            .map(|(bytes, _)| bytes)
            .sum()
    }

    /// Bytes that are read in each step.
    pub fn streamed_bytes(&self) -> u64 {
        self.layers.iter().sum::<u64>() - self.resident_bytes()
    }

    /// Bytes of weights that are there at once: what stays, what is on its way, embedders and heads.
    pub fn weight_bytes(&self) -> u64 {
        self.ends + self.resident_bytes() + self.moving
    }

    /// Bytes of activations and of what the kernels hold.
    pub fn activation_bytes(&self) -> u64 {
        self.activations
    }

    /// Bytes that the process is expected to hold at most.
    pub fn peak(&self) -> u64 {
        self.request.held + self.activations + self.weight_bytes()
    }
}

/// The most bytes of a layer in use and the next one being read, in turn, of those that do not stay; for none of them,
/// what the largest needs while it is made.
fn moving(layers: &[Weight], stays: &[bool]) -> u64 {
    let streamed: Vec<&Weight> = layers
        .iter()
        .zip(stays)
        .filter_map(|(layer, stays)| (!stays).then_some(layer))
        .collect();
    let making = layers.iter().map(|layer| layer.making).max().unwrap_or(0);
    let pairs = streamed.iter().zip(streamed.iter().cycle().skip(1));
    let pairs = pairs.map(|(now, next)| match streamed.len() {
        1 => now.kept,
        _ => now.kept + next.kept,
    });
    pairs.max().unwrap_or(0) + making
}

/// The same numbers, in an order in which every beginning is spread evenly: by their bits in reverse.
fn spread(numbers: &[usize]) -> Vec<usize> {
    let bits = usize::BITS - numbers.len().leading_zeros();
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let mut keyed: Vec<(usize, usize)> = (sorted.into_iter().enumerate())
        .map(|(i, number)| (i.reverse_bits() >> (usize::BITS - bits.max(1)), number))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, number)| number).collect()
}

/// Bytes of activations at their most, and the rows of the MLP's hidden ones.
///
/// Attention holds, for each of L tokens of width D: the stream, what comes out of the first product (`qkv_rows`), what
/// attention gives (heads x K), and the norm of the stream or the second product, all of them f32; and in bf16 queries,
/// keys and values, packed. The MLP holds the stream, what has become of it so far, and that once more while the parts
/// are joined; and of one part of the rows everything that is hidden. Whichever is more counts.
///
/// On a GPU, where nothing pages out, the stream as it was before the layer counts too, and products take bf16 copies
/// of their inputs beside it: of the norm and of what attention gives, and of a part of the rows half of its f32
/// numbers. For the 15B model at 1080p, 5 s (L = 65,280 video + 126 audio + up to 640 text
/// = 66,046 tokens; D 5120, heads x K 5120, `qkv_rows` 7208): attention 66,046 x (4 x (5120 + 7208 + 5120 + 5120) +
/// 2 x 7208 + 2 x 5120) = 7.6 GB; MLP 66,046 x 16 x 5120 + 1.5 x 1.07 = 7.0 GB. Beside 30.6 GB of bf16 weights (their
/// embedders and heads f32) and 0.25 GiB of the libraries that is 38.5 GB: all layers stay on a GPU with 80 GB.
fn activations(config: &DitConfig, tokens: usize, gpu: bool) -> (u64, usize) {
    let (d, l) = (config.width as u64, tokens as u64);
    let (qkv, heads) = (
        config.qkv_rows() as u64,
        (config.num_heads_q * config.head_dim) as u64,
    );
    let half = F32 / 2;
    let copies = if gpu { l * half * d.max(heads) } else { 0 };
    let attention = l * F32 * (d + qkv + heads + d.max(heads)) + l * qkv * half + copies;
    let widest = config.layers.iter().map(|layer| {
        let row = block::chunk_row_bytes(config, layer.mlp);
        let chunk = block::chunk_rows(row, tokens, gpu);
        let hidden = chunk as u64 * row;
        let (streams, hidden) = match gpu {
            true => (4, hidden + hidden / 2),
            false => (3, hidden),
        };
        (l * F32 * streams * d + hidden, chunk)
    });
    let (mlp, chunk) = widest.max().unwrap_or_default();
    let beside = if gpu { LIBRARIES } else { kernel_bytes() };
    (attention.max(mlp) + beside, chunk)
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = self.layers.len();
        let staying = self.stays.iter().filter(|stays| **stays).count();
        match self.request.budget {
            Some(budget) => write!(
                f,
                "of {} the transformer takes {}",
                readable(budget),
                readable(self.peak())
            )?,
            None => write!(f, "the transformer takes {}", readable(self.peak()))?,
        }
        write!(
            f,
            ": {staying} of {layers} layers stay ({})",
            readable(self.resident_bytes())
        )?;
        if staying < layers {
            write!(
                f,
                ", {} are read in each step ({}, {} at a time)",
                layers - staying,
                readable(self.streamed_bytes()),
                readable(self.moving)
            )?;
        }
        match self.request.form {
            Form::Stored => {}
            Form::Bf16 => write!(f, ", as bf16")?,
            Form::Fewer(quant) => write!(f, ", inner ones as {}", quant.name())?,
        }
        write!(
            f,
            "; activations of {} tokens {}, MLP by {} rows; embedders and heads {}; held before {}",
            self.request.tokens,
            readable(self.activations),
            self.chunk,
            readable(self.ends),
            readable(self.request.held)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(sizes: &[u64]) -> Vec<Weight> {
        let weight = |&kept| Weight { kept, making: 0 };
        sizes.iter().map(weight).collect()
    }

    fn plan(sizes: &[u64], budget: u64) -> Result<MemoryPlan> {
        let mut plan = MemoryPlan {
            request: MemoryRequest {
                budget: Some(budget),
                held: 0,
                tokens: 1,
                form: Form::Stored,
            },
            layers: sizes.to_vec(),
            stays: vec![true; sizes.len()],
            ends: 0,
            activations: 0,
            chunk: 1,
            moving: 0,
        };
        plan.choose(&weights(sizes), budget)?;
        Ok(plan)
    }

    #[test]
    fn every_plan_keeps_within_its_budget_and_more_memory_keeps_more() {
        let sizes = [30, 30, 10, 10, 10, 10, 10, 10, 10, 10, 30, 30];
        let mut before = 0;
        for budget in 60..200 {
            let plan = plan(&sizes, budget).unwrap();
            assert!(plan.peak() <= budget, "{plan:?}");
            assert!(plan.resident_bytes() >= before, "{budget}: {plan:?}");
            before = plan.resident_bytes();
        }
        // With room for the four large ones and two small ones on their way, only small ones are read.
        let middle = plan(&sizes, 140).unwrap();
        assert!(
            [0, 1, 10, 11].iter().all(|&i| middle.stays(i)),
            "{middle:?}"
        );
        assert_eq!((middle.streamed_bytes(), middle.moving), (80, 20));
    }

    #[test]
    fn the_public_model_fits_an_h100_at_1080p() {
        let config = DitConfig::horse_15b_1080p();
        let (bytes, chunk) = activations(&config, 66_046, true);
        assert!((7 << 30..8 << 30).contains(&bytes), "{bytes}");
        let weights = 2 * config.layers_parameters() as u64;
        assert!(weights + bytes < 40_000_000_000, "{weights} {bytes}");
        assert!(chunk > 4000, "{chunk} rows keep a GPU busy");
    }

    #[test]
    fn too_little_is_an_error_that_says_what_is_needed() {
        let error = plan(&[10, 10, 10], 19).unwrap_err();
        assert!(
            matches!(
                error,
                ModelError::Memory {
                    allowed: 19,
                    needed: 20
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn beginnings_are_spread() {
        let all: Vec<usize> = (4..12).collect();
        assert_eq!(spread(&all)[..2], [4, 8]);
        let mut sorted = spread(&all);
        sorted.sort_unstable();
        assert_eq!(sorted, all);
        assert_eq!(spread(&[3]), [3]);
        assert!(spread(&[]).is_empty());
    }
}
