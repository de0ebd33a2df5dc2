//! What each token sees, as ranges of rows.

use std::ops::Range;

use gallop_kernels::{AttentionBlock, AttentionPlan};

use super::{Sample, TextRole};
use crate::dit::{AUDIO_A_FRAME, AttentionKind, DitConfig};

/// The attention of all samples in a layer of this kind.
pub(super) fn attention(
    config: &DitConfig,
    samples: &[Sample],
    kind: AttentionKind,
) -> AttentionPlan {
    let mut blocks = Vec::new();
    for sample in samples {
        match kind {
            AttentionKind::Full => full_clip(sample, &mut blocks),
            AttentionKind::Local => local_clip(sample, config.local_frames, &mut blocks),
            AttentionKind::InStep => clip_in_step(sample, &mut blocks),
        }
        text(sample, &mut blocks);
    }
    blocks.retain(|block| !block.q.is_empty());
    AttentionPlan {
        blocks: joined(blocks),
        scale: 1.0 / (config.head_dim as f32).sqrt(),
        ..AttentionPlan::default()
    }
}

/// Rows that lie side by side become one range; empty ones go.
fn merged(ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for range in ranges.into_iter().filter(|r| !r.is_empty()) {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range),
        }
    }
    out
}

/// Neighbouring queries that see the same become one block.
fn joined(blocks: Vec<AttentionBlock>) -> Vec<AttentionBlock> {
    let mut out: Vec<AttentionBlock> = Vec::new();
    for block in blocks {
        match out.last_mut() {
            Some(last)
                if last.q.end == block.q.start
                    && last.k == block.k
                    && !(last.causal || block.causal) =>
            {
                last.q.end = block.q.end;
            }
            _ => out.push(block),
        }
    }
    out
}

fn block(q: Range<usize>, k: Vec<Range<usize>>, causal: bool) -> AttentionBlock {
    AttentionBlock { q, k, causal }
}

/// The text that the clip sees.
fn seen_text(sample: &Sample) -> Range<usize> {
    match sample.spec.text_role {
        TextRole::Everything | TextRole::Prompt => sample.rows[2].clone(),
        TextRole::Caption => 0..0,
    }
}

/// All that a clip sees.
fn seen_all(sample: &Sample) -> Vec<Range<usize>> {
    let [video, audio, _] = sample.rows.clone();
    merged([video, audio, seen_text(sample)])
}

/// The video rows of some frames.
fn video_of(sample: &Sample, frames: Range<usize>) -> Range<usize> {
    let [_, height, width] = sample.grid;
    let row = |frame: usize| sample.rows[0].start + frame * height * width;
    row(frames.start)..row(frames.end)
}

fn full_clip(sample: &Sample, blocks: &mut Vec<AttentionBlock>) {
    let [video, audio, _] = sample.rows.clone();
    let keys = seen_all(sample);
    for q in merged([video, audio]) {
        blocks.push(block(q, keys.clone(), false));
    }
}

fn local_clip(sample: &Sample, reach: usize, blocks: &mut Vec<AttentionBlock>) {
    let audio = sample.rows[1].clone();
    let frames = sample.grid[0];
    for frame in 0..frames {
        let near = frame.saturating_sub(reach)..(frame + reach + 1).min(frames);
        let keys = merged([video_of(sample, near), audio.clone(), seen_text(sample)]);
        blocks.push(block(video_of(sample, frame..frame + 1), keys, false));
    }
    blocks.push(block(audio, seen_all(sample), false));
}

/// The audio rows that video frame `frame` of `frames` lasts: the first frame is one of pixels, the others four. The
/// last has what is left over.
fn audio_of(audio: &Range<usize>, frame: usize, frames: usize) -> Range<usize> {
    let begin = |frame: usize| match frame {
        0 => audio.start,
        _ => (audio.start + AUDIO_A_FRAME * (frame - 1) + 1).min(audio.end),
    };
    let end = match frame + 1 == frames {
        true => audio.end,
        false => begin(frame + 1),
    };
    begin(frame)..end
}

fn clip_in_step(sample: &Sample, blocks: &mut Vec<AttentionBlock>) {
    let [video, audio, _] = sample.rows.clone();
    if video.is_empty() || audio.is_empty() {
        return full_clip(sample, blocks);
    }
    blocks.push(block(video, seen_all(sample), false));
    let frames = sample.grid[0];
    for frame in 0..frames {
        let picture = video_of(sample, frame..frame + 1);
        let keys = merged([picture, audio.clone(), seen_text(sample)]);
        blocks.push(block(audio_of(&audio, frame, frames), keys, false));
    }
}

fn text(sample: &Sample, blocks: &mut Vec<AttentionBlock>) {
    let [video, audio, text] = sample.rows.clone();
    let mut keys = merged([video, audio]);
    match sample.spec.text_role {
        TextRole::Everything => {
            keys.push(text.clone());
            blocks.push(block(text, merged(keys), false));
        }
        // The last key range of a causal block is the queries' own, so it stays apart.
        TextRole::Caption => {
            keys.push(text.clone());
            blocks.push(block(text, keys, true));
        }
        TextRole::Prompt => blocks.push(block(text.clone(), vec![text], true)),
    }
}
