//! Times the parts of the full-size model at a small size, for `compare.py` to take turns with:
//!
//!     cargo bench -p gallop-model --bench public -- --write DIR     # random weights, inputs, and what comes out
//!     cargo bench -p gallop-model --bench public -- --serve DIR     # times the parts named on its input, one a line
//!
//! Parts are loaded as `gallop generate` loads them. A name ends in `bf16` or `f32`, the precision of products.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use gallop_core::LatentShape;
use gallop_kernels::Precision;
use gallop_model::dit::{Batch, Dit, DitConfig, MemoryPlan, MemoryRequest, Text, TextConfig};
use gallop_model::public::{Part, Preset, PublicModel, t5gemma, write_random_part};
use gallop_model::tokens::{SampleSpec, TokenSequence};
use gallop_model::{WeightFiles, Weights, save_weights};

type Failure = Box<dyn std::error::Error>;
/// Named results.
type Results = Vec<(String, Tensor)>;
/// One run of a part.
type Work = Box<dyn Fn() -> Result<Results, Failure>>;

/// Video latents, and audio latents, of the transformer: 224, 9 and 72 tokens.
const LATENTS: LatentShape = LatentShape {
    frames: 2,
    height: 16,
    width: 28,
    audio: 9,
};
const TEXT: usize = 72;
/// Latents for decoders: 25 pictures of 112x64, of which the exact decoder makes 9; a third of a second of sound.
const GRID: [usize; 3] = [7, 4, 7];
const EXACT: usize = 3;
const SOUND: usize = 8;
const IDS: usize = 128;

const PARTS: [&str; 7] = [
    "transformer",
    "text encoder",
    "fast video decoder",
    "video decoder",
    "video encoder",
    "audio decoder",
    "audio encoder",
];

fn main() -> Result<(), Failure> {
    // `cargo bench` adds a flag of its own.
    let args: Vec<String> = std::env::args().filter(|arg| arg != "--bench").collect();
    match &args[1..] {
        [mode, folder] if mode == "--write" => write(Path::new(folder)),
        [mode, folder] if mode == "--serve" => serve(Path::new(folder)),
        _ => {
            eprintln!("use --write DIR or --serve DIR, or compare.py");
            Ok(())
        }
    }
}

/// About a fifth of the public widths, and a few layers.
fn preset() -> Preset {
    let tiny = Preset::tiny();
    let layers = &tiny.transformer.layers;
    let mut video = tiny.video;
    (video.encoder, video.decoder, video.blocks) = (32, 32, 2);
    let fast = tiny.fast.replace("[8, 8, 16, 16]", "[16, 32, 64, 128]");
    let text = r#"{"encoder": {"vocab_size": 260, "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "query_pre_attn_scalar": 128,
        "attn_logit_softcapping": 50.0, "sliding_window": 4096, "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": false}}"#;
    Preset {
        transformer: DitConfig {
            width: 1024,
            head_dim: 128,
            num_heads_q: 8,
            num_heads_kv: 2,
            layers: [&layers[..1], &layers[2..5]].concat(),
            text: TextConfig {
                channels: 1024,
                vocabulary: None,
            },
            ..tiny.transformer.clone()
        },
        text: text.into(),
        video,
        audio: tiny.audio.replace("\"channels\": 4", "\"channels\": 32"),
        fast: fast.replace("[1, 1, 1, 1, 1]", "[2, 2, 2, 3, 3]"),
    }
}

/// Weights in the public layout, inputs, and what each part makes of them in both precisions.
fn write(folder: &Path) -> Result<(), Failure> {
    let parts = [
        Part::Base,
        Part::TextEncoder,
        Part::FastDecoder,
        Part::VideoAutoencoder,
        Part::AudioAutoencoder,
    ];
    for part in parts {
        write_random_part(folder, &preset(), part, 1, &mut |_| ())?;
    }
    let [f, h, w] = GRID;
    let noise = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    let ids: Vec<f32> = (0..IDS).map(|i| (4 + i * 37 % 256) as f32).collect();
    let inputs = vec![
        (
            "video",
            noise(&[LATENTS.frames, LATENTS.height, LATENTS.width, 48])?,
        ),
        ("audio", noise(&[LATENTS.audio, 64])?),
        ("text", noise(&[TEXT, 1024])?),
        ("latents", noise(&[48, f, h, w])?),
        (
            "pictures",
            noise(&[5, 16 * h, 16 * w, 3])?.clamp(-1f32, 1f32)?,
        ),
        ("sound", noise(&[SOUND, 64])?),
        ("wave", (noise(&[SOUND * 2048, 2])? * 0.1)?),
        ("ids", Tensor::new(ids, &Device::Cpu)?),
    ];
    let named = inputs.into_iter().map(|(name, x)| (name.to_string(), x));
    save_weights(
        &folder.join("inputs.safetensors"),
        named.collect(),
        &BTreeMap::new(),
    )?;
    let mut made = Vec::new();
    for (precision, part) in ["f32", "bf16"]
        .iter()
        .flat_map(|p| PARTS.map(|part| (p, part)))
    {
        let results = prepare(folder, &format!("{part} {precision}"))?()?;
        let named = results.into_iter();
        made.extend(named.map(|(name, x)| (format!("{part} {precision}{name}"), x)));
    }
    Ok(save_weights(
        &folder.join("outputs.safetensors"),
        made,
        &BTreeMap::new(),
    )?)
}

/// Loads a part.
fn prepare(folder: &Path, name: &str) -> Result<Work, Failure> {
    let (part, precision) = name.rsplit_once(' ').ok_or("a part and a precision")?;
    let precision = match precision {
        "bf16" => Precision::Bf16,
        _ => Precision::F32,
    };
    let model = PublicModel::open(folder)?;
    let inputs = WeightFiles::open(&folder.join("inputs.safetensors"))?;
    let input = |name: &str| inputs.load(name, &Device::Cpu);
    let one = |x: Tensor| Ok(vec![(String::new(), x.contiguous()?)]);
    Ok(match part {
        "transformer" => transformer(&model, &inputs, precision)?,
        "text encoder" => {
            let ids: Vec<f32> = input("ids")?.to_vec1()?;
            let text = t5gemma::Text::new(ids.iter().map(|&id| id as u32).collect());
            let stage = model.text()?;
            Box::new(move || {
                let encoder = stage.encoder(precision)?;
                one(encoder.encode(std::slice::from_ref(&text))?.swap_remove(0))
            })
        }
        "fast video decoder" => {
            let (decoder, x) = (model.fast_video_decoder(precision)?, input("latents")?);
            Box::new(move || one(decoder.decode(&x)?))
        }
        "video decoder" => {
            let (decoder, x) = (
                model.video_decoder(precision)?,
                input("latents")?.narrow(1, 0, EXACT)?,
            );
            Box::new(move || one(decoder.decode(&x)?))
        }
        "video encoder" => {
            let (encoder, x) = (model.video_encoder(precision)?, input("pictures")?);
            Box::new(move || one(encoder.encode(&x)?))
        }
        "audio decoder" => {
            let (decoder, x) = (model.audio_decoder(precision)?, input("sound")?);
            Box::new(move || one(decoder.decode(&x)?))
        }
        "audio encoder" => {
            let (encoder, x) = (model.audio_encoder(precision)?, input("wave")?);
            Box::new(move || one(encoder.encode(&x)?.mean))
        }
        other => return Err(format!("no part {other}").into()),
    })
}

fn transformer(
    model: &PublicModel,
    inputs: &WeightFiles,
    precision: Precision,
) -> Result<Work, Failure> {
    let files = model.transformer(Part::Base)?;
    let config = model.transformer_config(Part::Base, &files)?;
    let weights = Weights::files(Arc::clone(&files), &Device::Cpu);
    let sequence = TokenSequence::new(&config, &[SampleSpec::public(LATENTS, TEXT)], &Device::Cpu)?;
    let plan = MemoryPlan::new(&config, &weights, MemoryRequest::new(None, sequence.len()))?;
    let dit = Dit::planned(&config, &weights, &plan)?.with_precision(precision);
    let input = |name: &str| inputs.load(name, &Device::Cpu);
    let (video, audio, text) = (input("video")?, input("audio")?, input("text")?);
    Ok(Box::new(move || {
        let out = dit.forward(&Batch {
            sequence: &sequence,
            video: sequence.video_tokens(std::slice::from_ref(&video))?,
            audio: Some(audio.clone()),
            text: Some(Text::Features(text.clone())),
            predict_text: false,
        })?;
        let video = out.video.ok_or("no video")?;
        let video = sequence
            .video_latents(&video)?
            .swap_remove(0)
            .contiguous()?;
        let audio = out.audio.ok_or("no audio")?;
        Ok(vec![(" video".into(), video), (" audio".into(), audio)])
    }))
}

/// Reads names of parts, and answers each with its seconds and those of the processor.
fn serve(folder: &Path) -> Result<(), Failure> {
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let run = prepare(folder, &line?)?;
        let (seconds, cpu) = time(&run)?;
        writeln!(output, "{seconds} {cpu}")?;
        output.flush()?;
    }
    Ok(())
}

/// The least time of two calls, and the least processor time of all threads, after one to warm up. On a busy machine the
/// second one says more.
fn time(run: &Work) -> Result<(f64, f64), Failure> {
    run()?;
    let (mut best, mut least) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..2 {
        let (call, cpu) = (Instant::now(), processor_time());
        run()?;
        best = best.min(call.elapsed().as_secs_f64());
        least = least.min(processor_time() - cpu);
    }
    Ok((best, least))
}

/// Seconds that all threads of this process have run.
fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes the time.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
