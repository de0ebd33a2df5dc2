//! Experiments with the detectors: renders and watches clips once, keeps what was seen in a
//! folder, fits to that as often as wished, and draws what is named wrong on held-out clips:
//! `cargo run --release -p gallop-eval --example detectors -- FOLDER CLIPS TESTS`.
//! Without `detectors.safetensors` in the folder it fits, with it it only tries.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gallop_core::{Cancel, PixelSize, Progress};
use gallop_eval::finder::Finder;
use gallop_eval::{Detectors, Effort, Watched, fit};
use gallop_media::{contact_sheet, read_clip, write_clip, write_image};
use gallop_world::{Look, Only, Rendered, Split, WorldConfig, WorldError};
use rayon::prelude::*;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Where fitting and held-out clips begin, as for `gallop eval --fit`.
const SEEDS: [u64; 2] = [7_000_000_000, 9_000_000_000];
/// Sizes that held-out clips are tried at.
const SIZES: [(usize, usize); 2] = [(160, 96), (224, 128)];

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

/// The part of the world that the detectors inside the program were fitted on; foal was trained on less.
fn world() -> WorldConfig {
    let only = [
        ("weather", &["clear"][..]),
        ("camera", &["still", "push_in", "pull_out"][..]),
        ("count", &["1", "2"][..]),
    ];
    let only = only.map(|(name, values)| {
        let values = values.iter().map(|v| v.to_string()).collect();
        (name.to_string(), values)
    });
    WorldConfig {
        families: ["face", "instrument", "ball"].map(String::from).to_vec(),
        looks: vec![Look::Soft3d, Look::Flat],
        only: Only(only.into()),
        sizes: [(160, 96), (160, 96), (128, 80), (224, 128)]
            .map(|(w, h)| PixelSize::new(w, h))
            .to_vec(),
        frames: vec![49],
        ..WorldConfig::default()
    }
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "detectors".into()));
    let clips: usize = args.next().map_or(Ok(600), |n| n.parse())?;
    let tests: usize = args.next().map_or(Ok(150), |n| n.parse())?;
    fs::create_dir_all(&folder)?;
    let start = Instant::now();
    let path = folder.join("detectors.safetensors");
    let mut detectors = match Detectors::open(&path) {
        Ok(detectors) => detectors,
        Err(_) => {
            let detectors = fitted(&folder, clips)?;
            fs::write(&path, detectors.to_bytes()?)?;
            // As the file has them: in 16 bits.
            Detectors::open(&path)?
        }
    };
    println!("fitted: {:.0} s", start.elapsed().as_secs_f64());
    for (w, h) in SIZES {
        for coded in [false, true] {
            let watched = tried(&folder, &detectors, (w, h, coded), tests)?;
            // The file tells of the first size, as rendered.
            if (w, h, coded) == (SIZES[0].0, SIZES[0].1, false) {
                detectors.fitted.accuracy = detectors.tried(&watched);
                detectors.fitted.lips = detectors.lips_tried(&watched);
                fs::write(&path, detectors.to_bytes()?)?;
            }
        }
    }
    println!("tried: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn fitted(folder: &Path, clips: usize) -> Outcome<Detectors> {
    let (world, effort, start) = (world(), Effort::of_clips(clips), Instant::now());
    let path = folder.join("finder.safetensors");
    let finder = match Detectors::open(&path) {
        Ok(detectors) => detectors.finder,
        Err(_) => {
            let finder = fit::fit_finder(&world, effort, &Lines, &Cancel::default())?;
            let finder = finder.ok_or("cancelled")?;
            fs::write(&path, Detectors::only(finder).to_bytes()?)?;
            Detectors::open(&path)?.finder
        }
    };
    println!("finder: {:.0} s", start.elapsed().as_secs_f64());
    let path = folder.join("watched.json");
    let watched: Vec<Watched> = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => {
            let watched = watch(&world, &finder, clips)?;
            fs::write(&path, serde_json::to_vec(&watched)?)?;
            watched
        }
    };
    println!("watched: {:.0} s", start.elapsed().as_secs_f64());
    let glimpses = fit::glimpses(&world, effort, &Lines, &Cancel::default())?;
    let glimpses = glimpses.ok_or("cancelled")?;
    println!(
        "{} glimpses: {:.0} s",
        glimpses.len(),
        start.elapsed().as_secs_f64()
    );
    let mut detectors = Detectors::of(finder, (&watched, &glimpses), effort.rounds, |done| {
        println!("{done} of 3: {:.0} s", start.elapsed().as_secs_f64());
    })?;
    detectors.fitted.families = world.families;
    detectors.fitted.looks = world.looks.iter().map(|l| l.key().to_string()).collect();
    for (attribute, (right, all)) in detectors.tried(&watched) {
        println!("fitted on: {attribute} {right} of {all}");
    }
    Ok(detectors)
}

fn watch(world: &WorldConfig, finder: &Finder, clips: usize) -> Result<Vec<Watched>, WorldError> {
    (0..clips)
        .into_par_iter()
        .map(|i| {
            let world = WorldConfig {
                split: fit::natural(i),
                ..world.clone()
            };
            Ok(Watched::new(&world.render(SEEDS[0] + i as u64)?, finder))
        })
        .collect()
}

/// Tries the detectors on held-out clips of one size, as rendered or as an MP4 has them.
fn tried(
    folder: &Path,
    detectors: &Detectors,
    (width, height, coded): (usize, usize, bool),
    tests: usize,
) -> Outcome<Vec<Watched>> {
    let world = WorldConfig {
        split: Split::Heldout,
        sizes: vec![PixelSize::new(width, height)],
        ..world()
    };
    let form = if coded { "mp4" } else { "raw" };
    let name = format!("{width}x{height}-{form}");
    let pictures = folder.join(&name);
    fs::create_dir_all(&pictures)?;
    let mut all = Vec::with_capacity(tests);
    for i in 0..tests {
        let mut rendered = world.render(SEEDS[1] + i as u64)?;
        if coded {
            let file = folder.join("one.mp4");
            write_clip(&file, &rendered.clip)?;
            rendered.clip = read_clip(&file)?;
        }
        let watched = Watched::new(&rendered, &detectors.finder);
        mistakes(
            &rendered,
            &watched,
            detectors,
            &pictures.join(format!("{i:03}")),
        )?;
        all.push(watched);
    }
    for (attribute, (right, of)) in detectors.tried(&all) {
        let share = 100.0 * right as f64 / of as f64;
        println!("{name}: {attribute} {share:.1}%, {right} of {of}");
    }
    if let Some((own, other)) = detectors.lips_tried(&all) {
        println!("{name}: lips {own:.3}, another clip's voice {other:.3}");
    }
    Ok(all)
}

/// Says what of a clip is named wrong, and draws it.
fn mistakes(
    rendered: &Rendered,
    watched: &Watched,
    detectors: &Detectors,
    picture: &Path,
) -> Outcome<()> {
    let a = &watched.attributes;
    for attribute in gallop_eval::ATTRIBUTES {
        let want = gallop_eval::label(a, attribute);
        let got = detectors.name(attribute, &watched.features);
        if want.is_none() || want == got {
            continue;
        }
        println!(
            "{} {attribute}: {} for {}: {} {} {:?} {:?} {} {} {} {:?}; {} things",
            picture.display(),
            got.unwrap_or_default(),
            want.unwrap_or_default(),
            a.count,
            a.subject,
            a.size,
            a.look,
            a.place,
            a.floor.as_deref().unwrap_or_default(),
            a.camera.key(),
            a.time_of_day,
            watched.features.things.len(),
        );
        let frames = rendered.clip.frames.iter().step_by(8).cloned();
        let sheet = contact_sheet(&frames.collect::<Vec<_>>(), 3);
        write_image(&picture.with_extension(format!("{attribute}.png")), &sheet)?;
    }
    Ok(())
}
