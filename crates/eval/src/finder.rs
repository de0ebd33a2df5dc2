//! Where things are in a picture: a small convolutional network that was shown where the world's
//! objects truly are (after CenterNet: Zhou et al. 2019).

use gallop_core::PixelSize;
use rayon::prelude::*;

use crate::net::{Adam, Layer, Map, Net, Noise};
use crate::plane::{Plane, luma};

/// Pixels of a cell of the network's answer.
const CELL: f32 = 4.0;
/// Frames before and after that a frame is compared with.
const AROUND: usize = 3;
/// Planes that the network sees: colours, and how luma differs from those two frames.
const PLANES: usize = 5;
/// Planes of its answer: whether a thing's middle is here, where exactly, how wide and high.
const ANSWERS: usize = 5;
/// Half a side, in pixels, of a thing whose size is answered by nought.
const USUAL: f32 = 8.0;
/// Cells of a thing's mound above this answer for its place and size.
const NEAR: f32 = 0.4;
/// What is less sure than this is not found.
pub const FAINTEST: f32 = 0.2;
const WIDTH: usize = 28;

/// The network.
pub const LAYERS: [Layer; 7] = [
    Layer::conv(PLANES, 16, 5).stride(2),
    Layer::conv(16, WIDTH, 3).stride(2),
    Layer::conv(WIDTH, WIDTH, 3).residual(1),
    Layer::conv(WIDTH, WIDTH, 3).residual(2),
    Layer::conv(WIDTH, WIDTH, 3).residual(4),
    Layer::conv(WIDTH, WIDTH, 3).residual(1),
    Layer::conv(WIDTH, ANSWERS, 1).linear(),
];

/// Something found in a picture; all in pixels of the small picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Column and row of its middle.
    pub at: [f32; 2],
    /// Half its width and height.
    pub half: [f32; 2],
    /// How sure, 0 to 1.
    pub score: f32,
}

/// Where a thing truly is: its middle and half its sides, pixels of the small picture.
pub type Extent = ([f32; 2], [f32; 2]);

/// A picture to learn from.
#[derive(Clone, Debug)]
pub struct Example {
    size: PixelSize,
    /// The network's input in 8 bits.
    planes: Vec<u8>,
    /// Truth: middle and half sides of each thing, pixels.
    things: Vec<Extent>,
}

/// Finds things.
#[derive(Clone, Debug, PartialEq)]
pub struct Finder(pub Net);

/// The network's input for one frame of a clip.
fn input(rgb: &[[Plane; 3]], frame: usize) -> Map {
    let size = rgb[frame][0].size;
    let mut map = Map::zeros(PLANES, size.height, size.width);
    let area = map.area();
    for (plane, to) in rgb[frame].iter().zip(map.values.chunks_mut(area)) {
        to.iter_mut()
            .zip(&plane.values)
            .for_each(|(t, v)| *t = 2.0 * v - 1.0);
    }
    let here = luma(&rgb[frame]);
    let last = rgb.len() - 1;
    for (plane, other) in [frame.saturating_sub(AROUND), (frame + AROUND).min(last)]
        .into_iter()
        .enumerate()
    {
        let there = luma(&rgb[other]);
        let to = &mut map.values[(3 + plane) * area..(4 + plane) * area];
        for (t, (a, b)) in to.iter_mut().zip(here.values.iter().zip(&there.values)) {
            *t = (2.0 * (a - b)).clamp(-1.0, 1.0);
        }
    }
    map
}

impl Example {
    /// A frame of a clip and where its things truly are.
    pub fn new(rgb: &[[Plane; 3]], frame: usize, things: Vec<Extent>) -> Self {
        let map = input(rgb, frame);
        Self {
            size: rgb[frame][0].size,
            planes: map
                .values
                .iter()
                .map(|v| (127.5 + 127.5 * v).round() as u8)
                .collect(),
            things,
        }
    }

    /// The input and the things, mirrored half of the time, in slightly other light and with noise.
    fn shown(&self, noise: &mut Noise) -> (Map, Vec<Extent>) {
        let (w, h) = (self.size.width, self.size.height);
        let mut map = Map::zeros(PLANES, h, w);
        let mirrored = noise.uniform() < 0.5;
        let level = 0.02 * noise.uniform();
        for (plane, (to, from)) in map
            .values
            .chunks_mut(w * h)
            .zip(self.planes.chunks(w * h))
            .enumerate()
        {
            let gain = if plane < 3 {
                1.0 + 0.08 * noise.gaussian()
            } else {
                1.0
            };
            for (row, (to, from)) in to.chunks_mut(w).zip(from.chunks(w)).enumerate() {
                for (x, t) in to.iter_mut().enumerate() {
                    let v = f32::from(from[if mirrored { w - 1 - x } else { x }]) / 127.5 - 1.0;
                    // Cheap and shapeless is enough for a grain.
                    let grain = ((row * 31 + x * 17 + plane * 7) % 13) as f32 / 6.0 - 1.0;
                    *t = gain * v + level * grain;
                }
            }
        }
        let mut things = self.things.clone();
        if mirrored {
            things
                .iter_mut()
                .for_each(|(at, _)| at[0] = w as f32 - at[0]);
        }
        (map, things)
    }
}

impl Finder {
    /// A finder that knows nothing.
    pub fn new() -> Self {
        let mut net = Net::new(&LAYERS, 11);
        // Most cells hold nothing: begin there.
        let constants = net.weights().len() - ANSWERS;
        net.weights_mut()[constants] = -3.0;
        Self(net)
    }

    /// What is in each frame of a clip of small pictures, surest first.
    pub fn find(&self, rgb: &[[Plane; 3]]) -> Vec<Vec<Found>> {
        (0..rgb.len())
            .map(|frame| decode(&self.0.run(input(rgb, frame))))
            .collect()
    }

    /// Learns from `examples`, each shown `rounds` times; calls `report` with the loss after each
    /// batch and stops when that says so.
    pub fn learn(
        &mut self,
        examples: &[Example],
        rounds: usize,
        mut report: impl FnMut(usize, f32) -> bool,
    ) {
        const BATCH: usize = 16;
        let batches = (examples.len() * rounds).div_ceil(BATCH);
        let mut adam = Adam::new(self.0.weights().len(), 4e-3, 1e-3, batches);
        let mut noise = Noise::new(17);
        let mut order: Vec<usize> = Vec::new();
        for batch in 0..batches {
            let picked: Vec<(usize, Noise)> = (0..BATCH)
                .map(|k| {
                    if order.is_empty() {
                        order = noise.order(examples.len());
                    }
                    let one = order.pop().unwrap_or(0);
                    (one, Noise::new((batch * BATCH + k) as u64))
                })
                .collect();
            let passes: Vec<(f32, Vec<f32>)> = picked
                .into_par_iter()
                .map(|(i, mut noise)| self.pass(&examples[i], &mut noise))
                .collect();
            let mut gradients = vec![0.0; self.0.weights().len()];
            let mut loss = 0.0;
            for (one, gradient) in &passes {
                loss += one / BATCH as f32;
                for (sum, g) in gradients.iter_mut().zip(gradient) {
                    *sum += g / BATCH as f32;
                }
            }
            adam.step(self.0.weights_mut(), &gradients);
            if !report(batch, loss) {
                return;
            }
        }
    }

    fn pass(&self, example: &Example, noise: &mut Noise) -> (f32, Vec<f32>) {
        let (map, things) = example.shown(noise);
        let trace = self.0.trace(map);
        let (loss, d_out) = judge(&trace.out, &things);
        let mut gradients = vec![0.0; self.0.weights().len()];
        self.0.back(&trace, d_out, &mut gradients);
        (loss, gradients)
    }
}

impl Default for Finder {
    fn default() -> Self {
        Self::new()
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The mound of each cell: how near it is to a thing's middle (1: it holds it), and to which.
fn mounds(out: &Map, things: &[Extent]) -> Vec<(f32, usize)> {
    let mut mounds = vec![(0.0f32, 0); out.area()];
    for (index, (at, half)) in things.iter().enumerate() {
        let middle = at.map(|v| v / CELL - 0.5);
        let sigma = (0.35 * (half[0] * half[1]).sqrt() / CELL).clamp(0.6, 4.0);
        let holds = [
            middle[0].round().clamp(0.0, out.width as f32 - 1.0) as usize,
            middle[1].round().clamp(0.0, out.height as f32 - 1.0) as usize,
        ];
        for y in 0..out.height {
            for x in 0..out.width {
                let (dx, dy) = (x as f32 - middle[0], y as f32 - middle[1]);
                let mut mound = 0.99 * (-(dx * dx + dy * dy) / (2.0 * sigma * sigma)).exp();
                if [x, y] == holds {
                    mound = 1.0;
                }
                let cell = &mut mounds[y * out.width + x];
                if mound > cell.0 {
                    *cell = (mound, index);
                }
            }
        }
    }
    mounds
}

/// Focal loss of the middles, L1 of places and sizes; and the gradient by the network's answer.
fn judge(out: &Map, things: &[Extent]) -> (f32, Vec<f32>) {
    let (area, mut loss) = (out.area(), 0.0);
    let mut d = vec![0.0; out.values.len()];
    let mounds = mounds(out, things);
    let per_thing = 1.0 / things.len().max(1) as f32;
    let near: f32 = mounds.iter().filter(|m| m.0 > NEAR).map(|m| m.0).sum();
    for (i, &(mound, index)) in mounds.iter().enumerate() {
        let p = sigmoid(out.values[i]).clamp(1e-5, 1.0 - 1e-5);
        if mound >= 1.0 {
            loss -= per_thing * (1.0 - p).powi(2) * p.ln();
            d[i] = per_thing * (1.0 - p).powi(2) * (2.0 * p * p.ln() - (1.0 - p));
        } else {
            let far = per_thing * (1.0 - mound).powi(4);
            loss -= far * p * p * (1.0 - p).ln();
            d[i] = far * p * p * (p - 2.0 * (1.0 - p) * (1.0 - p).ln());
        }
        if mound <= NEAR {
            continue;
        }
        let (at, half) = things[index];
        let cell = [(i % out.width) as f32, (i / out.width) as f32];
        let want = [
            at[0] / CELL - 0.5 - cell[0],
            at[1] / CELL - 0.5 - cell[1],
            (half[0].max(0.5) / USUAL).ln(),
            (half[1].max(0.5) / USUAL).ln(),
        ];
        for (k, want) in want.into_iter().enumerate() {
            let j = (k + 1) * area + i;
            let error = out.values[j] - want;
            // Quadratic near nought, so that small errors do not keep it swinging.
            let weight = mound / near;
            loss += weight * error.abs();
            d[j] = weight * (error / 0.05).clamp(-1.0, 1.0);
        }
    }
    (loss, d)
}

/// Peaks of the middles' plane that no surer thing covers.
fn decode(out: &Map) -> Vec<Found> {
    let (w, h, area) = (out.width, out.height, out.area());
    let mut peaks: Vec<Found> = (0..area)
        .filter(|&i| {
            let (x, y) = (i % w, i / w);
            let rows = y.saturating_sub(1)..(y + 2).min(h);
            sigmoid(out.values[i]) >= FAINTEST
                && rows.into_iter().all(|v| {
                    (x.saturating_sub(1)..(x + 2).min(w))
                        .all(|u| out.values[v * w + u] <= out.values[i])
                })
        })
        .map(|i| answer(out, i))
        .collect();
    peaks.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut found: Vec<Found> = Vec::new();
    for peak in peaks {
        let covered = found.iter().any(|f| {
            let reach = 0.6 * f.half[0].max(f.half[1]);
            (f.at[0] - peak.at[0]).hypot(f.at[1] - peak.at[1]) < reach
        });
        if !covered {
            found.push(peak);
        }
    }
    found
}

/// What the cells about a peak say together, each as much as it is sure.
fn answer(out: &Map, peak: usize) -> Found {
    let (w, h, area) = (out.width, out.height, out.area());
    let (x, y) = (peak % w, peak / w);
    let (mut sum, mut total) = ([0.0f32; 4], 0.0);
    let score = sigmoid(out.values[peak]);
    for v in y.saturating_sub(1)..(y + 2).min(h) {
        for u in x.saturating_sub(1)..(x + 2).min(w) {
            let i = v * w + u;
            let sure = sigmoid(out.values[i]);
            if sure < 0.5 * score {
                continue;
            }
            let say = |k: usize| out.values[k * area + i];
            let place = [
                (u as f32 + 0.5 + say(1)) * CELL,
                (v as f32 + 0.5 + say(2)) * CELL,
            ];
            for (s, value) in sum.iter_mut().zip([place[0], place[1], say(3), say(4)]) {
                *s += sure * value;
            }
            total += sure;
        }
    }
    let [x, y, rx, ry] = sum.map(|s| s / total);
    Found {
        at: [x, y],
        half: [rx, ry].map(|r| USUAL * r.clamp(-3.0, 3.0).exp()),
        score,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A noisy grey picture with discs, as three equal frames' middle one.
    fn scene(noise: &mut Noise) -> Example {
        let size = PixelSize::new(64, 40);
        let n = 1 + noise.below(2);
        let things: Vec<Extent> = (0..n)
            .map(|k| {
                let r = 4.0 + 4.0 * noise.uniform();
                let x = 10.0 + 32.0 * k as f32 + 12.0 * noise.uniform();
                ([x, 10.0 + 20.0 * noise.uniform()], [r, r])
            })
            .collect();
        let planes = [0, 1, 2].map(|c| Plane {
            size,
            values: (0..size.width * size.height)
                .map(|i| {
                    let p = [(i % 64) as f32 + 0.5, (i / 64) as f32 + 0.5];
                    let inside = things
                        .iter()
                        .any(|(at, half)| (p[0] - at[0]).hypot(p[1] - at[1]) < half[0]);
                    let shade = if inside { [0.9, 0.3, 0.2][c] } else { 0.5 };
                    shade + 0.05 * noise.gaussian()
                })
                .collect(),
        });
        Example::new(&[planes], 0, things)
    }

    #[test]
    fn discs_are_found_where_they_are() {
        let mut noise = Noise::new(1);
        let lessons: Vec<Example> = (0..120).map(|_| scene(&mut noise)).collect();
        let mut finder = Finder::new();
        finder.learn(&lessons, 12, |_, _| true);
        let (mut seen, mut all, mut extra, mut error) = (0, 0, 0, 0.0);
        for _ in 0..40 {
            let test = scene(&mut noise);
            let mut map = Map::zeros(PLANES, 40, 64);
            for (t, v) in map.values.iter_mut().zip(&test.planes) {
                *t = f32::from(*v) / 127.5 - 1.0;
            }
            let found: Vec<Found> = decode(&finder.0.run(map))
                .into_iter()
                .filter(|f| f.score > 0.4)
                .collect();
            all += test.things.len();
            extra += found.len();
            for (at, _) in &test.things {
                let nearest = found
                    .iter()
                    .map(|f| (f.at[0] - at[0]).hypot(f.at[1] - at[1]))
                    .fold(99.0, f32::min);
                if nearest < 3.0 {
                    seen += 1;
                    error += nearest;
                }
            }
        }
        assert!(seen * 100 >= all * 95, "{seen} of {all}");
        assert!(extra * 100 <= all * 110, "{extra} for {all}");
        assert!(error / (seen as f32) < 1.0, "{}", error / seen as f32);
    }
}
