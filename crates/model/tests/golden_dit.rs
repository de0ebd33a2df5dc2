//! The transformer against values of the public code: tokens, positions, ranges, velocities.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, safetensors};
use gallop_core::LatentShape;
use gallop_kernels::Precision;
use gallop_model::dit::{
    AttentionKind, Batch, Dit, DitConfig, LayerKind, MemoryPlan, MemoryRequest, MlpKind,
    PositionStyle, ROPE_THETA, Text, TextConfig,
};
use gallop_model::tokens::{SampleSpec, TokenSequence};
use gallop_model::{WeightFiles, Weights, save_weights};
use serde::Deserialize;

/// Relative error allowed where the public code computes in bf16.
const BF16: f64 = 1.5e-2;
/// The same for 8-bit floats: rounding alone is 4% a product.
const EIGHT: f64 = 0.2;

#[derive(Deserialize)]
struct Meta {
    num_layers: usize,
    hidden_size: usize,
    head_dim: usize,
    num_heads_q: usize,
    num_heads_kv: usize,
    text_in_channels: usize,
    mm_layers: Vec<usize>,
    local_attn_layers: Vec<usize>,
    gelu7_layers: Vec<usize>,
    coords_style: String,
    latent_shape: [usize; 4],
    audio_len: usize,
    text_len: usize,
    frame_receptive_field: i64,
}

impl Meta {
    fn config(&self) -> DitConfig {
        let layer = |i| LayerKind {
            per_modality: self.mm_layers.contains(&i),
            mlp: match self.gelu7_layers.contains(&i) {
                true => MlpKind::Gelu7,
                false => MlpKind::Swiglu7,
            },
            attention: match self.local_attn_layers.contains(&i) {
                true => AttentionKind::Local,
                false => AttentionKind::Full,
            },
        };
        DitConfig {
            width: self.hidden_size,
            head_dim: self.head_dim,
            num_heads_q: self.num_heads_q,
            num_heads_kv: self.num_heads_kv,
            layers: (0..self.num_layers).map(layer).collect(),
            video_channels: self.latent_shape[0],
            patch: [1, 2, 2],
            audio_channels: 64,
            text: TextConfig {
                channels: self.text_in_channels,
                vocabulary: None,
            },
            positions: match self.coords_style.as_str() {
                "v1" => PositionStyle::V1,
                "v2" => PositionStyle::V2,
                other => panic!("position style {other}"),
            },
            rope_theta: ROPE_THETA,
            local_frames: self.frame_receptive_field.max(0) as usize,
        }
    }
}

struct Golden {
    name: String,
    config: DitConfig,
    tensors: HashMap<String, Tensor>,
    sequence: TokenSequence,
    latents: Tensor,
    text: Tensor,
}

impl Golden {
    fn get(&self, name: &str) -> &Tensor {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    fn weights(&self) -> Weights {
        let named = self.tensors.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix("weights.")?.to_string(), tensor.clone()))
        });
        Weights::memory(named.collect(), self.latents.device())
    }

    fn batch(&self) -> Result<Batch<'_>> {
        Ok(Batch {
            sequence: &self.sequence,
            video: self
                .sequence
                .video_tokens(std::slice::from_ref(&self.latents))?,
            audio: Some(self.get("in.audio").get(0)?),
            text: Some(Text::Features(self.text.clone())),
            predict_text: false,
        })
    }
}

/// The transformers in GALLOP_GOLDEN, or in the small copy beside this file.
fn golden() -> Vec<Golden> {
    golden_on(&Device::Cpu)
}

fn golden_on(device: &Device) -> Vec<Golden> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = std::env::var_os("GALLOP_GOLDEN").map_or(here, PathBuf::from);
    let meta = std::fs::read_to_string(folder.join("dit_meta.json")).unwrap();
    let metas: HashMap<String, Meta> = serde_json::from_str(&meta).unwrap();
    let found: Vec<Golden> = metas
        .into_iter()
        .filter_map(|(name, meta)| {
            let file = folder.join(format!("{name}.safetensors"));
            file.exists().then(|| load(name, &meta, (&file, device)))
        })
        .collect();
    assert!(!found.is_empty(), "no transformer in {}", folder.display());
    found
}

fn load(name: String, meta: &Meta, (file, device): (&std::path::Path, &Device)) -> Golden {
    let config = meta.config();
    let tensors = safetensors::load(file, device).unwrap();
    let [_, frames, height, width] = meta.latent_shape;
    let latents = LatentShape {
        frames,
        height,
        width,
        audio: meta.audio_len,
    };
    let spec = SampleSpec::public(latents, meta.text_len);
    let sequence = TokenSequence::new(&config, &[spec], device).unwrap();
    let video = tensors["in.video"]
        .get(0)
        .unwrap()
        .permute((1, 2, 3, 0))
        .unwrap();
    let text = tensors["in.text"].get(0).unwrap();
    let text = text.narrow(0, 0, meta.text_len).unwrap();
    Golden {
        name,
        config,
        tensors,
        sequence,
        latents: video.contiguous().unwrap(),
        text,
    }
}

fn relative(got: &Tensor, want: &Tensor) -> Result<f64> {
    let norm = |t: &Tensor| t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>();
    Ok((norm(&(got - want)?)? / norm(want)?).sqrt())
}

#[test]
fn golden_tokens_and_positions() -> Result<()> {
    for g in golden() {
        let tokens = g
            .sequence
            .video_tokens(std::slice::from_ref(&g.latents))?
            .unwrap();
        let want = g.get("mid.tokens").narrow(0, 0, tokens.dim(0)?)?;
        assert_eq!(relative(&tokens, &want)?, 0.0, "{}", g.name);
        let coordinates = g.sequence.coordinates(&g.config);
        let want = g.get("mid.coords").to_vec2::<f32>()?;
        assert_eq!(coordinates.len(), want.len());
        for (got, want) in coordinates.iter().zip(&want) {
            assert_eq!(got[..], want[..], "{}", g.name);
        }
        let (sin, cos) = g.sequence.rope();
        let error = relative(&Tensor::cat(&[sin, cos], 1)?, g.get("mid.rope"))?;
        assert!(error < 1e-6, "{}: {error}", g.name);
    }
    Ok(())
}

/// Which key each query sees.
fn seen(length: usize, pairs: impl Iterator<Item = [usize; 4]>) -> Vec<bool> {
    let mut seen = vec![false; length * length];
    for [q0, q1, k0, k1] in pairs {
        for q in q0..q1 {
            seen[q * length + k0..q * length + k1].fill(true);
        }
    }
    seen
}

#[test]
fn golden_local_ranges() -> Result<()> {
    for g in golden() {
        let Some(q) = g.tensors.get("mid.q_ranges") else {
            continue;
        };
        let ranges = |t: &Tensor| t.to_dtype(DType::U32)?.to_vec2::<u32>();
        let pairs = ranges(q)?.into_iter().zip(ranges(g.get("mid.k_ranges"))?);
        let length = g.sequence.len();
        let want = seen(
            length,
            pairs.map(|(q, k)| [q[0], q[1], k[0], k[1]].map(|x| x as usize)),
        );
        let blocks = &g.sequence.plan(AttentionKind::Local).blocks;
        let got = blocks.iter().flat_map(|b| {
            assert!(!b.causal);
            b.k.iter().map(|k| [b.q.start, b.q.end, k.start, k.end])
        });
        assert_eq!(seen(length, got), want, "{}", g.name);
    }
    Ok(())
}

#[test]
fn golden_velocities() -> Result<()> {
    let precisions = [
        (Precision::Bf16, BF16),
        (Precision::F32, BF16),
        // What eight bits cost in the layers between two of bf16.
        (Precision::Fp8, EIGHT),
    ];
    velocities(golden(), &precisions)
}

/// The same on a GPU, or its emulation: `--features gallop-kernels/cuda`, `LD_LIBRARY_PATH=target/cuda-emulate`.
#[test]
#[ignore = "needs a GPU or its emulation"]
fn golden_velocities_on_a_gpu() -> Result<()> {
    let device = gallop_kernels::cuda_device(0, &[])?;
    let precisions = [(Precision::Bf16, BF16), (Precision::Fp8, EIGHT)];
    velocities(golden_on(&device), &precisions)
}

fn velocities(golden: Vec<Golden>, precisions: &[(Precision, f64)]) -> Result<()> {
    for g in golden {
        let weights = g.weights();
        for &(precision, limit) in precisions {
            let dit = Dit::new(&g.config, &weights)
                .unwrap()
                .with_precision(precision);
            let out = dit.forward(&g.batch()?).unwrap();
            let video = g.sequence.video_latents(&out.video.unwrap())?;
            let video = video[0].permute((3, 0, 1, 2))?;
            let errors = [
                relative(&video, &g.get("out.video_velocity").get(0)?)?,
                relative(&out.audio.unwrap(), &g.get("out.audio_velocity").get(0)?)?,
            ];
            println!(
                "{} {precision:?}: video {:.2e}, audio {:.2e}",
                g.name, errors[0], errors[1]
            );
            assert!(errors.iter().all(|&e| e <= limit), "{}: {errors:?}", g.name);
        }
    }
    Ok(())
}

#[test]
fn golden_layers_read_from_files_give_the_same_bits() -> Result<()> {
    for g in golden() {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("dit.safetensors");
        let named = g.tensors.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix("weights.")?.to_string(), tensor.clone()))
        });
        save_weights(&path, named.collect(), &Default::default()).unwrap();
        let files = Arc::new(WeightFiles::open(&path).unwrap());
        let weights = Weights::files(files, &Device::Cpu);
        let whole = Dit::new(&g.config, &g.weights()).unwrap();
        let want = whole.forward(&g.batch()?).unwrap();
        let request = |budget| MemoryRequest::new(budget, g.sequence.len());
        let all = MemoryPlan::new(&g.config, &weights, request(None)).unwrap();
        let some = all.peak() - all.resident_bytes() / 3;
        let some = MemoryPlan::new(&g.config, &weights, request(Some(some)));
        let mut dits = vec![
            Dit::streamed(&g.config, &g.weights()).unwrap(),
            Dit::streamed(&g.config, &weights).unwrap(),
            Dit::planned(&g.config, &weights, &all).unwrap(),
        ];
        // Two of three layers have no room for one on its way beside them.
        dits.extend(
            some.ok()
                .map(|plan| Dit::planned(&g.config, &weights, &plan).unwrap()),
        );
        for dit in dits {
            for _ in 0..2 {
                let got = dit.forward(&g.batch()?).unwrap();
                let parts = [(got.video, &want.video), (got.audio, &want.audio)];
                for (got, want) in parts {
                    let error = relative(&got.unwrap(), want.as_ref().unwrap())?;
                    assert_eq!(error, 0.0, "{}", g.name);
                }
            }
        }
    }
    Ok(())
}
