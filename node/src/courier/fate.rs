//! What the ledger made of messages, for the history: told by whoever proposed the command, from
//! what its view shows before and after.

use std::time::Duration;

use holdfast_ledger::query::{self, Owed};
use holdfast_ledger::{KvError, KvRead, Seq};
use holdfast_mail::dsn::Kind;
use holdfast_mail::{Domain, Envelope, MessageId, ReversePath};
use holdfast_proto::cluster::Happening;
use tokio::time::{Instant, sleep};

use crate::history;
use crate::listing::{self, Listed, State};
use crate::replica::Cluster;

/// How long to wait for this node's view to show what was committed; it is only for the story.
const VIEW_TIME_MAX: Duration = Duration::from_secs(2);
const VIEW_POLL: Duration = Duration::from_millis(10);

/// After attempts were recorded, and the view shows it.
pub(super) fn note_tried(cluster: &Cluster, domain: &Domain, tried: Vec<(MessageId, Vec<u32>)>) {
    let view = cluster.view();
    for (message, refused) in tried {
        let told = tried_one(&view, domain, message, &refused);
        match told {
            Ok(told) => told
                .into_iter()
                .for_each(|happening| cluster.note(happening)),
            Err(error) => tracing::debug!(msg = %message, %error, "no word for the history"),
        }
    }
}

fn tried_one(
    view: &dyn KvRead,
    domain: &Domain,
    message: MessageId,
    refused: &[u32],
) -> Result<Vec<Happening>, KvError> {
    let Some((seq, envelope)) = query::message(view, message)? else {
        return Ok(vec![history::about("completed", message)]);
    };
    if refused.is_empty() {
        return Ok(Vec::new());
    }
    let owed = query::owed_about(view, message, Kind::Failed)?;
    let before = seq.0.checked_sub(1).map(Seq);
    let kept = query::refused_after(view, domain, before, 1)?;
    let kept = kept.into_iter().find(|row| row.seq == seq);
    let mut told = Vec::new();
    for recipient in refused {
        let is_kept = kept
            .as_ref()
            .is_some_and(|row| row.pending.contains(recipient));
        let owed_to = |owed: &Owed| {
            owed.recipients
                .iter()
                .any(|who| who.recipient == *recipient)
        };
        let (kind, text) = if is_kept {
            (
                "kept",
                "the refusal is not believed yet: it is tried again or somebody decides",
            )
        } else if owed.as_ref().is_some_and(owed_to) {
            ("given_up", "its sender will be told")
        } else {
            ("given_up", "")
        };
        let to = envelope.recipients.get(*recipient as usize);
        told.push(Happening {
            to: to.map(|to| to.address.to_string()).into_iter().collect(),
            domain: domain.to_string(),
            text: text.into(),
            ..history::about(kind, message)
        });
    }
    Ok(told)
}

/// A message's places in a domain, before a review.
pub(super) struct Before {
    domain: Domain,
    message: MessageId,
    places: Vec<Listed>,
}

pub(super) fn before(
    view: &dyn KvRead,
    domain: &Domain,
    seqs: &[Seq],
) -> Result<Vec<Before>, KvError> {
    let mut found = Vec::new();
    for seq in seqs {
        let before = seq.0.checked_sub(1).map(Seq);
        let rows = [
            query::held(view, domain, before, 1)?,
            query::refused_after(view, domain, before, 1)?,
            query::aside(view, domain, before, 1)?,
        ];
        let row = rows.iter().flatten().find(|row| row.seq == *seq);
        if let Some(message) = row.map(|row| row.message) {
            found.push(Before {
                domain: domain.clone(),
                message,
                places: places(view, domain, message)?,
            });
        }
    }
    Ok(found)
}

fn places(view: &dyn KvRead, domain: &Domain, message: MessageId) -> Result<Vec<Listed>, KvError> {
    let all = listing::places(view, message)?.into_iter();
    Ok(all
        .filter(|(of, _)| of == domain)
        .map(|(_, mail)| mail)
        .collect())
}

/// After a review was committed.
pub(super) async fn note_reviewed(cluster: &Cluster, before: Vec<Before>) {
    let until = Instant::now() + VIEW_TIME_MAX;
    for before in before {
        loop {
            let told = reviewed(&cluster.view(), &before);
            match told {
                Ok(Some(happening)) => cluster.note(happening),
                Ok(None) if Instant::now() < until => {
                    sleep(VIEW_POLL).await;
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(msg = %before.message, %error, "no word for the history")
                }
            }
            break;
        }
    }
}

/// `None`: the view shows no difference.
fn reviewed(view: &dyn KvRead, before: &Before) -> Result<Option<Happening>, KvError> {
    let after = places(view, &before.domain, before.message)?;
    let count = |places: &[Listed], state: State| -> usize {
        let of = places.iter().filter(|mail| mail.state == state);
        of.map(|mail| mail.row.pending.len()).sum()
    };
    let was = |state| count(&before.places, state);
    let is = |state| count(&after, state);
    let delay_told = |places: &[Listed]| {
        places
            .iter()
            .any(|mail| mail.state == State::Held && mail.row.delay_told)
    };
    let (kind, text) = if was(State::Deleted) > is(State::Deleted) {
        ("dropped", "it was deleted a day ago")
    } else if is(State::Held) > was(State::Held) {
        ("requeued", "what was refused is tried again")
    } else if was(State::Held) + was(State::Refused) > is(State::Held) + is(State::Refused) {
        ("expired", "its time is over")
    } else if delay_told(&after) && !delay_told(&before.places) {
        ("delayed", "its sender will be told that it is late")
    } else {
        return Ok(None);
    };
    let mail = before.places.first();
    Ok(Some(Happening {
        from: mail.map(|mail| mail.envelope.reverse_path.as_str().to_owned()),
        to: mail
            .map(|mail| mail.recipients().collect())
            .unwrap_or_default(),
        domain: before.domain.to_string(),
        text: text.into(),
        ..history::about(kind, before.message)
    }))
}

/// A notification was written.
pub(super) fn written(owed: &Owed, notification: &Envelope) -> Happening {
    let to = notification.recipients.iter();
    Happening {
        from: Some(ReversePath::Null.as_str().to_owned()),
        to: to.map(|to| to.address.to_string()).collect(),
        text: match owed.kind {
            Kind::Failed => "the sender is told that it was not delivered",
            Kind::Delayed => "the sender is told that it is late",
        }
        .into(),
        other: owed.about.to_bytes().to_vec().into(),
        bytes: notification.body.len,
        ..history::about("notified", notification.id)
    }
}
