//! `gallop eval`: held-out prompts to clips, clips to metrics, beside what they are to be compared with.

mod fit;
mod record;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use gallop_core::{
    Audio, Cancel, Clip, ClipShape, Frame, Plan, Progress, Request, Resolution, UserError,
};
use gallop_engine::{
    Foal, FoalInfo, Trained, chunk_starts, generate, latent_starts, reconstruct, sound_for,
};
use gallop_eval::{Detectors, Kept, Measures, Row, STEPS_SEEN, measure, seam_ratio, table};
use gallop_media::ClipWriter;
use gallop_world::{HeldoutPrompt, Look, Split, WorldConfig, heldout_prompts, render_spec};
use serde::Serialize;

use crate::args::Eval;
use crate::device::open_device;
use crate::model::{foal_info, known_looks, load, world_of};
use crate::world::write_aside;
use record::Record;

/// One prompt in so many is also made from a first picture.
const PICTURED: usize = 4;

/// What is measured, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Model,
    Sound,
    Ceiling,
    Floor,
    Real,
}

/// Everything that an evaluation needs at hand.
struct Bench<'a> {
    args: &'a Eval,
    prompts: Vec<HeldoutPrompt>,
    world: WorldConfig,
    detectors: Detectors,
    plan: Plan,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

#[derive(Serialize)]
struct Report {
    model: String,
    rows: Vec<Row>,
    /// Attribute -> (right, all): the detectors on rendered clips when they were fitted.
    detectors: BTreeMap<String, (usize, usize)>,
    clips: Vec<(String, Vec<Measures>)>,
}

/// Measures the model, the world through its autoencoders, an untrained model, and the world itself.
pub fn run(args: &Eval, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    if let Some(file) = &args.fit {
        return fit::run(args, file, (progress, cancel));
    }
    let info = foal_info(args.model.as_deref())?;
    let detectors = detectors(args, &info.trained.families)?;
    let world = WorldConfig {
        looks: looks(args, &detectors, &info.trained)?,
        split: Split::Heldout,
        ..world_of(&info.trained)?
    };
    let plan = plan(args, &info)?;
    let device = open_device(args.device)?;
    let model = load(args.model.as_deref(), &device)?;
    fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot make the folder `{}`", args.output.display()))?;
    let bench = Bench {
        args,
        prompts: heldout_prompts(args.prompts, &["en", "zh"], &world)?,
        world,
        detectors,
        plan,
        progress,
        cancel,
    };
    let mut record = Record::open(&args.output.join("clips.jsonl"), bench.setting(&model))?;
    if record.len() > 0 {
        progress.note(&format!(
            "{} measurements are there already; going on from them",
            record.len()
        ));
    }
    bench.column(Column::Model, &model, &mut record)?;
    if args.sound_for_real {
        bench.column(Column::Sound, &model, &mut record)?;
    }
    bench.column(Column::Ceiling, &model, &mut record)?;
    bench.column(Column::Real, &model, &mut record)?;
    drop(model);
    if !args.no_floor && !cancel.is_cancelled() {
        let untrained = load(args.model.as_deref(), &device)?.untrained(0)?;
        bench.column(Column::Floor, &untrained, &mut record)?;
    }
    write_report(&bench, &info.name, &record)?;
    if cancel.is_cancelled() {
        progress.note("stopped; the same command goes on from here");
    }
    Ok(())
}

/// Those of `--detectors`, or those inside the program, if they know the model's families.
fn detectors(args: &Eval, families: &[String]) -> Result<Detectors> {
    let detectors = match &args.detectors {
        Some(file) => Detectors::open(file)?,
        None => Detectors::embedded()?,
    };
    let known = &detectors.fitted.families;
    if let Some(unknown) = families.iter().find(|f| !known.contains(f)) {
        let what = format!("the detectors know {}, not `{unknown}`", known.join(", "));
        let mend = "make others with `gallop eval --fit FILE` and name them with --detectors FILE";
        return Err(UserError::new(what, mend).into());
    }
    Ok(detectors)
}

/// Looks to ask for: those of `--look`, or those the model was trained on, or all that the detectors know.
fn looks(args: &Eval, detectors: &Detectors, trained: &Trained) -> Result<Vec<Look>> {
    let known = &detectors.fitted.looks;
    if let Some(unknown) = args.look.iter().find(|l| !known.contains(l)) {
        let what = format!("--look {unknown}: the detectors know {}", known.join(", "));
        return Err(UserError::new(what, "choose among these").into());
    }
    if !args.look.is_empty() {
        return known_looks(&args.look);
    }
    let mut names = known.clone();
    names.retain(|name| trained.looks.is_empty() || trained.looks.contains(name));
    known_looks(&names)
}

/// The one asked for, or the model's own.
fn resolution(args: &Eval, info: &FoalInfo) -> Result<Resolution> {
    Ok(args.resolution.map_or_else(|| info.resolution(), Ok)?)
}

/// What all clips have in common; prompt and seed change from one to the next.
fn plan(args: &Eval, info: &FoalInfo) -> Result<Plan> {
    let request = Request {
        prompt: "any".into(),
        duration: args.duration,
        ratio: args.ratio,
        resolution: resolution(args, info)?,
        seed: 0,
        steps: args.steps.unwrap_or(info.sampling.num_steps),
        guidance: info.sampling.guidance,
        audio: true,
    };
    Ok(info.plan(request)?)
}

impl Column {
    /// All, in the order of the table.
    const ALL: [Self; 5] = [
        Self::Model,
        Self::Sound,
        Self::Ceiling,
        Self::Floor,
        Self::Real,
    ];

    /// Its folder, and its name in the record.
    fn folder(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Sound => "sound",
            Self::Ceiling => "ceiling",
            Self::Floor => "floor",
            Self::Real => "real",
        }
    }

    /// Its head in the table.
    fn head(self, model: &str) -> String {
        match self {
            Self::Model => model.to_string(),
            Self::Sound => format!("{model}'s sound for real clips' pictures"),
            Self::Ceiling => "ceiling: real clips through the autoencoders".into(),
            Self::Floor => "floor: untrained weights".into(),
            Self::Real => "real clips".into(),
        }
    }
}

impl Bench<'_> {
    /// Everything that measurements depend on besides the prompt: others are not gone on from.
    fn setting(&self, model: &Foal) -> String {
        let request = &self.plan.request;
        let clip = &self.plan.clip;
        format!(
            "{} {} {}x{} {} frames, {} steps, guidance {}, detectors {:016x}",
            model.info.name,
            record::identity(self.args.model.as_deref()),
            clip.size.width,
            clip.size.height,
            clip.frames,
            request.steps,
            request.guidance,
            self.detectors.identity(),
        )
    }

    /// Makes and measures what is not in the record yet; stops early when cancelled.
    fn column(&self, column: Column, model: &Foal, record: &mut Record) -> Result<()> {
        let folder = self.args.output.join(column.folder());
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        self.progress
            .stage(column.folder(), self.prompts.len() as u64);
        for (i, prompt) in self.prompts.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            let family = prompt.attributes.family.as_str();
            let wanted = column != Column::Sound || STEPS_SEEN.contains(&family);
            if wanted && record.get(column.folder(), &prompt.prompt).is_none() {
                let file = folder.join(format!("{i:03}.mp4"));
                let measures = match self.one(column, model, (i, prompt), &file) {
                    Err(_) if self.cancel.is_cancelled() => return Ok(()),
                    other => other?,
                };
                record.add(column.folder(), measures)?;
            }
            self.progress.at(i as u64 + 1);
        }
        Ok(())
    }

    /// Makes and measures a sound for the picture of the prompt's real clip.
    fn sound(
        &self,
        model: &Foal,
        (i, prompt): (usize, &HeldoutPrompt),
        file: &Path,
    ) -> Result<Measures> {
        let mut clip = self.rendered(prompt)?;
        let quiet = (&gallop_core::Silent as _, self.cancel);
        let sound = sound_for(model, &self.plan_of(i, prompt), &clip.frames, quiet)?;
        clip.audio = Some(sound);
        gallop_media::write_clip(file, &clip)?;
        let measures = self.measured(file, prompt, None)?;
        // What the picture shows is not the model's doing.
        Ok(Measures {
            prompt: measures.prompt,
            file: measures.file,
            sync: measures.sync,
            strokes: measures.strokes,
            lips: measures.lips,
            ..Measures::default()
        })
    }

    /// Makes and measures one clip.
    fn one(
        &self,
        column: Column,
        model: &Foal,
        (i, prompt): (usize, &HeldoutPrompt),
        file: &Path,
    ) -> Result<Measures> {
        if column == Column::Sound {
            return self.sound(model, (i, prompt), file);
        }
        if matches!(column, Column::Real | Column::Ceiling) {
            let mut clip = self.rendered(prompt)?;
            let sound = clip.audio.clone();
            if column == Column::Ceiling {
                clip = reconstruct(model, &clip)?;
            }
            gallop_media::write_clip(file, &clip)?;
            let (mut measures, heard) = self.heard(file, prompt, None)?;
            let both = sound.as_ref().zip(heard.as_ref());
            measures.sound = both.map(|(before, after)| Kept::new(before, after));
            return Ok(measures);
        }
        let made = self.make(model, (i, prompt), None, file)?;
        let mut measures = self.measured(file, prompt, None)?;
        (measures.seconds, measures.peak_mib) = (Some(made.0), made.1);
        if i % PICTURED == 0 {
            // Only the first frame counts here: the rest was measured from the prompt alone.
            let first = self.rendered(prompt)?.frames.swap_remove(0);
            let pictured: PathBuf = file.with_extension("picture.mp4");
            self.make(model, (i, prompt), Some(&first), &pictured)?;
            let again = self.measured(&pictured, prompt, Some(&first))?;
            measures.first_frame_ssim = again.first_frame_ssim;
        }
        Ok(measures)
    }

    /// The world's clip that the prompt was made from.
    fn rendered(&self, prompt: &HeldoutPrompt) -> Result<Clip> {
        let mut spec = self.world.spec(prompt.seed)?;
        spec.shape = ClipShape {
            frames: self.plan.clip.frames,
            size: self.plan.clip.size,
        };
        Ok(render_spec(&spec, true)?.clip)
    }

    /// How clip `i` is made.
    fn plan_of(&self, i: usize, prompt: &HeldoutPrompt) -> Plan {
        let mut plan = self.plan.clone();
        plan.request.prompt.clone_from(&prompt.prompt);
        plan.request.seed = i as u64;
        plan
    }

    /// Makes a clip; gives the seconds and the memory it took.
    fn make(
        &self,
        model: &Foal,
        (i, prompt): (usize, &HeldoutPrompt),
        first: Option<&Frame>,
        file: &Path,
    ) -> Result<(f64, Option<f64>)> {
        record::forget_peak();
        let start = Instant::now();
        let plan = self.plan_of(i, prompt);
        let mut writer = ClipWriter::create(file, plan.clip.size, true)?;
        generate(
            model,
            &plan,
            first,
            &mut writer,
            (&gallop_core::Silent, self.cancel),
        )?;
        writer.finish()?;
        Ok((start.elapsed().as_secs_f64(), record::peak_mib()))
    }

    /// Decodes the file and measures it.
    fn measured(
        &self,
        file: &Path,
        prompt: &HeldoutPrompt,
        first: Option<&Frame>,
    ) -> Result<Measures> {
        Ok(self.heard(file, prompt, first)?.0)
    }

    /// The same, and the file's sound.
    fn heard(
        &self,
        file: &Path,
        prompt: &HeldoutPrompt,
        first: Option<&Frame>,
    ) -> Result<(Measures, Option<Audio>)> {
        let clip = gallop_media::read_clip(file)?;
        let mut measures = measure(&clip, prompt, &self.detectors, first);
        measures.file = file.display().to_string();
        let frames = &clip.frames;
        measures.latent_seams = seam_ratio(frames, latent_starts(frames.len()));
        measures.chunk_seams = seam_ratio(frames, chunk_starts(frames.len()));
        Ok((measures, clip.audio))
    }
}

/// The table and all measurements, of as many clips as there are.
fn write_report(bench: &Bench, model: &str, record: &Record) -> Result<()> {
    let clips: Vec<(String, Vec<Measures>)> = Column::ALL
        .into_iter()
        .map(|column| {
            let measured = bench.prompts.iter();
            let measured = measured.filter_map(|p| record.get(column.folder(), &p.prompt).cloned());
            (column.head(model), measured.collect::<Vec<_>>())
        })
        .filter(|(_, measured)| !measured.is_empty())
        .collect();
    let rows: Vec<Row> = clips
        .iter()
        .map(|(name, measures)| Row::new(name, measures))
        .collect();
    let text = table(&rows);
    let report = Report {
        model: model.to_string(),
        rows,
        detectors: bench.detectors.fitted.accuracy.clone(),
        clips,
    };
    write_aside(
        &bench.args.output.join("report.json"),
        &serde_json::to_vec_pretty(&report)?,
    )?;
    write_aside(&bench.args.output.join("report.md"), text.as_bytes())?;
    println!("{text}");
    Ok(())
}
