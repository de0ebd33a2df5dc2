//! Experiments with the detectors: renders and watches clips once, keeps what was seen in a
//! folder, and fits to that as often as wished:
//! `cargo run --release -p gallop-eval --example detectors -- FOLDER CLIPS`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gallop_core::{Cancel, PixelSize, Progress};
use gallop_eval::{Detectors, Effort, Watched, fit};
use gallop_world::{Look, Split, WorldConfig};
use rayon::prelude::*;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Lines;

impl Progress for Lines {
    fn stage(&self, name: &str, total: u64) {
        println!("{name}: {total}");
    }
    fn at(&self, _done: u64) {}
    fn note(&self, message: &str) {
        println!("{message}");
    }
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "detectors".into()));
    let clips: usize = args.next().map_or(Ok(600), |n| n.parse())?;
    fs::create_dir_all(&folder)?;
    let world = WorldConfig {
        families: vec!["ball".into()],
        looks: vec![Look::Soft3d, Look::Flat],
        sizes: [(128, 80), (128, 80), (80, 128), (224, 128)]
            .map(|(w, h)| PixelSize::new(w, h))
            .to_vec(),
        frames: vec![49],
        ..WorldConfig::default()
    };
    let effort = Effort::of_clips(clips);
    let start = Instant::now();
    let path = folder.join("finder.bin");
    let finder = match fs::read(&path) {
        Ok(bytes) => Detectors::from_bytes(&bytes, "finder")?.finder,
        Err(_) => {
            let finder = fit::fit_finder(&world, effort, &Lines, &Cancel::default())?;
            let finder = finder.ok_or("cancelled")?;
            let only = Detectors::only(finder.clone());
            fs::write(&path, only.to_bytes()?)?;
            finder
        }
    };
    println!("finder: {:.0} s", start.elapsed().as_secs_f64());
    let train = watch(
        &folder.join("train.json"),
        &world,
        (7_000_000_000, clips),
        &finder,
    )?;
    let held_out = WorldConfig {
        split: Split::Heldout,
        sizes: vec![PixelSize::new(128, 80)],
        ..world.clone()
    };
    let tests = watch(
        &folder.join("test.json"),
        &held_out,
        (9_000_000_000, clips / 4),
        &finder,
    )?;
    println!("watched: {:.0} s", start.elapsed().as_secs_f64());
    let path = folder.join("detectors.safetensors");
    let mut detectors = if path.exists() {
        Detectors::open(&path)?
    } else {
        Detectors::of(finder, &train, effort.rounds, |done| {
            println!("{done} of 3: {:.0} s", start.elapsed().as_secs_f64());
        })?
    };
    detectors.fitted.families.clone_from(&world.families);
    detectors.fitted.looks = world.looks.iter().map(|l| l.key().to_string()).collect();
    detectors.fitted.accuracy = detectors.tried(&tests);
    fs::write(&path, detectors.to_bytes()?)?;
    for (what, clips) in [("train", &train), ("test", &tests)] {
        for (attribute, (right, all)) in detectors.tried(clips) {
            println!(
                "{what} {attribute}: {:.1}% of {all}",
                100.0 * right as f64 / all as f64
            );
        }
    }
    for clip in &tests {
        mistakes(clip, &detectors);
    }
    Ok(())
}

/// Says what of a clip is named wrong.
fn mistakes(clip: &Watched, detectors: &Detectors) {
    let a = &clip.attributes;
    for attribute in gallop_eval::ATTRIBUTES {
        let want = gallop_eval::label(a, attribute);
        let got = detectors.name(attribute, &clip.features);
        if want != got {
            println!(
                "{attribute}: {} for {}: {} {} {:?} {:?} {:?} {} {} {} {:?}",
                got.unwrap_or_default(),
                want.unwrap_or_default(),
                a.count,
                a.subject,
                a.size,
                a.look,
                a.weather,
                a.place,
                a.floor.as_deref().unwrap_or_default(),
                a.camera.key(),
                a.time_of_day,
            );
        }
    }
}

/// Renders and watches clips, or reads what was seen of them before.
fn watch(
    path: &Path,
    world: &WorldConfig,
    (from, n): (u64, usize),
    finder: &gallop_eval::finder::Finder,
) -> Outcome<Vec<Watched>> {
    if let Ok(bytes) = fs::read(path) {
        return Ok(serde_json::from_slice(&bytes)?);
    }
    let all: Result<Vec<Watched>, _> = (0..n)
        .into_par_iter()
        .map(|i| {
            let world = WorldConfig {
                split: if world.split == Split::Heldout {
                    world.split
                } else {
                    fit::natural(i)
                },
                ..world.clone()
            };
            Ok::<_, gallop_world::WorldError>(Watched::new(&world.render(from + i as u64)?, finder))
        })
        .collect();
    let all = all?;
    fs::write(path, serde_json::to_vec(&all)?)?;
    Ok(all)
}
