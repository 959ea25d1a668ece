//! SetRecipients: who of a domain gets mail.

use holdfast_mail::Domain;
use holdfast_mail::address::LOCAL_PART_OCTETS_MAX;
use holdfast_proto::ledger as proto;

use super::{Logged, refuse};
use crate::query::listed_name;
use crate::{Kv, KvError, Refusal, Reply, row, tables};

/// Names that one SetRecipients adds or removes, so that it does not delay the Accepts behind it.
pub const RECIPIENTS_PER_COMMAND_MAX: usize = 1_000;

pub(super) fn set(
    kv: &mut dyn Kv,
    when: Logged,
    domain: &Domain,
    add: &[String],
    remove: &[String],
    clear: bool,
) -> Result<Reply, KvError> {
    if !row::exists(kv, &tables::domain(domain))? {
        return refuse(Refusal::UnknownDomain);
    }
    let fits = |name: &String| !name.is_empty() && name.len() <= LOCAL_PART_OCTETS_MAX;
    if add.len() + remove.len() > RECIPIENTS_PER_COMMAND_MAX || !add.iter().all(fits) {
        return refuse(Refusal::Malformed);
    }
    if clear {
        forget(kv, domain)?;
    }
    for name in remove {
        kv.delete(&tables::listed(domain, &listed_name(name)));
    }
    for name in add {
        let key = tables::listed(domain, &listed_name(name));
        if !row::exists(kv, &key)? {
            row::put(
                kv,
                &key,
                &proto::RecipientRow {
                    since_ms: when.at.0,
                },
            );
        }
    }
    Ok(Reply::Done)
}

/// Forgets the whole list. Done rarely, and a list has thousands of rows at most.
pub(super) fn forget(kv: &mut dyn Kv, domain: &Domain) -> Result<(), KvError> {
    for (key, _) in kv.scan(&tables::of_domain(tables::LISTED, domain), &[], usize::MAX)? {
        kv.delete(&key);
    }
    Ok(())
}
