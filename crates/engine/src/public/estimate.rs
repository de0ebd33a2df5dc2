//! What a plan will cost, before anything of it is done.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use gallop_core::LatentShape;
use gallop_kernels::{Precision, Segments, linear};
use gallop_model::dit::{AttentionKind, DitConfig, MemoryPlan};
use gallop_model::public::{
    Part, PartState, PublicModel,
    wan_vae::{SPACE_STRIDE, TIME_STRIDE},
};

use super::field::longest;
use super::plan::PublicPlan;
use super::transformer::LoadTransformer;
use crate::error::Result;

/// Bytes of an activation.
const F32: u64 = 4;
/// The exact decoder holds, at its widest, about so many numbers for each pixel of the frames that it makes at once,
/// divided by 16.
const DECODER_NUMBERS: u64 = 200;

/// One stage that runs a transformer or a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct StageEstimate {
    /// Its name, as progress has it.
    pub name: &'static str,
    /// The part that it loads.
    pub part: Part,
    /// Video, audio and text tokens; none for decoders.
    pub tokens: Option<[usize; 3]>,
    /// Times that a transformer is run.
    pub passes: usize,
    /// Floating-point operations, an addition and a multiplication being two; 0 where it is not known.
    pub operations: f64,
    /// Bytes of weights in memory at once.
    pub weights: u64,
    /// Bytes of everything else, about.
    pub activations: u64,
    /// How a transformer is kept in memory.
    pub memory: Option<MemoryPlan>,
}

/// The cost of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// In the order in which they run.
    pub stages: Vec<StageEstimate>,
}

impl Estimate {
    /// The cost of `plan` with so many tokens of its prompt and of the negative one.
    ///
    /// # Errors
    /// A transformer whose files cannot be used, or that has too little memory.
    pub fn new(
        plan: &PublicPlan,
        model: &PublicModel,
        transformers: &dyn LoadTransformer,
        [text, negative]: [usize; 2],
    ) -> Result<Self> {
        let request = &plan.request;
        let mut runs = vec![(
            "denoise",
            plan.base_part(),
            plan.latents,
            (request.steps, request.guidance),
        )];
        if let (Some(to), Some(shape)) = (&request.refine, plan.refined) {
            runs.push(("refine", to.part, shape, (to.steps, to.guidance)));
        }
        let mut stages = vec![text_stage(model, text)];
        for (name, part, shape, (steps, guidance)) in runs {
            let files = model.transformer(part)?;
            let config = model.transformer_config(part, &files)?;
            let guided = guidance != 1.0;
            let passes = steps * if guided { 2 } else { 1 };
            let texts = [text, negative];
            let texts = if guided { &texts[..] } else { &texts[..1] };
            let memory = transformers.plan(model, part, longest(shape, texts))?;
            let tokens = [
                shape.frames * shape.height * shape.width / 4,
                shape.audio,
                text,
            ];
            stages.push(StageEstimate {
                name,
                part,
                tokens: Some(tokens),
                passes,
                operations: forward_operations(&config, tokens, shape) * passes as f64,
                weights: memory.weight_bytes(),
                activations: memory.activation_bytes(),
                memory: Some(memory),
            });
        }
        stages.push(decode_stage(plan, model));
        Ok(Self { stages })
    }

    /// Bytes in memory at once, at the most.
    pub fn peak(&self) -> u64 {
        let bytes = self.stages.iter().map(|s| s.weights + s.activations);
        bytes.max().unwrap_or(0)
    }

    /// Operations of all stages whose operations are known.
    pub fn operations(&self) -> f64 {
        self.stages.iter().map(|stage| stage.operations).sum()
    }
}

/// Operations of one run of a transformer.
fn forward_operations(config: &DitConfig, tokens: [usize; 3], shape: LatentShape) -> f64 {
    let all: usize = tokens.iter().sum();
    let [video, others] = [tokens[0], tokens[1] + tokens[2]];
    let attended = config.num_heads_q * config.head_dim;
    let layer = |layer: &gallop_model::dit::LayerKind| {
        let mlp = config.mlp_rows(layer.mlp) + config.mlp_hidden(layer.mlp);
        let weights = config.width * (config.qkv_rows() + attended + mlp);
        let pairs = match layer.attention {
            AttentionKind::Full => all * all,
            AttentionKind::Local => {
                let seen = (2 * config.local_frames + 1).min(shape.frames);
                let frame = video / shape.frames.max(1);
                video * (seen * frame + others) + others * all
            }
        };
        2.0 * (all * weights) as f64 + 4.0 * (pairs * attended) as f64
    };
    config.layers.iter().map(layer).sum()
}

/// The text encoder reads its layers as it uses them; about a fortieth of it is in memory.
fn text_stage(model: &PublicModel, text: usize) -> StageEstimate {
    let (parameters, bytes) = stored(model, Part::TextEncoder);
    StageEstimate {
        name: "encode text",
        part: Part::TextEncoder,
        tokens: Some([0, 0, text]),
        passes: 1,
        operations: 2.0 * parameters as f64 * text as f64,
        weights: bytes / 40,
        activations: 0,
        memory: None,
    }
}

fn decode_stage(plan: &PublicPlan, model: &PublicModel) -> StageEstimate {
    use super::plan::Decoder;
    let part = match plan.request.decoder {
        Decoder::Fast => Part::FastDecoder,
        Decoder::Exact => Part::VideoAutoencoder,
    };
    let grid = plan.refined.unwrap_or(plan.latents);
    let pixels = (grid.width * grid.height * SPACE_STRIDE * SPACE_STRIDE) as u64;
    let activations = match (plan.request.decoder, model.fast_decoder_config()) {
        (Decoder::Fast, Ok(config)) => config.activation_bytes(grid.height, grid.width),
        _ => pixels * TIME_STRIDE as u64 * DECODER_NUMBERS * F32 / SPACE_STRIDE as u64,
    };
    StageEstimate {
        name: "decode",
        part,
        tokens: None,
        passes: 1,
        operations: 0.0,
        weights: stored(model, part).1,
        activations,
        memory: None,
    }
}

/// Parameters and bytes of a part, 0 where it is not there.
fn stored(model: &PublicModel, part: Part) -> (u64, u64) {
    let states = model.inventory().into_iter();
    let mut states = states.filter(|(of, _)| *of == part);
    match states.next() {
        Some((_, PartState::Present(inventory))) => (inventory.parameters, inventory.bytes),
        _ => (0, 0),
    }
}

/// How many operations a second a device does in bf16 products, measured now in a fraction of a second.
///
/// # Errors
/// No memory.
pub fn operations_per_second(device: &Device) -> Result<f64> {
    const SECONDS: f64 = 0.3;
    let size = if device.is_cpu() { 1024 } else { 4096 };
    let ones = |dtype| Tensor::ones((size, size), DType::F32, device)?.to_dtype(dtype);
    let (x, weight) = (ones(DType::F32)?, ones(DType::BF16)?);
    let rows = Segments::single(size);
    let once = || -> candle_core::Result<()> {
        linear(&x, &weight, None, &rows, Precision::Bf16)?;
        device.synchronize()
    };
    once()?;
    let (start, mut runs) = (Instant::now(), 0);
    while start.elapsed().as_secs_f64() < SECONDS {
        once()?;
        runs += 1;
    }
    let operations = 2.0 * (size as f64).powi(3) * f64::from(runs);
    Ok(operations / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_grow_with_parameters_and_pairs() {
        let config = DitConfig::horse_15b();
        let shape = LatentShape {
            frames: 32,
            height: 16,
            width: 28,
            audio: 126,
        };
        let tokens = [32 * 8 * 14, 126, 200];
        let all = tokens.iter().sum::<usize>() as f64;
        let got = forward_operations(&config, tokens, shape);
        // The weights a token meets: a third of the outer layers', and all of the others'.
        let met = 10.8e9..11.0e9;
        let attention = 4.0 * all * all * 5120.0 * 40.0;
        let weights = (got - attention) / all / 2.0;
        assert!(met.contains(&weights), "{weights:e}");
        let local = forward_operations(&DitConfig::horse_15b_1080p(), tokens, shape);
        assert!(local < got);
    }
}
