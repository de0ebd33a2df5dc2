//! What a plan will cost, before anything of it is done.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use gallop_core::{LatentShape, UserError};
use gallop_kernels::{Precision, Segments, linear};
use gallop_model::ModelError;
use gallop_model::dit::{MemoryPlan, Work};
use gallop_model::memory::{give_back, in_use};
use gallop_model::public::{Part, PartState, PublicModel, StageWork, wan_vae::SPACE_STRIDE};

use super::field::longest;
use super::pipeline::of_part;
use super::plan::{Decoder, PublicPlan};
use super::transformer::LoadTransformer;
use crate::error::{EngineError, Result};

const MIB: u64 = 1 << 20;
/// What the process may hold more than was planned: what the allocator keeps, and what writes the file.
const DRIFT: u64 = 32 * MIB;

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
    /// Bytes of everything else that the stage holds at its most.
    pub activations: u64,
    /// How a transformer is kept in memory.
    pub memory: Option<MemoryPlan>,
}

/// The cost of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// In the order in which they run.
    pub stages: Vec<StageEstimate>,
    /// Bytes that the program holds whatever runs.
    pub held: u64,
}

/// What is asked for beside a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Tokens of the prompt and of the negative one.
    pub texts: [usize; 2],
    /// Whether there is a first picture, and a given sound.
    pub picture: bool,
    pub sound: bool,
}

impl Estimate {
    /// The cost of `plan`.
    ///
    /// # Errors
    /// Files that cannot be used; a stage that does not fit into the memory that is allowed, and what would be enough.
    pub(super) fn new(
        plan: &PublicPlan,
        model: &PublicModel,
        transformers: &dyn LoadTransformer,
        asked: Asked,
    ) -> Result<Self> {
        give_back();
        let held = in_use();
        let mut budget = Budget {
            allowed: transformers.budget(),
            short: None,
        };
        let mut stages = Vec::new();
        for (name, work) in before(plan, &asked, &texts(plan, &asked)) {
            stages.push(stage(model, name, work, asked.texts[0])?);
        }
        for run in runs(plan) {
            stages.extend(run.estimate(model, transformers, (&asked, &mut budget))?);
        }
        for (name, work) in after(plan) {
            stages.push(stage(model, name, work, 0)?);
        }
        for stage in stages.iter().filter(|stage| stage.memory.is_none()) {
            let needed = held + stage.weights + stage.activations + DRIFT;
            budget.take(stage.part, needed);
        }
        budget.check()?;
        Ok(Self { stages, held })
    }

    /// Bytes in memory at once, at the most.
    pub fn peak(&self) -> u64 {
        let bytes = self.stages.iter().map(|stage| match &stage.memory {
            Some(plan) => plan.peak(),
            None => self.held + stage.weights + stage.activations,
        });
        bytes.max().unwrap_or(0)
    }

    /// Operations of all stages whose operations are known.
    pub fn operations(&self) -> f64 {
        self.stages.iter().map(|stage| stage.operations).sum()
    }
}

/// What is allowed, and the stage that needs most beyond it.
struct Budget {
    allowed: Option<u64>,
    short: Option<(Part, u64)>,
}

impl Budget {
    fn take(&mut self, part: Part, needed: u64) {
        let beyond = self.allowed.is_some_and(|allowed| needed > allowed);
        if beyond && self.short.is_none_or(|(_, most)| needed > most) {
            self.short = Some((part, needed));
        }
    }

    fn check(&self) -> Result<()> {
        match (self.allowed, self.short) {
            (Some(allowed), Some((part, needed))) => Err(too_little(allowed, part, needed).into()),
            _ => Ok(()),
        }
    }
}

/// What a process holds before its work differs by a little from one run to the next, so that as much as this one needed
/// may be too little for the next.
const SPARE_MIB: u64 = 2;

/// The `--memory` to advise, in MiB, to whom so many bytes were needed.
pub(super) fn enough(needed: u64) -> u64 {
    needed.div_ceil(MIB) + SPARE_MIB
}

/// What to say where `--memory` is too little.
pub(super) fn too_little(allowed: u64, part: Part, needed: u64) -> UserError {
    let least = enough(needed);
    UserError::new(
        format!(
            "--memory: {} MiB are too few for this clip with {}",
            allowed / MIB,
            part.folder()
        ),
        format!("the least possible is --memory {least}MiB; a smaller or shorter clip needs less"),
    )
}

/// One transformer's work.
struct Run {
    name: &'static str,
    part: Part,
    shape: LatentShape,
    steps: usize,
    guided: bool,
}

fn runs(plan: &PublicPlan) -> Vec<Run> {
    let request = &plan.request;
    let mut runs = vec![Run {
        name: "denoise",
        part: plan.base_part(),
        shape: plan.latents,
        steps: request.steps,
        guided: request.guidance != 1.0,
    }];
    if let (Some(to), Some(shape)) = (&request.refine, plan.refined) {
        runs.push(Run {
            name: "refine",
            part: to.part,
            shape,
            steps: to.steps,
            guided: to.guidance != 1.0,
        });
    }
    runs
}

impl Run {
    /// Nothing where there is too little memory, which `budget` then knows.
    fn estimate(
        &self,
        model: &PublicModel,
        transformers: &dyn LoadTransformer,
        (asked, budget): (&Asked, &mut Budget),
    ) -> Result<Option<StageEstimate>> {
        let (part, shape) = (self.part, self.shape);
        let files = model.transformer(part)?;
        let config = model.transformer_config(part, &files)?;
        let texts = match self.guided {
            true => &asked.texts[..],
            false => &asked.texts[..1],
        };
        let memory = match transformers.plan(model, part, longest(shape, texts)) {
            Ok(memory) => memory,
            Err(EngineError::Model(ModelError::Memory { needed, .. })) => {
                budget.take(part, needed + DRIFT);
                return Ok(None);
            }
            Err(error) => return Err(of_part(part, error)),
        };
        let tokens = [
            shape.frames * shape.height * shape.width / 4,
            shape.audio,
            asked.texts[0],
        ];
        let passes = self.steps * if self.guided { 2 } else { 1 };
        let operations = Work::of_clip(&config, shape, asked.texts[0])?.operations();
        Ok(Some(StageEstimate {
            name: self.name,
            part,
            tokens: Some(tokens),
            passes,
            operations: operations * passes as f64,
            weights: memory.weight_bytes(),
            activations: memory.activation_bytes(),
            memory: Some(memory),
        }))
    }
}

/// Tokens of the texts that are encoded.
fn texts(plan: &PublicPlan, asked: &Asked) -> Vec<usize> {
    let guided = runs(plan).iter().any(|run| run.guided);
    asked.texts[..if guided { 2 } else { 1 }].to_vec()
}

/// The stages before the transformer.
fn before<'a>(
    plan: &PublicPlan,
    asked: &Asked,
    texts: &'a [usize],
) -> Vec<(&'static str, StageWork<'a>)> {
    let mut stages = vec![("encode text", StageWork::Texts(texts))];
    if asked.picture {
        let largest = plan.refined.unwrap_or(plan.latents);
        stages.push(("encode picture", StageWork::EncodePicture(pixels(largest))));
    }
    if asked.sound {
        stages.push(("encode sound", StageWork::EncodeSound(plan.latents.audio)));
    }
    stages
}

/// The stages after it.
fn after(plan: &PublicPlan) -> Vec<(&'static str, StageWork<'static>)> {
    let grid = plan.refined.unwrap_or(plan.latents);
    let mut stages = Vec::new();
    if plan.request.audio {
        stages.push(("decode sound", StageWork::DecodeSound(grid.audio)));
    }
    let pictures = match plan.request.decoder {
        Decoder::Fast => StageWork::FastDecode(grid.height, grid.width),
        Decoder::Exact => StageWork::ExactDecode(pixels(grid)),
    };
    stages.push(("decode", pictures));
    stages
}

fn pixels(grid: LatentShape) -> usize {
    grid.width * grid.height * SPACE_STRIDE * SPACE_STRIDE
}

/// A stage around the transformer.
fn stage(
    model: &PublicModel,
    name: &'static str,
    work: StageWork,
    text: usize,
) -> Result<StageEstimate> {
    let (part, bytes) = (work.part(), model.stage_bytes(work)?);
    let (tokens, operations) = match work {
        StageWork::Texts(texts) => {
            let all = texts.iter().sum::<usize>() as f64;
            (Some([0, 0, text]), 2.0 * parameters(model, part) * all)
        }
        _ => (None, 0.0),
    };
    Ok(StageEstimate {
        name,
        part,
        tokens,
        passes: 1,
        operations,
        weights: bytes.weights,
        activations: bytes.activations,
        memory: None,
    })
}

/// Parameters of a part, 0 where it is not there.
fn parameters(model: &PublicModel, part: Part) -> f64 {
    let mut states = model.inventory().into_iter();
    match states.find(|(of, _)| *of == part) {
        Some((_, PartState::Present(inventory))) => inventory.parameters as f64,
        _ => 0.0,
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
