//! `gallop eval`: held-out prompts to clips, clips to metrics, beside what they are to be compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use gallop_core::{Cancel, Clip, ClipShape, Frame, Plan, Progress, Ratio, Request};
use gallop_engine::{EngineError, Foal, generate, reconstruct};
use gallop_eval::{Detectors, Measures, Row, measure, table};
use gallop_media::ClipWriter;
use gallop_world::{HeldoutPrompt, Split, WorldConfig, heldout_prompts, render_spec};
use serde::Serialize;

use crate::args::Eval;
use crate::device::open_device;
use crate::model::load;
use crate::world::write_aside;

/// One prompt in so many is also made from a first picture.
const PICTURED: usize = 4;

/// Everything that an evaluation needs at hand.
struct Bench<'a> {
    args: &'a Eval,
    model: &'a Foal,
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
    clips: Vec<(String, Vec<Measures>)>,
}

/// Measures the world itself, the world through the autoencoders, the model, and an untrained one.
pub fn run(args: &Eval, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let device = open_device(args.device)?;
    let model = load(args.model.as_deref(), &device)?;
    let plan = plan(args, &model)?;
    fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot make the folder `{}`", args.output.display()))?;
    let families = model.info.trained.families.clone();
    let world = WorldConfig {
        families: families.clone(),
        sizes: vec![plan.clip.size],
        frames: vec![plan.clip.frames],
        split: Split::Heldout,
        ..WorldConfig::default()
    };
    let Some(detectors) = Detectors::fit(&world, args.fitting_clips, progress, cancel)? else {
        return Err(EngineError::Cancelled.into());
    };
    let bench = Bench {
        args,
        model: &model,
        prompts: prompts(args.prompts, &families)?,
        world,
        detectors,
        plan,
        progress,
        cancel,
    };
    let mut clips = vec![
        ("world".to_string(), bench.world_clips(false)?),
        (
            "world through the autoencoders".to_string(),
            bench.world_clips(true)?,
        ),
        (model.info.name.clone(), bench.model_clips(&model, "model")?),
    ];
    if !args.no_floor {
        let untrained = load(args.model.as_deref(), &device)?.untrained(0)?;
        clips.push((
            "untrained".to_string(),
            bench.model_clips(&untrained, "untrained")?,
        ));
    }
    write_report(args, &model.info.name, clips)
}

/// What all clips have in common; prompt and seed change from one to the next.
fn plan(args: &Eval, model: &Foal) -> Result<Plan> {
    let info = &model.info;
    let request = Request {
        prompt: "any".into(),
        duration: args.duration,
        ratio: Ratio::ALL[0],
        resolution: args.resolution.map_or_else(|| info.resolution(), Ok)?,
        seed: 0,
        steps: args.steps.unwrap_or(info.sampling.num_steps),
        guidance: info.sampling.guidance,
        audio: true,
    };
    Ok(Plan::new(request, info.strides())?)
}

/// Half of the prompts English, half Chinese.
fn prompts(n: usize, families: &[String]) -> Result<Vec<HeldoutPrompt>> {
    let mut prompts = heldout_prompts(n - n / 2, "en", families)?;
    prompts.extend(heldout_prompts(n / 2, "zh", families)?);
    Ok(prompts)
}

impl Bench<'_> {
    /// The world's own clips of the prompts, as they are or through the autoencoders.
    fn world_clips(&self, through: bool) -> Result<Vec<Measures>> {
        let name = if through { "reconstructed" } else { "world" };
        self.each(name, |bench, i, prompt, file| {
            let clip = bench.rendered(prompt)?;
            let clip = if through {
                reconstruct(bench.model, &clip)?
            } else {
                clip
            };
            gallop_media::write_clip(&file, &clip)?;
            bench.measured(&file, prompt, None).map(|m| (i, m))
        })
    }

    /// The model's clips of the prompts; some of them again, from the first frame of the world's clip.
    fn model_clips(&self, model: &Foal, name: &str) -> Result<Vec<Measures>> {
        let mut all = self.each(name, |bench, i, prompt, file| {
            let seconds = bench.make(model, i, prompt, None, &file)?;
            let mut measures = bench.measured(&file, prompt, None)?;
            measures.seconds = Some(seconds);
            Ok((i, measures))
        })?;
        let pictured = format!("{name}-from-picture");
        let from_picture = self.each(&pictured, |bench, i, prompt, file| {
            if i % PICTURED != 0 {
                return Ok((i, Measures::default()));
            }
            let first = bench.rendered(prompt)?.frames.swap_remove(0);
            bench.make(model, i, prompt, Some(&first), &file)?;
            bench.measured(&file, prompt, Some(&first)).map(|m| (i, m))
        })?;
        // Only the first frame counts here: the rest of the clip was measured from the prompt alone.
        for (measures, pictured) in all.iter_mut().zip(from_picture) {
            measures.first_frame_ssim = pictured.first_frame_ssim;
        }
        Ok(all)
    }

    /// Runs `job` for every prompt with a file of its own in the folder `name`.
    fn each(
        &self,
        name: &str,
        job: impl Fn(&Self, usize, &HeldoutPrompt, PathBuf) -> Result<(usize, Measures)>,
    ) -> Result<Vec<Measures>> {
        let folder = self.args.output.join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        self.progress.stage(name, self.prompts.len() as u64);
        let mut all = Vec::with_capacity(self.prompts.len());
        for (i, prompt) in self.prompts.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(EngineError::Cancelled.into());
            }
            all.push(job(self, i, prompt, folder.join(format!("{i:03}.mp4")))?.1);
            self.progress.at(i as u64 + 1);
        }
        Ok(all)
    }

    /// The world's clip that the prompt was made from.
    fn rendered(&self, prompt: &HeldoutPrompt) -> Result<Clip> {
        let config = WorldConfig {
            sizes: WorldConfig::default().sizes,
            frames: WorldConfig::default().frames,
            ..self.world.clone()
        };
        let mut spec = config.spec(prompt.seed)?;
        spec.shape = ClipShape {
            frames: self.plan.clip.frames,
            size: self.plan.clip.size,
        };
        Ok(render_spec(&spec, true)?.clip)
    }

    /// Makes a clip and gives the seconds it took.
    fn make(
        &self,
        model: &Foal,
        i: usize,
        prompt: &HeldoutPrompt,
        first: Option<&Frame>,
        file: &Path,
    ) -> Result<f64> {
        let start = Instant::now();
        let mut plan = self.plan.clone();
        plan.request.prompt.clone_from(&prompt.prompt);
        plan.request.seed = i as u64;
        let mut writer = ClipWriter::create(file, plan.clip.size, true)?;
        generate(
            model,
            &plan,
            first,
            &mut writer,
            (&gallop_core::Silent, self.cancel),
        )?;
        writer.finish()?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Decodes the file and measures it.
    fn measured(
        &self,
        file: &Path,
        prompt: &HeldoutPrompt,
        first: Option<&Frame>,
    ) -> Result<Measures> {
        let clip = gallop_media::read_clip(file)?;
        let mut measures = measure(&clip, prompt, &self.detectors, first);
        measures.file = file.display().to_string();
        Ok(measures)
    }
}

fn write_report(args: &Eval, model: &str, clips: Vec<(String, Vec<Measures>)>) -> Result<()> {
    let mut rows: Vec<Row> = clips
        .iter()
        .map(|(name, measures)| Row::new(name, measures))
        .collect();
    if let Some(row) = rows.iter_mut().find(|row| row.name == model) {
        row.peak_mib = peak_mib();
    }
    let text = table(&rows);
    let report = Report {
        model: model.to_string(),
        rows,
        clips,
    };
    write_aside(
        &args.output.join("report.json"),
        &serde_json::to_vec_pretty(&report)?,
    )?;
    write_aside(&args.output.join("report.md"), text.as_bytes())?;
    println!("{text}");
    Ok(())
}

/// The most memory this process has used, where the system tells.
fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
