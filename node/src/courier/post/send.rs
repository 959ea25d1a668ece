//! Sends notifications to one domain, over one connection.

use std::sync::Arc;

use holdfast_ledger::query::PendingReport;
use holdfast_ledger::{ReportFate, ReportOutcome};
use holdfast_mail::{Domain, Envelope};
use holdfast_smtp::client::{Fate, Mail};

use super::super::carrier::Guarded;
use super::super::lease::Lease;
use super::super::office::clock;
use super::{Desk, route};
use crate::talk::deliver::Connection;

/// A notification to be sent.
pub(super) struct Letter {
    pub(super) report: PendingReport,
    pub(super) envelope: Arc<Envelope>,
}

impl Letter {
    /// What became of it, with a line in the log where that is its end.
    fn ended(&self, domain: &Domain, fate: ReportFate, reply: &str) -> ReportOutcome {
        let message = self.report.message;
        match fate {
            ReportFate::Delivered => {
                tracing::info!(%message, %domain, reply, "a sender was told");
            }
            ReportFate::Deferred => {
                tracing::info!(%message, %domain, reply, "a sender is told later");
            }
            ReportFate::Dropped => tracing::warn!(
                %message, %domain, reply,
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
    fn put_off(&self, domain: &Domain, reply: &str) -> ReportOutcome {
        let fate = if self.report.give_up_at <= clock() {
            ReportFate::Dropped
        } else {
            ReportFate::Deferred
        };
        self.ended(domain, fate, reply)
    }
}

pub(super) async fn send(
    desk: &Desk,
    lease: &Lease,
    domain: &Domain,
    letters: Vec<Letter>,
) -> Vec<ReportOutcome> {
    let mut connection = match route::open(desk, domain).await {
        Ok(connection) => connection,
        Err(why @ route::Closed::Never(_)) => {
            let why = why.to_string();
            return letters
                .iter()
                .map(|letter| letter.ended(domain, ReportFate::Dropped, &why))
                .collect();
        }
        Err(why @ route::Closed::Now(_)) => {
            let why = why.to_string();
            return letters
                .iter()
                .map(|letter| letter.put_off(domain, &why))
                .collect();
        }
    };
    let mut outcomes = Vec::new();
    for letter in &letters {
        // The next turn opens another connection for the rest.
        if !lease.is_live() || !connection.is_ready() {
            break;
        }
        outcomes.push(one(desk, lease, domain, letter, &mut connection).await);
    }
    if connection.is_ready() {
        connection.quit().await;
    }
    outcomes
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
        Err(error) => return letter.put_off(domain, &format!("its body cannot be read: {error}")),
    };
    let mail = Mail {
        envelope: Arc::clone(&letter.envelope),
        recipients: vec![0],
    };
    let mut content = Guarded { body, lease };
    let result = connection
        .deliver(mail, &mut content)
        .await
        .and_then(|outcome| outcome.results.into_iter().next());
    let Some(result) = result else {
        return letter.put_off(domain, "the server took no message");
    };
    match result.fate {
        Fate::Delivered => letter.ended(domain, ReportFate::Delivered, &result.reply),
        Fate::Refused => letter.ended(domain, ReportFate::Dropped, &result.reply),
        Fate::Deferred => letter.put_off(domain, &result.reply),
    }
}
