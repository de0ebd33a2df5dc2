//! The whole pipeline against the public code's, run stage by stage on the same random weights (those of
//! `write_random_part` with seed 7) and the same noise. The numbers are in `GALLOP_GOLDEN`, else beside
//! this test.
//!
//! With products in f32 on both sides everything agrees closely; with the transformer's in bf16, as the
//! public code has them, within what bf16 allows.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use gallop_core::{Audio, Cancel, Frame, LatentShape, PixelSize, Silent};
use gallop_engine::Sampler;
use gallop_engine::public::{
    Decoder, Inputs, Latents, Planned, PublicPipeline, PublicPlan, PublicRequest, Refine, Watch,
    sound_for_encoder,
};
use gallop_kernels::Precision;
use gallop_model::WeightFiles;
use gallop_model::public::{
    Part, Preset, PublicError, PublicModel, oobleck::encode_wave, resample::to_playback,
    t5gemma::pad_features, write_random_part,
};

/// Where the public code computes in f32.
const F32: f64 = 1e-4;
/// Where a sound was given: it is rounded to 16 bits, a few samples in a thousand the other way here, and the
/// encoder's random weights make more of that. The encoder alone is held to [`F32`].
const SOUND: f64 = 5e-4;
/// For the bf16 transformer.
const BF16: f64 = 1.5e-2;
/// Guidance multiplies the difference of two velocities, each within [`BF16`], by five.
const GUIDED: f64 = 2.0 * BF16;
const PROMPT: &str = "A red ball falls.\n\nDialogue:\n<girl, English>: \"Oh\"\n\n\
                      Background Sound:\n<rain>";

fn golden(name: &str) -> Tensor {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let given = std::env::var_os("GALLOP_GOLDEN").map(PathBuf::from);
    let file = "pipeline.safetensors";
    let folder = given.filter(|folder| folder.join(file).exists());
    let files = WeightFiles::open(&folder.unwrap_or(own).join(file)).unwrap();
    files.load(name, &Device::Cpu).unwrap()
}

fn relative(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let norm = |x: &Tensor| {
        let x = x.to_dtype(DType::F64).unwrap().sqr().unwrap();
        x.sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    norm(&(got - want).unwrap()) / norm(want)
}

fn compare(name: &str, got: &Tensor, tolerance: f64) {
    let error = relative(got, &golden(name));
    println!("{name}: relative error {error:.2e}");
    assert!(error <= tolerance, "{name}: {error:.2e} > {tolerance:.0e}");
}

/// The model, written anew.
struct Studio {
    _folder: tempfile::TempDir,
    model: PublicModel,
}

impl Studio {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in Part::ALL {
            write_random_part(folder.path(), &Preset::tiny(), part, 7, &mut |_| ()).unwrap();
        }
        Self {
            model: PublicModel::open(folder.path()).unwrap(),
            _folder: folder,
        }
    }

    /// Runs `with` on a pipeline whose transformer multiplies in `precision`.
    fn with<T>(&self, precision: Precision, with: impl FnOnce(&PublicPipeline) -> T) -> T {
        with(&PublicPipeline {
            model: &self.model,
            transformers: &Planned::new(precision),
            precision: Precision::F32,
        })
    }
}

fn watched<T>(with: impl FnOnce(Watch) -> T) -> T {
    let cancel = Cancel::default();
    with(Watch {
        progress: &Silent,
        cancel: &cancel,
    })
}

/// The noise of the reference program: draw k is a hash of k and the place of each number, even and of
/// variance 1. Video is drawn with its channels first; so is what a given sound is sampled with.
fn noise(sound: bool) -> impl FnMut(&[usize]) -> candle_core::Result<Tensor> {
    let mut draw = 0u64;
    move |shape| {
        let numbers = (0..shape.iter().product::<usize>() as u64).map(|i| {
            let z = ((draw << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let z = z ^ (z >> 31);
            (((z >> 40) as f64 / f64::from(1 << 23) - 1.0) * 3f64.sqrt()) as f32
        });
        let numbers: Vec<f32> = numbers.collect();
        draw += 1;
        match *shape {
            [f, h, w, c] => Tensor::from_vec(numbers, (c, f, h, w), &Device::Cpu)?
                .permute((1, 2, 3, 0))?
                .contiguous(),
            [a, c] if sound && draw == 1 => Tensor::from_vec(numbers, (c, a), &Device::Cpu)?
                .t()?
                .contiguous(),
            _ => Tensor::from_vec(numbers, shape, &Device::Cpu),
        }
    }
}

fn request(sampler: Sampler, steps: usize, base: (usize, usize)) -> PublicRequest {
    let distilled = sampler == Sampler::Renoise;
    PublicRequest {
        prompt: PROMPT.into(),
        duration: 1.0,
        base: PixelSize::new(base.0, base.1),
        refine: None,
        sampler,
        steps,
        guidance: if distilled { 1.0 } else { 5.0 },
        decoder: Decoder::Fast,
        audio: true,
        seed: 0,
    }
}

fn refine(part: Part, guidance: f64) -> Option<Refine> {
    Some(Refine {
        part,
        size: PixelSize::new(128, 96),
        steps: 5,
        guidance,
    })
}

fn picture() -> Frame {
    let size = PixelSize::new(90, 70);
    let pixel = |i: usize| {
        let (c, x, y) = (i % 3, i / 3 % size.width, i / 3 / size.width);
        ((x * 3 + y * 2 + c * 70 + x * y / 9) % 256) as u8
    };
    Frame {
        size,
        rgb: (0..size.width * size.height * 3).map(pixel).collect(),
    }
}

fn tone(t: f64) -> f64 {
    0.3 * (440.0 * t).sin() + 0.2 * (3000.0 * t + 1.0).sin() + 0.1 * (101.0 * t).cos()
}

fn tones() -> Audio {
    let time = |i: usize| std::f64::consts::TAU * i as f64 / 48_000.0;
    let wave: Vec<f32> = (0..48_000).map(|i| tone(time(i)) as f32).collect();
    Audio {
        left: wave.clone(),
        right: wave,
    }
}

impl Studio {
    fn latents(
        &self,
        precision: Precision,
        request: PublicRequest,
        (picture, sound): (Option<&Frame>, Option<&Audio>),
    ) -> Latents {
        let plan = PublicPlan::new(request, sound.map(Audio::seconds)).unwrap();
        let inputs = Inputs { picture, sound };
        self.with(precision, |pipeline| {
            let mut noise = noise(sound.is_some());
            watched(|watch| pipeline.latents(&plan, inputs, &mut noise, watch)).unwrap()
        })
    }

    /// The decoders' pictures and sound against those under `name`. The sound is of the reference's own
    /// latents `audio`: random weights make waves forty times too loud, and a millionth of a latent more
    /// or less is heard in them.
    fn check_decoded(&self, name: &str, latents: &Latents, audio: &str) {
        self.with(Precision::F32, |pipeline| {
            let mut pictures = Vec::new();
            let mut keep = |some| {
                pictures.push(some);
                Ok::<_, PublicError>(())
            };
            pipeline
                .decode_each(Decoder::Fast, &latents.video, &mut keep)
                .unwrap();
            let pictures = Tensor::cat(&pictures, 0).unwrap();
            let every = |x: &Tensor, dim, n: usize| {
                let at: Vec<u32> = (0..x.dim(dim).unwrap() as u32).step_by(n).collect();
                x.index_select(&Tensor::new(at, &Device::Cpu).unwrap(), dim)
                    .unwrap()
            };
            let few = every(&every(&every(&pictures, 0, 3), 1, 4), 2, 4);
            compare(&format!("{name}.pictures"), &few, F32);
            let wave = to_playback(&pipeline.decode_wave(&golden(audio)).unwrap()).unwrap();
            compare(&format!("{name}.sound"), &every(&wave, 0, 16), F32);
        });
    }
}

#[test]
fn golden_text_and_pictures() {
    let studio = Studio::new();
    let plan = PublicPlan::new(request(Sampler::Unipc, 1, (64, 64)), None).unwrap();
    studio.with(Precision::F32, |pipeline| {
        let text = watched(|watch| pipeline.encode_text(&plan, watch)).unwrap();
        compare("text", &text[0], F32);
        let length = text[0].dim(0).unwrap();
        let (padded, counted) = pad_features(&text[0], 640).unwrap();
        assert_eq!(counted, length);
        let end = padded.narrow(0, length - 2, 4).unwrap();
        compare("text.padded", &end, F32);
        // The negative prompt is longer than the transformer reads.
        assert_eq!(text[1].dim(0).unwrap(), 640);
        let rows = Tensor::arange_step(0u32, 640, 16, &Device::Cpu).unwrap();
        compare("negative", &text[1].index_select(&rows, 0).unwrap(), F32);
        let shape = |height, width| LatentShape {
            frames: 1,
            height,
            width,
            audio: 1,
        };
        let sizes = [shape(4, 6), shape(6, 8)];
        let first = watched(|watch| pipeline.encode_picture(&picture(), &sizes, watch)).unwrap();
        compare("image.small", &first[0], F32);
        compare("image.large", &first[1], F32);
    });
}

#[test]
fn golden_distilled_text_to_clip() {
    let studio = Studio::new();
    let run = |precision| {
        let request = request(Sampler::Renoise, 8, (64, 64));
        studio.latents(precision, request, (None, None))
    };
    let made = run(Precision::F32);
    compare("f32.distilled.base.video", &made.video, F32);
    compare("f32.distilled.base.audio", &made.audio, F32);
    studio.check_decoded("f32.distilled", &made, "f32.distilled.base.audio");
    let made = run(Precision::Bf16);
    compare("bf16.distilled.base.video", &made.video, BF16);
    compare("bf16.distilled.base.audio", &made.audio, BF16);
}

#[test]
fn golden_guided_text_to_clip() {
    let studio = Studio::new();
    let run = |precision| {
        let request = request(Sampler::Unipc, 32, (64, 64));
        studio.latents(precision, request, (None, None))
    };
    let made = run(Precision::F32);
    compare("f32.guided.base.video", &made.video, F32);
    compare("f32.guided.base.audio", &made.audio, F32);
    let made = run(Precision::Bf16);
    compare("bf16.guided.base.video", &made.video, BF16);
    compare("bf16.guided.base.audio", &made.audio, BF16);
}

#[test]
fn golden_picture_to_clip_refined_to_540p() {
    let studio = Studio::new();
    let picture = picture();
    let run = |precision, refine| {
        let request = PublicRequest {
            refine,
            ..request(Sampler::Unipc, 6, (96, 64))
        };
        studio.latents(precision, request, (Some(&picture), None))
    };
    let base = run(Precision::F32, None);
    compare("f32.image.base.video", &base.video, F32);
    compare("f32.image.base.audio", &base.audio, F32);
    let refined = run(Precision::F32, refine(Part::Super540p, 1.0));
    compare("f32.image.refined", &refined.video, F32);
    assert_eq!(relative(&refined.audio, &base.audio), 0.0);
    studio.check_decoded("f32.image", &refined, "f32.image.base.audio");
    let refined = run(Precision::Bf16, refine(Part::Super540p, 1.0));
    compare("bf16.image.base.audio", &refined.audio, GUIDED);
    compare("bf16.image.refined", &refined.video, BF16);
}

#[test]
fn golden_sound_to_clip_refined_to_1080p_with_guidance() {
    let studio = Studio::new();
    let sound = tones();
    let run = |precision, refine| {
        let request = PublicRequest {
            refine,
            ..request(Sampler::Unipc, 6, (64, 64))
        };
        studio.latents(precision, request, (None, Some(&sound)))
    };
    let base = run(Precision::F32, None);
    compare("f32.sound.audio", &base.audio, SOUND);
    compare("f32.sound.base.video", &base.video, SOUND);
    let refined = run(Precision::F32, refine(Part::Super1080p, 3.5));
    compare("f32.sound.refined", &refined.video, SOUND);
    studio.check_decoded("f32.sound", &refined, "f32.sound.audio");
    let refined = run(Precision::Bf16, refine(Part::Super1080p, 3.5));
    compare("bf16.sound.refined", &refined.video, BF16);
}

#[test]
fn golden_sound_is_encoded() {
    let step = 1.0 / 32_768.0;
    let sample = |i: usize| {
        let t = std::f64::consts::TAU * i as f64 / 51_200.0;
        (tone(t) / step).round_ties_even() * step
    };
    let wave: Vec<f32> = (0..51_200).map(|i| sample(i) as f32).collect();
    let brought = sound_for_encoder(&tones(), 1.0).unwrap();
    for (got, want) in brought.to_vec2::<f32>().unwrap().iter().zip(&wave) {
        assert!((got[0] - want).abs() < 1.01 * step as f32 && got[0] == got[1]);
    }
    let both: Vec<f32> = wave.iter().flat_map(|&x| [x, x]).collect();
    let both = Tensor::from_vec(both, (51_200, 2), &Device::Cpu).unwrap();
    let studio = Studio::new();
    let encoder = studio.model.audio_encoder(Precision::F32).unwrap();
    let mut noise = noise(true);
    let latents = encode_wave(&encoder, &both, &mut |shape| Ok(noise(shape)?)).unwrap();
    compare("f32.sound.audio", &latents, F32);
}

/// Both decoders' frames come out in 8 bits as the public code cuts them.
#[test]
fn golden_frames_are_cut_to_bytes() {
    struct Frames(Vec<Frame>);
    impl gallop_engine::Sink for Frames {
        fn frame(&mut self, frame: &Frame) -> gallop_core::Result<()> {
            self.0.push(frame.clone());
            Ok(())
        }
        fn audio(&mut self, _: &Audio) -> gallop_core::Result<()> {
            Ok(())
        }
    }
    let studio = Studio::new();
    let plan = PublicPlan::new(request(Sampler::Renoise, 8, (64, 64)), None).unwrap();
    let mut frames = Frames(Vec::new());
    studio.with(Precision::F32, |pipeline| {
        let latents = golden("f32.distilled.base.video");
        watched(|watch| pipeline.decode_video(&plan, &latents, &mut frames, watch)).unwrap();
    });
    assert_eq!(frames.0.len(), 25);
    let want = golden("f32.distilled.bytes");
    let (count, height, width, _) = want.dims4().unwrap();
    let want: Vec<u8> = want.flatten_all().unwrap().to_vec1().unwrap();
    let mut worst = 0;
    for (i, want) in want.chunks_exact(3).enumerate() {
        let (x, y, t) = (i % width, i / width % height, i / width / height);
        assert!(t < count);
        let got = frames.0[t * 8].pixel(x * 2, y * 2);
        for (got, want) in got.iter().zip(want) {
            worst = worst.max(got.abs_diff(*want));
        }
    }
    assert!(worst <= 1, "{worst} steps");
}

/// The numbers above are of these weights.
#[test]
fn golden_weights_are_those_that_the_numbers_were_made_with() {
    let folder = tempfile::tempdir().unwrap();
    write_random_part(folder.path(), &Preset::tiny(), Part::Base, 7, &mut |_| ()).unwrap();
    let files = WeightFiles::open(&folder.path().join(Path::new("base"))).unwrap();
    let got = files
        .load("adapter.video_embedder.weight", &Device::Cpu)
        .unwrap();
    let got = got.narrow(0, 0, 1).unwrap().contiguous().unwrap();
    assert_eq!(relative(&got, &golden("weights")), 0.0);
}
