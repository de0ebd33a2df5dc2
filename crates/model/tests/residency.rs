//! Transformers that are larger than the memory: the numbers do not depend on what stays and what is read anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use gallop_core::LatentShape;
use gallop_kernels::Precision;
use gallop_model::dit::{Batch, Dit, DitConfig, Form, MemoryPlan, MemoryRequest, Outputs, Text};
use gallop_model::lora::{Lora, open_loras};
use gallop_model::public::{Part, Preset, write_random_part};
use gallop_model::quant::{Quant, Quantization, quantize_files, velocity_error};
use gallop_model::tokens::{SampleSpec, TokenSequence};
use gallop_model::{ModelError, WeightFiles, Weights, save_weights};

const LATENTS: LatentShape = LatentShape {
    frames: 3,
    height: 8,
    width: 6,
    audio: 9,
};
const TEXT: usize = 7;

/// A tiny model's base transformer in `folder`.
fn base(folder: &Path) -> Arc<WeightFiles> {
    write_random_part(folder, &Preset::tiny(), Part::Base, 3, &mut |_| {}).unwrap();
    open(&folder.join(Part::Base.folder()))
}

fn open(path: &Path) -> Arc<WeightFiles> {
    Arc::new(WeightFiles::open(path).unwrap())
}

fn weights(files: &Arc<WeightFiles>) -> Weights {
    Weights::files(files.clone(), &Device::Cpu)
}

fn numbers(shape: &[usize], seed: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let numbers: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7 + seed).sin()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn run(dit: &Dit) -> Outputs {
    let config = dit.config();
    let spec = SampleSpec::public(LATENTS, TEXT);
    let sequence = TokenSequence::new(config, &[spec], &Device::Cpu).unwrap();
    let latents = numbers(
        &[
            LATENTS.frames,
            LATENTS.height,
            LATENTS.width,
            config.video_channels,
        ],
        0.0,
    );
    let batch = Batch {
        sequence: &sequence,
        video: sequence.video_tokens(&[latents]).unwrap(),
        audio: Some(numbers(&[LATENTS.audio, config.audio_channels], 1.0)),
        text: Some(Text::Features(numbers(&[TEXT, config.text.channels], 2.0))),
        predict_text: false,
    };
    dit.forward(&batch).unwrap()
}

fn bits(outputs: &Outputs) -> Vec<Vec<f32>> {
    [&outputs.video, &outputs.audio]
        .map(|x| {
            x.as_ref()
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        })
        .into()
}

fn relative(got: &[Vec<f32>], want: &[Vec<f32>]) -> f32 {
    let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    let both = got.iter().flatten().zip(want.iter().flatten());
    length(&mut both.map(|(a, b)| a - b)) / length(&mut want.iter().flatten().copied())
}

fn config() -> DitConfig {
    Preset::tiny().transformer_of(Part::Base)
}

/// A plan that has room for so many bytes of layers beside what is fixed.
fn plan(weights: &Weights, layers: u64, form: Form) -> MemoryPlan {
    let tokens = 200;
    let all = MemoryRequest {
        held: 0,
        ..MemoryRequest::new(None, tokens)
    }
    .with_form(form);
    let whole = MemoryPlan::new(&config(), weights, all).unwrap();
    let fixed = whole.peak() - whole.resident_bytes();
    let budget = Some(fixed + layers);
    MemoryPlan::new(&config(), weights, MemoryRequest { budget, ..all }).unwrap()
}

#[test]
fn what_stays_does_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(&base(folder.path()));
    let want = bits(&run(&Dit::new(&config(), &weights).unwrap()));
    let whole = plan(&weights, u64::MAX / 2, Form::Stored);
    assert_eq!(whole.streamed_bytes(), 0);
    let all = whole.resident_bytes();
    let mut seen = Vec::new();
    for share in [100, 85, 70] {
        let plan = plan(&weights, all * share / 100, Form::Stored);
        let staying = (0..config().layers.len())
            .filter(|&i| plan.stays(i))
            .count();
        seen.push(staying);
        let dit = Dit::planned(&config(), &weights, &plan).unwrap();
        // The second time some layers are in memory already.
        for _ in 0..3 {
            assert_eq!(bits(&run(&dit)), want, "{plan}");
        }
    }
    assert_eq!(seen[0], 6);
    assert!(seen[1] < 6 && seen[2] < seen[1] && seen[2] > 0, "{seen:?}");
    let streamed = Dit::streamed(&config(), &weights).unwrap();
    for _ in 0..2 {
        assert_eq!(bits(&run(&streamed)), want);
    }
    std::thread::scope(|scope| {
        // Two users of the same layers take turns.
        let both = [(); 2].map(|()| scope.spawn(|| bits(&run(&streamed))));
        for one in both {
            assert_eq!(one.join().unwrap(), want);
        }
    });
}

#[test]
fn a_plan_says_what_it_chose_and_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(&base(folder.path()));
    let text = plan(&weights, 3_600_000, Form::Stored).to_string();
    assert!(
        text.contains("of 6 layers stay") && text.contains("are read in each step"),
        "{text}"
    );
    let request = MemoryRequest::new(Some(1 << 20), 100);
    let error = MemoryPlan::new(&config(), &weights, request).unwrap_err();
    assert!(
        matches!(error, ModelError::Memory { allowed, .. } if allowed == 1 << 20),
        "{error}"
    );
}

#[test]
fn fewer_bits_are_read_directly_and_made_on_the_way_in() {
    let folder = tempfile::tempdir().unwrap();
    let whole = base(folder.path());
    let exact = bits(&run(&Dit::new(&config(), &weights(&whole)).unwrap()));
    for (quant, most) in [(Quant::Int8, 0.05), (Quant::Fp8, 0.1), (Quant::Q4, 0.3)] {
        let work = Quantization {
            quant,
            wanted: &|_| true,
        };
        let target = folder.path().join(quant.name());
        quantize_files(&whole, work, &target, &mut |_| Ok(())).unwrap();
        let small = weights(&open(&target));
        let planned = |weights: &Weights, form| {
            let plan = plan(weights, u64::MAX / 2, form);
            Dit::planned(&config(), weights, &plan).unwrap()
        };
        // Dit::new expands all matrices; in f32 only the order of sums may differ.
        let expanded = Dit::new(&config(), &small)
            .unwrap()
            .with_precision(Precision::F32);
        let direct = planned(&small, Form::Stored).with_precision(Precision::F32);
        let apart = relative(&bits(&run(&direct)), &bits(&run(&expanded)));
        assert!(apart < 1e-5, "{quant:?}: {apart}");

        let stored = bits(&run(&planned(&small, Form::Stored)));
        let made = bits(&run(&planned(&weights(&whole), Form::Fewer(quant))));
        assert_eq!(stored, made, "{quant:?}");
        let error = relative(&stored, &exact);
        assert!((1e-4..most).contains(&error), "{quant:?}: {error}");

        let velocity = velocity_error(&config(), &weights(&whole), &small, &mut || Ok(())).unwrap();
        assert!(
            (1e-4..f64::from(most)).contains(&velocity.video),
            "{quant:?}: {velocity:?}"
        );
        assert!(
            (1e-4..f64::from(most)).contains(&velocity.audio),
            "{quant:?}: {velocity:?}"
        );
        let mut layers = 0;
        let stop = velocity_error(&config(), &weights(&whole), &small, &mut || {
            layers += 1;
            if layers < 3 {
                Ok(())
            } else {
                Err(ModelError::Stopped)
            }
        });
        assert!(matches!(stop, Err(ModelError::Stopped)));
    }
}

#[test]
fn wide_numbers_are_rounded_on_the_way_in_without_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let files = base(folder.path());
    let wide = folder.path().join("wide.safetensors");
    let tensors = files.names().into_iter().map(|name| {
        let tensor = files.load(&name, &Device::Cpu).unwrap();
        (name, tensor.to_dtype(DType::F32).unwrap())
    });
    save_weights(&wide, tensors.collect(), &BTreeMap::new()).unwrap();
    let wide = weights(&open(&wide));
    let want = bits(&run(&Dit::new(&config(), &wide).unwrap()));
    let [stored, rounded] = [Form::Stored, Form::Bf16].map(|form| plan(&wide, u64::MAX / 2, form));
    assert!(rounded.resident_bytes() * 10 < stored.resident_bytes() * 6);
    for plan in [stored, rounded] {
        let dit = Dit::planned(&config(), &wide, &plan).unwrap();
        assert_eq!(bits(&run(&dit)), want, "{plan}");
    }
}

/// A change of rank 2 to two matrices, one in an outer and one in an inner layer.
fn lora(folder: &Path, name: &str) -> std::path::PathBuf {
    let rows = [
        ("block.layers.0.mlp.down_proj", 3 * 128, 512),
        ("block.layers.3.attention.linear_proj", 128, 128),
    ];
    let tensors = rows.iter().flat_map(|&(module, out, columns)| {
        [
            (
                format!("{module}.lora_A.weight"),
                numbers(&[2, columns], 3.0),
            ),
            (
                format!("{module}.lora_B.weight"),
                (numbers(&[out, 2], 4.0) * 0.05).unwrap(),
            ),
        ]
    });
    let path = folder.join(name);
    save_weights(&path, tensors.collect(), &BTreeMap::new()).unwrap();
    path
}

#[test]
fn changes_are_merged_into_layers_on_their_way() {
    let folder = tempfile::tempdir().unwrap();
    let files = base(folder.path());
    let plain = weights(&files);
    let path = lora(folder.path(), "lora.safetensors");
    let names = files.names();
    let (loras, unmatched) = open_loras(&[(path.clone(), 0.5), (path, -0.25)], &names).unwrap();
    assert!(unmatched.is_empty());
    let changed = plain.clone().with_loras(loras);
    let want = bits(&run(&Dit::new(&config(), &changed).unwrap()));
    assert!(relative(&want, &bits(&run(&Dit::new(&config(), &plain).unwrap()))) > 1e-2);
    for layers in [u64::MAX / 2, 4_200_000] {
        let plan = plan(&changed, layers, Form::Stored);
        let dit = Dit::planned(&config(), &changed, &plan).unwrap();
        for _ in 0..2 {
            assert_eq!(bits(&run(&dit)), want, "{plan}");
        }
    }
    let foreign = folder.path().join("foreign.safetensors");
    let tensors = ["A", "B"].map(|x| (format!("unet.down.lora_{x}.weight"), numbers(&[1, 1], 0.0)));
    save_weights(&foreign, tensors.into(), &BTreeMap::new()).unwrap();
    let error = open_loras(&[(foreign, 1.0)], &names)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("foreign.safetensors") && error.contains("another model"),
        "{error}"
    );
}

#[test]
fn many_rows_are_changed_part_by_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let (a, b) = (numbers(&[3, 5], 0.0), numbers(&[2500, 3], 1.0));
    let tensors = vec![
        ("x.lora_A.weight".into(), a.clone()),
        ("x.lora_B.weight".into(), b.clone()),
    ];
    save_weights(&path, tensors, &BTreeMap::new()).unwrap();
    let weight = numbers(&[2500, 5], 2.0);
    let got = Lora::open(&path, 2.0)
        .unwrap()
        .merge("x.weight", &weight)
        .unwrap();
    let want = (weight + (b.matmul(&a).unwrap() * 2.0).unwrap()).unwrap();
    let most = (got - want)
        .unwrap()
        .abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap();
    assert!(most.to_scalar::<f32>().unwrap() < 1e-5);
}

#[test]
fn what_is_no_number_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = base(folder.path());
    let name = "block.layers.4.mlp.up_gate_proj.weight";
    let path = folder.path().join("base/model-00001-of-00001.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let place = files.bytes(name).unwrap();
    let at = bytes.windows(64).position(|w| w == &place[..64]).unwrap();
    bytes[at..at + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    drop(files);
    std::fs::write(&path, bytes).unwrap();
    let weights = weights(&open(&folder.path().join("base")));
    let dit = Dit::streamed(&config(), &weights).unwrap();
    let spec = SampleSpec::public(LATENTS, TEXT);
    let sequence = TokenSequence::new(&config(), &[spec], &Device::Cpu).unwrap();
    let latents = numbers(&[3, 8, 6, 48], 0.0);
    let batch = Batch {
        sequence: &sequence,
        video: sequence.video_tokens(&[latents]).unwrap(),
        audio: Some(numbers(&[LATENTS.audio, 64], 1.0)),
        text: Some(Text::Features(numbers(&[TEXT, 64], 2.0))),
        predict_text: false,
    };
    let error = dit.forward(&batch).unwrap_err().to_string();
    assert!(
        error.contains(name) && error.contains("not finite"),
        "{error}"
    );
    let work = Quantization {
        quant: Quant::Int8,
        wanted: &|_| true,
    };
    let target = folder.path().join("int8");
    let files = open(&folder.path().join("base"));
    let error = quantize_files(&files, work, &target, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
}
