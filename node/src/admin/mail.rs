//! Mail, and decisions about it by hand.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_ledger::{Command, DISPOSE_MAX, Disposal, Refusal, Reply, query};
use holdfast_mail::{Domain, Envelope, MessageId, Timestamp};
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, domains, refused};
use crate::listing::{self, Found, Listed, State, Walk, Wanted};
use crate::replica::{Cluster, now};
use crate::store::View;

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
    // A script may say for whom it acts; who ran it stays in sight.
    let caller = super::callers::caller();
    let by = match &request.by[..] {
        "" => caller.who,
        by => format!("{by} ({})", caller.who),
    };
    let mut act = Act {
        admin,
        how,
        held: request.held,
        by: format!("{by}, at {}", cluster.me().name),
        dry_run: request.dry_run,
        reply: wire::MailDisposeReply {
            now_ms: now().0,
            ..wire::MailDisposeReply::default()
        },
    };
    let which = match request.which {
        Some(which) => which,
        None => wire::MailListRequest {
            domain: request.domain,
            ..wire::MailListRequest::default()
        },
    };
    if !request.ids.is_empty() {
        let only = only(&cluster, &which.domain)?;
        let mut plan: BTreeMap<Domain, Vec<Listed>> = BTreeMap::new();
        for (domain, mail) in named(&cluster, &request.ids)? {
            if only.as_ref().is_none_or(|only| *only == domain) {
                plan.entry(domain).or_default().push(mail);
            }
        }
        for (domain, mail) in plan {
            act.on(&domain, &mail).await?;
        }
        return Ok(act.reply);
    }
    let (wanted, only) = chosen(&cluster, &which)?;
    let wanted = Wanted {
        states: states_of(how, request.held).to_vec(),
        // What comes in meanwhile is not meant, and could keep this going for ever.
        received_before: wanted.received_before.or(Some(now())),
        ..wanted
    };
    let mut walk = Walk::new(wanted, only);
    // A fresh view for each page: what was done before is behind the walk's place.
    while let Some(page) = walk.next(&cluster.view(), PAGE).map_err(broken)? {
        let mut mail = Vec::new();
        let mut of = None;
        for found in page {
            if let Found::Mail {
                domain,
                mail: listed,
            } = found
            {
                of = Some(domain);
                mail.push(listed);
            }
        }
        if let Some(domain) = of {
            act.on(&domain, &mail).await?;
        }
    }
    Ok(act.reply)
}

/// In which states a message is that something can be done with.
fn states_of(how: Disposal, held: bool) -> &'static [State] {
    match how {
        Disposal::Requeue => &[State::Refused],
        Disposal::Discard | Disposal::Bounce if !held => &[State::Refused],
        Disposal::Discard => &[State::Held, State::Refused, State::Aside, State::Deleted],
        // Whoever deleted it wants its sender to hear nothing: of most of it he is made up.
        Disposal::Bounce => &[State::Held, State::Refused, State::Aside],
        Disposal::Hold => &[State::Held, State::Refused],
        Disposal::Delete => &[State::Held, State::Refused, State::Aside],
        Disposal::Release => &[State::Aside],
        Disposal::Undelete => &[State::Deleted],
    }
}

/// Something done with mail, and what it came to so far.
struct Act<'a> {
    admin: &'a Admin,
    how: Disposal,
    held: bool,
    by: String,
    dry_run: bool,
    reply: wire::MailDisposeReply,
}

impl Act<'_> {
    async fn on(&mut self, domain: &Domain, mail: &[Listed]) -> Result<(), Status> {
        let states = states_of(self.how, self.held);
        // A message may be in two queues of the domain.
        let mails: BTreeMap<MessageId, u64> = mail
            .iter()
            .filter(|mail| states.contains(&mail.state))
            .map(|mail| (mail.row.message, mail.envelope.body.len))
            .collect();
        let ids: Vec<MessageId> = mails.keys().copied().collect();
        for piece in ids.chunks(DISPOSE_MAX) {
            if !self.dry_run {
                let command = Command::Dispose {
                    domain: domain.clone(),
                    how: self.how,
                    messages: piece.to_vec(),
                    held: self.held,
                    by: self.by.clone(),
                };
                let Reply::Disposed { messages, .. } = self.admin.propose(command).await? else {
                    return Err(Status::internal("an unexpected reply to dispose"));
                };
                let (how, by) = (self.how, &self.by);
                tracing::info!(%domain, ?how, messages, by, "decided by hand");
                self.reply.messages += messages;
            } else {
                self.reply.messages += piece.len() as u64;
            }
            let bytes = piece.iter().filter_map(|id| mails.get(id));
            self.reply.bytes += bytes.sum::<u64>();
        }
        Ok(())
    }
}

/// Where each of these messages is.
fn named(cluster: &Cluster, ids: &[String]) -> Result<Vec<(Domain, Listed)>, Status> {
    let mut found = Vec::new();
    for text in ids {
        let id = id(text)?;
        let places = listing::places(&cluster.view(), id).map_err(broken)?;
        if places.is_empty() {
            return Err(gone(id));
        }
        found.extend(places);
    }
    Ok(found)
}

pub(super) fn id(text: &str) -> Result<MessageId, Status> {
    text.parse::<MessageId>()
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// There is nothing of the message any more, or there never was.
pub(super) fn gone(id: MessageId) -> Status {
    Status::not_found(format!(
        "no message {id} is held or refused\nfix: `holdfast mail trace {id}` tells what became of it"
    ))
}

/// What is asked for by something else than the message; that must be said, so that nobody acts
/// on everything by leaving a word out.
fn chosen(
    cluster: &Cluster,
    which: &wire::MailListRequest,
) -> Result<(Wanted, Option<Domain>), Status> {
    let said = wire::MailListRequest {
        received_before_ms: 0,
        limit: 0,
        ..which.clone()
    };
    if said == wire::MailListRequest::default() {
        return Err(Status::invalid_argument(
            "name messages, or say which: by domain, sender, recipient, age, size or reply",
        ));
    }
    Ok((wanted(which)?, only(cluster, &which.domain)?))
}

/// The domain, if one is named. One that is no customer's may have mail too.
fn only(cluster: &Cluster, domain: &str) -> Result<Option<Domain>, Status> {
    if domain.is_empty() {
        return Ok(None);
    }
    let (view, domain) = (cluster.view(), domains::parse(domain)?);
    let is_known = query::domain(&view, &domain).map_err(broken)?.is_some()
        || query::keeper(&view, &domain).map_err(broken)?.is_some()
        || query::counts(&view, &domain).map_err(broken)?.messages > 0
        || has_notification(&view, &domain)?;
    if !is_known {
        return Err(refused(&Refusal::UnknownDomain));
    }
    Ok(Some(domain))
}

fn has_notification(view: &View, domain: &Domain) -> Result<bool, Status> {
    let mut walk = Walk::new(Wanted::default(), Some(domain.clone()));
    while let Some(page) = walk.next(view, PAGE).map_err(broken)? {
        if !page.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Delivers now for a domain, or for the domains of such mail.
pub(super) async fn deliver(
    admin: &Admin,
    request: wire::DeliverRequest,
) -> Result<wire::DeliverReply, Status> {
    let cluster = admin.cluster()?;
    let mut domains = BTreeSet::new();
    if !request.domain.is_empty() {
        domains.insert(domains::parse(&request.domain)?);
    } else if !request.ids.is_empty() {
        let found = named(&cluster, &request.ids)?.into_iter();
        let held = found.filter(|(_, mail)| mail.state == State::Held);
        domains.extend(held.map(|(domain, _)| domain));
        if domains.is_empty() {
            return Err(Status::not_found(
                "none of it waits for delivery\nfix: `holdfast mail release` for what is kept back, `holdfast mail \
                 requeue` for what was refused, `holdfast mail undelete` for what was deleted",
            ));
        }
    } else {
        let which = request.which.unwrap_or_default();
        let (wanted, only) = chosen(&cluster, &which)?;
        let wanted = Wanted {
            states: vec![State::Held],
            ..wanted
        };
        let mut walk = Walk::new(wanted, only);
        while let Some(page) = walk.next(&cluster.view(), PAGE).map_err(broken)? {
            domains.extend(page.into_iter().map(|found| match found {
                Found::Mail { domain, .. } | Found::Notification { domain, .. } => domain,
            }));
        }
    }
    let mut reply = wire::DeliverReply::default();
    for domain in domains {
        reply.domains.push(domain.to_string());
        if request.dry_run {
            reply.messages += query::pending(&cluster.view(), &domain).map_err(broken)?;
            continue;
        }
        let flush = Command::Flush {
            domain,
            via: "operator".into(),
        };
        match admin.propose(flush).await? {
            Reply::Flushed { messages } => reply.messages += messages,
            other => return Err(Status::internal(format!("an unexpected reply: {other:?}"))),
        }
    }
    Ok(reply)
}

/// The mail that is asked for, of one domain or of all, oldest first in each.
pub(super) fn list(
    admin: &Admin,
    request: &wire::MailListRequest,
) -> Result<mpsc::Receiver<Result<wire::Mail, Status>>, Status> {
    let cluster = admin.cluster()?;
    let only = only(&cluster, &request.domain)?;
    let limit = match request.limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let mut walk = Walk::new(wanted(request)?, only);
    let (out, mails) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut sent = 0;
        while sent < limit {
            // Read anew for each page: a reader that takes its time keeps no old state alive.
            let page = walk.next(&cluster.view(), PAGE.min(limit - sent));
            let page = match page.map_err(broken) {
                Ok(Some(page)) => page,
                Ok(None) => return,
                Err(status) => {
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            };
            for found in page {
                sent += 1;
                if out.send(Ok(shown(&found))).await.is_err() {
                    return;
                }
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
    let ago = |ms: u64| (ms > 0).then(|| Timestamp(now().0.saturating_sub(ms)));
    let before = (request.received_before_ms > 0).then_some(Timestamp(request.received_before_ms));
    let older = ago(request.older_than_ms);
    Ok(Wanted {
        states: request.states.iter().map(state).collect::<Result<_, _>>()?,
        from: request.from.clone(),
        to: request.to.clone(),
        text: String::new(),
        received_before: [before, older].into_iter().flatten().min(),
        received_after: ago(request.newer_than_ms),
        larger_than: request.larger_than,
        smaller_than: (request.smaller_than > 0).then_some(request.smaller_than),
        reply: request.reply.clone(),
    })
}

fn shown(found: &Found) -> wire::Mail {
    match found {
        Found::Mail { domain, mail } => {
            let row = &mail.row;
            wire::Mail {
                recipients: mail.recipients().collect(),
                attempts: row.attempts,
                last_reply: row.last_reply.clone(),
                state: mail.state.as_str().into(),
                retry_at_ms: row.retry_at.map_or(0, |at| at.0),
                discard_at_ms: row.discard_at.map_or(0, |at| at.0),
                ..about(domain, &mail.envelope)
            }
        }
        Found::Notification {
            domain,
            report,
            envelope,
        } => wire::Mail {
            attempts: report.attempts,
            last_reply: report.last_reply.clone(),
            state: "notification".into(),
            retry_at_ms: report.next_at.0,
            ..about(domain, envelope)
        },
    }
}

fn about(domain: &Domain, envelope: &Envelope) -> wire::Mail {
    wire::Mail {
        id: envelope.id.to_string(),
        domain: domain.to_string(),
        reverse_path: envelope.reverse_path.as_str().into(),
        recipients: envelope
            .recipients
            .iter()
            .map(|to| to.address.to_string())
            .collect(),
        bytes: envelope.body.len,
        received_at_ms: envelope.received_at.0,
        now_ms: now().0,
        ..wire::Mail::default()
    }
}

/// Entries sent at a time. One is 13 KB at the most, with the ids of all messages of a command, and an
/// answer of gRPC 4 MiB.
const AUDIT_PAGE: usize = 100;

pub(super) fn audit(
    admin: &Admin,
) -> Result<mpsc::Receiver<Result<wire::AuditList, Status>>, Status> {
    let view = admin.cluster()?.view();
    let (out, pages) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut after = None;
        loop {
            let page = match query::audit_after(&view, after, AUDIT_PAGE).map_err(broken) {
                Ok(page) => page,
                Err(status) => {
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            };
            let full = page.len() == AUDIT_PAGE;
            after = page.last().map(|(seq, _)| *seq);
            let entries = page.into_iter().map(|(_, entry)| audited(entry)).collect();
            if out.send(Ok(wire::AuditList { entries })).await.is_err() || !full {
                return;
            }
        }
    });
    Ok(pages)
}

fn audited(entry: query::Audited) -> wire::Audited {
    wire::Audited {
        at_ms: entry.at.0,
        by: entry.by,
        from: entry.from,
        what: entry.what,
        domain: entry.domain,
        ids: entry.messages.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn the_largest_page_of_the_audit_fits_into_an_answer() {
        let text = || "x".repeat(1_000);
        let id = MessageId::new(Timestamp(u64::MAX), u128::MAX);
        let largest = query::Audited {
            at: Timestamp(u64::MAX),
            by: text(),
            from: text(),
            what: text(),
            domain: "x".repeat(255),
            messages: vec![id; DISPOSE_MAX],
        };
        let entries = vec![audited(largest); AUDIT_PAGE];
        let page = wire::AuditList { entries };
        assert!(page.encoded_len() < 4 << 20, "{}", page.encoded_len());
    }
}
