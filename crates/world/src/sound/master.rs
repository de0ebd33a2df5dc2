//! The last step: a good level, and never more than full scale.

/// Peaks are brought toward this.
const TARGET: f32 = 0.7;
/// No sample exceeds this.
const CEILING: f32 = 0.95;
/// Samples over which the limiter turns down before a peak and up after it.
const WINDOW: usize = 480;

/// Brings quiet scores up and loud ones down, keeping part of the difference, then limits.
pub(super) fn master(left: &mut [f32], right: &mut [f32]) {
    let peak = left
        .iter()
        .chain(right.iter())
        .fold(0.0f32, |m, x| m.max(x.abs()));
    if peak <= 1e-6 {
        return;
    }
    let gain = (TARGET / peak).powf(0.6).min(4.0);
    for x in left.iter_mut().chain(right.iter_mut()) {
        *x *= gain;
    }
    if peak * gain > CEILING {
        limit(left, right);
    }
}

/// A look-ahead limiter: the least gain needed nearby, smoothed, so that no step is heard.
fn limit(left: &mut [f32], right: &mut [f32]) {
    let needed: Vec<f32> = left
        .iter()
        .zip(right.iter())
        .map(|(l, r)| (CEILING / l.abs().max(r.abs()).max(1e-9)).min(1.0))
        .collect();
    let lowest = sliding_minimum(&needed, WINDOW);
    let mut sum = 0.0f64;
    let n = lowest.len();
    let get = |i: i64| f64::from(lowest[i.clamp(0, n as i64 - 1) as usize]);
    let (half, width) = (WINDOW as i64, 2 * WINDOW as i64 + 1);
    for i in -half..=half {
        sum += get(i);
    }
    for i in 0..n {
        let gain = (sum / width as f64) as f32;
        left[i] *= gain;
        right[i] *= gain;
        sum += get(i as i64 + half + 1) - get(i as i64 - half);
    }
}

/// The least value within `half` samples on both sides of each.
fn sliding_minimum(values: &[f32], half: usize) -> Vec<f32> {
    let mut queue: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    let mut next = 0;
    (0..values.len())
        .map(|i| {
            while next < values.len() && next <= i + half {
                while queue.back().is_some_and(|&j| values[j] >= values[next]) {
                    queue.pop_back();
                }
                queue.push_back(next);
                next += 1;
            }
            while queue.front().is_some_and(|&j| j + half < i) {
                queue.pop_front();
            }
            queue.front().map_or(1.0, |&j| values[j])
        })
        .collect()
}
