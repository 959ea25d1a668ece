//! The audit: who did what, when and from where. And By, which enters what somebody did there.

use holdfast_mail::Domain;
use holdfast_proto::ledger as proto;

use super::{Logged, apply, refuse};
use crate::{Command, Effect, Kv, KvError, Refusal, Reply, Seq, row, tables};

/// Rows kept: years of decisions by hand, in a few MiB.
const KEPT: u64 = 10_000;

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
    note(kv, seq, &entry)?;
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

pub(super) fn note(kv: &mut dyn Kv, seq: Seq, entry: &proto::AuditRow) -> Result<(), KvError> {
    row::put(kv, &tables::audit(seq), entry);
    let counted: Option<proto::AuditCountRow> = row::get(kv, tables::AUDIT_COUNT)?;
    let mut rows = match counted {
        Some(counted) => counted.rows + 1,
        // The first since rows are counted.
        None => kv.scan(tables::AUDIT, &[], usize::MAX)?.len() as u64,
    };
    while rows > KEPT {
        for (oldest, _) in kv.scan(tables::AUDIT, &[], 1)? {
            kv.delete(&oldest);
        }
        rows -= 1;
    }
    row::put(kv, tables::AUDIT_COUNT, &proto::AuditCountRow { rows });
    Ok(())
}
