//! The full-size pipeline on a GPU against the processor's, on tiny random weights; needs a GPU, or `LD_LIBRARY_PATH`
//! of `tools/cuda-emulate`:
//!
//! `LD_LIBRARY_PATH=$PWD/target/cuda-emulate cargo test --release -p gallop --features cuda --test gpu -- --ignored`
#![cfg(feature = "cuda")]

mod common;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::gallop;
use gallop_core::{Audio, Cancel, Frame, LatentShape, PixelSize, Silent};
use gallop_engine::Sampler;
use gallop_engine::public::{
    Decoder, Inputs, Latents, Planned, PublicPipeline, PublicPlan, PublicRequest, Refine, Watch,
    gaussian_noise,
};
use gallop_kernels::{AttentionPlan, Precision, attention, cuda_device};
use gallop_model::dit::{Batch, Dit, MemoryPlan, MemoryRequest, Text};
use gallop_model::public::{Part, Preset, PublicModel, write_random_part};
use gallop_model::quant::Quant;
use gallop_model::tokens::{SampleSpec, TokenSequence};
use gallop_model::{ModelError, Weights};

/// Products in f32 on both sides.
const F32: f64 = 2e-4;
/// Products of inputs rounded to bf16: a number near a tie goes the other way.
const BF16: f64 = 1.5e-2;

fn gpu() -> Device {
    cuda_device(0, &[]).expect("a GPU, or LD_LIBRARY_PATH of tools/cuda-emulate")
}

fn relative(got: &Tensor, want: &Tensor) -> f64 {
    let got = got.to_device(&Device::Cpu).unwrap();
    assert_eq!(got.dims(), want.dims());
    let norm = |x: &Tensor| {
        let x = x.to_dtype(DType::F64).unwrap().sqr().unwrap();
        x.sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    norm(&(got - want).unwrap()) / norm(want)
}

fn check(name: &str, got: &Tensor, want: &Tensor, limit: f64) {
    let error = relative(got, want);
    println!("{name}: relative error {error:.2e}");
    assert!(error <= limit, "{name}: {error:.2e} > {limit:.0e}");
}

fn model(folder: &Path, parts: &[Part]) -> PublicModel {
    for &part in parts {
        write_random_part(folder, &Preset::tiny(), part, 7, &mut |_| ()).unwrap();
    }
    PublicModel::open(folder).unwrap()
}

fn plan(sampler: Sampler, refine: Option<Part>, decoder: Decoder) -> PublicPlan {
    let request = PublicRequest {
        prompt: "A red ball falls.".into(),
        duration: 1.0,
        base: PixelSize::new(64, 64),
        refine: refine.map(|part| Refine {
            part,
            size: PixelSize::new(96, 64),
            steps: 2,
            guidance: 1.0,
        }),
        sampler,
        steps: 2,
        // The negative prompt's 640 tokens would take an emulated GPU minutes.
        guidance: 1.0,
        decoder,
        audio: true,
        seed: 0,
    };
    PublicPlan::new(request, None).unwrap()
}

fn watched<T>(with: impl FnOnce(Watch) -> T) -> T {
    with(Watch {
        progress: &Silent,
        cancel: &Cancel::default(),
    })
}

fn pipeline<'a>(model: &'a PublicModel, planned: &'a Planned) -> PublicPipeline<'a> {
    PublicPipeline {
        model,
        transformers: planned,
        precision: Precision::F32,
    }
}

fn latents(model: &PublicModel, planned: &Planned, plan: &PublicPlan, inputs: Inputs) -> Latents {
    let pipeline = pipeline(model, planned);
    let mut noise = gaussian_noise(5);
    watched(|watch| pipeline.latents(plan, inputs, &mut noise, watch)).unwrap()
}

/// Pictures and sound of latents, on the processor.
fn decoded(model: &PublicModel, decoder: Decoder, latents: &Latents) -> [Tensor; 2] {
    let planned = Planned::new(Precision::F32);
    let pipeline = pipeline(model, &planned);
    let there = |x: &Tensor| x.to_device(model.device()).unwrap();
    let mut pictures = Vec::new();
    let mut keep = |some: Tensor| {
        pictures.push(some.to_device(&Device::Cpu)?);
        Ok(())
    };
    pipeline
        .decode_each(decoder, &there(&latents.video), &mut keep)
        .unwrap();
    let wave = pipeline.decode_wave(&there(&latents.audio)).unwrap();
    let wave = wave.to_device(&Device::Cpu).unwrap();
    [Tensor::cat(&pictures, 0).unwrap(), wave]
}

/// Latents of both, and what both decode of the same latents: random decoders make large what differs in these.
fn compare(
    [there, here]: [&PublicModel; 2],
    planned: &Planned,
    plan: &PublicPlan,
    inputs: Inputs,
    limit: f64,
) {
    let want = latents(here, planned, plan, inputs);
    let got = latents(there, planned, plan, inputs);
    check("video latents", &got.video, &want.video, limit);
    check("audio latents", &got.audio, &want.audio, limit);
    let [got, want] = [there, here].map(|model| decoded(model, plan.request.decoder, &want));
    check("pictures", &got[0], &want[0], F32);
    check("sound", &got[1], &want[1], F32);
}

#[test]
#[ignore = "needs a GPU or its emulation"]
fn the_pipeline_agrees_with_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let here = model(folder.path(), &Part::ALL);
    let there = here.clone().on(&gpu());
    let mut picture = Frame::black(PixelSize::new(90, 70));
    let pixels = picture.rgb.iter_mut().enumerate();
    pixels.for_each(|(i, value)| *value = (i * 7 % 251) as u8);
    let tone = |i: usize| 0.3 * (i as f32 * 0.05).sin();
    let wave: Vec<f32> = (0..48_000).map(tone).collect();
    let sound = Audio {
        left: wave.clone(),
        right: wave,
    };
    let nothing = Inputs::default();
    let led = Inputs {
        picture: Some(&picture),
        sound: Some(&sound),
    };
    let distilled = plan(Sampler::Renoise, Some(Part::Super1080p), Decoder::Fast);
    let exact = plan(Sampler::Unipc, None, Decoder::Exact);
    for (plan, inputs, precision, limit) in [
        (&distilled, nothing, Precision::F32, F32),
        (&distilled, nothing, Precision::Bf16, BF16),
        (&exact, led, Precision::F32, F32),
    ] {
        println!("{:?}, {precision:?}", plan.request.sampler);
        compare(
            [&there, &here],
            &Planned::new(precision),
            plan,
            inputs,
            limit,
        );
    }
}

#[test]
#[ignore = "needs a GPU or its emulation"]
fn quantised_and_streamed_layers_give_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let parts = [
        Part::TextEncoder,
        Part::AudioAutoencoder,
        Part::FastDecoder,
        Part::Distilled,
    ];
    drop(model(&folder.path().join("big"), &parts));
    let device = gpu();
    let plan = plan(Sampler::Renoise, None, Decoder::Fast);
    for quant in [None, Some(Quant::Int8), Some(Quant::Fp8), Some(Quant::Q4)] {
        let name = quant.map_or("big", Quant::name);
        if quant.is_some() {
            let args = [
                "model",
                "quantize",
                "big",
                "--to",
                name,
                "--no-check",
                "-o",
                name,
            ];
            let out = gallop(folder.path(), &args);
            assert!(out.status.success(), "{out:?}");
        }
        let here = PublicModel::open(&folder.path().join(name)).unwrap();
        let there = here.clone().on(&device);
        let planned = Planned::new(Precision::Bf16);
        println!("{name}");
        let [got, want] = [&there, &here].map(|m| latents(m, &planned, &plan, Inputs::default()));
        check("video latents", &got.video, &want.video, BF16);
        check("audio latents", &got.audio, &want.audio, BF16);
        streams(&there, &here);
    }
}

/// The transformer with as few layers in the GPU's memory as is possible, which are read while others are in use: the
/// same numbers as with all there.
fn streams(there: &PublicModel, here: &PublicModel) {
    let files = there.transformer(Part::Distilled).unwrap();
    let config = here.transformer_config(Part::Distilled, &files).unwrap();
    let latents = LatentShape {
        frames: 2,
        height: 4,
        width: 6,
        audio: 5,
    };
    let specs = [SampleSpec::public(latents, 7)];
    let forward = |device: &Device, budget: Option<u64>| -> gallop_model::Result<_> {
        let weights = Weights::files(files.clone(), device);
        let request = MemoryRequest::new(budget, 24).holding(0);
        let plan = MemoryPlan::new(&config, &weights, request)?;
        let dit = Dit::planned(&config, &weights, &plan)?;
        let sequence = TokenSequence::new(&config, &specs, device)?;
        let mut noise = gaussian_noise(9);
        let mut random = |shape: [usize; 2]| noise(&shape)?.to_device(device);
        let batch = Batch {
            sequence: &sequence,
            video: Some(random([12, config.video_token_channels()])?),
            audio: Some(random([5, config.audio_channels])?),
            text: Some(Text::Features(random([7, config.text.channels])?)),
            predict_text: false,
        };
        // Twice: the second run finds the first layers gone.
        dit.forward(&batch)?;
        let made = dit.forward(&batch)?;
        Ok((plan, made.video.unwrap().to_device(&Device::Cpu)?))
    };
    let (all, whole) = forward(there.device(), None).unwrap();
    assert_eq!(all.streamed_bytes(), 0);
    let Err(ModelError::Memory { needed, .. }) = forward(there.device(), Some(1)) else {
        panic!("one byte is too little");
    };
    let (least, streamed) = forward(there.device(), Some(needed)).unwrap();
    println!("{least}");
    assert!(least.streamed_bytes() > all.resident_bytes() / 2);
    assert_eq!(relative(&streamed, &whole), 0.0);
    let (_, want) = forward(&Device::Cpu, None).unwrap();
    check("velocity", &whole, &want, BF16);
}

/// Heads wider than the GPU's own kernel takes, as the video autoencoder's have.
#[test]
#[ignore = "needs a GPU or its emulation"]
fn wide_heads_agree_with_the_processor() {
    let device = gpu();
    let mut noise = gaussian_noise(3);
    let mut random = |tokens: usize| noise(&[tokens, 1, 320]).unwrap();
    let (q, k, v) = (random(37), random(50), random(50));
    let plan = AttentionPlan::full(37, 50, 0.05);
    for (precision, limit) in [(Precision::F32, 1e-5), (Precision::Bf16, 5e-3)] {
        let run = |device: &Device| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.to_device(device).unwrap());
            attention(&q, &k, &v, &plan, precision).unwrap()
        };
        check("wide heads", &run(&device), &run(&Device::Cpu), limit);
    }
}
