//! Plans as lists of tiles, in the GPU's memory.

use std::sync::{Arc, Mutex, OnceLock};

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};

use super::TILE;
use crate::attention::AttentionPlan;
use crate::cuda::gpu::Gpu;

/// Plans that are kept as lists.
const KEPT: usize = 16;

/// Queries of a tile and the ranges that they see, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QueryTile {
    q: i32,
    end: i32,
    start: i32,
    ranges: i32,
    count: i32,
    causal: i32,
}

/// Queries that see a range of keys, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Seen {
    q: i32,
    end: i32,
    start: i32,
    low: i32,
    high: i32,
    causal: i32,
}

// SAFETY: numbers of 32 bits, laid out as in the kernels.
unsafe impl DeviceRepr for QueryTile {}
// SAFETY: as above.
unsafe impl DeviceRepr for Seen {}

/// A plan in the GPU's memory.
pub struct Lists {
    pub tiles: CudaSlice<QueryTile>,
    pub count: usize,
    pub ranges: CudaSlice<i32>,
    pub seen: CudaSlice<Seen>,
    pub offsets: CudaSlice<i32>,
}

impl Lists {
    fn new(gpu: &Gpu, plan: &AttentionPlan, keys: usize) -> Result<Self> {
        let (mut tiles, mut ranges) = (Vec::new(), Vec::new());
        let mut by_tile: Vec<Vec<Seen>> = vec![Vec::new(); keys.div_ceil(TILE)];
        for block in &plan.blocks {
            let first = ranges.len() / 2;
            for (i, range) in block.k.iter().enumerate() {
                let causal = block.causal && i + 1 == block.k.len();
                ranges.extend([range.start as i32, range.end.max(range.start) as i32]);
                if range.is_empty() || block.q.is_empty() {
                    continue;
                }
                for list in &mut by_tile[range.start / TILE..range.end.div_ceil(TILE)] {
                    list.push(Seen {
                        q: block.q.start as i32,
                        end: block.q.end as i32,
                        start: block.q.start as i32,
                        low: range.start as i32,
                        high: range.end as i32,
                        causal: i32::from(causal),
                    });
                }
            }
            for q in block.q.clone().step_by(TILE) {
                tiles.push(QueryTile {
                    q: q as i32,
                    end: (q + TILE).min(block.q.end) as i32,
                    start: block.q.start as i32,
                    ranges: first as i32,
                    count: block.k.len() as i32,
                    causal: i32::from(block.causal),
                });
            }
        }
        let mut offsets = vec![0i32];
        for list in &by_tile {
            offsets.push(offsets[offsets.len() - 1] + list.len() as i32);
        }
        // Tiles that see much come first, so that none is left running alone at the end.
        let work = |tile: &QueryTile| -> i64 {
            let list = &ranges[2 * tile.ranges as usize..][..2 * tile.count as usize];
            list.chunks(2).map(|r| i64::from(r[1] - r[0])).sum()
        };
        tiles.sort_by_key(|tile| -work(tile));
        Ok(Self {
            count: tiles.len(),
            tiles: gpu.upload(&tiles)?,
            ranges: gpu.upload(&ranges)?,
            seen: gpu.upload(&by_tile.concat())?,
            offsets: gpu.upload(&offsets)?,
        })
    }

    /// The lists of a plan, made once for all layers of a network that use it.
    pub fn of(gpu: &Gpu, plan: &AttentionPlan, keys: usize) -> Result<Arc<Self>> {
        type Known = (
            candle_core::cuda_backend::DeviceId,
            usize,
            AttentionPlan,
            Arc<Lists>,
        );
        static KNOWN: OnceLock<Mutex<Vec<Known>>> = OnceLock::new();
        let id = gpu.device().id();
        let mut known = (KNOWN.get_or_init(Default::default).lock())
            // Another thread's panic leaves the list whole.
            .unwrap_or_else(|e| e.into_inner());
        let same = |k: &Known| k.0 == id && k.1 == keys && k.2.blocks == plan.blocks;
        if let Some(at) = known.iter().position(same) {
            let found = known.remove(at);
            let lists = found.3.clone();
            known.push(found);
            return Ok(lists);
        }
        let lists = Arc::new(Self::new(gpu, plan, keys)?);
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((id, keys, plan.clone(), lists.clone()));
        Ok(lists)
    }
}
