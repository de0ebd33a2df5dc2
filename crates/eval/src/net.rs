//! Small convolutional networks on the CPU: what the detectors are made of.
//!
//! A network is a list of convolutions over planes, run and differentiated by im2col and matrix
//! products. A dense layer is a convolution of a 1x1 map.

use serde::{Deserialize, Serialize};

/// What a bent layer lets through of negative values.
const LEAK: f32 = 0.1;
/// Decay of AdamW's means, and its epsilon (Loshchilov & Hutter 2019).
const BETAS: (f32, f32) = (0.9, 0.99);
const EPSILON: f32 = 1e-8;

/// Planes of equal size: `channels x height x width` values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    /// Planes.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Plane after plane, row after row.
    pub values: Vec<f32>,
}

impl Map {
    /// A map of zeros.
    pub fn zeros(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
            values: vec![0.0; channels * height * width],
        }
    }

    /// A list of numbers as a map of one pixel.
    pub fn column(values: Vec<f32>) -> Self {
        Self {
            channels: values.len(),
            height: 1,
            width: 1,
            values,
        }
    }

    /// Pixels of a plane.
    pub fn area(&self) -> usize {
        self.height * self.width
    }
}

/// One convolution, padded with zeros so that only the stride changes the size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Planes in.
    pub inputs: usize,
    /// Planes out.
    pub outputs: usize,
    /// Side of the kernel, odd.
    pub kernel: usize,
    /// Pixels between two outputs.
    pub stride: usize,
    /// Pixels between two taps.
    pub dilation: usize,
    /// Whether a leaky rectifier follows.
    pub bends: bool,
    /// Whether the input is added to the output.
    pub skips: bool,
}

impl Layer {
    /// A bent convolution of stride and dilation 1.
    pub const fn conv(inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            inputs,
            outputs,
            kernel,
            stride: 1,
            dilation: 1,
            bends: true,
            skips: false,
        }
    }

    /// With that stride.
    pub const fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// With that dilation and a skip around it.
    pub const fn residual(mut self, dilation: usize) -> Self {
        self.dilation = dilation;
        self.skips = true;
        self
    }

    /// Without the rectifier.
    pub const fn linear(mut self) -> Self {
        self.bends = false;
        self
    }

    fn depth(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    fn len(&self) -> usize {
        self.outputs * (self.depth() + 1)
    }
}

/// A list of convolutions with their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Net {
    layers: Vec<Layer>,
    /// Of each layer `outputs x inputs x kernel x kernel` weights, then `outputs` constants.
    weights: Vec<f32>,
}

/// What a pass leaves for its differentiation.
#[derive(Debug)]
pub struct Trace {
    inputs: Vec<Map>,
    /// Outputs before the skip is added: their signs tell which side of the bend they are on.
    bent: Vec<Vec<f32>>,
    /// The last layer's output.
    pub out: Map,
}

impl Net {
    /// A network with random weights (He et al. 2015), the last layer's small.
    pub fn new(layers: &[Layer], seed: u64) -> Self {
        let mut state = Noise::new(seed);
        let mut weights = Vec::new();
        for (i, layer) in layers.iter().enumerate() {
            let last = i + 1 == layers.len() && !layer.bends;
            let gain = if last { 0.1 } else { 1.0 };
            let gain = if layer.skips { 0.5 } else { gain };
            let scale = gain * (2.0 / layer.depth() as f32).sqrt();
            weights.extend((0..layer.outputs * layer.depth()).map(|_| scale * state.gaussian()));
            weights.extend(std::iter::repeat_n(0.0, layer.outputs));
        }
        Self {
            layers: layers.to_vec(),
            weights,
        }
    }

    /// A network of known weights; `None` if there are not as many as the layers need.
    pub fn with_weights(layers: &[Layer], weights: Vec<f32>) -> Option<Self> {
        let need: usize = layers.iter().map(Layer::len).sum();
        let chained = layers.windows(2).all(|w| w[0].outputs == w[1].inputs);
        (need == weights.len() && chained && !layers.is_empty()).then(|| Self {
            layers: layers.to_vec(),
            weights,
        })
    }

    /// Its layers.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// All its weights, layer after layer.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// All its weights, to be set.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// What it makes of `input`.
    ///
    /// # Panics
    /// If `input` has not as many planes as the first layer takes.
    pub fn run(&self, input: Map) -> Map {
        self.trace(input).out
    }

    /// As [`Net::run`], keeping what [`Net::back`] needs.
    ///
    /// # Panics
    /// As [`Net::run`].
    pub fn trace(&self, input: Map) -> Trace {
        assert_eq!(
            input.channels, self.layers[0].inputs,
            "planes of the network's input"
        );
        let (mut inputs, mut bent) = (Vec::new(), Vec::new());
        let (mut map, mut from) = (input, 0);
        for layer in &self.layers {
            let weights = &self.weights[from..from + layer.len()];
            from += layer.len();
            let mut out = forward(layer, weights, &map);
            bent.push(out.values.clone());
            if layer.skips {
                out.values
                    .iter_mut()
                    .zip(&map.values)
                    .for_each(|(o, i)| *o += i);
            }
            inputs.push(std::mem::replace(&mut map, out));
        }
        Trace {
            inputs,
            bent,
            out: map,
        }
    }

    /// Adds the weights' gradients to `gradients` and gives the input's, from the output's.
    ///
    /// # Panics
    /// If `gradients` is not as long as the weights.
    pub fn back(&self, trace: &Trace, mut d_out: Vec<f32>, gradients: &mut [f32]) -> Vec<f32> {
        assert_eq!(gradients.len(), self.weights.len(), "one gradient a weight");
        let mut to = self.weights.len();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let span = to - layer.len()..to;
            to = span.start;
            let skipped = layer.skips.then(|| d_out.clone());
            if layer.bends {
                for (d, y) in d_out.iter_mut().zip(&trace.bent[i]) {
                    *d *= if *y > 0.0 { 1.0 } else { LEAK };
                }
            }
            let mut d_in = backward(
                layer,
                &self.weights[span.clone()],
                &trace.inputs[i],
                &d_out,
                &mut gradients[span],
            );
            for (d, s) in d_in.iter_mut().zip(skipped.iter().flatten()) {
                *d += s;
            }
            d_out = d_in;
        }
        d_out
    }
}

fn reduced(size: usize, stride: usize) -> usize {
    size.div_ceil(stride)
}

/// The layer's output before the skip.
fn forward(layer: &Layer, weights: &[f32], input: &Map) -> Map {
    let mut out = Map::zeros(
        layer.outputs,
        reduced(input.height, layer.stride),
        reduced(input.width, layer.stride),
    );
    let area = out.area();
    let columns = columns(layer, input);
    let (kernel, constants) = weights.split_at(layer.outputs * layer.depth());
    for (plane, c) in out.values.chunks_mut(area).zip(constants) {
        plane.fill(*c);
    }
    product(
        &mut out.values,
        (layer.outputs, layer.depth(), area),
        (kernel, layer.depth() as isize, 1),
        (&columns, area as isize, 1),
    );
    if layer.bends {
        out.values
            .iter_mut()
            .for_each(|v| *v = if *v > 0.0 { *v } else { LEAK * *v });
    }
    out
}

/// The input's gradient; the weights' are added to `gradients`.
fn backward(
    layer: &Layer,
    weights: &[f32],
    input: &Map,
    d_out: &[f32],
    gradients: &mut [f32],
) -> Vec<f32> {
    let (depth, area) = (layer.depth(), d_out.len() / layer.outputs);
    let (d_kernel, d_constants) = gradients.split_at_mut(layer.outputs * depth);
    for (d, plane) in d_constants.iter_mut().zip(d_out.chunks(area)) {
        *d += plane.iter().sum::<f32>();
    }
    let taken = columns(layer, input);
    product(
        d_kernel,
        (layer.outputs, area, depth),
        (d_out, area as isize, 1),
        (&taken, 1, area as isize),
    );
    let mut d_columns = vec![0.0; depth * area];
    product(
        &mut d_columns,
        (depth, layer.outputs, area),
        (&weights[..layer.outputs * depth], 1, depth as isize),
        (d_out, area as isize, 1),
    );
    let mut d_in = vec![0.0; input.values.len()];
    each_tap(layer, input, |to, from| {
        for (d, c) in from.zip(&d_columns[to]) {
            d_in[d] += c;
        }
    });
    d_in
}

/// The input seen by each tap of each plane: `inputs * kernel * kernel` rows of `area` values.
fn columns(layer: &Layer, input: &Map) -> Vec<f32> {
    if layer.kernel == 1 && layer.stride == 1 {
        return input.values.clone();
    }
    let area = reduced(input.height, layer.stride) * reduced(input.width, layer.stride);
    let mut out = vec![0.0; layer.depth() * area];
    each_tap(layer, input, |to, from| {
        for (o, i) in out[to].iter_mut().zip(from) {
            *o = input.values[i];
        }
    });
    out
}

/// Visits every row of every tap: where it lies in the columns, and where in the input.
fn each_tap(
    layer: &Layer,
    input: &Map,
    mut visit: impl FnMut(std::ops::Range<usize>, std::iter::StepBy<std::ops::Range<usize>>),
) {
    let (h, w) = (input.height, input.width);
    let (rows, cols) = (reduced(h, layer.stride), reduced(w, layer.stride));
    let pad = layer.dilation * (layer.kernel / 2);
    for tap in 0..layer.depth() {
        let (plane, at) = (tap / layer.kernel.pow(2), tap % layer.kernel.pow(2));
        let (dy, dx) = (
            at / layer.kernel * layer.dilation,
            at % layer.kernel * layer.dilation,
        );
        // Columns whose tap falls inside the picture.
        let first = pad.saturating_sub(dx).div_ceil(layer.stride);
        let last = ((w + pad).saturating_sub(dx))
            .div_ceil(layer.stride)
            .min(cols);
        if first >= last {
            continue;
        }
        for row in 0..rows {
            let Some(y) = (row * layer.stride + dy)
                .checked_sub(pad)
                .filter(|y| *y < h)
            else {
                continue;
            };
            let to = tap * rows * cols + row * cols;
            let from = plane * h * w + y * w + first * layer.stride + dx - pad;
            let end = from + (last - first - 1) * layer.stride + 1;
            visit(to + first..to + last, (from..end).step_by(layer.stride));
        }
    }
}

/// `out += a b`, of sizes (rows, depth, columns); each factor with its strides of rows and columns.
fn product(
    out: &mut [f32],
    (m, k, n): (usize, usize, usize),
    (a, a_row, a_column): (&[f32], isize, isize),
    (b, b_row, b_column): (&[f32], isize, isize),
) {
    assert!(out.len() == m * n && a.len() == m * k && b.len() == k * n);
    // SAFETY: the lengths are as asserted, and every caller's strides run through exactly those.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            a.as_ptr(),
            a_column,
            a_row,
            b.as_ptr(),
            b_column,
            b_row,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// AdamW with a cosine from its learning rate down to nothing.
#[derive(Debug)]
pub struct Adam {
    rate: f32,
    decay: f32,
    steps: usize,
    done: usize,
    means: Vec<[f32; 2]>,
}

impl Adam {
    /// For `weights` weights and `steps` steps.
    pub fn new(weights: usize, rate: f32, decay: f32, steps: usize) -> Self {
        Self {
            rate,
            decay,
            steps,
            done: 0,
            means: vec![[0.0; 2]; weights],
        }
    }

    /// One step along `gradients`, their length held to 1.
    pub fn step(&mut self, weights: &mut [f32], gradients: &[f32]) {
        self.done += 1;
        let progress = self.done as f32 / self.steps as f32;
        let warm = (self.done as f32 / (0.05 * self.steps as f32)).min(1.0);
        let rate =
            self.rate * warm * 0.5 * (1.0 + (std::f32::consts::PI * progress.min(1.0)).cos());
        let norm = gradients.iter().map(|g| g * g).sum::<f32>().sqrt();
        let held = 1.0 / norm.max(1.0);
        let unbias = [BETAS.0, BETAS.1].map(|b| 1.0 / (1.0 - b.powi(self.done as i32)));
        for ((w, g), [m, v]) in weights.iter_mut().zip(gradients).zip(&mut self.means) {
            let g = g * held;
            *m = BETAS.0 * *m + (1.0 - BETAS.0) * g;
            *v = BETAS.1 * *v + (1.0 - BETAS.1) * g * g;
            *w -= rate * (*m * unbias[0] / ((*v * unbias[1]).sqrt() + EPSILON) + self.decay * *w);
        }
    }
}

/// Class probabilities of logits.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().fold(f32::MIN, |m, &l| m.max(l));
    let exp: Vec<f32> = logits.iter().map(|l| (l - most).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

/// A small generator (xorshift64*), the same on every machine.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        let mixed = (seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Even in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Of mean 0 and deviation 1, from four even ones.
    pub fn gaussian(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.uniform() - 0.5).sum();
        sum * 3.0f32.sqrt()
    }

    /// An index below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }

    /// A random order of `0..n`.
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(channels: usize, height: usize, width: usize, noise: &mut Noise) -> Map {
        let mut map = Map::zeros(channels, height, width);
        map.values.iter_mut().for_each(|v| *v = noise.gaussian());
        map
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let layers = [
            Layer::conv(2, 3, 5).stride(2),
            Layer::conv(3, 3, 3).residual(2),
            Layer::conv(3, 4, 3).stride(2),
            Layer::conv(4, 2, 1).linear(),
        ];
        let mut noise = Noise::new(3);
        let mut net = Net::new(&layers, 1);
        let input = map(2, 9, 7, &mut noise);
        let trace = net.trace(input.clone());
        let pull: Vec<f32> = trace.out.values.iter().map(|_| noise.gaussian()).collect();
        let loss = |net: &Net, input: &Map| -> f64 {
            let out = net.run(input.clone());
            let terms = out.values.iter().zip(&pull);
            terms.map(|(o, p)| f64::from(o * p)).sum()
        };
        let mut gradients = vec![0.0; net.weights().len()];
        let d_in = net.back(&trace, pull.clone(), &mut gradients);
        let (mut error, mut size) = (0.0, 0.0);
        let step = 1e-2;
        for (i, gradient) in gradients.iter().enumerate() {
            let was = net.weights[i];
            net.weights[i] = was + step;
            let up = loss(&net, &input);
            net.weights[i] = was - step;
            let slope = (up - loss(&net, &input)) / (2.0 * f64::from(step));
            net.weights[i] = was;
            error += (slope - f64::from(*gradient)).powi(2);
            size += slope * slope;
        }
        for (i, gradient) in d_in.iter().enumerate() {
            let (mut up, mut down) = (input.clone(), input.clone());
            up.values[i] += step;
            down.values[i] -= step;
            let slope = (loss(&net, &up) - loss(&net, &down)) / (2.0 * f64::from(step));
            error += (slope - f64::from(*gradient)).powi(2);
            size += slope * slope;
        }
        // A few weights sit at a bend, where differences cut the corner.
        assert!((error / size).sqrt() < 2e-2, "{}", (error / size).sqrt());
    }

    #[test]
    fn a_convolution_is_the_sum_over_its_taps() {
        let mut noise = Noise::new(5);
        for (kernel, stride, dilation) in [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 4)] {
            let layer = Layer {
                dilation,
                ..Layer::conv(2, 1, kernel).stride(stride).linear()
            };
            let net = Net::new(&[layer], 7);
            let input = map(2, 6, 11, &mut noise);
            let out = net.run(input.clone());
            let pad = (dilation * (kernel / 2)) as isize;
            for y in 0..out.height {
                for x in 0..out.width {
                    let mut sum = 0.0;
                    for tap in 0..2 * kernel * kernel {
                        let (c, at) = (tap / (kernel * kernel), tap % (kernel * kernel));
                        let row = (y * stride + at / kernel * dilation) as isize - pad;
                        let column = (x * stride + at % kernel * dilation) as isize - pad;
                        if (0..6).contains(&row) && (0..11).contains(&column) {
                            let i = c * 66 + row as usize * 11 + column as usize;
                            sum += net.weights[tap] * input.values[i];
                        }
                    }
                    let got = out.values[y * out.width + x];
                    assert!((sum - got).abs() < 1e-4, "{sum} {got}");
                }
            }
        }
    }

    #[test]
    fn a_network_learns_what_no_plane_can_part() {
        let mut net = Net::new(&[Layer::conv(2, 16, 1), Layer::conv(16, 2, 1).linear()], 2);
        let mut adam = Adam::new(net.weights().len(), 1e-2, 0.0, 400);
        let mut noise = Noise::new(9);
        let mut draw = || {
            let (x, y) = (noise.gaussian(), noise.gaussian());
            (vec![x, y], usize::from(x * y > 0.0))
        };
        for _ in 0..400 {
            let mut gradients = vec![0.0; net.weights().len()];
            for _ in 0..32 {
                let (x, class) = draw();
                let trace = net.trace(Map::column(x));
                let mut d = softmax(&trace.out.values);
                d[class] -= 1.0;
                d.iter_mut().for_each(|d| *d /= 32.0);
                net.back(&trace, d, &mut gradients);
            }
            adam.step(&mut net.weights, &gradients);
        }
        let right = (0..500).filter(|_| {
            let (x, class) = draw();
            let out = net.run(Map::column(x)).values;
            usize::from(out[1] > out[0]) == class
        });
        assert!(right.count() > 460);
    }
}
