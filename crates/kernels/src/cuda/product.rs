//! Products of matrices, by cuBLAS.

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Result, bail};

use super::gpu::{Address, Data, Floats, Gpu, Threads, launch};
use super::lt::ALIGNMENT;
use super::pointwise::POINTWISE;
use crate::gemm::Precision;

/// Rows that do not begin at multiples of so many bf16 numbers, 16 bytes, are multiplied by kernels that are a fifth as
/// fast (H200, cuBLAS 13.0).
const FAST: usize = ALIGNMENT as usize / 2;

/// Numbers for products, in the precision of the products, and the memory that was made for them.
pub struct Operand {
    pub at: Address,
    _own: Own,
}

enum Own {
    None,
    Rounded(#[expect(dead_code, reason = "kept alive")] CudaSlice<u16>),
    Widened(#[expect(dead_code, reason = "kept alive")] Floats),
}

/// A matrix in row order: where it begins, numbers from one row to the next, and whether it is used turned.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub at: Address,
    pub pitch: usize,
    pub turned: bool,
}

/// `c [m, n] = a [m, k] * b [k, n] + beta * c`, with a and b as they are after turning, and c in f32.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub size: [usize; 3],
    pub a: Matrix,
    pub b: Matrix,
    pub c: (Address, usize),
    pub beta: f32,
}

impl Operand {
    /// Numbers that somebody else keeps.
    pub fn at(at: Address) -> Self {
        let _own = Own::None;
        Self { at, _own }
    }

    /// Numbers in bf16.
    pub fn rounded(gpu: &Gpu, own: CudaSlice<u16>) -> Self {
        Self {
            at: gpu.address(&own),
            _own: Own::Rounded(own),
        }
    }
}

impl Gpu {
    /// Bytes of a number for products.
    pub fn width(precision: Precision) -> usize {
        match precision.wider() {
            Precision::F32 => 4,
            _ => 2,
        }
    }

    /// `count` numbers as products take them.
    pub fn operand(&self, data: Data, count: usize, precision: Precision) -> Result<Operand> {
        let threads = Threads::each(count);
        Ok(match (precision, data.bf16) {
            (Precision::Bf16, false) => {
                let rounded = Operand::rounded(self, self.alloc(count)?);
                launch!(
                    self,
                    POINTWISE,
                    "round_bf16",
                    threads,
                    data.at,
                    rounded.at,
                    count as u64
                );
                rounded
            }
            (Precision::F32, true) => {
                let widened = self.alloc::<f32>(count)?;
                let at = self.address(&widened);
                launch!(
                    self,
                    POINTWISE,
                    "widen_bf16",
                    threads,
                    data.at,
                    at,
                    count as u64
                );
                let _own = Own::Widened(widened);
                Operand { at, _own }
            }
            _ => Operand::at(data.at),
        })
    }

    /// [`Self::operand`] of rows of `width` numbers, and from one row to the next: in bf16 a multiple of [`FAST`], with
    /// zeros behind.
    pub fn operand_rows(
        &self,
        data: Data,
        (rows, width): (usize, usize),
        precision: Precision,
    ) -> Result<(Operand, usize)> {
        let pitch = width.next_multiple_of(FAST);
        if pitch == width || precision != Precision::Bf16 {
            let whole = self.operand(data, rows * width, precision)?;
            return Ok((whole, width));
        }
        let padded = Operand::rounded(self, self.alloc(rows * pitch)?);
        let name = if data.bf16 { "pad_rows" } else { "round_rows" };
        launch!(
            self,
            POINTWISE,
            name,
            Threads::each(rows * pitch),
            data.at,
            padded.at,
            width as i32,
            pitch as i32,
            (rows * pitch) as u64
        );
        Ok((padded, pitch))
    }

    /// Queues a product of numbers in this precision, summed in f32.
    pub fn gemm(&self, gemm: Gemm, precision: Precision) -> Result<()> {
        use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let [m, n, k] = gemm.size;
        if m == 0 || n == 0 {
            return Ok(());
        }
        if k == 0
            || [m, n, k, gemm.a.pitch, gemm.b.pitch, gemm.c.1]
                .iter()
                .any(|&v| v > i32::MAX as usize)
        {
            bail!("a product of {m} x {k} and {k} x {n}");
        }
        let op = |turned| if turned { CUBLAS_OP_T } else { CUBLAS_OP_N };
        let kind = match precision.wider() {
            Precision::F32 => sys::cudaDataType::CUDA_R_32F,
            _ => sys::cudaDataType::CUDA_R_16BF,
        };
        let (alpha, beta) = (1.0f32, gemm.beta);
        let blas = self.device().cublas_handle();
        // cuBLAS counts by columns: the same memory is the turned matrices, and c' = b' a'.
        // SAFETY: the callers' matrices lie within their memory.
        let done = unsafe {
            result::gemm_ex(
                *blas.handle(),
                op(gemm.b.turned),
                op(gemm.a.turned),
                n as i32,
                m as i32,
                k as i32,
                (&raw const alpha).cast(),
                gemm.b.at as *const _,
                kind,
                gemm.b.pitch as i32,
                gemm.a.at as *const _,
                kind,
                gemm.a.pitch as i32,
                (&raw const beta).cast(),
                gemm.c.0 as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                gemm.c.1 as i32,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => bail!("cuBLAS: {error:?} for {gemm:?}"),
        }
    }

    /// Writes the same row of `width` numbers `rows` times.
    pub fn fill_rows(&self, row: Address, to: Address, rows: usize, width: usize) -> Result<()> {
        let count = rows * width;
        let threads = Threads::each(count);
        launch!(
            self,
            POINTWISE,
            "fill_rows",
            threads,
            row,
            to,
            count as u64,
            width as i32
        );
        Ok(())
    }
}
