use std::sync::Arc;

use candle_core::{Device, Tensor};
use gallop_kernels::{Precision, Segments};
use gallop_model::{Init, Vars, Weights};
use rand::RngExt;

use super::*;
use crate::rng::{Purpose, stream};

/// Learns a matrix from products with it.
struct Products {
    matrix: Tensor,
}

const SIZE: usize = 40;

impl Task for Products {
    type Batch = (Vec<f32>, Vec<f32>);

    fn make_batch(&self) -> MakeBatch<Self::Batch> {
        Arc::new(|index| {
            let mut rng = stream(7, Purpose::Data, index);
            let x: Vec<f32> = (0..8 * SIZE).map(|_| rng.random::<f32>() - 0.5).collect();
            // The matrix to be found turns the coordinates by one.
            let y = x
                .chunks(SIZE)
                .flat_map(|x| [&x[1..], &x[..1]].concat())
                .collect();
            Ok((x, y))
        })
    }

    fn loss(&mut self, (x, y): Self::Batch, step: u64) -> Result<StepLoss> {
        let x = Tensor::from_vec(x, (8, SIZE), &Device::Cpu)?;
        let noise = stream(7, Purpose::Noise, step).random::<f32>() * 1e-3;
        let y = (Tensor::from_vec(y, (8, SIZE), &Device::Cpu)? + f64::from(noise))?;
        let rows = Segments::single(8);
        let found = gallop_kernels::linear(&x, &self.matrix, None, &rows, Precision::Bf16)?;
        let total = (found - y)?.sqr()?.mean_all()?;
        let loss = f64::from(total.to_scalar::<f32>()?);
        Ok(StepLoss {
            total,
            metrics: metrics([("loss", loss)]),
            operations: 0.0,
        })
    }

    fn validate(&mut self, _step: u64, _folder: &Path) -> Result<Metrics> {
        let sum = self.matrix.sum_all()?.to_scalar::<f32>()?;
        Ok(metrics([("sum", f64::from(sum))]))
    }
}

/// Stops a training after some steps.
struct StopAt(u64, Cancel);

impl Progress for StopAt {
    fn stage(&self, _name: &str, _total: u64) {}
    fn at(&self, done: u64) {
        if done >= self.0 {
            self.1.cancel();
        }
    }
    fn note(&self, _message: &str) {}
}

/// Trains to the end, or for some steps; returns all that is kept for the weights.
fn run(folder: &Path, muon: f64, stop: u64) -> (Outcome, Vec<Vec<f32>>) {
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(3), &Device::Cpu);
    let matrix = weights
        .get((SIZE, SIZE), "inner.weight", Init::Normal(0.1))
        .unwrap();
    let recipe: RunRecipe = toml::from_str(
        "seed = 7\nsteps = 24\nthreads = 2\nworkers = 2\nlog_every = 4\nvalidate_every = 10",
    )
    .unwrap();
    let optimiser: OptimiserRecipe = toml::from_str(&format!(
        "learning_rate = 0.01\nmuon_learning_rate = {muon}\nwarmup = 3\nclip = 1.0"
    ))
    .unwrap();
    let mut kept = Optimiser::new(&optimiser, &vars, &[]).unwrap();
    let cancel = Cancel::default();
    let run = Run {
        folder: folder.to_path_buf(),
        recipe: &recipe,
        optimiser: &optimiser,
        progress: &StopAt(stop, cancel.clone()),
        cancel: &cancel,
    };
    let outcome = train(&mut Products { matrix }, &mut kept, &run).unwrap();
    let slot = &kept.slots[0];
    let all = [&slot.value, &slot.first, &slot.second, &slot.ema].map(Clone::clone);
    (outcome, all.to_vec())
}

/// Kind, step and metrics of a line of the log.
type Logged = (String, u64, Vec<(String, f64)>);

fn losses(folder: &Path) -> Vec<Logged> {
    let timed = ["seconds", "waited", "waiting_share", "tflops", "peak_share"];
    let lines = crate::metrics::read_log(&folder.join("log.jsonl")).unwrap();
    lines
        .into_iter()
        .map(|line| {
            let metrics = line.metrics.into_iter();
            let kept = metrics.filter(|(name, _)| !timed.contains(&name.as_str()));
            (line.kind, line.step, kept.collect())
        })
        .collect()
}

#[test]
fn a_resumed_training_is_bit_for_bit_an_unbroken_one() {
    for muon in [0.0, 0.02] {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (outcome, expected) = run(whole.path(), muon, u64::MAX);
        assert!(!outcome.stopped && outcome.steps == 24);
        // Stopped where lines of the log begin anew, so that their means are over the same steps.
        for stop in [4, 12, 20] {
            let (outcome, _) = run(parts.path(), muon, stop);
            assert_eq!((outcome.steps, outcome.stopped), (stop, true));
        }
        let (outcome, found) = run(parts.path(), muon, u64::MAX);
        assert_eq!(outcome.steps, 24);
        assert_eq!(found, expected);
        assert_eq!(losses(parts.path()), losses(whole.path()));
        let curves = parts.path().join("curves.png");
        assert!(std::fs::metadata(curves).unwrap().len() > 100);
    }
}

#[test]
fn a_training_learns() {
    for muon in [0.0, 0.02] {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), muon, u64::MAX);
        let losses = losses(folder.path());
        let loss = |line: &(String, u64, Vec<(String, f64)>)| {
            line.2
                .iter()
                .find(|(name, _)| name == "loss")
                .map(|(_, loss)| *loss)
        };
        let losses: Vec<f64> = losses.iter().filter_map(loss).collect();
        assert!(losses[losses.len() - 1] < 0.85 * losses[0], "{losses:?}");
    }
}

#[test]
fn what_a_sudden_end_leaves_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), 0.0, 8);
    // A torn checkpoint under its working name, and a torn line of the log.
    std::fs::write(folder.path().join("step-00000099.part"), b"half").unwrap();
    let log = folder.path().join("log.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{text}{{\"kind\":\"tra")).unwrap();
    let (outcome, _) = run(folder.path(), 0.0, 12);
    assert_eq!(outcome.steps, 12);
    let lines = losses(folder.path());
    assert!(lines.windows(2).all(|pair| pair[0].1 <= pair[1].1));
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("step-00000001.safetensors"), b"nothing").unwrap();
    let vars = Vars::default();
    let weights = Weights::vars(&vars, Some(3), &Device::Cpu);
    weights.get(3, "a", Init::Zeros).unwrap();
    let recipe = toml::from_str("learning_rate = 1e-3").unwrap();
    let mut optimiser = Optimiser::new(&recipe, &vars, &[]).unwrap();
    let checkpoints = Checkpoints::new(folder.path()).unwrap();
    let error = checkpoints.restore(&mut optimiser).unwrap_err().to_string();
    assert!(error.contains("step-00000001"), "{error}");
}
