//! Every recipe can be read, and the tiny ones lead from nothing to weights that load.

use std::path::{Path, PathBuf};

use candle_core::Device;
use gallop_core::{Audio, Cancel, Silent};
use gallop_kernels::Precision;
use gallop_model::audio_ae::{AudioAe, AudioAeConfig};
use gallop_model::dit::{Dit, DitConfig};
use gallop_model::upscaler::{Upscaler, UpscalerConfig};
use gallop_model::video_ae::{VideoAe, VideoAeConfig};
use gallop_model::{TextTokenizer, WeightFiles, Weights};
use gallop_train::{
    AudioAeRecipe, DistilRecipe, DitRecipe, Outcome, RecordingFolders, TeacherRecipe,
    TransferRecipe, UpscalerRecipe, VideoAeRecipe, read_log, read_recipe, train_audio_ae,
    train_dit, train_upscaler, train_video_ae,
};
use serde::de::DeserializeOwned;

fn folder_of_recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

fn recipe<R: DeserializeOwned>(name: &str) -> R {
    read_recipe(&folder_of_recipes().join(format!("{name}.toml"))).unwrap()
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
    let mut kinds = [0; 4];
    for entry in std::fs::read_dir(folder_of_recipes()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is = |kind: &str| name.contains(kind);
        let (kind, read) = match name {
            "detectors" => continue,
            _ if is("-video-") => (0, read_recipe::<VideoAeRecipe>(&path).map(drop)),
            _ if is("-audio-") => (1, read_recipe::<AudioAeRecipe>(&path).map(drop)),
            _ if is("-upscaler") => (2, read_recipe::<UpscalerRecipe>(&path).map(drop)),
            _ => (3, read_recipe::<DitRecipe>(&path).map(drop)),
        };
        read.unwrap_or_else(|e| panic!("{name}: {e}"));
        kinds[kind] += 1;
    }
    assert!(kinds.into_iter().all(|count| count > 1), "{kinds:?}");
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

    let upscaler = UpscalerRecipe {
        autoencoders: parts.clone(),
        ..recipe("tiny-upscaler")
    };
    let larger = root.path().join("upscaler");
    finished(train_upscaler(&upscaler, &larger, &Device::Cpu, (&Silent, &cancel)).unwrap());
    let (config, weights) = open::<UpscalerConfig>(larger.join("upscaler.safetensors"));
    assert_eq!(config, upscaler.model);
    Upscaler::new(&config, &weights, Precision::Bf16).unwrap();
    assert!(larger.join("sheet-000006.png").exists());

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

    // A student that begins as its teacher has nothing to learn from it without guidance, and something with it.
    let loss = |guidance: f64| {
        let mut student = DitRecipe {
            start: Some(folder.join("dit.safetensors")),
            teacher: Some(TeacherRecipe::Distil(DistilRecipe {
                weights: folder.join("dit.safetensors"),
                guidance,
                audio_guidance: guidance,
                picture_guidance: guidance - 1.0,
            })),
            caption_dropout: 0.0,
            strange_words: 1.0,
            ..dit.clone()
        };
        student.optimiser.learning_rate = 0.0;
        let run = root.path().join(format!("student-{guidance}"));
        finished(train_dit(&student, &run, &Device::Cpu, (&Silent, &cancel)).unwrap());
        let log = read_log(&run.join("log.jsonl")).unwrap();
        ["video", "audio"].map(|name| {
            let found = log.iter().filter_map(|line| line.metrics.get(name));
            found.copied().fold(0.0, f64::max)
        })
    };
    let (same, guided) = (loss(1.0), loss(3.0));
    for (same, guided) in same.into_iter().zip(guided) {
        // Attention that keeps nothing for gradients rounds to bf16 elsewhere.
        assert!(same < 2e-4 && guided > 10.0 * same, "{same} {guided}");
    }

    // Another video autoencoder, its latents turned towards those of the first.
    let other = root.path().join("other");
    let mut turned = VideoAeRecipe {
        align: Some(parts.join("video_ae.safetensors")),
        ..recipe("tiny-video-ae")
    };
    turned.run.seed += 1;
    finished(train_video_ae(&turned, &other, &Device::Cpu, (&Silent, &cancel)).unwrap());
    std::fs::copy(
        parts.join("audio_ae.safetensors"),
        other.join("audio_ae.safetensors"),
    )
    .unwrap();
    let (config, weights) = open::<VideoAeConfig>(other.join("video_ae.safetensors"));
    assert!(weights.contains("latents.mix"));
    VideoAe::new(&config, &weights, Precision::Bf16).unwrap();

    // A student that begins as its teacher has nothing to learn from it in the same latents, and something in others. Where
    // guidance alone is taught and there is none, clips teach.
    let loss = |teacher: Option<(&Path, bool)>, name: &str| {
        let weights = folder.join("dit.safetensors");
        let mut student = DitRecipe {
            autoencoders: teacher.map_or(&*parts, |(folder, _)| folder).to_path_buf(),
            start: Some(weights.clone()),
            teacher: teacher.map(|(_, guidance_alone)| {
                TeacherRecipe::Transfer(TransferRecipe {
                    unguided: guidance_alone.then(|| weights.clone()),
                    weights: weights.clone(),
                    autoencoders: parts.clone(),
                })
            }),
            ..dit.clone()
        };
        student.optimiser.learning_rate = 0.0;
        let run = root.path().join(name);
        finished(train_dit(&student, &run, &Device::Cpu, (&Silent, &cancel)).unwrap());
        let log = read_log(&run.join("log.jsonl")).unwrap();
        ["video", "audio"].map(|name| {
            let found = log.iter().filter_map(|line| line.metrics.get(name));
            found.copied().fold(0.0, f64::max)
        })
    };
    let [video, audio] = loss(Some((&parts, false)), "same");
    let [far, still] = loss(Some((&other, false)), "far");
    assert!(video < 2e-4 && audio < 2e-4, "{video} {audio}");
    // The sound's latents are the same, beside another picture.
    assert!(far > 100.0 * video && still < 0.1 * far, "{far} {still}");
    let (clips, alone) = (loss(None, "clips"), loss(Some((&parts, true)), "alone"));
    for (clips, alone) in clips.into_iter().zip(alone) {
        assert!(
            (clips - alone).abs() < 1e-3 * clips && clips > 100.0 * video,
            "{clips} {alone}"
        );
    }
}

/// A decoder that goes on learning, from recordings too, leaves latents as the transformer knows them.
#[test]
fn a_frozen_encoder_and_its_latents_stay_as_they_were() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let train = |recipe: &AudioAeRecipe, name: &str| {
        let running = (&Silent as _, &Cancel::default());
        finished(train_audio_ae(recipe, &at(name), &Device::Cpu, running).unwrap());
        WeightFiles::open(&at(name).join("audio_ae.safetensors")).unwrap()
    };
    let first: AudioAeRecipe = recipe("tiny-audio-ae");
    let before = train(&first, "first");

    let samples: Vec<f32> = (0..30_000).map(|i| (0.03 * i as f32).sin()).collect();
    let sound = Audio {
        left: samples.clone(),
        right: samples,
    };
    for folder in ["train", "held_out"] {
        std::fs::create_dir(at(folder)).unwrap();
        gallop_media::write_audio(&at(folder).join("a.wav"), &sound).unwrap();
    }
    let mut second = AudioAeRecipe {
        start: Some(at("first/audio_ae.safetensors")),
        freeze_encoder: true,
        recordings: Some(RecordingFolders {
            train: at("train"),
            held_out: at("held_out"),
            share: 0.5,
        }),
        ..first
    };
    second.run.seed += 1;
    let after = train(&second, "second");

    let value = |files: &WeightFiles, name: &str| -> Vec<f32> {
        let tensor = files.load(name, &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    for name in [
        "latents.mean",
        "latents.std",
        "encoder.embed.weight",
        "encoder.head.weight",
    ] {
        assert_eq!(value(&before, name), value(&after, name), "{name}");
    }
    assert_ne!(
        value(&before, "decoder.head.weight"),
        value(&after, "decoder.head.weight")
    );
    let log = read_log(&at("second/log.jsonl")).unwrap();
    let judged = |name| log.iter().any(|line| line.metrics.contains_key(name));
    assert!(judged("log_distance") && judged("log_distance_recordings"));
    assert!(at("second/decoded_recordings-0-000006.wav").exists());

    // An encoder that is held to what it was moves less than one that is not, and keeps what its latents are normalised by.
    let moved = |anchor: f64| {
        let name = format!("anchor-{anchor}");
        let mut third = AudioAeRecipe {
            freeze_encoder: false,
            ..second.clone()
        };
        third.loss.anchor = anchor;
        third.loss.bands = 1.0;
        let after = train(&third, &name);
        let of = "latents.std";
        assert_eq!(value(&before, of), value(&after, of));
        assert_ne!(
            value(&before, "encoder.head.weight"),
            value(&after, "encoder.head.weight")
        );
        let log = read_log(&at(&name).join("log.jsonl")).unwrap();
        let mut moved = log.iter().filter_map(|line| line.metrics.get("moved"));
        moved.next_back().copied().unwrap()
    };
    let (loose, held) = (moved(1e-3), moved(1e3));
    assert!(held < loose, "{held} {loose}");
}
