//! A GPU, its memory and its kernels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, ValidAsZeroBits,
};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Layout, Result, Shape, Storage, Tensor, bail};

use crate::gemm::Precision;

/// Where numbers begin in the GPU's memory. Whoever uses one keeps the memory alive until the work is queued; memory is
/// given back in the order of the queue.
pub type Address = u64;

/// Memory of f32 numbers.
pub type Floats = CudaSlice<f32>;

/// Threads of a block where nothing else is asked for.
pub const BLOCK: u32 = 256;
/// Threads that work on a row together.
pub const LANES: usize = 32;

/// The source text of some kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Text {
    /// Functions of one number, gates, copies, with results for products in this precision.
    Pointwise(Precision),
    /// Norms, and sums over rows, with numbers for products in this precision.
    Rows(Precision),
    /// Convolutions.
    Windows(Precision),
    /// Attentions put together.
    Merge,
    /// 8-bit floats.
    Eight,
    /// Attention with so many numbers a head, a multiple of 16.
    Attention(Precision, usize),
    /// Matrices in fewer bits to bf16.
    Expand,
}

impl Text {
    fn name(self) -> &'static str {
        match self {
            Text::Pointwise(_) => "pointwise",
            Text::Rows(_) => "rows",
            Text::Windows(_) => "windows",
            Text::Merge => "merge",
            Text::Eight => "eight",
            Text::Attention(..) => "attention",
            Text::Expand => "expand",
        }
    }

    fn source(self) -> String {
        let own = match self {
            Text::Pointwise(_) => include_str!("source/pointwise.cu"),
            Text::Rows(_) => include_str!("source/rows.cu"),
            Text::Windows(_) => include_str!("source/windows.cu"),
            Text::Merge => include_str!("source/merge.cu"),
            Text::Eight => include_str!("source/eight.cu"),
            Text::Attention(..) => include_str!("source/attention.cu"),
            Text::Expand => include_str!("source/expand.cu"),
        };
        let mut defines = String::new();
        if let Text::Pointwise(Precision::Bf16)
        | Text::Rows(Precision::Bf16)
        | Text::Windows(Precision::Bf16)
        | Text::Attention(Precision::Bf16, _) = self
        {
            defines.push_str("#define BF16\n");
        }
        if let Text::Attention(_, head) = self {
            defines.push_str(&format!("#define HEAD {head}\n"));
        }
        format!("{defines}{}{own}", include_str!("source/common.cuh"))
    }
}

/// Compiles kernels to PTX for a compute capability such as (9, 0); works without a GPU.
///
/// # Errors
/// If the compiler's library is missing, or with the compiler's messages.
pub fn compile(text: Text, (major, minor): (i32, i32)) -> Result<String> {
    let options = nvrtc::CompileOptions {
        options: vec![
            format!("--gpu-architecture=compute_{major}{minor}"),
            "-default-device".into(),
        ],
        name: Some(format!("{}.cu", text.name())),
        ..Default::default()
    };
    match nvrtc::compile_ptx_with_opts(text.source(), options) {
        Ok(ptx) => Ok(ptx.to_src()),
        Err(nvrtc::CompileError::CompileError { log, .. }) => {
            bail!("{}: {}", text.name(), log.to_string_lossy())
        }
        Err(error) => bail!("{}: {error}", text.name()),
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Blocks; none where there are more threads than kernels count.
    grid: Option<(u32, u32, u32)>,
    block: (u32, u32, u32),
    shared: usize,
}

impl Threads {
    /// One for each of `count`.
    pub fn each(count: usize) -> Self {
        Self {
            grid: (count <= (u32::MAX - BLOCK) as usize)
                .then(|| (count.div_ceil(BLOCK as usize) as u32, 1, 1)),
            block: (BLOCK, 1, 1),
            shared: 0,
        }
    }

    /// A warp for each of `rows`.
    pub fn warps(rows: usize) -> Self {
        Self::each(rows * LANES)
    }

    /// Blocks of so many threads, with so many bytes of shared memory.
    pub fn blocks(grid: (usize, usize, usize), block: (u32, u32), shared: usize) -> Self {
        Self {
            grid: Some((grid.0 as u32, grid.1 as u32, grid.2 as u32)),
            block: (block.0, block.1, 1),
            shared,
        }
    }
}

/// A GPU through its one queue.
pub struct Gpu {
    device: CudaDevice,
    pub(super) stream: Arc<CudaStream>,
}

/// More shared memory than this a kernel must ask for.
const PLAIN_SHARED: usize = 48 << 10;

impl Gpu {
    pub fn new(device: &CudaDevice) -> Self {
        Self {
            device: device.clone(),
            stream: device.cuda_stream(),
        }
    }

    pub fn of(storage: &CudaStorage) -> Self {
        Self::new(storage.device())
    }

    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Memory with whatever is in it.
    pub fn alloc<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: the callers' kernels write every number before one is read.
        unsafe { self.device.alloc(len.max(1)) }
    }

    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        self.device.alloc_zeros(len.max(1))
    }

    /// Copies numbers there; never none.
    pub fn upload<T: DeviceRepr + 'static>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        if values.is_empty() {
            return self.alloc(1);
        }
        self.device.clone_htod(values)
    }

    pub fn address<T>(&self, slice: &CudaSlice<T>) -> Address {
        slice.device_ptr(&self.stream).0
    }

    /// A tensor of these numbers.
    pub fn tensor(&self, floats: Floats, shape: impl Into<Shape>) -> Tensor {
        let storage = Storage::Cuda(self.storage(floats));
        Tensor::from_storage(storage, shape, BackpropOp::none(), false)
    }

    pub fn storage(&self, floats: Floats) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(floats, self.device.clone())
    }

    /// Room for a result of so many numbers, f32 or bf16, and where it is.
    pub fn result(&self, count: usize, stored: Precision) -> Result<(CudaStorage, Address)> {
        let device = self.device.clone();
        Ok(match stored {
            Precision::Bf16 => {
                let room = self.alloc::<half::bf16>(count)?;
                let at = self.address(&room);
                (CudaStorage::wrap_cuda_slice(room, device), at)
            }
            _ => {
                let room = self.alloc::<f32>(count)?;
                let at = self.address(&room);
                (CudaStorage::wrap_cuda_slice(room, device), at)
            }
        })
    }

    /// A kernel, compiled when it is first asked for.
    pub fn function(&self, text: Text, name: &str) -> Result<CudaFunction> {
        type Known = HashMap<(DeviceId, Text), HashMap<String, CudaFunction>>;
        static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
        let of = (self.device.id(), text);
        // Another thread's panic leaves the map whole.
        let mut known =
            (KNOWN.get_or_init(Default::default).lock()).unwrap_or_else(|e| e.into_inner());
        if let Some(found) = known.get(&of).and_then(|all| all.get(name)) {
            return Ok(found.clone());
        }
        let found = self.load(text, name)?;
        let all = known.entry(of).or_default();
        all.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    fn load(&self, text: Text, name: &str) -> Result<CudaFunction> {
        type Compiled = HashMap<(Text, (i32, i32)), Arc<str>>;
        static COMPILED: OnceLock<Mutex<Compiled>> = OnceLock::new();
        let context = self.stream.context();
        let capability = context.compute_capability().w()?;
        let ptx = {
            let compiled = COMPILED.get_or_init(Default::default);
            // Another thread's panic leaves the map whole.
            let mut compiled = compiled.lock().unwrap_or_else(|e| e.into_inner());
            match compiled.get(&(text, capability)) {
                Some(ptx) => ptx.clone(),
                None => {
                    let ptx: Arc<str> = compile(text, capability)?.into();
                    compiled.insert((text, capability), ptx.clone());
                    ptx
                }
            }
        };
        let module = format!("gallop {text:?}");
        let found = self.device.get_or_load_custom_func(name, &module, &ptx)?;
        Ok(found.into_cuda_function())
    }

    /// How a kernel is started; none if there is nothing to do.
    pub fn config(
        &self,
        function: &CudaFunction,
        threads: Threads,
    ) -> Result<Option<LaunchConfig>> {
        use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
        let Some(grid) = threads.grid else {
            bail!("a tensor of 2^32 numbers or more: the kernels take parts of it");
        };
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(None);
        }
        if threads.shared > PLAIN_SHARED {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(attribute, threads.shared as i32)
                .w()?;
        }
        Ok(Some(LaunchConfig {
            grid_dim: grid,
            block_dim: threads.block,
            shared_mem_bytes: threads.shared as u32,
        }))
    }
}

/// Queues a kernel: `launch!(gpu, text, "name", threads, arguments..)`.
macro_rules! launch {
    ($gpu:expr, $text:expr, $name:expr, $threads:expr, $($argument:expr),* $(,)?) => {{
        use candle_core::cuda_backend::{WrapErr, cudarc::driver::PushKernelArg};
        let function = $gpu.function($text, $name)?;
        if let Some(config) = $gpu.config(&function, $threads)? {
            let mut builder = $gpu.stream.launch_builder(&function);
            $(
                let argument = $argument;
                builder.arg(&argument);
            )*
            // SAFETY: the arguments are those of the kernel's declaration, and their memory is alive.
            unsafe { builder.launch(config) }.w()?;
        }
    }};
}
pub(super) use launch;

/// Numbers of a tensor in the GPU's memory.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    pub at: Address,
    pub bf16: bool,
}

/// The numbers of a contiguous tensor, f32 or bf16.
pub fn data(storage: &CudaStorage, layout: &Layout) -> Result<Data> {
    let Some((start, _)) = layout.contiguous_offsets() else {
        bail!("the kernels take contiguous tensors");
    };
    let gpu = Gpu::of(storage);
    match &storage.slice {
        CudaStorageSlice::F32(slice) => Ok(Data {
            at: gpu.address(slice) + 4 * start as u64,
            bf16: false,
        }),
        CudaStorageSlice::BF16(slice) => Ok(Data {
            at: slice.device_ptr(&gpu.stream).0 + 2 * start as u64,
            bf16: true,
        }),
        _ => bail!("the kernels take f32 or bf16 tensors"),
    }
}

/// The numbers of a contiguous f32 tensor.
pub fn floats(storage: &CudaStorage, layout: &Layout) -> Result<Address> {
    match data(storage, layout)? {
        Data { at, bf16: false } => Ok(at),
        _ => bail!("expected f32, found bf16"),
    }
}

/// Calls `f` with where the numbers of tensors on one GPU are; they are made contiguous first.
pub fn with_data<T, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce(&Gpu, [Data; N]) -> Result<T>,
) -> Result<T> {
    let tensors = (tensors.iter().map(|t| t.contiguous())).collect::<Result<Vec<_>>>()?;
    let held: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let mut gpu = None;
    let mut found = [Data { at: 0, bf16: false }; N];
    for (found, (storage, layout)) in found.iter_mut().zip(&held) {
        let Storage::Cuda(storage) = &**storage else {
            bail!("expected tensors on one GPU");
        };
        *found = data(storage, layout)?;
        gpu.get_or_insert_with(|| Gpu::of(storage));
    }
    match gpu {
        Some(gpu) => f(&gpu, found),
        None => bail!("expected tensors"),
    }
}

/// As `with_data`, for f32.
pub fn with_floats<T, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce(&Gpu, [Address; N]) -> Result<T>,
) -> Result<T> {
    with_data(tensors, |gpu, data| {
        if data.iter().any(|d| d.bf16) {
            bail!("expected f32, found bf16");
        }
        f(gpu, data.map(|d| d.at))
    })
}
