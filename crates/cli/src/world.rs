//! `gallop world`: shows what foal learns from.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use gallop_core::{ClipShape, FPS, PixelSize, Progress, UserError};
use gallop_world::{Split, WorldConfig};

use crate::args::{Sheet, WorldPick, WorldRender, WorldSheet};

/// Frames of the clips that a sheet shows the middle of.
const SHEET_FRAMES: usize = 73;
/// Clips a row of a sheet, at most.
const MOST_COLUMNS: usize = 50;

/// `gallop world render`.
pub fn render(args: &WorldRender, progress: &dyn Progress) -> Result<()> {
    gallop_media::check_output(&args.output)?;
    let frames = (args.duration * FPS as f64).round() as usize;
    if !(1..=15 * FPS).contains(&frames) {
        let what = format!("--duration is {}", args.duration);
        return Err(UserError::new(what, "use up to 15 seconds").into());
    }
    let config = config(&args.pick, frames)?;
    progress.stage("render", 2);
    let rendered = config.render(args.pick.seed).map_err(family_error)?;
    progress.at(1);
    gallop_media::write_clip(&args.output, &rendered.clip)?;
    progress.at(2);
    for caption in &rendered.captions {
        progress.note(&format!("{}: {}", caption.lang, caption.text));
    }
    if let Some(path) = &args.truth {
        let mut truth = serde_json::to_value(&rendered.truth)?;
        truth["captions"] = serde_json::to_value(&rendered.captions)?;
        write_aside(path, serde_json::to_string_pretty(&truth)?.as_bytes())?;
    }
    progress.note(&format!("wrote {}", args.output.display()));
    Ok(())
}

/// `gallop world sheet`: a row for each look.
pub fn sheet(args: &WorldSheet, progress: &dyn Progress) -> Result<()> {
    gallop_media::check_output(&args.output)?;
    if !(1..=MOST_COLUMNS).contains(&args.columns) {
        let what = format!("--columns {}", args.columns);
        return Err(UserError::new(what, format!("use 1 to {MOST_COLUMNS}")).into());
    }
    let config = config(&args.pick, SHEET_FRAMES)?;
    progress.stage("render", 1);
    let sheet =
        gallop_world::contact_sheet(&config, args.columns, args.pick.seed).map_err(family_error)?;
    progress.at(1);
    gallop_media::write_image(&args.output, &sheet)?;
    progress.note(&format!("wrote {}", args.output.display()));
    Ok(())
}

/// `gallop sheet`: a clip as one picture.
pub fn clip_sheet(args: &Sheet, progress: &dyn Progress) -> Result<()> {
    gallop_media::check_output(&args.output)?;
    let clip = gallop_media::read_clip(&args.clip)?;
    let picture = gallop_media::overview(&clip, args.columns, args.rows);
    gallop_media::write_image(&args.output, &picture)?;
    progress.note(&format!("wrote {}", args.output.display()));
    Ok(())
}

fn config(pick: &WorldPick, frames: usize) -> Result<WorldConfig> {
    let widescreen = "16:9".parse()?;
    let shape = ClipShape {
        frames,
        size: pick.resolution.size(widescreen),
    };
    let size: PixelSize = shape.size;
    Ok(WorldConfig {
        families: pick.family.iter().cloned().collect(),
        sizes: vec![size],
        frames: vec![frames],
        split: if pick.held_out {
            Split::Heldout
        } else {
            Split::Train
        },
        ..WorldConfig::default()
    })
}

/// The world's own errors name what exists.
fn family_error(error: gallop_world::WorldError) -> anyhow::Error {
    anyhow::Error::new(error).context("--family")
}

/// Writes a small file whole or not at all.
pub fn write_aside(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, path))
        .inspect_err(|_| drop(fs::remove_file(&part)))
        .with_context(|| {
            format!(
                "cannot write `{}`: check that its folder exists and is writable",
                path.display()
            )
        })
}
