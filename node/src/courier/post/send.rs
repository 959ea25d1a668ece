//! Sends notifications to one domain, over one connection.
//!
//! What became of each is recorded before the next goes out: if this node dies, one of them may
//! arrive twice, and no more.

use std::sync::Arc;
use std::time::Duration;

use holdfast_ledger::query::{self, PendingReport};
use holdfast_ledger::{Command, Reply, ReportFate, ReportOutcome, Seq};
use holdfast_mail::{Domain, Envelope};
use holdfast_proto::cluster::Happening;
use holdfast_smtp::client::{Fate, Mail};
use tokio::time::{Instant, sleep};

use super::super::carrier::Guarded;
use super::super::lease::Lease;
use super::{Desk, route};
use crate::history;
use crate::talk::deliver::Connection;

/// How long to try to record what became of a notification. It may be nobody else's yet, and
/// every outcome that is recorded is one that does not arrive twice.
const RECORD_TIME_MAX: Duration = Duration::from_secs(15);
const RECORD_AGAIN: Duration = Duration::from_millis(200);

/// A notification to be sent.
pub(super) struct Letter {
    pub(super) report: PendingReport,
    pub(super) envelope: Arc<Envelope>,
}

impl Letter {
    /// What became of it, with a line in the log where that is its end.
    fn ended(&self, desk: &Desk, domain: &Domain, fate: ReportFate, reply: &str) -> ReportOutcome {
        let message = self.report.message;
        let kind = match fate {
            ReportFate::Delivered => "delivered",
            ReportFate::Deferred => "deferred",
            ReportFate::Dropped => "dropped",
        };
        desk.cluster.note(Happening {
            from: Some(String::new()),
            to: self
                .envelope
                .recipients
                .iter()
                .map(|to| to.address.to_string())
                .collect(),
            text: reply.to_owned(),
            domain: domain.to_string(),
            ..history::about(kind, message)
        });
        match fate {
            ReportFate::Delivered => {
                tracing::info!(msg = %message, %domain, reply, "a sender was told");
            }
            ReportFate::Deferred => {
                tracing::info!(msg = %message, %domain, reply, "a sender is told later");
            }
            ReportFate::Dropped => tracing::warn!(
                msg = %message, %domain, reply,
                "a notification was dropped: no server takes it, and it has no sender to be told"
            ),
        }
        ReportOutcome {
            seq: self.report.seq,
            fate,
            reply: reply.to_owned(),
        }
    }

    /// It waits, unless it has waited long enough.
    fn put_off(&self, desk: &Desk, domain: &Domain, reply: &str) -> ReportOutcome {
        let fate = if self.report.give_up_at <= desk.cluster.time() {
            ReportFate::Dropped
        } else {
            ReportFate::Deferred
        };
        self.ended(desk, domain, fate, reply)
    }
}

pub(super) async fn send(desk: &Desk, lease: &Lease, domain: &Domain, letters: Vec<Letter>) {
    let (never, why) = match route::open(desk, domain).await {
        Ok(mut connection) => {
            for letter in &letters {
                // The next turn opens another connection for the rest.
                if !lease.is_live() || !connection.is_ready() {
                    return;
                }
                let outcome = one(desk, lease, domain, letter, &mut connection).await;
                record(desk, lease, vec![outcome]).await;
            }
            connection.quit().await;
            return;
        }
        Err(why) => (why.is_final(), why.to_string()),
    };
    let outcomes = letters.iter().map(|letter| {
        if never {
            letter.ended(desk, domain, ReportFate::Dropped, &why)
        } else {
            letter.put_off(desk, domain, &why)
        }
    });
    record(desk, lease, outcomes.collect()).await;
}

/// Records outcomes, and waits until this node's view shows them.
async fn record(desk: &Desk, lease: &Lease, outcomes: Vec<ReportOutcome>) {
    let Some(last) = outcomes.last().map(|outcome| outcome.seq) else {
        return;
    };
    for outcome in &outcomes {
        match outcome.fate {
            ReportFate::Delivered => desk.counters.reports_delivered.inc(),
            ReportFate::Deferred => desk.counters.reports_deferred.inc(),
            ReportFate::Dropped => desk.counters.reports_dropped.inc(),
        };
    }
    let command = Command::SettleReports {
        node: desk.cluster.me().id,
        epoch: lease.epoch,
        outcomes,
    };
    let begin = Instant::now();
    loop {
        let why = match desk.propose(command.clone()).await {
            Ok(Reply::Done) => break,
            Ok(reply) => format!("{reply:?}"),
            Err(_) if begin.elapsed() < RECORD_TIME_MAX => {
                sleep(RECORD_AGAIN).await;
                continue;
            }
            Err(why) => why,
        };
        tracing::warn!(
            why,
            "what became of a notification was not recorded; it may arrive twice"
        );
        lease.lose();
        return;
    }
    let is_shown = desk.await_view(|view| {
        let before = last.0.checked_sub(1).map(Seq);
        let now = desk.cluster.time();
        Ok(!query::reports(view, before, 1)?
            .iter()
            .any(|report| report.seq == last && report.next_at <= now))
    });
    if !is_shown.await {
        // It would be found due, and sent again.
        lease.lose();
    }
}

async fn one(
    desk: &Desk,
    lease: &Lease,
    domain: &Domain,
    letter: &Letter,
    connection: &mut Connection,
) -> ReportOutcome {
    let body = match desk.cluster.bodies().read(&letter.envelope.body).await {
        Ok(body) => body,
        Err(error) => {
            return letter.put_off(desk, domain, &format!("its body cannot be read: {error}"));
        }
    };
    let mail = Mail {
        envelope: Arc::clone(&letter.envelope),
        recipients: vec![0],
        only_ask: false,
    };
    let mut content = Guarded { body, lease };
    let result = connection
        .deliver(mail, &mut content)
        .await
        .and_then(|outcome| outcome.results.into_iter().next());
    let Some(result) = result else {
        return letter.put_off(desk, domain, "the server took no message");
    };
    match result.fate {
        Fate::Delivered => letter.ended(desk, domain, ReportFate::Delivered, &result.reply),
        Fate::Refused => letter.ended(desk, domain, ReportFate::Dropped, &result.reply),
        Fate::Deferred | Fate::Known => letter.put_off(desk, domain, &result.reply),
    }
}
