//! Classifiers fitted on rendered clips: what a clip's features say of its attributes.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Random features between the clip's own and the classes.
const HIDDEN: usize = 1200;
/// Ridge penalty, relative to the mean diagonal of the normal matrix.
const RIDGE: f64 = 3e-3;

/// Names one attribute of a clip: ridge regression on random rectified features (an "extreme
/// learning machine"; Huang et al. 2006). Closed form, so equal data give an equal detector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detector {
    /// What can be named.
    pub classes: Vec<String>,
    mean: Vec<f32>,
    scale: Vec<f32>,
    /// `classes x (HIDDEN + 1)`, the last of each row the constant.
    weights: Vec<f32>,
}

impl Detector {
    /// Fits a detector to clips' features and their true labels.
    ///
    /// # Panics
    /// If there is no example, or the lists' lengths differ.
    pub fn fit(features: &[Vec<f32>], labels: &[String]) -> Self {
        assert!(
            !features.is_empty() && features.len() == labels.len(),
            "one label a clip"
        );
        let mut classes = labels.to_vec();
        classes.sort();
        classes.dedup();
        let (mean, scale) = moments(features);
        let mut detector = Self {
            classes,
            mean,
            scale,
            weights: Vec::new(),
        };
        let hidden: Vec<Vec<f32>> = features.par_iter().map(|f| detector.hidden(f)).collect();
        let targets: Vec<Vec<f64>> = detector
            .classes
            .iter()
            .map(|class| {
                labels
                    .iter()
                    .map(|l| if l == class { 1.0 } else { -1.0 })
                    .collect()
            })
            .collect();
        detector.weights = ridge(&hidden, &targets);
        detector
    }

    /// The class that fits best.
    pub fn name(&self, features: &[f32]) -> &str {
        let hidden = self.hidden(features);
        let score = |class: usize| {
            let row = &self.weights[class * hidden.len()..(class + 1) * hidden.len()];
            row.iter().zip(&hidden).map(|(w, h)| w * h).sum::<f32>()
        };
        let best = (0..self.classes.len()).max_by(|&a, &b| score(a).total_cmp(&score(b)));
        best.map_or("", |class| &self.classes[class])
    }

    /// Standardised features through a fixed random layer and a rectifier, and a constant one.
    fn hidden(&self, features: &[f32]) -> Vec<f32> {
        let x: Vec<f32> = features
            .iter()
            .zip(self.mean.iter().zip(&self.scale))
            .map(|(f, (mean, scale))| ((f - mean) * scale).clamp(-4.0, 4.0))
            .collect();
        let gain = 1.0 / (x.len() as f32).sqrt();
        let mut out: Vec<f32> = (0..HIDDEN)
            .map(|unit| {
                let mut state = (unit as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let sum: f32 = x.iter().map(|v| v * gaussian(&mut state)).sum();
                (sum * gain * 2.0 + gaussian(&mut state)).max(0.0)
            })
            .collect();
        // The features themselves too: what is linear in them need not be learnt through noise.
        out.extend(x);
        out.push(1.0);
        out
    }
}

/// A number of about unit variance: three uniform ones from a xorshift generator, added.
fn gaussian(state: &mut u64) -> f32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let part = |shift: u32| ((*state >> shift) & 0xFFFF) as f32 / 32768.0 - 1.0;
    part(0) + part(16) + part(32)
}

/// Mean and reciprocal deviation of every feature.
fn moments(features: &[Vec<f32>]) -> (Vec<f32>, Vec<f32>) {
    let n = features.len() as f32;
    (0..features[0].len())
        .map(|k| {
            let mean = features.iter().map(|f| f[k]).sum::<f32>() / n;
            let variance = features.iter().map(|f| (f[k] - mean).powi(2)).sum::<f32>() / n;
            (mean, 1.0 / (variance.sqrt() + 1e-3))
        })
        .unzip()
}

/// Ridge regression of every target on `rows`; the weights of one target after another.
fn ridge(rows: &[Vec<f32>], targets: &[Vec<f64>]) -> Vec<f32> {
    let d = rows[0].len();
    let mut normal: Vec<Vec<f64>> = (0..d)
        .into_par_iter()
        .map(|a| {
            let mut sums = vec![0.0f64; a + 1];
            for row in rows.iter().filter(|row| row[a] != 0.0) {
                let factor = f64::from(row[a]);
                for (sum, &v) in sums.iter_mut().zip(&row[..=a]) {
                    *sum += factor * f64::from(v);
                }
            }
            sums
        })
        .collect();
    let mean = (0..d).map(|a| normal[a][a]).sum::<f64>() / d as f64;
    for (a, row) in normal.iter_mut().enumerate() {
        row[a] += RIDGE * mean;
    }
    cholesky(&mut normal);
    targets
        .iter()
        .flat_map(|target| {
            let right: Vec<f64> = (0..d)
                .map(|a| {
                    rows.iter()
                        .zip(target)
                        .map(|(row, t)| f64::from(row[a]) * t)
                        .sum()
                })
                .collect();
            solve(&normal, right).into_iter().map(|w| w as f32)
        })
        .collect()
}

/// The lower Cholesky factor, in place, of the lower half of a positive definite matrix.
fn cholesky(a: &mut [Vec<f64>]) {
    for k in 0..a.len() {
        let (above, rest) = a.split_at_mut(k + 1);
        let pivot = &mut above[k];
        let diagonal = (pivot[k] - pivot[..k].iter().map(|v| v * v).sum::<f64>())
            .max(1e-12)
            .sqrt();
        pivot[k] = diagonal;
        let pivot = &above[k];
        rest.par_iter_mut().for_each(|row| {
            let dot: f64 = row[..k].iter().zip(&pivot[..k]).map(|(x, y)| x * y).sum();
            row[k] = (row[k] - dot) / diagonal;
        });
    }
}

/// Solves `L Lᵀ x = b`.
fn solve(l: &[Vec<f64>], mut b: Vec<f64>) -> Vec<f64> {
    for k in 0..b.len() {
        let dot: f64 = l[k][..k].iter().zip(&b[..k]).map(|(x, y)| x * y).sum();
        b[k] = (b[k] - dot) / l[k][k];
    }
    for k in (0..b.len()).rev() {
        b[k] /= l[k][k];
        let value = b[k];
        for (x, y) in b[..k].iter_mut().zip(&l[k][..k]) {
            *x -= value * y;
        }
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on two interleaved rings: not to be told apart by a plane.
    fn rings(n: usize, mut state: u64) -> (Vec<Vec<f32>>, Vec<String>) {
        (0..n)
            .map(|i| {
                let angle = i as f32 * 2.399;
                let radius = if i % 2 == 0 { 1.0 } else { 2.0 } + 0.05 * gaussian(&mut state);
                let label = if i % 2 == 0 { "inner" } else { "outer" };
                (
                    vec![
                        radius * angle.cos(),
                        radius * angle.sin(),
                        gaussian(&mut state),
                    ],
                    label.to_string(),
                )
            })
            .unzip()
    }

    #[test]
    fn unseen_points_are_named_right() {
        let (features, labels) = rings(600, 1);
        let detector = Detector::fit(&features, &labels);
        let (features, labels) = rings(300, 99);
        let right = features
            .iter()
            .zip(&labels)
            .filter(|(f, l)| detector.name(f) == *l)
            .count();
        assert!(right >= 290, "{right} of 300");
    }
}
