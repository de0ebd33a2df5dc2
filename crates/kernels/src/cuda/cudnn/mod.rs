//! cuDNN's fused attention and its convolutions, found at run time and never linked.
//!
//! cuDNN compiles a graph of operations into a plan for one GPU and one set of sizes.

mod attention;
mod backend;
mod convolution;
mod plan;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

pub use backend::ALIGNMENT;
use backend::{Api, OLDEST_EIGHT};
use candle_core::Result;
use candle_core::cuda_backend::{DeviceId, WrapErr};

use super::gpu::Gpu;
pub use attention::{SCALE_STEP, SCALES, Shape, places};
pub use convolution::{BIAS, Convolution, FILTER, INPUT, OUTPUT, Pass};
use plan::Handle;
pub use plan::{Plan, plan_for};

/// Plans that are kept.
const KEPT: usize = 256;

/// When work goes to cuDNN instead of the kernels of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fused {
    /// Where it is expected to be faster. Attention: bf16, heads of 64 or 128, large ranges, and no gradient wanted,
    /// since a training's lengths change too often to compile a plan for each (about a second). Convolutions: bf16,
    /// many positions.
    Auto,
    /// Wherever it can, or it is an error: for tests.
    Always,
    /// Nowhere.
    Never,
}

static CHOSEN: AtomicU8 = AtomicU8::new(Fused::Auto as u8);

/// Chooses for all later operations.
pub fn set_fused(fused: Fused) {
    CHOSEN.store(fused as u8, Ordering::Relaxed);
}

pub fn chosen() -> Fused {
    let chosen = CHOSEN.load(Ordering::Relaxed);
    let all = [Fused::Auto, Fused::Always, Fused::Never];
    all.into_iter()
        .find(|fused| *fused as u8 == chosen)
        .unwrap_or(Fused::Auto)
}

/// Which cuDNN is in use, or why none is.
///
/// # Errors
/// If there is none or it is too old; says what to install.
pub fn version() -> std::result::Result<String, String> {
    let version = Api::get()?.version;
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    Ok(format!("{major}.{minor}.{patch}"))
}

/// Whether cuDNN is there and takes 8-bit floats.
pub fn has_eight() -> bool {
    Api::get().is_ok_and(|api| api.version >= OLDEST_EIGHT)
}

/// What a plan computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Attention of dense ranges.
    Attention(Shape),
    /// A convolution, or one of its gradients.
    Convolution(Convolution),
}

/// cuDNN on one GPU, and what it compiled or refused.
struct State {
    handle: Handle,
    plans: HashMap<Work, std::result::Result<Arc<Plan>, String>>,
}

fn with_state<T>(gpu: &Gpu, f: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
    static STATES: OnceLock<Mutex<HashMap<DeviceId, State>>> = OnceLock::new();
    gpu.stream.context().bind_to_thread().w()?;
    let states = STATES.get_or_init(Default::default);
    // Another thread's panic leaves the map whole.
    let mut states = states.lock().unwrap_or_else(|e| e.into_inner());
    f(match states.entry(gpu.device().id()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => {
            let handle = Handle::new(gpu.stream.cu_stream().cast::<c_void>())?;
            let plans = HashMap::new();
            new.insert(State { handle, plans })
        }
    })
}

/// The plan for some work, compiled if it is new.
///
/// # Errors
/// If there is no cuDNN, or it has no way to do it.
pub fn compiled(gpu: &Gpu, work: Work) -> Result<Arc<Plan>> {
    with_state(gpu, |state| {
        if state.plans.len() > KEPT && !state.plans.contains_key(&work) {
            state.plans.clear();
        }
        let handle = &state.handle;
        let known = state.plans.entry(work);
        let compile = || handle.plan(&work).map(Arc::new).map_err(|e| e.to_string());
        let plan = known.or_insert_with(compile);
        plan.clone().map_err(candle_core::Error::msg)
    })
}

/// Queues a plan, its tensors at these addresses, by their numbers in the graph; memory that it needs besides is found.
///
/// # Errors
/// If cuDNN cannot run it.
pub fn run(gpu: &Gpu, plan: &Plan, places: &[(i64, u64)]) -> Result<()> {
    let workspace = gpu.alloc::<u8>(plan.workspace)?;
    let workspace = (gpu.address(&workspace), workspace);
    with_state(gpu, |state| state.handle.run(plan, places, workspace.0))
}
