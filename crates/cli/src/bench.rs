//! `gallop bench`: how long the full-size model's stages take, on random weights.

mod table;

use anyhow::Result;
use candle_core::Device;
use clap::{Args, ValueEnum};
use gallop_core::{Cancel, LatentShape, PixelSize, Progress, Ratio, Resolution, UserError};
use gallop_engine::Sampler;
use gallop_engine::public::{
    Case, Decoder, PublicPlan, PublicRequest, REFINE_STEPS, Refine, Timed, Timing, Watch,
    picture_sizes,
};
use gallop_kernels::device_name;
use gallop_model::public::{Part, Preset};
use serde_json::{Value, json};

use crate::args::Numbers;
use crate::device::{DeviceChoice, bf16_peak, open_device};
use crate::ui;

/// `gallop bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gallop bench --device cuda
  gallop bench --device cuda --parts base,540p,decode-540p --json > gallop.json
  gallop bench --device cuda --precision fp8
  gallop bench --preset tiny
  gallop bench --shapes > shapes.json    # what PyTorch is measured with, by benches/gpu_reference.py

Times are of a 5 s clip at 16:9; of the preset `tiny`, of a 1 s clip at 64x64, 128x128 and 192x192. Every part is run
once to warm up, then timed from its first step to its last. The text encoder and writing files are left out.")]
pub struct Bench {
    /// horse-15b, 3b, 1b or tiny
    #[arg(long, value_name = "NAME", default_value = "horse-15b", value_parser = known)]
    pub preset: String,
    /// What to time, separated by commas [default: all]
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub parts: Vec<BenchPart>,
    /// Time only so many of the transformer's layers, spread over its depth, and name the whole by their share of
    /// the operations; the table says so
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub layers: Option<u16>,
    /// Text tokens
    #[arg(long, value_name = "N", default_value_t = 640, value_parser = clap::value_parser!(u16).range(1..=640))]
    pub text: u16,
    /// The device's bf16 peak in TFLOP/s, which rates are named the share of [default: that of a GPU known here]
    #[arg(long, value_name = "TFLOPS")]
    pub peak: Option<f64>,
    /// Numbers that the transformer's linear maps and attention multiply; its first and its last layer, and the
    /// decoders, stay in bf16
    #[arg(long, value_name = "NAME", default_value = "bf16")]
    pub precision: Numbers,
    /// Print what is multiplied, as JSON, and time nothing
    #[arg(long)]
    pub shapes: bool,
    /// Print the times as JSON; the table goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Where to compute: cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
}

/// Stages of the full-size model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// The distilled transformer at 256p, 8 steps
    Base,
    /// Refining to 540p, 5 steps
    #[value(name = "540p")]
    P540,
    /// Refining to 1080p, 5 steps
    #[value(name = "1080p")]
    P1080,
    /// Decoding pictures at 256p
    #[value(name = "decode-256p")]
    Decode256,
    /// Decoding pictures at 540p
    #[value(name = "decode-540p")]
    Decode540,
    /// Decoding pictures at 1080p
    #[value(name = "decode-1080p")]
    Decode1080,
    /// Decoding sound
    Sound,
}

impl BenchPart {
    const ALL: [Self; 7] = [
        Self::Base,
        Self::P540,
        Self::P1080,
        Self::Decode256,
        Self::Decode540,
        Self::Decode1080,
        Self::Sound,
    ];

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().into())
    }

    fn stage(self) -> Timed {
        match self {
            Self::Base => Timed::Sampling(Part::Distilled),
            Self::P540 => Timed::Sampling(Part::Super540p),
            Self::P1080 => Timed::Sampling(Part::Super1080p),
            Self::Decode256 | Self::Decode540 | Self::Decode1080 => Timed::Decoding,
            Self::Sound => Timed::Sound,
        }
    }
}

fn known(name: &str) -> Result<String, String> {
    let names = Preset::NAMES.join(", ");
    match Preset::named(name) {
        Some(_) => Ok(name.into()),
        None => Err(format!("`{name}` is no preset; there are {names}")),
    }
}

/// A part that was timed, or why it was not.
struct Measured {
    part: BenchPart,
    size: PixelSize,
    /// Video, audio and text tokens; none for decoders.
    tokens: Option<[usize; 3]>,
    outcome: Result<Timing, String>,
}

/// The sizes of the clip.
struct Clip {
    duration: f64,
    sizes: [PixelSize; 3],
}

impl Clip {
    fn of(preset: &str) -> Result<Self> {
        if preset == "tiny" {
            let sizes = [64, 128, 192].map(|side| PixelSize::new(side, side));
            return Ok(Self {
                duration: 1.0,
                sizes,
            });
        }
        let wide = Ratio {
            width: 16,
            height: 9,
        };
        let (base, middle) = picture_sizes(Resolution::ShortSide(544), wide)?;
        let (_, large) = picture_sizes(Resolution::ShortSide(1088), wide)?;
        let size = |refined: Option<(Part, PixelSize)>| refined.map_or(base, |(_, size)| size);
        Ok(Self {
            duration: 5.0,
            sizes: [base, size(middle), size(large)],
        })
    }

    fn size(&self, part: BenchPart) -> PixelSize {
        match part {
            BenchPart::Base | BenchPart::Decode256 | BenchPart::Sound => self.sizes[0],
            BenchPart::P540 | BenchPart::Decode540 => self.sizes[1],
            BenchPart::P1080 | BenchPart::Decode1080 => self.sizes[2],
        }
    }

    /// The latents of a size, as `gallop generate` would have them.
    fn latents(&self, size: PixelSize) -> Result<LatentShape> {
        let request = PublicRequest {
            prompt: "A horse gallops.".into(),
            duration: self.duration,
            base: self.sizes[0],
            refine: Some(Refine {
                part: Part::Super1080p,
                size,
                steps: REFINE_STEPS,
                guidance: 1.0,
            }),
            sampler: Sampler::Renoise,
            steps: 8,
            guidance: 1.0,
            decoder: Decoder::Fast,
            audio: true,
            seed: 1,
        };
        let plan = PublicPlan::new(request, None)?;
        Ok(plan.refined.unwrap_or(plan.latents))
    }
}

/// Times what is asked for and prints it.
pub fn run(args: &Bench, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
    let Some(preset) = Preset::named(&args.preset) else {
        return Err(UserError::new("--preset", "use a name that --help lists").into());
    };
    let clip = Clip::of(&args.preset)?;
    let parts = match args.parts.is_empty() {
        true => BenchPart::ALL.to_vec(),
        false => args.parts.clone(),
    };
    let cases = parts.into_iter().map(|part| {
        let case = Case {
            preset: &preset,
            stage: part.stage(),
            latents: clip.latents(clip.size(part))?,
            text: args.text.into(),
            layers: args.layers.map(usize::from),
            precision: args.precision.precision(),
        };
        Ok((part, case))
    });
    let cases = cases.collect::<Result<Vec<_>>>()?;
    if args.shapes {
        let all = cases.iter().map(|(part, case)| shapes(*part, case));
        let all = all.collect::<Result<Vec<_>>>()?;
        let all: Vec<Value> = all.into_iter().flatten().collect();
        ui::print(&serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let device = open_device(args.device)?;
    let measured = measure((&clip, &cases), &device, Watch { progress, cancel });
    report(args, (&clip, &device), &measured, progress)
}

/// Times each part. What one lacks, such as memory, is no reason to lose the others.
fn measure(
    (clip, cases): (&Clip, &[(BenchPart, Case)]),
    device: &Device,
    watch: Watch,
) -> Vec<Measured> {
    let mut measured = Vec::with_capacity(cases.len());
    for (i, (part, case)) in cases.iter().enumerate() {
        let note = format!("{} ({} of {})", part.name(), i + 1, cases.len());
        watch.progress.note(&note);
        let outcome = case.run(device, watch).map_err(|error| error.to_string());
        if watch.cancel.is_cancelled() {
            break;
        }
        measured.push(Measured {
            part: *part,
            size: clip.size(*part),
            tokens: tokens(case),
            outcome,
        });
    }
    measured
}

fn report(
    args: &Bench,
    (clip, device): (&Clip, &Device),
    measured: &[Measured],
    progress: &dyn Progress,
) -> Result<()> {
    let name = device_name(device).unwrap_or_else(|| "processor".into());
    let peak = args.peak.or_else(|| bf16_peak(device));
    let about = table::About {
        device: &name,
        peak,
        preset: &args.preset,
        duration: clip.duration,
        precision: args.precision,
    };
    match args.json {
        true => {
            ui::event(&table::json(&about, measured));
            progress.note(&table::text(&about, measured));
        }
        false => ui::print(&table::text(&about, measured)),
    }
    let failed = measured.iter().filter(|m| m.outcome.is_err());
    let failed: Vec<String> = failed.map(|m| m.part.name()).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(UserError::new(
            format!("these parts could not be timed: {}", failed.join(", ")),
            "the table says why; leave them out by naming the others with --parts",
        )
        .into()),
    }
}

fn tokens(case: &Case) -> Option<[usize; 3]> {
    let l = case.latents;
    let video = l.frames * l.height * l.width / 4;
    matches!(case.stage, Timed::Sampling(_)).then_some([video, l.audio, case.text])
}

/// What one step of a part multiplies; none for decoders.
fn shapes(part: BenchPart, case: &Case) -> Result<Option<Value>> {
    let work = case.work()?;
    Ok(work.map(|work| {
        json!({
            "part": part.name(),
            "tokens": tokens(case),
            "steps": case.steps(),
            "query_heads": work.query_heads,
            "key_heads": work.key_heads,
            "head_dim": work.head_dim,
            "products": work.products,
            "attention": work.attention,
            "product_operations": work.product_operations(),
            "attention_operations": work.attention_operations(),
        })
    }))
}
