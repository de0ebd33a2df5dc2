//! Products of 8-bit floats on the GPU, as `crate::gemm::eight` has them on the processor.

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{CudaStorage, Result};

use super::cudnn::{SCALE_STEP, SCALES};
use super::gpu::{Address, Data, Gpu, Text, Threads, launch};
use super::lt::{ALIGNMENT, Bytes, Scaling};
use super::product::{Gemm, Matrix};
use crate::attention::Extents;
use crate::gemm::Precision;
use crate::segments::Segments;

/// What the length of a row is a multiple of.
const WIDTH: usize = 16;
/// Threads of the block that rounds a row.
const THREADS: u32 = 128;
/// Numbers that a block looks through for the greatest.
const RUN: usize = 128 * 64;

/// Rows of E4M3 numbers and their scales, with zeros behind the real numbers of a row.
pub struct Eight {
    bytes: CudaSlice<u8>,
    scales: CudaSlice<f32>,
    rows: usize,
    width: usize,
}

impl Eight {
    /// Rounds `rows` rows of `width` numbers.
    pub fn new(gpu: &Gpu, data: Data, (rows, width): (usize, usize)) -> Result<Self> {
        let padded = width.next_multiple_of(WIDTH);
        let (bytes, scales) = (gpu.alloc::<u8>(rows * padded)?, gpu.alloc::<f32>(rows)?);
        let name = if data.bf16 { "round_16" } else { "round_f32" };
        let (to, scales_at) = (gpu.address(&bytes), gpu.address(&scales));
        launch!(
            gpu,
            Text::Eight,
            name,
            Threads::blocks((rows, 1, 1), (THREADS, 1), 0),
            data.at,
            width as i32,
            padded as i32,
            to,
            scales_at
        );
        Ok(Self {
            bytes,
            scales,
            rows,
            width: padded,
        })
    }

    fn row(&self, gpu: &Gpu, row: usize) -> Address {
        gpu.address(&self.bytes) + (row * self.width) as u64
    }

    fn scale(&self, gpu: &Gpu, row: usize) -> Address {
        gpu.address(&self.scales) + (4 * row) as u64
    }
}

/// `x W^T` with the matrix of each row's group, plus its bias, in f32.
pub fn product(
    gpu: &Gpu,
    [x, w]: [&Eight; 2],
    bias: Option<Address>,
    segments: &Segments,
) -> Result<CudaStorage> {
    let output = w.rows / segments.groups();
    let y = match segments.covers(x.rows) {
        true => gpu.alloc(x.rows * output)?,
        false => gpu.zeros(x.rows * output)?,
    };
    for (range, group) in segments.parts().iter().filter(|part| !part.0.is_empty()) {
        let first = group * output;
        let part = Part {
            gpu,
            x,
            w,
            size: [range.len(), output, x.width],
            from: [range.start, first],
            to: gpu.address(&y) + (4 * range.start * output) as u64,
        };
        let scaled = part.multiply()?;
        part.finish(scaled, bias.map(|b| b + (4 * first) as u64))?;
    }
    Ok(gpu.storage(y))
}

/// The rows of one segment.
struct Part<'a> {
    gpu: &'a Gpu,
    x: &'a Eight,
    w: &'a Eight,
    /// Rows, outputs, numbers that are summed over.
    size: [usize; 3],
    /// The first row of x and of w.
    from: [usize; 2],
    to: Address,
}

impl Part<'_> {
    /// The products; whether they are scaled. As bf16 where the GPU, or the release, has no such products of bytes.
    fn multiply(&self) -> Result<bool> {
        let (gpu, [first, own]) = (self.gpu, self.from);
        let bytes = |scaling| Bytes {
            size: self.size,
            x: self.x.row(gpu, first),
            w: self.w.row(gpu, own),
            to: self.to,
            scaling,
        };
        let [rows, output, _] = self.size;
        let of_x = self.aligned(self.x.scale(gpu, first), rows)?;
        let of_w = self.aligned(self.w.scale(gpu, own), output)?;
        if gpu.multiply_bytes(&bytes(Scaling::Rows([of_x.0, of_w.0])))? {
            return Ok(true);
        }
        if !gpu.multiply_bytes(&bytes(Scaling::None))? {
            self.multiply_widened()?;
        }
        Ok(false)
    }

    /// Scales where cuBLASLt reads them: these or a copy.
    fn aligned(&self, at: Address, count: usize) -> Result<(Address, Option<CudaSlice<f32>>)> {
        if at.is_multiple_of(u64::from(ALIGNMENT)) {
            return Ok((at, None));
        }
        let copy = self.gpu.alloc::<f32>(count)?;
        let to = self.gpu.address(&copy);
        self.gpu.fill_rows(at, to, 1, count)?;
        Ok((to, Some(copy)))
    }

    fn multiply_widened(&self) -> Result<()> {
        let (gpu, [rows, output, width]) = (self.gpu, self.size);
        let x = self.widened(self.x.row(gpu, self.from[0]), rows * width)?;
        let w = self.widened(self.w.row(gpu, self.from[1]), output * width)?;
        let matrix = |numbers: &CudaSlice<u16>, turned| Matrix {
            at: gpu.address(numbers),
            pitch: width,
            turned,
        };
        let gemm = Gemm {
            size: self.size,
            a: matrix(&x, false),
            b: matrix(&w, true),
            c: (self.to, output),
            beta: 0.0,
        };
        gpu.gemm(gemm, Precision::Bf16)
    }

    fn widened(&self, from: Address, count: usize) -> Result<CudaSlice<u16>> {
        let gpu = self.gpu;
        let wide = gpu.alloc::<u16>(count)?;
        let (to, threads) = (gpu.address(&wide), Threads::each(count));
        launch!(
            gpu,
            Text::Eight,
            "widen_eight",
            threads,
            from,
            to,
            count as u64
        );
        Ok(wide)
    }

    /// Scales what is not scaled, and adds the bias.
    fn finish(&self, scaled: bool, bias: Option<Address>) -> Result<()> {
        if scaled && bias.is_none() {
            return Ok(());
        }
        let (gpu, [rows, output, _]) = (self.gpu, self.size);
        let [by_row, by_column] = match scaled {
            true => [0, 0],
            false => [
                self.x.scale(gpu, self.from[0]),
                self.w.scale(gpu, self.from[1]),
            ],
        };
        let count = rows * output;
        launch!(
            gpu,
            Text::Eight,
            "scale_rows",
            Threads::each(count),
            self.to,
            by_row,
            by_column,
            bias.unwrap_or(0),
            output as i32,
            count as u64
        );
        Ok(())
    }
}

/// Queries, keys and values of an attention as E4M3, each of the three with one scale, a power of two.
pub struct EightHeads {
    bytes: [CudaSlice<u8>; 3],
    scales: CudaSlice<f32>,
}

impl EightHeads {
    /// Rounds what lies as `[heads, rows, head]` in bf16.
    pub fn new(gpu: &Gpu, e: Extents, inputs: [Address; 3]) -> Result<Self> {
        let keys = e.keys * e.key_heads * e.head;
        let counts = [e.queries * e.query_heads * e.head, keys, keys];
        let greatest = gpu.zeros::<u32>(counts.len())?;
        let greatest_at = gpu.address(&greatest);
        for (i, (from, count)) in inputs.into_iter().zip(counts).enumerate() {
            launch!(
                gpu,
                Text::Eight,
                "greatest_16",
                Threads::blocks((count.div_ceil(RUN), 1, 1), (THREADS, 1), 0),
                from,
                greatest_at + (4 * i) as u64,
                count as u64
            );
        }
        let scales = gpu.alloc::<f32>(SCALES * SCALE_STEP)?;
        let scales_at = gpu.address(&scales);
        launch!(
            gpu,
            Text::Eight,
            "attention_scales",
            Threads::each(1),
            greatest_at,
            scales_at
        );
        let round = |i: usize| -> Result<CudaSlice<u8>> {
            let bytes = gpu.alloc::<u8>(counts[i])?;
            let (to, scale) = (gpu.address(&bytes), scales_at + (4 * SCALE_STEP * i) as u64);
            launch!(
                gpu,
                Text::Eight,
                "round_all",
                Threads::each(counts[i] / 4),
                inputs[i],
                scale,
                to,
                counts[i] as u64
            );
            Ok(bytes)
        };
        Ok(Self {
            bytes: [round(0)?, round(1)?, round(2)?],
            scales,
        })
    }

    /// Where queries, keys and values are.
    pub fn places(&self, gpu: &Gpu) -> [Address; 3] {
        self.bytes.each_ref().map(|bytes| gpu.address(bytes))
    }

    /// Where the scales are, in the order in which cuDNN has them.
    pub fn scales(&self, gpu: &Gpu) -> Address {
        gpu.address(&self.scales)
    }
}
