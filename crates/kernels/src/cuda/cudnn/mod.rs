//! cuDNN's fused attention, found at run time and never linked.
//!
//! cuDNN compiles an operation into a plan for one GPU and one set of sizes.

mod backend;

use std::ffi::c_void;

use backend::{
    ALIGNMENT, Api, BF16, Descriptor, E4M3, F32, OLDEST_EIGHT, RANKED, Raw, kind, name, of,
};
use candle_core::{Result, bail};

/// Which cuDNN is in use, or why none is.
///
/// # Errors
/// If there is none or it is too old; says what to install.
pub fn version() -> std::result::Result<String, String> {
    let version = Api::get()?.version;
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    Ok(format!("{major}.{minor}.{patch}"))
}

/// One attention of dense ranges: every query sees every key. Queries, keys and values lie as `[heads, all rows, head]`,
/// of which a range of rows is taken; the output is `[rows, heads, head]`, the logarithms `[heads, rows]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of queries and keys that are taken.
    pub rows: [usize; 2],
    /// Rows of queries and keys that there are.
    pub all: [usize; 2],
    /// Heads of queries and keys.
    pub heads: [usize; 2],
    /// Numbers a head.
    pub head: usize,
    /// Whether queries, keys, values and output are 8-bit floats (E4M3), not bf16.
    pub eight: bool,
}

/// The scales of 8-bit floats: so many, each so many floats after the one before.
pub const SCALES: usize = 8;
pub const SCALE_STEP: usize = 4;

/// Whether cuDNN is there and takes 8-bit floats.
pub fn has_eight() -> bool {
    Api::get().is_ok_and(|api| api.version >= OLDEST_EIGHT)
}

impl Shape {
    /// Type, sizes and strides of queries, keys, values, output, logarithms and scale, in this order.
    fn tensors(&self) -> [(i32, [i64; 4], [i64; 4]); 6] {
        let [queries, keys] = self.rows.map(|n| n as i64);
        let [all_queries, all_keys] = self.all.map(|n| n as i64);
        let [n, g] = self.heads.map(|n| n as i64);
        let k = self.head as i64;
        let io = if self.eight { E4M3 } else { BF16 };
        let kv = (io, [1, g, keys, k], [g * all_keys * k, all_keys * k, k, 1]);
        [
            (
                io,
                [1, n, queries, k],
                [n * all_queries * k, all_queries * k, k, 1],
            ),
            kv,
            kv,
            (io, [1, n, queries, k], [n * queries * k, k, n * k, 1]),
            (F32, [1, n, queries, 1], [n * queries, queries, 1, 1]),
            (F32, [1; 4], [1; 4]),
        ]
    }
}

/// One of the tensors of an attention: its attribute, its number, and what `Shape::tensors` says.
fn tensor(
    api: &Api,
    operation: &Descriptor,
    (attribute, id): (i32, i64),
    (numbers, sizes, strides): (i32, [i64; 4], [i64; 4]),
) -> Result<Descriptor> {
    let tensor = Descriptor::new(api, kind::TENSOR)?;
    tensor.set(api, name::TENSOR_TYPE, of::NUMBERS, &[numbers])?;
    tensor.set(api, name::TENSOR_SIZES, of::INT64, &sizes)?;
    tensor.set(api, name::TENSOR_STRIDES, of::INT64, &strides)?;
    tensor.set(api, name::TENSOR_ID, of::INT64, &[id])?;
    tensor.set(api, name::TENSOR_ALIGNMENT, of::INT64, &[ALIGNMENT])?;
    // The factor on the products is a number of the caller's, not of the GPU's.
    if attribute == name::ATTENTION_FIRST + SCALE {
        tensor.set(api, name::TENSOR_BY_VALUE, of::BOOLEAN, &[true])?;
    }
    let tensor = tensor.finish(api, "a tensor")?;
    operation.set_one(api, attribute, &tensor)?;
    Ok(tensor)
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

/// A compiled attention.
pub struct Plan {
    plan: Descriptor,
    /// What it was made of: whether a plan needs it later, cuDNN does not say.
    _parts: Vec<Descriptor>,
    /// Bytes of memory that it needs besides.
    pub workspace: usize,
}

// SAFETY: cuDNN's descriptors may be used by any thread, one at a time.
unsafe impl Send for Plan {}
// SAFETY: it is used only with the handle that it was made with, by one thread at a time.
unsafe impl Sync for Plan {}

impl Plan {
    fn new(api: &Api, target: &Target, shape: &Shape) -> Result<Self> {
        let (graph, mut parts) = graph(api, target, shape)?;
        let configs = ranked(api, target, &graph)?;
        parts.push(graph);
        let mut why = candle_core::Error::msg("cuDNN has no attention for it");
        for config in configs {
            match compile(api, target, &config) {
                Ok((plan, workspace)) => {
                    parts.push(config);
                    return Ok(Self {
                        plan,
                        _parts: parts,
                        workspace,
                    });
                }
                Err(error) => why = error,
            }
        }
        bail!("{why} ({shape:?})")
    }
}

/// A plan, and the bytes of memory that it needs.
fn compile(api: &Api, target: &Target, config: &Descriptor) -> Result<(Descriptor, usize)> {
    let plan = Descriptor::new(api, kind::PLAN)?;
    target.set(api, &plan, name::PLAN_HANDLE, Some(name::PLAN_PROPERTIES))?;
    plan.set_one(api, name::PLAN_CONFIG, config)?;
    let plan = plan.finish(api, "a plan")?;
    let (mut bytes, mut count) = (0i64, 0i64);
    let (name, room) = (name::PLAN_WORKSPACE, (&raw mut bytes).cast());
    // SAFETY: there is room for one number.
    let status = unsafe { (api.get_attribute)(plan.0, name, of::INT64, 1, &raw mut count, room) };
    api.check(status, "the memory of a plan")?;
    Ok((plan, bytes.max(0) as usize))
}

/// Attention as a graph of one operation, and what that is made of.
fn graph(api: &Api, target: &Target, shape: &Shape) -> Result<(Descriptor, Vec<Descriptor>)> {
    let operation = Descriptor::new(api, kind::ATTENTION)?;
    let mut parts = Vec::new();
    for (i, what) in shape.tensors().into_iter().enumerate() {
        let named = (name::ATTENTION_FIRST + i as i32, i as i64 + 1);
        parts.push(tensor(api, &operation, named, what)?);
    }
    for i in 0..if shape.eight { SCALES } else { 0 } {
        let named = (name::ATTENTION_SCALES + i as i32, FIRST_SCALE + i as i64);
        parts.push(tensor(api, &operation, named, (F32, [1; 4], [1; 4]))?);
    }
    let operation = operation.finish(api, "attention")?;
    let graph = Descriptor::new(api, kind::GRAPH)?;
    target.set(api, &graph, name::GRAPH_HANDLE, None)?;
    graph.set_one(api, name::GRAPH_OPERATIONS, &operation)?;
    parts.push(operation);
    Ok((graph.finish(api, "a graph")?, parts))
}

/// Where the factor on the products is among the tensors of `Shape::tensors`.
const SCALE: i32 = 5;
/// The number of the first scale of 8-bit floats: the tensors of `Shape::tensors` are 1 to 6.
const FIRST_SCALE: i64 = 7;

/// The ways to compute a graph, the fastest expected first.
fn ranked(api: &Api, target: &Target, graph: &Descriptor) -> Result<Vec<Descriptor>> {
    let heuristic = Descriptor::new(api, kind::HEURISTIC)?;
    heuristic.set_one(api, name::HEURISTIC_GRAPH, graph)?;
    heuristic.set(api, name::HEURISTIC_MODE, of::MODE, &[RANKED])?;
    target.set(api, &heuristic, -1, Some(name::HEURISTIC_PROPERTIES))?;
    let heuristic = heuristic.finish(api, "a choice of engines")?;
    let results = |room: i64, to: *mut c_void| -> Result<usize> {
        let mut count = 0i64;
        let name = name::HEURISTIC_RESULTS;
        // SAFETY: there is as much room as is said, filled with descriptors.
        let status = unsafe {
            (api.get_attribute)(heuristic.0, name, of::DESCRIPTOR, room, &raw mut count, to)
        };
        api.check(status, "the engines")?;
        Ok(count.max(0) as usize)
    };
    let count = results(0, std::ptr::null_mut())?;
    let mut configs = (0..count)
        .map(|_| Descriptor::new(api, kind::ENGINE_CONFIG))
        .collect::<Result<Vec<_>>>()?;
    let mut raw: Vec<Raw> = configs.iter().map(|c| c.0).collect();
    // Only those come that this GPU can run.
    let found = results(count as i64, raw.as_mut_ptr().cast())?;
    configs.truncate(found);
    Ok(configs)
}

/// cuDNN on one GPU.
pub struct Handle(Raw);

// SAFETY: a handle may be used by any thread, one at a time.
unsafe impl Send for Handle {}

/// Addresses of queries, keys, values, output and logarithms, and of the workspace.
pub struct Call {
    /// In the order of `Shape::tensors`.
    pub tensors: [u64; 5],
    /// Of `Plan::workspace` bytes.
    pub workspace: u64,
    /// The factor on the products.
    pub scale: f32,
    /// Where the scales of 8-bit floats begin.
    pub scales: Option<u64>,
}

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

    /// Compiles attention for one set of sizes, which takes about a second.
    pub fn plan(&self, shape: &Shape) -> Result<Plan> {
        let api = Api::get().map_err(candle_core::Error::msg)?;
        Plan::new(api, &Target::Handle(self.0), shape)
    }

    /// Queues an attention.
    pub fn run(&self, plan: &Plan, call: &Call) -> Result<()> {
        let api = Api::get().map_err(candle_core::Error::msg)?;
        let pack = Descriptor::new(api, kind::PACK)?;
        let mut places = call.tensors.to_vec();
        places.push((&raw const call.scale) as u64);
        if let Some(first) = call.scales {
            places.extend((0..SCALES).map(|i| first + (4 * SCALE_STEP * i) as u64));
        }
        let ids: Vec<i64> = (1..=places.len() as i64).collect();
        pack.set(api, name::PACK_IDS, of::INT64, &ids)?;
        pack.set(api, name::PACK_POINTERS, of::POINTER, &places)?;
        pack.set(api, name::PACK_WORKSPACE, of::POINTER, &[call.workspace])?;
        let pack = pack.finish(api, "the addresses")?;
        // SAFETY: the callers' memory is as large as the plan's sizes say.
        let status = unsafe { (api.execute)(self.0, plan.plan.0, pack.0) };
        api.check(status, "attention")
    }
}

/// Compiles attention for a GPU that need not be there, by its description in cuDNN's JSON; gives the bytes of memory
/// that it needs besides. For tests.
///
/// # Errors
/// If there is no cuDNN, or it has no attention of these sizes for that GPU.
pub fn plan_for(properties: &str, shape: &Shape) -> Result<usize> {
    let api = Api::get().map_err(candle_core::Error::msg)?;
    let described = Descriptor::new(api, kind::PROPERTIES)?;
    let mut text = properties.as_bytes().to_vec();
    text.push(0);
    described.set(api, name::PROPERTIES_JSON, of::CHARS, &text)?;
    let target = Target::Described(described.finish(api, "the description of a GPU")?);
    Ok(Plan::new(api, &target, shape)?.workspace)
}
