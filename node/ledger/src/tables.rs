//! Where each row is: one byte for the table, then the key.
//!
//! | byte | table     | rest of the key   | row          | kept until                              |
//! |------|-----------|-------------------|--------------|-----------------------------------------|
//! | 01   | clock     |                   | `ClockRow`   | for ever                                |
//! | 02   | cluster   |                   | `ClusterRow` | for ever                                |
//! | 03   | total     |                   | `CountsRow`  | for ever                                |
//! | 04   | swept     |                   | `SweptRow`   | for ever                                |
//! | 05   | post      |                   | `LeaseRow`   | another node takes the post             |
//! | 06   | audit count |                 | `AuditCountRow` | for ever                             |
//! | 07   | sign-in count |               | `AuditCountRow` | for ever                             |
//! | 10   | members   | node              | `Member`     | RemoveMember                            |
//! | 11   | removed   | node              | `RemovedRow` | for ever: ids are never reused          |
//! | 12   | tokens    | token id          | `TokenRow`   | Redeem, or Sweep once expired           |
//! | 20   | domains   | domain 00         | `DomainRow`  | RemoveDomain                            |
//! | 21   | counts    | domain 00         | `CountsRow`  | the domain's last message goes          |
//! | 22   | leases    | domain 00         | `LeaseRow`   | release, or removal of domain or member |
//! | 23   | policies  | domain 00         | `PolicyRow`  | RemoveDomain                            |
//! | 24   | health    | domain 00         | `HealthRow`  | removal or change of the primary        |
//! | 25   | listed    | domain 00 name    | `RecipientRow` | it is removed, or RemoveDomain        |
//! | 2c   | listed count | domain 00      | `RecipientsRow` | the list goes                         |
//! | 26   | known     | domain 00 name    | `KnownRow`   | Unlearn, Sweep once out of date, or RemoveDomain |
//! |      |           | domain 00         | `KnownsRow`  | RemoveDomain                            |
//! |      |           |                   | `SweptRow`   | for ever                                |
//! | 27   | reach     | domain 00         | `ReachRow`   | removal or change of the primary        |
//! | 28   | plans     | name              | `PlanRow`    | a bill of the last 24 months needs it   |
//! | 29   | usage     | month domain 00   | `UsageRow`   | Sweep, after 24 months                  |
//! | 29   | usage since |                 | `UsageSinceRow` | for ever                             |
//! | 2a   | askers    | domain 00         | `AskersRow`  | RemoveDomain                            |
//! | 2b   | routes    | domain 00         | `RouteRow`   | RemoveDomain                            |
//! | 30   | messages  | message id        | `MessageRow` | nothing refers to it any more           |
//! | 31   | held      | domain 00 seq     | `QueueRow`   | its last recipient there is settled     |
//! | 32   | refused   | domain 00 seq     | `QueueRow`   | it is tried again, bounced or discarded |
//! | 33   | marks     | message id        | `MarkRow`    | Sweep, once an Accept would be stale    |
//! | 34   | owed      | message id, kind  | `OwedRow`    | Report: its notification is written     |
//! | 35   | reports   | seq               | `ReportRow`  | the notification is delivered or dropped|
//! | 36   | audit     | seq               | `AuditRow`   | there are newer ones enough             |
//! | 38   | audited sign-ins | seq        | `AuditRow`   | there are newer ones enough             |
//! | 39   | audit of  | table account 00 seq | `AuditOfRow` | its row in that table goes          |
//! | 37   | aside     | domain 00 seq     | `QueueRow`   | it is released, undeleted or discarded  |
//! | 40   | accounts  | name              | `AccountRow` | it is removed                           |
//! | 41   | token ids | token id          | `TokenOfRow` | it, or its account, is removed          |
//! | 43   | sent      | account           | `SentRow`    | it is removed                           |
//! | 42   | attended  | domain 00         | `AttendRow`  | Leave, RemoveDomain, or another session |
//! | 5d   | below     | domain 00         | `CountsRow`  | its hosts hold nothing any more         |
//! | 60   | drills    | drill id          | `DrillRow`   | there are newer ones enough             |
//! | 61   | schedules | name              | `DrillSchedule` | it is removed                        |
//! | 56   | rotation  |                   | `RotationRow` | RetireAuthority                        |
//! | 57   | trusting  | node              | `TrustRow`   | RetireAuthority, or RemoveMember        |
//! | 58   | grants    | name              | `GrantRow`   | Revoke                                  |
//! | 59   | acme      |                   | `AcmeRow`    | it is stopped                           |
//! | 5a   | acme answers | token          | `AcmeAnswerRow` | the order has ended, or is tried anew |
//! | 5b   | acme issued |                 | `AcmeIssuedRow` | it is stopped                        |
//! | 50   | level     |                   | `LevelRow`   | for ever                                |
//! | 51   | drained   | node              | `DrainedRow` | SetDrained, or RemoveMember             |
//!
//! Numbers are big-endian, so that rows sort by them. A domain ends with a zero byte, which no
//! domain holds: `example.org` is then never a prefix of `example.org.uk`, and one domain's
//! rows are one range, in the order of acceptance. Message ids begin with their time, so marks
//! are swept from the front.
//!
//! The table bytes are part of the stored format: none is given another meaning.

use holdfast_mail::dsn::Kind;
use holdfast_mail::{Domain, MessageId, NodeId};

use crate::{KvError, Month, Seq};

pub(crate) const CLOCK: &[u8] = &[0x01];
pub(crate) const CLUSTER: &[u8] = &[0x02];
pub(crate) const TOTAL: &[u8] = &[0x03];
pub(crate) const SWEPT: &[u8] = &[0x04];
pub(crate) const POST: &[u8] = &[0x05];
pub(crate) const AUDIT_COUNT: &[u8] = &[0x06];
pub(crate) const SIGN_IN_COUNT: &[u8] = &[0x07];
pub(crate) const MEMBERS: &[u8] = &[0x10];
pub(crate) const REMOVED: &[u8] = &[0x11];
pub(crate) const TOKENS: &[u8] = &[0x12];
pub(crate) const DOMAINS: &[u8] = &[0x20];
pub(crate) const COUNTS: &[u8] = &[0x21];
pub(crate) const LEASES: &[u8] = &[0x22];
const POLICIES: &[u8] = &[0x23];
const HEALTH: &[u8] = &[0x24];
pub(crate) const LISTED: &[u8] = &[0x25];
pub(crate) const KNOWN: &[u8] = &[0x26];
const REACH: &[u8] = &[0x27];
pub(crate) const PLANS: &[u8] = &[0x28];
/// The row of this key says since when usage is counted.
pub(crate) const USAGE: &[u8] = &[0x29];
const ASKERS: &[u8] = &[0x2a];
const ROUTES: &[u8] = &[0x2b];
const LISTED_COUNTS: &[u8] = &[0x2c];
pub(crate) const MESSAGES: &[u8] = &[0x30];
pub(crate) const HELD: &[u8] = &[0x31];
pub(crate) const REFUSED: &[u8] = &[0x32];
pub(crate) const MARKS: &[u8] = &[0x33];
pub(crate) const OWED: &[u8] = &[0x34];
pub(crate) const REPORTS: &[u8] = &[0x35];
pub(crate) const AUDIT: &[u8] = &[0x36];
pub(crate) const ASIDE: &[u8] = &[0x37];
pub(crate) const SIGN_INS: &[u8] = &[0x38];
const AUDIT_OF: &[u8] = &[0x39];
pub(crate) const ACCOUNTS: &[u8] = &[0x40];
const TOKEN_IDS: &[u8] = &[0x41];
pub(crate) const ATTENDED: &[u8] = &[0x42];
const SENT: &[u8] = &[0x43];
const BELOW: &[u8] = &[0x5d];
pub(crate) const DRILLS: &[u8] = &[0x60];
pub(crate) const SCHEDULES: &[u8] = &[0x61];
pub(crate) const ROTATION: &[u8] = &[0x56];
pub(crate) const TRUSTING: &[u8] = &[0x57];
pub(crate) const GRANTS: &[u8] = &[0x58];
pub(crate) const ACME: &[u8] = &[0x59];
pub(crate) const ACME_ANSWERS: &[u8] = &[0x5a];
pub(crate) const ACME_ISSUED: &[u8] = &[0x5b];
pub(crate) const LEVEL: &[u8] = &[0x50];
pub(crate) const DRAINED: &[u8] = &[0x51];

/// Ends a domain's name in a key.
const DOMAIN_END: u8 = 0;

/// Ends an account's name in a key, which no name holds either.
const NAME_END: u8 = 0;

/// Kinds of notification, at the end of a key.
const FAILED: u8 = 1;
const DELAYED: u8 = 2;

pub(crate) fn member(node: NodeId) -> Vec<u8> {
    [MEMBERS, &node.0.to_be_bytes()].concat()
}

pub(crate) fn removed(node: NodeId) -> Vec<u8> {
    [REMOVED, &node.0.to_be_bytes()].concat()
}

pub(crate) fn removed_of(key: &[u8]) -> Result<NodeId, KvError> {
    key.last_chunk()
        .map(|bytes| NodeId(u64::from_be_bytes(*bytes)))
        .ok_or_else(|| unreadable(key))
}

pub(crate) fn trusting(node: NodeId) -> Vec<u8> {
    [TRUSTING, &node.0.to_be_bytes()].concat()
}

pub(crate) fn grant(name: &str) -> Vec<u8> {
    [GRANTS, name.as_bytes()].concat()
}

pub(crate) fn grant_of(key: &[u8]) -> Result<&str, KvError> {
    account_of(key)
}

pub(crate) fn acme_answer(token: &str) -> Vec<u8> {
    [ACME_ANSWERS, token.as_bytes()].concat()
}

pub(crate) fn drained(node: NodeId) -> Vec<u8> {
    [DRAINED, &node.0.to_be_bytes()].concat()
}

pub(crate) fn token(id: &[u8; 16]) -> Vec<u8> {
    [TOKENS, id].concat()
}

pub(crate) fn domain(domain: &Domain) -> Vec<u8> {
    of_domain(DOMAINS, domain)
}

pub(crate) fn counts(domain: &Domain) -> Vec<u8> {
    of_domain(COUNTS, domain)
}

/// What the hosts below a domain hold.
pub(crate) fn below(domain: &Domain) -> Vec<u8> {
    of_domain(BELOW, domain)
}

pub(crate) fn lease(domain: &Domain) -> Vec<u8> {
    of_domain(LEASES, domain)
}

pub(crate) fn policy(domain: &Domain) -> Vec<u8> {
    of_domain(POLICIES, domain)
}

pub(crate) fn health(domain: &Domain) -> Vec<u8> {
    of_domain(HEALTH, domain)
}

pub(crate) fn askers(domain: &Domain) -> Vec<u8> {
    of_domain(ASKERS, domain)
}

pub(crate) fn plan(name: &str) -> Vec<u8> {
    [PLANS, name.as_bytes()].concat()
}

pub(crate) fn plan_of(key: &[u8]) -> Result<&str, KvError> {
    key.split_first()
        .and_then(|(_, name)| std::str::from_utf8(name).ok())
        .ok_or_else(|| unreadable(key))
}

/// The prefix of a month's usage.
pub(crate) fn usage_in(month: Month) -> Vec<u8> {
    [USAGE, &month.0.to_be_bytes()].concat()
}

pub(crate) fn usage(month: Month, domain: &Domain) -> Vec<u8> {
    of_domain(&usage_in(month), domain)
}

/// Whose usage it is, and of which month.
pub(crate) fn usage_of(key: &[u8]) -> Result<(Month, Domain), KvError> {
    let (month, rest) = key
        .get(1..)
        .and_then(|rest| rest.split_first_chunk())
        .ok_or_else(|| unreadable(key))?;
    let domain = rest
        .strip_suffix(&[DOMAIN_END])
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| Domain::parse(name).ok())
        .ok_or_else(|| unreadable(key))?;
    Ok((Month(u64::from_be_bytes(*month)), domain))
}

pub(crate) fn reach(domain: &Domain) -> Vec<u8> {
    of_domain(REACH, domain)
}

pub(crate) fn route(domain: &Domain) -> Vec<u8> {
    of_domain(ROUTES, domain)
}

pub(crate) fn drill(id: MessageId) -> Vec<u8> {
    [DRILLS, &id.to_bytes()].concat()
}

pub(crate) fn drill_of(key: &[u8]) -> Result<MessageId, KvError> {
    key.get(1..)
        .and_then(MessageId::from_bytes)
        .ok_or_else(|| unreadable(key))
}

pub(crate) fn schedule(name: &str) -> Vec<u8> {
    [SCHEDULES, name.as_bytes()].concat()
}

pub(crate) fn schedule_of(key: &[u8]) -> Result<String, KvError> {
    plan_of(key).map(str::to_owned)
}

pub(crate) fn sent(account: &str) -> Vec<u8> {
    [SENT, account.as_bytes()].concat()
}

pub(crate) fn attended(domain: &Domain) -> Vec<u8> {
    of_domain(ATTENDED, domain)
}

pub(crate) fn listed(domain: &Domain, name: &str) -> Vec<u8> {
    [&of_domain(LISTED, domain)[..], name.as_bytes()].concat()
}

pub(crate) fn listed_count(domain: &Domain) -> Vec<u8> {
    of_domain(LISTED_COUNTS, domain)
}

pub(crate) fn account(name: &str) -> Vec<u8> {
    [ACCOUNTS, name.as_bytes()].concat()
}

pub(crate) fn account_of(key: &[u8]) -> Result<&str, KvError> {
    key.split_first()
        .and_then(|(_, name)| std::str::from_utf8(name).ok())
        .ok_or_else(|| unreadable(key))
}

pub(crate) fn token_id(id: &[u8; 16]) -> Vec<u8> {
    [TOKEN_IDS, id].concat()
}

pub(crate) fn known(domain: &Domain, name: &str) -> Vec<u8> {
    [&of_domain(KNOWN, domain)[..], name.as_bytes()].concat()
}

pub(crate) fn message(id: MessageId) -> Vec<u8> {
    [MESSAGES, &id.to_bytes()].concat()
}

pub(crate) fn mark(id: MessageId) -> Vec<u8> {
    [MARKS, &id.to_bytes()].concat()
}

pub(crate) fn owed(about: MessageId, kind: Kind) -> Vec<u8> {
    let kind = match kind {
        Kind::Failed => FAILED,
        Kind::Delayed => DELAYED,
    };
    [&owed_of(about)[..], &[kind]].concat()
}

/// The prefix of what is owed about a message.
pub(crate) fn owed_of(about: MessageId) -> Vec<u8> {
    [OWED, &about.to_bytes()].concat()
}

pub(crate) fn report(seq: Seq) -> Vec<u8> {
    [REPORTS, &seq.0.to_be_bytes()].concat()
}

pub(crate) fn audit(seq: Seq) -> Vec<u8> {
    audited(AUDIT, seq)
}

/// A row of the audit, in one of its two tables.
pub(crate) fn audited(table: &[u8], seq: Seq) -> Vec<u8> {
    [table, &seq.0.to_be_bytes()].concat()
}

/// The prefix of what is in one of the audit's tables of an account.
pub(crate) fn audit_of(table: &[u8], account: &str) -> Vec<u8> {
    [AUDIT_OF, table, account.as_bytes(), &[NAME_END]].concat()
}

pub(crate) fn held(domain: &Domain, seq: Seq) -> Vec<u8> {
    in_queue(HELD, domain, seq)
}

pub(crate) fn aside(domain: &Domain, seq: Seq) -> Vec<u8> {
    in_queue(ASIDE, domain, seq)
}

pub(crate) fn refused(domain: &Domain, seq: Seq) -> Vec<u8> {
    in_queue(REFUSED, domain, seq)
}

pub(crate) fn in_queue(table: &[u8], domain: &Domain, seq: Seq) -> Vec<u8> {
    let mut key = of_domain(table, domain);
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

/// The key of a domain's own row in `table`, or the prefix of its rows.
pub(crate) fn of_domain(table: &[u8], domain: &Domain) -> Vec<u8> {
    [table, domain.as_str().as_bytes(), &[DOMAIN_END]].concat()
}

/// The smallest key behind `key`: where the next page of a scan begins.
pub(crate) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The domain of a row in a table that has one row for each.
pub(crate) fn domain_of(key: &[u8]) -> Result<Domain, KvError> {
    key.split_first()
        .and_then(|(_, rest)| rest.strip_suffix(&[DOMAIN_END]))
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| Domain::parse(name).ok())
        .ok_or_else(|| unreadable(key))
}

/// The domain and the name of a row of what is known; the domain's own row has no name.
pub(crate) fn known_name(key: &[u8]) -> Result<(Domain, &str), KvError> {
    let end = key.iter().position(|byte| *byte == DOMAIN_END);
    let (domain, name) = key.split_at(end.ok_or_else(|| unreadable(key))? + 1);
    let name = std::str::from_utf8(name).map_err(|_| unreadable(key))?;
    Ok((domain_of(domain)?, name))
}

/// The place in the queue of a held or refused row.
pub(crate) fn seq_of(key: &[u8]) -> Result<Seq, KvError> {
    key.last_chunk()
        .map(|bytes| Seq(u64::from_be_bytes(*bytes)))
        .ok_or_else(|| unreadable(key))
}

/// What an owed row is about.
pub(crate) fn owed_about(key: &[u8]) -> Result<(MessageId, Kind), KvError> {
    let (kind, rest) = key.split_last().ok_or_else(|| unreadable(key))?;
    let kind = match *kind {
        FAILED => Kind::Failed,
        DELAYED => Kind::Delayed,
        _ => return Err(unreadable(key)),
    };
    Ok((marked(rest)?, kind))
}

/// The message of a mark.
pub(crate) fn marked(key: &[u8]) -> Result<MessageId, KvError> {
    key.split_first()
        .and_then(|(_, id)| MessageId::from_bytes(id))
        .ok_or_else(|| unreadable(key))
}

fn unreadable(key: &[u8]) -> KvError {
    KvError(format!("the key {key:02x?} is not one that was written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_domain_never_match_another_whose_name_begins_the_same() {
        let short = Domain::parse("example.org").unwrap();
        let long = Domain::parse("example.org.uk").unwrap();
        let row = held(&long, Seq(7));
        assert!(!row.starts_with(&of_domain(HELD, &short)));
        assert!(row.starts_with(&of_domain(HELD, &long)));
        assert_eq!(seq_of(&row), Ok(Seq(7)));
        assert_eq!(domain_of(&counts(&long)), Ok(long));
    }

    #[test]
    fn a_key_nobody_wrote_is_an_error_and_no_panic() {
        for key in [&b""[..], b"\x21", b"\x21example.org", b"\x21\xff\0"] {
            assert!(domain_of(key).is_err(), "{key:?}");
        }
        assert!(seq_of(b"short").is_err());
        assert!(marked(b"").is_err() && marked(b"\x33short").is_err());
    }
}
