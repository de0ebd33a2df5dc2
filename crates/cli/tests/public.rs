//! `gallop generate --model DIR` with the full-size model's layout, end to end on tiny random weights.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use candle_core::{Device, Tensor};
use common::{gallop, listing};
use gallop_core::{Audio, Frame, PixelSize};
use gallop_model::dit::DitConfig;
use gallop_model::public::{Part, Preset, write_random_part};
use gallop_model::{WeightFiles, save_weights};
use serde_json::Value;

/// A folder with `parts` of a tiny model in `big/`.
fn workplace(parts: &[Part]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for &part in parts {
        let big = folder.path().join("big");
        write_random_part(&big, &Preset::tiny(), part, 7, &mut |_| ()).unwrap();
    }
    folder
}

fn generate(folder: &Path, rest: &[&str]) -> Output {
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

/// A change of rank 2 to one matrix of a transformer's inner layers, in the usual form.
fn write_lora(folder: &Path, name: &str, module: &str) {
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
    let tensors = vec![
        (
            format!("diffusion_model.{module}.lora_A.weight"),
            tensor((2, columns)),
        ),
        (
            format!("diffusion_model.{module}.lora_B.weight"),
            tensor((rows, 2)),
        ),
    ];
    save_weights(&folder.join(name), tensors, &BTreeMap::new()).unwrap();
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

/// The model `with` a change, the options to run it with, and what must be said of it.
struct Broken {
    change: fn(&Path),
    rest: &'static [&'static str],
    said: &'static [&'static str],
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// A zip archive of one plain entry, as PyTorch writes checkpoints.
fn archive(name: &str, data: &[u8]) -> Vec<u8> {
    let size = (data.len() as u32).to_le_bytes();
    let name_size = (name.len() as u16).to_le_bytes();
    let mut out = b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    for part in [&size[..], &size, &name_size, &[0, 0], name.as_bytes(), data] {
        out.extend(part);
    }
    let at = (out.len() as u32).to_le_bytes();
    let mut directory = b"PK\x01\x02".to_vec();
    directory.extend([0; 16]);
    for part in [&size[..], &size, &name_size, &[0; 16], name.as_bytes()] {
        directory.extend(part);
    }
    let length = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00");
    for part in [&length[..], &at, &[0, 0]] {
        out.extend(part);
    }
    out
}

const SHARD: &str = "model-00001-of-00001.safetensors";

const BROKEN: [Broken; 11] = [
    Broken {
        change: |big| fs::remove_file(big.join("distill").join(SHARD)).unwrap(),
        rest: &["--resolution", "64x64"],
        said: &["distill", SHARD, "GAIR/daVinci-MagiHuman"],
    },
    Broken {
        change: |big| {
            edit(&big.join("distill").join(SHARD), |b| {
                b.truncate(b.len() / 2)
            })
        },
        rest: &["--resolution", "64x64"],
        said: &["distill", SHARD, "not a whole safetensors file"],
    },
    Broken {
        // The last number of the transformer.
        change: |big| {
            edit(&big.join("distill").join(SHARD), |b| {
                let end = b.len();
                b[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
            })
        },
        rest: &["--resolution", "64x64"],
        said: &["final_norm_video.weight", "not finite"],
    },
    Broken {
        // The first number of a matrix, which is looked at when its layer is first read.
        change: |big| {
            edit(&big.join("distill").join(SHARD), |b| {
                let (at, size) = first_number(b, "block.layers.1.mlp.down_proj.weight");
                b[at..at + size].fill(0xff);
            })
        },
        rest: &["--resolution", "64x64"],
        said: &[SHARD, "block.layers.1.mlp.down_proj.weight", "not finite"],
    },
    Broken {
        change: |big| fs::remove_dir_all(big.join("t5gemma-9b-9b-ul2")).unwrap(),
        rest: &["--resolution", "64x64"],
        said: &["t5gemma-9b-9b-ul2", "google/t5gemma-9b-9b-ul2"],
    },
    Broken {
        change: |big| fs::remove_file(big.join("t5gemma-9b-9b-ul2/tokenizer.json")).unwrap(),
        rest: &["--resolution", "64x64"],
        said: &["tokenizer.json", "google/t5gemma-9b-9b-ul2"],
    },
    Broken {
        change: |big| fs::remove_dir_all(big.join("1080p_sr")).unwrap(),
        rest: &["--resolution", "1080p"],
        said: &["1080p_sr", "GAIR/daVinci-MagiHuman"],
    },
    Broken {
        // os.system("touch hacked"), as a pickle.
        change: |big| {
            let code = b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch hacked\x85R.";
            let bytes = archive("archive/data.pkl", code);
            fs::write(big.join("turbo_vae/checkpoint-340000.ckpt"), bytes).unwrap();
        },
        rest: &["--resolution", "64x64"],
        said: &["turbo_vae", "os.system"],
    },
    Broken {
        change: |big| {
            edit(&big.join("Wan2.2-TI2V-5B/Wan2.2_VAE.pth"), |b| {
                b.truncate(b.len() / 2)
            });
        },
        rest: &["--resolution", "64x64", "--decoder", "exact"],
        said: &["Wan2.2_VAE.pth", "cut short"],
    },
    Broken {
        change: |big| {
            // The transformer of another model: wider than the text encoder's and its own config's.
            let other = Preset::named("tiny").unwrap();
            let mut wide = other.clone();
            wide.transformer.width = 64;
            wide.transformer.num_heads_q = 2;
            wide.transformer.num_heads_kv = 1;
            let apart = big.join("../apart");
            write_random_part(&apart, &wide, Part::Distilled, 1, &mut |_| ()).unwrap();
            let from = fs::read(apart.join("distill").join(SHARD)).unwrap();
            let to = big.join("distill").join(SHARD);
            // Its weights under the right model's description.
            fs::write(&to, described_by(&from, &other)).unwrap();
            fs::remove_dir_all(apart).unwrap();
        },
        rest: &["--resolution", "64x64"],
        said: &["distill", "has shape", "the configuration asks for"],
    },
    Broken {
        change: |big| {
            let path = big.join("../noise.wav");
            fs::write(path, b"RIFF\x00\x00\x00\x00WAVEno").unwrap();
        },
        rest: &["--resolution", "64x64", "--audio", "noise.wav"],
        said: &["noise.wav"],
    },
];

/// Where the first number of a tensor is in a safetensors file, and its bytes.
fn first_number(file: &[u8], name: &str) -> (usize, usize) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let size = match header[name]["dtype"].as_str().unwrap() {
        "F32" => 4,
        _ => 2,
    };
    let from = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    (8 + length + from, size)
}

/// A safetensors file with the configuration of `preset` in its header.
fn described_by(file: &[u8], preset: &Preset) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let (key, text) = preset.transformer_of(Part::Distilled).metadata();
    header["__metadata__"][key] = text.into();
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&file[8 + length..]);
    out
}

#[test]
fn what_is_missing_or_broken_is_said_in_one_line_and_leaves_nothing() {
    for broken in &BROKEN {
        let folder = workplace(&Part::ALL);
        let path = folder.path();
        (broken.change)(&path.join("big"));
        let before = listing(path);
        let out = generate(path, &[broken.rest, &["-o", "a.mp4"]].concat());
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        let said = broken.said;
        assert_eq!(out.status.code(), Some(1), "{said:?}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.starts_with("gallop: "), "{error}");
        for said in said {
            assert!(last.contains(said), "{said}: {error}");
        }
        assert!(!error.contains("panicked"), "{error}");
        assert_eq!(listing(path), before, "{said:?}");
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
