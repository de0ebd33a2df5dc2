//! Worker threads that prepare batches ahead of the training, in order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::{Result, TrainError};

/// Batches each worker may have ready.
const AHEAD: usize = 2;

/// Makes batch `i`: a pure function of `i`, so that a resumed run sees what an unbroken one would.
pub type MakeBatch<B> = Arc<dyn Fn(u64) -> Result<B> + Send + Sync>;

/// An endless sequence of batches, made by threads; batch `i` comes `i`-th whoever made it.
///
/// Dropping it waits until the threads have ended, each after the batch that it is making: a GPU may not be used by a
/// thread that outlives the program.
pub struct BatchStream<B> {
    receivers: Vec<Receiver<Result<B>>>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
}

impl<B> Drop for BatchStream<B> {
    fn drop(&mut self) {
        self.receivers.clear();
        for thread in self.threads.drain(..) {
            // One that panicked was an error when its batch was asked for.
            let _ = thread.join();
        }
    }
}

impl<B: Send + 'static> BatchStream<B> {
    /// Starts at batch `first` with `workers` threads.
    pub fn start(make: MakeBatch<B>, first: u64, workers: usize) -> Self {
        let workers = workers.max(1) as u64;
        // Worker w makes the batches that are w modulo the number of workers.
        let (receivers, threads) = (0..workers)
            .map(|w| {
                let (sender, receiver) = sync_channel(AHEAD);
                let make = make.clone();
                let begin = first + (w + workers - first % workers) % workers;
                let thread = thread::spawn(move || work(&make, &sender, (begin, workers)));
                (receiver, thread)
            })
            .unzip();
        Self {
            receivers,
            threads,
            next: first,
        }
    }

    /// The next batch; waits for it.
    ///
    /// # Errors
    /// What making it failed with.
    pub fn next_batch(&mut self) -> Result<B> {
        let worker = (self.next % self.receivers.len() as u64) as usize;
        self.next += 1;
        self.receivers[worker]
            .recv()
            .map_err(|_| TrainError::Data("a thread that prepares batches died".into()))?
    }
}

fn work<B>(make: &MakeBatch<B>, sender: &SyncSender<Result<B>>, (begin, stride): (u64, u64)) {
    let mut index = begin;
    // Sending fails when nobody listens any more: the end of the training.
    while sender.send(make(index)).is_ok() {
        index += stride;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_order_from_any_start() {
        for workers in [1, 2, 3] {
            for first in [0, 1, 5, 100] {
                let make: MakeBatch<u64> = Arc::new(|i| Ok(i * i));
                let mut stream = BatchStream::start(make, first, workers);
                for i in first..first + 20 {
                    assert_eq!(stream.next_batch().unwrap(), i * i);
                }
            }
        }
    }

    #[test]
    fn a_panic_is_an_error_here() {
        let make: MakeBatch<u64> = Arc::new(|i| if i < 2 { Ok(i) } else { panic!("as planned") });
        let mut stream = BatchStream::start(make, 0, 1);
        assert_eq!(stream.next_batch().unwrap(), 0);
        assert_eq!(stream.next_batch().unwrap(), 1);
        assert!(stream.next_batch().is_err());
    }
}
