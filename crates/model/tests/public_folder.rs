//! A random model in the public layout: written, listed, and every stage of it run.

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor};
use gallop_kernels::Precision;
use gallop_model::{
    Weights,
    dit::Dit,
    public::{Part, PartState, Preset, PublicModel, t5gemma::Text, write_random_part},
};

fn write(folder: &Path, parts: &[Part]) -> u64 {
    let mut bytes = 0;
    for &part in parts {
        write_random_part(folder, &Preset::tiny(), part, 1, &mut |n| bytes += n).unwrap();
    }
    bytes
}

fn noise(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
}

fn spread(x: &Tensor) -> f32 {
    let x = x.flatten_all().unwrap();
    x.var(0).unwrap().to_scalar::<f32>().unwrap().sqrt()
}

#[test]
fn a_random_model_is_whole_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let written = write(folder.path(), &Part::ALL);
    let model = PublicModel::open(folder.path()).unwrap();
    let mut listed = 0;
    for (part, state) in model.inventory() {
        let PartState::Present(inventory) = state else {
            panic!("{part:?}: {state:?}");
        };
        let specs = Preset::tiny().tensors(part).unwrap();
        let count: u64 = specs.iter().map(|spec| spec.parameters()).sum();
        assert_eq!(inventory.parameters, count, "{part:?}");
        listed += inventory.bytes;
    }
    assert_eq!(listed, written);

    let text = model.text().unwrap();
    let ids = text.tokenizer().encode("Hé a").unwrap();
    // The mark of the start, H, the two bytes of é, the three of a blank, a.
    assert_eq!(ids.len(), 1 + 1 + 2 + 3 + 1);
    assert_eq!((ids[0], ids[1], ids[2]), (2, 4 + 0x48, 4 + 0xc3));
    let encoder = text.encoder(Precision::F32).unwrap();
    let features = encoder.encode(&[Text::new(ids)]).unwrap();
    assert_eq!(features[0].dims(), [8, 64]);
    assert!((0.5..2.0).contains(&spread(&features[0])));

    let latents = noise(&[48, 2, 2, 2]);
    let exact = model
        .video_decoder(Precision::F32)
        .unwrap()
        .decode(&latents)
        .unwrap();
    let fast = model
        .fast_video_decoder(Precision::F32)
        .unwrap()
        .decode(&latents)
        .unwrap();
    assert_eq!(exact.dims(), [5, 32, 32, 3]);
    assert_eq!(fast.dims(), exact.dims());
    let encoder = model.video_encoder(Precision::F32).unwrap();
    assert_eq!(encoder.encode(&exact).unwrap().dims(), latents.dims());
    let wave = model
        .audio_decoder(Precision::F32)
        .unwrap()
        .decode(&noise(&[3, 64]))
        .unwrap();
    assert_eq!(wave.dims(), [3 * 2048, 2]);
    let moments = model
        .audio_encoder(Precision::F32)
        .unwrap()
        .encode(&wave)
        .unwrap();
    assert_eq!(moments.mean.dims(), [3, 64]);

    let files = model.transformer(Part::Super1080p).unwrap();
    let config = model.transformer_config(Part::Super1080p, &files).unwrap();
    assert_eq!(config, Preset::tiny().transformer_of(Part::Super1080p));
    Dit::new(&config, &Weights::files(files, &Device::Cpu)).unwrap();
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for folder in [&a, &b] {
        write(folder.path(), &[Part::AudioAutoencoder]);
    }
    let read = |folder: &Path| {
        let part = folder.join(Part::AudioAutoencoder.folder());
        fs::read(part.join("model.safetensors")).unwrap()
    };
    assert_eq!(read(a.path()), read(b.path()));
}

#[test]
fn what_is_missing_is_named_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    assert!(PublicModel::open(folder.path()).is_err());
    write(folder.path(), &[Part::TextEncoder]);
    let model = PublicModel::open(folder.path()).unwrap();
    let error = model
        .video_encoder(Precision::F32)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("Wan-AI/Wan2.2-TI2V-5B"), "{error}");
    let part = folder.path().join(Part::TextEncoder.folder());
    fs::remove_file(part.join("tokenizer.json")).unwrap();
    let error = model.text().err().unwrap().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("google/"),
        "{error}"
    );
    let states = model.inventory();
    assert!(
        states
            .iter()
            .all(|(_, state)| matches!(state, PartState::Missing(_)))
    );
}

#[test]
fn a_cut_or_broken_file_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[Part::VideoAutoencoder, Part::Base]);
    let model = PublicModel::open(folder.path()).unwrap();
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    cut(&folder.path().join("Wan2.2-TI2V-5B/Wan2.2_VAE.pth"));
    cut(&folder.path().join("base/model-00001-of-00001.safetensors"));
    for (part, state) in model.inventory() {
        let broken = matches!(part, Part::VideoAutoencoder | Part::Base);
        assert_eq!(
            matches!(state, PartState::Broken(_)),
            broken,
            "{part:?}: {state:?}"
        );
    }
    let error = model
        .video_decoder(Precision::F32)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("Wan2.2_VAE.pth") && error.contains("cut short"),
        "{error}"
    );
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[Part::AudioAutoencoder]);
    let path = folder
        .path()
        .join("stable-audio-open-1.0/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let model = PublicModel::open(folder.path()).unwrap();
    let error = model
        .audio_decoder(Precision::F32)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("decoder.layers") && error.contains("not finite"),
        "{error}"
    );
}

#[test]
fn presets_have_about_the_size_of_their_names() {
    for (name, billions) in [("horse-15b", 15.28), ("3b", 3.0), ("1b", 1.0)] {
        let specs = Preset::named(name).unwrap().tensors(Part::Base).unwrap();
        let count: u64 = specs.iter().map(|spec| spec.parameters()).sum();
        let ratio = count as f64 / 1e9 / billions;
        assert!((0.9..1.15).contains(&ratio), "{name}: {count}");
    }
    assert!(Preset::named("2b").is_none());
}

#[test]
fn bf16_stages_are_close_to_f32_ones() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[Part::FastDecoder]);
    let model = PublicModel::open(folder.path()).unwrap();
    let latents = noise(&[48, 2, 2, 2]);
    let decode = |precision| {
        let decoder = model.fast_video_decoder(precision).unwrap();
        decoder
            .decode(&latents)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
    };
    let (exact, rounded) = (decode(Precision::F32), decode(Precision::Bf16));
    let norm = |x: Tensor| {
        x.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
            .sqrt()
    };
    let error = norm((&exact - &rounded).unwrap()) / norm(exact);
    assert!((1e-5..2e-2).contains(&error), "{error}");
}
