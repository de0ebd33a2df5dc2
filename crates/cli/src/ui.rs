//! How progress reaches the person or the program that waits: a bar, plain lines, or JSON events.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gallop_core::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Seconds between two lines where no terminal draws a bar.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The way progress is told: JSON on standard output if asked for, a bar on a
/// terminal, else a line now and then on standard error.
pub fn progress(json: bool) -> Box<dyn Progress> {
    if json {
        Box::new(Events(Mutex::new(Stage::new("", 0))))
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar(Mutex::new(ProgressBar::hidden())))
    } else {
        Box::new(Lines(Mutex::new(Stage::new("", 0))))
    }
}

/// Prints one JSON event on standard output.
pub fn event(value: &Value) {
    print(&value.to_string());
}

/// Prints a line, or several, on standard output.
///
/// A reader that went away is no reason to fail: the clip is still written.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end());
    let _ = out.flush();
}

/// What a stage reports sooner than this was done before it began: work that goes on from a checkpoint.
const AT_ONCE: Duration = Duration::from_millis(50);

/// A stage under way and what is needed to guess its end.
struct Stage {
    name: String,
    total: u64,
    /// Done before it began.
    before: u64,
    start: Instant,
    told: Instant,
}

impl Stage {
    fn new(name: &str, total: u64) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_string(),
            total,
            before: 0,
            start: now,
            told: now,
        }
    }

    /// Takes note that so many steps are done.
    fn at(&mut self, done: u64) {
        if self.start.elapsed() < AT_ONCE {
            self.before = done;
        }
    }

    /// Seconds left if the rest goes as the part behind did.
    fn seconds_left(&self, done: u64) -> Option<f64> {
        let left = self.total.saturating_sub(done) as f64;
        let own = done.saturating_sub(self.before);
        (own > 0).then(|| self.start.elapsed().as_secs_f64() / own as f64 * left)
    }
}

struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn style() -> ProgressStyle {
        ProgressStyle::with_template("{msg:<12} {wide_bar} {pos}/{len}  {elapsed} gone, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

impl Progress for Bar {
    fn stage(&self, name: &str, total: u64) {
        let bar = ProgressBar::new(total)
            .with_style(Self::style())
            .with_message(name.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        if let Ok(mut current) = self.0.lock() {
            current.finish();
            *current = bar;
        }
    }

    fn at(&self, done: u64) {
        if let Ok(bar) = self.0.lock() {
            bar.set_position(done);
            if bar.elapsed() < AT_ONCE {
                bar.reset_eta();
            }
        }
    }

    fn note(&self, message: &str) {
        if let Ok(bar) = self.0.lock() {
            bar.suspend(|| eprintln!("{message}"));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Ok(bar) = self.0.lock() {
            bar.finish();
        }
    }
}

struct Lines(Mutex<Stage>);

impl Progress for Lines {
    fn stage(&self, name: &str, total: u64) {
        eprintln!("{name}");
        if let Ok(mut stage) = self.0.lock() {
            *stage = Stage::new(name, total);
        }
    }

    fn at(&self, done: u64) {
        let Ok(mut stage) = self.0.lock() else { return };
        stage.at(done);
        if stage.told.elapsed() < LINE_INTERVAL {
            return;
        }
        stage.told = Instant::now();
        let left = stage.seconds_left(done).unwrap_or_default();
        eprintln!("{} {done}/{}, {left:.0} s left", stage.name, stage.total);
    }

    fn note(&self, message: &str) {
        eprintln!("{message}");
    }
}

struct Events(Mutex<Stage>);

impl Progress for Events {
    fn stage(&self, name: &str, total: u64) {
        event(&json!({"event": "stage", "stage": name, "total": total}));
        if let Ok(mut stage) = self.0.lock() {
            *stage = Stage::new(name, total);
        }
    }

    fn at(&self, done: u64) {
        let Ok(mut stage) = self.0.lock() else { return };
        stage.at(done);
        event(&json!({
            "event": "progress",
            "stage": stage.name,
            "done": done,
            "total": stage.total,
            "seconds_left": stage.seconds_left(done),
        }));
    }

    fn note(&self, message: &str) {
        event(&json!({"event": "note", "message": message}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_done_before_is_not_counted_as_fast() {
        let mut stage = Stage::new("training", 1000);
        stage.at(900);
        stage.start -= Duration::from_secs(10);
        // Ten steps took ten seconds; 90 are left.
        let left = stage.seconds_left(910).unwrap();
        assert!((left - 90.0).abs() < 1.0, "{left}");
        assert!(stage.seconds_left(900).is_none());
    }
}
