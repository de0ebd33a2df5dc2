//! The public components against tensors that the public code gave: the folder named by
//! `GALLOP_GOLDEN`, else the small copies beside this test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use gallop_kernels::Precision;
use gallop_model::{
    WeightFiles,
    public::{
        oobleck::{OobleckConfig, OobleckDecoder, OobleckEncoder},
        source::{Checkpoint, Renamed, TensorSource},
        t5gemma::{T5GemmaConfig, T5GemmaEncoder, Text},
        turbo_vaed::{TurboConfig, TurboDecoder},
        wan_vae::{LatentStats, WanDecoder, WanEncoder},
    },
};

/// The public code computes these in 32-bit floats; what remains is the order of sums. Deep decoders of random weights
/// make more of it, so other files than those beside this test are held to less.
fn tolerance() -> f64 {
    match std::env::var_os("GALLOP_GOLDEN") {
        None => 1e-5,
        Some(_) => 1e-4,
    }
}

struct Golden(Arc<WeightFiles>);

impl Golden {
    fn open(path: &Path) -> Self {
        Self(Arc::new(WeightFiles::open(path).unwrap()))
    }

    fn named(name: &str) -> Self {
        Self::open(&folder().join(format!("{name}.safetensors")))
    }

    /// The copy beside this test, for what is checked of one model and not of any.
    fn own(name: &str) -> Self {
        Self::open(&own().join(format!("{name}.safetensors")))
    }

    /// The tensor `name`, without its batch of one.
    fn get(&self, name: &str) -> Tensor {
        let tensor = self.0.load(name, &Device::Cpu).unwrap();
        tensor.squeeze(0).unwrap_or(tensor)
    }

    fn list(&self, name: &str) -> Vec<f32> {
        let tensor = self.0.load(name, &Device::Cpu).unwrap();
        tensor.to_vec1().unwrap()
    }

    fn stats(&self) -> LatentStats {
        LatentStats::new(&self.list("mean"), &self.list("std")).unwrap()
    }

    fn weights(&self) -> Renamed<Arc<WeightFiles>> {
        Renamed::new(self.0.clone(), |name| {
            Some(name.strip_prefix("weights.")?.into())
        })
    }
}

fn own() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn folder() -> PathBuf {
    std::env::var_os("GALLOP_GOLDEN").map_or_else(own, PathBuf::from)
}

fn config(name: &str) -> String {
    fs::read_to_string(folder().join(format!("{name}.json"))).unwrap()
}

/// Fails unless `got` is `want` within `tolerance`, as a share of `want`'s length.
fn compare(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let norm = |x: &Tensor| {
        let x = x.to_dtype(DType::F64).unwrap().sqr().unwrap();
        x.sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let error = norm(&(got - want).unwrap()) / norm(want);
    println!("{what}: relative error {error:.2e}");
    assert!(error <= tolerance, "{what}: {error:.2e} > {tolerance:.0e}");
}

/// `[C, T, H, W]` to `[T, H, W, C]`.
fn channels_last(x: &Tensor) -> Tensor {
    x.permute((1, 2, 3, 0)).unwrap().contiguous().unwrap()
}

fn check_wan(golden: &Golden) {
    let weights = golden.weights();
    let weights = Checkpoint::new(&weights);
    let encoder = WanEncoder::load(&weights, golden.stats(), Precision::F32).unwrap();
    let video = channels_last(&golden.get("in.video"));
    let latent = golden.get("out.latent");
    compare(
        "latents",
        &encoder.encode(&video).unwrap(),
        &latent,
        tolerance(),
    );
    let first = encoder.encode(&video.narrow(0, 0, 1).unwrap()).unwrap();
    let alone = latent.narrow(1, 0, 1).unwrap();
    compare("first frame's latents", &first, &alone, tolerance());
    let decoder = WanDecoder::load(&weights, golden.stats(), Precision::F32).unwrap();
    let pictures = decoder.decode(&latent).unwrap();
    let want = channels_last(&golden.get("out.decoded"));
    compare("pictures", &pictures, &want, tolerance());
}

/// The full golden case, five megabytes, lies beside the repository or in `GALLOP_GOLDEN`.
#[test]
fn golden_wan22_vae() {
    let name = "wan22_vae.safetensors";
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    for folder in [folder(), beside] {
        if folder.join(name).exists() {
            return check_wan(&Golden::open(&folder.join(name)));
        }
    }
    println!("{name} is not here: see golden_wan22_vae_small");
}

/// The same architecture, narrower and shallower.
#[test]
fn golden_wan22_vae_small() {
    check_wan(&Golden::own("wan22_vae_small"));
}

#[test]
fn golden_turbo_vaed() {
    let golden = Golden::named("turbo_vaed");
    let weights = golden.weights();
    let decoder = TurboDecoder::load(
        &Checkpoint::new(&weights),
        TurboConfig::parse(&config("turbo_vaed")).unwrap(),
        golden.stats(),
        Precision::F32,
    );
    let pictures = decoder.unwrap().decode(&golden.get("in.latent")).unwrap();
    let want = channels_last(&golden.get("out.video"));
    compare("pictures", &pictures, &want, tolerance());
}

#[test]
fn golden_turbo_vaed_has_the_public_latent_statistics() {
    use gallop_model::public::wan_vae::{LATENT_MEAN, LATENT_STD};
    let golden = Golden::own("turbo_vaed");
    assert_eq!(golden.list("mean"), LATENT_MEAN);
    assert_eq!(golden.list("std"), LATENT_STD);
}

#[test]
fn golden_oobleck() {
    let golden = Golden::named("oobleck");
    let config = OobleckConfig::parse(&config("oobleck")).unwrap();
    let weights = golden.weights();
    let weights = Checkpoint::new(&weights);
    let encoder = OobleckEncoder::load(&weights, &config, Precision::F32).unwrap();
    let wave = golden.get("in.audio").t().unwrap().contiguous().unwrap();
    let moments = encoder.encode(&wave).unwrap();
    let both = Tensor::cat(&[&moments.mean, &moments.scale], 1).unwrap();
    let want = golden.get("out.pre_bottleneck").t().unwrap();
    compare("moments", &both, &want, tolerance());
    let latent = golden.get("in.latent").t().unwrap().contiguous().unwrap();
    let decoder = OobleckDecoder::load(&weights, &config, Precision::F32).unwrap();
    let wave = decoder.decode(&latent).unwrap();
    compare(
        "wave",
        &wave,
        &golden.get("out.audio").t().unwrap(),
        tolerance(),
    );
}

#[test]
fn golden_t5gemma_encoder() {
    let golden = Golden::named("t5gemma_encoder");
    let config = T5GemmaConfig::parse(&config("t5gemma_encoder")).unwrap();
    let weights = golden.weights();
    let encoder = T5GemmaEncoder::new(&weights, config, Precision::F32).unwrap();
    let ids = golden.get("in.ids").to_dtype(DType::U32).unwrap();
    let ids: Vec<u32> = ids.to_vec1().unwrap();
    let want = golden.get("out.hidden");
    let hidden = encoder.encode(&[Text::new(ids.clone())]).unwrap();
    compare("hidden", &hidden[0], &want, tolerance());
    // Padding after the text changes nothing before it.
    let mask: Vec<bool> = (0..ids.len() + 9).map(|i| i < ids.len()).collect();
    let padded = [ids.clone(), vec![0; 9]].concat();
    let hidden = encoder
        .encode(&[Text::masked(padded, &mask).unwrap()])
        .unwrap();
    let counted = hidden[0].narrow(0, 0, ids.len()).unwrap();
    compare("hidden of a padded text", &counted, &want, tolerance());
}

/// A decoder's tensors, but one.
struct Changed<S> {
    others: S,
    name: &'static str,
    /// None where it is missing.
    tensor: Option<Tensor>,
}

impl<S: TensorSource> TensorSource for Changed<S> {
    fn names(&self) -> Vec<String> {
        self.others.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match name == self.name {
            true => Some(self.tensor.as_ref()?.dims().to_vec()),
            false => self.others.shape(name),
        }
    }

    fn tensor(&self, name: &str) -> gallop_model::public::Result<Tensor> {
        match (name == self.name, &self.tensor) {
            (true, Some(tensor)) => Ok(tensor.clone()),
            _ => self.others.tensor(name),
        }
    }
}

#[test]
fn a_missing_or_misshapen_weight_is_named() {
    let golden = Golden::own("t5gemma_encoder");
    let json = fs::read_to_string(own().join("t5gemma_encoder.json")).unwrap();
    let config = T5GemmaConfig::parse(&json).unwrap();
    let name = "encoder.layers.1.mlp.up_proj.weight";
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (tensor, said) in [(None, "missing"), (Some(zeros((64, 64))), "[64, 64]")] {
        let source = Changed {
            others: golden.weights(),
            name,
            tensor,
        };
        let encoder = T5GemmaEncoder::new(&source, config.clone(), Precision::F32).unwrap();
        let error = encoder
            .encode(&[Text::new(vec![3, 4])])
            .unwrap_err()
            .to_string();
        assert!(error.contains(name) && error.contains(said), "{error}");
    }
}
