//! Products by cuBLASLt, for what plain cuBLAS has no call for: 8-bit floats, and a bias added on the way out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, OnceLock};

use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::{DeviceId, WrapErr};
use candle_core::{Result, bail};

use super::gpu::{Address, Gpu};
use super::product::Gemm;

/// Memory that algorithms may use besides, as large as NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;
/// What all addresses are a multiple of, where bytes or numbers of 16 bits are multiplied, those of scales too.
pub const ALIGNMENT: u32 = 16;
/// What the number of outputs must be a multiple of for bytes.
const OUTPUTS: usize = 16;

/// `to [m, n] = x [m, k] w [n, k]^T` in f32, of bytes of E4M3; k is a multiple of 16.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    pub size: [usize; 3],
    pub x: Address,
    pub w: Address,
    pub to: Address,
    pub scaling: Scaling,
}

/// Factors on the products of bytes.
#[derive(Clone, Copy, Debug)]
pub enum Scaling {
    None,
    /// One for each row of x, and of w.
    Rows([Address; 2]),
}

/// One side of a product as cuBLASLt counts: by columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Side {
    rows: usize,
    columns: usize,
    pitch: usize,
    turned: bool,
}

/// What an algorithm is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Problem {
    kind: Kind,
    left: Side,
    right: Side,
    out: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Bytes,
    ScaledBytes,
    BiasedBf16,
}

impl Kind {
    fn numbers(self) -> sys::cudaDataType {
        match self {
            Self::Bytes | Self::ScaledBytes => sys::cudaDataType::CUDA_R_8F_E4M3,
            Self::BiasedBf16 => sys::cudaDataType::CUDA_R_16BF,
        }
    }
}

/// Where the numbers of a problem are.
struct Places {
    left: Address,
    right: Address,
    out: Address,
    /// Scales of both sides, or the bias.
    beside: [Address; 2],
}

impl Gpu {
    /// Queues a product of bytes; false if this GPU, or this release of cuBLASLt, has none such.
    pub fn multiply_bytes(&self, bytes: &Bytes) -> Result<bool> {
        let [m, n, k] = bytes.size;
        if !n.is_multiple_of(OUTPUTS) {
            return Ok(false);
        }
        let side = |rows, columns, turned| Side {
            rows,
            columns,
            pitch: rows,
            turned,
        };
        let (kind, beside) = match bytes.scaling {
            Scaling::None => (Kind::Bytes, [0; 2]),
            // w is the left side here.
            Scaling::Rows([x, w]) => (Kind::ScaledBytes, [w, x]),
        };
        let problem = Problem {
            kind,
            left: side(k, n, true),
            right: side(k, m, false),
            out: side(n, m, false),
        };
        let places = Places {
            left: bytes.w,
            right: bytes.x,
            out: bytes.to,
            beside,
        };
        with_lt(self, |lt| lt.run(self, &problem, &places))
    }

    /// Queues a product of bf16 with `bias [n]` added to each row; false if it cannot be done in one.
    pub fn multiply_and_add(&self, gemm: &Gemm, bias: Address) -> Result<bool> {
        let aligned = |at: Address| at.is_multiple_of(u64::from(ALIGNMENT));
        let [m, n, k] = gemm.size;
        let wide = |pitch: usize| pitch.is_multiple_of(ALIGNMENT as usize / 2);
        let fits = [gemm.a.at, gemm.b.at, gemm.c.0, bias]
            .into_iter()
            .all(aligned)
            && [gemm.a.pitch, gemm.b.pitch, gemm.c.1].into_iter().all(wide);
        if !fits || m == 0 || n == 0 || k == 0 {
            return Ok(false);
        }
        let side = |(rows, columns): (usize, usize), pitch, turned| Side {
            rows: if turned { columns } else { rows },
            columns: if turned { rows } else { columns },
            pitch,
            turned,
        };
        // cuBLASLt counts by columns: the same memory is the turned matrices, and c' = b' a'.
        let problem = Problem {
            kind: Kind::BiasedBf16,
            left: side((n, k), gemm.b.pitch, gemm.b.turned),
            right: side((k, m), gemm.a.pitch, gemm.a.turned),
            out: side((n, m), gemm.c.1, false),
        };
        let places = Places {
            left: gemm.b.at,
            right: gemm.a.at,
            out: gemm.c.0,
            beside: [bias, 0],
        };
        with_lt(self, |lt| lt.run(self, &problem, &places))
    }
}

/// cuBLASLt on one GPU, and the algorithms that it chose; none where it has none.
struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    chosen: HashMap<Problem, Option<sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: a handle may be used by any thread.
unsafe impl Send for Lt {}

fn with_lt<T>(gpu: &Gpu, f: impl FnOnce(&mut Lt) -> Result<T>) -> Result<T> {
    static ALL: OnceLock<Mutex<HashMap<DeviceId, Lt>>> = OnceLock::new();
    gpu.stream.context().bind_to_thread().w()?;
    // Another thread's panic leaves the map whole.
    let mut all = (ALL.get_or_init(Default::default).lock()).unwrap_or_else(|e| e.into_inner());
    f(match all.entry(gpu.device().id()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(Lt {
            handle: checked(result::create_handle(), "a handle")?,
            workspace: gpu.alloc(WORKSPACE)?,
            chosen: HashMap::new(),
        }),
    })
}

fn checked<T>(done: std::result::Result<T, result::CublasError>, what: &str) -> Result<T> {
    match done {
        Ok(made) => Ok(made),
        Err(error) => bail!("cuBLASLt: {what}: {error:?}"),
    }
}

impl Lt {
    /// Queues a product; false if there is no algorithm for it.
    fn run(&mut self, gpu: &Gpu, problem: &Problem, places: &Places) -> Result<bool> {
        let made = Described::new(problem, places)?;
        let algorithm = match self.chosen.get(problem) {
            Some(known) => *known,
            None => {
                let found = made.choose(self.handle);
                self.chosen.insert(*problem, found);
                found
            }
        };
        let Some(algorithm) = algorithm else {
            return Ok(false);
        };
        let (one, zero) = (1.0f32, 0.0f32);
        let [left, right, out] = made.layouts.each_ref().map(|layout| layout.0);
        // SAFETY: the callers' matrices lie within their memory, and the workspace is alive with the device.
        let done = unsafe {
            result::matmul(
                self.handle,
                made.product.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                places.left as *const _,
                left,
                places.right as *const _,
                right,
                places.out as *const _,
                out,
                places.out as *mut _,
                out,
                &raw const algorithm,
                gpu.address(&self.workspace) as *mut _,
                WORKSPACE,
                gpu.stream.cu_stream().cast(),
            )
        };
        if let Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) = done {
            // It found an algorithm, and does not run it.
            self.chosen.insert(*problem, None);
            return Ok(false);
        }
        checked(done, &format!("{problem:?}"))?;
        Ok(true)
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: it is destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Product(sys::cublasLtMatmulDesc_t);

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: it is destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Product {
    fn set<T>(&self, name: sys::cublasLtMatmulDescAttributes_t, value: T) -> Result<()> {
        let at = (&raw const value).cast();
        // SAFETY: the attributes that are set have values of these types.
        let done = unsafe { result::set_matmul_desc_attribute(self.0, name, at, size_of::<T>()) };
        checked(done, "an attribute")
    }
}

/// A problem in cuBLASLt's words.
struct Described {
    product: Product,
    layouts: [Layout; 3],
}

impl Described {
    fn new(problem: &Problem, places: &Places) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Name;
        let float = sys::cudaDataType::CUDA_R_32F;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let product = Product(checked(
            result::create_matmul_desc(compute, float),
            "a product",
        )?);
        product.set(
            Name::CUBLASLT_MATMUL_DESC_TRANSA,
            i32::from(problem.left.turned),
        )?;
        product.set(
            Name::CUBLASLT_MATMUL_DESC_TRANSB,
            i32::from(problem.right.turned),
        )?;
        match problem.kind {
            Kind::Bytes => {}
            Kind::ScaledBytes => {
                // CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, since 12.9.
                const OUTER: i32 = 3;
                let [left, right] = places.beside;
                product.set(Name::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, OUTER)?;
                product.set(Name::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, OUTER)?;
                product.set(Name::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, left)?;
                product.set(Name::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, right)?;
            }
            Kind::BiasedBf16 => {
                let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
                product.set(Name::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as i32)?;
                product.set(Name::CUBLASLT_MATMUL_DESC_BIAS_POINTER, places.beside[0])?;
                product.set(Name::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, float as i32)?;
            }
        }
        let layout = |side: &Side, numbers| {
            let (rows, columns) = (side.rows as u64, side.columns as u64);
            let made = result::create_matrix_layout(numbers, rows, columns, side.pitch as i64);
            checked(made, "a layout").map(Layout)
        };
        let numbers = problem.kind.numbers();
        let layouts = [
            layout(&problem.left, numbers)?,
            layout(&problem.right, numbers)?,
            layout(&problem.out, float)?,
        ];
        Ok(Self { product, layouts })
    }

    /// The algorithm that is expected to be fastest; none if there is none.
    fn choose(&self, handle: sys::cublasLtHandle_t) -> Option<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Name;
        let wanted = result::create_matmul_pref().ok()?;
        let (workspace, alignment) = (WORKSPACE as u64, ALIGNMENT);
        let alignments = [
            Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Name::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        let [left, right, out] = self.layouts.each_ref().map(|layout| layout.0);
        let most = Name::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: all that is handed over is alive, and the attributes have values of these sizes.
        unsafe {
            let mut set =
                result::set_matmul_pref_attribute(wanted, most, (&raw const workspace).cast(), 8);
            for name in alignments {
                let value = (&raw const alignment).cast();
                set = set.and(result::set_matmul_pref_attribute(wanted, name, value, 4));
            }
            let product = self.product.0;
            let found = set.and_then(|()| {
                result::get_matmul_algo_heuristic(handle, product, left, right, out, out, wanted)
            });
            let _ = result::destroy_matmul_pref(wanted);
            found.ok().map(|found| found.algo)
        }
    }
}
