//! The log of a training: one JSON object a line, and its curves as a picture.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::curves;
use crate::error::{Result, TrainError};

/// Numbers by name.
pub type Metrics = BTreeMap<String, f64>;

/// One line of the log: means since the line before of the same kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// `train` or `validation`.
    pub kind: String,
    /// Steps done.
    pub step: u64,
    /// What was measured.
    pub metrics: Metrics,
}

/// A log file, and what has been measured since its last line.
pub struct MetricLog {
    path: PathBuf,
    file: File,
    sums: BTreeMap<String, (f64, u64)>,
}

impl MetricLog {
    /// Opens or makes the file, and drops lines after `step`: they will be made again.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let kept: String = read_log(path)?
            .into_iter()
            .filter(|line| line.step <= step)
            .map(|line| to_json(&line) + "\n")
            .collect();
        fs::write(path, kept).map_err(TrainError::file(path))?;
        let file = OpenOptions::new().append(true).open(path);
        Ok(Self {
            path: path.to_path_buf(),
            file: file.map_err(TrainError::file(path))?,
            sums: BTreeMap::new(),
        })
    }

    /// Counts one measurement.
    pub fn add(&mut self, metrics: Metrics) {
        for (name, value) in metrics {
            let (sum, count) = self.sums.entry(name).or_default();
            *sum += value;
            *count += 1;
        }
    }

    /// Writes the means as a line, and returns it in words.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, kind: &str, step: u64) -> Result<String> {
        let metrics: Metrics = std::mem::take(&mut self.sums)
            .into_iter()
            .map(|(name, (sum, count))| (name, sum / count as f64))
            .collect();
        let words: Vec<String> = (metrics.iter())
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        let line = Line {
            kind: kind.to_string(),
            step,
            metrics,
        };
        writeln!(self.file, "{}", to_json(&line)).map_err(TrainError::file(&self.path))?;
        Ok(format!("{kind} {step}: {}", words.join(", ")))
    }

    /// As [`Self::write`], unless nothing was measured.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self, kind: &str, step: u64) -> Result<()> {
        if !self.sums.is_empty() {
            self.write(kind, step)?;
        }
        Ok(())
    }

    /// Draws the curves of the whole log.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        curves::draw(&read_log(&self.path)?, path)
    }
}

/// The lines of a log; a torn last line, left by a sudden end, is dropped.
///
/// # Errors
/// If the file is there but cannot be read.
pub fn read_log(path: &Path) -> Result<Vec<Line>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).map_err(TrainError::file(path))?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn to_json(line: &Line) -> String {
    serde_json::to_string(line).expect("a line holds only plain data")
}
