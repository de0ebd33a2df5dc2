//! The other commands, end to end.

mod common;

use common::{gallop, listing};
use serde_json::Value;

#[test]
fn the_embedded_model_says_what_it_can_make() {
    let folder = tempfile::tempdir().unwrap();
    let out = gallop(folder.path(), &["model", "info", "foal", "--json"]);
    assert!(out.status.success(), "{out:?}");
    let about: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(about["info"]["name"], "foal");
    assert!(
        !about["info"]["trained"]["families"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let bytes: u64 = about["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["bytes"].as_u64().unwrap())
        .sum();
    assert!((100_000..60_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn instructions_that_are_not_there_are_refused_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    let out = gallop(folder.path(), &["--isa", "mmx", "selftest"]);
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        said.contains("this processor has") && said.contains("portable"),
        "{said}"
    );
}

#[test]
fn the_public_architecture_is_counted_without_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = gallop(
        folder.path(),
        &["model", "info", "--preset", "horse-15b", "--json"],
    );
    let about: Value = serde_json::from_slice(&out.stdout).unwrap();
    let billions = about["parameters"].as_f64().unwrap() / 1e9;
    // 15.28 in the layers, embedders and heads beside them.
    assert!((billions - 15.30).abs() < 0.005, "{billions}");
}

#[test]
fn the_embedded_model_makes_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "a red basketball bounces on a wooden court";
    let args = ["generate", prompt, "-d", "1", "--steps", "2", "--seed", "1"];
    let out = gallop(folder.path(), &args);
    assert!(out.status.success(), "{out:?}");
    let clip = gallop_media::read_clip(&folder.path().join("clip.mp4")).unwrap();
    assert_eq!(clip.frames.len(), 24);
    let out = gallop(folder.path(), &["sheet", "clip.mp4"]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(listing(folder.path()), ["clip.mp4", "sheet.png"]);
}

#[test]
fn the_world_is_shown_with_its_truth() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "world",
        "render",
        "--family",
        "ball",
        "--seed",
        "7",
        "-d",
        "1",
        "--resolution",
        "224x128",
    ];
    let out = gallop(
        folder.path(),
        &[&args[..], &["-o", "w.mp4", "--truth", "w.json"]].concat(),
    );
    assert!(out.status.success(), "{out:?}");
    let truth = std::fs::read(folder.path().join("w.json")).unwrap();
    let truth: Value = serde_json::from_slice(&truth).unwrap();
    assert_eq!(truth["attributes"]["family"], "ball");
    assert!(truth["captions"].as_array().unwrap().len() >= 4);
    assert_eq!(truth["tracks"][0]["points"].as_array().unwrap().len(), 24);
    let out = gallop(
        folder.path(),
        &[
            "world",
            "sheet",
            "--family",
            "ball",
            "--columns",
            "2",
            "--resolution",
            "112x64",
        ],
    );
    assert!(out.status.success(), "{out:?}");
    // Two clips wide, the five looks high, four pixels between.
    let sheet = gallop_media::read_image(&folder.path().join("sheet.png")).unwrap();
    assert_eq!((sheet.size.width, sheet.size.height), (228, 5 * 68 - 4));
}

#[test]
fn help_teaches() {
    let folder = tempfile::tempdir().unwrap();
    for (args, word) in [
        (vec!["--help"], "generate"),
        (vec!["generate", "--help"], "Examples:"),
        (vec!["train", "--help"], "recipes/"),
        (vec!["world", "render", "--help"], "truly happens"),
    ] {
        let out = gallop(folder.path(), &args);
        assert!(
            String::from_utf8(out.stdout).unwrap().contains(word),
            "{args:?}"
        );
    }
}
