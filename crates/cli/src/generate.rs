//! `gallop generate`.

use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use gallop_core::{Cancel, Frame, Plan, Progress, Request};
use gallop_engine::{FoalInfo, generate};
use gallop_media::ClipWriter;
use serde_json::json;

use crate::args::Generate;
use crate::model::load;
use crate::ui;

/// Makes a clip; everything that can be refused is refused before any work is done.
pub fn run(args: &Generate, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let start = Instant::now();
    let info = match &args.model {
        None => FoalInfo::embedded()?,
        Some(folder) => FoalInfo::open(folder)?,
    };
    let plan = Plan::new(request(args, &info)?, info.strides())?;
    gallop_media::check_output(&args.output)?;
    let first = args
        .image
        .as_deref()
        .map(gallop_media::read_image)
        .transpose()?;
    let first: Option<Frame> = first.map(|frame| gallop_media::fit_image(&frame, plan.clip.size));
    warn(&plan, &info, progress);

    progress.stage("load", 1);
    let model = load(args.model.as_deref(), &Device::Cpu)?;
    progress.at(1);
    let mut writer = ClipWriter::create(&args.output, plan.clip.size, plan.request.audio)?;
    generate(
        &model,
        &plan,
        first.as_ref(),
        &mut writer,
        (progress, cancel),
    )?;
    writer.finish()?;
    done(args, &plan, start.elapsed().as_secs_f64(), progress);
    Ok(())
}

fn request(args: &Generate, info: &FoalInfo) -> Result<Request> {
    Ok(Request {
        prompt: args.prompt.clone(),
        duration: args.duration,
        ratio: args.ratio,
        resolution: match args.resolution {
            Some(resolution) => resolution,
            None => info.resolution()?,
        },
        seed: args
            .seed
            .unwrap_or_else(|| rand::random_range(0..=u64::from(u32::MAX))),
        steps: args.steps.unwrap_or(info.sampling.num_steps),
        guidance: args.guidance.unwrap_or(info.sampling.guidance),
        audio: !args.no_audio,
    })
}

/// Says what the model will not understand or was not made for; it is tried all the same.
fn warn(plan: &Plan, info: &FoalInfo, progress: &dyn Progress) {
    let unknown = gallop_world::unknown_words(&plan.request.prompt);
    if !unknown.is_empty() {
        let words = unknown
            .iter()
            .take(12)
            .map(|w| format!("`{w}`"))
            .collect::<Vec<_>>();
        let more = unknown.len().saturating_sub(12);
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        progress.note(&format!(
            "warning: {} does not know {}{rest}; `gallop model info` says what it can make",
            info.name,
            words.join(", "),
        ));
    }
    if plan.request.duration > info.trained.seconds + 1e-9 {
        progress.note(&format!(
            "warning: {} was trained on clips of up to {} s; {} s is beyond what it knows",
            info.name, info.trained.seconds, plan.request.duration
        ));
    }
}

fn done(args: &Generate, plan: &Plan, seconds: f64, progress: &dyn Progress) {
    let (size, request) = (plan.clip.size, &plan.request);
    if args.json {
        ui::event(&json!({
            "event": "done",
            "file": args.output,
            "seconds": seconds,
            "seed": request.seed,
            "width": size.width,
            "height": size.height,
            "frames": plan.clip.frames,
        }));
        return;
    }
    progress.note(&format!(
        "{}: {}x{}, {} s, seed {}, made in {seconds:.1} s",
        args.output.display(),
        size.width,
        size.height,
        request.duration,
        request.seed,
    ));
}
