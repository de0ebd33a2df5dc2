//! Every recipe can be read, and the tiny ones lead from nothing to weights that load.

use std::path::{Path, PathBuf};

use candle_core::Device;
use gallop_core::{Cancel, Silent};
use gallop_kernels::Precision;
use gallop_model::audio_ae::{AudioAe, AudioAeConfig};
use gallop_model::dit::{Dit, DitConfig};
use gallop_model::video_ae::{VideoAe, VideoAeConfig};
use gallop_model::{TextTokenizer, WeightFiles, Weights};
use gallop_train::{
    AudioAeRecipe, DitRecipe, Outcome, VideoAeRecipe, read_log, read_recipe, train_audio_ae,
    train_dit, train_video_ae,
};
use serde::de::DeserializeOwned;

fn recipe<R: DeserializeOwned>(name: &str) -> R {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    read_recipe(&folder.join(format!("{name}.toml"))).unwrap()
}

fn open<C: DeserializeOwned>(path: PathBuf) -> (C, Weights) {
    let files = WeightFiles::open(&path).unwrap();
    let config = serde_json::from_str(files.metadata("config").unwrap()).unwrap();
    (config, Weights::files(files.into(), &Device::Cpu))
}

fn finished(outcome: Outcome) {
    assert_eq!((outcome.steps, outcome.stopped), (6, false));
}

#[test]
fn recipes_can_be_read() {
    for name in ["foal", "gpu", "tiny"] {
        recipe::<VideoAeRecipe>(&format!("{name}-video-ae"));
        recipe::<AudioAeRecipe>(&format!("{name}-audio-ae"));
        recipe::<DitRecipe>(&format!("{name}-dit"));
    }
    recipe::<DitRecipe>("foal-dit-sync");
    recipe::<VideoAeRecipe>("foal-video-decoder");
}

#[test]
fn tiny_recipes_lead_to_weights_that_load() {
    let root = tempfile::tempdir().unwrap();
    let parts = root.path().join("parts");
    let cancel = Cancel::default();
    finished(
        train_video_ae(
            &recipe("tiny-video-ae"),
            &parts.join("v"),
            &Device::Cpu,
            (&Silent, &cancel),
        )
        .unwrap(),
    );
    finished(
        train_audio_ae(
            &recipe("tiny-audio-ae"),
            &parts.join("a"),
            &Device::Cpu,
            (&Silent, &cancel),
        )
        .unwrap(),
    );
    for (folder, file) in [("v", "video_ae"), ("a", "audio_ae")] {
        let file = format!("{file}.safetensors");
        std::fs::rename(parts.join(folder).join(&file), parts.join(&file)).unwrap();
    }
    let dit = DitRecipe {
        autoencoders: parts.clone(),
        ..recipe("tiny-dit")
    };
    let folder = root.path().join("dit");
    finished(train_dit(&dit, &folder, &Device::Cpu, (&Silent, &cancel)).unwrap());

    let (config, weights) = open::<VideoAeConfig>(parts.join("video_ae.safetensors"));
    VideoAe::new(&config, &weights, Precision::Bf16).unwrap();
    let (config, weights) = open::<AudioAeConfig>(parts.join("audio_ae.safetensors"));
    AudioAe::new(&config, &weights, Precision::Bf16).unwrap();
    let (config, weights) = open::<DitConfig>(folder.join("dit.safetensors"));
    Dit::new(&config, &weights).unwrap();
    let tokenizer = TextTokenizer::load(&folder.join("tokenizer.json")).unwrap();
    assert!(!tokenizer.encode("a red ball").unwrap().is_empty());

    let log = read_log(&folder.join("log.jsonl")).unwrap();
    for name in ["video", "audio", "text", "loss"] {
        assert!(
            log.iter().any(|line| line.metrics.contains_key(name)),
            "{name}"
        );
    }
    assert!(folder.join("curves.png").exists() && folder.join("sheet-000006.png").exists());
}
