//! Delivers for one domain, from the grant of the lease to its end.
//!
//! While the primary is up, workers are hired as the window allows. While it is away no mail
//! is touched: a probe knocks every few seconds, and the session it gets carries the first
//! message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_ledger::Seen;
use holdfast_proto::cluster::Happening;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::carrier::{Carrier, Ended, Opened};
use super::desk::{Desk, Opening, jitter};
use super::queue::BUSY_MAX;
use super::recorder;
use crate::destination::Unreachable;
use crate::history;
use crate::reach::{self, Failed};
use crate::world::select;

/// Time between the beginnings of two probes, the shortest and what is drawn on top: a
/// primary's return is noticed within five seconds, and nodes and domains do not knock in
/// step.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
const PROBE_JITTER: Duration = Duration::from_secs(1);

/// How long a probe waits for banner and EHLO at first. A primary that hangs must not hold up
/// the next probe.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// How long it waits in the end: after each probe that was too impatient twice as long, for
/// the sake of a primary that is slow (RFC 5321 section 4.5.3.2.1 grants it five minutes).
const PROBE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Pause after a connection failed while others go on.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// How long a primary is tried from here before the others are asked: by then it is no restart.
const ASK_AFTER: Duration = Duration::from_secs(10);

/// How long until they are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// How the round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// Nothing is left, or delivering was to stop: the lease can be released.
    Done,
    /// As above, because another node reaches the primary and this one does not.
    Elsewhere,
    /// As above, because a stranger's server was not reached: it is tried again much later.
    Resting,
    /// The lease is no longer ours.
    LeaseLost,
}

enum Primary {
    Up,
    Away {
        /// When the next probe begins; `None` while one is under way.
        probe_at: Option<Instant>,
        /// How long the next one waits.
        patience: Duration,
        /// When to ask other nodes whether they reach it; `None` while they are asked.
        ask_at: Option<Instant>,
        /// What an operator was told last.
        told: String,
    },
    /// Away from here, and not from there.
    Elsewhere,
    /// A stranger's, and away: nobody waits for its return by the second.
    Resting,
    /// A stranger's that does not exist: its mail is being given back.
    Nowhere,
}

enum Task {
    Carried(Ended),
    Probed {
        begun: Instant,
        /// `None`: mail went another way before the host said anything.
        result: Result<Option<Box<Opened>>, Unreachable>,
    },
    Asked {
        elsewhere: bool,
    },
}

struct Round {
    carrier: Carrier,
    primary: Primary,
    tasks: JoinSet<Task>,
    told: Told,
}

/// When the domain is tried again, as operators are told.
struct Told {
    desk: Arc<Desk>,
    at: Option<Instant>,
}

impl Told {
    fn tell(&mut self, at: Option<Instant>) {
        if self.at != at {
            self.at = at;
            let wait = |at: Instant| at.saturating_duration_since(Instant::now());
            let at = at.map(|at| crate::replica::now().plus(wait(at)));
            let desk = &self.desk;
            desk.cluster().tally().next_try(desk.domain(), at);
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.desk
            .cluster()
            .tally()
            .next_try(self.desk.domain(), None);
    }
}

/// Returns when nothing is left to deliver, when `stop` is cancelled and the messages under
/// way are through, or when the lease is lost; in every case after what became of the messages
/// is recorded, as far as it can be.
pub(super) async fn run(desk: Arc<Desk>, stop: CancellationToken) -> Finish {
    let (reports, incoming) = mpsc::channel(BUSY_MAX);
    let recorder = tokio::spawn(recorder::run(Arc::clone(&desk), incoming));
    let recorder = AbortOnDropHandle::new(recorder);
    let mut round = Round {
        carrier: Carrier {
            desk: Arc::clone(&desk),
            reports,
            workers: Arc::new(AtomicUsize::new(0)),
            stop,
        },
        primary: Primary::Up,
        tasks: JoinSet::new(),
        told: Told {
            desk: Arc::clone(&desk),
            at: None,
        },
    };
    let finish = select! {
        () = desk.lease.ended() => Finish::LeaseLost,
        () = round.deliver() => match round.primary {
            Primary::Elsewhere => Finish::Elsewhere,
            Primary::Resting => Finish::Resting,
            Primary::Up | Primary::Away { .. } | Primary::Nowhere => Finish::Done,
        },
    };
    // Dropping the round aborts its workers: whatever they have not ended yet is not
    // delivered. Then the recorder has no more senders and finishes.
    drop(round);
    if finish == Finish::LeaseLost {
        desk.counters.leases_lost.inc();
        tracing::warn!(domain = %desk.domain(), "lease lost, delivering stopped");
    }
    select! {
        _ = recorder => {}
        () = lost_for_good(&desk) => {}
    }
    if desk.lease.is_live() {
        finish
    } else {
        Finish::LeaseLost
    }
}

/// Some time after the lease ended, the recorder has given up what it could not write; what
/// remains waits for a view that does not catch up.
async fn lost_for_good(desk: &Desk) {
    const GRACE: Duration = Duration::from_secs(30);
    desk.lease.ended().await;
    tokio::time::sleep(GRACE).await;
}

impl Round {
    async fn deliver(&mut self) {
        let desk = Arc::clone(&self.carrier.desk);
        let stop = self.carrier.stop.clone();
        let mut flushes = desk.flushes();
        loop {
            if desk.flushes() != flushes {
                flushes = desk.flushes();
                self.probe_now();
            }
            let stopping = stop.is_cancelled() || desk.destination.is_elsewhere();
            if stopping && self.workers() == 0 {
                return;
            }
            let wake = if stopping { None } else { self.start() };
            self.told.tell(wake);
            if self.is_over() {
                return;
            }
            select! {
                Some(task) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    match task {
                        Ok(Task::Carried(ended)) => self.carried(ended),
                        Ok(Task::Probed { begun, result }) => self.probed(begun, result),
                        Ok(Task::Asked { elsewhere }) => self.asked(elsewhere),
                        Err(error) => {
                            tracing::error!(domain = %desk.domain(), %error, "a worker failed");
                            self.carried(Ended::Lost);
                        }
                    }
                }
                () = desk.round.notified() => {}
                () = stop.cancelled(), if !stopping => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Starts what can be started now. Says when to look again, if that is known.
    fn start(&mut self) -> Option<Instant> {
        let now = Instant::now();
        match &mut self.primary {
            Primary::Up => loop {
                match self.carrier.desk.opening(self.workers()) {
                    Opening::Now => self.hire(None),
                    Opening::Later(at) => return at,
                }
            },
            Primary::Elsewhere | Primary::Resting | Primary::Nowhere => None,
            Primary::Away {
                probe_at, patience, ..
            } => {
                let at = (*probe_at)?;
                if at > now {
                    return Some(at);
                }
                *probe_at = None;
                let patience = *patience;
                let desk = Arc::clone(&self.carrier.desk);
                desk.counters.probes.inc();
                self.tasks.spawn(async move {
                    let result = Opened::open(&desk, patience).await;
                    Task::Probed {
                        begun: now,
                        result: result.map(|opened| opened.map(Box::new)),
                    }
                });
                None
            }
        }
    }

    /// Nothing is left, and nobody is waiting with an open session for more.
    fn is_over(&self) -> bool {
        let desk = &self.carrier.desk;
        if self.workers() > 0 {
            return false;
        }
        match &self.primary {
            Primary::Elsewhere | Primary::Resting | Primary::Nowhere => true,
            Primary::Up => desk.is_drained(),
            // While the primary is away no row is read, so the ledger is asked.
            Primary::Away { .. } => desk.holds_mail().is_ok_and(|any| !any),
        }
    }

    fn hire(&mut self, opened: Option<Opened>) {
        self.carrier.workers.fetch_add(1, Ordering::Relaxed);
        let carrier = self.carrier.clone();
        self.tasks
            .spawn(async move { Task::Carried(carrier.run(opened).await) });
    }

    fn workers(&self) -> usize {
        self.carrier.workers.load(Ordering::Relaxed)
    }

    /// For the history: the primary went away, or is back.
    fn note(&self, kind: &str, primary: String, text: String) {
        let desk = &self.carrier.desk;
        desk.cluster().note(Happening {
            domain: desk.domain().to_string(),
            primary,
            text,
            ..history::happening(kind)
        });
    }

    fn carried(&mut self, ended: Ended) {
        self.carrier.workers.fetch_sub(1, Ordering::Relaxed);
        let desk = &self.carrier.desk;
        let (why, nowhere) = match ended {
            Ended::Quit => return,
            Ended::Lost => ("the connection broke".to_owned(), None),
            Ended::Unreachable(why) => {
                desk.counters.unavailable.inc();
                tracing::info!(domain = %desk.domain(), %why, "no connection to the primary");
                (why.to_string(), why.nowhere())
            }
        };
        if self.workers() > 0 {
            desk.failed(FAILURE_PAUSE);
        } else if !matches!(self.primary, Primary::Up) {
            // It was noticed before.
        } else if desk.is_strangers {
            self.note("away", String::new(), why);
            self.primary = match nowhere {
                Some(reply) => {
                    self.carrier.workers.fetch_add(1, Ordering::Relaxed);
                    let carrier = self.carrier.clone();
                    self.tasks
                        .spawn(async move { Task::Carried(carrier.give_back(reply).await) });
                    Primary::Nowhere
                }
                None => Primary::Resting,
            };
        } else {
            tracing::info!(domain = %desk.domain(), "the primary is away, mail is held");
            self.note("away", String::new(), why);
            self.primary = Primary::Away {
                probe_at: Some(Instant::now() + probe_interval()),
                patience: PROBE_WAIT,
                ask_at: Some(Instant::now() + ASK_AFTER),
                told: String::new(),
            };
        }
    }

    fn probed(&mut self, begun: Instant, result: Result<Option<Box<Opened>>, Unreachable>) {
        let desk = Arc::clone(&self.carrier.desk);
        match result {
            Ok(None) => {
                if let Primary::Away {
                    probe_at, patience, ..
                } = &mut self.primary
                {
                    *probe_at = Some(Instant::now());
                    *patience = PROBE_WAIT;
                }
            }
            Ok(Some(opened)) => {
                let address = opened.connection.address().to_string();
                tracing::info!(domain = %desk.domain(), primary = %address, "the primary is back");
                self.note("back", address, String::new());
                self.primary = Primary::Up;
                desk.primary_is_back();
                desk.is_up();
                self.hire(Some(*opened));
            }
            Err(why) => {
                tracing::debug!(domain = %desk.domain(), %why, "the primary is still away");
                let now = Instant::now();
                if let Primary::Away {
                    probe_at,
                    patience,
                    ask_at,
                    told,
                    ..
                } = &mut self.primary
                {
                    *patience = if why.is_slow() {
                        (*patience * 2).min(PROBE_WAIT_MAX)
                    } else {
                        PROBE_WAIT
                    };
                    *probe_at = Some((begun + probe_interval()).max(now));
                    let text = why.to_string();
                    if why.needs_an_operator() && *told != text {
                        // It will not mend itself: the operator reads why in `domain show`.
                        tracing::warn!(domain = %desk.domain(), %why, "mail cannot be delivered");
                        *ask_at = ask_at.map(|_| now);
                        told.clone_from(&text);
                    }
                    if ask_at.is_some_and(|at| at <= now) {
                        *ask_at = None;
                        let same_for_all = why.is_ours_to_mend();
                        self.ask(why.into(), same_for_all);
                    }
                }
            }
        }
    }

    /// Asks the others whether they reach the primary, unless they would fare no better, and tells
    /// the cluster.
    fn ask(&mut self, failed: Failed, same_for_all: bool) {
        let desk = Arc::clone(&self.carrier.desk);
        let sessions = desk.sessions();
        self.tasks.spawn(async move {
            let (seen, elsewhere) = if same_for_all {
                let domain = desk.domain().clone();
                let down = Some(failed.why);
                (Seen { domain, down }, false)
            } else {
                reach::judged(&desk.destination, failed).await
            };
            // To its end, whatever becomes of the round: it may be over as soon as the primary is back.
            let told = tokio::spawn(async move {
                if desk.sessions() == sessions {
                    reach::note(desk.cluster(), vec![seen]).await;
                }
                // It came back meanwhile: what was told of it is out of date.
                if desk.sessions() != sessions {
                    let domain = desk.domain().clone();
                    reach::note(desk.cluster(), vec![Seen { domain, down: None }]).await;
                }
            });
            if let Err(error) = told.await {
                tracing::error!(%error, "what was found of a primary was not told");
            }
            Task::Asked { elsewhere }
        });
    }

    fn asked(&mut self, elsewhere: bool) {
        if let Primary::Away { ask_at, .. } = &mut self.primary {
            if elsewhere {
                self.primary = Primary::Elsewhere;
            } else {
                *ask_at = Some(Instant::now() + ASK_AGAIN);
            }
        }
    }

    fn probe_now(&mut self) {
        if let Primary::Away {
            probe_at: Some(at), ..
        } = &mut self.primary
        {
            *at = Instant::now();
        }
    }
}

fn probe_interval() -> Duration {
    PROBE_INTERVAL + PROBE_JITTER * (jitter() % 1024) / 1024
}
