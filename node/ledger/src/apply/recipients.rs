//! SetRecipients: who of a domain gets mail.

use std::collections::BTreeSet;

use holdfast_mail::Domain;
use holdfast_mail::address::LOCAL_PART_OCTETS_MAX;
use holdfast_proto::ledger as proto;

use super::{Logged, refuse};
use crate::query::listed_name;
use crate::{Kv, KvError, KvRead, Refusal, Reply, level, query, row, tables};

/// Names that one SetRecipients adds or removes, so that it does not delay the Accepts behind it.
pub const RECIPIENTS_PER_COMMAND_MAX: usize = 1_000;

/// Names that a domain may list: a large company's, and a list that one node can still read, show and
/// replace in one go. Beyond it the primary is asked.
pub const RECIPIENTS_MAX: usize = 100_000;

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
    let count = match query::level(kv)? >= level::LISTED_COUNTS {
        true => Some(count_after(kv, domain, add, remove, clear)?),
        false => None,
    };
    // A list that was longer before there was a limit may still get shorter.
    if count.is_some_and(|(before, after)| after > before && after > RECIPIENTS_MAX as u64) {
        return refuse(Refusal::TooManyRecipients);
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
    if let Some((_, names)) = count {
        row::put(
            kv,
            &tables::listed_count(domain),
            &proto::RecipientsRow { names },
        );
    }
    Ok(Reply::Done)
}

/// Names that are listed, and that will be.
fn count_after(
    kv: &dyn KvRead,
    domain: &Domain,
    add: &[String],
    remove: &[String],
    clear: bool,
) -> Result<(u64, u64), KvError> {
    let counted: Option<proto::RecipientsRow> = row::get(kv, &tables::listed_count(domain))?;
    let before = match counted {
        Some(counted) => counted.names,
        // The first change since they are counted.
        None => query::recipients(kv, domain, None, usize::MAX)?.len() as u64,
    };
    let keys = |names: &[String]| -> BTreeSet<Vec<u8>> {
        let key = |name: &String| tables::listed(domain, &listed_name(name));
        names.iter().map(key).collect()
    };
    let removed = keys(remove);
    let mut after = if clear { 0 } else { before };
    for key in removed.iter().filter(|_| !clear) {
        after -= u64::from(row::exists(kv, key)?);
    }
    for key in keys(add) {
        let stays = !clear && !removed.contains(&key) && row::exists(kv, &key)?;
        after += u64::from(!stays);
    }
    Ok((before, after))
}

/// Forgets the whole list. Done rarely, and a list has thousands of rows at most.
pub(super) fn forget(kv: &mut dyn Kv, domain: &Domain) -> Result<(), KvError> {
    for (key, _) in kv.scan(&tables::of_domain(tables::LISTED, domain), &[], usize::MAX)? {
        kv.delete(&key);
    }
    kv.delete(&tables::listed_count(domain));
    Ok(())
}
