//! Any log can be applied: every command is answered, the counts stay what the rows say, and two
//! replicas arrive at the same rows.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use holdfast_ledger::account::{AccessToken, AccountChange, Scopes};
use holdfast_ledger::acme::{AcmeChange, AcmeDirectory, AcmeIssued};
use holdfast_ledger::drill::{DrillEvent, DrillKind, DrillPlan, DrillReport, DrillSchedule};
use holdfast_ledger::{
    Askers, Batch, Command, Disposal, Effect, Member, MemoryKv, NETWORKS_MAX, Outcome, PlanChange,
    PolicyChange, Primary, Reply, ReportFate, ReportOutcome, Role, Route, RouteTls, Seen, Seq,
    Verdict, apply_batch, level, query,
};
use holdfast_mail::dsn::Kind;
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, Network, NodeId, Notify, Recipient,
    ReversePath, Timestamp,
};

use crate::choices::Choices;

#[path = "../../ledger/tests/audit/mod.rs"]
mod audit;

const START: u64 = 1_800_000_000_000;
const DOMAINS: [&str; 4] = ["a.example", "b.example", "a.example.org", "example"];
const HOUR_MS: u64 = 3_600_000;

/// Entries that one input may hold, so that its cost has a bound.
const ENTRIES_MAX: u64 = 120;

/// Commands and times chosen by the bytes; and the bytes themselves, where they are an entry.
pub fn apply(data: &[u8]) {
    let mut log = Log::default();
    if let Ok(batch) = Batch::decode(data) {
        log.enter(batch);
    }
    let mut log = Log::default();
    let mut choices = Choices::new(data);
    if choices.flag() {
        log.enter(batch(START, vec![bootstrap()]));
    }
    let mut now = START;
    while !choices.is_over() && log.index < ENTRIES_MAX {
        now = match choices.below(16) {
            0 => now + 30 * HOUR_MS,
            1 => now - HOUR_MS,
            2 => u64::MAX - choices.below(3),
            step => now.saturating_add(step * 20_000),
        };
        let count = [1, 1, 1, 2, 3, 0][choices.below(6) as usize];
        let commands = (0..count)
            .map(|_| command(&mut choices, now, &log))
            .collect();
        log.enter(batch(now, commands));
        if now > START + 1000 * HOUR_MS {
            now = START;
        }
    }
}

/// A log and two replicas of its state.
#[derive(Default)]
struct Log {
    kv: MemoryKv,
    twin: MemoryKv,
    index: u64,
    clock: Timestamp,
    /// Ids the log gave to members, and epochs it gave to leases.
    given: BTreeSet<u64>,
    epochs: BTreeSet<u64>,
    last_epoch: u64,
}

impl Log {
    fn enter(&mut self, batch: Batch) {
        self.index += 1;
        let before = self.kv.clone();
        let mut effects = Vec::new();
        let replies = apply_batch(&mut self.kv, self.index, &batch, &mut effects)
            .expect("the rows can be read, so every command is answered");
        assert_eq!(replies.len(), batch.commands.len());

        let read = Batch::decode(&batch.encode()).expect("what was encoded can be decoded");
        let again = apply_batch(&mut self.twin, self.index, &read, &mut Vec::new());
        assert_eq!(again.as_ref(), Ok(&replies), "replicas answer alike");
        assert_eq!(self.kv, self.twin, "replicas arrive at the same rows");

        let refused = |reply: &Reply| matches!(reply, Reply::Refused(_));
        if replies.iter().all(refused) {
            assert!(
                state(&self.kv).eq(state(&before)),
                "a refusal changes nothing"
            );
            assert_eq!(effects, [], "a refusal announces nothing");
        }
        let clock = query::now(&self.kv).expect("the clock");
        assert!(clock >= self.clock, "logged time goes back");
        self.clock = clock;
        for (command, reply) in batch.commands.iter().zip(&replies) {
            assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(reply));
            match reply {
                Reply::Member(id) => assert!(self.given.insert(id.0), "{id} was given twice"),
                Reply::Lease { epoch, .. } if renews(command, *epoch) => {}
                Reply::Lease { epoch, .. } => {
                    assert!(*epoch > self.last_epoch, "an epoch is not the latest");
                    self.last_epoch = *epoch;
                    self.epochs.insert(*epoch);
                }
                _ => {}
            }
        }
        for effect in &effects {
            if let Effect::BodyReleased { body } = effect {
                let live = query::envelope(&self.kv, *body).expect("rows");
                assert_eq!(live, None, "a body is released that is needed");
            }
        }
        audit::audit(&self.kv);
    }
}

/// The holder of the post keeps its epoch.
fn renews(command: &Command, given: u64) -> bool {
    matches!(command, Command::TakePost { epoch, .. } if *epoch == given)
}

/// All rows but the clock's.
fn state(kv: &MemoryKv) -> impl Iterator<Item = (&[u8], &[u8])> {
    kv.rows().filter(|(key, _)| *key != [0x01])
}

fn batch(at: u64, commands: Vec<Command>) -> Batch {
    Batch {
        at: Timestamp(at),
        commands,
    }
}

/// Kinds of command to choose from.
const KINDS: u64 = 56;

/// In a By no other is carried; its bytes would not even be read.
fn command(choices: &mut Choices<'_>, now: u64, log: &Log) -> Command {
    match choices.below(KINDS) {
        32 => Command::By {
            who: "operator".to_owned(),
            from: "192.0.2.1".to_owned(),
            says: "did something".to_owned(),
            command: {
                let kind = choices.below(KINDS);
                Box::new(plain(kind, choices, now, log))
            },
        },
        kind => plain(kind, choices, now, log),
    }
}

fn plain(kind: u64, choices: &mut Choices<'_>, now: u64, log: &Log) -> Command {
    match kind {
        0..=5 => Command::Accept {
            envelope: envelope(choices, now),
        },
        44 => Command::Submit {
            account: "ann".to_owned(),
            envelope: envelope(choices, now),
        },
        6 => Command::Cancel {
            message: id(choices, now),
        },
        7 => Command::SetDomain {
            domain: domain(choices),
            primary: Primary {
                host: ["mx.example", ""][choices.below(2) as usize].into(),
                port: choices.byte().into(),
            },
            must_be_new: choices.below(4) == 1,
            must_exist: choices.below(4) == 1,
        },
        8 => Command::RemoveDomain {
            domain: domain(choices),
        },
        9 => bootstrap(),
        10 => Command::Invite {
            token_id: [choices.byte() % 4; 16],
            secret_hash: [choices.byte() % 2; 32],
            expires_at: Timestamp(now.saturating_add(choices.below(1000) * 1000)),
        },
        11 => Command::Redeem {
            token_id: [choices.byte() % 4; 16],
            secret_hash: [choices.byte() % 2; 32],
            member: member(choices.below(5)),
        },
        12 => Command::RemoveMember {
            node: node(choices, log),
        },
        13 => Command::AcquireLease {
            domain: domain(choices),
            node: node(choices, log),
            ttl_ms: choices.below(100_000) * 10,
        },
        14 => Command::RenewLeases {
            node: node(choices, log),
            leases: (0..choices.below(3))
                .map(|_| (domain(choices), epoch(choices, log)))
                .collect(),
            ttl_ms: choices.below(300) * 1000,
        },
        15 => Command::ReleaseLease {
            domain: domain(choices),
            node: node(choices, log),
            epoch: epoch(choices, log),
        },
        16 | 17 => Command::Record {
            domain: domain(choices),
            node: node(choices, log),
            epoch: epoch(choices, log),
            outcomes: (0..choices.below(6))
                .map(|_| outcome(choices, now))
                .collect(),
        },
        18 => Command::Flush {
            domain: domain(choices),
            via: "etrn".into(),
        },
        19 | 20 => Command::Settle {
            domain: domain(choices),
            node: node(choices, log),
            epoch: epoch(choices, log),
            outcomes: (0..choices.below(6))
                .map(|_| outcome(choices, now))
                .collect(),
        },
        21 => Command::TakePost {
            node: node(choices, log),
            ttl_ms: choices.below(100_000) * 10,
            epoch: [0, epoch(choices, log)][choices.below(2) as usize],
        },
        22 => Command::Report {
            node: node(choices, log),
            epoch: epoch(choices, log),
            about: id(choices, now),
            kind: [Kind::Failed, Kind::Delayed][choices.below(2) as usize],
            version: seq(choices, log).0,
            envelope: envelope(choices, now),
        },
        23 => Command::SettleReports {
            node: node(choices, log),
            epoch: epoch(choices, log),
            outcomes: (0..choices.below(3))
                .map(|_| ReportOutcome {
                    seq: seq(choices, log),
                    fate: [
                        ReportFate::Delivered,
                        ReportFate::Deferred,
                        ReportFate::Dropped,
                    ][choices.below(3) as usize],
                    reply: "said".into(),
                })
                .collect(),
        },
        24 => Command::Dispose {
            domain: domain(choices),
            how: [
                Disposal::Requeue,
                Disposal::Discard,
                Disposal::Bounce,
                Disposal::Hold,
                Disposal::Release,
                Disposal::Delete,
                Disposal::Undelete,
            ][choices.below(7) as usize],
            messages: (0..choices.below(3)).map(|_| id(choices, now)).collect(),
            held: choices.flag(),
            by: "operator".into(),
        },
        25 | 26 => Command::Review {
            domain: domain(choices),
            seqs: (0..choices.below(4)).map(|_| seq(choices, log)).collect(),
        },
        27 => Command::SetPolicy {
            domain: domain(choices),
            change: policy(choices),
        },
        28 => Command::SetRecipients {
            domain: domain(choices),
            add: (0..choices.below(3)).map(|n| n.to_string()).collect(),
            remove: (0..choices.below(2)).map(|n| n.to_string()).collect(),
            clear: choices.flag(),
        },
        29 => Command::SetAskers {
            domain: domain(choices),
            askers: match choices.below(3) {
                0 => Askers::Anybody,
                1 => Askers::Networks(Network::parse("192.0.2.0/24").into_iter().collect()),
                // One too many.
                _ => Askers::Networks(
                    (0..=NETWORKS_MAX)
                        .filter_map(|_| Network::parse("::/0").ok())
                        .collect(),
                ),
            },
        },
        30 | 31 => Command::OfAccount {
            name: ["ann", "joe@a.example", "No Name"][choices.below(3) as usize].to_owned(),
            change: account_change(choices),
        },
        33 if choices.flag() => Command::SetDrained {
            node: node(choices, log),
            drained: choices.flag(),
        },
        33 => Command::RaiseLevel {
            level: choices.below(u64::from(level::NEWEST) + 1) as u32,
            members: (0..choices.below(4)).map(|_| node(choices, log)).collect(),
        },
        34 => Command::Attend {
            domain: domain(choices),
            session: [choices.below(2) as u8; 16],
            account: "ann".to_owned(),
            to: SocketAddr::from(([192, 0, 2, 7], choices.below(2) as u16)),
            over: choices.flag().then_some(NodeId(1)),
            ttl_ms: choices.below(200_000),
        },
        35 => Command::Leave {
            domain: domain(choices),
            session: [choices.below(2) as u8; 16],
        },
        45 => Command::BeginDrill {
            id: id(choices, now),
            plan: DrillPlan {
                kind: DrillKind::NodeLoss.into(),
                nodes: (0..choices.below(3)).collect(),
                conductor: choices.below(4),
                duration_ms: choices.below(4_000_000),
                rate: choices.below(3) as u32,
                ..DrillPlan::default()
            },
        },
        46 => Command::TellDrill {
            id: id(choices, now),
            event: DrillEvent {
                at_ms: choices.below(9),
                what: "x".repeat(choices.below(400) as usize),
            },
        },
        47 => Command::EndDrill {
            id: id(choices, now),
            report: DrillReport::default(),
        },
        48 => Command::ScheduleDrill {
            name: plan(choices),
            schedule: choices.flag().then(|| DrillSchedule {
                kind: DrillKind::LeaderLoss.into(),
                every_ms: choices.below(8_000_000),
                duration_ms: choices.below(9),
                rate: 1,
                ..DrillSchedule::default()
            }),
        },
        42 | 43 => Command::SetPlan {
            name: plan(choices),
            change: plan_change(choices),
            must_be_new: choices.below(4) == 1,
            must_exist: choices.below(4) == 1,
        },
        40 => Command::RemovePlan {
            name: plan(choices),
        },
        41 => Command::Subscribe {
            domain: domain(choices),
            plan: [None, Some(String::new()), Some(plan(choices))][choices.below(3) as usize]
                .clone(),
            extra_steps: [None, Some(0), Some(2), Some(u32::MAX)][choices.below(4) as usize],
            follow: choices.flag(),
        },
        36 => Command::Learn {
            domain: domain(choices),
            name: ["", "joe", "ann"][choices.below(3) as usize].to_owned(),
            node: node(choices, log),
            takes: choices.flag(),
            reply: "250 ok".to_owned(),
        },
        37 => Command::Unlearn {
            domain: domain(choices),
            names: (0..choices.below(2)).map(|_| "joe".to_owned()).collect(),
        },
        38 => Command::Observe {
            node: node(choices, log),
            seen: (0..choices.below(3))
                .map(|_| Seen {
                    domain: domain(choices),
                    down: choices.flag().then(|| "refused".to_owned()),
                })
                .collect(),
        },
        39 => Command::SetRoute {
            domain: domain(choices),
            route: Route {
                by_mx: choices.flag(),
                lmtp: choices.flag(),
                tls: [RouteTls::Opportunistic, RouteTls::Verified][choices.below(2) as usize],
                key: choices.flag().then_some([1; 32]),
                direct: choices.flag(),
                ..Route::default()
            },
        },
        49 => Command::OfferAuthority {
            authority: [choices.below(2) as u8; 32],
            certificate: vec![1],
            key: vec![2],
            cross: vec![3],
        },
        50 => Command::RetireAuthority {
            authority: [choices.below(2) as u8; 32],
        },
        51 => Command::TrustAuthority {
            node: node(choices, log),
            authority: [choices.below(2) as u8; 32],
            used: choices.flag(),
        },
        52 => Command::Grant {
            name: person(choices),
            role: [Role::Viewer, Role::Operator, Role::Admin][choices.below(3) as usize],
            certificate: [1; 32],
            authority: [2; 32],
            expires_at: Timestamp(now.saturating_add(HOUR_MS)),
        },
        53 => Command::Revoke {
            name: person(choices),
        },
        54 => Command::Note,
        55 => Command::Acme {
            change: acme(choices),
        },
        _ => Command::Sweep,
    }
}

fn person(choices: &mut Choices<'_>) -> String {
    ["ann", "joe", "No Name"][choices.below(3) as usize].to_owned()
}

fn acme(choices: &mut Choices<'_>) -> AcmeChange {
    let url = ["https://ca.example", "https://b.example", "ftp://c.example"];
    let directory = url[choices.below(3) as usize].to_owned();
    match choices.below(8) {
        0 | 1 => AcmeChange::Use(AcmeDirectory {
            url: directory,
            contacts: (0..choices.below(2))
                .map(|_| "mailto:a@b".to_owned())
                .collect(),
            authorities: String::new(),
        }),
        2 => AcmeChange::Stop,
        3 => AcmeChange::Try {
            tries: choices.below(3) as u32,
        },
        4 => AcmeChange::Failed {
            why: "no address".to_owned(),
        },
        5 => AcmeChange::Account {
            directory,
            credentials: vec![1; choices.below(2) as usize],
        },
        6 => AcmeChange::Answer {
            token: ["abc", "def", "a/c"][choices.below(3) as usize].to_owned(),
            key_authorization: "abc.key".to_owned(),
        },
        _ => AcmeChange::Issued(AcmeIssued {
            directory,
            chain: "chain".to_owned(),
            key: "key".to_owned(),
            names: (0..choices.below(3))
                .map(|_| "mx.example".to_owned())
                .collect(),
        }),
    }
}

fn account_change(choices: &mut Choices<'_>) -> AccountChange {
    match choices.below(11) {
        0 | 1 => AccountChange::Add {
            password: "hash".to_owned(),
            domains: vec![domain(choices)],
        },
        2 => AccountChange::Remove,
        3 => AccountChange::Password("other".to_owned()),
        4 => AccountChange::SecondFactor(choices.flag().then(|| vec![7; 20])),
        5 => AccountChange::Domains((0..choices.below(3)).map(|_| domain(choices)).collect()),
        6 => AccountChange::SignOut,
        7 => AccountChange::SignIn {
            good: choices.flag(),
            step: choices.below(3),
            from: "192.0.2.1".to_owned(),
        },
        8 => AccountChange::AddToken(AccessToken {
            id: [choices.below(4) as u8; 16],
            secret_hash: [1; 32],
            scopes: Scopes::ALL,
            label: "backup".to_owned(),
            expires_at: None,
        }),
        9 => AccountChange::SendLimits {
            recipients: choices.below(5),
            bytes: choices.below(5),
        },
        _ => AccountChange::RemoveToken([choices.below(4) as u8; 16]),
    }
}

fn policy(choices: &mut Choices<'_>) -> PolicyChange {
    let mut some = |values: [u64; 3]| values.get(choices.below(4) as usize).copied();
    PolicyChange {
        hold_ms: some([0, HOUR_MS, u64::MAX]),
        delay_ms: some([0, HOUR_MS / 4, u64::MAX]),
        probation_ms: some([0, HOUR_MS, u64::MAX]),
        quota_bytes: some([0, 300, u64::MAX]),
        quota_messages: some([0, 2, u64::MAX]),
        full_for_good: some([0, 1, 1]).map(|flag| flag == 1),
        listed_only: some([0, 1, 0]).map(|flag| flag == 1),
        attended: some([0, 1, 1]).map(|flag| flag == 1),
        delimiter: some([0, '+' as u64, u64::from(u32::MAX)]).map(|point| point as u32),
        verify: some([0, 1, 1]).map(|flag| flag == 1),
        yes_ms: some([0, HOUR_MS, u64::MAX]),
        no_ms: some([0, HOUR_MS, u64::MAX]),
        probe_ms: some([0, HOUR_MS, u64::MAX]),
        defer: some([0, 1, 1]).map(|flag| flag == 1),
        ping: some([0, 1, 1]).map(|flag| flag == 1),
        atrn: some([0, 1, 1]).map(|flag| flag == 1),
        at_host: some([0, 1, 1]).map(|flag| flag == 1),
    }
}

fn plan(choices: &mut Choices<'_>) -> String {
    ["small", "large", "no name"][choices.below(3) as usize].to_owned()
}

fn plan_change(choices: &mut Choices<'_>) -> PlanChange {
    let mut some = |values: [u64; 3]| values.get(choices.below(4) as usize).copied();
    PlanChange {
        currency: some([0, 0, 1]).map(|which| ["EUR", "money"][which as usize].to_owned()),
        price: some([0, 500, u64::MAX]),
        quota_bytes: some([0, 300, holdfast_ledger::QUOTA_OCTETS_MAX]),
        quota_messages: some([0, 2, u64::MAX]),
        step_bytes: some([0, 100, holdfast_ledger::QUOTA_OCTETS_MAX]),
        step_price: some([0, 100, holdfast_ledger::PRICE_MAX]),
        mx_hosts: some([0, 1, 3]).map(|hosts| hosts as u32),
        hold_ms: some([0, HOUR_MS, u64::MAX]),
        full_for_good: some([0, 1, 1]).map(|flag| flag == 1),
        probe_ms: some([0, HOUR_MS, u64::MAX]),
        ping: some([0, 1, 1]).map(|flag| flag == 1),
    }
}

/// Mostly one of the log's.
fn seq(choices: &mut Choices<'_>, log: &Log) -> Seq {
    Seq::new(choices.below(log.index + 2), choices.below(2) as u16)
}

fn bootstrap() -> Command {
    Command::Bootstrap {
        cluster_id: [7; 16],
        ca_certificate: vec![],
        ca_key: vec![],
        first: member(1),
        // As an older version begins one, where `raise_level` has something to do.
        level: 1,
    }
}

fn member(number: u64) -> Member {
    Member {
        id: NodeId(number),
        name: format!("node{number}"),
        region: String::new(),
        cluster_address: String::new(),
        smtp_name: String::new(),
        smtp_address: String::new(),
    }
}

fn domain(choices: &mut Choices<'_>) -> Domain {
    let name = DOMAINS[choices.below(DOMAINS.len() as u64) as usize];
    Domain::parse(name).expect("a domain")
}

/// Mostly one that is, or was, a member.
fn node(choices: &mut Choices<'_>, log: &Log) -> NodeId {
    let place = choices.byte();
    let known = log.given.iter().nth(usize::from(place / 4));
    NodeId(*known.filter(|_| place % 4 == 3).unwrap_or(&1))
}

/// Mostly one that was given to a lease.
fn epoch(choices: &mut Choices<'_>, log: &Log) -> u64 {
    let back = usize::from(choices.byte() % 8);
    *log.epochs.iter().rev().nth(back).unwrap_or(&5)
}

/// One of a few, so that commands meet; some are too old.
fn id(choices: &mut Choices<'_>, now: u64) -> MessageId {
    let byte = choices.byte();
    let born = match byte >> 4 {
        0 => now.saturating_sub(25 * HOUR_MS),
        1 => u64::MAX >> 16,
        _ => START,
    };
    MessageId::new(Timestamp(born), (byte & 15).into())
}

fn envelope(choices: &mut Choices<'_>, now: u64) -> Envelope {
    let id = id(choices, now);
    let recipients = (0..choices.below(5))
        .map(|n| {
            let text = match choices.byte() {
                255 => "postmaster".into(),
                _ => format!("{n}@{}", domain(choices)),
            };
            Recipient {
                address: Address::parse(&text, false).expect("an address"),
                notify: choices.flag().then(|| Notify {
                    success: choices.flag(),
                    failure: choices.flag(),
                    delay: choices.flag(),
                }),
                orcpt: None,
            }
        })
        .collect();
    let len = match choices.byte() {
        255 => u64::MAX,
        254 => holdfast_ledger::BODY_OCTETS_MAX,
        253 => holdfast_ledger::BODY_OCTETS_MAX + 1,
        small => small.into(),
    };
    let reverse_path = match choices.below(3) {
        0 => ReversePath::Null,
        1 => ReversePath::Mailbox(Address::parse("joe@far.example", false).expect("an address")),
        _ => ReversePath::Mailbox(
            Address::parse(&format!("ann@{}", domain(choices)), false).expect("an address"),
        ),
    };
    Envelope {
        id,
        reverse_path,
        recipients,
        body: BodyRef {
            id,
            len,
            digest: [0; 32],
        },
        received_at: Timestamp(now),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        helo: String::new(),
        client: String::new(),
    }
}

fn outcome(choices: &mut Choices<'_>, now: u64) -> Outcome {
    Outcome {
        message: id(choices, now),
        recipient: choices.below(5) as u32,
        verdict: match choices.below(4) {
            0 => Verdict::Deferred,
            1 => Verdict::Refused,
            _ => Verdict::Delivered,
        },
        reply: "said".into(),
    }
}
