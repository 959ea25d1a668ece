//! What the workers of one domain share: its queue, its window, and the lease they work under.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_ledger::query::Held;
use holdfast_ledger::{KvError, Seq, query};
use holdfast_mail::{Domain, NodeId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::counters::Counters;
use super::lease::Lease;
use super::queue::{After, Job, Look, PAGE_ROWS, Queue};
use super::window::Window;
use crate::destination::Destination;
use crate::replica::Cluster;

/// How long to leave the state alone after it could not be read. The replica stops the node if
/// it stays so.
const STATE_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Desk {
    pub(super) destination: Destination,
    /// Nobody's who is a customer: knocked at rarely, and believed.
    pub(super) is_strangers: bool,
    pub(super) lease: Lease,
    pub(super) counters: Counters,
    /// Wakes workers without work: there may be some.
    pub(super) work: Notify,
    /// Wakes the round: the window grew, or something else calls for another look.
    pub(super) round: Notify,
    flushes: AtomicU64,
    /// How often the primary took a session.
    sessions: AtomicU64,
    board: Mutex<Board>,
}

struct Board {
    queue: Queue,
    window: Window,
    /// Workers with a message.
    engaged: usize,
    /// Nothing is started before this: the primary defers everything, or broke a connection.
    not_before: Option<Instant>,
}

/// What there is to do for one more worker.
pub(super) enum Opening {
    Now,
    /// Not before then, as far as is known.
    Later(Option<Instant>),
}

impl Desk {
    pub(super) fn new(
        destination: Destination,
        is_strangers: bool,
        lease: Lease,
        counters: Counters,
        connections_max: usize,
    ) -> Self {
        Self {
            destination,
            is_strangers,
            lease,
            counters,
            work: Notify::new(),
            round: Notify::new(),
            flushes: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            board: Mutex::new(Board {
                queue: Queue::default(),
                window: Window::new(connections_max),
                engaged: 0,
                not_before: None,
            }),
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.destination.cluster
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.destination.domain
    }

    pub(super) fn me(&self) -> NodeId {
        self.cluster().me().id
    }

    /// There may be new mail.
    pub(super) fn more(&self) {
        self.board().queue.more();
        self.work.notify_waiters();
        self.round.notify_one();
    }

    /// Mail is back at its old place in the queue.
    pub(super) fn again(&self) {
        self.board().queue.again();
        self.work.notify_waiters();
        self.round.notify_one();
    }

    /// The primary was given another address, or something else about it is new.
    pub(super) fn changed(&self) {
        self.board().window.reset();
        self.flush();
    }

    /// Everything is to be tried now: somebody says the primary is back. It may be a stranger, again and
    /// again, so that connections that work are left alone.
    pub(super) fn flush(&self) {
        let mut board = self.board();
        board.queue.flush(Instant::now());
        board.not_before = None;
        drop(board);
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.work.notify_waiters();
        self.round.notify_one();
    }

    /// Changes with every flush.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// The primary has just taken a session: if the cluster says otherwise, it is told.
    pub(super) fn is_up(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        crate::reach::is_up(self.cluster(), self.domain());
    }

    /// Changes with every session.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The primary answered a probe.
    pub(super) fn primary_is_back(&self) {
        let mut board = self.board();
        board.queue.primary_is_back(Instant::now());
        board.window.reset();
        board.not_before = None;
    }

    /// The next message, for a worker that has a session.
    pub(super) fn take(&self) -> Option<Job> {
        let mut board = self.board();
        let now = Instant::now();
        if board.not_before.is_some_and(|at| at > now) || !self.lease.is_live() {
            return None;
        }
        let found = self.look(&mut board.queue, now);
        if found.is_ok() {
            let job = board.queue.take()?;
            board.engaged += 1;
            return Some(job);
        }
        None
    }

    /// Whether one more worker than `workers` has something to do. Wakes those without work if
    /// there is some for them.
    pub(super) fn opening(&self, workers: usize) -> Opening {
        let mut board = self.board();
        let now = Instant::now();
        if let Some(at) = board.not_before.filter(|at| *at > now) {
            return Opening::Later(Some(at));
        }
        if let Err(until) = self.look(&mut board.queue, now) {
            return Opening::Later(until);
        }
        let idle = workers.saturating_sub(board.engaged);
        if workers < board.window.size() && board.queue.ready() > idle {
            return Opening::Now;
        }
        if idle > 0 {
            self.work.notify_waiters();
        }
        Opening::Later(None)
    }

    /// There are more workers than the window has room for.
    pub(super) fn is_crowded(&self, workers: usize) -> bool {
        workers > self.board().window.size()
    }

    /// A worker is through with a message: it counts as busy until it is settled.
    pub(super) fn disengage(&self, seq: Seq) {
        let mut board = self.board();
        board.queue.ended(seq, Instant::now());
        board.engaged = board.engaged.saturating_sub(1);
    }

    /// The primary took or refused a message: it works.
    pub(super) fn answered(&self) {
        if self.board().window.answered() {
            self.round.notify_one();
        }
    }

    /// The primary put a message off for all recipients.
    pub(super) fn deferred(&self) {
        let mut board = self.board();
        if let Some(pause) = board.window.deferred(jitter()) {
            board.not_before = Some(Instant::now() + pause);
        }
    }

    /// A connection failed, and others go on.
    pub(super) fn failed(&self, pause: Duration) {
        let mut board = self.board();
        board.window.failed();
        board.not_before = Some(Instant::now() + pause);
    }

    /// Attempts are over, and the view shows what was recorded of them.
    pub(super) fn settle(&self, attempts: impl IntoIterator<Item = (Seq, After)>) {
        let mut board = self.board();
        let now = Instant::now();
        for (seq, after) in attempts {
            board.queue.settle(seq, after, now);
        }
        drop(board);
        self.work.notify_waiters();
        self.round.notify_one();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.board().queue.is_drained()
    }

    /// Whether the ledger holds anything to deliver.
    pub(super) fn holds_mail(&self) -> Result<bool, KvError> {
        let first = query::held(&self.cluster().view(), self.domain(), None, 1)?;
        Ok(!first.is_empty())
    }

    /// The row as the view has it now.
    pub(super) fn row(&self, seq: Seq) -> Result<Option<Held>, KvError> {
        let before = seq.0.checked_sub(1).map(Seq);
        let rows = query::held(&self.cluster().view(), self.domain(), before, 1)?;
        Ok(rows.into_iter().find(|row| row.seq == seq))
    }

    /// `Ok`: a message can be taken.
    fn look(&self, queue: &mut Queue, now: Instant) -> Result<(), Option<Instant>> {
        loop {
            let read = match queue.look(now) {
                Look::Ready => return Ok(()),
                Look::Nothing { until } => return Err(until),
                Look::Row(seq) => self.row(seq).map(|row| queue.add_row(seq, row)),
                Look::Page { after } => {
                    query::held(&self.cluster().view(), self.domain(), after, PAGE_ROWS)
                        .map(|rows| queue.add_page(rows))
                }
            };
            if let Err(error) = read {
                tracing::error!(domain = %self.domain(), %error, "held mail cannot be listed");
                return Err(Some(now + STATE_WAIT));
            }
        }
    }

    /// A worker that panicked left nothing half-done that matters here: every change is one
    /// call.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For times of retry. Without randomness messages are retried together, which is no harm.
pub(super) fn jitter() -> u32 {
    u32::from_be_bytes(crate::world::random())
}
