//! Work cut into rows, for all threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::segments::Segments;

/// Numbers that one task handles: enough to be worth a thread's waking.
const TASK: usize = 1 << 14;

/// Rows of `width` numbers that make up one task.
pub fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Calls `f(first row, rows of out)` on parts of `out` that hold whole rows of `width` numbers.
pub fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= rows * width {
        if !out.is_empty() {
            f(0, out);
        }
        return;
    }
    out.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(i, part)| f(i * rows, part));
}

/// Rows of one segment that one task handles.
pub struct Part<'a, T = f32> {
    /// Which rows.
    pub rows: Range<usize>,
    /// Their weight group.
    pub group: usize,
    /// Where their results go.
    pub out: &'a mut [T],
}

/// Cuts the segments into tasks, each with its rows of `out`; rows in no segment are in no task.
pub fn parts<'a>(segments: &Segments, width: usize, out: &'a mut [f32]) -> Vec<Part<'a>> {
    parts_of(segments, rows_per_task(width), width, out)
}

/// The same with at most so many `rows` a task.
pub fn parts_of<'a, T>(
    segments: &Segments,
    rows: usize,
    width: usize,
    mut out: &'a mut [T],
) -> Vec<Part<'a, T>> {
    let step = rows;
    let mut parts = Vec::new();
    let mut done = 0;
    for (range, group) in segments.parts() {
        for start in range.clone().step_by(step) {
            let rows = start..(start + step).min(range.end);
            let (_, rest) = out.split_at_mut((start - done) * width);
            let (own, rest) = rest.split_at_mut(rows.len() * width);
            (out, done) = (rest, rows.end);
            parts.push(Part {
                rows,
                group: *group,
                out: own,
            });
        }
    }
    parts
}

/// Adds up what `f` gives for each part, by group; the order does not depend on the threads.
/// `f` adds to a row of `width` numbers.
pub fn fold_parts(
    parts: Vec<Part>,
    (groups, width): (usize, usize),
    f: impl Fn(Part, &mut [f32]) + Sync,
) -> Vec<f32> {
    let sums: Vec<(usize, Vec<f32>)> = parts
        .into_par_iter()
        .map(|part| {
            let (group, mut sum) = (part.group, vec![0.0; width]);
            f(part, &mut sum);
            (group, sum)
        })
        .collect();
    sum_groups(sums, (groups, width))
}

/// Adds up rows of `width` numbers by group, in their order.
pub fn sum_groups(rows: Vec<(usize, Vec<f32>)>, (groups, width): (usize, usize)) -> Vec<f32> {
    let mut total = vec![0.0; groups * width];
    for (group, row) in rows {
        let to = &mut total[group * width..][..width];
        to.iter_mut().zip(&row).for_each(|(t, s)| *t += s);
    }
    total
}
