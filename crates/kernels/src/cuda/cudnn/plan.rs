//! Graphs of operations, compiled and run.

use std::ffi::c_void;

use candle_core::{Result, bail};

use super::Work;
use super::backend::{ALIGNMENT, Api, Descriptor, FALLBACK, RANKED, Raw, kind, name, of};

/// A tensor of a graph.
pub struct Tensor<'a> {
    id: i64,
    numbers: i32,
    sizes: &'a [i64],
    strides: &'a [i64],
    /// Whether it goes from one operation to the next and is never in memory.
    pub between: bool,
    /// Whether it is a number of the caller's, not of the GPU's.
    pub by_value: bool,
}

impl<'a> Tensor<'a> {
    /// One in the GPU's memory; `id` names it when addresses are given.
    pub fn new(id: i64, numbers: i32, sizes: &'a [i64], strides: &'a [i64]) -> Self {
        Self {
            id,
            numbers,
            sizes,
            strides,
            between: false,
            by_value: false,
        }
    }
}

/// Operations, and what they are made of.
#[derive(Default)]
pub struct Graph {
    pub operations: Vec<Descriptor>,
    /// What a plan needs of it later, cuDNN does not say: everything is kept.
    pub parts: Vec<Descriptor>,
}

impl Graph {
    /// Describes a tensor.
    pub fn tensor(&mut self, api: &Api, what: &Tensor) -> Result<&Descriptor> {
        let tensor = Descriptor::new(api, kind::TENSOR)?;
        tensor.set(api, name::TENSOR_TYPE, of::NUMBERS, &[what.numbers])?;
        tensor.set(api, name::TENSOR_SIZES, of::INT64, what.sizes)?;
        tensor.set(api, name::TENSOR_STRIDES, of::INT64, what.strides)?;
        tensor.set(api, name::TENSOR_ID, of::INT64, &[what.id])?;
        tensor.set(api, name::TENSOR_ALIGNMENT, of::INT64, &[ALIGNMENT])?;
        for (is, name) in [
            (what.between, name::TENSOR_BETWEEN),
            (what.by_value, name::TENSOR_BY_VALUE),
        ] {
            if is {
                tensor.set(api, name, of::BOOLEAN, &[true])?;
            }
        }
        self.keep(tensor.finish(api, "a tensor")?)
    }

    /// Keeps a descriptor that is finished.
    pub fn keep(&mut self, part: Descriptor) -> Result<&Descriptor> {
        self.parts.push(part);
        match self.parts.last() {
            Some(part) => Ok(part),
            None => bail!("cuDNN: a part is lost"),
        }
    }

    fn finish(self, api: &Api, target: &Target) -> Result<(Descriptor, Vec<Descriptor>)> {
        let graph = Descriptor::new(api, kind::GRAPH)?;
        target.set(api, &graph, name::GRAPH_HANDLE, None)?;
        let operations: Vec<Raw> = self.operations.iter().map(|o| o.0).collect();
        graph.set(api, name::GRAPH_OPERATIONS, of::DESCRIPTOR, &operations)?;
        let graph = graph.finish(api, "a graph")?;
        let mut parts = self.parts;
        parts.extend(self.operations);
        Ok((graph, parts))
    }
}

/// What a plan is made for.
enum Target {
    Handle(Raw),
    /// A GPU that is not there, by its description.
    Described(Descriptor),
}

impl Target {
    fn set(&self, api: &Api, to: &Descriptor, handle: i32, described: Option<i32>) -> Result<()> {
        match (self, described) {
            (Self::Handle(raw), _) if handle >= 0 => to.set(api, handle, of::HANDLE, &[*raw]),
            (Self::Described(properties), Some(name)) => to.set_one(api, name, properties),
            _ => Ok(()),
        }
    }
}

/// Compiled operations.
pub struct Plan {
    plan: Descriptor,
    /// What it was made of.
    _parts: Vec<Descriptor>,
    /// Bytes of memory that it needs besides.
    pub workspace: usize,
}

// SAFETY: cuDNN's descriptors may be used by any thread, one at a time.
unsafe impl Send for Plan {}
// SAFETY: it is used only with the handle that it was made with, by one thread at a time.
unsafe impl Sync for Plan {}

impl Plan {
    fn new(api: &Api, target: &Target, work: &Work) -> Result<Self> {
        let graph = match work {
            Work::Attention(shape) => shape.graph(api)?,
            Work::Convolution(convolution) => convolution.graph(api)?,
        };
        let (graph, mut parts) = graph.finish(api, target)?;
        let mut why = candle_core::Error::msg("cuDNN has no way to do it");
        // Convolutions whose results are f32 are known to the second alone.
        for mode in [RANKED, FALLBACK] {
            for config in engines(api, target, &graph, mode)? {
                if !in_order(api, &config)? {
                    continue;
                }
                match compile(api, target, &config) {
                    Ok((plan, workspace)) => {
                        parts.extend([graph, config]);
                        return Ok(Self {
                            plan,
                            _parts: parts,
                            workspace,
                        });
                    }
                    Err(error) => why = error,
                }
            }
        }
        bail!("{why} ({work:?})")
    }
}

/// Whether an engine gives equal results for equal inputs.
fn in_order(api: &Api, config: &Descriptor) -> Result<bool> {
    let engine = Descriptor::new(api, kind::ENGINE)?;
    config.get(api, name::CONFIG_ENGINE, of::DESCRIPTOR, &mut [engine.0])?;
    let mut notes = [0i32; NOTES];
    let count = engine.get(api, name::ENGINE_NOTES, of::NOTE, &mut notes)?;
    Ok(!notes[..count.min(NOTES)].contains(&ANY_ORDER))
}

/// More notes than there are of an engine, and that of one whose sums are in any order.
const NOTES: usize = 32;
const ANY_ORDER: i32 = 4;

/// A plan, and the bytes of memory that it needs.
fn compile(api: &Api, target: &Target, config: &Descriptor) -> Result<(Descriptor, usize)> {
    let plan = Descriptor::new(api, kind::PLAN)?;
    target.set(api, &plan, name::PLAN_HANDLE, Some(name::PLAN_PROPERTIES))?;
    plan.set_one(api, name::PLAN_CONFIG, config)?;
    let plan = plan.finish(api, "a plan")?;
    let mut bytes = [0i64];
    plan.get(api, name::PLAN_WORKSPACE, of::INT64, &mut bytes)?;
    Ok((plan, bytes[0].max(0) as usize))
}

/// The ways to compute a graph that a heuristic knows, the fastest expected first.
fn engines(api: &Api, target: &Target, graph: &Descriptor, mode: i32) -> Result<Vec<Descriptor>> {
    let heuristic = Descriptor::new(api, kind::HEURISTIC)?;
    heuristic.set_one(api, name::HEURISTIC_GRAPH, graph)?;
    heuristic.set(api, name::HEURISTIC_MODE, of::MODE, &[mode])?;
    target.set(api, &heuristic, -1, Some(name::HEURISTIC_PROPERTIES))?;
    let heuristic = heuristic.finish(api, "a choice of engines")?;
    let (name, of) = (name::HEURISTIC_RESULTS, of::DESCRIPTOR);
    let count = heuristic.get(api, name, of, &mut [] as &mut [Raw])?;
    let mut configs = (0..count)
        .map(|_| Descriptor::new(api, kind::ENGINE_CONFIG))
        .collect::<Result<Vec<_>>>()?;
    let mut raw: Vec<Raw> = configs.iter().map(|c| c.0).collect();
    // Only those come that this GPU can run.
    configs.truncate(heuristic.get(api, name, of, &mut raw)?);
    Ok(configs)
}

/// cuDNN on one GPU.
pub struct Handle(Raw);

// SAFETY: a handle may be used by any thread, one at a time.
unsafe impl Send for Handle {}

impl Handle {
    /// cuDNN for the GPU whose context is current, working on a queue.
    pub fn new(stream: *mut c_void) -> Result<Self> {
        let api = Api::get().map_err(candle_core::Error::msg)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: there is room for one pointer.
        api.check(unsafe { (api.create)(&raw mut raw) }, "a handle")?;
        // SAFETY: the queue is of the current context and lives as long as the process.
        api.check(unsafe { (api.set_stream)(raw, stream) }, "the queue")?;
        Ok(Self(raw))
    }

    /// Compiles work of one set of sizes, which takes up to a second.
    pub fn plan(&self, work: &Work) -> Result<Plan> {
        let api = Api::get().map_err(candle_core::Error::msg)?;
        Plan::new(api, &Target::Handle(self.0), work)
    }

    /// Queues a plan, its tensors at these addresses by their numbers, with `Plan::workspace` bytes at `workspace`.
    pub fn run(&self, plan: &Plan, places: &[(i64, u64)], workspace: u64) -> Result<()> {
        let api = Api::get().map_err(candle_core::Error::msg)?;
        let pack = Descriptor::new(api, kind::PACK)?;
        let (ids, addresses): (Vec<i64>, Vec<u64>) = places.iter().copied().unzip();
        pack.set(api, name::PACK_IDS, of::INT64, &ids)?;
        pack.set(api, name::PACK_POINTERS, of::POINTER, &addresses)?;
        pack.set(api, name::PACK_WORKSPACE, of::POINTER, &[workspace])?;
        let pack = pack.finish(api, "the addresses")?;
        // SAFETY: the callers' memory is as large as the plan's sizes say.
        let status = unsafe { (api.execute)(self.0, plan.plan.0, pack.0) };
        api.check(status, "a plan")
    }
}

/// Compiles work for a GPU that need not be there, by its description in cuDNN's JSON; gives the bytes of memory that it
/// needs besides. For tests.
///
/// # Errors
/// If there is no cuDNN, or it has no way to do it on that GPU.
pub fn plan_for(properties: &str, work: &Work) -> Result<usize> {
    let api = Api::get().map_err(candle_core::Error::msg)?;
    let described = Descriptor::new(api, kind::PROPERTIES)?;
    let mut text = properties.as_bytes().to_vec();
    text.push(0);
    described.set(api, name::PROPERTIES_JSON, of::CHARS, &text)?;
    let target = Target::Described(described.finish(api, "the description of a GPU")?);
    Ok(Plan::new(api, &target, work)?.workspace)
}
