//! The audit: who did what, when and from where. And By, which enters what somebody did there.
//!
//! Sign-ins have a part of their own, and an account a share of each part: a customer's program that
//! signs in each minute, or changes something again and again, makes nobody forget what others did.

use holdfast_mail::Domain;
use holdfast_proto::ledger as proto;

use super::{Logged, apply, refuse};
use crate::account::AccountChange;
use crate::{Command, Effect, Kv, KvError, Refusal, Reply, Seq, level, query, row, tables};

/// Rows kept in each part: years of decisions by hand, in a few MiB.
const KEPT: u64 = 10_000;

/// Of them those of one account. Operators are few, and theirs is what has to be known longest.
const KEPT_OF_ACCOUNT: usize = 500;

/// Octets of each text of who, from and says.
const TEXT_OCTETS_MAX: usize = 1_000;

/// Who gave a command.
pub(super) struct Person<'a> {
    pub(super) who: &'a str,
    pub(super) from: &'a str,
    /// What the command is to come to, in words.
    pub(super) says: &'a str,
}

pub(super) fn by(
    kv: &mut dyn Kv,
    when: Logged,
    seq: Seq,
    person: &Person<'_>,
    command: &Command,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let texts = [person.who, person.from, person.says];
    let fits = texts.iter().all(|text| text.len() <= TEXT_OCTETS_MAX);
    let Some(about) = about(command).filter(|_| fits) else {
        return refuse(Refusal::Malformed);
    };
    let reply = apply(kv, when, command, effects)?;
    if matches!(reply, Reply::Refused(_)) {
        return Ok(reply);
    }
    let key = tables::audit(seq);
    // Dispose enters what it did itself, message by message.
    if let Some(noted) = row::get::<proto::AuditRow>(kv, &key)? {
        let from = person.from.to_owned();
        row::put(kv, &key, &proto::AuditRow { from, ..noted });
        return Ok(reply);
    }
    let entry = proto::AuditRow {
        at_ms: when.at.0,
        by: person.who.to_owned(),
        from: person.from.to_owned(),
        what: person.says.to_owned(),
        domain: about.map_or(String::new(), Domain::to_string),
        ..proto::AuditRow::default()
    };
    note(kv, part_of(command), seq, &entry)?;
    Ok(reply)
}

/// The domain that a command is about, if it is about one; `None`: nobody gives such a command. It
/// is the nodes' own, and the gate looks for bodies in commands that bring mail, not in here.
fn about(command: &Command) -> Option<Option<&Domain>> {
    match command {
        Command::SetDomain { domain, .. }
        | Command::RemoveDomain { domain }
        | Command::SetPolicy { domain, .. }
        | Command::SetRecipients { domain, .. }
        | Command::SetRoute { domain, .. }
        | Command::SetAskers { domain, .. }
        | Command::Subscribe { domain, .. }
        | Command::Dispose { domain, .. }
        | Command::Flush { domain, .. } => Some(Some(domain)),
        Command::OfAccount { .. }
        | Command::SetPlan { .. }
        | Command::RemovePlan { .. }
        | Command::Invite { .. }
        | Command::BeginDrill { .. }
        | Command::ScheduleDrill { .. }
        | Command::RemoveMember { .. }
        | Command::OfferAuthority { .. }
        | Command::RetireAuthority { .. }
        | Command::Grant { .. }
        | Command::Revoke { .. }
        | Command::Acme { .. }
        | Command::Note
        | Command::SetDrained { .. }
        | Command::RaiseLevel { .. } => Some(None),
        _ => None,
    }
}

/// A part of the audit.
#[derive(Clone, Copy)]
pub(super) struct Part {
    table: &'static [u8],
    count: &'static [u8],
}

pub(super) const DECISIONS: Part = Part {
    table: tables::AUDIT,
    count: tables::AUDIT_COUNT,
};

const SIGN_INS: Part = Part {
    table: tables::SIGN_INS,
    count: tables::SIGN_IN_COUNT,
};

fn part_of(command: &Command) -> Part {
    match command {
        Command::OfAccount {
            change: AccountChange::SignIn { .. },
            ..
        } => SIGN_INS,
        _ => DECISIONS,
    }
}

pub(super) fn note(
    kv: &mut dyn Kv,
    part: Part,
    seq: Seq,
    entry: &proto::AuditRow,
) -> Result<(), KvError> {
    let has_shares = query::level(kv)? >= level::AUDIT_SHARES;
    let part = if has_shares { part } else { DECISIONS };
    row::put(kv, &tables::audited(part.table, seq), entry);
    let counted: Option<proto::AuditCountRow> = row::get(kv, part.count)?;
    let mut rows = match counted {
        Some(counted) => counted.rows + 1,
        // The first since rows are counted.
        None => kv.scan(part.table, &[], usize::MAX)?.len() as u64,
    };
    if has_shares && row::exists(kv, &tables::account(&entry.by))? {
        let of = tables::audit_of(part.table, &entry.by);
        row::put(kv, &of_account(&of, seq), &proto::AuditOfRow {});
        let theirs = kv.scan(&of, &[], KEPT_OF_ACCOUNT + 1)?;
        if theirs.len() > KEPT_OF_ACCOUNT {
            let (oldest, _) = &theirs[0];
            kv.delete(&tables::audited(part.table, tables::seq_of(oldest)?));
            kv.delete(oldest);
            rows -= 1;
        }
    }
    while rows > KEPT {
        for (oldest, value) in kv.scan(part.table, &[], 1)? {
            if has_shares {
                let gone: proto::AuditRow = row::decode(&oldest, &value)?;
                let of = tables::audit_of(part.table, &gone.by);
                kv.delete(&of_account(&of, tables::seq_of(&oldest)?));
            }
            kv.delete(&oldest);
        }
        rows -= 1;
    }
    row::put(kv, part.count, &proto::AuditCountRow { rows });
    Ok(())
}

fn of_account(of: &[u8], seq: Seq) -> Vec<u8> {
    [of, &seq.0.to_be_bytes()].concat()
}
