//! One layer: attention and MLP, each behind a norm and added to the stream.

use candle_core::{Result, Tensor};
use gallop_kernels::{
    Activation, AttentionWeights, BranchMatrix, MlpBranch, Precision, Segments, SelfAttention,
    attention_branch, gelu7_for_product, mlp_branch, rms_norm_for_product, self_attention,
    swiglu7_for_product,
};

use super::matrix::{Form, Matrix, MatrixSource, Weight};
use super::store::inner_form;
use super::{AttentionKind, DitConfig, LayerKind, MlpKind};
use crate::error;
use crate::tokens::TokenSequence;
use crate::weights::{Init, Weights};

/// Added to the mean square in every norm.
pub(super) const NORM_EPS: f64 = 1e-6;
/// Sets of weights in a per-modality layer.
const MODALITIES: usize = 3;

/// One layer.
#[derive(Clone)]
pub(super) struct Block {
    kind: LayerKind,
    attention: Attention,
    mlp: Mlp,
}

impl Block {
    pub(super) fn new(config: &DitConfig, i: usize, source: &MatrixSource) -> error::Result<Self> {
        let kind = config.layers[i];
        let source = source.at("block.layers").at(i);
        Ok(Self {
            kind,
            attention: Attention::new(config, kind, &source.at("attention"))?,
            mlp: Mlp::new(config, kind, &source.at("mlp"))?,
        })
    }

    /// What layer `i` will weigh in memory, and beside that while its largest matrix is made.
    pub(super) fn weight(
        config: &DitConfig,
        i: usize,
        weights: &Weights,
        form: Form,
    ) -> error::Result<Weight> {
        let kind = config.layers[i];
        let source = MatrixSource {
            weights: weights.at("block.layers").at(i),
            form: Some(inner_form(form, i, config.layers.len())),
            look: false,
        };
        let mut sum = Weight::default();
        for (name, shape) in shapes(config, kind) {
            let one = Matrix::weight(&source, shape, &format!("{name}.weight"))?;
            sum.kept += one.kept;
            sum.making = sum.making.max(one.making);
        }
        Ok(sum)
    }

    fn matrices(&self) -> [(&'static str, &Matrix); 4] {
        let [qkv, proj, up, down] = MATRICES;
        [
            (qkv, &self.attention.qkv),
            (proj, &self.attention.proj),
            (up, &self.mlp.up),
            (down, &self.mlp.down),
        ]
    }

    /// Reads its matrices from the disk now, if they are there.
    pub(super) fn fetch(&self) {
        self.matrices()
            .iter()
            .for_each(|(_, matrix)| matrix.fetch());
    }

    /// Gives back the memory of mapped files.
    pub(super) fn release(&self) {
        self.matrices()
            .iter()
            .for_each(|(_, matrix)| matrix.release());
    }

    /// Checks that layer `i`, which this is, holds numbers only.
    pub(super) fn check_finite(&self, i: usize) -> error::Result<()> {
        for (name, matrix) in self.matrices() {
            matrix.check_finite(&format!("block.layers.{i}.{name}.weight"))?;
        }
        Ok(())
    }

    /// [L, D] -> [L, D].
    pub(super) fn forward(
        &self,
        x: &Tensor,
        sequence: &TokenSequence,
        precision: Precision,
    ) -> error::Result<Tensor> {
        let rows = Rows {
            segments: match self.kind.per_modality {
                true => &sequence.by_modality,
                false => &sequence.shared,
            },
            per_modality: self.kind.per_modality,
            precision,
        };
        let x = (self.attention).add_to(x, sequence, self.kind.attention, &rows)?;
        self.mlp.add_to(&x, &rows)
    }
}

/// Names of the matrices of a layer.
const MATRICES: [&str; 4] = [
    "attention.linear_qkv",
    "attention.linear_proj",
    "mlp.up_gate_proj",
    "mlp.down_proj",
];

/// The matrices of a layer with their shapes.
fn shapes(config: &DitConfig, kind: LayerKind) -> [(&'static str, (usize, usize)); 4] {
    let (g, d) = (groups(kind), config.width);
    let [qkv, proj, up, down] = MATRICES;
    [
        (qkv, (g * config.qkv_rows(), d)),
        (proj, (g * d, config.num_heads_q * config.head_dim)),
        (up, (g * config.mlp_rows(kind.mlp), d)),
        (down, (g * d, config.mlp_hidden(kind.mlp))),
    ]
}

/// Bytes of hidden activations of the MLP that are there at a time, on the processor and on a GPU, which needs longer
/// products to be busy. It does not depend on the memory that is allowed, so that no number does.
const CHUNK_BYTES: u64 = 256 << 20;
const CHUNK_BYTES_GPU: u64 = 1 << 30;

/// Bytes of a token on its way through an MLP.
pub(super) fn chunk_row_bytes(config: &DitConfig, kind: MlpKind) -> u64 {
    let numbers = 2 * config.width + config.mlp_rows(kind) + config.mlp_hidden(kind);
    (numbers * size_of::<f32>()) as u64
}

/// Tokens that go through an MLP at a time: about equal parts of all of them.
pub(super) fn chunk_rows(row_bytes: u64, tokens: usize, gpu: bool) -> usize {
    /// Fewer do not repay reading the weights again.
    const LEAST: u64 = 256;
    let bytes = if gpu { CHUNK_BYTES_GPU } else { CHUNK_BYTES };
    let most = (bytes / row_bytes).max(LEAST) as usize;
    tokens.div_ceil(tokens.div_ceil(most).max(1))
}

/// Which rows use which weights, and how products are done.
struct Rows<'a> {
    segments: &'a Segments,
    per_modality: bool,
    precision: Precision,
}

impl Rows<'_> {
    /// The stacked weights of the modalities that the sequence has: the last ones may be absent.
    fn present(&self, weight: &Tensor) -> Result<Tensor> {
        let groups = self.segments.groups();
        if !self.per_modality || groups == MODALITIES {
            return Ok(weight.clone());
        }
        weight.narrow(0, 0, weight.dim(0)? / MODALITIES * groups)
    }

    /// Sets of weights in each matrix.
    fn sets(&self) -> usize {
        if self.per_modality { MODALITIES } else { 1 }
    }

    fn linear(&self, x: &Tensor, weight: &Matrix) -> error::Result<Tensor> {
        weight.linear(x, self.sets(), (self.segments, self.precision))
    }

    /// Two matrices for one operation on x.
    fn near<'b>(
        &self,
        x: &Tensor,
        [a, b]: [&'b Matrix; 2],
    ) -> error::Result<Option<[BranchMatrix<'b>; 2]>> {
        if self.precision == Precision::Fp8 || !x.device().is_cpu() {
            return Ok(None);
        }
        let near = |matrix: &'b Matrix| matrix.near(self.sets(), self.segments.groups());
        Ok(near(a)?.zip(near(b)?).map(|(a, b)| [a, b]))
    }

    /// For a linear map to read, by the weights of the modalities that there are.
    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm_for_product(x, weight, self.segments, NORM_EPS, self.precision)
    }
}

/// Sets of weights in a layer.
fn groups(kind: LayerKind) -> usize {
    if kind.per_modality { MODALITIES } else { 1 }
}

/// A matrix of `groups` x `rows` outputs; `gain` scales its beginning from that which keeps the variance.
fn matrix(
    source: &MatrixSource,
    name: &str,
    shape: (usize, usize),
    gain: f64,
) -> error::Result<Matrix> {
    let init = Init::Normal(gain / (shape.1 as f64).sqrt());
    Matrix::new(source, shape, &format!("{name}.weight"), init)
}

/// The factor on what a branch adds to the stream, so that the sum of all begins at the size of one.
fn branch_gain(config: &DitConfig) -> f64 {
    1.0 / (2.0 * config.layers.len() as f64).sqrt()
}

#[derive(Clone)]
struct Attention {
    heads: (usize, usize, usize),
    pre_norm: Tensor,
    qkv: Matrix,
    q_norm: Tensor,
    k_norm: Tensor,
    proj: Matrix,
}

impl Attention {
    fn new(config: &DitConfig, kind: LayerKind, source: &MatrixSource) -> error::Result<Self> {
        let (g, d, k) = (groups(kind), config.width, config.head_dim);
        let norm = |name: &str, size: usize| {
            source
                .weights
                .get_f32(g * size, &format!("{name}.weight"), Init::Zeros)
        };
        let joined = config.num_heads_q * k;
        Ok(Self {
            heads: (config.num_heads_q, config.num_heads_kv, k),
            pre_norm: norm("pre_norm", d)?,
            qkv: matrix(source, "linear_qkv", (g * config.qkv_rows(), d), 1.0)?,
            q_norm: norm("q_norm", k)?,
            k_norm: norm("k_norm", k)?,
            proj: matrix(source, "linear_proj", (g * d, joined), branch_gain(config))?,
        })
    }

    /// x + attention(x), [L, D]: as one operation where the matrices are small.
    fn add_to(
        &self,
        x: &Tensor,
        sequence: &TokenSequence,
        kind: AttentionKind,
        rows: &Rows,
    ) -> error::Result<Tensor> {
        let layer = SelfAttention {
            heads: self.heads,
            rope: sequence.rope(),
            segments: rows.segments,
            plan: sequence.plan(kind),
            eps: NORM_EPS,
            precision: rows.precision,
        };
        let norm = &rows.present(&self.pre_norm)?;
        let (q_norm, k_norm) = (&rows.present(&self.q_norm)?, &rows.present(&self.k_norm)?);
        let heads = (q_norm, k_norm);
        if let Some([qkv, proj]) = &rows.near(x, [&self.qkv, &self.proj])? {
            let weights = AttentionWeights {
                norm,
                qkv,
                heads,
                proj,
            };
            return Ok(attention_branch(x, weights, &layer)?);
        }
        let qkv = rows.linear(&rows.norm(x, norm)?, &self.qkv)?;
        let out = self_attention(&qkv, heads, &layer)?;
        drop(qkv);
        Ok((x + rows.linear(&out, &self.proj)?)?)
    }
}

#[derive(Clone)]
struct Mlp {
    kind: MlpKind,
    pre_norm: Tensor,
    up: Matrix,
    down: Matrix,
    /// Bytes of a token on its way through.
    row_bytes: u64,
}

impl Mlp {
    fn new(config: &DitConfig, kind: LayerKind, source: &MatrixSource) -> error::Result<Self> {
        let (g, d) = (groups(kind), config.width);
        let (rows, hidden) = (config.mlp_rows(kind.mlp), config.mlp_hidden(kind.mlp));
        Ok(Self {
            kind: kind.mlp,
            row_bytes: chunk_row_bytes(config, kind.mlp),
            pre_norm: source
                .weights
                .get_f32(g * d, "pre_norm.weight", Init::Zeros)?,
            up: matrix(source, "up_gate_proj", (g * rows, d), 1.0)?,
            down: matrix(source, "down_proj", (g * d, hidden), branch_gain(config))?,
        })
    }

    /// x + MLP(x), [L, D]: as one operation where the matrices are small.
    fn add_to(&self, x: &Tensor, rows: &Rows) -> error::Result<Tensor> {
        let norm = &rows.present(&self.pre_norm)?;
        let Some([up, down]) = &rows.near(x, [&self.up, &self.down])? else {
            return self.add_parts(x, norm, rows);
        };
        let layer = MlpBranch {
            segments: rows.segments.clone(),
            activation: match self.kind {
                MlpKind::Gelu7 => Activation::Gelu7,
                MlpKind::Swiglu7 => Activation::Swiglu7,
            },
            eps: NORM_EPS,
            precision: rows.precision,
        };
        Ok(mlp_branch(x, norm, (up, down), layer)?)
    }

    /// x + MLP(x), some rows at a time: the hidden activations are several times as wide.
    fn add_parts(&self, x: &Tensor, norm: &Tensor, rows: &Rows) -> error::Result<Tensor> {
        let tokens = x.dim(0)?;
        let chunk = chunk_rows(self.row_bytes, tokens, !x.device().is_cpu());
        if chunk >= tokens {
            return Ok((x + self.forward(x, norm, rows)?)?);
        }
        let mut parts = Vec::with_capacity(tokens.div_ceil(chunk));
        for start in (0..tokens).step_by(chunk) {
            let part = x.narrow(0, start, chunk.min(tokens - start))?;
            let segments = rows.segments.window(start..start + part.dim(0)?);
            let rows = Rows {
                segments: &segments,
                ..*rows
            };
            parts.push((&part + self.forward(&part, norm, &rows)?)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// [L, D] -> [L, D].
    fn forward(&self, x: &Tensor, norm: &Tensor, rows: &Rows) -> error::Result<Tensor> {
        let up = rows.linear(&rows.norm(x, norm)?, &self.up)?;
        let hidden = match self.kind {
            MlpKind::Gelu7 => gelu7_for_product(&up, rows.precision)?,
            MlpKind::Swiglu7 => swiglu7_for_product(&up, rows.precision)?,
        };
        drop(up);
        rows.linear(&hidden, &self.down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dit::sandwich;
    use crate::weights::Vars;
    use candle_core::Device;

    #[test]
    fn tokens_go_through_in_about_equal_parts() {
        assert_eq!(chunk_rows(1, 4000, false), 4000);
        assert_eq!(chunk_rows(CHUNK_BYTES / 1000, 4000, false), 1000);
        assert_eq!(chunk_rows(CHUNK_BYTES / 1000, 2002, false), 668);
        assert_eq!(chunk_rows(CHUNK_BYTES, 1024, false), 256);
        assert_eq!(chunk_rows(CHUNK_BYTES, 1, false), 1);
        assert_eq!(chunk_rows(CHUNK_BYTES_GPU / 2000, 4000, true), 2000);
    }

    #[test]
    fn parts_give_the_same_bits_and_one_operation_about_the_same() {
        let mut config = DitConfig::small(96, 2, 1, 10);
        config.layers = sandwich(2, 1);
        let weights = Weights::vars(&Vars::default(), Some(1), &Device::Cpu);
        let x = Tensor::randn(0f32, 1., (700, 96), &Device::Cpu).unwrap();
        let segments = Segments::new(vec![(0..300, 0), (300..411, 1), (411..700, 2)]).unwrap();
        for per_modality in [true, false] {
            let kind = LayerKind {
                per_modality,
                ..config.layers[0]
            };
            let single = Segments::single(700);
            let rows = Rows {
                segments: if per_modality { &segments } else { &single },
                per_modality,
                precision: Precision::Bf16,
            };
            let source = MatrixSource {
                weights: weights.at(per_modality),
                form: None,
                look: false,
            };
            let mut mlp = Mlp::new(&config, kind, &source).unwrap();
            let norm = mlp.pre_norm.clone();
            let numbers =
                |y: error::Result<Tensor>| y.unwrap().flatten_all().unwrap().to_vec1::<f32>();
            let whole = numbers(mlp.add_parts(&x, &norm, &rows)).unwrap();
            mlp.row_bytes = CHUNK_BYTES;
            assert_eq!(whole, numbers(mlp.add_parts(&x, &norm, &rows)).unwrap());

            let joined = numbers(mlp.add_to(&x, &rows)).unwrap();
            let error: f32 = joined
                .iter()
                .zip(&whole)
                .map(|(a, b)| (a - b) * (a - b))
                .sum();
            let size: f32 = whole.iter().map(|b| b * b).sum();
            assert!(error < 1e-6 * size, "as one operation: {error} of {size}");
        }
    }
}
