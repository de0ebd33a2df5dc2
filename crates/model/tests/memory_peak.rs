//! The most memory that a process holds while it runs a transformer under a plan. Alone in its file, since the system
//! counts by process.
#![cfg(target_os = "linux")]

use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_core::LatentShape;
use gallop_model::dit::{Batch, Dit, DitConfig, MemoryPlan, MemoryRequest, Text};
use gallop_model::memory::{in_use, peak, readable};
use gallop_model::public::{Part, Preset, write_random_part};
use gallop_model::tokens::{SampleSpec, TokenSequence};
use gallop_model::{WeightFiles, Weights};

const LATENTS: LatentShape = LatentShape {
    frames: 4,
    height: 20,
    width: 20,
    audio: 16,
};
const TEXT: usize = 32;

fn preset() -> Preset {
    let tiny = Preset::tiny();
    let transformer = DitConfig {
        width: 768,
        head_dim: 64,
        num_heads_q: 12,
        num_heads_kv: 3,
        layers: [&tiny.transformer.layers[1..], &tiny.transformer.layers[2..]].concat(),
        ..tiny.transformer
    };
    Preset {
        transformer,
        ..tiny
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn the_peak_keeps_to_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let preset = preset();
    write_random_part(folder.path(), &preset, Part::Base, 3, &mut |_| {}).unwrap();
    let files = WeightFiles::open(&folder.path().join(Part::Base.folder())).unwrap();
    let stored: u64 = files
        .names()
        .iter()
        .map(|name| files.stored_bytes(name))
        .sum();
    let weights = Weights::files(Arc::new(files), &Device::Cpu);
    let config = preset.transformer_of(Part::Base);
    let spec = SampleSpec::public(LATENTS, TEXT);
    let sequence = TokenSequence::new(&config, &[spec], &Device::Cpu).unwrap();
    let batch = Batch {
        sequence: &sequence,
        video: sequence.video_tokens(&[zeros(&[4, 20, 20, 48])]).unwrap(),
        audio: Some(zeros(&[LATENTS.audio, 64])),
        text: Some(Text::Features(zeros(&[TEXT, 64]))),
        predict_text: false,
    };
    let before = peak();
    let whole = MemoryRequest::new(None, sequence.len());
    let whole = MemoryPlan::new(&config, &weights, whole).unwrap();
    let budget = whole.peak() - stored / 2;
    let request = MemoryRequest::new(Some(budget), sequence.len());
    let plan = MemoryPlan::new(&config, &weights, request).unwrap();
    assert!(
        plan.streamed_bytes() > 0 && plan.resident_bytes() > 0,
        "{plan}"
    );
    let dit = Dit::planned(&config, &weights, &plan).unwrap();
    for _ in 0..3 {
        dit.forward(&batch).unwrap();
    }
    let most = peak();
    println!(
        "{plan}\n{} before, {} at most of {}",
        readable(before),
        readable(most),
        readable(budget)
    );
    assert!(
        before < budget,
        "writing the model took more than running it: {}",
        readable(before)
    );
    assert!(
        most as f64 <= 1.05 * budget as f64,
        "{} of {}",
        readable(most),
        readable(budget)
    );
    drop(dit);
    let after = in_use();
    assert!(
        after < most - plan.resident_bytes() / 2,
        "the layers were not let go: {}",
        readable(after)
    );
}
