//! Attention by cuDNN: the blocks of a plan in which every query sees every key of its ranges, as pairs of ranges, each
//! an attention of its own; what belongs to the same queries is merged by the logarithms of the sums.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::Result;

use super::cudnn::{self, Fused, Plan, Shape, Work, chosen, places};
use super::eight::EightHeads;
use super::gpu::{Address, Gpu, Text, Threads, launch};
use crate::attention::{AttentionBlock, AttentionPlan, Extents};

/// Why cuDNN refused an attention that was meant for it.
static REFUSED: OnceLock<String> = OnceLock::new();

/// The release of cuDNN that computes large attentions, after `open_libraries`.
///
/// # Errors
/// If none does, in words for the user: it is missing, too old, or refused. The kernels of this crate do it then.
pub fn fused_attention() -> std::result::Result<String, String> {
    match REFUSED.get() {
        Some(why) => Err(why.clone()),
        None => cudnn::version(),
    }
}

/// Below so many products of a query and a key a call is not worth its start.
const WORTH: usize = 1 << 20;

/// Queries that see a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    q: Range<usize>,
    k: Range<usize>,
}

/// What is asked of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Gradients, later.
    pub trains: bool,
    /// Speed before exactness: 8-bit floats.
    pub eight: bool,
}

/// A plan whose blocks are shared between cuDNN and the own kernels.
pub struct Split {
    eight: bool,
    calls: Vec<(Pair, Arc<Plan>)>,
    /// What cuDNN does not do: the blocks in which later keys are hidden.
    pub rest: AttentionPlan,
}

/// Ranges in order, those that touch as one.
fn joined(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|r| r.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// The pairs of all blocks, in the order of their keys; queries that touch and see the same range are one pair.
fn pairs(blocks: &[&AttentionBlock]) -> Vec<Pair> {
    let mut all: Vec<Pair> = (blocks.iter().filter(|b| !b.q.is_empty()))
        .flat_map(|b| joined(&b.k).into_iter().map(|k| Pair { q: b.q.clone(), k }))
        .collect();
    all.sort_by_key(|p| (p.k.start, p.k.end, p.q.start));
    all.dedup_by(|next, pair| {
        let same = next.k == pair.k && next.q.start == pair.q.end;
        if same {
            pair.q.end = next.q.end;
        }
        same
    });
    all
}

impl Split {
    /// How cuDNN computes a plan on bf16 numbers, or on 8-bit floats if those are wanted and it takes them; none if
    /// the own kernels compute all of it.
    pub fn new(gpu: &Gpu, plan: &AttentionPlan, e: Extents, wish: Wish) -> Result<Option<Self>> {
        let fused = chosen();
        if fused == Fused::Never || ![64, 128].contains(&e.head) || plan.softcap.is_some() {
            return Ok(None);
        }
        let (rest, dense): (Vec<_>, Vec<_>) = plan.blocks.iter().partition(|b| b.causal);
        let pairs = pairs(&dense);
        let work: usize = pairs.iter().map(|p| p.q.len() * p.k.len()).sum();
        let worth = !wish.trains && work >= pairs.len() * WORTH;
        if pairs.is_empty() || (fused == Fused::Auto && (!worth || cudnn::version().is_err())) {
            return Ok(None);
        }
        let eight = wish.eight && cudnn::has_eight();
        match compiled(gpu, &pairs, (e, eight)) {
            Ok(plans) => Ok(Some(Self {
                eight,
                calls: pairs.into_iter().zip(plans).collect(),
                rest: AttentionPlan {
                    blocks: rest.into_iter().cloned().collect(),
                    ..plan.clone()
                },
            })),
            Err(error) if fused == Fused::Auto => {
                let _ = REFUSED.set(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Queues it: writes the output `[Lq, Nq, K]` of all queries that see something and, to base 2, the logarithms of
    /// their sums `[Nq, Lq]`, which are infinite for all others.
    pub fn run(&self, job: &Job, out: Address, lse: Address) -> Result<()> {
        let (gpu, e) = (job.gpu, job.extents);
        let count = e.query_heads * e.queries;
        launch!(
            gpu,
            Text::Merge,
            "nothing_seen",
            Threads::each(count),
            lse,
            count as u64
        );
        let numbers = match self.eight {
            true => Stored::Eight(Box::new(EightHeads::new(gpu, e, job.inputs)?)),
            false => Stored::Sixteen,
        };
        for (pair, plan) in &self.calls {
            job.run(&numbers, (pair, plan), (out, lse))?;
        }
        Ok(())
    }
}

/// What is computed: queries, keys and values as `[heads, rows, head]` in bf16.
pub struct Job<'a> {
    pub gpu: &'a Gpu,
    pub extents: Extents,
    pub scale: f32,
    pub inputs: [Address; 3],
}

/// What cuDNN reads and writes.
enum Stored {
    Sixteen,
    Eight(Box<EightHeads>),
}

impl Job<'_> {
    fn run(
        &self,
        numbers: &Stored,
        (pair, plan): (&Pair, &Plan),
        (out, lse): (Address, Address),
    ) -> Result<()> {
        let (gpu, e) = (self.gpu, self.extents);
        let rows = pair.q.len();
        let (width, [q, k, v], scales, merge) = match numbers {
            Stored::Sixteen => (2, self.inputs, None, "merge_attention"),
            Stored::Eight(heads) => (
                1,
                heads.places(gpu),
                Some(heads.scales(gpu)),
                "merge_attention_eight",
            ),
        };
        let part = gpu.alloc::<u8>(width * rows * e.query_heads * e.head)?;
        let sums = gpu.alloc::<f32>(rows * e.query_heads)?;
        let (part_at, sums_at) = (gpu.address(&part), gpu.address(&sums));
        let at = |base: Address, row: usize| base + (width * row * e.head) as u64;
        let (first, from) = (pair.q.start, pair.k.start);
        let tensors = [at(q, first), at(k, from), at(v, from), part_at, sums_at];
        cudnn::run(gpu, plan, &places(tensors, &self.scale, scales))?;
        launch!(
            gpu,
            Text::Merge,
            merge,
            Threads::warps(rows * e.query_heads),
            part_at,
            sums_at,
            scales.unwrap_or(0),
            first as i32,
            rows as i32,
            e.queries as i32,
            e.query_heads as i32,
            e.head as i32,
            out,
            lse
        );
        Ok(())
    }
}

/// The plans of pairs, compiled where they are new.
fn compiled(gpu: &Gpu, pairs: &[Pair], (e, eight): (Extents, bool)) -> Result<Vec<Arc<Plan>>> {
    let plans = pairs.iter().map(|pair| {
        let shape = Shape {
            rows: [pair.q.len(), pair.k.len()],
            all: [e.queries, e.keys],
            heads: [e.query_heads, e.key_heads],
            head: e.head,
            eight,
        };
        cudnn::compiled(gpu, Work::Attention(shape))
    });
    plans.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(q: Range<usize>, k: &[Range<usize>]) -> AttentionBlock {
        AttentionBlock {
            q,
            k: k.to_vec(),
            causal: false,
        }
    }

    #[test]
    fn frames_that_see_the_text_see_it_in_one_call() {
        // Two frames with windows of their own, which both see the text; text that sees all in two ranges.
        let blocks = [
            block(0..10, &[0..20, 40..45]),
            block(10..20, &[40..45, 0..30]),
            block(40..45, &[0..40, 40..45]),
        ];
        let found = pairs(&blocks.iter().collect::<Vec<_>>());
        let pair = |q, k| Pair { q, k };
        let wanted = [
            pair(0..10, 0..20),
            pair(10..20, 0..30),
            pair(40..45, 0..45),
            pair(0..20, 40..45),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn nothing_is_seen_through_empty_ranges() {
        let blocks = [block(0..0, &[0..9, 9..20]), block(3..5, &[7..7, 9..9])];
        assert_eq!(pairs(&blocks.iter().collect::<Vec<_>>()), []);
    }
}
