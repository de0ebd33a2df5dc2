//! `gallop model init`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use gallop_core::{Cancel, Progress, UserError};
use gallop_model::ModelError;
use gallop_model::memory::readable;
use gallop_model::public::{Part, RandomModel, manifest::TensorSpec};

use super::aside::Aside;
use super::sizes;
use crate::args::Preset;

/// `gallop model init`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gallop model init --scale 1b -o random-1b
  gallop model init --preset horse-15b --parts base,turbo_vae -o random-15b

The folder has the layout, names and shapes of the public weights, so everything that reads these reads it;
clips of it are noise.")]
pub struct Init {
    /// Sizes of the model
    #[arg(
        long,
        visible_alias = "scale",
        value_name = "NAME",
        default_value = "horse-15b"
    )]
    pub preset: Preset,
    /// The folder to make
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Parts to write, by their folders' names [default: all but the super-resolution models]
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = part)]
    pub parts: Vec<Part>,
    /// Equal seeds make equal weights
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn part(name: &str) -> Result<Part, String> {
    Part::named(name).ok_or_else(|| {
        let names = Part::ALL.map(Part::folder).join(", ");
        format!("there is no part `{name}`; there are {names}")
    })
}

/// Writes a model of random weights.
pub fn run(args: &Init, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let (name, preset) = sizes(args.preset);
    let mut parts = args.parts.clone();
    if parts.is_empty() {
        parts.extend(Part::ALL);
        parts.retain(|part| !matches!(part, Part::Super540p | Part::Super1080p));
    }
    let mut total = 0;
    for &part in &parts {
        let specs = preset.tensors(part)?;
        total += specs.iter().map(TensorSpec::bytes).sum::<u64>();
    }
    let folder = Aside::new(&args.output, total)?;
    let model = RandomModel {
        preset: &preset,
        seed: args.seed,
    };
    progress.stage(&format!("writing {}, MiB", readable(total)), total >> 20);
    let mut done = 0;
    let mut heard = |bytes| {
        done += bytes;
        progress.at(done >> 20);
        match cancel.is_cancelled() {
            true => Err(ModelError::Stopped.into()),
            false => Ok(()),
        }
    };
    for &part in &parts {
        model.write_part(folder.path(), part, &mut heard)?;
    }
    if cancel.is_cancelled() {
        return Err(UserError::new("stopped", "nothing was written").into());
    }
    folder.finish()?;
    println!(
        "{}: {name}, random weights, {}",
        args.output.display(),
        readable(total)
    );
    Ok(())
}
