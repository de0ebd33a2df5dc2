//! Where computing is done.

use std::path::PathBuf;
use std::str::FromStr;

use candle_core::Device;
use gallop_core::UserError;

/// A processor, or one of the GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cuda = |number: &str| number.parse().ok().map(Self::Cuda);
        let found = match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", number)) => cuda(number),
            _ => None,
        };
        found.ok_or_else(|| format!("`{text}` is not a device; write cpu, cuda or cuda:1"))
    }
}

/// Opens it.
///
/// # Errors
/// If this build has no CUDA, a library is missing, or there is no such GPU.
pub fn open_device(choice: DeviceChoice) -> Result<Device, UserError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(number) => gallop_kernels::cuda_device(number, &places()).map_err(|e| {
            UserError::new(
                format!("--device cuda: {e}"),
                "see docs/gpu.md, or use --device cpu; GALLOP_CUDA may name a folder of CUDA's libraries",
            )
        }),
    }
}

/// The bf16 peak of dense products, in TFLOP/s, of the GPUs whose makers say so: a part of the name that the driver
/// gives, those that hold another first.
const PEAKS: [(&str, f64); 10] = [
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("RTX 4090", 165.0),
];

/// The bf16 peak of a device in TFLOP/s, if it is known.
pub fn bf16_peak(device: &Device) -> Option<f64> {
    peak_of(&gallop_kernels::device_name(device)?)
}

fn peak_of(name: &str) -> Option<f64> {
    let known = PEAKS.iter().find(|(part, _)| name.contains(part));
    known.map(|(_, peak)| *peak)
}

/// Folders that CUDA's libraries may be in: what the user names, beside this program, usual places, and those of
/// each Python on the path.
fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    if let Some(named) = std::env::var_os("GALLOP_CUDA") {
        places.extend(std::env::split_paths(&named));
    }
    if let Ok(program) = std::env::current_exe() {
        places.extend(program.parent().map(|folder| folder.join("lib")));
    }
    let usual = [
        "/usr/local/nvidia/lib64",
        "/usr/local/cuda/lib64",
        "/usr/lib/wsl/lib",
    ];
    places.extend(usual.map(PathBuf::from));
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        places.extend(std::env::var_os(name).map(PathBuf::from));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        if folder.join("python3").exists() {
            places.extend(folder.parent().map(PathBuf::from));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_those_of_the_card() {
        for (name, peak) in [
            ("NVIDIA H100 80GB HBM3", Some(989.0)),
            ("NVIDIA H100 PCIe", Some(756.0)),
            ("NVIDIA H200", Some(989.0)),
            ("NVIDIA L40S", Some(362.0)),
            ("NVIDIA L4", Some(121.0)),
            ("emulated", None),
        ] {
            assert_eq!(peak_of(name), peak, "{name}");
        }
    }

    #[test]
    fn devices_are_named() {
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }
}
