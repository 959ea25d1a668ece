//! Group commit: one thread that flushes, and callbacks in the order of their writes.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_mail::mutant;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Options;

/// How long the thread waits for another write before it does what was left for later.
const IDLE: Duration = Duration::from_secs(1);

/// How long flushes took. Cheap to clone: every clone counts into the same cells.
#[derive(Clone, Debug)]
pub struct FlushTimes(Histogram);

impl Default for FlushTimes {
    fn default() -> Self {
        // 0.25 ms, of a disk with a protected cache, to about 4 s, of one that fails.
        Self(Histogram::new(exponential_buckets(0.00025, 2.0, 15)))
    }
}

impl FlushTimes {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "disk_flush_seconds",
            "How long the disk took to make writes durable (fsync)",
            self.0.clone(),
        );
    }
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// When something is done after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Callers wait.
    Busy,
    /// Nobody does.
    Idle,
}

/// The thread's other end. Dropping it flushes what is left and ends the thread.
pub(super) struct Flusher {
    queue: Option<Sender<Done>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    /// `flush` makes everything written before the call durable; `after` runs after each
    /// successful flush, before its callbacks, and once more when nothing was written for a
    /// while, or ever will be.
    pub(super) fn start(
        name: &str,
        dir: PathBuf,
        options: Options,
        flush: impl Fn() -> Result<(), rocksdb::Error> + Send + 'static,
        after: impl FnMut(Moment) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, waiting) = channel();
        #[cfg(test)]
        if crate::world::simulated::here().is_some() {
            tokio::spawn(run_simulated(waiting, dir, options, flush, after));
            return Ok(Self {
                queue: Some(queue),
                thread: Mutex::default(),
            });
        }
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
    mut after: impl FnMut(Moment) -> io::Result<()>,
) {
    let mut idle = true;
    loop {
        let next = if idle {
            waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            waiting.recv_timeout(IDLE)
        };
        let mut covered = Vec::new();
        let outcome = match next {
            Ok(first) => {
                // All of these were written before they were queued, so one flush covers them.
                covered.push(first);
                covered.extend(waiting.try_iter());
                if mutant("acknowledged-before-flush") {
                    covered.drain(..).for_each(|done| done(Ok(())));
                }
                idle = false;
                let begin = Instant::now();
                let flushed = flush();
                options.flush_times.0.observe(begin.elapsed().as_secs_f64());
                flushed
                    .map_err(super::broken)
                    .and_then(|()| after(Moment::Busy))
            }
            Err(RecvTimeoutError::Timeout) => {
                idle = true;
                after(Moment::Idle)
            }
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(error) = after(Moment::Idle) {
                    options.failed(dir, "the last flush", &error);
                }
                return;
            }
        };
        match outcome {
            Ok(()) => covered.into_iter().for_each(|done| done(Ok(()))),
            Err(_) if mutant("flush-error-ignored") => {
                covered.into_iter().for_each(|done| done(Ok(())));
            }
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

/// The thread as a task, on a disk that the simulation makes slow, and breaks.
#[cfg(test)]
async fn run_simulated(
    waiting: Receiver<Done>,
    dir: PathBuf,
    options: Options,
    flush: impl Fn() -> Result<(), rocksdb::Error>,
    mut after: impl FnMut(Moment) -> io::Result<()>,
) {
    use std::sync::mpsc::TryRecvError;

    use crate::world::simulated::here;
    loop {
        let latency = here().map_or(1, |machine| 1 + machine.roll() % 8);
        // Asked before the wait: what is written during it is not covered.
        let mut covered: Vec<Done> = match waiting.try_recv() {
            Ok(first) => std::iter::once(first).chain(waiting.try_iter()).collect(),
            Err(TryRecvError::Empty) => Vec::new(),
            Err(TryRecvError::Disconnected) => return,
        };
        if mutant("acknowledged-before-flush") {
            covered.drain(..).for_each(|done| done(Ok(())));
        }
        tokio::time::sleep(Duration::from_millis(latency)).await;
        if covered.is_empty() && !mutant("acknowledged-before-flush") {
            continue;
        }
        let outcome = if here().is_some_and(|machine| machine.take_disk_failure()) {
            Err(io::Error::other("IO error: Input/output error"))
        } else {
            flush()
                .map_err(super::broken)
                .and_then(|()| after(Moment::Busy))
        };
        match outcome {
            Err(error) if !mutant("flush-error-ignored") => {
                options.failed(&dir, "a flush", &error);
                return;
            }
            _ => covered.into_iter().for_each(|done| done(Ok(()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// RocksDB makes its errors itself.
    fn some_error() -> rocksdb::Error {
        rocksdb::DB::open_default("/dev/null/nowhere")
            .err()
            .unwrap()
    }

    #[test]
    fn a_failed_flush_is_told_to_all_who_wait_and_nothing_is_flushed_again() {
        let dir = tempfile::tempdir().unwrap();
        let fatal = Arc::new(Mutex::new(Vec::new()));
        let options = Options {
            flush_times: FlushTimes::default(),
            failures: crate::store::Failures::default(),
            fatal: {
                let fatal = fatal.clone();
                Arc::new(move |why| fatal.lock().unwrap().push(why))
            },
        };
        let (flushes, counted) = channel();
        let flush = move || {
            flushes.send(()).unwrap();
            Err(some_error())
        };
        let flusher = Flusher::start("test", dir.path().to_owned(), options, flush, |_| Ok(()));
        let flusher = flusher.unwrap();
        let (tell, told) = channel();
        for _ in 0..3 {
            let tell = tell.clone();
            flusher.flushed(move |result| tell.send(result).unwrap());
        }
        drop(tell);
        assert!(told.iter().all(|result| result.is_err()));
        drop(flusher);
        assert_eq!(counted.iter().count(), 1);
        assert_eq!(fatal.lock().unwrap().len(), 1, "the process ends");
    }
}
