//! A list of numbers about a clip to one of several names: a small dense network.

use serde::{Deserialize, Serialize};

use crate::net::{Adam, Layer, Map, Net, Noise, softmax};

/// Numbers between features and names.
const HIDDEN: usize = 40;

/// Brings every feature to mean 0 and deviation 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    mean: Vec<f32>,
    gain: Vec<f32>,
}

impl Scale {
    /// From the features of many clips, all as long.
    pub fn of<T: AsRef<[f32]>>(rows: &[T]) -> Self {
        let n = rows.len().max(1) as f32;
        let length = rows.first().map_or(0, |row| row.as_ref().len());
        let (mean, gain) = (0..length)
            .map(|k| {
                let mean = rows.iter().map(|r| r.as_ref()[k]).sum::<f32>() / n;
                let spread = rows.iter().map(|r| (r.as_ref()[k] - mean).powi(2));
                (mean, 1.0 / ((spread.sum::<f32>() / n).sqrt() + 1e-3))
            })
            .unzip();
        Self { mean, gain }
    }

    /// Features on the common scale, held to four deviations.
    pub fn apply(&self, features: &[f32]) -> Vec<f32> {
        features
            .iter()
            .zip(self.mean.iter().zip(&self.gain))
            .map(|(f, (mean, gain))| ((f - mean) * gain).clamp(-4.0, 4.0))
            .collect()
    }

    /// Means and gains, as many of each; `None` where they are not.
    pub fn from_parts(mean: Vec<f32>, gain: Vec<f32>) -> Option<Self> {
        (mean.len() == gain.len()).then_some(Self { mean, gain })
    }

    /// Means and gains.
    pub fn parts(&self) -> (&[f32], &[f32]) {
        (&self.mean, &self.gain)
    }

    /// How many features.
    pub fn len(&self) -> usize {
        self.mean.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.mean.is_empty()
    }
}

/// Names one attribute of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// What can be named.
    pub classes: Vec<String>,
    /// Brings features to a common scale.
    pub scale: Scale,
    /// Decides.
    pub net: Net,
}

impl Classifier {
    /// The network for so many features and names.
    pub fn layers(features: usize, classes: usize) -> [Layer; 2] {
        [
            Layer::conv(features, HIDDEN, 1),
            Layer::conv(HIDDEN, classes, 1).linear(),
        ]
    }

    /// Fits one to clips' features and their true names, each clip shown `rounds` times.
    ///
    /// # Panics
    /// If there is no example, or the lists' lengths differ.
    pub fn learn(features: &[Vec<f32>], labels: &[String], rounds: usize) -> Self {
        const BATCH: usize = 32;
        assert!(
            !features.is_empty() && features.len() == labels.len(),
            "one label a clip"
        );
        let mut classes = labels.to_vec();
        classes.sort();
        classes.dedup();
        let scale = Scale::of(features);
        let rows: Vec<Vec<f32>> = features.iter().map(|f| scale.apply(f)).collect();
        let index = |label: &String| classes.binary_search(label).unwrap_or(0);
        let names: Vec<usize> = labels.iter().map(index).collect();
        let layers = Self::layers(scale.len(), classes.len());
        let mut net = Net::new(&layers, 31);
        let steps = (rows.len() * rounds).div_ceil(BATCH);
        let mut adam = Adam::new(net.weights().len(), 4e-3, 2e-2, steps);
        let mut noise = Noise::new(37);
        let mut order: Vec<usize> = Vec::new();
        for _ in 0..steps {
            let mut gradients = vec![0.0; net.weights().len()];
            for _ in 0..BATCH {
                if order.is_empty() {
                    order = noise.order(rows.len());
                }
                let i = order.pop().unwrap_or(0);
                let mut row = rows[i].clone();
                row.iter_mut().for_each(|v| *v += 0.1 * noise.gaussian());
                let trace = net.trace(Map::column(row));
                let mut d = softmax(&trace.out.values);
                d[names[i]] -= 1.0;
                d.iter_mut().for_each(|d| *d /= BATCH as f32);
                net.back(&trace, d, &mut gradients);
            }
            adam.step(net.weights_mut(), &gradients);
        }
        Self {
            classes,
            scale,
            net,
        }
    }

    /// The class that fits best.
    pub fn name(&self, features: &[f32]) -> &str {
        let scores = self.net.run(Map::column(self.scale.apply(features))).values;
        &self.classes[best(&scores)]
    }
}

/// The index of the greatest; 0 of none.
pub fn best(scores: &[f32]) -> usize {
    (0..scores.len())
        .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on two rings: not to be told apart by a plane.
    fn rings(n: usize, noise: &mut Noise) -> (Vec<Vec<f32>>, Vec<String>) {
        (0..n)
            .map(|i| {
                let angle = i as f32 * 2.399;
                let radius = if i % 2 == 0 { 1.0 } else { 2.0 } + 0.05 * noise.gaussian();
                let label = if i % 2 == 0 { "inner" } else { "outer" };
                let (x, y) = (radius * angle.cos(), radius * angle.sin());
                (vec![x, y, noise.gaussian()], label.to_string())
            })
            .unzip()
    }

    #[test]
    fn rings_are_told_apart() {
        let mut noise = Noise::new(8);
        let (features, labels) = rings(300, &mut noise);
        let classifier = Classifier::learn(&features, &labels, 30);
        let (features, labels) = rings(200, &mut noise);
        let right = features.iter().zip(&labels);
        let right = right.filter(|(f, l)| classifier.name(f) == l.as_str());
        assert!(right.count() >= 190);
        assert_eq!(
            classifier,
            Classifier::learn(
                &rings(300, &mut Noise::new(8)).0,
                &rings(300, &mut Noise::new(8)).1,
                30
            )
        );
    }
}
