//! Everything about one message that is held.

use std::time::Duration;

use holdfast_ledger::query;
use holdfast_mail::dsn::{HEADER_OCTETS_MAX, Kind};
use holdfast_mail::{BodyRef, BodyType, Domain, Envelope, MessageId, Notify, Recipient, Ret};
use holdfast_proto::admin as wire;
use mail_parser::{Address, Message, MessageParser};
use tonic::Status;

use super::{Admin, broken, hex, mail, status};
use crate::listing::{self, Listed};
use crate::replica::{Cluster, Stands, now};

/// How long the header may take that is on its way here from another node.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);

/// Letters of one header that are told.
const VALUE_CHARS_MAX: usize = 1000;

pub(super) async fn show(admin: &Admin, text: &str) -> Result<wire::MailShown, Status> {
    let cluster = admin.cluster()?;
    let id = mail::id(text)?;
    let view = cluster.view();
    let envelope = query::envelope(&view, id)
        .map_err(broken)?
        .ok_or_else(|| mail::gone(id))?;
    let places = listing::places(&view, id).map_err(broken)?;
    let mut recipients = Vec::new();
    let standings = cluster.standings_of(id).await;
    for (index, recipient) in (0..).zip(&envelope.recipients) {
        let place = places
            .iter()
            .find(|(_, mail)| mail.row.pending.contains(&index));
        recipients.push(told(&cluster, &standings, &envelope, recipient, place)?);
    }
    let read = tokio::time::timeout(HEADER_TIME_MAX, header(&cluster, &envelope.body)).await;
    let (headers, unread) = match read {
        Ok(Ok(header)) => (headers(&header), String::new()),
        Ok(Err(why)) => (Vec::new(), why),
        Err(_) => (
            Vec::new(),
            "its body is on its way here from another node".into(),
        ),
    };
    Ok(wire::MailShown {
        id: id.to_string(),
        now_ms: now().0,
        reverse_path: envelope.reverse_path.as_str().into(),
        received_at_ms: envelope.received_at.0,
        client: envelope.client.clone(),
        helo: envelope.helo.clone(),
        bytes: envelope.body.len,
        body_digest: hex(&envelope.body.digest),
        body_type: match envelope.body_type {
            BodyType::SevenBit => "7BIT",
            BodyType::EightBitMime => "8BITMIME",
        }
        .into(),
        smtputf8: envelope.smtputf8,
        ret: match envelope.ret {
            None => "",
            Some(Ret::Full) => "FULL",
            Some(Ret::Headers) => "HDRS",
        }
        .into(),
        envid: envelope.envid.clone().unwrap_or_default(),
        recipients,
        headers,
        unread,
        bodies: standings.iter().map(holder).collect(),
        owed: owed(&cluster, &envelope)?,
    })
}

fn holder((place, standing, ..): &Stands) -> wire::MailBody {
    wire::MailBody {
        node: place.name.clone(),
        has: standing.as_ref().is_ok_and(|standing| standing.has_body),
        error: standing.as_ref().err().cloned().unwrap_or_default(),
    }
}

fn told(
    cluster: &Cluster,
    standings: &[Stands],
    envelope: &Envelope,
    recipient: &Recipient,
    place: Option<&(Domain, Listed)>,
) -> Result<wire::MailRecipient, Status> {
    let view = cluster.view();
    let mut told = wire::MailRecipient {
        address: recipient.address.to_string(),
        notify: recipient.notify.map_or_else(String::new, notify),
        orcpt: recipient.orcpt.clone().unwrap_or_default(),
        state: "done".into(),
        ..wire::MailRecipient::default()
    };
    let Some((domain, mail)) = place else {
        let report = notification(cluster, envelope.id)?;
        if let Some(report) = report {
            told.state = "notification".into();
            told.attempts = report.attempts;
            told.last_reply = report.last_reply;
            told.next_try_ms = report.next_at.0;
            told.expires_at_ms = report.give_up_at.0;
        }
        return Ok(told);
    };
    let row = &mail.row;
    told.state = mail.state.as_str().into();
    told.attempts = row.attempts;
    told.last_reply = row.last_reply.clone();
    told.retry_at_ms = row.retry_at.map_or(0, |at| at.0);
    told.discard_at_ms = row.discard_at.map_or(0, |at| at.0);
    let policy = query::policy(&view, domain).map_err(broken)?;
    let waits = matches!(mail.state, listing::State::Held | listing::State::Refused);
    let end = policy.expires_at(envelope.received_at).filter(|_| waits);
    told.expires_at_ms = end.map_or(0, |at| at.0);
    let lease = query::lease(&view, domain).map_err(broken)?;
    if let Some(lease) = lease {
        let holder = standings.iter().find(|(place, ..)| place.id == lease.node);
        told.lease_node = holder
            .map(|(place, ..)| place.name.clone())
            .unwrap_or_default();
        if mail.state == listing::State::Held {
            told.next_try_ms = status::next_try(standings, Some(lease.node), domain);
        }
    }
    let reach = query::reach(&view, domain).map_err(broken)?;
    told.primary_down = reach.and_then(|reach| reach.down).unwrap_or_default();
    Ok(told)
}

fn notification(cluster: &Cluster, id: MessageId) -> Result<Option<query::PendingReport>, Status> {
    let view = cluster.view();
    let seq = query::message(&view, id)
        .map_err(broken)?
        .map(|(seq, _)| seq);
    let Some(seq) = seq else {
        return Ok(None);
    };
    let before = seq.0.checked_sub(1).map(holdfast_ledger::Seq);
    let found = query::reports(&view, before, 1).map_err(broken)?.pop();
    Ok(found.filter(|report| report.message == id))
}

/// As in NOTIFY= (RFC 3461 section 4.1).
fn notify(notify: Notify) -> String {
    let said = [
        (notify.success, "SUCCESS"),
        (notify.failure, "FAILURE"),
        (notify.delay, "DELAY"),
    ];
    let said: Vec<&str> = said
        .iter()
        .filter(|(is_said, _)| *is_said)
        .map(|(_, word)| *word)
        .collect();
    if said.is_empty() {
        "NEVER".to_owned()
    } else {
        said.join(",")
    }
}

/// Notifications about it that nobody has written yet.
fn owed(cluster: &Cluster, envelope: &Envelope) -> Result<Vec<wire::MailOwed>, Status> {
    let mut told = Vec::new();
    for kind in [Kind::Failed, Kind::Delayed] {
        let Some(owed) = query::owed_about(&cluster.view(), envelope.id, kind).map_err(broken)?
        else {
            continue;
        };
        let address = |index: u32| envelope.recipients.get(index as usize);
        told.push(wire::MailOwed {
            kind: match kind {
                Kind::Failed => "failed",
                Kind::Delayed => "delayed",
            }
            .into(),
            recipients: owed
                .recipients
                .iter()
                .filter_map(|who| address(who.recipient))
                .map(|to| to.address.to_string())
                .collect(),
        });
    }
    Ok(told)
}

/// The beginning of the message, with its header section.
async fn header(cluster: &Cluster, body: &BodyRef) -> Result<Vec<u8>, String> {
    let reader = cluster.bodies().read(body).await;
    let mut reader = reader.map_err(|error| error.to_string())?;
    let mut header = Vec::new();
    while header.len() < HEADER_OCTETS_MAX && end(&header).is_none() {
        match reader.next().await.map_err(|error| error.to_string())? {
            Some(chunk) => header.extend_from_slice(&chunk),
            None => break,
        }
    }
    header.truncate(end(&header).unwrap_or(HEADER_OCTETS_MAX));
    Ok(header)
}

/// Behind the empty line that ends it (RFC 5322 section 2.1).
fn end(text: &[u8]) -> Option<usize> {
    let end = text.windows(4).position(|four| four == b"\r\n\r\n");
    end.map(|at| at + 4)
}

/// What a reader of the message would see of its header.
fn headers(header: &[u8]) -> Vec<wire::MailHeader> {
    let Some(message) = MessageParser::new().parse_headers(header) else {
        return Vec::new();
    };
    let date = |message: &Message<'_>| message.date().map(|date| date.to_rfc3339());
    let id = |message: &Message<'_>| message.message_id().map(|id| format!("<{id}>"));
    let all = [
        ("From", message.from().map(addresses)),
        ("To", message.to().map(addresses)),
        ("Cc", message.cc().map(addresses)),
        ("Reply-To", message.reply_to().map(addresses)),
        ("Date", date(&message)),
        ("Subject", message.subject().map(str::to_owned)),
        ("Message-ID", id(&message)),
    ];
    all.into_iter()
        .filter_map(|(name, value)| {
            Some(wire::MailHeader {
                name: name.into(),
                value: one_line(&value?),
            })
        })
        .collect()
}

/// Without controls, which could steer a screen.
fn one_line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(VALUE_CHARS_MAX).map(visible).collect()
}

fn addresses(address: &Address<'_>) -> String {
    let one = |address: &mail_parser::Addr<'_>| {
        let mailbox = address.address().unwrap_or_default();
        match address.name() {
            Some(name) => format!("{name} <{mailbox}>"),
            None => mailbox.to_owned(),
        }
    };
    address.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_told_decoded_on_one_line_and_cannot_steer_a_screen() {
        let raw = b"Received: from a\r\n\tby b\r\nFrom: =?UTF-8?Q?J=C3=BCrgen?= <j@example.com>, k@example.com\r\n\
            Subject: =?UTF-8?Q?a=1B[2Jb=C2=9B1m?=\r\n folded\r\nMessage-ID: <1@example.com>\r\n\r\nTo: nobody\r\n";
        let told = headers(&raw[..end(raw).unwrap()]);
        let told: Vec<(&str, &str)> = told
            .iter()
            .map(|header| (header.name.as_str(), header.value.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("From", "Jürgen <j@example.com>, k@example.com"),
                ("Subject", "a [2Jb 1m folded"),
                ("Message-ID", "<1@example.com>"),
            ]
        );
    }

    #[test]
    fn notify_is_told_as_it_was_said() {
        let some = Notify {
            failure: true,
            delay: true,
            success: false,
        };
        assert_eq!(notify(some), "FAILURE,DELAY");
        assert_eq!(notify(Notify::default()), "NEVER");
    }
}
