//! `gallop eval`, end to end: a tiny model that knows nothing beside real clips.

mod common;

use std::fs;
use std::path::Path;

use common::{gallop, listing, tiny_workplace};
use serde_json::Value;

fn evaluate(folder: &Path, seconds: &str, rest: &[&str]) -> std::process::Output {
    let args = [
        "eval",
        "-m",
        "tiny",
        "-d",
        seconds,
        "--resolution",
        "160x96",
        "-o",
        "out",
    ];
    gallop(folder, &[&args[..], rest].concat())
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("out/report.json")).unwrap()).unwrap()
}

#[test]
fn a_model_is_measured_beside_real_clips_and_goes_on_where_it_stopped() {
    let folder = tiny_workplace();
    let folder = folder.path();

    let out = evaluate(folder, "1", &["-p", "2", "--sound-for-real"]);
    assert!(out.status.success(), "{out:?}");
    let first = report(folder);
    let rows = first["rows"].as_array().unwrap();
    let named = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(named("tiny")["clips"], 2);
    // Its clips are made from a first picture too, and real ones are what they are said to be.
    assert!(named("tiny")["first_frame_ssim"].is_f64() && named("tiny")["seconds"].is_f64());
    let real = named("real clips");
    assert_eq!(real["accuracy"]["subject"], serde_json::json!([2, 2]));
    assert_eq!(real["matched"], 1.0);
    assert!(real["offset_median_ms"].as_f64().unwrap() < 60.0);
    for column in ["model", "ceiling", "floor", "real", "sound"] {
        let clips = listing(&folder.join("out").join(column));
        assert!(
            clips.contains(&"001.mp4".to_string()),
            "{column}: {clips:?}"
        );
    }
    let table = fs::read_to_string(folder.join("out/report.md")).unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), table.trim());

    // As if it had been stopped while it wrote the last line: the others are not measured again.
    let path = folder.join("out/clips.jsonl");
    let lines = fs::read_to_string(&path).unwrap();
    fs::write(&path, &lines[..lines.len() - 40]).unwrap();
    let out = evaluate(folder, "1", &["-p", "2", "--sound-for-real"]);
    assert!(out.status.success(), "{out:?}");
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("9 measurements are there already"), "{said}");
    let again = report(folder);
    assert_eq!(
        again["rows"][0], first["rows"][0],
        "the same measurement, its seconds too"
    );

    // Clips of another length are another evaluation.
    let out = evaluate(folder, "2", &["-p", "1", "--no-floor"]);
    assert!(out.status.success(), "{out:?}");
    assert!(!String::from_utf8_lossy(&out.stderr).contains("already"));
}

#[test]
fn what_the_detectors_do_not_know_is_named() {
    let folder = tiny_workplace();
    let folder = folder.path();
    let config = folder.join("tiny/config.json");
    let known = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        known.replace(r#"["ball"]"#, r#"["ball", "horse"]"#),
    )
    .unwrap();
    let out = evaluate(folder, "1", &["-p", "2"]);
    assert!(!out.status.success());
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("horse") && said.contains("--fit"), "{said}");
    assert!(!folder.join("out").exists());
}
