//! Group commit: one thread that flushes, and callbacks in the order of their writes.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Options;

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The thread's other end. Dropping it flushes what is left and ends the thread.
pub(super) struct Flusher {
    queue: Option<Sender<Done>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    /// `flush` makes everything written before the call durable; `after` runs after each
    /// successful flush, before its callbacks.
    pub(super) fn start(
        name: &str,
        dir: PathBuf,
        options: Options,
        flush: impl Fn() -> Result<(), rocksdb::Error> + Send + 'static,
        after: impl FnMut() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, waiting) = channel();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&waiting, &dir, &options, flush, after))?;
        Ok(Self {
            queue: Some(queue),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Calls `done` once everything written so far is durable.
    pub(super) fn flushed(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let done: Done = Box::new(done);
        let refused = match &self.queue {
            Some(queue) => queue.send(done).err().map(|unsent| unsent.0),
            None => Some(done),
        };
        // The thread only ends before us when a flush has failed.
        if let Some(done) = refused {
            done(Err(io::Error::other(
                "the store has failed; nothing more is written",
            )));
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.queue.take());
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A callback may hold the last handle to the store: the thread cannot wait for itself.
        let other = thread.filter(|thread| thread.thread().id() != std::thread::current().id());
        if let Some(Err(_)) = other.map(JoinHandle::join) {
            tracing::error!("the flusher ended in a panic");
        }
    }
}

fn run(
    waiting: &Receiver<Done>,
    dir: &std::path::Path,
    options: &Options,
    flush: impl Fn() -> Result<(), rocksdb::Error>,
    mut after: impl FnMut() -> io::Result<()>,
) {
    while let Ok(first) = waiting.recv() {
        // All of these were written before they were queued, so one flush covers them.
        let mut covered = vec![first];
        covered.extend(waiting.try_iter());
        let outcome = flush().map_err(super::broken).and_then(|()| after());
        match outcome {
            Ok(()) => covered.into_iter().for_each(|done| done(Ok(()))),
            Err(error) => {
                // First of all: somebody who hears of it may end the process.
                options.failed(dir, "a flush", &error);
                for done in covered {
                    done(Err(io::Error::new(error.kind(), error.to_string())));
                }
                return;
            }
        }
    }
}
