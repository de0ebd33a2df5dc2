//! A model's files in fewer bits, and back.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gallop_model::{
    WeightFiles,
    public::{Part, Preset, write_random_part},
    quant::{Quant, quantize_files},
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
        let mut heard = 0;
        let report = quantize_files(&whole, quant, &target, &mut |_| heard += 1).unwrap();
        // Four matrices in each of the four inner layers of six.
        assert_eq!((report.tensors.len(), heard), (16, 16));
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
