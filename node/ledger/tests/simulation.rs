//! Random commands against a model that is too simple to be wrong: per recipient of every
//! accepted message, whether it is waiting, delivered or refused. Nothing accepted may be lost, and
//! what came, what went and what is held must add up in the bills.

mod audit;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_ledger::query;
use holdfast_ledger::{
    Batch, Command, Member, MemoryKv, Month, Outcome, PlanChange, Primary, Refusal, Reply, Usage,
    Verdict, apply_batch,
};
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, NodeId, Recipient, ReversePath,
    Timestamp,
};

/// 2027-01-31T12:53:20Z: the month changes early in every run.
const START: u64 = 1_801_400_000_000;
const DOMAINS: [&str; 4] = ["a.example", "b.example", "a.example.org", "example"];
const STEPS: u64 = 1500;

#[test]
fn no_accepted_message_is_lost_or_brought_back() {
    for seed in 0..24 {
        World::new(seed).run();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Delivered,
    Refused,
}

struct World {
    seed: u64,
    random: u64,
    kv: MemoryKv,
    index: u64,
    now: u64,
    offered: Vec<Envelope>,
    accepted: BTreeMap<MessageId, Vec<Fate>>,
    cancelled: BTreeSet<MessageId>,
    epochs: BTreeMap<Domain, (NodeId, u64)>,
    /// What each domain held, times how many milliseconds.
    byte_ms: BTreeMap<Domain, u128>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: seed,
            kv: MemoryKv::new(),
            index: 0,
            now: START,
            offered: Vec::new(),
            accepted: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            epochs: BTreeMap::new(),
            byte_ms: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        self.enter(Command::Bootstrap {
            cluster_id: [0; 16],
            ca_certificate: vec![],
            ca_key: vec![],
            first: Member {
                id: NodeId(1),
                name: "oslo".to_owned(),
                region: String::new(),
                cluster_address: String::new(),
                smtp_name: String::new(),
                smtp_address: String::new(),
            },
            level: holdfast_ledger::level::NEWEST,
        });
        self.enter(Command::SetPlan {
            name: "basic".to_owned(),
            change: PlanChange {
                currency: Some("EUR".to_owned()),
                ..PlanChange::default()
            },
            must_be_new: true,
            must_exist: false,
        });
        for step in 0..STEPS {
            self.now += self.below(300_000);
            match self.below(20) {
                0 => self.set_domain(),
                1 => self.remove_domain(),
                2..=7 => self.accept(),
                8 => self.cancel(),
                9..=11 => self.acquire(),
                12 => assert!(matches!(self.enter(Command::Sweep), Reply::Swept { .. })),
                _ => self.record(),
            }
            if step % 50 == 0 {
                self.compare();
            }
        }
        self.compare();
        assert!(
            self.accepted.len() > 50,
            "seed {}: hardly anything happened",
            self.seed
        );
    }

    fn set_domain(&mut self) {
        let domain = self.domain();
        let primary = Primary {
            host: "mx.example".to_owned(),
            port: 25,
        };
        let reply = self.enter(Command::SetDomain {
            domain,
            primary,
            must_be_new: false,
            must_exist: false,
        });
        assert_eq!(reply, Reply::Done);
    }

    fn remove_domain(&mut self) {
        let domain = self.domain();
        let known = query::domain(&self.kv, &domain).unwrap().is_some();
        let owed = self.offered.iter().any(|envelope| {
            let fates = self.accepted.get(&envelope.id).into_iter().flatten();
            envelope
                .recipients
                .iter()
                .zip(fates)
                .any(|(recipient, fate)| {
                    *fate != Fate::Delivered && recipient.address.domain() == Some(&domain)
                })
        });
        let reply = self.enter(Command::RemoveDomain {
            domain: domain.clone(),
        });
        match (known, owed) {
            (false, _) => assert_eq!(reply, Reply::Refused(Refusal::UnknownDomain)),
            (true, true) => assert_eq!(reply, Reply::Refused(Refusal::MailHeld)),
            (true, false) => {
                assert_eq!(reply, Reply::Done);
                self.epochs.remove(&domain);
            }
        }
    }

    /// A new message, or an old one once more.
    fn accept(&mut self) {
        let envelope = if self.below(4) == 0 && !self.offered.is_empty() {
            self.pick_offered()
        } else {
            let envelope = self.envelope();
            self.offered.push(envelope.clone());
            envelope
        };
        let known_domains = envelope.recipients.iter().all(|recipient| {
            let domain = recipient.address.domain().unwrap();
            query::domain(&self.kv, domain).unwrap().is_some()
        });
        let id = envelope.id;
        let recipients = envelope.recipients.len();
        match self.enter(Command::Accept { envelope }) {
            Reply::Accepted { .. } => {
                assert!(!self.cancelled.contains(&id), "the sender was told 4xx");
                self.accepted
                    .entry(id)
                    .or_insert_with(|| vec![Fate::Waiting; recipients]);
            }
            Reply::Refused(Refusal::Cancelled) => assert!(self.cancelled.contains(&id)),
            Reply::Refused(Refusal::UnknownDomain) => {
                assert!(!known_domains && !self.accepted.contains_key(&id));
            }
            Reply::Refused(Refusal::Stale) => {
                let waits = |fates: &Vec<Fate>| fates.iter().any(|f| *f != Fate::Delivered);
                assert!(!self.accepted.get(&id).is_some_and(waits));
            }
            other => panic!("{other:?}"),
        }
    }

    fn cancel(&mut self) {
        let id = if self.below(2) == 0 && !self.offered.is_empty() {
            self.pick_offered().id
        } else {
            let envelope = self.envelope();
            self.offered.push(envelope.clone());
            envelope.id
        };
        match self.enter(Command::Cancel { message: id }) {
            Reply::Cancelled => {
                assert!(!self.accepted.contains_key(&id), "the sender was told 250");
                self.cancelled.insert(id);
            }
            Reply::AlreadyAccepted => assert!(self.accepted.contains_key(&id)),
            Reply::Refused(Refusal::Stale) => {}
            other => panic!("{other:?}"),
        }
    }

    fn acquire(&mut self) {
        let domain = self.domain();
        let reply = self.enter(Command::AcquireLease {
            domain: domain.clone(),
            node: NodeId(1),
            ttl_ms: 60_000,
        });
        if let Reply::Lease { epoch, .. } = reply {
            let before = self.epochs.insert(domain, (NodeId(1), epoch));
            assert!(before.is_none_or(|(_, before)| before < epoch));
        }
    }

    fn record(&mut self) {
        let domain = self.domain();
        let lease = self.epochs.get(&domain).copied();
        let right = lease.is_some() && self.below(8) != 0;
        let (node, epoch) = lease.filter(|_| right).unwrap_or((NodeId(1), 5));
        let count = if self.offered.is_empty() {
            0
        } else {
            self.below(12)
        };
        let outcomes: Vec<Outcome> = (0..count).map(|_| self.outcome()).collect();
        let reply = self.enter(Command::Record {
            domain: domain.clone(),
            node,
            epoch,
            outcomes: outcomes.clone(),
        });
        if !right {
            assert_eq!(reply, Reply::Refused(Refusal::Fenced));
            return;
        }
        assert_eq!(reply, Reply::Done);
        for outcome in outcomes {
            let envelope = self
                .offered
                .iter()
                .find(|e| e.id == outcome.message)
                .unwrap();
            let recipient = outcome.recipient as usize;
            let here = envelope
                .recipients
                .get(recipient)
                .is_some_and(|r| r.address.domain() == Some(&domain));
            let Some(fates) = self.accepted.get_mut(&outcome.message) else {
                continue;
            };
            if here && fates[recipient] == Fate::Waiting {
                fates[recipient] = match outcome.verdict {
                    Verdict::Delivered => Fate::Delivered,
                    Verdict::Deferred => Fate::Waiting,
                    Verdict::Refused => Fate::Refused,
                };
            }
        }
    }

    /// Every recipient is where the model has it.
    fn compare(&self) {
        audit::audit(&self.kv);
        let mut queued: BTreeMap<(MessageId, u32), Fate> = BTreeMap::new();
        for record in query::domains(&self.kv, None, usize::MAX).unwrap() {
            let held = query::held(&self.kv, &record.name, None, usize::MAX).unwrap();
            let refused = query::refused(&self.kv, &record.name, usize::MAX).unwrap();
            let rows = held.iter().map(|row| (row, Fate::Waiting));
            for (row, fate) in rows.chain(refused.iter().map(|row| (row, Fate::Refused))) {
                for recipient in &row.pending {
                    let double = queued.insert((row.message, *recipient), fate);
                    assert_eq!(double, None, "a recipient is in one queue only");
                }
            }
        }
        let expected: BTreeMap<(MessageId, u32), Fate> = self
            .accepted
            .iter()
            .flat_map(|(id, fates)| (0..).zip(fates).map(|(n, fate)| ((*id, n), *fate)))
            .filter(|(_, fate)| *fate != Fate::Delivered)
            .collect();
        assert_eq!(queued, expected, "seed {}", self.seed);
        self.compare_usage();
    }

    fn compare_usage(&self) {
        let months = [
            Month::of(Timestamp(START)),
            Month::of(Timestamp(START)).next(),
        ];
        let now = Month::of(query::now(&self.kv).unwrap());
        for domain in DOMAINS.map(|name| Domain::parse(name).unwrap()) {
            let usages: Vec<Usage> = months
                .iter()
                .filter(|month| **month <= now)
                .filter_map(|month| query::usage(&self.kv, &domain, *month).unwrap())
                .collect();
            let sum = |of: fn(&Usage) -> u64| usages.iter().map(of).sum::<u64>();
            let held = query::counts(&self.kv, &domain).unwrap();
            let seed = self.seed;
            assert_eq!(
                sum(|usage| usage.accepted.messages),
                sum(|usage| usage.delivered.messages) + held.messages,
                "seed {seed}: messages of {domain} do not add up"
            );
            assert_eq!(
                sum(|usage| usage.accepted.bytes),
                sum(|usage| usage.delivered.bytes) + held.bytes,
                "seed {seed}: bytes of {domain} do not add up"
            );
            // Each month's rest below a byte-day is cut.
            let held = self.byte_ms.get(&domain).unwrap_or(&0) / 86_400_000;
            let billed = u128::from(sum(|usage| usage.byte_days));
            assert!(
                (held.saturating_sub(2)..=held).contains(&billed),
                "seed {seed}: {billed} of {held} byte-days of {domain}"
            );
        }
    }

    fn enter(&mut self, command: Command) -> Reply {
        self.index += 1;
        let batch = Batch {
            at: Timestamp(self.now - self.below(5_000).min(self.now - START)),
            commands: vec![command],
        };
        let before = query::now(&self.kv).unwrap();
        let held = DOMAINS.map(|name| {
            let domain = Domain::parse(name).unwrap();
            let bytes = query::counts(&self.kv, &domain).unwrap().bytes;
            (domain, u128::from(bytes))
        });
        let replies = apply_batch(&mut self.kv, self.index, &batch, &mut Vec::new()).unwrap();
        let passed = query::now(&self.kv).unwrap().since(before).as_millis();
        for (domain, bytes) in held {
            *self.byte_ms.entry(domain).or_default() += bytes * passed;
        }
        replies.into_iter().next().unwrap()
    }

    fn envelope(&mut self) -> Envelope {
        let id = MessageId::new(Timestamp(self.now), u128::from(self.next()));
        let recipients = (0..=self.below(4))
            .map(|n| Recipient {
                address: Address::parse(&format!("{n}@{}", self.domain()), false).unwrap(),
                notify: None,
                orcpt: None,
            })
            .collect();
        Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients,
            body: BodyRef {
                id,
                len: self.below(100_000),
                digest: [0; 32],
            },
            received_at: Timestamp(self.now),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        }
    }

    fn outcome(&mut self) -> Outcome {
        Outcome {
            message: self.pick_offered().id,
            recipient: self.below(5) as u32,
            verdict: match self.below(4) {
                0 => Verdict::Deferred,
                1 => Verdict::Refused,
                _ => Verdict::Delivered,
            },
            reply: "said".to_owned(),
        }
    }

    /// Mostly a recent one.
    fn pick_offered(&mut self) -> Envelope {
        let count = self.offered.len();
        let span = if self.below(3) == 0 {
            count
        } else {
            count.min(12)
        };
        let back = self.below(span as u64) as usize;
        self.offered[count - 1 - back].clone()
    }

    fn domain(&mut self) -> Domain {
        Domain::parse(DOMAINS[self.below(4) as usize]).unwrap()
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// SplitMix64: small, and the same everywhere.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
