//! `gallop model`.

mod aside;
pub mod init;
pub mod quantize;

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use gallop_core::UserError;
use gallop_engine::{Foal, FoalInfo, Trained, parts};
use gallop_model::memory::readable;
use gallop_model::public::{Part, PartState, Preset as Sizes, PublicModel};
use gallop_world::{Look, Only, WorldConfig};
use serde_json::json;

use crate::args::{ModelInfo, Preset};

/// The model in `folder`, or the one inside the program.
pub fn load(folder: Option<&Path>, device: &Device) -> Result<Foal> {
    // Evaluation after evaluation asks for the same sizes: pages that stay cost some 80 MiB and save a tenth of the
    // time.
    gallop_kernels::keep_freed_memory();
    Ok(match folder {
        None => Foal::embedded(device)?,
        Some(folder) => Foal::open(folder, device)?,
    })
}

/// What the model in `folder` is, or the one inside the program, without its weights.
pub fn foal_info(folder: Option<&Path>) -> Result<FoalInfo> {
    Ok(folder.map_or_else(FoalInfo::embedded, FoalInfo::open)?)
}

/// The part of the world that a model was trained on, both splits of it.
pub fn world_of(trained: &Trained) -> Result<WorldConfig> {
    Ok(WorldConfig {
        families: trained.families.clone(),
        looks: known_looks(&trained.looks)?,
        only: Only(trained.only.clone()),
        centred: trained.centred,
        ..WorldConfig::default()
    })
}

/// The looks of these names.
pub fn known_looks(names: &[String]) -> Result<Vec<Look>> {
    names
        .iter()
        .map(|name| {
            let all: Vec<&str> = Look::ALL.iter().map(|l| l.key()).collect();
            Look::from_key(name).ok_or_else(|| {
                UserError::new(
                    format!("no look `{name}`"),
                    format!("use {}", all.join(", ")),
                )
                .into()
            })
        })
        .collect()
}

/// Says what a model is; of a preset, what it would be.
pub fn info(args: &ModelInfo) -> Result<()> {
    if let Some(preset) = args.preset {
        preset_info(preset, args.json);
        return Ok(());
    }
    let folder = (args.model != "foal").then(|| Path::new(&args.model));
    if let Some(folder) = folder.filter(|folder| !folder.join("config.json").exists()) {
        return folder_info(folder, args.json);
    }
    let info = foal_info(folder)?;
    let parts = parts(&info, folder)?;
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
    if !trained.looks.is_empty() {
        println!("  looks       {}", trained.looks.join(", "));
    }
    for (attribute, values) in &trained.only {
        println!("  {attribute:<11} {}", values.join(", "));
    }
    if trained.centred {
        println!("  placed      in the middle");
    }
    println!("  prompts in  {}", trained.languages.join(", "));
    println!(
        "  best at     {} and {} s; trained on up to {} s",
        trained.resolution,
        info.seconds(),
        trained.seconds
    );
    if !info.base_sizes.is_empty() {
        let sizes = info.base_sizes.iter();
        let sizes: Vec<_> = sizes.map(|s| format!("{}x{}", s.width, s.height)).collect();
        println!(
            "              (drawn as {}, then made larger)",
            sizes.join(", ")
        );
    }
    println!(
        "  by default  {} steps, guidance {}",
        info.sampling.num_steps, info.sampling.guidance
    );
    if let Some(restart) = info.sampling.restart {
        println!(
            "              {} times again from noise level {} up to {} and down",
            restart.times, restart.low, restart.high
        );
    }
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

/// A folder of the public layout; what has no `config.json` is no foal.
fn folder_info(folder: &Path, as_json: bool) -> Result<()> {
    let model = open_public(folder)?;
    let parts = model.inventory();
    if as_json {
        let parts: Vec<_> = parts
            .iter()
            .map(|(part, state)| part_json(*part, state))
            .collect();
        let about = json!({"folder": folder, "parts": parts});
        println!("{}", serde_json::to_string_pretty(&about)?);
        return Ok(());
    }
    println!("{}: a model of the public layout", folder.display());
    for (part, state) in &parts {
        println!(
            "  {:<22} {:<22} {}",
            part.folder(),
            part.title(),
            part_line(*part, state)
        );
    }
    let missing = |state: &PartState| !matches!(state, PartState::Present(_));
    let whole = parts.iter().filter(|(_, state)| !missing(state)).count();
    println!("  {whole} of {} parts can be used", parts.len());
    Ok(())
}

/// The model of the public layout in `folder`.
fn open_public(folder: &Path) -> Result<PublicModel> {
    let name = folder.display();
    if !folder.is_dir() {
        return Err(UserError::new(format!("{name} is no folder"), "name a model's folder").into());
    }
    PublicModel::open(folder).map_err(|_| {
        let folders = Part::ALL.map(Part::folder).join(", ");
        let mend = format!(
            "it needs a foal's config.json, or folders such as {folders} (from {} on Hugging Face)",
            Part::Base.origin()
        );
        UserError::new(format!("{name} holds no model"), mend).into()
    })
}

fn part_line(part: Part, state: &PartState) -> String {
    match state {
        PartState::Present(inventory) => {
            let types: Vec<&str> = inventory.dtypes.keys().map(String::as_str).collect();
            format!(
                "{:>9.3} B parameters, {:>8}, {}",
                inventory.parameters as f64 / 1e9,
                readable(inventory.bytes),
                types.join(" and ")
            )
        }
        PartState::Missing(path) => format!(
            "missing {}: get it from {} on Hugging Face",
            path.display(),
            part.origin()
        ),
        PartState::Broken(why) => format!("broken: {why}"),
    }
}

fn part_json(part: Part, state: &PartState) -> serde_json::Value {
    let about = match state {
        PartState::Present(inventory) => json!({
            "state": "present",
            "parameters": inventory.parameters,
            "bytes": inventory.bytes,
            "types": inventory.dtypes,
        }),
        PartState::Missing(path) => {
            json!({"state": "missing", "missing": path, "origin": part.origin()})
        }
        PartState::Broken(why) => json!({"state": "broken", "why": why}),
    };
    let mut about = about;
    about["part"] = part.folder().into();
    about
}

fn preset_info(preset: Preset, as_json: bool) {
    let (name, sizes) = sizes(preset);
    let config = sizes.transformer;
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

/// The name and the sizes of a preset.
fn sizes(preset: Preset) -> (&'static str, Sizes) {
    match preset {
        Preset::Horse15b => ("horse-15b", Sizes::horse_15b()),
        Preset::Horse3b => ("3b", Sizes::horse_3b()),
        Preset::Horse1b => ("1b", Sizes::horse_1b()),
        Preset::Tiny => ("tiny", Sizes::tiny()),
    }
}
