//! `gallop model`: a random model is written, described and put in fewer bits, and what is wrong is said in one line.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::{command, gallop, listing};
use serde_json::Value;

fn init(folder: &Path, parts: &str) {
    let args = [
        "model", "init", "--scale", "tiny", "--parts", parts, "-o", "m",
    ];
    let out = gallop(folder, &args);
    assert!(out.status.success(), "{out:?}");
}

fn json(out: &Output) -> Value {
    assert!(out.status.success(), "{out:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

fn part<'a>(about: &'a Value, name: &str) -> &'a Value {
    let parts = about["parts"].as_array().unwrap();
    parts.iter().find(|part| part["part"] == name).unwrap()
}

/// The command fails, says one line with these words, and leaves nothing but what was there.
fn refuses(folder: &Path, args: &[&str], words: &[&str]) {
    let before = listing(folder);
    let out = gallop(folder, args);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {out:?}");
    let said = String::from_utf8(out.stderr).unwrap();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("gallop: "), "{args:?}: {said}");
    for word in words {
        assert!(last.contains(word), "{args:?}: {word} is not in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(listing(folder), before, "{args:?}");
}

#[test]
fn a_random_model_is_described_and_put_in_fewer_bits() {
    let folder = tempfile::tempdir().unwrap();
    let out = gallop(
        folder.path(),
        &["model", "init", "--preset", "tiny", "-o", "m"],
    );
    assert!(out.status.success(), "{out:?}");
    assert_eq!(listing(folder.path()), ["m"]);
    let whole = json(&gallop(folder.path(), &["model", "info", "m", "--json"]));
    assert_eq!(part(&whole, "base")["state"], "present");
    assert_eq!(part(&whole, "1080p_sr")["state"], "missing");
    assert_eq!(part(&whole, "1080p_sr")["origin"], "GAIR/daVinci-MagiHuman");
    let text = gallop(folder.path(), &["model", "info", "m"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("6 of 8 parts") && text.contains("missing 540p_sr"),
        "{text}"
    );

    for (format, most) in [("int8", 0.03), ("fp8", 0.08), ("q4", 0.3)] {
        let args = [
            "model", "quantize", "m", "--to", format, "-o", format, "--json",
        ];
        let report = json(&gallop(folder.path(), &args));
        let base = part(&report, "base");
        assert!(
            base["bytes_after"].as_u64() < base["bytes_before"].as_u64(),
            "{base}"
        );
        let errors = base["errors"].as_object().unwrap();
        assert_eq!(errors.len(), 16);
        assert!(
            errors
                .values()
                .all(|e| (1e-4..most).contains(&e.as_f64().unwrap())),
            "{base}"
        );
        let velocity = base["velocity"]["video"].as_f64().unwrap();
        assert!((1e-4..most).contains(&velocity), "{format}: {velocity}");
        assert!(part(&report, "t5gemma-9b-9b-ul2")["velocity"].is_null());

        let small = json(&gallop(folder.path(), &["model", "info", format, "--json"]));
        let (before, after) = (part(&whole, "base"), part(&small, "base"));
        assert_eq!(before["parameters"], after["parameters"]);
        assert_eq!(base["bytes_after"], after["bytes"]);
        assert!(after["types"][format].as_u64() > Some(0), "{after}");
        for same in ["turbo_vae", "Wan2.2-TI2V-5B", "stable-audio-open-1.0"] {
            assert_eq!(part(&whole, same), part(&small, same));
        }
        assert_eq!(part(&small, "t5gemma-9b-9b-ul2")["state"], "present");
    }
    assert_eq!(listing(folder.path()), ["fp8", "int8", "m", "q4"]);
    let args = [
        "model",
        "quantize",
        "m",
        "--to",
        "int8",
        "-o",
        "text",
        "--no-check",
    ];
    let text = String::from_utf8(gallop(folder.path(), &args).stdout).unwrap();
    assert!(
        text.contains("base: ") && text.contains("layer 1 ") && !text.contains("velocity"),
        "{text}"
    );
    let again = ["model", "quantize", "int8", "--to", "q4", "-o", "again"];
    refuses(folder.path(), &again, &["fewer bits already"]);
}

#[test]
fn presets_are_counted_without_files() {
    let folder = tempfile::tempdir().unwrap();
    for (name, least, most) in [
        ("1b", 0.9, 1.15),
        ("3b", 2.7, 3.4),
        ("horse-15b", 15.2, 15.4),
    ] {
        let args = ["model", "info", "--preset", name, "--json"];
        let about = json(&gallop(folder.path(), &args));
        let billions = about["parameters"].as_f64().unwrap() / 1e9;
        assert!((least..most).contains(&billions), "{name}: {billions}");
    }
}

#[test]
fn folders_that_are_no_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("photos")).unwrap();
    fs::write(folder.path().join("photos/a.txt"), "a").unwrap();
    for args in [
        &["model", "info", "photos"][..],
        &["model", "quantize", "photos", "--to", "q4", "-o", "q"],
    ] {
        refuses(
            folder.path(),
            args,
            &["photos holds no model", "Hugging Face"],
        );
    }
    refuses(
        folder.path(),
        &["model", "info", "nowhere"],
        &["nowhere is no folder"],
    );
    let taken = ["model", "init", "--scale", "tiny", "-o", "photos"];
    refuses(folder.path(), &taken, &["photos exists already"]);
    let nowhere = ["model", "init", "--scale", "tiny", "-o", "photos/a.txt/m"];
    refuses(folder.path(), &nowhere, &["cannot make"]);
    let root = ["model", "init", "--scale", "tiny", "-o", "/"];
    refuses(folder.path(), &root, &["--output"]);
    init(folder.path(), "turbo_vae");
    let nothing = ["model", "quantize", "m", "--to", "q4", "-o", "q"];
    refuses(folder.path(), &nothing, &["no transformer"]);
    let out = gallop(
        folder.path(),
        &["model", "init", "--parts", "bass", "-o", "n"],
    );
    assert!(!out.status.success());
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("`bass`") && said.contains("turbo_vae"),
        "{said}"
    );
}

#[test]
fn damaged_weights_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), "base");
    let shard = folder
        .path()
        .join("m/base/model-00001-of-00001.safetensors");
    let whole = fs::read(&shard).unwrap();
    let quantize = ["model", "quantize", "m", "--to", "int8", "-o", "q"];

    fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
    refuses(
        folder.path(),
        &quantize,
        &["base is broken", "model-00001-of-00001.safetensors"],
    );
    let about = json(&gallop(folder.path(), &["model", "info", "m", "--json"]));
    assert_eq!(part(&about, "base")["state"], "broken");

    // The first matrix of an inner layer begins with what is no number.
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let about: Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
    let name = "block.layers.2.attention.linear_qkv.weight";
    let at = 8 + header + about[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut damaged = whole.clone();
    damaged[at..at + 2].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&shard, damaged).unwrap();
    refuses(folder.path(), &quantize, &[name, "not finite"]);

    // A wrong shape is found when the transformer is run.
    let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    let shape = about["block.layers.2.attention.linear_proj.weight"]["shape"].to_string();
    assert_eq!(shape, "[128,128]");
    let key = "\"block.layers.2.attention.linear_proj.weight\":";
    let (before, after) = text.split_once(key).unwrap();
    let changed = format!(
        "{before}{key}{}",
        after.replacen("[128,128]", "[64,256] ", 1)
    );
    assert_eq!(changed.len(), header);
    fs::write(
        &shard,
        [&whole[..8], changed.as_bytes(), &whole[8 + header..]].concat(),
    )
    .unwrap();
    refuses(
        folder.path(),
        &quantize,
        &["linear_proj.weight", "[64, 256]", "[128, 128]"],
    );
    assert_eq!(listing(folder.path()), ["m"]);
}

#[cfg(unix)]
#[test]
fn stopping_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "model", "init", "--scale", "1b", "--parts", "base", "-o", "m",
    ];
    let mut child = command(folder.path(), &args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !folder.path().join("m.part/base").exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nothing was begun"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let asked = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(asked.unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(listing(folder.path()), [""; 0]);
}
