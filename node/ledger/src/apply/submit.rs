//! Submit: a customer sends mail to anybody.
//!
//! Its mail is held like any other, by the domain it goes to. A domain that is no customer's has no
//! record: it is known by the mail that is held for it, goes by its MX records, and is forgotten with
//! its last message. Nobody else's mail is accepted for it.

use std::time::Duration;

use holdfast_mail::{Envelope, ReversePath};
use holdfast_proto::ledger as proto;

use super::Logged;
use crate::{Kv, KvError, KvRead, Refusal, query, row, tables};

/// What an account's limits are for.
pub const SENT_PERIOD: Duration = Duration::from_secs(3600);

/// What the account will have sent in this period, or why it may not send this.
pub(super) fn may_send(
    kv: &dyn KvRead,
    when: Logged,
    account: &str,
    envelope: &Envelope,
) -> Result<Result<proto::SentRow, Refusal>, KvError> {
    let Some(known) = query::account(kv, account)? else {
        return Ok(Err(Refusal::UnknownAccount));
    };
    // In the name of nobody else, and of nobody: answers to it have to find somebody.
    let theirs = match &envelope.reverse_path {
        ReversePath::Null => false,
        ReversePath::Mailbox(address) => address
            .domain()
            .is_some_and(|domain| known.domains.contains(domain)),
    };
    if !theirs {
        return Ok(Err(Refusal::NotYourDomain));
    }
    let period_ms = u64::try_from(SENT_PERIOD.as_millis()).unwrap_or(u64::MAX);
    let period = when.at.0 / period_ms;
    let sent: Option<proto::SentRow> = row::get(kv, &tables::sent(account))?;
    let sent = sent.filter(|sent| sent.period == period);
    let sent = sent.unwrap_or_default();
    let recipients = sent.recipients + envelope.recipients.len() as u64;
    let bytes = sent.bytes.saturating_add(envelope.body.len);
    let limits = known.send_limits;
    Ok(if recipients > limits.recipients || bytes > limits.bytes {
        Err(Refusal::TooMuchSent)
    } else {
        Ok(proto::SentRow {
            period,
            recipients,
            bytes,
        })
    })
}

/// Notes it.
pub(super) fn sent(kv: &mut dyn Kv, account: &str, row: proto::SentRow) {
    row::put(kv, &tables::sent(account), &row);
}
