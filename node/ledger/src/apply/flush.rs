//! Flush: somebody says that a primary is back; and SetAskers: who may say so.
//!
//! Flush changes no row. A hint that is lost delays the mail until the next probe finds the primary.

use holdfast_mail::Domain;
use holdfast_proto::ledger as proto;

use super::refuse;
use crate::{Askers, Effect, Kv, KvError, NETWORKS_MAX, Refusal, Reply, query, row, tables};

pub(super) fn flush(
    kv: &mut dyn Kv,
    domain: &Domain,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let counts: Option<proto::CountsRow> = row::get(kv, &tables::counts(domain))?;
    // A domain that is no customer's is known by its mail, and a host by whose it is.
    if counts.is_none()
        && !row::exists(kv, &tables::domain(domain))?
        && query::keeper(kv, domain)?.is_none()
    {
        return refuse(Refusal::UnknownDomain);
    }
    effects.push(Effect::FlushRequested {
        domain: domain.clone(),
    });
    Ok(Reply::Flushed {
        messages: counts.unwrap_or_default().pending,
    })
}

pub(super) fn set_askers(
    kv: &mut dyn Kv,
    domain: &Domain,
    askers: &Askers,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    if matches!(askers, Askers::Networks(networks) if networks.len() > NETWORKS_MAX) {
        return refuse(Refusal::Malformed);
    }
    let row = proto::AskersRow {
        askers: Some(askers.to_proto()),
    };
    row::put(kv, &tables::askers(domain), &row);
    Ok(Reply::Done)
}
