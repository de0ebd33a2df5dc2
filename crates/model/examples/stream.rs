//! Runs a full-size transformer under a limit of memory, and prints the plan, the seconds of each step, the share of
//! the work in them and the most memory that was held.
//!
//! `cargo run --release -p gallop-model --example stream -- DIR [--part base] [--memory 18GiB] [--form int8]
//!  [--latents 8x16x28] [--audio 32] [--text 64] [--steps 2]`

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use gallop_core::LatentShape;
use gallop_kernels::gemm::describe;
use gallop_model::Weights;
use gallop_model::dit::{Batch, Dit, Form, MemoryPlan, MemoryRequest, Text, Work};
use gallop_model::memory::{peak, readable};
use gallop_model::public::{Part, PublicModel};
use gallop_model::quant::Quant;
use gallop_model::tokens::{SampleSpec, TokenSequence};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().ok_or("name a folder of the public layout")?;
    let mut options = HashMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        options.insert(name, value);
    }
    let option = |name: &str, otherwise: &str| -> String {
        options.get(name).map_or(otherwise, String::as_str).into()
    };
    let number = |name, otherwise| option(name, otherwise).parse::<usize>();
    let part = Part::named(&option("--part", "base")).ok_or("there is no such part")?;
    let grid = option("--latents", "8x16x28");
    let grid: Vec<usize> = grid.split('x').map(str::parse).collect::<Result<_, _>>()?;
    let [frames, height, width] = grid[..] else {
        return Err("--latents is FRAMESxHEIGHTxWIDTH".into());
    };
    let latents = LatentShape {
        frames,
        height,
        width,
        audio: number("--audio", "32")?,
    };
    let form = match option("--form", "stored").as_str() {
        "stored" => Form::Stored,
        "bf16" => Form::Bf16,
        other => Form::Fewer(Quant::named(other).ok_or("--form is stored, bf16, int8, fp8 or q4")?),
    };
    let budget = options
        .get("--memory")
        .map(|text| bytes(text))
        .transpose()?;

    let model = PublicModel::open(Path::new(&folder))?;
    let files = model.transformer(part)?;
    let config = model.transformer_config(part, &files)?;
    let weights = Weights::files(files, &Device::Cpu);
    let text = number("--text", "64")?;
    let sequence = TokenSequence::new(&config, &[SampleSpec::public(latents, text)], &Device::Cpu)?;
    let noise = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    let batch = Batch {
        sequence: &sequence,
        video: sequence.video_tokens(&[noise(&[frames, height, width, config.video_channels])?])?,
        audio: Some(noise(&[latents.audio, config.audio_channels])?),
        text: Some(Text::Features(noise(&[text, config.text.channels])?)),
        predict_text: false,
    };
    let request = MemoryRequest::new(budget, sequence.len()).with_form(form);
    let plan = MemoryPlan::new(&config, &weights, request)?;
    println!("{plan}");
    let dit = Dit::planned(&config, &weights, &plan)?;
    let work = Work::new(&config, &sequence).operations();
    println!(
        "{} tokens, {:.2} TFLOP a step, {}",
        sequence.len(),
        work / 1e12,
        describe()
    );
    for step in 0..number("--steps", "2")? {
        let (begun, worked) = (Instant::now(), processor_seconds());
        dit.forward(&batch)?;
        let seconds = begun.elapsed().as_secs_f64();
        let worked = processor_seconds() - worked;
        println!(
            "step {step}: {seconds:.2} s, {:.0} GFLOP/s; {worked:.2} s of processors, {:.0} GFLOP/s each; {} at most",
            work / seconds / 1e9,
            work / worked / 1e9,
            readable(peak())
        );
    }
    if let Some(budget) = budget {
        println!(
            "peak {:.1}% of the limit",
            100.0 * peak() as f64 / budget as f64
        );
    }
    Ok(())
}

/// Processor time of this process so far, by the system's clock of 100 ticks a second.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// `18GiB`, `500MiB`, or bytes.
fn bytes(text: &str) -> Result<u64, Failure> {
    let (number, unit) = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("", 1)]
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .ok_or("--memory is such as 18GiB")?;
    Ok((number.trim().parse::<f64>()? * unit as f64) as u64)
}
