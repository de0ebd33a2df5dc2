//! A model's files in fewer bits, and back.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gallop_model::{
    WeightFiles,
    public::{Part, Preset, write_random_part},
    quant::{Quant, Quantization, quantize_files, quantized_bytes},
};

fn base(folder: &Path) -> WeightFiles {
    write_random_part(folder, &Preset::tiny(), Part::Base, 7, &mut |_| {}).unwrap();
    WeightFiles::open(&folder.join(Part::Base.folder())).unwrap()
}

fn load(files: &WeightFiles, name: &str) -> Tensor {
    let tensor = files.load(name, &Device::Cpu).unwrap();
    tensor.to_dtype(DType::F64).unwrap()
}

fn length(x: &Tensor) -> f64 {
    x.sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .to_scalar::<f64>()
        .unwrap()
        .sqrt()
}

#[test]
fn inner_layers_shrink_and_everything_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let whole = base(folder.path());
    for (quant, most, ratio) in [
        (Quant::Int8, 0.012, 0.8),
        (Quant::Fp8, 0.035, 0.8),
        (Quant::Q4, 0.12, 0.7),
    ] {
        let target = folder.path().join(quant.name());
        let work = Quantization {
            quant,
            wanted: &|_| true,
        };
        let mut heard = 0;
        let mut progress = |bytes| {
            heard += bytes;
            Ok(())
        };
        let report = quantize_files(&whole, work, &target, &mut progress).unwrap();
        // Four matrices in each of the four inner layers of six.
        assert_eq!(report.tensors.len(), 16);
        assert_eq!(report.by_layer().len(), 4);
        let expected = quantized_bytes(&whole, work).unwrap();
        assert_eq!([heard, report.bytes_after], expected);
        assert_eq!(report.bytes_before, heard);
        assert!(
            report
                .tensors
                .iter()
                .all(|t| (1e-4..most).contains(&t.error)),
            "{report:?}"
        );
        assert!((report.bytes_after as f64) < ratio * report.bytes_before as f64);
        let small = WeightFiles::open(&target).unwrap();
        assert_eq!(small.names(), whole.names());
        assert_eq!(small.parameters(), whole.parameters());
        assert_eq!(small.metadata("quantization"), Some(quant.name()));
        assert_eq!(small.metadata("dit_config"), whole.metadata("dit_config"));
        for name in whole.names() {
            assert_eq!(small.shape(&name), whole.shape(&name), "{name}");
            let (got, want) = (load(&small, &name), load(&whole, &name));
            let error = length(&(&got - &want).unwrap());
            let inner = report.tensors.iter().find(|t| t.name == name);
            match inner {
                Some(tensor) => {
                    let share = error / length(&want);
                    assert!((share - tensor.error).abs() < 1e-4, "{name}: {share}");
                }
                None => assert_eq!(error, 0.0, "{name}"),
            }
        }
    }
}

#[test]
fn what_is_in_fewer_bits_is_not_put_in_fewer_again() {
    let folder = tempfile::tempdir().unwrap();
    let whole = base(folder.path());
    let work = Quantization {
        quant: Quant::Int8,
        wanted: &|name| name.contains("layers."),
    };
    let target = folder.path().join("int8");
    quantize_files(&whole, work, &target, &mut |_| Ok(())).unwrap();
    let small = WeightFiles::open(&target).unwrap();
    assert!(!small.contains("final_norm_video.weight"));
    let again = quantize_files(&small, work, &folder.path().join("again"), &mut |_| Ok(()));
    let error = again.unwrap_err().to_string();
    assert!(error.contains("fewer bits already"), "{error}");
}

#[test]
fn scales_that_do_not_fit_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let data = Tensor::zeros((4, 6), DType::U8, &Device::Cpu).unwrap();
    for (shape, dtype) in [
        (vec![3], DType::F32),
        (vec![4], DType::F64),
        (vec![4, 2], DType::BF16),
    ] {
        let scale = Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
        let tensors = vec![
            ("a".to_string(), data.clone()),
            ("a.scale".to_string(), scale),
        ];
        gallop_model::save_weights(&path, tensors, &Default::default()).unwrap();
        let files = WeightFiles::open(&path).unwrap();
        let error = files.load("a", &Device::Cpu).unwrap_err().to_string();
        assert!(
            error.contains("w.safetensors") && error.contains("scales"),
            "{error}"
        );
    }
}
