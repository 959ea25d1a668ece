//! What must hold of every state, whatever was applied.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_ledger::query::{self, Counts, Held, Owed};
use holdfast_ledger::{KvRead, Month, Seq};
use holdfast_mail::{Domain, Envelope, MessageId, ReversePath, dsn};

/// Counts by counting: every message that is held, refused, set aside, owed a word about or on its way
/// back, in the cluster; those held, refused or set aside in each domain.
pub(crate) fn audit(kv: &dyn KvRead) {
    let all = usize::MAX;
    let envelopes: BTreeMap<MessageId, Envelope> = query::bodies(kv, None, all)
        .unwrap()
        .into_iter()
        .map(|body| (body.id, query::envelope(kv, body.id).unwrap().unwrap()))
        .collect();
    let total = counted(envelopes.values());
    assert_eq!(query::total(kv), Ok(total), "the total is exact");

    let members = query::members(kv).unwrap();
    let rows = kv.scan(&[0x51], &[], all).unwrap().len();
    let on_duty = query::on_duty(kv).unwrap().len();
    assert_eq!(
        rows + on_duty,
        members.len(),
        "none but members are drained"
    );

    let mut with_something_to_deliver = Vec::new();
    let mut on_plans: BTreeMap<String, u64> = BTreeMap::new();
    let mut queued = BTreeSet::new();
    // Whom customers send to has no record.
    let records = query::domains(kv, None, all).unwrap();
    let ours: BTreeSet<Domain> = records.into_iter().map(|record| record.name).collect();
    let mut with_mail: BTreeSet<Domain> = ours.clone();
    with_mail.extend(query::held_domains(kv, None, all).unwrap());
    for domain in &with_mail {
        if let Some((plan, _)) = query::subscription(kv, domain).unwrap() {
            *on_plans.entry(plan).or_default() += 1;
        }
        let held = query::held(kv, domain, None, all).unwrap();
        let refused = query::refused(kv, domain, all).unwrap();
        if !held.is_empty() {
            with_something_to_deliver.push(domain.clone());
        }
        let mut here: BTreeMap<Seq, &Envelope> = BTreeMap::new();
        let aside = query::aside(kv, domain, None, all).unwrap();
        for row in held.iter().chain(&refused).chain(&aside) {
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
        let month = Month::of(query::now(kv).unwrap());
        let usage = query::usage(kv, domain, month).unwrap();
        let peak = usage.map_or(0, |usage| usage.peak_bytes);
        let is_counted = query::usage_since(kv).unwrap().is_some();
        assert!(
            peak >= counts.bytes || !is_counted || !ours.contains(domain),
            "{domain} holds more than at its peak"
        );
    }
    assert_eq!(
        query::held_domains(kv, None, all),
        Ok(with_something_to_deliver)
    );
    for owed in query::owed(kv, None, all).unwrap() {
        is_owed_to_a_sender(
            &owed,
            envelopes.get(&owed.about).expect("it has an envelope"),
        );
        queued.insert(owed.about);
    }
    for report in query::reports(kv, None, all).unwrap() {
        let envelope = envelopes.get(&report.message).expect("it has an envelope");
        assert_eq!(
            envelope.reverse_path,
            ReversePath::Null,
            "no answer to an answer"
        );
        assert!(queued.insert(report.message), "a report is in no queue");
    }
    for plan in query::plans(kv).unwrap() {
        let domains = on_plans.remove(&plan.name).unwrap_or(0);
        assert_eq!(plan.domains, domains, "those on {} are counted", plan.name);
    }
    assert!(on_plans.is_empty(), "a domain is on a plan that is gone");
    for account in query::accounts(kv, None, all).unwrap() {
        for domain in &account.domains {
            let known = query::domain(kv, domain).unwrap();
            assert!(known.is_some(), "{domain} is gone and still looked after");
        }
        for token in &account.tokens {
            let found = query::access_token(kv, &token.id).unwrap();
            let of = found.map(|(account, _)| account.name);
            assert_eq!(
                of.as_ref(),
                Some(&account.name),
                "a token is found by its id"
            );
        }
    }
    assert!(
        envelopes.keys().eq(&queued),
        "an envelope is kept exactly as long as something of it is queued or owed"
    );
}

fn is_owed_to_a_sender(owed: &Owed, envelope: &Envelope) {
    assert!(!owed.recipients.is_empty(), "nothing is owed about nobody");
    for who in &owed.recipients {
        let recipient = &envelope.recipients[who.recipient as usize];
        assert!(dsn::is_owed(&envelope.reverse_path, recipient, owed.kind));
    }
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
