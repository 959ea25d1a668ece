//! A domain's mail, and decisions about it by hand.

use std::collections::BTreeSet;

use holdfast_ledger::{Command, DISPOSE_MAX, Disposal, Refusal, Reply, query};
use holdfast_mail::{Domain, MessageId, Timestamp};
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, domains, refused};
use crate::listing::{self, Listed, State, Wanted};
use crate::replica::now;

/// Messages read from the view at a time.
const PAGE: usize = 256;

pub(super) async fn dispose(
    admin: &Admin,
    request: wire::MailDisposeRequest,
) -> Result<wire::MailDisposeReply, Status> {
    let cluster = admin.cluster()?;
    let how = match request.how.as_str() {
        "requeue" => Disposal::Requeue,
        "discard" => Disposal::Discard,
        "bounce" => Disposal::Bounce,
        "hold" => Disposal::Hold,
        "release" => Disposal::Release,
        "delete" => Disposal::Delete,
        "undelete" => Disposal::Undelete,
        other => {
            return Err(Status::invalid_argument(format!(
                "{other:?} is none of requeue, discard, bounce, hold, release, delete, undelete"
            )));
        }
    };
    if request.held && !matches!(how, Disposal::Discard | Disposal::Bounce) {
        return Err(Status::invalid_argument(format!(
            "held says nothing new to {}",
            request.how
        )));
    }
    let mut ids = Vec::new();
    for id in &request.ids {
        ids.push(
            id.parse::<MessageId>()
                .map_err(|e| Status::invalid_argument(e.to_string()))?,
        );
    }
    let given = match request.domain.as_str() {
        "" => None,
        domain => Some(domains::parse(domain)?),
    };
    let view = cluster.view();
    let mut plan: Vec<(Domain, Vec<MessageId>)> = Vec::new();
    match (&given, ids.is_empty()) {
        (None, true) => {
            return Err(Status::invalid_argument(
                "name messages, or a domain for all of its mail",
            ));
        }
        (Some(domain), true) => {
            if query::domain(&view, domain).map_err(broken)?.is_none() {
                return Err(refused(&Refusal::UnknownDomain));
            }
            plan.push((domain.clone(), Vec::new()));
        }
        (given, false) => {
            for id in ids {
                let envelope = query::envelope(&view, id).map_err(broken)?;
                let envelope = envelope.ok_or_else(|| {
                    Status::not_found(format!("no message {id} is held or refused"))
                })?;
                let of: BTreeSet<&Domain> = envelope
                    .recipients
                    .iter()
                    .filter_map(|to| to.address.domain())
                    .collect();
                for domain in of {
                    if given.as_ref().is_some_and(|given| given != domain) {
                        continue;
                    }
                    match plan.iter_mut().find(|(known, _)| known == domain) {
                        Some((_, list)) => list.push(id),
                        None => plan.push((domain.clone(), vec![id])),
                    }
                }
            }
        }
    }
    let mut messages = 0;
    for (domain, ids) in plan {
        if request.dry_run {
            messages += would(admin, &domain, &ids, how, request.held)?;
            continue;
        }
        let by = if request.by.is_empty() {
            "operator"
        } else {
            &request.by
        };
        let by = format!("{by}, at {}", cluster.me().name);
        let pieces: Vec<Vec<MessageId>> = if ids.is_empty() {
            vec![Vec::new()]
        } else {
            ids.chunks(DISPOSE_MAX).map(<[MessageId]>::to_vec).collect()
        };
        for piece in pieces {
            loop {
                let command = Command::Dispose {
                    domain: domain.clone(),
                    how,
                    messages: piece.clone(),
                    held: request.held,
                    by: by.clone(),
                };
                let Reply::Disposed {
                    messages: done,
                    more,
                } = admin.propose(command).await?
                else {
                    return Err(Status::internal("an unexpected reply to dispose"));
                };
                messages += done;
                tracing::info!(%domain, how = request.how, messages = done, by, "decided by hand");
                if !more || done == 0 {
                    break;
                }
            }
        }
    }
    Ok(wire::MailDisposeReply { messages })
}

/// How many messages it would be.
fn would(
    admin: &Admin,
    domain: &Domain,
    ids: &[MessageId],
    how: Disposal,
    held: bool,
) -> Result<u64, Status> {
    let view = admin.cluster()?.view();
    let states = match how {
        Disposal::Requeue => vec![State::Refused],
        Disposal::Discard | Disposal::Bounce if !held => vec![State::Refused],
        Disposal::Discard | Disposal::Bounce => Vec::new(),
        Disposal::Hold => vec![State::Held, State::Refused],
        Disposal::Delete => vec![State::Held, State::Refused, State::Aside],
        Disposal::Release => vec![State::Aside],
        Disposal::Undelete => vec![State::Deleted],
    };
    let wanted = Wanted {
        states,
        ..Wanted::default()
    };
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let page = listing::page(&view, domain, &wanted, after, PAGE).map_err(broken)?;
        found.extend(page.mail.iter().map(|mail| mail.row.message));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    found.retain(|id| ids.is_empty() || ids.contains(id));
    Ok(found.len() as u64)
}

/// The mail that is asked for, oldest first.
pub(super) fn list(
    admin: &Admin,
    request: &wire::MailListRequest,
) -> Result<mpsc::Receiver<Result<wire::Mail, Status>>, Status> {
    let view = admin.cluster()?.view();
    let domain = domains::parse(&request.domain)?;
    if query::domain(&view, &domain).map_err(broken)?.is_none() {
        return Err(refused(&Refusal::UnknownDomain));
    }
    let limit = match request.limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let wanted = wanted(request)?;
    let (out, mails) = mpsc::channel(64);
    tokio::spawn(async move {
        let (mut after, mut sent) = (None, 0);
        while sent < limit {
            let page = listing::page(&view, &domain, &wanted, after, PAGE.min(limit - sent));
            let page = match page.map_err(broken) {
                Ok(page) => page,
                Err(status) => {
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            };
            for mail in page.mail {
                sent += 1;
                if out.send(Ok(shown(&domain, &mail))).await.is_err() {
                    return;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return,
            }
        }
    });
    Ok(mails)
}

fn wanted(request: &wire::MailListRequest) -> Result<Wanted, Status> {
    let state = |text: &String| match text.as_str() {
        "held" => Ok(State::Held),
        "refused" => Ok(State::Refused),
        "aside" => Ok(State::Aside),
        "deleted" => Ok(State::Deleted),
        other => Err(Status::invalid_argument(format!(
            "{other:?} is none of held, refused, aside, deleted"
        ))),
    };
    Ok(Wanted {
        states: request.states.iter().map(state).collect::<Result<_, _>>()?,
        from: request.from.clone(),
        to: request.to.clone(),
        text: String::new(),
        received_before: (request.older_than_ms > 0)
            .then(|| Timestamp(now().0.saturating_sub(request.older_than_ms))),
        larger_than: request.larger_than,
    })
}

fn shown(domain: &Domain, mail: &Listed) -> wire::Mail {
    let (row, envelope) = (&mail.row, &mail.envelope);
    wire::Mail {
        id: row.message.to_string(),
        domain: domain.to_string(),
        reverse_path: envelope.reverse_path.as_str().into(),
        recipients: mail.recipients().collect(),
        bytes: envelope.body.len,
        received_at_ms: envelope.received_at.0,
        attempts: row.attempts,
        last_reply: row.last_reply.clone(),
        state: mail.state.as_str().into(),
        retry_at_ms: row.retry_at.map_or(0, |at| at.0),
        discard_at_ms: row.discard_at.map_or(0, |at| at.0),
    }
}

pub(super) fn audit(admin: &Admin) -> Result<wire::AuditList, Status> {
    let entries = query::audit(&admin.cluster()?.view()).map_err(broken)?;
    Ok(wire::AuditList {
        entries: entries
            .into_iter()
            .map(|entry| wire::Audited {
                at_ms: entry.at.0,
                by: entry.by,
                from: entry.from,
                what: entry.what,
                domain: entry.domain,
                ids: entry.messages.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    })
}
