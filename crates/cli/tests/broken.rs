//! What `gallop generate --model DIR` says of files of the public layout that are missing, damaged or of another model:
//! one line that names the file or weight and where to get it, and nothing left behind.

mod common;

use std::fs;
use std::path::Path;

use common::{generate, listing, workplace};
use gallop_model::pickle::PickleFile;
use gallop_model::public::{Part, Preset, write_random_part};
use serde_json::Value;

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

const FAST: &str = "turbo_vae/checkpoint-340000.ckpt";
const VIDEO: &str = "Wan2.2-TI2V-5B/Wan2.2_VAE.pth";
const AUDIO: &str = "stable-audio-open-1.0/model.safetensors";

const MAGIHUMAN: &str = "get it from GAIR/daVinci-MagiHuman on Hugging Face";
const WAN: &str = "get it from Wan-AI/Wan2.2-TI2V-5B on Hugging Face";
const STABLE_AUDIO: &str = "get it from stabilityai/stable-audio-open-1.0 on Hugging Face";
const T5GEMMA: &str = "get it from google/t5gemma-9b-9b-ul2 on Hugging Face";

const SMALL: &[&str] = &["--resolution", "64x64"];
const EXACT: &[&str] = &["--resolution", "64x64", "--decoder", "exact"];

const MISSING: [Broken; 8] = [
    Broken {
        change: |big| fs::remove_file(big.join("distill").join(SHARD)).unwrap(),
        rest: SMALL,
        said: &["distill", SHARD, MAGIHUMAN],
    },
    Broken {
        change: |big| fs::remove_dir_all(big.join("t5gemma-9b-9b-ul2")).unwrap(),
        rest: SMALL,
        said: &["t5gemma-9b-9b-ul2", T5GEMMA],
    },
    Broken {
        change: |big| fs::remove_file(big.join("t5gemma-9b-9b-ul2/tokenizer.json")).unwrap(),
        rest: SMALL,
        said: &["tokenizer.json", T5GEMMA],
    },
    Broken {
        change: |big| fs::remove_dir_all(big.join("1080p_sr")).unwrap(),
        rest: &["--resolution", "1080p"],
        said: &["1080p_sr", MAGIHUMAN],
    },
    Broken {
        change: |big| {
            let json = "turbo_vae/TurboV3-Wan22-TinyShallow_7_7.json";
            fs::remove_file(big.join(json)).unwrap();
        },
        rest: SMALL,
        said: &["TurboV3-Wan22-TinyShallow_7_7.json", MAGIHUMAN],
    },
    Broken {
        change: |big| fs::remove_file(big.join(VIDEO)).unwrap(),
        rest: EXACT,
        said: &["Wan2.2_VAE.pth", WAN],
    },
    Broken {
        change: |big| fs::remove_file(big.join("stable-audio-open-1.0/model_config.json")).unwrap(),
        rest: SMALL,
        said: &["model_config.json", STABLE_AUDIO],
    },
    Broken {
        // A LoRA does not get in before the model is looked at.
        change: |big| fs::remove_file(big.join("distill").join(SHARD)).unwrap(),
        rest: &["--resolution", "64x64", "--lora", "none.safetensors"],
        said: &["distill", SHARD, MAGIHUMAN],
    },
];

const CUT: [Broken; 7] = [
    Broken {
        change: |big| halve(&big.join("distill").join(SHARD)),
        rest: SMALL,
        said: &["distill", SHARD, "not a whole safetensors file", MAGIHUMAN],
    },
    Broken {
        change: |big| halve(&big.join("t5gemma-9b-9b-ul2").join(SHARD)),
        rest: SMALL,
        said: &[SHARD, "not a whole safetensors file", T5GEMMA],
    },
    Broken {
        change: |big| halve(&big.join(AUDIO)),
        rest: SMALL,
        said: &[
            "model.safetensors",
            "not a whole safetensors file",
            STABLE_AUDIO,
        ],
    },
    Broken {
        change: |big| halve(&big.join(VIDEO)),
        rest: EXACT,
        said: &["Wan2.2_VAE.pth", "cut short", WAN],
    },
    Broken {
        change: |big| halve(&big.join(FAST)),
        rest: SMALL,
        said: &["checkpoint-340000.ckpt", "cut short", MAGIHUMAN],
    },
    Broken {
        change: |big| halve(&big.join("t5gemma-9b-9b-ul2/tokenizer.json")),
        rest: SMALL,
        said: &["tokenizer", T5GEMMA],
    },
    Broken {
        change: |big| halve(&big.join("stable-audio-open-1.0/model_config.json")),
        rest: SMALL,
        said: &["audio autoencoder", STABLE_AUDIO],
    },
];

const NO_NUMBERS: [Broken; 7] = [
    Broken {
        change: |big| spoil(&big.join("distill").join(SHARD), "final_norm_video.weight"),
        rest: SMALL,
        said: &[
            "distill",
            "final_norm_video.weight",
            "not finite",
            MAGIHUMAN,
        ],
    },
    Broken {
        // A matrix, which is looked at when its layer is first read.
        change: |big| {
            let weight = "block.layers.1.mlp.down_proj.weight";
            spoil(&big.join("distill").join(SHARD), weight);
        },
        rest: SMALL,
        said: &[
            SHARD,
            "block.layers.1.mlp.down_proj.weight",
            "not finite",
            MAGIHUMAN,
        ],
    },
    Broken {
        change: |big| {
            let weight = "model.encoder.layers.2.mlp.up_proj.weight";
            spoil(&big.join("t5gemma-9b-9b-ul2").join(SHARD), weight);
        },
        rest: SMALL,
        said: &["layers.2.mlp.up_proj.weight", "not finite", T5GEMMA],
    },
    Broken {
        change: |big| {
            // The row of the token that begins every text.
            let path = big.join("t5gemma-9b-9b-ul2").join(SHARD);
            edit(&path, |b| {
                let (at, size) = first_number(b, "model.encoder.embed_tokens.weight");
                let row = 64 * size;
                b[at + 2 * row..at + 3 * row].fill(0xff);
            });
        },
        rest: SMALL,
        said: &["embed_tokens.weight", "not finite", T5GEMMA],
    },
    Broken {
        change: |big| {
            let weight = "pretransform.model.decoder.layers.0.weight_v";
            spoil(&big.join(AUDIO), weight);
        },
        rest: SMALL,
        said: &["decoder.layers.0.weight_v", "not finite", STABLE_AUDIO],
    },
    Broken {
        change: |big| {
            let weight = "ema_state_dict.module.decoder.conv_in.conv.weight";
            spoil_pickle(&big.join(FAST), weight);
        },
        rest: SMALL,
        said: &["decoder.conv_in.conv.weight", "not finite", MAGIHUMAN],
    },
    Broken {
        change: |big| spoil_pickle(&big.join(VIDEO), "decoder.conv1.weight"),
        rest: EXACT,
        said: &["decoder.conv1.weight", "not finite", WAN],
    },
];

/// Weights of another model under this one's configuration, and code in place of weights.
const MISMATCHED: [Broken; 9] = [
    Broken {
        change: |big| {
            let other = other(|preset| {
                preset.transformer.width = 64;
                preset.transformer.num_heads_q = 2;
                preset.transformer.num_heads_kv = 1;
            });
            swap(big, &other, Part::Distilled, SHARD);
            // Its weights under the right model's description.
            edit(&big.join("distill").join(SHARD), |b| {
                *b = described_by(b, &Preset::tiny())
            });
        },
        rest: SMALL,
        said: &[
            "distill",
            "has shape",
            "the configuration asks for",
            MAGIHUMAN,
        ],
    },
    Broken {
        change: |big| {
            let other = other(|preset| preset.text = narrower(&preset.text, "128", "96"));
            swap(big, &other, Part::TextEncoder, SHARD);
        },
        rest: SMALL,
        said: &["mlp.gate_proj.weight", "has shape", T5GEMMA],
    },
    Broken {
        change: |big| {
            let other = other(|preset| preset.fast = narrower(&preset.fast, "16, 16]", "16, 24]"));
            swap(big, &other, Part::FastDecoder, "checkpoint-340000.ckpt");
        },
        rest: SMALL,
        said: &["decoder.conv_in.conv.weight", "has shape", MAGIHUMAN],
    },
    Broken {
        change: |big| {
            let from = "\"channels\": 4";
            let other =
                other(|preset| preset.audio = narrower(&preset.audio, from, "\"channels\": 8"));
            swap(big, &other, Part::AudioAutoencoder, "model.safetensors");
        },
        rest: SMALL,
        said: &["encoder.layers.0.weight_g", "has shape", STABLE_AUDIO],
    },
    Broken {
        change: |big| {
            let other = other(|preset| preset.video.latents = 16);
            swap(big, &other, Part::VideoAutoencoder, "Wan2.2_VAE.pth");
        },
        rest: EXACT,
        said: &["has shape", "the configuration asks for", WAN],
    },
    Broken {
        // Files of one part in the folder of another.
        change: |big| {
            fs::copy(big.join(AUDIO), big.join("distill").join(SHARD)).unwrap();
        },
        rest: SMALL,
        said: &["distill", "is missing", MAGIHUMAN],
    },
    Broken {
        change: |big| code(&big.join(FAST)),
        rest: SMALL,
        said: &["turbo_vae", "os.system", MAGIHUMAN],
    },
    Broken {
        change: |big| code(&big.join(VIDEO)),
        rest: EXACT,
        said: &["Wan2.2_VAE.pth", "os.system", WAN],
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

/// The first half of a file.
fn halve(path: &Path) {
    edit(path, |b| b.truncate(b.len() / 2));
}

/// No number in place of the first of a tensor.
fn spoil(path: &Path, name: &str) {
    edit(path, |b| {
        let (at, size) = first_number(b, name);
        b[at..at + size].fill(0xff);
    });
}

/// The same in a pickle, whose tensor is found by its bytes.
fn spoil_pickle(path: &Path, name: &str) {
    let tensor = PickleFile::open(path).unwrap().tensor(name).unwrap();
    let numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let begin: Vec<u8> = numbers[..16].iter().flat_map(|x| x.to_le_bytes()).collect();
    edit(path, |b| {
        let at = b.windows(begin.len()).position(|window| window == begin);
        let at = at.expect("the tensor's numbers");
        b[at..at + 4].fill(0xff);
    });
}

/// `os.system("touch hacked")`, as a pickle.
fn code(path: &Path) {
    let code = b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch hacked\x85R.";
    fs::write(path, archive("archive/data.pkl", code)).unwrap();
}

fn other(change: impl FnOnce(&mut Preset)) -> Preset {
    let mut preset = Preset::tiny();
    change(&mut preset);
    preset
}

fn narrower(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}: {text}");
    text.replace(from, to)
}

/// A file of `other` in place of the model's.
fn swap(big: &Path, other: &Preset, part: Part, file: &str) {
    let apart = big.join("../apart");
    write_random_part(&apart, other, part, 1, &mut |_| ()).unwrap();
    let place = Path::new(part.folder()).join(file);
    fs::copy(apart.join(&place), big.join(&place)).unwrap();
    fs::remove_dir_all(apart).unwrap();
}

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

/// Each is said in one line and leaves nothing.
fn is_said(all: &[Broken]) {
    for broken in all {
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
fn what_is_missing_is_named() {
    is_said(&MISSING);
}

#[test]
fn what_is_cut_short_is_named() {
    is_said(&CUT);
}

#[test]
fn what_is_no_number_is_named() {
    is_said(&NO_NUMBERS);
}

#[test]
fn what_is_of_another_model_or_no_model_is_named() {
    is_said(&MISMATCHED);
}
