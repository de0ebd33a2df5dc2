//! `gallop generate` with the full-size model.

use std::time::Instant;

use anyhow::Result;
use candle_core::Device;
use gallop_core::{Audio, Cancel, Progress, Resolution};
use gallop_engine::Sampler;
use gallop_engine::public::{
    Decoder, Estimate, Inputs, PUBLIC_FPS, Planned, PublicPipeline, PublicPlan, PublicRequest,
    REFINE_STEPS, Refine, StageEstimate, Watch, assemble, check_parts, operations_per_second,
    picture_sizes,
};
use gallop_kernels::Precision;
use gallop_media::ClipWriter;
use gallop_model::memory::{keep_nothing, readable};
use gallop_model::public::{Part, PublicModel};
use serde_json::{Value, json};

use super::{Made, done, note_attention, note_unmatched, sampler, seed};
use crate::args::{self, Generate, Numbers};
use crate::ui;

/// What the model makes where no size is asked for.
const BASE: Resolution = Resolution::ShortSide(256);
/// Steps and guidance of the distilled transformer, and of the base one.
const DISTILLED: (usize, f64) = (8, 1.0);
const GUIDED: (usize, f64) = (32, 5.0);

/// Makes a clip; everything that can be refused is refused before any work is done.
pub fn run(
    args: &Generate,
    model: &PublicModel,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let start = Instant::now();
    keep_nothing();
    let sound = args
        .audio
        .as_deref()
        .map(gallop_media::read_audio)
        .transpose()?;
    let plan = PublicPlan::new(
        request(args, model, progress)?,
        sound.as_ref().map(Audio::seconds),
    )?;
    gallop_media::check_output(&args.output)?;
    let picture = args
        .image
        .as_deref()
        .map(gallop_media::read_image)
        .transpose()?;
    let inputs = Inputs {
        picture: picture.as_ref(),
        sound: sound.as_ref(),
    };
    if args.dry_run && !args.json {
        println!("{}\n", plan.request.prompt);
        println!("{}", summary(&plan));
    }
    check_parts(model, &plan.parts(picture.is_some(), sound.is_some()))?;
    let precision = args.precision.map_or(Precision::Bf16, Numbers::precision);
    let transformers = Planned::new(precision).within(args.memory);
    let (transformers, unmatched) = transformers.with_loras(model, plan.base_part(), &args.lora)?;
    note_unmatched(&unmatched, progress);
    note_attention(args.device, progress);
    let pipeline = PublicPipeline {
        model,
        transformers: &transformers,
        precision: Precision::Bf16,
    };
    // What does not fit is better known before than after hours of work.
    let cost = pipeline.estimate(&plan, inputs)?;
    if args.dry_run {
        return dry_run(args, &plan, &cost, model.device());
    }
    let frames = make(args, &plan, inputs, &pipeline, Watch { progress, cancel })?;
    let made = Made {
        size: plan.clip.size,
        frames,
        length: format!("{:.2}", frames as f64 / PUBLIC_FPS as f64),
        seed: plan.request.seed,
        start,
    };
    done(args, &made, progress);
    Ok(())
}

fn request(args: &Generate, model: &PublicModel, progress: &dyn Progress) -> Result<PublicRequest> {
    let resolution = args.resolution.unwrap_or(BASE);
    let (base, larger) = picture_sizes(resolution, args.ratio)?;
    let has = |part| model.locate(part).is_some();
    let sampler = match args.sampler {
        Some(asked) => sampler(asked),
        None if has(Part::Distilled) => Sampler::Renoise,
        None => Sampler::Unipc,
    };
    let (steps, guidance) = match sampler {
        Sampler::Renoise => DISTILLED,
        _ => GUIDED,
    };
    let decoder = match args.decoder {
        Some(args::Decoder::Fast) => Decoder::Fast,
        Some(args::Decoder::Exact) => Decoder::Exact,
        None if has(Part::FastDecoder) || !has(Part::VideoAutoencoder) => Decoder::Fast,
        None => {
            progress.note(
                "there is no fast video decoder (turbo_vae): Wan2.2's own, slower one is used",
            );
            Decoder::Exact
        }
    };
    Ok(PublicRequest {
        prompt: assemble(&args.prompt, &args.dialogue, args.ambience.as_deref())?,
        duration: args.duration.unwrap_or(gallop_engine::SECONDS),
        base,
        refine: larger.map(|(part, size)| Refine {
            part,
            size,
            steps: args.refine_steps.unwrap_or(REFINE_STEPS),
            guidance: args.refine_guidance.unwrap_or(1.0),
        }),
        sampler,
        steps: args.steps.unwrap_or(steps),
        guidance: args.guidance.unwrap_or(guidance),
        decoder,
        audio: !args.no_audio,
        seed: seed(args),
    })
}

fn make(
    args: &Generate,
    plan: &PublicPlan,
    inputs: Inputs,
    pipeline: &PublicPipeline,
    watch: Watch,
) -> Result<usize> {
    let (size, sound) = (plan.clip.size, plan.request.audio);
    let mut writer = ClipWriter::create_at(&args.output, size, PUBLIC_FPS, sound)?;
    let frames = pipeline.generate(plan, inputs, &mut writer, watch)?;
    writer.finish()?;
    Ok(frames)
}

/// What making the clip would take.
fn dry_run(args: &Generate, plan: &PublicPlan, cost: &Estimate, device: &Device) -> Result<()> {
    let rate = operations_per_second(device)?;
    let seconds = cost.operations() / rate;
    if args.json {
        ui::event(&json!({
            "event": "plan",
            "prompt": plan.request.prompt,
            "width": plan.clip.size.width,
            "height": plan.clip.size.height,
            "frames": plan.clip.frames,
            "stages": cost.stages.iter().map(stage_json).collect::<Vec<_>>(),
            "peak_bytes": cost.peak(),
            "seconds": seconds,
        }));
        return Ok(());
    }
    for stage in &cost.stages {
        println!("{}", stage_line(stage));
        if let Some(memory) = &stage.memory {
            println!("{:<12} {memory}", "");
        }
    }
    println!("memory       about {}", readable(cost.peak()));
    println!(
        "time         about {} at {:.2} TFLOP/s, measured just now; decoding comes on top",
        duration(seconds),
        rate / 1e12
    );
    Ok(())
}

fn summary(plan: &PublicPlan) -> String {
    let (size, frames) = (plan.clip.size, plan.clip.frames);
    format!(
        "clip         {}x{}, {frames} frames at {PUBLIC_FPS} a second ({:.2} s), {}, seed {}",
        size.width,
        size.height,
        frames as f64 / PUBLIC_FPS as f64,
        if plan.request.audio {
            "with sound"
        } else {
            "silent"
        },
        plan.request.seed,
    )
}

fn stage_line(stage: &StageEstimate) -> String {
    let tokens = match stage.tokens {
        Some([0, 0, text]) => format!("{text} text tokens"),
        Some([video, audio, text]) => format!(
            "{} runs over {video} video, {audio} audio and {text} text tokens",
            stage.passes
        ),
        None if stage.part == Part::AudioAutoencoder => "sound".into(),
        None => "pictures".into(),
    };
    format!(
        "{:<12} {}: {tokens}, {} of weights at once and {} beside",
        stage.name,
        stage.part.folder(),
        readable(stage.weights),
        readable(stage.activations)
    )
}

fn stage_json(stage: &StageEstimate) -> Value {
    json!({
        "stage": stage.name,
        "part": stage.part.folder(),
        "tokens": stage.tokens,
        "passes": stage.passes,
        "operations": stage.operations,
        "weight_bytes": stage.weights,
        "activation_bytes": stage.activations,
        "memory": stage.memory.as_ref().map(|memory| json!({
            "plan": memory.to_string(),
            "peak_bytes": memory.peak(),
            "resident_bytes": memory.resident_bytes(),
            "streamed_bytes": memory.streamed_bytes(),
        })),
    })
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
