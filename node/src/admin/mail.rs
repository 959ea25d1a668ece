//! Decisions about mail by hand: try it again, give it back, or drop it.

use std::collections::BTreeSet;

use holdfast_ledger::{Command, DISPOSE_MAX, Disposal, Refusal, Reply, query};
use holdfast_mail::{Domain, MessageId};
use holdfast_proto::admin as wire;
use tonic::Status;

use super::{Admin, broken, domains, refused};

pub(super) async fn dispose(
    admin: &Admin,
    request: wire::MailDisposeRequest,
) -> Result<wire::MailDisposeReply, Status> {
    let cluster = admin.cluster()?;
    let how = match request.how.as_str() {
        "requeue" => Disposal::Requeue,
        "discard" => Disposal::Discard,
        "bounce" => Disposal::Bounce,
        other => {
            return Err(Status::invalid_argument(format!(
                "{other:?} is neither requeue, discard nor bounce"
            )));
        }
    };
    if request.held && how == Disposal::Requeue {
        return Err(Status::invalid_argument(
            "what waits is in the queue already; `mail deliver` tries it now",
        ));
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
            messages += would(admin, &domain, &ids, request.held)?;
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
fn would(admin: &Admin, domain: &Domain, ids: &[MessageId], held: bool) -> Result<u64, Status> {
    let view = admin.cluster()?.view();
    let mut rows = query::refused(&view, domain, usize::MAX).map_err(broken)?;
    if held {
        rows.extend(query::held(&view, domain, None, usize::MAX).map_err(broken)?);
    }
    let found: BTreeSet<MessageId> = rows.into_iter().map(|row| row.message).collect();
    let wanted = |id: &&MessageId| ids.is_empty() || ids.contains(id);
    Ok(found.iter().filter(wanted).count() as u64)
}

pub(super) fn audit(admin: &Admin) -> Result<wire::AuditList, Status> {
    let entries = query::audit(&admin.cluster()?.view()).map_err(broken)?;
    Ok(wire::AuditList {
        entries: entries
            .into_iter()
            .map(|entry| wire::Audited {
                at_ms: entry.at.0,
                by: entry.by,
                what: entry.what,
                domain: entry.domain,
                ids: entry.messages.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    })
}
