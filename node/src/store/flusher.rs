//! Group commit: one thread that flushes, and callbacks in the order of their writes.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Options;
use super::engine::Engine;
use super::place::Place;

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The thread's other end. Dropping it flushes what is left and ends the thread.
pub(super) struct Flusher {
    queue: Option<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Queue {
    Thread(Sender<Done>),
    #[cfg(test)]
    Simulated(tokio::sync::mpsc::UnboundedSender<Done>),
}

impl Flusher {
    /// `after` runs after each successful flush, before its callbacks.
    pub(super) fn start(
        name: &str,
        place: Place,
        options: Options,
        engine: Arc<Engine>,
        after: impl FnMut() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        #[cfg(test)]
        if let Place::Simulated(_) = place {
            let (queue, waiting) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(simulate(waiting, place, options, engine, after));
            return Ok(Self {
                queue: Some(Queue::Simulated(queue)),
                thread: Mutex::default(),
            });
        }
        let (queue, waiting) = channel();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&waiting, &place, &options, &engine, after))?;
        Ok(Self {
            queue: Some(Queue::Thread(queue)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Calls `done` once everything written so far is durable.
    pub(super) fn flushed(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let done: Done = Box::new(done);
        let refused = match &self.queue {
            Some(Queue::Thread(queue)) => queue.send(done).err().map(|unsent| unsent.0),
            #[cfg(test)]
            Some(Queue::Simulated(queue)) => queue.send(done).err().map(|unsent| unsent.0),
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
    place: &Place,
    options: &Options,
    engine: &Engine,
    mut after: impl FnMut() -> io::Result<()>,
) {
    while let Ok(first) = waiting.recv() {
        // All of these were written before they were queued, so one flush covers them.
        let mut covered = vec![first];
        covered.extend(waiting.try_iter());
        let outcome = engine.flush().and_then(|()| after());
        if !answer(covered, outcome, place, options) {
            return;
        }
    }
}

/// Tells everybody a flush covers how it went. Says whether to go on.
fn answer(covered: Vec<Done>, outcome: io::Result<()>, place: &Place, options: &Options) -> bool {
    match outcome {
        Ok(()) => {
            covered.into_iter().for_each(|done| done(Ok(())));
            true
        }
        Err(error) => {
            // First of all: somebody who hears of it may end the process.
            options.failed(place, "a flush", &error);
            for done in covered {
                done(Err(io::Error::new(error.kind(), error.to_string())));
            }
            false
        }
    }
}

/// The same as a task, on a disk that takes simulated time.
#[cfg(test)]
async fn simulate(
    mut waiting: tokio::sync::mpsc::UnboundedReceiver<Done>,
    place: Place,
    options: Options,
    engine: Arc<Engine>,
    mut after: impl FnMut() -> io::Result<()>,
) {
    while let Some(first) = waiting.recv().await {
        let mut covered = vec![first];
        while let Ok(more) = waiting.try_recv() {
            covered.push(more);
        }
        let Engine::Simulated(database) = &*engine else {
            return;
        };
        let outcome = database.flush_slowly().await.and_then(|()| after());
        if !answer(covered, outcome, &place, &options) {
            return;
        }
    }
}
