//! The layers of a transformer larger than the memory: some stay, others are read anew while the one before is in use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use super::DitConfig;
use super::block::Block;
use super::matrix::{Form, MatrixSource};
use crate::error::{ModelError, Result};
use crate::weights::Weights;

/// Layers read by a thread of their own, one ahead of the one in use.
pub(super) struct Store {
    /// Those that stay, once they were read.
    kept: Vec<OnceLock<Arc<Block>>>,
    stays: Vec<bool>,
    pipe: Mutex<Pipe>,
    /// Ends when the pipe's way to it closes.
    reader: Option<JoinHandle<()>>,
}

/// The way to the reading thread and back.
struct Pipe {
    ask: Option<SyncSender<usize>>,
    answers: Receiver<Result<Passing>>,
    /// The layer that was asked for and not yet taken.
    asked: Option<usize>,
}

/// A layer in use.
pub(super) enum Loaded {
    /// It stays in memory.
    Kept(Arc<Block>),
    /// It leaves memory after use.
    Passing(Passing),
}

/// A layer whose mapped memory is given back when it is dropped.
pub(super) struct Passing(Option<Box<Block>>);

impl Passing {
    fn keep(mut self) -> Option<Block> {
        self.0.take().map(|block| *block)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(block) = &self.0 {
            block.release();
        }
    }
}

impl Loaded {
    /// The layer.
    pub fn block(&self) -> Result<&Block> {
        match self {
            Self::Kept(block) => Ok(block),
            Self::Passing(passing) => passing.0.as_deref().ok_or_else(stopped),
        }
    }
}

/// What the reading thread needs.
struct Reader {
    config: DitConfig,
    weights: Weights,
    form: Form,
    /// Layers whose numbers were looked at.
    checked: Vec<AtomicBool>,
}

impl Reader {
    /// Reads a layer from the disk, and looks at its numbers the first time.
    fn read(&self, i: usize) -> Result<Passing> {
        let form = inner_form(self.form, i, self.config.layers.len());
        let look = !self.checked[i].swap(true, Ordering::Relaxed);
        let source = MatrixSource {
            weights: self.weights.clone(),
            form: Some(form),
            look,
        };
        let block = Block::new(&self.config, i, &source)?;
        let block = Passing(Some(Box::new(block)));
        if let Some(block) = &block.0 {
            block.fetch();
            if look {
                block.check_finite(i)?;
            }
        }
        Ok(block)
    }
}

/// The form of layer `i`: the first and the last are never put in fewer bits, since errors there cost most.
pub(super) fn inner_form(form: Form, i: usize, layers: usize) -> Form {
    match form {
        Form::Fewer(_) if i == 0 || i + 1 == layers => Form::Bf16,
        form => form,
    }
}

fn stopped() -> ModelError {
    ModelError::Config("the thread that reads layers has ended".into())
}

impl Store {
    /// Layers of `weights`, of which those of `stays` stay.
    pub fn new(
        config: &DitConfig,
        weights: &Weights,
        form: Form,
        stays: Vec<bool>,
    ) -> Result<Self> {
        let layers = config.layers.len();
        let reader = Reader {
            config: config.clone(),
            weights: weights.clone(),
            form,
            checked: (0..layers).map(|_| AtomicBool::new(false)).collect(),
        };
        // One layer is asked for at a time, so nothing waits in the channels.
        let (ask, asked) = sync_channel::<usize>(1);
        let (answer, answers) = sync_channel(1);
        let work = move || {
            while let Ok(i) = asked.recv() {
                if answer.send(reader.read(i)).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("layers".into())
            .spawn(work);
        Ok(Self {
            kept: (0..layers).map(|_| OnceLock::new()).collect(),
            stays,
            pipe: Mutex::new(Pipe {
                ask: Some(ask),
                answers,
                asked: None,
            }),
            reader: Some(thread.map_err(ModelError::io("a thread for reading layers"))?),
        })
    }

    /// Layer `i`; the next one that is not in memory is being read when this returns.
    pub fn layer(&self, i: usize) -> Result<Loaded> {
        // A panic elsewhere leaves at worst an answer that was not taken.
        let mut pipe = self.pipe.lock().unwrap_or_else(|e| e.into_inner());
        let loaded = match self.kept[i].get() {
            Some(block) => Loaded::Kept(block.clone()),
            None => self.take(&mut pipe, i)?,
        };
        if pipe.asked.is_none()
            && let Some(next) = self.next(i)
        {
            pipe.ask(next)?;
        }
        Ok(loaded)
    }

    fn take(&self, pipe: &mut Pipe, i: usize) -> Result<Loaded> {
        if pipe.asked.is_some_and(|asked| asked != i) {
            // Another user of the same layers is elsewhere in the depth.
            drop(pipe.answer()?);
        }
        if pipe.asked.is_none() {
            pipe.ask(i)?;
        }
        let passing = pipe.answer()??;
        if !self.stays[i] {
            return Ok(Loaded::Passing(passing));
        }
        let block = Arc::new(passing.keep().ok_or_else(stopped)?);
        Ok(Loaded::Kept(self.kept[i].get_or_init(|| block).clone()))
    }

    /// The layer after `i`, in turn, that has to be read.
    fn next(&self, i: usize) -> Option<usize> {
        let layers = self.kept.len();
        let mut after = (1..layers).map(|step| (i + step) % layers);
        after.find(|&j| self.kept[j].get().is_none())
    }
}

impl Pipe {
    fn ask(&mut self, i: usize) -> Result<()> {
        let ask = self.ask.as_ref().ok_or_else(stopped)?;
        ask.send(i).map_err(|_| stopped())?;
        self.asked = Some(i);
        Ok(())
    }

    fn answer(&mut self) -> Result<Result<Passing>> {
        self.asked = None;
        self.answers.recv().map_err(|_| stopped())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let pipe = self.pipe.get_mut().unwrap_or_else(|e| e.into_inner());
        pipe.ask = None;
        if pipe.asked.take().is_some() {
            // The layer on its way gives its memory back here.
            drop(pipe.answers.recv());
        }
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has nothing more to say.
            let _ = reader.join();
        }
        for block in self.kept.iter().filter_map(OnceLock::get) {
            block.release();
        }
    }
}
