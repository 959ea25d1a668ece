//! What must hold of every state, whatever was applied.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_ledger::query::{self, Counts, Held};
use holdfast_ledger::{KvRead, Seq};
use holdfast_mail::{Domain, Envelope, MessageId};

/// Counts by counting: every message that is held or refused, in the cluster and in each domain.
pub(crate) fn audit(kv: &dyn KvRead) {
    let all = usize::MAX;
    let envelopes: BTreeMap<MessageId, Envelope> = query::bodies(kv, None, all)
        .unwrap()
        .into_iter()
        .map(|body| (body.id, query::envelope(kv, body.id).unwrap().unwrap()))
        .collect();
    let total = counted(envelopes.values());
    assert_eq!(query::total(kv), Ok(total), "the total is exact");

    let mut with_something_to_deliver = Vec::new();
    let mut queued = BTreeSet::new();
    for record in query::domains(kv, None, all).unwrap() {
        let domain = &record.name;
        let held = query::held(kv, domain, None, all).unwrap();
        let refused = query::refused(kv, domain, all).unwrap();
        if !held.is_empty() {
            with_something_to_deliver.push(domain.clone());
        }
        let mut here: BTreeMap<Seq, &Envelope> = BTreeMap::new();
        for row in held.iter().chain(&refused) {
            let envelope = envelopes
                .get(&row.message)
                .expect("a queued message has an envelope");
            names_only_this_domain(row, envelope, domain);
            here.insert(row.seq, envelope);
            queued.insert(row.message);
        }
        let counts = counted(here.into_values());
        assert_eq!(
            query::counts(kv, domain),
            Ok(counts),
            "{domain} is counted exactly"
        );
    }
    assert_eq!(
        query::held_domains(kv, None, all),
        Ok(with_something_to_deliver)
    );
    assert!(
        envelopes.keys().eq(&queued),
        "an envelope is kept exactly as long as something of it is queued"
    );
}

fn counted<'a>(envelopes: impl Iterator<Item = &'a Envelope>) -> Counts {
    envelopes.fold(Counts::default(), |sum, envelope| Counts {
        messages: sum.messages + 1,
        bytes: sum.bytes + envelope.body.len,
    })
}

fn names_only_this_domain(row: &Held, envelope: &Envelope, domain: &Domain) {
    assert!(!row.pending.is_empty(), "{} waits for nobody", row.message);
    for recipient in &row.pending {
        let address = &envelope.recipients[*recipient as usize].address;
        assert_eq!(address.domain(), Some(domain), "{}", row.message);
    }
}
