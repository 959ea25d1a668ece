//! One worker: one connection, one message after another.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_ledger::{Outcome as Settled, Seq, Verdict, query};
use holdfast_mail::{Envelope, MessageId, retry};
use holdfast_proto::cluster::Happening;
use holdfast_smtp::client::{Fate, Mail, Outcome};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, jitter};
use super::lease::Lease;
use super::queue::{After, Job};
use super::recorder::Report;
use crate::destination::{CurrentWay, Unreachable};
use crate::failpoint;
use crate::history;
use crate::replica::BodyReader;
use crate::talk::deliver::{Connection, Content};
use crate::world::select;

/// How long a session without work stays open: new mail for a primary that is up goes through
/// at once, and no slot of the primary is held for long.
const IDLE_KEPT: Duration = Duration::from_secs(2);

/// How a worker ended.
pub(super) enum Ended {
    Unreachable(Unreachable),
    /// The connection broke under a message, or the primary sent it away.
    Lost,
    /// Nothing to do, too many workers, or asked to stop.
    Quit,
}

/// What every worker of a round is given.
#[derive(Clone)]
pub(super) struct Carrier {
    pub(super) desk: Arc<Desk>,
    pub(super) reports: mpsc::Sender<Report>,
    /// How many workers the round has.
    pub(super) workers: Arc<AtomicUsize>,
    pub(super) stop: CancellationToken,
}

/// A connection, and how mail went when it was begun: by the time that a slow host greets, mail may go to
/// another, or only under TLS.
pub(super) struct Opened {
    way: Option<CurrentWay>,
    pub(super) connection: Connection,
}

impl Opened {
    /// `None` as soon as mail goes another way: a host that says nothing for minutes must not hold up the
    /// one that it goes to now.
    pub(super) async fn open(
        desk: &Desk,
        opening_wait_max: Duration,
    ) -> Result<Option<Self>, Unreachable> {
        let way = desk.destination.way();
        let mut opening = pin!(desk.destination.open(opening_wait_max));
        loop {
            let news = desk.work.notified();
            select! {
                opened = &mut opening => {
                    return opened.map(|connection| Some(Self { way, connection }));
                }
                () = news => {}
            }
            if way.is_some() && !desk.destination.is_way(&way) {
                return Ok(None);
            }
        }
    }
}

enum Next {
    Job(Job),
    LookAgain,
    Leave,
    Gone,
}

/// How the attempt at one message went, over all its transactions.
#[derive(Default)]
struct Attempt {
    outcomes: Vec<Settled>,
    deferred: bool,
    in_doubt: bool,
    connection_failed: bool,
    unreadable: bool,
    /// The session ended in good order before every recipient was tried: MAILMAX.
    cut_short: bool,
    /// The primary said something about it.
    asked: bool,
}

impl Carrier {
    /// Carries messages until there are none, or the connection ends.
    pub(super) async fn run(self, opened: Option<Opened>) -> Ended {
        let desk = &*self.desk;
        let opened = match opened {
            Some(opened) => opened,
            None => match Opened::open(desk, Duration::MAX).await {
                Ok(Some(opened)) => {
                    desk.is_up();
                    opened
                }
                Ok(None) => return Ended::Quit,
                Err(why) => return Ended::Unreachable(why),
            },
        };
        let Opened {
            way,
            mut connection,
        } = opened;
        desk.counters.connections.inc();
        loop {
            let leave = self.stop.is_cancelled()
                || !desk.destination.is_way(&way)
                || desk.is_crowded(self.workers.load(Ordering::Relaxed));
            let next = if leave || !connection.is_ready() {
                Next::Leave
            } else {
                self.next(&mut connection).await
            };
            match next {
                Next::LookAgain => {}
                Next::Gone => return Ended::Quit,
                Next::Leave => {
                    connection.quit().await;
                    return Ended::Quit;
                }
                Next::Job(job) => {
                    if self.carry(&mut connection, job).await {
                        return Ended::Lost;
                    }
                }
            }
        }
    }

    /// The DNS says that nobody takes the domain's mail: hands all of it in as refused, with `reply`.
    pub(super) async fn give_back(self, reply: String) -> Ended {
        let desk = &*self.desk;
        while !self.stop.is_cancelled() {
            let recorded = desk.work.notified();
            if let Some(job) = desk.take() {
                let seq = job.held.seq;
                let message = job.held.message;
                tracing::info!(msg = %message, domain = %desk.domain(), reply, "no server takes it");
                let refuse = |recipient: &u32| Settled {
                    message,
                    recipient: *recipient,
                    verdict: Verdict::Refused,
                    reply: reply.clone(),
                };
                let report = Report {
                    outcomes: job.held.pending.iter().map(refuse).collect(),
                    row: job.held,
                    after: After::Done,
                };
                desk.disengage(seq);
                // The recorder is gone only with the round.
                let _ = self.reports.send(report).await;
            } else if desk.is_drained() {
                break;
            } else {
                select! {
                    () = recorded => {}
                    () = self.stop.cancelled() => {}
                }
            }
        }
        Ended::Quit
    }

    async fn next(&self, connection: &mut Connection) -> Next {
        let work = self.desk.work.notified();
        if let Some(job) = self.desk.take() {
            return Next::Job(job);
        }
        select! {
            () = work => Next::LookAgain,
            () = self.stop.cancelled() => Next::Leave,
            () = sleep(IDLE_KEPT) => Next::Leave,
            why = connection.until_closed() => {
                tracing::debug!(domain = %self.desk.domain(), %why, "idle session ended");
                Next::Gone
            }
        }
    }

    /// Attempts one message and hands in what became of it. Says whether the connection failed.
    async fn carry(&self, connection: &mut Connection, mut job: Job) -> bool {
        let desk = &*self.desk;
        let seq = job.held.seq;
        // It may have expired, or been discarded, since its page was read.
        match desk.row(seq) {
            Ok(Some(row)) => job.held = row,
            Ok(None) => {
                self.put_back(seq, After::Done);
                return false;
            }
            Err(error) => {
                tracing::error!(msg = %job.held.message, %error, "held mail cannot be read");
                self.put_back(seq, self.retry(&job, false));
                return false;
            }
        }
        let envelope = match query::envelope(&desk.cluster().view(), job.held.message) {
            Ok(Some(envelope)) => Arc::new(envelope),
            // Removed since the row was read.
            Ok(None) => {
                self.put_back(seq, After::Done);
                return false;
            }
            Err(error) => {
                tracing::error!(msg = %job.held.message, %error, "an envelope cannot be read");
                self.put_back(seq, self.retry(&job, false));
                return false;
            }
        };
        let attempt = self.attempt(connection, &envelope, &job.held.pending).await;
        desk.counters.attempts.inc();
        if attempt.unreadable {
            desk.counters.unreadable.inc();
        }
        if attempt.connection_failed {
            desk.counters.lost.inc();
        }
        if attempt.in_doubt {
            desk.counters.in_doubt.inc();
        }
        // The window learns from what the primary said; a lost connection tells the round.
        if attempt.asked && !attempt.connection_failed {
            if attempt
                .outcomes
                .iter()
                .any(|o| o.verdict != Verdict::Deferred)
            {
                desk.answered();
            } else {
                desk.deferred();
            }
        }
        let tried_all = attempt.outcomes.len() >= job.held.pending.len();
        let after = if tried_all && !attempt.deferred {
            After::Done
        } else if attempt.cut_short && !attempt.deferred {
            After::Wait {
                delay: Duration::ZERO,
                until_back: true,
            }
        } else {
            self.retry(&job, attempt.connection_failed && !attempt.in_doubt)
        };
        let failed = attempt.connection_failed;
        if attempt.outcomes.is_empty() {
            self.put_back(seq, after);
        } else {
            let report = Report {
                row: job.held,
                outcomes: attempt.outcomes,
                after,
            };
            // Before it can be settled, and taken by another worker.
            desk.disengage(seq);
            // The recorder is gone only with the round.
            let _ = self.reports.send(report).await;
        }
        failed
    }

    /// There is nothing to record.
    fn put_back(&self, seq: Seq, after: After) {
        self.desk.disengage(seq);
        self.desk.settle([(seq, after)]);
    }

    /// One transaction for as many recipients as the primary takes at once, then the next.
    async fn attempt(
        &self,
        connection: &mut Connection,
        envelope: &Arc<Envelope>,
        pending: &[u32],
    ) -> Attempt {
        let desk = &*self.desk;
        let mut attempt = Attempt::default();
        for recipients in pending.chunks(connection.recipients_max()) {
            let body = match desk.cluster().bodies().read(&envelope.body).await {
                Ok(body) => body,
                Err(error) => {
                    tracing::error!(
                        msg = %envelope.id, domain = %desk.domain(), %error,
                        "the body of a held message cannot be read; it is kept and tried again"
                    );
                    attempt.unreadable = true;
                    break;
                }
            };
            let mut content = Guarded {
                body,
                lease: &desk.lease,
            };
            let mail = Mail {
                envelope: Arc::clone(envelope),
                recipients: recipients.to_vec(),
                only_ask: false,
            };
            failpoint::reach("before-delivery");
            let begun = tokio::time::Instant::now();
            let Some(outcome) = connection.deliver(mail, &mut content).await else {
                break;
            };
            failpoint::reach("delivered");
            self.log(connection, envelope, &outcome);
            self.note(connection, envelope, &outcome, begun.elapsed());
            attempt.add(envelope.id, outcome);
            if !connection.is_ready() {
                attempt.cut_short = !attempt.connection_failed;
                break;
            }
        }
        attempt
    }

    /// For the history: one happening for the recipients that were answered alike.
    fn note(
        &self,
        connection: &Connection,
        envelope: &Envelope,
        outcome: &Outcome,
        took: Duration,
    ) {
        let mut answers: Vec<(&str, &str, Vec<String>)> = Vec::new();
        for result in &outcome.results {
            let kind = match result.fate {
                Fate::Delivered => "delivered",
                Fate::Deferred | Fate::Known if outcome.in_doubt => "in_doubt",
                Fate::Deferred | Fate::Known => "deferred",
                Fate::Refused => "rejected",
            };
            let to = envelope.recipients.get(result.recipient as usize);
            let to = to.map(|to| to.address.to_string());
            let alike = answers
                .iter_mut()
                .find(|(known, reply, _)| (*known, *reply) == (kind, result.reply.as_str()));
            match alike {
                Some((.., recipients)) => recipients.extend(to),
                None => answers.push((kind, &result.reply, to.into_iter().collect())),
            }
        }
        for (kind, reply, to) in answers {
            let answered = Happening {
                from: Some(envelope.reverse_path.as_str().to_owned()),
                to,
                text: reply.to_owned(),
                domain: self.desk.domain().to_string(),
                primary: connection.address().to_string(),
                ..history::about(kind, envelope.id)
            };
            self.desk.cluster().note_lasting(answered, took);
        }
    }

    fn log(&self, connection: &Connection, envelope: &Envelope, outcome: &Outcome) {
        let message = envelope.id;
        let counters = &self.desk.counters;
        let count = |fate: Fate| outcome.results.iter().filter(|r| r.fate == fate).count();
        let (delivered, deferred, refused) = (
            count(Fate::Delivered),
            count(Fate::Deferred),
            count(Fate::Refused),
        );
        counters.delivered.inc_by(delivered as u64);
        if delivered > 0 {
            self.desk.cluster().tally().delivered();
        }
        counters.deferred.inc_by(deferred as u64);
        counters.refused.inc_by(refused as u64);
        // The reply that says most is the worst one.
        let reply = outcome
            .results
            .iter()
            .max_by_key(|result| match result.fate {
                Fate::Delivered => 0,
                Fate::Deferred | Fate::Known => 1,
                Fate::Refused => 2,
            })
            .map_or("", |result| result.reply.as_str());
        tracing::info!(
            msg = %message,
            domain = %self.desk.domain(),
            primary = %connection.address(),
            tls = connection.is_encrypted(),
            delivered,
            deferred,
            refused,
            in_doubt = outcome.in_doubt,
            reply,
            "delivery attempted"
        );
    }

    fn retry(&self, job: &Job, until_back: bool) -> After {
        let attempt = job.attempts.saturating_add(1);
        After::Wait {
            delay: match self.desk.is_strangers {
                true => retry::stranger_delay(attempt),
                false => retry::delay(attempt, jitter()),
            },
            until_back,
        }
    }
}

impl Attempt {
    fn add(&mut self, message: MessageId, outcome: Outcome) {
        self.in_doubt |= outcome.in_doubt;
        self.connection_failed |= outcome.connection_failed;
        self.asked |= outcome.asked;
        for result in outcome.results {
            self.deferred |= result.fate == Fate::Deferred;
            self.outcomes.push(Settled {
                message,
                recipient: result.recipient,
                verdict: match result.fate {
                    Fate::Delivered => Verdict::Delivered,
                    Fate::Deferred | Fate::Known => Verdict::Deferred,
                    Fate::Refused => Verdict::Refused,
                },
                reply: result.reply,
            });
        }
    }
}

/// Content that ends when the right to send it does: the final dot, or the last chunk, of a
/// message must not be written by a node that is no longer the one to deliver it.
pub(super) struct Guarded<'a> {
    pub(super) body: BodyReader,
    pub(super) lease: &'a Lease,
}

impl Content for Guarded<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let chunk = self.body.next().await.map_err(|error| error.to_string())?;
        if self.lease.is_live() {
            Ok(chunk)
        } else {
            Err("the right to deliver for the domain ended".to_owned())
        }
    }
}
