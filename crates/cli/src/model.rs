//! `gallop model info`.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use gallop_engine::{Foal, FoalInfo, parts};
use gallop_model::dit::DitConfig;
use serde_json::json;

use crate::args::{ModelInfo, Preset};

/// The model in `folder`, or the one inside the program.
pub fn load(folder: Option<&Path>, device: &Device) -> Result<Foal> {
    Ok(match folder {
        None => Foal::embedded(device)?,
        Some(folder) => Foal::open(folder, device)?,
    })
}

/// Says what a model is; of a preset, what it would be.
pub fn info(args: &ModelInfo) -> Result<()> {
    if let Some(preset) = args.preset {
        preset_info(preset, args.json);
        return Ok(());
    }
    let folder = (args.model != "foal").then(|| Path::new(&args.model));
    let info = folder.map_or_else(FoalInfo::embedded, FoalInfo::open)?;
    let parts = parts(folder)?;
    if args.json {
        let parts: Vec<_> = parts
            .iter()
            .map(|(part, bytes, parameters)| json!({"file": part.file(), "bytes": bytes, "parameters": parameters}))
            .collect();
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({"info": info, "parts": parts}))?
        );
        return Ok(());
    }
    let trained = &info.trained;
    println!("{}: makes clips with sound of", info.name);
    println!("  families    {}", trained.families.join(", "));
    println!("  prompts in  {}", trained.languages.join(", "));
    println!(
        "  best at     {} and up to {} s",
        trained.resolution, trained.seconds
    );
    println!(
        "  by default  {} steps, guidance {}",
        info.sampling.num_steps, info.sampling.guidance
    );
    println!("parts");
    for (part, bytes, parameters) in &parts {
        println!(
            "  {:<24} {:>6.1} M parameters, {:>5.1} MB",
            part.file(),
            *parameters as f64 / 1e6,
            *bytes as f64 / 1e6
        );
    }
    Ok(())
}

fn preset_info(preset: Preset, as_json: bool) {
    let (name, config) = match preset {
        Preset::Horse15b => ("horse-15b", DitConfig::horse_15b()),
    };
    let parameters = config.parameters();
    let gib = |bytes: usize| (parameters * bytes) as f64 / f64::from(1 << 30);
    if as_json {
        println!(
            "{}",
            json!({"name": name, "layers": config.layers.len(), "width": config.width, "parameters": parameters})
        );
        return;
    }
    let outer = config.layers.iter().filter(|l| l.per_modality).count();
    println!(
        "{name}: {} layers ({outer} of them with weights a modality), width {}, {} query and {} key heads of {}",
        config.layers.len(),
        config.width,
        config.num_heads_q,
        config.num_heads_kv,
        config.head_dim
    );
    println!(
        "  transformer  {:.2} B parameters, {:.1} GiB in bf16, {:.1} GiB in int8",
        parameters as f64 / 1e9,
        gib(2),
        gib(1)
    );
}
