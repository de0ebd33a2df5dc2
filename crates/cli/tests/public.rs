//! `gallop generate --model DIR` with the full-size model's layout, end to end on tiny random weights.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use candle_core::{Device, Tensor};
use common::{gallop, generate, listing, workplace};
use gallop_core::{Audio, Frame, PixelSize};
use gallop_model::dit::DitConfig;
use gallop_model::public::{Part, Preset, write_random_part};
use gallop_model::{WeightFiles, save_weights};
use serde_json::Value;

fn made(folder: &Path, rest: &[&str]) -> Output {
    let out = generate(folder, rest);
    assert!(out.status.success(), "{rest:?}: {out:?}");
    out
}

const SMALL: [&str; 4] = ["--resolution", "64x64", "--steps", "2"];

#[test]
fn text_becomes_a_clip_at_25_frames_a_second() {
    let folder = workplace(&Part::ALL);
    let path = folder.path();
    let out = made(path, &[&SMALL[..], &["--json", "-o", "a.mp4"]].concat());
    let text = String::from_utf8(out.stdout).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let stages: Vec<&str> = events
        .iter()
        .filter(|e| e["event"] == "stage")
        .map(|e| e["stage"].as_str().unwrap())
        .collect();
    let order = ["encode text", "load", "denoise", "decode sound", "decode"];
    assert_eq!(stages, order);
    let done = events.last().unwrap();
    assert_eq!(
        (&done["event"], &done["frames"]),
        (&"done".into(), &25.into())
    );

    // Read back at Gallop's own 24 frames a second, and at 48 kHz: one second of both.
    let clip = gallop_media::read_clip(&path.join("a.mp4")).unwrap();
    assert_eq!(clip.frames.len(), 24);
    assert_eq!(clip.frames[0].size, PixelSize::new(64, 64));
    let sound = gallop_media::read_audio(&path.join("a.mp4")).unwrap();
    assert!(sound.len().abs_diff(48_000) < 1024, "{}", sound.len());
    made(path, &[&SMALL[..], &["-o", "b.mp4"]].concat());
    assert!(fs::read(path.join("a.mp4")).unwrap() == fs::read(path.join("b.mp4")).unwrap());
    assert_eq!(listing(path), ["a.mp4", "b.mp4", "big"]);
}

#[test]
fn every_sampler_decoder_and_format_is_honoured() {
    let folder = workplace(&Part::ALL);
    let path = folder.path();
    let mut seen = Vec::new();
    for (name, extra) in [
        ("renoise.mp4", vec!["--no-audio"]),
        ("unipc.mp4", vec!["--sampler", "unipc", "--no-audio"]),
        (
            "off.mp4",
            vec!["--sampler", "unipc", "--guidance", "1", "--no-audio"],
        ),
        ("euler.mp4", vec!["--sampler", "euler", "--no-audio"]),
        ("sde.mp4", vec!["--sampler", "sde", "--no-audio"]),
        ("exact.mp4", vec!["--decoder", "exact", "--no-audio"]),
        ("sound.wav", vec![]),
        ("a.webm", vec![]),
        ("f-%04d.png", vec!["--no-audio"]),
    ] {
        made(path, &[&SMALL[..], &extra, &["-o", name]].concat());
        if let Ok(bytes) = fs::read(path.join(name)) {
            assert!(!seen.contains(&bytes), "{name} is like another");
            seen.push(bytes);
        }
    }
    assert_eq!(
        gallop_media::read_audio(&path.join("sound.wav"))
            .unwrap()
            .len(),
        48_000
    );
    assert!(path.join("f-0025.png").exists() && !path.join("f-0026.png").exists());
}

#[test]
fn a_picture_and_a_sound_lead_the_clip() {
    let folder = workplace(&Part::ALL);
    let path = folder.path();
    let mut picture = Frame::black(PixelSize::new(90, 70));
    picture.rgb.fill(230);
    gallop_media::write_image(&path.join("first.png"), &picture).unwrap();
    let tone = |i: usize| (i as f32 * 0.05).sin() * 0.4;
    let wave: Vec<f32> = (0..60_000).map(tone).collect();
    let sound = Audio {
        left: wave.clone(),
        right: wave,
    };
    gallop_media::write_audio(&path.join("tone.wav"), &sound).unwrap();
    let sizes = ["--resolution", "64x64", "--steps", "2", "--no-audio"];
    for (name, extra) in [
        ("plain-%02d.png", vec![]),
        ("led-%02d.png", vec!["--image", "first.png"]),
    ] {
        made(path, &[&sizes[..], &extra, &["-o", name]].concat());
    }
    let first = |name: &str| gallop_media::read_image(&path.join(name)).unwrap();
    assert_ne!(first("plain-01.png"), first("led-01.png"));

    // The sound is longer than the clip, then shorter than what is asked for.
    for (seconds, frames) in [("1", 25), ("3", 29)] {
        let drive = [
            "--audio",
            "tone.wav",
            "--duration",
            seconds,
            "--json",
            "-o",
            "s.mp4",
        ];
        let args = ["generate", "A red ball.", "--model", "big"];
        let out = gallop(path, &[&args[..], &SMALL, &drive].concat());
        assert!(out.status.success(), "{out:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        let done: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(done["frames"], frames);
        assert!(text.contains("encode sound"));
    }
}

#[test]
fn larger_sizes_are_refined() {
    let folder = workplace(&Part::ALL);
    let size = ["--resolution", "540p", "--ratio", "1:1", "--steps", "1"];
    let rest = [
        "--refine-steps",
        "1",
        "--no-audio",
        "--json",
        "-o",
        "a-%02d.png",
    ];
    let out = made(folder.path(), &[size, rest].concat());
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("\"refine\""), "{text}");
    let picture = gallop_media::read_image(&folder.path().join("a-25.png")).unwrap();
    assert_eq!(picture.size, PixelSize::new(512, 512));
}

#[test]
fn a_dry_run_shows_the_prompt_and_the_plan_and_makes_nothing() {
    let folder = workplace(&Part::ALL);
    let path = folder.path();
    let spoken = [
        "--dialogue",
        "woman, English: Hello",
        "--dialogue",
        "man, Mandarin: 你好",
        "--ambience",
        "rain",
        "--resolution",
        "1080p",
        "--sampler",
        "unipc",
        "--memory",
        "8GiB",
        "--dry-run",
    ];
    let out = made(path, &spoken);
    let text = String::from_utf8(out.stdout).unwrap();
    let prompt = "A red ball falls.\n\nDialogue:\n<woman, English>: \"Hello\"\n\
                  <man, Mandarin>: \"你 好\"\n\nBackground Sound:\n<rain>\n";
    assert!(text.starts_with(prompt), "{text}");
    for said in [
        "1920x1088, 25 frames",
        "base: 64 runs over 784 video, 26 audio and",
        "1080p_sr: 5 runs over 14280 video, 26 audio and",
        "of 8.0 GiB the transformer takes",
        "layers stay",
        "memory ",
        "time ",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let out = made(path, &["--dry-run", "--json"]);
    let plan: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(plan["stages"][1]["part"], "distill");
    assert_eq!(plan["stages"][1]["tokens"][0], 784);
    assert!(plan["peak_bytes"].as_u64().unwrap() > 0);
    assert_eq!(listing(path), ["big"]);
}

/// The plan that a dry run with `rest` shows for the transformer.
fn planned(folder: &Path, rest: &[&str]) -> Value {
    let out = made(
        folder,
        &[&SMALL[..], &["--dry-run", "--json"], rest].concat(),
    );
    let plan: Value = serde_json::from_slice(&out.stdout).unwrap();
    plan["stages"][1]["memory"].clone()
}

/// A model of parts large enough that its layers count beside what the program itself holds.
fn large_workplace() -> tempfile::TempDir {
    let folder = workplace(&[Part::TextEncoder, Part::FastDecoder, Part::AudioAutoencoder]);
    let tiny = Preset::tiny();
    let layers = &tiny.transformer.layers;
    let transformer = DitConfig {
        width: 512,
        head_dim: 64,
        num_heads_q: 8,
        num_heads_kv: 2,
        layers: [&layers[..4], &layers[2..], &layers[4..], &layers[4..]].concat(),
        ..tiny.transformer.clone()
    };
    let large = Preset {
        transformer,
        ..tiny
    };
    let big = folder.path().join("big");
    write_random_part(&big, &large, Part::Distilled, 7, &mut |_| ()).unwrap();
    folder
}

#[test]
fn a_clip_does_not_depend_on_the_memory_that_is_allowed() {
    let folder = large_workplace();
    let path = folder.path();
    // Too little is refused before any work, and says what would be enough.
    let out = generate(
        path,
        &[&SMALL[..], &["--memory", "40MiB", "-o", "none.mp4"]].concat(),
    );
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{error}");
    let last = error.lines().last().unwrap_or_default();
    let (said, least) = last.split_once("the least possible is --memory ").unwrap();
    assert!(
        said.starts_with("gallop: --memory: 40 MiB are too few"),
        "{error}"
    );
    let least = least.split(';').next().unwrap();
    assert_eq!(listing(path), ["big"]);
    let dry = generate(
        path,
        &[&SMALL[..], &["--memory", "40MiB", "--dry-run"]].concat(),
    );
    assert_eq!(dry.status.code(), Some(1), "{dry:?}");

    // With the least, layers are read in each step; with more, none.
    let tight = planned(path, &["--memory", least]);
    assert!(tight["streamed_bytes"].as_u64().unwrap() > 0, "{tight}");
    let wide = planned(path, &["--memory", "8GB"]);
    assert_eq!(wide["streamed_bytes"], 0, "{wide}");
    let out = made(
        path,
        &[&SMALL[..], &["--memory", least, "-o", "tight.mp4"]].concat(),
    );
    let told = String::from_utf8(out.stderr).unwrap();
    assert!(told.contains("are read in each step"), "{told}");
    made(
        path,
        &[&SMALL[..], &["--memory", "8GB", "-o", "wide.mp4"]].concat(),
    );
    let out = made(path, &[&SMALL[..], &["-o", "any.mp4"]].concat());
    let told = String::from_utf8(out.stderr).unwrap();
    assert!(told.contains("the transformer takes"), "{told}");
    let clip = |name: &str| fs::read(path.join(name)).unwrap();
    assert!(clip("tight.mp4") == clip("wide.mp4") && clip("wide.mp4") == clip("any.mp4"));
}

/// A change of rank 2 to one matrix of a transformer's inner layers, under `names` of both its factors.
fn write_lora_as(folder: &Path, name: &str, module: &str, names: [String; 2]) {
    let part = folder.join("big").join(Part::Distilled.folder());
    let of = WeightFiles::open(&part).unwrap();
    let (rows, columns) = match of.shape(&format!("{module}.weight")) {
        Some(&[rows, columns]) => (rows, columns),
        _ => (8, 8),
    };
    let values = |count: usize| (0..count).map(|i| ((i * 7 % 13) as f32 - 6.0) * 0.1);
    let tensor = |shape: (usize, usize)| {
        let values: Vec<f32> = values(shape.0 * shape.1).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let [down, up] = names;
    let tensors = vec![(down, tensor((2, columns))), (up, tensor((rows, 2)))];
    save_weights(&folder.join(name), tensors, &BTreeMap::new()).unwrap();
}

/// The same in one of the usual styles.
fn write_lora(folder: &Path, name: &str, module: &str) {
    let names = ["A", "B"].map(|half| format!("diffusion_model.{module}.lora_{half}.weight"));
    write_lora_as(folder, name, module, names);
}

#[test]
fn low_rank_changes_are_merged_by_their_strength() {
    let folder = workplace(&Part::ALL);
    let path = folder.path();
    write_lora(path, "style.safetensors", "block.layers.1.mlp.down_proj");
    write_lora(path, "other.safetensors", "transformer_blocks.0.to_q");
    fs::write(path.join("text.safetensors"), "no weights").unwrap();
    let clip = |rest: &[&str]| {
        made(
            path,
            &[&SMALL[..], &["--no-audio", "-o", "a.mp4"], rest].concat(),
        );
        fs::read(path.join("a.mp4")).unwrap()
    };
    let plain = clip(&[]);
    assert!(plain == clip(&["--lora", "style.safetensors:0"]));
    let changed = clip(&["--lora", "style.safetensors"]);
    assert!(plain != changed);
    // The style of the names makes no difference.
    let module = "block.layers.1.mlp.down_proj";
    let flat = format!("lora_unet_{}", module.replace('.', "_"));
    for (file, names) in [
        (
            "peft.safetensors",
            ["A", "B"].map(|half| format!("base_model.model.{module}.lora_{half}.weight")),
        ),
        (
            "kohya.safetensors",
            ["down", "up"].map(|half| format!("{flat}.lora_{half}.weight")),
        ),
        (
            "diffusers.safetensors",
            ["down", "up"].map(|half| format!("transformer.{module}.lora.{half}.weight")),
        ),
    ] {
        write_lora_as(path, file, module, names);
        assert!(changed == clip(&["--lora", file]), "{file}");
    }
    let together = [
        "--lora",
        "peft.safetensors:0.5",
        "--lora",
        "kohya.safetensors:0.25",
    ];
    let together = clip(&[&together[..], &["--lora", "diffusers.safetensors:0.25"]].concat());
    assert!(together != plain);
    // Several add up: two halves are not one half.
    let half = ["--lora", "style.safetensors:0.5"];
    let one = clip(&half);
    assert!(one != plain && one != changed);
    assert!(clip(&[half, half].concat()) != one);

    let before = listing(path);
    for (lora, said) in [
        ("none.safetensors", "none.safetensors"),
        (
            "text.safetensors:0.3",
            "text.safetensors: not a whole safetensors file",
        ),
        (
            "other.safetensors",
            "other.safetensors: it changes nothing that this model has",
        ),
    ] {
        let out = generate(
            path,
            &[&SMALL[..], &["--lora", lora, "-o", "b.mp4"]].concat(),
        );
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("gallop: ") && last.contains(said),
            "{error}"
        );
        assert_eq!(listing(path), before);
    }
}

#[test]
fn a_model_in_fewer_bits_makes_clips() {
    let folder = workplace(&Part::ALL);
    let path = folder.path();
    write_lora(path, "style.safetensors", "block.layers.1.mlp.down_proj");
    let picture = |model: &str, rest: &[&str]| {
        let args = [
            "generate",
            "A red ball falls.",
            "--duration",
            "1",
            "--seed",
            "3",
        ];
        let name = ["--model", model, "--no-audio", "-o", "a-%02d.png"];
        let out = gallop(path, &[&args[..], &SMALL, &name, rest].concat());
        assert!(out.status.success(), "{out:?}");
        gallop_media::read_image(&path.join("a-01.png")).unwrap()
    };
    let whole = picture("big", &[]);
    for format in ["int8", "fp8", "q4"] {
        let args = [
            "model",
            "quantize",
            "big",
            "--to",
            format,
            "--no-check",
            "-o",
            format,
        ];
        let out = gallop(path, &args);
        assert!(out.status.success(), "{out:?}");
        let few = picture(format, &[]);
        assert!(few != whole, "{format}: nothing was rounded");
        assert_eq!(few.size, whole.size);
        assert!(
            picture(format, &["--lora", "style.safetensors"]) != few,
            "{format}"
        );
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let folder = workplace(&[Part::Base]);
    let path = folder.path();
    for (args, code, said) in [
        (
            &["generate", "a", "--dialogue", "hello"][..],
            2,
            "speaker, language: words",
        ),
        (
            &["generate", "a", "--audio", "x.wav", "--no-audio"],
            2,
            "--no-audio",
        ),
        (
            &["generate", "a", "--ambience", "rain"],
            1,
            "--ambience is for the full-size model",
        ),
        (
            &["generate", "a", "--memory", "1GiB"],
            1,
            "--memory is for the full-size model",
        ),
        (
            &["generate", "a", "--memory", "lots"],
            2,
            "no amount of memory",
        ),
        (&["generate", "a", "--lora", "x:nan"], 2, "no finite number"),
        (
            &["generate", "a", "--lora", "x.safetensors"],
            1,
            "x.safetensors",
        ),
        (
            &["generate", "a", "--audio", "x.wav"],
            1,
            "--audio is for the full-size model",
        ),
        (
            &["generate", "", "--model", "big"],
            1,
            "the prompt is empty",
        ),
        (
            &["generate", "a", "--model", "big", "--duration", "90"],
            1,
            "--duration",
        ),
        (
            &[
                "generate",
                "a",
                "--model",
                "big",
                "--refine-steps",
                "0",
                "--resolution",
                "540p",
            ],
            1,
            "--refine-steps",
        ),
        (
            &["generate", "a", "--model", "big", "--audio", "none.wav"],
            1,
            "none.wav",
        ),
        (
            &["generate", "a", "--model", "big", "-o", "clip.xyz"],
            1,
            "clip.xyz",
        ),
    ] {
        let out = gallop(path, args);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(said), "{said}: {error}");
        assert_eq!(listing(path), ["big"]);
    }
}
