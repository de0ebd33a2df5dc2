//! What a training of an autoencoder leaves for those who use it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use gallop_model::{Vars, WeightFiles, Weights, save_weights};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, TrainError};

/// Sets what latents are normalised by to the mean and spread of `latents: [.., C]`.
///
/// Not for an encoder that was given and has stayed as it was: a transformer may have learned its latents
/// as they are.
pub(crate) fn measure(vars: &Vars, latents: &[Tensor]) -> Result<()> {
    let latents = rows(latents)?;
    let mean = latents.mean(0)?;
    let std = latents.broadcast_sub(&mean)?.sqr()?.mean(0)?.sqrt()?;
    for (name, value) in [("latents.mean", &mean), ("latents.std", &std)] {
        if let Some(var) = vars.get(name) {
            var.set(value)?;
        }
    }
    Ok(())
}

/// Latents `[.., C]` of several batches as rows `[N, C]`.
pub(crate) fn rows(latents: &[Tensor]) -> Result<Tensor> {
    let rows = latents
        .iter()
        .map(|z| z.detach().reshape(((), z.dim(D::Minus1)?)))
        .collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&rows, 0)?)
}

/// Writes the weights as an engine loads them: matrices in bf16, vectors in f32, and the configuration as JSON under
/// `config`.
pub(crate) fn export(vars: &Vars, config: &impl Serialize, path: &Path) -> Result<()> {
    export_with(vars, Vec::new(), config, path)
}

/// [`export`], and tensors beside the weights as they are.
pub(crate) fn export_with(
    vars: &Vars,
    beside: Vec<(String, Tensor)>,
    config: &impl Serialize,
    path: &Path,
) -> Result<()> {
    let config = serde_json::to_string(config).expect("a configuration is plain data");
    let about = BTreeMap::from([("config".to_string(), config)]);
    let tensors = small(vars)?.into_iter().chain(beside).collect();
    Ok(save_weights(path, tensors, &about)?)
}

/// The configuration of a network, from the header of its weights.
///
/// # Errors
/// If there is none, or it is of another kind.
pub(crate) fn config_of<C: DeserializeOwned>(files: &WeightFiles, path: &Path) -> Result<C> {
    serde_json::from_str(files.metadata("config").unwrap_or_default())
        .map_err(|e| TrainError::Setting(format!("{}: {e}", path.display())))
}

/// The configuration and the weights of a network.
///
/// # Errors
/// If the file cannot be read, or is of another kind.
pub(crate) fn open<C: DeserializeOwned>(path: &Path, device: &Device) -> Result<(C, Weights)> {
    let files = WeightFiles::open(path)?;
    let config = config_of(&files, path)?;
    Ok((config, Weights::files(Arc::new(files), device)))
}

/// Gives trainable weights the values of a file of the same network.
///
/// # Errors
/// If the file cannot be read, lacks a weight that is not among the `newer` ones, which then stay as they are, or has one
/// of another shape.
pub(crate) fn start_from(vars: &Vars, path: &Path, newer: &[&str]) -> Result<()> {
    let files = WeightFiles::open(path)?;
    for (name, var) in vars.all() {
        if !files.contains(&name) && newer.contains(&name.as_str()) {
            continue;
        }
        let value = files.load(&name, var.device())?.to_dtype(var.dtype())?;
        if value.dims() != var.dims() {
            let (got, want) = (value.dims(), var.dims());
            let what = format!("{}: `{name}` is {got:?}, not {want:?}", path.display());
            return Err(TrainError::Setting(what));
        }
        var.set(&value)?;
    }
    Ok(())
}

/// Matrices in bf16, vectors in f32.
pub(crate) fn small(vars: &Vars) -> Result<Vec<(String, Tensor)>> {
    let small = |(name, tensor): (String, Tensor)| {
        let kind = if tensor.rank() > 1 {
            DType::BF16
        } else {
            DType::F32
        };
        Ok((name, tensor.to_dtype(kind)?))
    };
    vars.tensors().into_iter().map(small).collect()
}
