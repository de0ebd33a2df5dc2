//! The loop that every training shares.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use gallop_core::{Cancel, Progress};
use gallop_model::Vars;
use rayon::ThreadPool;

use crate::checkpoint::Checkpoints;
use crate::error::{Result, TrainError};
use crate::metrics::{MetricLog, Metrics};
use crate::optimiser::Optimiser;
use crate::recipe::{OptimiserRecipe, RunRecipe};
use crate::stream::{BatchStream, MakeBatch};
use crate::throughput::Throughput;

/// One kind of training: what a batch is, and what its loss is.
pub trait Task: Send {
    /// What worker threads prepare.
    type Batch: Send + 'static;

    /// How batch `i`, that of step `i`, is made.
    fn make_batch(&self) -> MakeBatch<Self::Batch>;

    /// The loss of a batch at a step.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn loss(&mut self, batch: Self::Batch, step: u64) -> Result<StepLoss>;

    /// Measures on held-out data, called with the averaged weights in place; may leave pictures in
    /// the run's folder.
    ///
    /// # Errors
    /// If a measurement fails.
    fn validate(&mut self, step: u64, folder: &Path) -> Result<Metrics>;
}

/// The loss of one batch.
pub struct StepLoss {
    /// A scalar; its gradient is what counts.
    pub total: Tensor,
    /// Numbers for the log, each a mean over the batch.
    pub metrics: Metrics,
    /// Operations of the step, back and forth, an addition and a multiplication being two; 0 if they are not counted.
    pub operations: f64,
}

/// Where and how a training runs.
pub struct Run<'a> {
    /// Folder of checkpoints, log and curves.
    pub folder: PathBuf,
    /// Length, threads, intervals.
    pub recipe: &'a RunRecipe,
    /// Learning rates.
    pub optimiser: &'a OptimiserRecipe,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
    /// Stops it at the next step.
    pub cancel: &'a Cancel,
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Steps done in all, earlier runs included.
    pub steps: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

/// Trains until the recipe's last step or until cancelled, going on from the newest checkpoint.
///
/// # Errors
/// If data, tensors or files fail, or the loss is no longer a number.
fn train<T: Task>(task: &mut T, optimiser: &mut Optimiser, run: &Run) -> Result<Outcome> {
    gallop_kernels::keep_freed_memory();
    pool("threads", run.recipe.threads)?.install(|| Loop::new(optimiser, run)?.run(task))
}

/// So many threads of their own; 0 takes all. `setting` is what a recipe calls their number.
///
/// # Errors
/// If the system has none to give.
pub(crate) fn pool(setting: &str, threads: usize) -> Result<ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    (builder.build()).map_err(|e| TrainError::Setting(format!("{setting}: {e}")))
}

/// Trains those of `vars` whose names begin with none of `frozen`, says how many they are, and then calls `export` with the
/// averaged weights in place.
///
/// # Errors
/// As [`train`], or what `export` says.
pub fn train_vars<T: Task>(
    task: &mut T,
    (vars, frozen): (&Vars, &[&str]),
    run: &Run,
    export: impl FnOnce(&T) -> Result<()>,
) -> Result<Outcome> {
    let mut optimiser = Optimiser::new(run.optimiser, vars, frozen)?;
    let parameters = optimiser.parameters();
    run.progress.note(&format!("{parameters} weights"));
    let outcome = train(task, &mut optimiser, run)?;
    optimiser.with_ema(|| export(task))?;
    Ok(outcome)
}

struct Loop<'a> {
    optimiser: &'a mut Optimiser,
    run: &'a Run<'a>,
    checkpoints: Checkpoints,
    log: MetricLog,
    throughput: Throughput,
    step: u64,
    saved: Instant,
}

impl<'a> Loop<'a> {
    fn new(optimiser: &'a mut Optimiser, run: &'a Run<'a>) -> Result<Self> {
        let checkpoints = Checkpoints::new(&run.folder)?;
        let step = checkpoints.restore(optimiser)?;
        let log = MetricLog::open(&run.folder.join("log.jsonl"), step)?;
        if step > 0 {
            run.progress.note(&format!("going on from step {step}"));
        }
        Ok(Self {
            optimiser,
            run,
            checkpoints,
            log,
            throughput: Throughput::default(),
            step,
            saved: Instant::now(),
        })
    }

    fn run<T: Task>(mut self, task: &mut T) -> Result<Outcome> {
        let recipe = self.run.recipe;
        let mut stream = BatchStream::start(task.make_batch(), self.step, recipe.worker_threads());
        self.run.progress.stage("training", recipe.steps);
        self.run.progress.at(self.step);
        while self.step < recipe.steps && !self.run.cancel.is_cancelled() {
            self.one_step(task, &mut stream)?;
            self.run.progress.at(self.step);
            let last = self.step == recipe.steps;
            if last || self.step.is_multiple_of(recipe.validate_every.max(1)) {
                self.validate(task)?;
            }
            if self.saved.elapsed() > Duration::from_secs_f64(recipe.checkpoint_seconds) {
                self.save()?;
            }
        }
        self.save()?;
        Ok(Outcome {
            steps: self.step,
            stopped: self.step < recipe.steps,
        })
    }

    fn one_step<T: Task>(
        &mut self,
        task: &mut T,
        stream: &mut BatchStream<T::Batch>,
    ) -> Result<()> {
        let start = Instant::now();
        let batch = stream.next_batch()?;
        let waited = start.elapsed().as_secs_f64();
        let StepLoss {
            total,
            mut metrics,
            operations,
        } = task.loss(batch, self.step)?;
        let loss = f64::from(total.to_scalar::<f32>()?);
        if !loss.is_finite() {
            return Err(TrainError::Diverged {
                step: self.step,
                loss,
            });
        }
        let grads = total.backward()?;
        let rate = self.run.optimiser.rate(self.step, self.run.recipe.steps);
        let norm = self.optimiser.step(&grads, self.step, rate)?;
        self.step += 1;
        metrics.insert("gradient_norm".into(), norm);
        metrics.insert("rate".into(), rate);
        let seconds = start.elapsed().as_secs_f64();
        metrics.insert("seconds".into(), seconds);
        metrics.insert("waited".into(), waited);
        self.throughput.add(seconds, waited, operations);
        self.log.add(metrics);
        if self.step.is_multiple_of(self.run.recipe.log_every.max(1)) {
            self.log
                .add(self.throughput.take(self.run.recipe.peak_tflops));
            let line = self.log.write("train", self.step)?;
            self.run.progress.note(&line);
        }
        Ok(())
    }

    fn validate<T: Task>(&mut self, task: &mut T) -> Result<()> {
        let (step, folder) = (self.step, &self.run.folder);
        let metrics = self.optimiser.with_ema(|| task.validate(step, folder))?;
        self.log
            .add(self.throughput.take(self.run.recipe.peak_tflops));
        self.log.flush("train", step)?;
        self.log.add(metrics);
        let line = self.log.write("validation", step)?;
        self.run.progress.note(&line);
        self.log.draw(&folder.join("curves.png"))
    }

    fn save(&mut self) -> Result<()> {
        self.optimiser.gather()?;
        self.checkpoints.save(self.optimiser, self.step)?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// One metric.
pub(crate) fn metric(name: &str, value: f64) -> (String, f64) {
    (name.to_string(), value)
}

/// Metrics from pairs.
pub(crate) fn metrics<const N: usize>(pairs: [(&str, f64); N]) -> BTreeMap<String, f64> {
    pairs
        .into_iter()
        .map(|(name, value)| metric(name, value))
        .collect()
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
