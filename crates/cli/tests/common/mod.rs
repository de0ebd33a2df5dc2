//! A tiny model with random weights, and the program to run on it. Not every test file uses all of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use candle_core::Device;
use gallop_kernels::Precision;
use gallop_model::audio_ae::{AudioAe, AudioAeConfig};
use gallop_model::dit::{Dit, DitConfig};
use gallop_model::public::{Part, Preset, write_random_part};
use gallop_model::upscaler::{Upscaler, UpscalerConfig};
use gallop_model::video_ae::{VideoAe, VideoAeConfig};
use gallop_model::{TextTokenizer, Vars, Weights, save_weights};
use serde::Serialize;

/// Writes a model's folder as `gallop train` leaves it, small enough for a test.
pub fn tiny_model(folder: &Path) {
    let tokenizer = TextTokenizer::train(&["a red ball".to_string()], 300).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer.to_json().unwrap()).unwrap();
    let config = r#"{"name": "tiny",
        "sampling": {"sampler": "unipc", "num_steps": 2, "guidance": 2.0, "shift": 3.0},
        "trained": {"families": ["ball"], "languages": ["en"], "resolution": "64p", "seconds": 2.0}}"#;
    fs::write(folder.join("config.json"), config).unwrap();

    let dit = DitConfig::small(64, 2, 1, tokenizer.vocabulary());
    part(folder, "dit", &dit, |w| drop(Dit::new(&dit, w).unwrap()));
    let video = VideoAeConfig {
        latent_channels: dit.video_channels,
        widths: [16, 8, 8],
        encoder_blocks: [1, 1],
        decoder_blocks: [1, 1, 1],
    };
    part(folder, "video_ae", &video, |w| {
        drop(VideoAe::new(&video, w, Precision::F32).unwrap());
    });
    let audio = AudioAeConfig {
        latent_channels: dit.audio_channels,
        widths: [16, 16, 16],
        encoder_blocks: [1, 1],
        decoder_blocks: [1, 1],
    };
    part(folder, "audio_ae", &audio, |w| {
        drop(AudioAe::new(&audio, w, Precision::F32).unwrap());
    });
}

/// Gives the tiny model in a folder two sizes of pictures, and what makes them larger.
pub fn tiny_upscaler(folder: &Path) {
    let path = folder.join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    let config = config.replace(
        "{\"name\"",
        r#"{"base_sizes": [{"width": 112, "height": 64}, {"width": 64, "height": 96}], "name""#,
    );
    fs::write(path, config).unwrap();
    let upscaler = UpscalerConfig {
        factor: 2,
        width: 16,
        blocks: 2,
    };
    part(folder, "upscaler", &upscaler, |w| {
        drop(Upscaler::new(&upscaler, w, Precision::F32).unwrap());
    });
}

/// A folder with the tiny model in `tiny/`.
pub fn tiny_workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tiny")).unwrap();
    tiny_model(&folder.path().join("tiny"));
    folder
}

/// Random weights of whatever `build` asks for.
fn part(folder: &Path, name: &str, config: &impl Serialize, build: impl Fn(&Weights)) {
    let vars = Vars::default();
    build(&Weights::vars(&vars, Some(7), &Device::Cpu));
    let json = serde_json::to_string(config).unwrap();
    let about = BTreeMap::from([("config".to_string(), json)]);
    let path = folder.join(format!("{name}.safetensors"));
    save_weights(&path, vars.tensors(), &about).unwrap();
}

/// Runs the program in `folder`.
pub fn gallop(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

/// The program, not yet run, in `folder`.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gallop"));
    command
        .current_dir(folder)
        .args(args)
        .env_remove("RUST_LOG");
    command
}

/// Names in a folder, sorted.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A folder with `parts` of a tiny model in `big/`.
pub fn workplace(parts: &[Part]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for &part in parts {
        let big = folder.path().join("big");
        write_random_part(&big, &Preset::tiny(), part, 7, &mut |_| ()).unwrap();
    }
    folder
}

/// Makes a clip of a second with the model in `big/`.
pub fn generate(folder: &Path, rest: &[&str]) -> Output {
    let args = [
        "generate",
        "A red ball falls.",
        "--model",
        "big",
        "--duration",
        "1",
        "--seed",
        "3",
    ];
    gallop(folder, &[&args[..], rest].concat())
}
