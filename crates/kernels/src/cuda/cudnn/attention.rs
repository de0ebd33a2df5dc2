//! Attention as cuDNN's one operation for it.

use candle_core::Result;

use super::backend::{Api, BF16, Descriptor, E4M3, F32, kind, name};
use super::plan::{Graph, Tensor};

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

    /// The graph of one operation.
    pub fn graph(&self, api: &Api) -> Result<Graph> {
        let operation = Descriptor::new(api, kind::ATTENTION)?;
        let mut graph = Graph::default();
        for (i, (numbers, sizes, strides)) in self.tensors().into_iter().enumerate() {
            let mut tensor = Tensor::new(i as i64 + 1, numbers, &sizes, &strides);
            // The factor on the products is a number of the caller's, not of the GPU's.
            tensor.by_value = i == SCALE;
            let tensor = graph.tensor(api, &tensor)?;
            operation.set_one(api, name::ATTENTION_FIRST + i as i32, tensor)?;
        }
        for i in 0..if self.eight { SCALES } else { 0 } {
            let tensor = Tensor::new(FIRST_SCALE + i as i64, F32, &[1; 4], &[1; 4]);
            let tensor = graph.tensor(api, &tensor)?;
            operation.set_one(api, name::ATTENTION_SCALES + i as i32, tensor)?;
        }
        graph.operations.push(operation.finish(api, "attention")?);
        Ok(graph)
    }
}

/// Where the factor on the products is among the tensors of `Shape::tensors`.
const SCALE: usize = 5;
/// The number of the first scale of 8-bit floats: the tensors of `Shape::tensors` are 1 to 6.
const FIRST_SCALE: i64 = 7;

/// Addresses of queries, keys, values, output and logarithms, of the factor on the products, and of the first of the
/// scales of 8-bit floats, by their numbers in the graph.
pub fn places(tensors: [u64; 5], scale: &f32, scales: Option<u64>) -> Vec<(i64, u64)> {
    let own = tensors.into_iter().chain([(&raw const *scale) as u64]);
    let scales = scales
        .into_iter()
        .flat_map(|first| (0..SCALES).map(move |i| first + (4 * SCALE_STEP * i) as u64));
    (1..).zip(own.chain(scales)).collect()
}
