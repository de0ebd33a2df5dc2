//! What has been measured so far: one JSON line a clip, written as it comes, so that an evaluation
//! that was stopped goes on where it was.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use gallop_eval::Measures;
use serde::{Deserialize, Serialize};

/// One line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Everything that the measurement depends on besides the prompt.
    setting: String,
    /// `model`, `ceiling`, `floor` or `real`.
    column: String,
    measures: Measures,
}

/// The measurements of one setting, in memory and in the file.
pub struct Record {
    path: PathBuf,
    file: File,
    setting: String,
    /// Column and prompt -> measurement.
    measured: BTreeMap<(String, String), Measures>,
}

impl Record {
    /// Opens or begins the file and takes what was measured in the same setting. Lines of other
    /// settings, and one cut off by a crash, stay and do not count.
    pub fn open(path: &Path, setting: String) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("cannot read `{}`", path.display()))?,
        };
        let measured = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok())
            .filter(|line| line.setting == setting)
            .map(|line| ((line.column, line.measures.prompt.clone()), line.measures))
            .collect();
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut record = Self {
            path: path.to_owned(),
            file: file.with_context(|| format!("cannot write `{}`", path.display()))?,
            setting,
            measured,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            record.write("\n")?;
        }
        Ok(record)
    }

    /// How many measurements there are.
    pub fn len(&self) -> usize {
        self.measured.len()
    }

    /// The measurement of a prompt's clip.
    pub fn get(&self, column: &str, prompt: &str) -> Option<&Measures> {
        self.measured.get(&(column.to_string(), prompt.to_string()))
    }

    /// Adds a measurement and writes it at once.
    pub fn add(&mut self, column: &str, measures: Measures) -> Result<()> {
        let line = Line {
            setting: self.setting.clone(),
            column: column.to_string(),
            measures,
        };
        let text = serde_json::to_string(&line)? + "\n";
        self.write(&text)?;
        let key = (line.column, line.measures.prompt.clone());
        self.measured.insert(key, line.measures);
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write `{}`", self.path.display()))
    }
}

/// Which weights: sizes and times of the folder's files, or of this program.
pub fn identity(folder: Option<&Path>) -> String {
    let stamp = |path: &Path| -> Option<(u64, u64)> {
        let meta = fs::metadata(path).ok()?;
        let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some((meta.len(), time.as_secs()))
    };
    let files: Vec<PathBuf> = match folder {
        None => std::env::current_exe().into_iter().collect(),
        Some(folder) => {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|e| e.path()).collect();
            files.sort();
            files
        }
    };
    let stamps = files.iter().filter_map(|f| stamp(f));
    let (bytes, newest) = stamps.fold((0, 0), |(b, t), s| (b + s.0, t.max(s.1)));
    format!("{bytes}@{newest}")
}

/// Lets the peak of this process's memory be counted anew, where the system can.
pub fn forget_peak() {
    // Where it cannot, the peak is that of the whole run: still an upper bound.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process has used since, in MiB, where the system tells.
pub fn peak_mib() -> Option<f64> {
    let bytes = gallop_model::memory::peak();
    (bytes > 0).then(|| bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(prompt: &str) -> Measures {
        Measures {
            prompt: prompt.into(),
            ..Measures::default()
        }
    }

    #[test]
    fn what_was_measured_is_there_again_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clips.jsonl");
        let mut record = Record::open(&path, "a".into()).unwrap();
        record.add("model", clip("one")).unwrap();
        record.add("real", clip("one")).unwrap();
        drop(record);
        let torn = fs::read_to_string(&path).unwrap() + "{\"setting\":\"a\",\"col";
        fs::write(&path, torn).unwrap();
        let mut again = Record::open(&path, "a".into()).unwrap();
        assert_eq!(again.len(), 2);
        assert!(again.get("model", "one").is_some() && again.get("model", "two").is_none());
        again.add("model", clip("two")).unwrap();
        assert_eq!(Record::open(&path, "a".into()).unwrap().len(), 3);
        assert_eq!(Record::open(&path, "b".into()).unwrap().len(), 0);
    }

    /// What is held when the count begins anew counts, what was given back before does not.
    #[test]
    fn the_peak_is_counted_anew_from_what_is_held() {
        const MIB: usize = 64;
        if peak_mib().is_none() {
            return;
        }
        let fill = || std::hint::black_box(vec![1u8; MIB << 20]);
        let (held, dropped) = (fill(), fill());
        let with_both = peak_mib().unwrap();
        drop(dropped);
        forget_peak();
        let with_one = peak_mib().unwrap();
        // Other tests take and give memory meanwhile, but not as much.
        let margin = MIB as f64 / 2.0;
        assert!(with_one <= with_both - margin, "{with_both}, {with_one}");
        assert!(with_one >= held.len() as f64 / f64::from(1 << 20));
        let again = fill();
        let with_two = peak_mib().unwrap();
        assert!(with_two >= with_one + margin, "{with_one}, {with_two}");
        assert!(again.len() == held.len());
    }
}
