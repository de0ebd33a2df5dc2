//! `gallop generate --memory`: the most memory that the whole program holds, as the system counts it, beside what was
//! asked for. Models are of random weights, large enough that their parts count beside the program itself.
#![cfg(target_os = "linux")]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use common::command;
use gallop_model::dit::{DitConfig, TextConfig};
use gallop_model::memory::{peak, readable};
use gallop_model::public::{Part, Preset, write_random_part};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Peak over what was asked for.
const OVER: f64 = 1.05;
/// What is asked for over the peak, where the stage at the peak is given just what it was said to need: plans that ask
/// for much more than is used would be easy to keep.
const WASTE: f64 = 1.7;
/// What the smallest plans hold in reserve for the kernels, whatever the model.
const RESERVE: u64 = 128 * MIB;

/// What one run of the program said, and the most memory that it held.
struct Ran {
    code: i32,
    events: Vec<Value>,
    errors: String,
    most: u64,
}

/// Runs the program and asks the system what it held at its most.
#[expect(
    clippy::zombie_processes,
    reason = "wait4 waits for it, and tells its memory"
)]
fn run(folder: &Path, args: &[&str]) -> Ran {
    let mut child = command(folder, args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        text
    });
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let errors = reader.join().unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both are the call's to fill; the child is ours and is waited for here only.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, child.id() as i32);
    // SAFETY: the call succeeded.
    let most = unsafe { usage.assume_init() }.ru_maxrss as u64 * 1024;
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ran {
        code: libc::WEXITSTATUS(status),
        events: events.collect(),
        errors,
        most,
    }
}

/// A transformer of 250 MB and parts around it of some ten.
fn wide_transformer() -> Preset {
    let tiny = Preset::tiny();
    let layers = &tiny.transformer.layers;
    let shared = layers[2..4].repeat(5);
    let numbers = |from: &str, to: &str, text: &str| -> String {
        assert!(text.contains(from), "{from}: {text}");
        text.replace(from, to)
    };
    let text = numbers("\"hidden_size\": 64", "\"hidden_size\": 512", &tiny.text);
    let text = numbers(
        "\"intermediate_size\": 128",
        "\"intermediate_size\": 2048",
        &text,
    );
    Preset {
        transformer: DitConfig {
            width: 768,
            head_dim: 64,
            num_heads_q: 12,
            num_heads_kv: 3,
            layers: [&layers[..2], &shared, &layers[4..]].concat(),
            text: TextConfig {
                channels: 512,
                vocabulary: None,
            },
            ..tiny.transformer.clone()
        },
        text,
        ..tiny
    }
}

/// A small transformer, and decoders that are wide for their pictures.
fn wide_decoders() -> Preset {
    let tiny = Preset::tiny();
    let fast = tiny.fast.replace("[8, 8, 16, 16]", "[16, 32, 64, 64]");
    let fast = fast.replace("[1, 1, 1, 1, 1]", "[1, 1, 1, 2, 2]");
    assert!(fast.contains("64, 64]") && fast.contains("2, 2]"), "{fast}");
    let mut video = tiny.video;
    (video.encoder, video.decoder, video.blocks) = (16, 24, 1);
    Preset {
        fast,
        video,
        audio: tiny.audio.replace("\"channels\": 4", "\"channels\": 16"),
        ..tiny
    }
}

fn write(folder: &Path, preset: &Preset, parts: &[Part]) {
    for &part in parts {
        write_random_part(&folder.join("big"), preset, part, 7, &mut |_| ()).unwrap();
    }
}

const ALWAYS: [&str; 7] = [
    "generate",
    "A red ball falls.",
    "--model",
    "big",
    "--seed",
    "3",
    "--json",
];

/// The least memory that the program says it needs for a clip.
fn least(folder: &Path, rest: &[&str]) -> u64 {
    let ran = run(
        folder,
        &[&ALWAYS[..], rest, &["--memory", "24MiB", "--dry-run"]].concat(),
    );
    assert_eq!(ran.code, 1, "{}", ran.errors);
    let said = ran.errors.split("the least possible is --memory ").nth(1);
    let said = said.unwrap_or_else(|| panic!("{}", ran.errors));
    let number = said.split("MiB").next().unwrap();
    number.parse::<u64>().unwrap() * MIB
}

/// Makes a clip within `budget` and gives the most memory that was held.
fn keeps_to(folder: &Path, rest: &[&str], budget: u64) -> u64 {
    let memory = format!("{}MiB", budget / MIB);
    let own = ["--memory", &memory, "-o", "a.mp4"];
    let ran = run(folder, &[&ALWAYS[..], rest, &own].concat());
    assert_eq!(ran.code, 0, "{}", ran.errors);
    let said = ran.events.last().unwrap()["peak_bytes"].as_u64().unwrap();
    println!(
        "{rest:?}: {} of {} ({:.0}%)",
        readable(said),
        readable(budget),
        100.0 * said as f64 / budget as f64
    );
    let stages = ran.events.iter().filter(|e| e["event"] == "note");
    stages.for_each(|event| println!("  {event}"));
    // The system's count of a child begins with what the parent held when it made the child.
    assert!(
        said <= ran.most && ran.most <= said.max(peak()) + 8 * MIB,
        "{said} {}",
        ran.most
    );
    assert!(said as f64 <= OVER * budget as f64, "{said} of {budget}");
    said
}

#[test]
fn a_clip_is_made_within_the_memory_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let parts = [
        Part::TextEncoder,
        Part::Distilled,
        Part::FastDecoder,
        Part::AudioAutoencoder,
    ];
    write(path, &wide_transformer(), &parts);
    let rest = ["--resolution", "256x160", "--steps", "2", "-d1"];
    let least = least(path, &rest);
    let tight = keeps_to(path, &rest, least);
    assert!(
        least <= (tight as f64 * WASTE) as u64 + RESERVE,
        "{tight} of {least}"
    );
    let wide = keeps_to(path, &rest, least + 120 * MIB);
    // More is allowed, so more stays.
    assert!(wide > tight + 60 * MIB, "{tight} {wide}");
}

#[test]
fn decoders_keep_to_the_memory_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, &wide_decoders(), &Part::ALL);
    let fast = "--resolution 512x384 --steps 1 --no-audio -d1";
    let exact = format!("{fast} --decoder exact");
    let sound = "--resolution 64x64 --steps 1 -d8";
    for rest in [fast, &exact, sound] {
        let rest: Vec<&str> = rest.split(' ').collect();
        let least = least(path, &rest);
        let held = keeps_to(path, &rest, least);
        assert!(
            least <= (held as f64 * WASTE) as u64 + RESERVE,
            "{rest:?}: {held} of {least}"
        );
    }
}
