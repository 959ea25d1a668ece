//! Hosts below a domain: `user@host.example.org`, where `example.org` takes mail for its hosts.
//!
//! A name that has a record answers for itself. Of any other, the nearest name above that has a
//! record decides: it takes the host's mail, or nobody does. Such a host has a queue and a lease of
//! its own, so that one machine that is off holds up no other; its quota, hold and list are those
//! of the domain, and what it holds counts there. Whose it is stands in the host's counts as long
//! as it holds mail, so that every message is taken off where it was added, whatever records come
//! and go meanwhile.

use holdfast_mail::Domain;
use holdfast_proto::ledger as proto;

use crate::query::{self, Counts};
use crate::row::{self, unreadable};
use crate::{KvError, KvRead, Policy, tables};

/// Hosts of one domain that may hold mail at once. Anybody can make up names, and each has a queue
/// and connections of its own.
pub const HOSTS_MAX: u64 = 500;

/// Labels of a name that are taken off in the search for the domain it is below.
const DEPTH_MAX: usize = 16;

/// Who takes mail for the name: itself, or the domain that takes mail for its hosts.
pub(crate) fn taker(kv: &dyn KvRead, name: &Domain) -> Result<Option<Domain>, KvError> {
    if row::exists(kv, &tables::domain(name))? {
        return Ok(Some(name.clone()));
    }
    above(kv, name)
}

/// The domain that answers for a host without a record; `None`: the name answers for itself.
pub(crate) fn keeper(kv: &dyn KvRead, name: &Domain) -> Result<Option<Domain>, KvError> {
    if row::exists(kv, &tables::domain(name))? {
        return Ok(None);
    }
    let key = tables::counts(name);
    let counts: Option<proto::CountsRow> = row::get(kv, &key)?;
    match counts {
        Some(counts) if !counts.keeper.is_empty() => keeper_of(&key, &counts),
        _ => above(kv, name),
    }
}

/// The same as it stands in a host's counts.
pub(crate) fn keeper_of(key: &[u8], counts: &proto::CountsRow) -> Result<Option<Domain>, KvError> {
    if counts.keeper.is_empty() {
        return Ok(None);
    }
    let keeper = Domain::parse(&counts.keeper);
    keeper.map(Some).map_err(|error| unreadable(key, error))
}

/// The nearest name above that has a record, if it takes mail for its hosts. Mail that goes only to
/// where somebody is signed in goes to no host.
pub(crate) fn above(kv: &dyn KvRead, name: &Domain) -> Result<Option<Domain>, KvError> {
    if name.is_literal() {
        return Ok(None);
    }
    let mut rest = name.as_str();
    for _ in 0..DEPTH_MAX {
        let Some((_, upper)) = rest.split_once('.') else {
            return Ok(None);
        };
        rest = upper;
        let Ok(domain) = Domain::parse(upper) else {
            return Ok(None);
        };
        if row::exists(kv, &tables::domain(&domain))? {
            let takes = query::route(kv, &domain)?.direct && !query::policy(kv, &domain)?.attended;
            return Ok(takes.then_some(domain));
        }
    }
    Ok(None)
}

/// What a host's mail is held by: nobody asks a host for its recipients, nor looks at it until there
/// is mail for it.
pub(crate) fn policy_of_host(policy: Policy) -> Policy {
    Policy {
        verify: false,
        defer: false,
        ..policy
    }
}

/// What the hosts of a domain hold, and how many they are.
pub(crate) fn below(kv: &dyn KvRead, domain: &Domain) -> Result<(Counts, u64), KvError> {
    let row: Option<proto::CountsRow> = row::get(kv, &tables::below(domain))?;
    let row = row.unwrap_or_default();
    let counts = Counts {
        messages: row.messages,
        bytes: row.bytes,
    };
    Ok((counts, row.pending))
}
