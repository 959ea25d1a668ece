//! Random commands against a model that is too simple to be wrong: what each recipient's sender
//! was told. Nobody is told twice, nobody is told of mail that was delivered, and in the end
//! everybody is told who should be. Quotas are never exceeded by mail that was accepted.

mod audit;

use std::collections::BTreeMap;

use holdfast_ledger::query;
use holdfast_ledger::{
    Batch, Command, Disposal, Member, MemoryKv, Outcome, PolicyChange, Primary, Refusal, Reply,
    ReportFate, ReportOutcome, Seq, Verdict, apply_batch,
};
use holdfast_mail::dsn::Kind;
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, NodeId, Notify, Recipient,
    ReversePath, Timestamp,
};

const START: u64 = 1_800_000_000_000;
const DOMAINS: [&str; 3] = ["a.example", "b.example", "a.example.org"];
const STEPS: u64 = 2500;

#[test]
fn every_sender_is_told_once_and_only_of_mail_that_failed() {
    for seed in 0..24 {
        World::new(seed).run();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Refused,
    Delivered,
    /// Given up: its sender is to be told, if he may be.
    Failed,
    Discarded,
}

struct Sent {
    envelope: Envelope,
    seq: Seq,
    fates: Vec<Fate>,
    told: Vec<u32>,
    told_late: Vec<u32>,
}

struct World {
    seed: u64,
    random: u64,
    kv: MemoryKv,
    index: u64,
    now: u64,
    sent: BTreeMap<MessageId, Sent>,
    leases: BTreeMap<Domain, u64>,
    post: u64,
    told: usize,
    full: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: seed,
            kv: MemoryKv::new(),
            index: 0,
            now: START,
            sent: BTreeMap::new(),
            leases: BTreeMap::new(),
            post: 0,
            told: 0,
            full: 0,
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
        for name in DOMAINS {
            let domain = Domain::parse(name).unwrap();
            self.enter(Command::SetDomain {
                domain: domain.clone(),
                primary: Primary {
                    host: "mx.example".to_owned(),
                    port: 25,
                },
                must_be_new: true,
                must_exist: false,
            });
            let reply = self.enter(Command::AcquireLease {
                domain: domain.clone(),
                node: NodeId(1),
                ttl_ms: 60_000,
            });
            let Reply::Lease { epoch, .. } = reply else {
                panic!("{reply:?}");
            };
            self.leases.insert(domain, epoch);
        }
        self.take_post();
        for step in 0..STEPS {
            self.now += self.below(60_000);
            match self.below(20) {
                0 => self.set_policy(),
                1 => self.take_post(),
                2..=7 => self.accept(),
                8..=12 => self.settle(),
                13 => self.dispose(),
                14..=16 => self.review(),
                17 => self.settle_reports(),
                _ => self.report(),
            }
            if step % 25 == 0 {
                self.compare();
            }
        }
        self.compare();
        // Everything expires, and everything owed is written.
        self.now += 400 * 24 * 3_600_000;
        for name in DOMAINS {
            let domain = Domain::parse(name).unwrap();
            let change = PolicyChange {
                hold_ms: Some(1),
                ..PolicyChange::default()
            };
            self.enter(Command::SetPolicy {
                domain: domain.clone(),
                change,
            });
            let all = self.queued(&domain);
            for seqs in all.chunks(100) {
                self.review_these(&domain, seqs.to_vec());
            }
        }
        self.now += 3_600_000;
        self.take_post();
        while !query::owed(&self.kv, None, 1).unwrap().is_empty() {
            self.report();
        }
        self.compare();
        for sent in self.sent.values() {
            for (recipient, fate) in (0..).zip(&sent.fates) {
                let wanted = usize::from(*fate == Fate::Failed && wants(&sent.envelope, recipient));
                let told = sent.told.iter().filter(|told| **told == recipient).count();
                assert_eq!(told, wanted, "seed {}: {fate:?}", self.seed);
            }
        }
        assert!(
            self.told > 20 && self.full > 5,
            "seed {}: hardly anything happened",
            self.seed
        );
    }

    fn set_policy(&mut self) {
        let spans = [0, 1000, 600_000, u64::MAX];
        let hold = [0, 3_600_000, 36_000_000][self.below(3) as usize];
        let change = PolicyChange {
            hold_ms: Some(hold),
            delay_ms: Some([0, 1_800_000][self.below(2) as usize]),
            probation_ms: Some(spans[self.below(4) as usize]),
            quota_bytes: Some(self.below(3) * 200_000),
            quota_messages: Some(self.below(3) * 6),
            full_for_good: Some(self.below(2) == 0),
            ..PolicyChange::default()
        };
        let domain = self.domain();
        assert_eq!(
            self.enter(Command::SetPolicy { domain, change }),
            Reply::Done
        );
    }

    fn take_post(&mut self) {
        let reply = self.enter(Command::TakePost {
            node: NodeId(1),
            ttl_ms: 60_000,
            epoch: 0,
        });
        let Reply::Lease { epoch, .. } = reply else {
            panic!("{reply:?}");
        };
        self.post = epoch;
    }

    fn accept(&mut self) {
        let envelope = self.envelope();
        let id = envelope.id;
        let len = envelope.body.len;
        let domains: Vec<Domain> = domains_of(&envelope);
        let room = domains.iter().all(|domain| {
            let policy = query::policy(&self.kv, domain).unwrap();
            let held = query::counts(&self.kv, domain).unwrap();
            policy
                .quota_messages
                .is_none_or(|quota| held.messages < quota)
                && policy
                    .quota_bytes
                    .is_none_or(|quota| held.bytes + len <= quota)
        });
        let count = envelope.recipients.len();
        match self.enter(Command::Accept {
            envelope: envelope.clone(),
        }) {
            Reply::Accepted { seq } => {
                assert!(room, "no more is accepted than the quota allows");
                let sent = Sent {
                    envelope,
                    seq,
                    fates: vec![Fate::Waiting; count],
                    told: vec![],
                    told_late: vec![],
                };
                self.sent.insert(id, sent);
            }
            Reply::Refused(Refusal::FullForNow | Refusal::FullForGood) => {
                assert!(!room, "what fits is accepted");
                self.full += 1;
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self) {
        let domain = self.domain();
        let rows = query::held(&self.kv, &domain, None, 8).unwrap();
        let mut outcomes = Vec::new();
        for row in rows {
            for recipient in &row.pending {
                let verdict = match self.below(6) {
                    0 | 1 => Verdict::Refused,
                    2 | 3 => Verdict::Delivered,
                    4 => Verdict::Deferred,
                    _ => continue,
                };
                outcomes.push(Outcome {
                    message: row.message,
                    recipient: *recipient,
                    verdict,
                    reply: "550 said".to_owned(),
                });
            }
        }
        let reply = self.enter(Command::Settle {
            domain: domain.clone(),
            node: NodeId(1),
            epoch: self.leases[&domain],
            outcomes: outcomes.clone(),
        });
        assert_eq!(reply, Reply::Done);
        let refused = self.refused(&domain);
        for outcome in outcomes {
            let kept = refused.contains(&(outcome.message, outcome.recipient));
            let sent = self.sent.get_mut(&outcome.message);
            // A notification to a customer's own domain is in the queue too.
            let Some(sent) = sent else { continue };
            sent.fates[outcome.recipient as usize] = match outcome.verdict {
                Verdict::Delivered => Fate::Delivered,
                Verdict::Deferred => Fate::Waiting,
                Verdict::Refused if kept => Fate::Refused,
                Verdict::Refused => Fate::Failed,
            };
        }
    }

    fn dispose(&mut self) {
        let domain = self.domain();
        let (how, fate) = [
            (Disposal::Requeue, Fate::Waiting),
            (Disposal::Discard, Fate::Discarded),
            (Disposal::Bounce, Fate::Failed),
        ][self.below(3) as usize];
        let held = how != Disposal::Requeue && self.below(4) == 0;
        let mut messages: Vec<MessageId> = self.refused(&domain).iter().map(|row| row.0).collect();
        messages.truncate(2);
        if messages.is_empty() {
            return;
        }
        let before = self.refused(&domain);
        let waiting = self.waiting(&domain);
        let reply = self.enter(Command::Dispose {
            domain: domain.clone(),
            how,
            messages: messages.clone(),
            held,
            by: "ann".to_owned(),
        });
        assert!(
            matches!(reply, Reply::Disposed { more: false, .. }),
            "{reply:?}"
        );
        let also = waiting.into_iter().filter(|_| held);
        for (id, recipient) in before.into_iter().chain(also) {
            if let Some(sent) = self.sent.get_mut(&id)
                && messages.contains(&id)
            {
                sent.fates[recipient as usize] = fate;
            }
        }
    }

    fn review(&mut self) {
        let domain = self.domain();
        let mut seqs = self.queued(&domain);
        seqs.truncate(50);
        self.review_these(&domain, seqs);
    }

    fn review_these(&mut self, domain: &Domain, seqs: Vec<Seq>) {
        let before: Vec<_> = self
            .refused(domain)
            .into_iter()
            .chain(self.waiting(domain))
            .collect();
        let reply = self.enter(Command::Review {
            domain: domain.clone(),
            seqs,
        });
        assert!(matches!(reply, Reply::Disposed { .. }), "{reply:?}");
        let (refused, waiting) = (self.refused(domain), self.waiting(domain));
        let policy = query::policy(&self.kv, domain).unwrap();
        let now = query::now(&self.kv).unwrap();
        for row in before {
            let Some(sent) = self.sent.get_mut(&row.0) else {
                continue;
            };
            let fate = &mut sent.fates[row.1 as usize];
            if refused.contains(&row) {
                assert_eq!(*fate, Fate::Refused);
            } else if waiting.contains(&row) {
                *fate = Fate::Waiting;
            } else {
                let end = policy.expires_at(sent.envelope.received_at);
                assert!(
                    end.is_some_and(|end| end <= now),
                    "nothing goes before its time"
                );
                *fate = Fate::Failed;
            }
        }
    }

    /// The node that has the post, or one that had it, writes something.
    fn report(&mut self) {
        let owed = query::owed(&self.kv, None, 20).unwrap();
        if owed.is_empty() {
            return;
        }
        let owed = owed[self.below(owed.len() as u64) as usize].clone();
        let stale = self.below(5);
        let original = query::envelope(&self.kv, owed.about).unwrap().unwrap();
        let ReversePath::Mailbox(sender) = &original.reverse_path else {
            panic!("nothing is owed to <>");
        };
        let id = MessageId::new(Timestamp(self.now), u128::from(self.next()));
        let envelope = Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: sender.clone(),
                notify: None,
                orcpt: None,
            }],
            body: BodyRef {
                id,
                len: 1000,
                digest: [0; 32],
            },
            received_at: Timestamp(self.now),
            ..original
        };
        let command = Command::Report {
            node: NodeId(1),
            epoch: self.post - u64::from(stale == 0),
            about: owed.about,
            kind: owed.kind,
            version: owed.version - u64::from(stale == 1),
            envelope,
        };
        let reply = self.enter(command.clone());
        let early = owed.not_before > query::now(&self.kv).unwrap();
        if stale == 0 {
            assert_eq!(reply, Reply::Refused(Refusal::Fenced));
            return;
        }
        if stale == 1 || early {
            assert_eq!(reply, Reply::Refused(Refusal::NotOwed));
            return;
        }
        assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
        assert_eq!(self.enter(command), reply, "said again, it is the same");
        self.told += 1;
        let sent = self
            .sent
            .get_mut(&owed.about)
            .expect("no answer to an answer");
        for who in owed.recipients {
            match owed.kind {
                Kind::Failed => {
                    let fate = sent.fates[who.recipient as usize];
                    assert_eq!(fate, Fate::Failed, "seed {}", self.seed);
                    sent.told.push(who.recipient);
                }
                Kind::Delayed => {
                    assert!(
                        !sent.told_late.contains(&who.recipient),
                        "told once that it is late"
                    );
                    sent.told_late.push(who.recipient);
                }
            }
        }
    }

    fn settle_reports(&mut self) {
        let reports = query::reports(&self.kv, None, 5).unwrap();
        let outcomes = reports
            .into_iter()
            .map(|report| ReportOutcome {
                seq: report.seq,
                fate: [
                    ReportFate::Delivered,
                    ReportFate::Deferred,
                    ReportFate::Dropped,
                ][self.below(3) as usize],
                reply: String::new(),
            })
            .collect();
        let reply = self.enter(Command::SettleReports {
            node: NodeId(1),
            epoch: self.post,
            outcomes,
        });
        assert_eq!(reply, Reply::Done);
    }

    fn compare(&self) {
        audit::audit(&self.kv);
        for name in DOMAINS {
            let domain = Domain::parse(name).unwrap();
            for (fate, rows) in [
                (Fate::Waiting, self.waiting(&domain)),
                (Fate::Refused, self.refused(&domain)),
            ] {
                let mut expected: Vec<(MessageId, u32)> = self
                    .sent
                    .iter()
                    .flat_map(|(id, sent)| {
                        (0..)
                            .zip(&sent.fates)
                            .map(move |(n, fate)| (*id, n, *fate, sent))
                    })
                    .filter(|(_, n, found, sent)| {
                        let to = &sent.envelope.recipients[*n as usize].address;
                        *found == fate && to.domain() == Some(&domain)
                    })
                    .map(|(id, n, ..)| (id, n))
                    .collect();
                let mut rows: Vec<_> = rows
                    .into_iter()
                    .filter(|row| self.sent.contains_key(&row.0))
                    .collect();
                rows.sort_unstable();
                expected.sort_unstable();
                assert_eq!(rows, expected, "seed {}: {fate:?}", self.seed);
            }
        }
    }

    fn queued(&self, domain: &Domain) -> Vec<Seq> {
        let held = query::held(&self.kv, domain, None, usize::MAX).unwrap();
        let refused = query::refused(&self.kv, domain, usize::MAX).unwrap();
        let seqs: Vec<_> = held.into_iter().chain(refused).map(|row| row.seq).collect();
        let known = |seq: &Seq| self.sent.values().any(|sent| sent.seq == *seq);
        seqs.into_iter().filter(known).collect()
    }

    fn refused(&self, domain: &Domain) -> Vec<(MessageId, u32)> {
        rows(query::refused(&self.kv, domain, usize::MAX).unwrap())
    }

    fn waiting(&self, domain: &Domain) -> Vec<(MessageId, u32)> {
        rows(query::held(&self.kv, domain, None, usize::MAX).unwrap())
    }

    fn enter(&mut self, command: Command) -> Reply {
        self.index += 1;
        let batch = Batch {
            at: Timestamp(self.now),
            commands: vec![command],
        };
        let replies = apply_batch(&mut self.kv, self.index, &batch, &mut Vec::new()).unwrap();
        replies.into_iter().next().unwrap()
    }

    fn envelope(&mut self) -> Envelope {
        let id = MessageId::new(Timestamp(self.now), u128::from(self.next()));
        let notify = match self.below(5) {
            0 => Some(Notify::default()),
            1 => Some(Notify {
                failure: true,
                ..Notify::default()
            }),
            _ => None,
        };
        let recipients = (0..=self.below(3))
            .map(|n| Recipient {
                address: Address::parse(&format!("{n}@{}", self.domain()), false).unwrap(),
                notify,
                orcpt: None,
            })
            .collect();
        // Strangers, customers, and nobody.
        let from = [
            "ann@sender.example",
            "ann@sender.example",
            "joe@a.example",
            "",
        ][self.below(4) as usize];
        Envelope {
            id,
            reverse_path: match from {
                "" => ReversePath::Null,
                from => ReversePath::Mailbox(Address::parse(from, false).unwrap()),
            },
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

    fn domain(&mut self) -> Domain {
        Domain::parse(DOMAINS[self.below(3) as usize]).unwrap()
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

fn rows(rows: Vec<query::Held>) -> Vec<(MessageId, u32)> {
    rows.into_iter()
        .flat_map(|row| row.pending.into_iter().map(move |n| (row.message, n)))
        .collect()
}

fn domains_of(envelope: &Envelope) -> Vec<Domain> {
    let mut domains: Vec<_> = envelope
        .recipients
        .iter()
        .filter_map(|recipient| recipient.address.domain().cloned())
        .collect();
    domains.sort_unstable();
    domains.dedup();
    domains
}

fn wants(envelope: &Envelope, recipient: u32) -> bool {
    let notify = envelope.recipients[recipient as usize].notify;
    envelope.reverse_path != ReversePath::Null && notify.is_none_or(|notify| notify.failure)
}
