//! The lists of tensors against the golden files' headers, and the counts of the full size.

use std::{collections::BTreeMap, fs, path::PathBuf};

use gallop_model::{
    WeightFiles,
    dit::DitConfig,
    public::{
        manifest::{
            TensorSpec, VideoWidths, audio_autoencoder, fast_decoder, parameters, text_encoder,
            transformer, video_autoencoder,
        },
        oobleck::OobleckConfig,
        t5gemma::T5GemmaConfig,
        turbo_vaed::TurboConfig,
    },
};

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file)
}

fn text(name: &str) -> String {
    fs::read_to_string(golden(&format!("{name}.json"))).unwrap()
}

/// The names and shapes of a golden file's weights.
fn stored(name: &str, prefix: &str) -> BTreeMap<String, Vec<usize>> {
    let files = WeightFiles::open(&golden(&format!("{name}.safetensors"))).unwrap();
    let names = files.names().into_iter();
    let weights = names.filter_map(|name| {
        let shape = files.shape(&name)?.to_vec();
        Some((name.strip_prefix(prefix)?.to_string(), shape))
    });
    weights.collect()
}

fn listed(specs: Vec<TensorSpec>) -> BTreeMap<String, Vec<usize>> {
    let count = specs.len();
    let map: BTreeMap<_, _> = specs.into_iter().map(|s| (s.name, s.shape)).collect();
    assert_eq!(map.len(), count, "a name is listed twice");
    map
}

#[test]
fn lists_equal_what_the_golden_files_hold() {
    let widths = VideoWidths {
        encoder: 3,
        decoder: 3,
        blocks: 1,
        latents: 48,
    };
    let video = listed(video_autoencoder(widths));
    assert_eq!(video, stored("wan22_vae_small", "weights."));
    let fast = TurboConfig::parse(&text("turbo_vaed")).unwrap();
    assert_eq!(
        listed(fast_decoder(&fast)),
        stored("turbo_vaed", "weights.")
    );
    let audio = OobleckConfig::parse(&text("oobleck")).unwrap();
    assert_eq!(
        listed(audio_autoencoder(&audio)),
        stored("oobleck", "weights.")
    );
    let encoder = T5GemmaConfig::parse(&text("t5gemma_encoder")).unwrap();
    let encoder = listed(text_encoder(&encoder)).into_iter();
    let encoder = encoder.map(|(name, shape)| (name.replacen("model.", "", 1), shape));
    assert_eq!(
        encoder.collect::<BTreeMap<_, _>>(),
        stored("t5gemma_encoder", "weights.")
    );
}

#[test]
fn the_full_size_has_the_published_counts() {
    let config = DitConfig::horse_15b();
    let specs = transformer(&config);
    // The frequencies of positions are stored, but are no parameters.
    let counted = parameters(&specs) - 16;
    assert_eq!(counted, config.parameters() as u64);
    assert!((15.27e9..15.30e9).contains(&(counted as f64)), "{counted}");
    let bytes: u64 = specs.iter().map(TensorSpec::bytes).sum();
    assert!((30.5e9..30.7e9).contains(&(bytes as f64)), "{bytes}");
    for (name, specs, low, high) in [
        (
            "text encoder",
            text_encoder(&T5GemmaConfig::public()),
            9.2e9,
            9.3e9,
        ),
        (
            "video",
            video_autoencoder(VideoWidths::PUBLIC),
            0.69e9,
            0.72e9,
        ),
        (
            "audio",
            audio_autoencoder(&OobleckConfig::public()),
            0.15e9,
            0.16e9,
        ),
        (
            "fast decoder",
            fast_decoder(&TurboConfig::public()),
            0.10e9,
            0.11e9,
        ),
    ] {
        let count = parameters(&specs) as f64;
        println!("{name}: {count}");
        assert!((low..high).contains(&count), "{name}: {count}");
    }
}
