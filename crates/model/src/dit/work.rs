//! What one run of a transformer multiplies, counted from its configuration and the structure of a sequence.

use candle_core::Device;
use gallop_core::LatentShape;
use serde::Serialize;

use super::{AttentionKind, DitConfig};
use crate::Result;
use crate::tokens::{Modality, SampleSpec, TokenSequence};

/// A product `[m, k] x [k, n]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Product {
    /// The matrix of the layer.
    pub name: &'static str,
    /// Tokens.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// How often there is such a product.
    pub count: usize,
}

/// Attention of some queries to some keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attended {
    /// Query tokens.
    pub queries: usize,
    /// Key tokens that they see.
    pub keys: usize,
    /// Whether query i sees only keys up to i, of the last ones.
    pub causal: bool,
    /// How often there is such attention.
    pub count: usize,
}

/// All products of one run, embedders and heads left out: they are a thousandth of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads.
    pub key_heads: usize,
    /// Numbers a head.
    pub head_dim: usize,
    /// Products with weights.
    pub products: Vec<Product>,
    /// Attention, in which each pair of a query and a key is two products of `head_dim` for each query head.
    pub attention: Vec<Attended>,
}

impl Work {
    /// The work of a transformer of this configuration over a sequence.
    pub fn new(config: &DitConfig, sequence: &TokenSequence) -> Self {
        let mut work = Self {
            query_heads: config.num_heads_q,
            key_heads: config.num_heads_kv,
            head_dim: config.head_dim,
            ..Self::default()
        };
        for layer in &config.layers {
            let rows = match layer.per_modality {
                true => Modality::ALL.map(|m| sequence.count(m)).to_vec(),
                false => vec![sequence.len()],
            };
            let (d, heads) = (config.width, config.num_heads_q * config.head_dim);
            let hidden = config.mlp_hidden(layer.mlp);
            for (name, n, k) in [
                ("qkv", config.qkv_rows(), d),
                ("proj", d, heads),
                ("up_gate", config.mlp_rows(layer.mlp), d),
                ("down", d, hidden),
            ] {
                rows.iter().for_each(|&m| work.product(name, [m, n, k]));
            }
            work.attend(sequence, layer.attention);
        }
        work
    }

    /// The work over one clip of the public model, with so many tokens of text.
    ///
    /// # Errors
    /// Latents that the transformer cannot take.
    pub fn of_clip(config: &DitConfig, latents: LatentShape, text: usize) -> Result<Self> {
        let spec = SampleSpec::public(latents, text);
        let sequence = TokenSequence::new(config, &[spec], &Device::Cpu)?;
        Ok(Self::new(config, &sequence))
    }

    fn product(&mut self, name: &'static str, [m, n, k]: [usize; 3]) {
        if m == 0 {
            return;
        }
        let same = |p: &&mut Product| (p.name, p.m, p.n, p.k) == (name, m, n, k);
        match self.products.iter_mut().find(same) {
            Some(known) => known.count += 1,
            None => self.products.push(Product {
                name,
                m,
                n,
                k,
                count: 1,
            }),
        }
    }

    fn attend(&mut self, sequence: &TokenSequence, kind: AttentionKind) {
        for block in &sequence.plan(kind).blocks {
            let keys: usize = block.k.iter().map(|range| range.len()).sum();
            let (queries, causal) = (block.q.len(), block.causal);
            let same = |a: &&mut Attended| (a.queries, a.keys, a.causal) == (queries, keys, causal);
            match self.attention.iter_mut().find(same) {
                Some(known) => known.count += 1,
                None => self.attention.push(Attended {
                    queries,
                    keys,
                    causal,
                    count: 1,
                }),
            }
        }
    }

    /// Operations of the products with weights, an addition and a multiplication being two.
    pub fn product_operations(&self) -> f64 {
        let each = |p: &Product| 2.0 * p.m as f64 * p.n as f64 * p.k as f64 * p.count as f64;
        self.products.iter().map(each).sum()
    }

    /// Operations of attention's products.
    pub fn attention_operations(&self) -> f64 {
        let pairs = |a: &Attended| {
            let all = a.queries as f64 * a.keys as f64;
            // Query i of a causal block does not see the last `queries - 1 - i` keys.
            let unseen = match a.causal {
                true => a.queries as f64 * (a.queries as f64 - 1.0) / 2.0,
                false => 0.0,
            };
            (all - unseen) * a.count as f64
        };
        let each = 4.0 * (self.query_heads * self.head_dim) as f64;
        self.attention.iter().map(pairs).sum::<f64>() * each
    }

    /// All operations.
    pub fn operations(&self) -> f64 {
        self.product_operations() + self.attention_operations()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_what_the_configuration_says() {
        let config = DitConfig::horse_15b();
        let latents = LatentShape {
            frames: 4,
            height: 8,
            width: 12,
            audio: 14,
        };
        let specs = [SampleSpec::public(latents, 20)];
        let sequence = TokenSequence::new(&config, &specs, &Device::Cpu).unwrap();
        let work = Work::new(&config, &sequence);
        let tokens = (4 * 4 * 6 + 14 + 20) as f64;
        let pairs = 4.0 * tokens * tokens * 5120.0 * 40.0;
        assert_eq!(work.attention_operations(), pairs);
        // A token meets a third of the outer layers' weights, and all of the others'.
        let met = work.product_operations() / tokens / 2.0;
        assert!((10.7e9..11.0e9).contains(&met), "{met:e}");
        // 32 shared layers; 8 of three modalities, four of them with the wide MLP.
        let count: usize = work.products.iter().map(|p| p.count).sum();
        assert_eq!(count, 4 * (32 + 3 * 8));
    }

    #[test]
    fn local_layers_see_their_window() {
        let config = DitConfig::horse_15b_1080p();
        let latents = LatentShape {
            frames: 32,
            height: 4,
            width: 4,
            audio: 126,
        };
        let specs = [SampleSpec::public(latents, 10)];
        let sequence = TokenSequence::new(&config, &specs, &Device::Cpu).unwrap();
        let work = Work::new(&config, &sequence);
        // A frame in the middle: 23 frames of 4 tokens, 126 and 10 others.
        let inner = |a: &&Attended| a.keys == 23 * 4 + 136;
        let found = work.attention.iter().find(inner).unwrap();
        assert_eq!((found.queries, found.count), (4, 10 * 32));
        let full = Work::of_clip(&DitConfig::horse_15b(), latents, 10).unwrap();
        assert!(work.operations() < full.operations());
    }
}
