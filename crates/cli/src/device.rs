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
    fn devices_are_named() {
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
    }
}
