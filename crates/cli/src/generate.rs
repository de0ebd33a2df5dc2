//! `gallop generate`.

mod public;

use std::time::Instant;

use anyhow::Result;
use gallop_core::{Cancel, Frame, PixelSize, Plan, Progress, Request, UserError};
use gallop_engine::{FoalInfo, Sampler, generate};
use gallop_media::ClipWriter;
use gallop_model::memory;
use gallop_model::public::PublicModel;
use serde_json::json;

use crate::args::{self, Generate};
use crate::device::open_device;
use crate::model::{foal_info, load, world_of};
use crate::ui;

/// Makes a clip; everything that can be refused is refused before any work is done.
pub fn run(args: &Generate, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    // A folder of foal's may lie beside parts of the full-size model, so what is inside counts first.
    if let Some(folder) = &args.model
        && !folder.join("config.json").is_file()
        && PublicModel::is(folder)
    {
        let device = open_device(args.device)?;
        let model = PublicModel::open(folder)?.on(&device);
        return public::run(args, &model, progress, cancel);
    }
    foal(args, progress, cancel)
}

fn foal(args: &Generate, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    refuse_full_size(args)?;
    let start = Instant::now();
    let info = foal_info(args.model.as_deref())?;
    let plan = info.plan(request(args, &info)?)?;
    gallop_media::check_output(&args.output)?;
    let first = args
        .image
        .as_deref()
        .map(gallop_media::read_image)
        .transpose()?;
    let first: Option<Frame> = first.map(|frame| gallop_media::fit_image(&frame, plan.clip.size));
    warn(&plan, &info, progress)?;
    if args.dry_run {
        show(args, &plan, &info);
        return Ok(());
    }

    let device = open_device(args.device)?;
    progress.stage("load", 1);
    let folder = args.model.as_deref();
    let mut model = load(folder, &device)?;
    if !args.lora.is_empty() {
        let (changed, unmatched) = model.with_loras(folder, &args.lora)?;
        model = changed;
        note_unmatched(&unmatched, progress);
    }
    model.info.sampling.sampler = args.sampler.map_or(info.sampling.sampler, sampler);
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
    let made = Made {
        size: plan.clip.size,
        frames: plan.clip.frames,
        length: plan.request.duration.to_string(),
        seed: plan.request.seed,
        start,
    };
    done(args, &made, progress);
    Ok(())
}

/// Options that foal cannot honour are refused, not forgotten.
fn refuse_full_size(args: &Generate) -> Result<()> {
    let given = [
        ("--audio", args.audio.is_some()),
        ("--dialogue", !args.dialogue.is_empty()),
        ("--ambience", args.ambience.is_some()),
        ("--decoder", args.decoder.is_some()),
        ("--memory", args.memory.is_some()),
        ("--refine-steps", args.refine_steps.is_some()),
        ("--refine-guidance", args.refine_guidance.is_some()),
        ("--precision", args.precision.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(UserError::new(
            format!("{option} is for the full-size model"),
            "leave it out, or name the folder of the public weights with --model DIR",
        )
        .into()),
    }
}

/// Says which changes were not made, since the model has no such parts.
fn note_unmatched(modules: &[String], progress: &dyn Progress) {
    let Some(first) = modules.first() else { return };
    let count = modules.len();
    progress.note(&format!(
        "warning: --lora changes {count} modules that this model does not have, such as `{first}`; they are left out"
    ));
}

/// Says that a GPU computes attention slowly where it does.
fn note_attention(device: crate::device::DeviceChoice, progress: &dyn Progress) {
    let on_gpu = matches!(device, crate::device::DeviceChoice::Cuda(_));
    if let (true, Err(why)) = (on_gpu, gallop_kernels::fused_attention()) {
        progress.note(&format!(
            "attention is computed by Gallop's own kernels, which are slower: {why}"
        ));
    }
}

fn sampler(asked: args::Sampler) -> Sampler {
    match asked {
        args::Sampler::Euler => Sampler::Euler,
        args::Sampler::Unipc => Sampler::Unipc,
        args::Sampler::Renoise => Sampler::Renoise,
        args::Sampler::Sde => Sampler::Sde,
    }
}

/// What would be made, for `--dry-run`.
fn show(args: &Generate, plan: &Plan, info: &FoalInfo) {
    let (size, latents, request) = (plan.clip.size, plan.latents, &plan.request);
    let video = latents.frames * latents.height * latents.width;
    let audio = if request.audio { latents.audio } else { 0 };
    if args.json {
        ui::event(&json!({
            "event": "plan",
            "prompt": request.prompt,
            "width": size.width,
            "height": size.height,
            "frames": plan.clip.frames,
            "steps": request.steps,
            "video_latents": video,
            "audio_latents": audio,
        }));
        return;
    }
    println!("{}", request.prompt);
    println!();
    println!(
        "{}: {}x{}, {} frames, {} steps of guidance {} over {video} video and {audio} audio latents",
        info.name, size.width, size.height, plan.clip.frames, request.steps, request.guidance
    );
}

fn request(args: &Generate, info: &FoalInfo) -> Result<Request> {
    Ok(Request {
        prompt: args.prompt.clone(),
        duration: args.duration.unwrap_or_else(|| info.seconds()),
        ratio: args.ratio,
        resolution: match args.resolution {
            Some(resolution) => resolution,
            None => info.resolution()?,
        },
        seed: seed(args),
        steps: args.steps.unwrap_or(info.sampling.num_steps),
        guidance: args.guidance.unwrap_or(info.sampling.guidance),
        audio: !args.no_audio,
    })
}

/// The seed asked for, or one drawn by chance that is short enough to be typed again.
fn seed(args: &Generate) -> u64 {
    args.seed
        .unwrap_or_else(|| rand::random_range(0..=u64::from(u32::MAX)))
}

/// Says what the model will not understand or was not made for; it is tried all the same.
fn warn(plan: &Plan, info: &FoalInfo, progress: &dyn Progress) -> Result<()> {
    let unknown = gallop_world::unknown_words(&plan.request.prompt, &world_of(&info.trained)?);
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
    Ok(())
}

/// A clip that was made.
struct Made {
    size: PixelSize,
    frames: usize,
    /// Its length in seconds, as it is told.
    length: String,
    seed: u64,
    start: Instant,
}

/// Tells of a clip that was made.
fn done(args: &Generate, made: &Made, progress: &dyn Progress) {
    let (size, seconds) = (made.size, made.start.elapsed().as_secs_f64());
    let most = memory::peak();
    if args.json {
        ui::event(&json!({
            "event": "done",
            "file": args.output,
            "seconds": seconds,
            "seed": made.seed,
            "width": size.width,
            "height": size.height,
            "frames": made.frames,
            "peak_bytes": most,
        }));
        return;
    }
    progress.note(&format!(
        "{}: {}x{}, {} s, seed {}, made in {seconds:.1} s and {} of memory",
        args.output.display(),
        size.width,
        size.height,
        made.length,
        made.seed,
        memory::readable(most),
    ));
}
