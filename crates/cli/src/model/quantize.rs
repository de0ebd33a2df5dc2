//! `gallop model quantize`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use clap::{Args, ValueEnum};
use gallop_core::{Cancel, Progress, UserError};
use gallop_model::dit::DitConfig;
use gallop_model::memory::readable;
use gallop_model::public::{Part, PartState, PublicModel};
use gallop_model::quant::{
    Quant, QuantReport, Quantization, VelocityError, quantize_files, quantized_bytes,
    velocity_error,
};
use gallop_model::{ModelError, WeightFiles, Weights};
use serde_json::json;

use super::aside::Aside;
use super::open_public;

/// `gallop model quantize`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  gallop model quantize magihuman --to int8 -o magihuman-int8

Matrices of inner layers of the transformers and the text encoder are kept in fewer bits; the first and the last
layer, embedders, heads and norms stay as they are, and so do the autoencoders, which are linked or copied.")]
pub struct Quantize {
    /// A folder of the public layout
    pub model: PathBuf,
    /// The format: int8 and fp8 have a scale a row, q4 one for every 32 numbers
    #[arg(long, value_name = "FORMAT")]
    pub to: Format,
    /// The folder to make
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Leave out the comparison of velocities, which runs each transformer twice
    #[arg(long)]
    pub no_check: bool,
    /// Print the errors as JSON
    #[arg(long)]
    pub json: bool,
}

/// How numbers are kept.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// 8-bit floats
    Fp8,
    /// 8-bit integers
    Int8,
    /// 4-bit integers
    Q4,
}

impl Format {
    fn quant(self) -> Quant {
        match self {
            Self::Fp8 => Quant::Fp8,
            Self::Int8 => Quant::Int8,
            Self::Q4 => Quant::Q4,
        }
    }
}

/// What became of one part.
struct Done {
    part: Part,
    report: QuantReport,
    velocity: Option<VelocityError>,
}

/// The work of one command.
struct Work<'a> {
    model: PublicModel,
    quant: Quant,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

/// Writes a model in fewer bits.
pub fn run(args: &Quantize, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let work = Work {
        model: open_public(&args.model)?,
        quant: args.to.quant(),
        progress,
        cancel,
    };
    let parts = work.parts()?;
    let folder = Aside::new(&args.output, work.bytes(&parts)?)?;
    let mut all = Vec::new();
    for &part in &parts {
        let to = folder.path().join(part.folder());
        if !shrinks(part) {
            link(&work.inside(part), &to)?;
            continue;
        }
        let report = work.quantize(part, &to)?;
        let check = part.is_transformer() && !args.no_check;
        let velocity = check.then(|| work.velocity(part, &to)).transpose()?;
        all.push(Done {
            part,
            report,
            velocity,
        });
    }
    work.go_on()?;
    folder.finish()?;
    tell(args, &all)
}

/// Whether a part is put in fewer bits, or kept as it is.
fn shrinks(part: Part) -> bool {
    part.is_transformer() || part == Part::TextEncoder
}

impl Work<'_> {
    fn inside(&self, part: Part) -> PathBuf {
        self.model.folder().join(part.folder())
    }

    /// The parts that lie in the folder and are whole.
    fn parts(&self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (part, state) in self.model.inventory() {
            match state {
                PartState::Broken(why) => {
                    let mend = "get it again, or take its folder away";
                    return Err(UserError::new(
                        format!("{} is broken, {why}", part.folder()),
                        mend,
                    )
                    .into());
                }
                PartState::Present(_) if self.inside(part).is_dir() => parts.push(part),
                PartState::Present(_) => self.progress.note(&format!(
                    "{} lies beside {} and stays there",
                    part.folder(),
                    self.model.folder().display()
                )),
                PartState::Missing(_) => {}
            }
        }
        if !parts.iter().any(|&part| shrinks(part)) {
            let what = format!(
                "{} has no transformer and no text encoder",
                self.model.folder().display()
            );
            return Err(UserError::new(what, "only these are put in fewer bits").into());
        }
        Ok(parts)
    }

    /// Bytes of what will be written at most.
    fn bytes(&self, parts: &[Part]) -> Result<u64> {
        let mut bytes = 0;
        for &part in parts.iter().filter(|&&part| shrinks(part)) {
            let files = WeightFiles::open(&self.inside(part))?;
            bytes += quantized_bytes(&files, self.quantization(&|name: &str| part.owns(name)))?[1];
        }
        Ok(bytes)
    }

    fn quantization<'a>(&self, wanted: &'a dyn Fn(&str) -> bool) -> Quantization<'a> {
        Quantization {
            quant: self.quant,
            wanted,
        }
    }

    /// An error if somebody asked to stop.
    fn go_on(&self) -> Result<(), ModelError> {
        match self.cancel.is_cancelled() {
            true => Err(ModelError::Stopped),
            false => Ok(()),
        }
    }

    fn quantize(&self, part: Part, to: &Path) -> Result<QuantReport> {
        let from = self.inside(part);
        let files = WeightFiles::open(&from)?;
        let owns = |name: &str| part.owns(name);
        let [total, _] = quantized_bytes(&files, self.quantization(&owns))?;
        let stage = format!("{} to {}, MiB", part.folder(), self.quant.name());
        self.progress.stage(&stage, total >> 20);
        let mut done = 0;
        let mut heard = |bytes| {
            done += bytes;
            self.progress.at(done >> 20);
            self.go_on()
        };
        let report = quantize_files(&files, self.quantization(&owns), to, &mut heard)?;
        for file in others(&from)? {
            copy(&file, to)?;
        }
        Ok(report)
    }

    fn velocity(&self, part: Part, to: &Path) -> Result<VelocityError> {
        let exact = self.model.transformer(part)?;
        let config: DitConfig = self.model.transformer_config(part, &exact)?;
        let small = std::sync::Arc::new(WeightFiles::open(to)?);
        let layers = 2 * config.layers.len() as u64;
        self.progress
            .stage(&format!("velocity of {}, layers", part.folder()), layers);
        let mut done = 0;
        let mut heard = || {
            done += 1;
            self.progress.at(done);
            self.go_on()
        };
        let [exact, small] = [exact, small].map(|files| Weights::files(files, &Device::Cpu));
        Ok(velocity_error(&config, &exact, &small, &mut heard)?)
    }
}

/// Files of a part beside its weights, such as configurations and tokenizers.
fn others(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let name = path.to_string_lossy();
        let weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        if path.is_file() && !weights {
            files.push(path);
        }
    }
    Ok(files)
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(file.file_name().unwrap_or_default());
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// The same files in another folder: a second name for each where the disk allows it, else a copy.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let unreadable = || format!("cannot read {}", from.display());
    for entry in fs::read_dir(from).with_context(unreadable)? {
        let file = entry.with_context(unreadable)?.path();
        if !file.is_file() {
            continue;
        }
        // A link to a link would break with the first folder's place.
        let whole = file.canonicalize().unwrap_or_else(|_| file.clone());
        if fs::hard_link(&whole, to.join(file.file_name().unwrap_or_default())).is_err() {
            copy(&file, to)?;
        }
    }
    Ok(())
}

fn tell(args: &Quantize, all: &[Done]) -> Result<()> {
    if args.json {
        let parts: Vec<_> = all.iter().map(part_json).collect();
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({"parts": parts}))?
        );
        return Ok(());
    }
    for done in all {
        let report = &done.report;
        println!(
            "{}: {} instead of {}, {} matrices in fewer bits",
            done.part.folder(),
            readable(report.bytes_after),
            readable(report.bytes_before),
            report.tensors.len()
        );
        for (layer, error) in report.by_layer() {
            println!(
                "  layer {layer:<3} greatest error of a matrix {:.3}%",
                100.0 * error
            );
        }
        if let Some(velocity) = done.velocity {
            println!(
                "  velocity on random input: video {:.3}%, audio {:.3}% from the exact one",
                100.0 * velocity.video,
                100.0 * velocity.audio
            );
        }
    }
    Ok(())
}

fn part_json(done: &Done) -> serde_json::Value {
    let tensors = done.report.tensors.iter();
    let tensors = tensors.map(|tensor| (tensor.name.clone(), tensor.error.into()));
    json!({
        "part": done.part.folder(),
        "bytes_before": done.report.bytes_before,
        "bytes_after": done.report.bytes_after,
        "errors": serde_json::Map::from_iter(tensors),
        "velocity": done.velocity.map(|v| json!({"video": v.video, "audio": v.audio})),
    })
}
