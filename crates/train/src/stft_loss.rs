//! How far apart two sounds are, at several resolutions of time and frequency, with the gradient.

use std::sync::Arc;

use rayon::prelude::*;
use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

/// Windows that a hop moves on by, as a part of the window.
const HOPS_A_WINDOW: usize = 4;
/// Added to magnitudes before the logarithm; a sine of amplitude 1 has magnitude 1.
const FLOOR: f32 = 1e-4;

/// Judges sounds by short-time Fourier transforms of several window lengths.
pub struct StftLoss {
    resolutions: Vec<Resolution>,
}

/// What one comparison found.
pub struct StftErrors {
    /// Mean over resolutions of spectral convergence plus mean log difference.
    pub value: f64,
    /// Mean over resolutions of the mean difference of log magnitudes alone, in nats.
    pub log_distance: f64,
    /// With respect to the predicted samples.
    pub gradient: Vec<f32>,
}

struct Resolution {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
    window: Vec<f32>,
}

/// The part of a comparison that one window adds.
struct Pair {
    predicted: Vec<Complex<f32>>,
    target: Vec<f32>,
}

impl StftLoss {
    /// With these window lengths, in samples; even numbers.
    pub fn new(windows: &[usize]) -> Self {
        let mut planner = RealFftPlanner::new();
        let resolutions = windows
            .iter()
            .map(|&length| {
                let phase = |n: usize| 2.0 * std::f32::consts::PI * n as f32 / length as f32;
                // A sine of amplitude 1 has magnitude 1.
                let scale = 4.0 / length as f32;
                Resolution {
                    forward: planner.plan_fft_forward(length),
                    inverse: planner.plan_fft_inverse(length),
                    window: (0..length)
                        .map(|n| scale * (0.5 - 0.5 * phase(n).cos()))
                        .collect(),
                }
            })
            .collect();
        Self { resolutions }
    }

    /// Compares two sounds of one length; with `gradient` off that part stays empty.
    pub fn compare(&self, predicted: &[f32], target: &[f32], gradient: bool) -> StftErrors {
        let share = 1.0 / self.resolutions.len() as f64;
        let mut sum = StftErrors {
            value: 0.0,
            log_distance: 0.0,
            gradient: vec![0.0; if gradient { predicted.len() } else { 0 }],
        };
        for resolution in &self.resolutions {
            let [convergence, log] = resolution.add(predicted, target, share, &mut sum.gradient);
            sum.value += share * (convergence + log);
            sum.log_distance += share * log;
        }
        sum
    }
}

impl Resolution {
    /// Adds `share` of this resolution's gradient; returns spectral convergence and log distance.
    fn add(&self, predicted: &[f32], target: &[f32], share: f64, out: &mut [f32]) -> [f64; 2] {
        let (length, hop) = (self.window.len(), self.window.len() / HOPS_A_WINDOW);
        // Half a window of silence before the start, so that every sample is seen alike.
        let windows = (predicted.len() + length) / hop;
        let pairs: Vec<Pair> = (0..windows)
            .into_par_iter()
            .map(|i| {
                let spectrum = |signal| self.spectrum(signal, i * hop);
                Pair {
                    predicted: spectrum(predicted),
                    target: spectrum(target).iter().map(|x| x.norm()).collect(),
                }
            })
            .collect();
        let sums: Vec<[f64; 3]> = pairs.par_iter().map(Pair::sums).collect();
        let [difference, energy, log] = [0, 1, 2].map(|k| sums.iter().map(|s| s[k]).sum::<f64>());
        let count = (windows * (length / 2 + 1)) as f64;
        let norm = energy.sqrt().max(1e-3);
        let convergence = difference.sqrt() / norm;
        if !out.is_empty() {
            // d convergence / d|Y| = (|Y| - |X|) / (norm * sqrt(difference)).
            let linear = share / (norm * difference.sqrt().max(1e-6));
            self.add_gradient(&pairs, [linear as f32, (share / count) as f32], out);
        }
        [convergence, log / count]
    }

    /// The windowed spectrum at `start`, counted from half a window before the sound.
    fn spectrum(&self, signal: &[f32], start: usize) -> Vec<Complex<f32>> {
        let length = self.window.len();
        let first = start as isize - (length / 2) as isize;
        let mut windowed: Vec<f32> = (self.window.iter().enumerate())
            .map(|(n, w)| {
                let at = first + n as isize;
                usize::try_from(at)
                    .ok()
                    .and_then(|at| signal.get(at))
                    .unwrap_or(&0.0)
                    * w
            })
            .collect();
        let mut spectrum = self.forward.make_output_vec();
        (self.forward)
            .process(&mut windowed, &mut spectrum)
            .expect("the buffers are the plan's own sizes");
        spectrum
    }

    fn add_gradient(&self, pairs: &[Pair], weights: [f32; 2], out: &mut [f32]) {
        let (length, hop) = (self.window.len(), self.window.len() / HOPS_A_WINDOW);
        let windows: Vec<Vec<f32>> = (pairs.par_iter())
            .map(|pair| {
                let mut gradient = pair.gradient(weights);
                let mut signal = self.inverse.make_output_vec();
                (self.inverse)
                    .process(&mut gradient, &mut signal)
                    .expect("the buffers are the plan's own sizes");
                signal
                    .iter()
                    .zip(&self.window)
                    .map(|(s, w)| s * w)
                    .collect()
            })
            .collect();
        for (i, window) in windows.iter().enumerate() {
            let first = (i * hop) as isize - (length / 2) as isize;
            for (n, value) in window.iter().enumerate() {
                let at = usize::try_from(first + n as isize).ok();
                if let Some(out) = at.and_then(|at| out.get_mut(at)) {
                    *out += value;
                }
            }
        }
    }
}

impl Pair {
    /// Squared differences of magnitudes, the target's energy, absolute differences of logarithms.
    fn sums(&self) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for (y, &x) in self.predicted.iter().zip(&self.target) {
            let y = y.norm();
            sums[0] += f64::from((y - x) * (y - x));
            sums[1] += f64::from(x * x);
            sums[2] += f64::from(((y + FLOOR) / (x + FLOOR)).ln().abs());
        }
        sums
    }

    /// What the inverse transform turns into the gradient of the window's samples: frequencies
    /// inside count twice there, so they are halved here.
    fn gradient(&self, [linear, log]: [f32; 2]) -> Vec<Complex<f32>> {
        let last = self.predicted.len() - 1;
        (self.predicted.iter().zip(&self.target).enumerate())
            .map(|(k, (y, &x))| {
                let norm = y.norm().max(1e-9);
                let slope = linear * (norm - x) + log * (norm - x).signum() / (norm + FLOOR);
                let edge = k == 0 || k == last;
                let half = if edge { 1.0 } else { 0.5 };
                let g = y * (slope * half / norm);
                if edge { Complex::new(g.re, 0.0) } else { g }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    fn wave(frequency: f32, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|n| (n as f32 * frequency).sin() * 0.4)
            .collect()
    }

    #[test]
    fn equal_sounds_are_no_distance_apart() {
        let loss = StftLoss::new(&[64, 128]);
        let x = wave(0.2, 500);
        assert!(loss.compare(&x, &x, false).value < 1e-6);
        let y: Vec<f32> = x.iter().map(|x| x * 0.5).collect();
        let errors = loss.compare(&y, &x, false);
        // Half as loud: convergence 0.5, log distance up to ln 2.
        assert!(errors.value - errors.log_distance - 0.5 < 1e-3);
        assert!(errors.log_distance < 2f64.ln());
    }

    /// Every frequency is there: magnitudes near zero have no gradient to speak of.
    fn noise(seed: u64, samples: usize) -> Vec<f32> {
        let mut rng = crate::rng::stream(seed, crate::rng::Purpose::Noise, 0);
        (0..samples).map(|_| rng.random::<f32>() - 0.5).collect()
    }

    #[test]
    fn gradients_agree_with_differences() {
        let loss = StftLoss::new(&[64, 128]);
        let (target, predicted) = (noise(1, 400), noise(2, 400));
        let gradient = loss.compare(&predicted, &target, true).gradient;
        for i in [0, 3, 57, 200, 399] {
            let moved = |by: f32| {
                let mut y = predicted.clone();
                y[i] += by;
                loss.compare(&y, &target, false).value
            };
            let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            let error = (slope - f64::from(gradient[i])).abs();
            assert!(
                error < 1e-3 + 0.05 * slope.abs(),
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }
}
