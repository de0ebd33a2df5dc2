//! The flags, as typed: what they mean is decided by the command that takes them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gallop_core::{Ratio, Resolution};
use gallop_engine::public::Line;
use gallop_kernels::{Isa, Precision};

use crate::device::DeviceChoice;

/// Video with sound from a prompt, made by one transformer on your own machine.
#[derive(Debug, Parser)]
#[command(name = "gallop", version, propagate_version = true)]
#[command(
    after_help = "Start with:  gallop generate \"a red basketball bounces on a wooden court\" -o clip.mp4"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads to compute with [default: one a core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Instructions to compute with: amx, avx512-bf16, avx512, avx2 or portable, to see what another processor
    /// would do [default: the fastest here]
    #[arg(long, global = true, value_name = "SET", value_parser = instructions)]
    pub isa: Option<Isa>,
}

fn instructions(name: &str) -> Result<Isa, String> {
    match Isa::named(name) {
        Some(isa) if isa.supported() => Ok(isa),
        _ => {
            let here: Vec<_> = Isa::available().map(Isa::name).collect();
            Err(format!("this processor has {}", here.join(", ")))
        }
    }
}

/// What gallop can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a clip with sound from a prompt, or from a prompt and a first picture
    Generate(Generate),
    /// Say what a model is and what it can make
    #[command(subcommand)]
    Model(Model),
    /// Measure a model by the files it makes: sync, colours, subjects, cameras, lips, speed
    Eval(Eval),
    /// Show the procedural world that foal learns from
    #[command(subcommand)]
    World(World),
    /// Show a clip as one picture: frames, waveform, spectrogram
    Sheet(Sheet),
    /// Train a part of foal by a recipe; run it again to go on where it stopped
    Train(Train),
    /// Time the full-size model's stages on random weights: no files are needed
    Bench(crate::bench::Bench),
    /// Check every operation on this machine: instruction sets, or a GPU, against plain code
    Selftest(Selftest),
}

/// `gallop generate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gallop generate \"a red basketball bounces on a wooden court\" -o clip.mp4
  gallop generate \"a ball falls\" --image first.jpg --duration 2.5 --ratio 9:16 -o tall.webm
  gallop generate \"a bell is struck twice\" --no-audio --seed 7 -o frames/%04d.png
  gallop generate \"a woman in a cafe looks up\" --dialogue \"woman, English: Hello\" --ambience rain \\
      --model magihuman --resolution 540p --dry-run
  gallop generate \"a horse gallops\" --model magihuman --memory 18GiB --lora pencil.safetensors:0.8

The file's extension chooses what is written: .mp4 (H.264 + AAC), .webm (AV1 + Vorbis),
.png with %04d in its name (numbered pictures), .wav (the sound alone).")]
pub struct Generate {
    /// What the clip shows and sounds like, in English or Chinese
    pub prompt: String,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "clip.mp4")]
    pub output: PathBuf,
    /// Seconds, 1 to 15; fractions are fine [default: the model's own, 5 for the full-size one]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub duration: Option<f64>,
    /// Width to height: 16:9, 9:16, 1:1, 4:3 or 3:4
    #[arg(short, long, value_name = "W:H", default_value = "16:9")]
    pub ratio: Ratio,
    /// Short side such as 256p, or a size such as 448x256; 540p and 1080p refine what the full-size model
    /// makes at 256p [default: the model's own]
    #[arg(long, value_name = "SIZE")]
    pub resolution: Option<Resolution>,
    /// Equal seeds on the same kind of machine make equal files [default: chosen by chance and printed]
    #[arg(short, long, value_name = "N")]
    pub seed: Option<u64>,
    /// Sampling algorithm; of the full-size model, `renoise` runs the distilled transformer and the others
    /// the base one [default: the model's own]
    #[arg(long, value_name = "NAME")]
    pub sampler: Option<Sampler>,
    /// Sampling steps: more is slower and cleaner [default: the model's own]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// How closely to follow the prompt; 1 is no guidance [default: the model's own]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// A picture to begin with: PNG, JPEG, WebP, GIF or BMP, cropped to the clip's ratio
    #[arg(short, long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// A sound that drives the clip: WAV, FLAC, MP3, Ogg Vorbis or M4A (full-size model)
    #[arg(short, long, value_name = "FILE", conflicts_with = "no_audio")]
    pub audio: Option<PathBuf>,
    /// Make a silent clip
    #[arg(long)]
    pub no_audio: bool,
    /// A line that is spoken, as `speaker, language: words`; once for each line (full-size model)
    #[arg(long, value_name = "LINE")]
    pub dialogue: Vec<Line>,
    /// What is heard in the background (full-size model)
    #[arg(long, value_name = "TEXT")]
    pub ambience: Option<String>,
    /// Which video decoder (full-size model) [default: fast, where it is there]
    #[arg(long, value_name = "NAME")]
    pub decoder: Option<Decoder>,
    /// Steps of refining to 540p or 1080p (full-size model) [default: 5]
    #[arg(long, value_name = "N")]
    pub refine_steps: Option<usize>,
    /// Guidance of refining; 1 is none (full-size model) [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub refine_guidance: Option<f64>,
    /// The most memory to hold, such as 18GiB, 12GB or 700MiB, of the machine's or, with --device cuda, the GPU's:
    /// layers of the transformer that do not fit are read anew in each step (full-size model) [default: four fifths
    /// of what is free, or 95% of the GPU's]
    #[arg(long, value_name = "SIZE", value_parser = crate::size::bytes, allow_negative_numbers = true)]
    pub memory: Option<u64>,
    /// Numbers that the transformer's linear maps multiply: fp8 is faster on GPUs that have it, and less exact; its
    /// first and its last layer stay in bf16 (full-size model) [default: bf16]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Numbers>,
    /// A low-rank change (LoRA) to the transformer that makes the clip, as safetensors, with or without its
    /// strength; once for each
    #[arg(long, value_name = "FILE[:STRENGTH]", value_parser = crate::size::lora)]
    pub lora: Vec<(PathBuf, f64)>,
    /// Print the whole prompt and the plan, with its tokens, memory and time, and make nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON event a line on standard output, for programs
    #[arg(long)]
    pub json: bool,
    /// A folder with a model's weights [default: foal, which is inside this program]
    #[arg(short, long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Where to compute: cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
}

/// Sampling algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sampler {
    /// Euler's method
    Euler,
    /// UniPC of order 2
    Unipc,
    /// Few steps with fresh noise, for distilled models
    Renoise,
    /// Now and then all noise is exchanged for new noise
    Sde,
}

/// Numbers of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Numbers {
    /// 16 bits
    Bf16,
    /// 8 bits (E4M3), rows scaled
    Fp8,
}

impl Numbers {
    /// As the kernels call it.
    pub fn precision(self) -> Precision {
        match self {
            Self::Bf16 => Precision::Bf16,
            Self::Fp8 => Precision::Fp8,
        }
    }

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }
}

/// Video decoders of the full-size model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Decoder {
    /// TurboVAED
    Fast,
    /// Wan2.2's own, slower
    Exact,
}

/// `gallop model`.
#[derive(Debug, Subcommand)]
pub enum Model {
    /// Parts, sizes and abilities of a model
    Info(ModelInfo),
    /// Write a full-size model of random weights, to try its size, memory and speed
    Init(crate::model::init::Init),
    /// Put a full-size model's matrices in fewer bits
    Quantize(crate::model::quantize::Quantize),
}

/// `gallop model info`.
#[derive(Debug, Args)]
pub struct ModelInfo {
    /// `foal`, or a folder with a model's weights
    #[arg(default_value = "foal")]
    pub model: String,
    /// Count a known architecture without any file
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub preset: Option<Preset>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Architectures that can be counted without weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Preset {
    /// The public 15B weights' transformer
    #[value(name = "horse-15b")]
    Horse15b,
    /// The same architecture with 3 billion parameters in its transformer
    #[value(name = "3b")]
    Horse3b,
    /// The same architecture with 1 billion
    #[value(name = "1b")]
    Horse1b,
    /// A few million, for tests
    #[value(name = "tiny", hide = true)]
    Tiny,
}

/// `gallop eval`.
#[derive(Debug, Args)]
#[command(
    after_help = "Stopped with Ctrl-C or otherwise, the same command goes on from what is measured already.

The folder gets clips.jsonl (a line a clip, as it is measured), the clips, report.json and report.md."
)]
pub struct Eval {
    /// A folder with a model's weights [default: foal, which is inside this program]
    #[arg(short, long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// How many held-out prompts
    #[arg(short, long, value_name = "N", default_value_t = 100)]
    pub prompts: usize,
    /// Folder for the clips, report.json and report.md
    #[arg(short, long, value_name = "DIR", default_value = "eval")]
    pub output: PathBuf,
    /// Seconds a clip
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub duration: f64,
    /// Width to height of the clips
    #[arg(long, value_name = "W:H", default_value = "16:9")]
    pub ratio: Ratio,
    /// Short side or size of the clips [default: the model's own]
    #[arg(long, value_name = "SIZE")]
    pub resolution: Option<Resolution>,
    /// Sampling steps [default: the model's own]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Only prompts of this look, several times for several [default: all that the detectors know]
    #[arg(long, value_name = "LOOK")]
    pub look: Vec<String>,
    /// Detectors made by --fit [default: those inside this program]
    #[arg(long, value_name = "FILE")]
    pub detectors: Option<PathBuf>,
    /// Instead of measuring, make detectors from clips of the world, half of them through the model's autoencoders
    #[arg(long, value_name = "FILE")]
    pub fit: Option<PathBuf>,
    /// The parts of the world that --fit draws from, as recipes/detectors.toml [default: what the model was trained on]
    #[arg(
        short,
        long,
        value_name = "FILE",
        requires = "fit",
        conflicts_with = "look"
    )]
    pub recipe: Option<PathBuf>,
    /// Rendered clips that --fit learns from: more is surer and slower
    #[arg(long, value_name = "N", default_value_t = 1600, requires = "fit")]
    pub fitting_clips: usize,
    /// Of the detectors, --fit learns anew only what lists of numbers tell (count, direction, look, camera); the networks
    /// stay
    #[arg(long, requires = "fit")]
    pub keep_networks: bool,
    /// Leave out the clips of untrained weights (the floor)
    #[arg(long)]
    pub no_floor: bool,
    /// Also make sounds for the pictures of real clips: where sound and picture are not in step, this tells
    /// which of them is behind
    #[arg(long)]
    pub sound_for_real: bool,
    /// Where to compute: cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
}

/// `gallop world`.
#[derive(Debug, Subcommand)]
pub enum World {
    /// Render one clip of the world, with its truth and captions
    Render(WorldRender),
    /// A contact sheet: frames of many clips in one picture
    Sheet(WorldSheet),
}

/// What of the world to show.
#[derive(Debug, Args)]
pub struct WorldPick {
    /// Which family [default: any]
    #[arg(long, value_name = "NAME")]
    pub family: Option<String>,
    /// Equal seeds make equal clips
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Size in pixels
    #[arg(long, value_name = "SIZE", default_value = "448x256")]
    pub resolution: Resolution,
    /// From the part never trained on
    #[arg(long)]
    pub held_out: bool,
}

/// `gallop world render`.
#[derive(Debug, Args)]
pub struct WorldRender {
    /// What to render.
    #[command(flatten)]
    pub pick: WorldPick,
    /// Seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub duration: f64,
    /// The file to write (.mp4, .webm, %04d.png, .wav)
    #[arg(short, long, value_name = "FILE", default_value = "world.mp4")]
    pub output: PathBuf,
    /// Also write what truly happens in it: events, tracks, phonemes, captions
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
}

/// `gallop world sheet`.
#[derive(Debug, Args)]
pub struct WorldSheet {
    /// What to show.
    #[command(flatten)]
    pub pick: WorldPick,
    /// Clips a row, of one family; without --family there is a column for each
    #[arg(long, value_name = "N", default_value_t = 4, requires = "family")]
    pub columns: usize,
    /// The picture to write (.png)
    #[arg(short, long, value_name = "FILE", default_value = "sheet.png")]
    pub output: PathBuf,
}

/// `gallop sheet`.
#[derive(Debug, Args)]
pub struct Sheet {
    /// The clip, an MP4
    pub clip: PathBuf,
    /// Frames a row
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub columns: usize,
    /// Rows of frames
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub rows: usize,
    /// The picture to write (.png)
    #[arg(short, long, value_name = "FILE", default_value = "sheet.png")]
    pub output: PathBuf,
}

/// Parts of foal that are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The video autoencoder
    VideoAe,
    /// The audio autoencoder
    AudioAe,
    /// The transformer, on latents of the two autoencoders
    Dit,
    /// The network that makes the transformer's small pictures larger
    Upscaler,
}

/// `gallop train`.
#[derive(Debug, Args)]
pub struct Train {
    /// What to train
    pub part: Part,
    /// The recipe, a TOML file; recipes/ in the repository has one for each part
    #[arg(short, long, value_name = "FILE")]
    pub recipe: PathBuf,
    /// Folder for checkpoints, logs and curves; training goes on from its last checkpoint
    #[arg(long, value_name = "DIR")]
    pub run: PathBuf,
    /// Where to compute: cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
    /// The device's bf16 peak in TFLOP/s, which the log names the share of [default: that of a GPU known here]
    #[arg(long, value_name = "TFLOPS")]
    pub peak: Option<f64>,
}

/// `gallop selftest`.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Where to compute: cpu, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
}

/// Seconds, with or without an `s`.
fn seconds(text: &str) -> Result<f64, String> {
    text.trim_end_matches('s')
        .parse()
        .map_err(|_| format!("`{text}` is not a number of seconds; write 5 or 2.5"))
}
