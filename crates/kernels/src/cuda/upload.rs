//! Copies into a GPU's memory beside its work: on a queue of their own, from memory that is pinned for it.
//!
//! A copy on the one queue that computes would wait for all that is queued there, and the work queued after it for the
//! copy. Here the memory is taken and filled on another queue; when that is done, it is handed to the queue that
//! computes, which also gives it back, after its last use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DeviceRepr, result};
use candle_core::cuda_backend::{CudaDType, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

/// Bytes that are copied at a time; while one piece travels the other is filled.
const PIECE: usize = 32 << 20;
/// Bytes that one thread fills.
const RUN: usize = 1 << 20;

/// Pinned memory.
struct Piece {
    at: *mut u8,
    /// When its last copy is done.
    done: Option<CudaEvent>,
}

// SAFETY: the memory is the piece's own, and belongs to no thread.
unsafe impl Send for Piece {}

impl Piece {
    fn new() -> Result<Self> {
        // SAFETY: plain pinned memory, given back when the piece is dropped.
        let at = unsafe { result::malloc_host(PIECE, 0) }.w()?;
        Ok(Self {
            at: at.cast(),
            done: None,
        })
    }

    /// Its first bytes, when its last copy is done with them.
    fn bytes(&mut self, count: usize) -> Result<&mut [u8]> {
        if let Some(done) = self.done.take() {
            done.synchronize().w()?;
        }
        // SAFETY: the piece has PIECE bytes, and nobody else reads or writes them now.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at, count.min(PIECE)) })
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: it was pinned by `new`. At the end of the process the driver may be gone, which does no harm.
        let _ = unsafe { result::free_host(self.at.cast()) };
    }
}

/// The queue of a GPU's copies.
struct Uploads {
    queue: Arc<CudaStream>,
    pieces: [Piece; 2],
}

impl Uploads {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        Ok(Self {
            queue: stream.context().new_stream().w()?,
            pieces: [Piece::new()?, Piece::new()?],
        })
    }

    /// Copies `bytes` to where they are to be; there when this returns.
    fn copy(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        for (i, part) in bytes.chunks(PIECE).enumerate() {
            let piece = &mut self.pieces[i % 2];
            let pinned = piece.bytes(part.len())?;
            let runs = pinned.par_chunks_mut(RUN).zip(part.par_chunks(RUN));
            runs.for_each(|(to, from)| to.copy_from_slice(from));
            let to = to + (i * PIECE) as u64;
            // SAFETY: the memory is there and large enough, and the piece stays as it is until the copy is done.
            unsafe { result::memcpy_htod_async(to, pinned, self.queue.cu_stream()) }.w()?;
            piece.done = Some(self.queue.record_event(None).w()?);
        }
        self.queue.synchronize().w()
    }
}

/// A tensor with these numbers.
pub fn upload<T: CudaDType + DeviceRepr>(
    numbers: &[T],
    shape: Shape,
    device: &CudaDevice,
) -> Result<Tensor> {
    static UPLOADS: OnceLock<Mutex<HashMap<DeviceId, Uploads>>> = OnceLock::new();
    if numbers.len() != shape.elem_count() || numbers.is_empty() {
        bail!("{} numbers for a tensor {shape:?}", numbers.len());
    }
    let uploads = UPLOADS.get_or_init(Default::default);
    // Another thread's panic leaves the map whole.
    let mut uploads = uploads.lock().unwrap_or_else(|e| e.into_inner());
    let uploads = match uploads.entry(device.id()) {
        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
        std::collections::hash_map::Entry::Vacant(free) => free.insert(Uploads::new(device)?),
    };
    let computing = device.cuda_stream();
    computing.context().bind_to_thread().w()?;
    let bytes = size_of_val(numbers);
    // SAFETY: the memory is given back by the slice that is made of it.
    let at = unsafe { result::malloc_async(uploads.queue.cu_stream(), bytes) }.w()?;
    // SAFETY: it is the memory of so many numbers, and nobody else's. It is filled before anyone else has it.
    let slice = unsafe { computing.upgrade_device_ptr::<T>(at, numbers.len()) };
    // SAFETY: every number is plain bytes.
    let bytes = unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), bytes) };
    uploads.copy(bytes, at)?;
    let storage = Storage::Cuda(T::wrap_cuda_slice(slice, device.clone()));
    Ok(Tensor::from_storage(
        storage,
        shape,
        BackpropOp::none(),
        false,
    ))
}
