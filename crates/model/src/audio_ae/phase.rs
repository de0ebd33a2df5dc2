//! Phases for a spectrogram that has none.
//!
//! First by integrating the gradient of the phase, which for a window near a Gaussian follows from the
//! gradient of the log magnitude, from loud places to quiet ones (Prusa, Balazs and Sondergaard 2017, "A
//! noniterative method for reconstruction of phase from STFT magnitude"); then by a few rounds of the fast
//! Griffin-Lim algorithm (Perraudin, Balazs and Sondergaard 2013).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use realfft::num_complex::Complex;

use super::spectrum::{BINS, HOP, HOPS, WINDOW, inverse, transform};

/// Width of the Gaussian nearest to a Hann window, over the square of the window's length.
const HANN: f32 = 0.25645;
/// Quieter than this share of the loudest, phases are drawn by chance.
const QUIET: f32 = 1e-5;
/// Rounds of fast Griffin-Lim, and how far each goes on in the last one's direction.
const ROUNDS: usize = 24;
const MOMENTUM: f32 = 0.99;

/// Phases, as numbers of absolute value 1, for magnitudes `[8 A, BINS]`.
pub(super) fn reconstruct(magnitudes: &[f32]) -> Vec<Complex<f32>> {
    let loudest = magnitudes.iter().fold(0f32, |most, m| most.max(*m));
    if loudest == 0.0 {
        return vec![Complex::new(1.0, 0.0); magnitudes.len()];
    }
    let mut found: Vec<Complex<f32>> = (integrate(magnitudes, QUIET * loudest).iter())
        .enumerate()
        .map(|(i, phase)| {
            // Integrated phases count from a window's middle, those of the transform from its start.
            let sign = if (i % BINS).is_multiple_of(2) {
                1.0
            } else {
                -1.0
            };
            Complex::from_polar(sign, *phase)
        })
        .collect();
    let count = magnitudes.len() / BINS / HOPS;
    let impose = |phases: &[Complex<f32>]| -> Vec<Complex<f32>> {
        let pairs = phases.iter().zip(magnitudes);
        pairs.map(|(phase, m)| phase * m).collect()
    };
    let mut last: Vec<Complex<f32>> = Vec::new();
    for _ in 0..ROUNDS {
        let consistent = transform(&inverse(&impose(&found)), count);
        for (i, (phase, now)) in found.iter_mut().zip(&consistent).enumerate() {
            let ahead = match last.get(i) {
                Some(last) => now + (now - last) * MOMENTUM,
                None => *now,
            };
            let norm = ahead.norm();
            if norm > 1e-12 {
                *phase = ahead / norm;
            }
        }
        last = consistent;
    }
    found
}

/// A place of the spectrogram, ordered by its magnitude.
struct Place {
    magnitude: f32,
    at: usize,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.magnitude.total_cmp(&other.magnitude)).then(other.at.cmp(&self.at))
    }
}

/// Phases in radians, counted from the middle of each window.
fn integrate(magnitudes: &[f32], quiet: f32) -> Vec<f32> {
    let hops = magnitudes.len() / BINS;
    let (hop, window) = (HOP as f32, WINDOW as f32);
    let gamma = HANN * window * window;
    let log: Vec<f32> = magnitudes.iter().map(|m| m.max(quiet).ln()).collect();
    // Change of the phase from one window to the next, and from one frequency to the next.
    let in_time = |at: usize| {
        let k = at % BINS;
        let (below, above) = (at - usize::from(k > 0), at + usize::from(k + 1 < BINS));
        let slope = log[above] - log[below];
        hop * window / (2.0 * gamma) * slope + std::f32::consts::TAU * hop * k as f32 / window
    };
    let in_frequency = |at: usize| {
        let n = at / BINS;
        let before = if n > 0 { at - BINS } else { at };
        let after = if n + 1 < hops { at + BINS } else { at };
        -gamma / (2.0 * hop * window) * (log[after] - log[before])
    };
    let mut phases = vec![f32::NAN; magnitudes.len()];
    let mut order: Vec<usize> = (0..magnitudes.len())
        .filter(|at| magnitudes[*at] > quiet)
        .collect();
    order.sort_unstable_by(|a, b| magnitudes[*b].total_cmp(&magnitudes[*a]).then(a.cmp(b)));
    let mut heap = BinaryHeap::new();
    for seed in order {
        if !phases[seed].is_nan() {
            continue;
        }
        phases[seed] = chance(seed);
        heap.push(Place {
            magnitude: magnitudes[seed],
            at: seed,
        });
        while let Some(Place { at, .. }) = heap.pop() {
            let (n, k) = (at / BINS, at % BINS);
            let mut reach = |to: usize, step: f32| {
                if phases[to].is_nan() && magnitudes[to] > quiet {
                    phases[to] = phases[at] + step;
                    heap.push(Place {
                        magnitude: magnitudes[to],
                        at: to,
                    });
                }
            };
            if n + 1 < hops {
                reach(at + BINS, 0.5 * (in_time(at) + in_time(at + BINS)));
            }
            if n > 0 {
                reach(at - BINS, -0.5 * (in_time(at) + in_time(at - BINS)));
            }
            if k + 1 < BINS {
                reach(at + 1, 0.5 * (in_frequency(at) + in_frequency(at + 1)));
            }
            if k > 0 {
                reach(at - 1, -0.5 * (in_frequency(at) + in_frequency(at - 1)));
            }
        }
    }
    for (at, phase) in phases.iter_mut().enumerate() {
        if phase.is_nan() {
            *phase = chance(at);
        }
    }
    phases
}

/// A phase that looks drawn by chance, the same each time (a multiplicative hash).
fn chance(at: usize) -> f32 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as f32 / (1u64 << 24) as f32 * std::f32::consts::TAU
}
