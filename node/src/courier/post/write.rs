//! Writes a notification as a message of the cluster.

use bytes::Bytes;
use holdfast_ledger::query::Owed;
use holdfast_ledger::{Command, query};
use holdfast_mail::dsn::{self, Report, Returned, Told};
use holdfast_mail::{Envelope, MessageId, Recipient, ReversePath};

use super::Desk;
use crate::replica::{BodyWriter, random_id};

/// The command that accepts the notification; `None` if it is owed no more.
pub(super) async fn write(desk: &Desk, owed: &Owed, epoch: u64) -> Result<Option<Command>, String> {
    let cluster = &desk.cluster;
    let view = cluster.view();
    let Some(original) = query::envelope(&view, owed.about).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let ReversePath::Mailbox(to) = &original.reverse_path else {
        return Ok(None);
    };
    let told: Vec<Told<'_>> = owed
        .recipients
        .iter()
        .filter_map(|who| {
            Some(Told {
                recipient: original.recipients.get(who.recipient as usize)?,
                why: who.why,
                reply: &who.reply,
                remote: (!who.remote.is_empty()).then_some(who.remote.as_str()),
                last_attempt: who.last_attempt,
                will_retry_until: owed.until,
            })
        })
        .collect();
    // A notification without what it is about is better than none.
    let (header, readable) = match header(desk, &original).await {
        Ok(header) => (header, true),
        Err(why) => {
            tracing::warn!(msg = %owed.about, %why, "its header cannot be returned to its sender");
            (Vec::new(), false)
        }
    };
    let now = cluster.time();
    let id = MessageId::new(now, random_id());
    let reporting = &cluster.me().smtp_name;
    let report = Report {
        kind: owed.kind,
        id,
        at: now,
        reporting,
        to,
        original: &original,
        told: &told,
    };
    let whole = readable && dsn::returns_whole(owed.kind, &original);
    let returned = if whole {
        Returned::Whole
    } else {
        Returned::Header(&header)
    };
    let written = dsn::write(&report, returned);
    let mut body = cluster.bodies().begin(id);
    let put = async {
        body.write(Bytes::from(written.head)).await?;
        if whole {
            copy(desk, &original, &mut body).await?;
        }
        body.write(Bytes::from(written.tail)).await?;
        body.finish().await
    };
    let body = put.await.map_err(|error| error.to_string())?;
    Ok(Some(Command::Report {
        node: cluster.me().id,
        epoch,
        about: owed.about,
        kind: owed.kind,
        version: owed.version,
        envelope: Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: to.clone(),
                notify: None,
                orcpt: None,
            }],
            body,
            received_at: now,
            body_type: written.body_type,
            smtputf8: written.smtputf8,
            ret: None,
            envid: None,
            helo: reporting.clone(),
            client: String::new(),
        },
    }))
}

/// The beginning of the original, with its header section.
async fn header(desk: &Desk, original: &Envelope) -> Result<Vec<u8>, String> {
    let mut reader = desk
        .cluster
        .bodies()
        .read(&original.body)
        .await
        .map_err(|error| error.to_string())?;
    let mut header = Vec::new();
    while header.len() < dsn::HEADER_OCTETS_MAX {
        match reader.next().await.map_err(|error| error.to_string())? {
            Some(chunk) => header.extend_from_slice(&chunk),
            None => break,
        }
    }
    header.truncate(dsn::HEADER_OCTETS_MAX);
    Ok(header)
}

async fn copy(desk: &Desk, original: &Envelope, to: &mut BodyWriter) -> std::io::Result<()> {
    let read = desk.cluster.bodies().read(&original.body).await;
    let mut reader = read.map_err(std::io::Error::other)?;
    while let Some(chunk) = reader.next().await.map_err(std::io::Error::other)? {
        to.write(chunk).await?;
    }
    Ok(())
}
