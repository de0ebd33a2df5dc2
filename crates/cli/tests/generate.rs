//! `gallop generate`, end to end on a tiny model.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{command, gallop, listing, tiny_upscaler, tiny_workplace};
use gallop_core::{Frame, PixelSize};
use serde_json::Value;

fn generate(folder: &Path, prompt: &str, rest: &[&str]) -> std::process::Output {
    let mut args = vec!["generate", prompt, "--model", "tiny", "--duration", "1"];
    args.extend(rest);
    gallop(folder, &args)
}

#[test]
fn a_clip_has_the_length_size_and_sound_asked_for() {
    let folder = tiny_workplace();
    let out = generate(folder.path(), "a red ball", &["--seed", "3", "-o", "a.mp4"]);
    assert!(out.status.success(), "{out:?}");
    let clip = gallop_media::read_clip(&folder.path().join("a.mp4")).unwrap();
    assert_eq!(clip.frames.len(), 24);
    assert_eq!(clip.frames[0].size, PixelSize::new(112, 64));
    assert_eq!(clip.audio.unwrap().len(), 48_000);
    assert_eq!(listing(folder.path()), ["a.mp4", "tiny"]);
}

/// The tiny one knows two seconds.
#[test]
fn a_clip_is_as_long_as_the_model_was_trained_on() {
    let folder = tiny_workplace();
    let ask = ["generate", "a red ball", "--model", "tiny", "--dry-run"];
    let out = gallop(folder.path(), &ask);
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(told.contains(" 48 frames"), "{told}");
    assert!(!String::from_utf8_lossy(&out.stderr).contains("trained on clips"));
}

#[test]
fn equal_seeds_make_equal_files_and_others_do_not() {
    let folder = tiny_workplace();
    for (name, seed) in [("a.mp4", "3"), ("b.mp4", "3"), ("c.mp4", "4")] {
        let out = generate(folder.path(), "a red ball", &["--seed", seed, "-o", name]);
        assert!(out.status.success(), "{out:?}");
    }
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("a.mp4") == read("b.mp4"));
    assert!(read("a.mp4") != read("c.mp4"));
}

#[test]
fn every_ending_and_option_is_honoured() {
    let folder = tiny_workplace();
    let picture = Frame::black(PixelSize::new(31, 200));
    gallop_media::write_image(&folder.path().join("first.png"), &picture).unwrap();
    let size = ["--resolution", "64x80", "--steps", "1", "--guidance", "1"];
    for (name, extra) in [
        ("silent.mp4", vec!["--no-audio"]),
        ("picture.mp4", vec!["--image", "first.png"]),
        ("a.webm", vec![]),
        ("a.wav", vec![]),
        ("f-%04d.png", vec!["--no-audio"]),
    ] {
        let out = generate(
            folder.path(),
            "球",
            &[&size[..], &extra, &["-o", name]].concat(),
        );
        assert!(out.status.success(), "{name}: {out:?}");
    }
    let clip = gallop_media::read_clip(&folder.path().join("silent.mp4")).unwrap();
    assert!(clip.audio.is_none());
    assert_eq!(clip.frames[0].size, PixelSize::new(64, 80));
    assert_eq!(
        gallop_media::read_audio(&folder.path().join("a.wav"))
            .unwrap()
            .len(),
        48_000
    );
    assert!(folder.path().join("f-0024.png").exists());
}

#[test]
fn larger_pictures_than_the_model_makes_are_made_larger() {
    let folder = tiny_workplace();
    tiny_upscaler(&folder.path().join("tiny"));
    let picture = Frame::black(PixelSize::new(300, 200));
    gallop_media::write_image(&folder.path().join("first.png"), &picture).unwrap();
    for (name, size, first) in [
        ("large.mp4", PixelSize::new(224, 128), &[][..]),
        (
            "tall.mp4",
            PixelSize::new(80, 144),
            &["--image", "first.png"],
        ),
        ("small.mp4", PixelSize::new(80, 64), &[]),
    ] {
        let resolution = format!("{}x{}", size.width, size.height);
        let rest = ["--resolution", &resolution, "-o", name];
        let out = generate(folder.path(), "a red ball", &[&rest, first].concat());
        assert!(out.status.success(), "{out:?}");
        let clip = gallop_media::read_clip(&folder.path().join(name)).unwrap();
        assert_eq!(clip.frames[0].size, size);
        assert!(clip.audio.is_some());
    }
    let weights = folder.path().join("tiny/upscaler.safetensors");
    for damage in [Some(vec![1u8; 40]), None] {
        match damage {
            Some(bytes) => fs::write(&weights, bytes).unwrap(),
            None => fs::remove_file(&weights).unwrap(),
        }
        let out = generate(folder.path(), "a red ball", &["-o", "b.mp4"]);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{error}");
        assert!(error.contains("upscaler.safetensors"), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        assert!(!folder.path().join("b.mp4").exists());
    }
}

#[test]
fn programs_can_follow_by_events() {
    let folder = tiny_workplace();
    let out = generate(
        folder.path(),
        "a zyxw ball",
        &["--json", "--seed", "1", "-o", "a.mp4"],
    );
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| {
        events
            .iter()
            .filter(|e| e["event"] == kind)
            .collect::<Vec<_>>()
    };
    assert!(
        of("stage")
            .iter()
            .any(|e| e["stage"] == "denoise" && e["total"] == 2)
    );
    assert!(
        of("note")
            .iter()
            .any(|e| e["message"].as_str().unwrap().contains("`zyxw`"))
    );
    assert_eq!(of("done")[0]["frames"], 24);
    assert_eq!(events.last().unwrap()["event"], "done");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line_and_leaves_nothing() {
    let folder = tiny_workplace();
    let path = folder.path();
    fs::write(path.join("broken.png"), b"\x89PNG\r\n\x1a\nno").unwrap();
    fs::create_dir(path.join("foreign")).unwrap();
    fs::create_dir(path.join("cut")).unwrap();
    for name in listing(&path.join("tiny")) {
        let bytes = fs::read(path.join("tiny").join(&name)).unwrap();
        let keep = if name.starts_with("dit") {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        fs::write(path.join("cut").join(&name), &bytes[..keep]).unwrap();
    }
    let before = listing(path);
    let long = "x".repeat(100_000);
    let cases: &[(&[&str], &str)] = &[
        (&["generate", "", "--model", "tiny"], "the prompt is empty"),
        (
            &["generate", "\u{1}\u{2}", "--model", "tiny"],
            "the prompt is empty",
        ),
        (&["generate", &long, "--model", "tiny"], "100000 bytes"),
        (
            &["generate", "a", "--model", "tiny", "--duration", "0.2"],
            "--duration",
        ),
        (
            &["generate", "a", "--model", "tiny", "--duration", "-5"],
            "--duration",
        ),
        (
            &["generate", "a", "--model", "tiny", "--duration", "NaN"],
            "--duration",
        ),
        (
            &["generate", "a", "--model", "tiny", "--steps", "0"],
            "--steps",
        ),
        (
            &["generate", "a", "--model", "tiny", "--guidance", "-1"],
            "--guidance",
        ),
        (
            &["generate", "a", "--model", "tiny", "-o", "clip.xyz"],
            "clip.xyz",
        ),
        (
            &["generate", "a", "--model", "tiny", "-o", "none/clip.mp4"],
            "none/clip.mp4",
        ),
        (
            &["generate", "a", "--model", "tiny", "--image", "none.png"],
            "none.png",
        ),
        (
            &["generate", "a", "--model", "tiny", "--image", "broken.png"],
            "broken.png",
        ),
        (&["generate", "a", "--model", "none"], "none"),
        (&["generate", "a", "--model", "foreign"], "foreign"),
        (&["generate", "a", "--model", "cut"], "dit.safetensors"),
        (&["model", "info", "none"], "none"),
        (&["sheet", "none.mp4"], "none.mp4"),
        (&["world", "render", "--family", "dragon"], "dragon"),
    ];
    for (args, said) in cases {
        let out = gallop(path, args);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{args:.60?}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("gallop: ") && last.contains(said),
            "{said}: {error:.300}"
        );
        assert!(!error.contains("panicked"), "{error:.300}");
        assert_eq!(listing(path), before, "{said}");
    }
}

#[test]
fn unknown_values_are_refused_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    for (option, value, mend) in [
        ("--ratio", "2:1", "16:9"),
        ("--resolution", "huge", "256p"),
        ("--duration", "long", "2.5"),
        ("--seed", "-1", "--seed"),
    ] {
        let out = gallop(
            folder.path(),
            &["generate", "a ball", &format!("{option}={value}")],
        );
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(error.contains(mend), "{error}");
    }
}

#[test]
fn strange_prompts_are_made_all_the_same() {
    let folder = tiny_workplace();
    for prompt in [
        "🏀🏀🏀",
        "ball\u{1}\u{202e}\u{7f}",
        "<|end|> ' \" \\ $(rm -rf /)",
        &"word ".repeat(3000),
    ] {
        let out = generate(folder.path(), prompt, &["--steps", "1", "-o", "a.mp4"]);
        assert!(out.status.success(), "{prompt:.40}: {out:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_and_leaves_nothing() {
    let folder = tiny_workplace();
    let args = [
        "generate",
        "a ball",
        "--model",
        "tiny",
        "--duration",
        "15",
        "--steps",
        "1000",
        "-o",
        "a.mp4",
    ];
    let mut child = command(folder.path(), &args)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(listing(folder.path()), ["tiny"]);
}

/// A limit on the size of files is what a full disk looks like to the program that writes.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_and_says_so() {
    let folder = tiny_workplace();
    for name in ["a.mp4", "a.webm", "a.wav", "f-%04d.png"] {
        let program = env!("CARGO_BIN_EXE_gallop");
        let rest = "--model tiny --duration 2 --resolution 224x128 --steps 1 --guidance 1";
        // Blocks of 512 bytes; the signal of a file grown too large would end the program.
        let script = format!(
            "trap '' XFSZ; ulimit -f 4; exec {program} generate 'a red ball' {rest} -o {name}"
        );
        let out = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1), "{name}: {out:?}");
        let said = String::from_utf8_lossy(&out.stderr);
        let error = said
            .lines()
            .find(|line| line.starts_with("gallop:"))
            .unwrap();
        // Which file comes first is the format's own affair: frames have their sound beside them.
        assert!(error.contains("cannot write `"), "{error}");
        assert!(error.contains("free some space"), "{error}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(listing(folder.path()), ["tiny"], "{name}");
    }
}
