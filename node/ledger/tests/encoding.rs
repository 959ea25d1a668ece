//! What is written is read back, today and by every later version.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use holdfast_ledger::account::{AccessToken, AccountChange, Scopes};
use holdfast_ledger::acme::{AcmeChange, AcmeDirectory, AcmeIssued};
use holdfast_ledger::drill::{
    DrillEvent, DrillKind, DrillPlan, DrillReport, DrillSchedule, DrillVerdict,
};
use holdfast_ledger::{
    Askers, Batch, Command, Disposal, Member, Outcome, PlanChange, PolicyChange, Primary, Refusal,
    Replies, Reply, ReportFate, ReportOutcome, Role, Route, RouteTls, Seen, Seq, Verdict, level,
};
use holdfast_mail::dsn::Kind;
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, Network, NodeId, Notify, Recipient,
    Ret, ReversePath, Timestamp,
};

#[test]
fn every_command_is_read_back_as_written() {
    let commands = commands();
    let verbs: BTreeSet<_> = commands.iter().map(Command::verb).collect();
    assert_eq!(verbs.len(), 48, "each verb has an example");
    for command in &commands {
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(command));
    }
    let batch = Batch {
        at: Timestamp(1_800_000_000_000),
        commands,
    };
    assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
}

#[test]
fn every_reply_is_read_back_as_written() {
    let replies = replies();
    for reply in &replies {
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(reply));
    }
    let replies = Replies(replies);
    assert_eq!(Replies::decode(&replies.encode()), Ok(replies));
}

/// `encodings.txt` holds what version 1 wrote. A difference means that a tag was renumbered
/// or reused, and that logs in the field could no longer be read. `BLESS=1` rewrites the file,
/// which is right only for lines that are added.
#[test]
fn the_encoding_is_the_one_that_is_in_the_field() {
    let mut now = String::new();
    for command in commands() {
        writeln!(now, "{} {}", command.verb(), hex(&command.encode())).unwrap();
    }
    for reply in replies() {
        writeln!(now, "{reply:?} {}", hex(&reply.encode())).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encodings.txt");
    if env::var_os("BLESS").is_some() {
        fs::write(path, now).unwrap();
    } else {
        let written = fs::read_to_string(path).unwrap();
        for (now, written) in now.lines().zip(written.lines()) {
            assert_eq!(now, written);
        }
        assert_eq!(now.lines().count(), written.lines().count());
    }
}

#[test]
fn what_a_newer_version_wrote_is_not_guessed_at() {
    let unknown_verb = [0xfa, 0x3f, 0x00]; // tag 1023, an empty message
    assert!(Command::decode(&unknown_verb).is_err());
    assert!(Reply::decode(&unknown_verb).is_err());
    assert!(Command::decode(b"").is_err() && Reply::decode(b"").is_err());

    let unknown_refusal = [0x50, 0x7f];
    assert!(Reply::decode(&unknown_refusal).is_err());

    let mut unknown_verdict = record().encode();
    let verdict = unknown_verdict
        .windows(2)
        .position(|pair| pair == [0x18, 0x01])
        .unwrap();
    unknown_verdict[verdict + 1] = 0x7f;
    assert!(Command::decode(&unknown_verdict).is_err());

    // One strange command spoils its batch: half an entry must not be applied.
    let mut batch = Batch {
        at: Timestamp(1),
        commands: vec![Command::Sweep],
    }
    .encode();
    batch.extend([0x12, unknown_verb.len() as u8]);
    batch.extend(unknown_verb);
    assert!(Batch::decode(&batch).is_err());
}

#[test]
fn however_deep_bytes_are_nested_the_stack_is_not() {
    let by = |command| Command::By {
        who: String::new(),
        from: String::new(),
        says: String::new(),
        command: Box::new(command),
    };
    assert!(Command::decode(&by(Command::Sweep).encode()).is_ok());
    assert!(Command::decode(&by(by(Command::Sweep)).encode()).is_err());
}

/// A version that guessed what comes after it would have a state of its own.
#[test]
fn a_level_of_a_later_version_is_not_understood() {
    let raise = |level| Command::RaiseLevel {
        level,
        members: Vec::new(),
    };
    assert!(Command::decode(&raise(level::NEWEST).encode()).is_ok());
    assert!(Command::decode(&raise(level::NEWEST + 1).encode()).is_err());
}

/// Versions up to level 3 read addresses more narrowly, and stop at an entry that they cannot read.
#[test]
fn an_address_that_older_versions_cannot_read_is_of_the_level_that_brought_it() {
    let long = format!("bounce+{}@far.example", "a".repeat(64));
    let from = |text: &str| Envelope {
        reverse_path: ReversePath::Mailbox(Address::parse(text, false).unwrap()),
        ..plain_envelope()
    };
    let to = |text: &str| Envelope {
        recipients: vec![recipient("joe@example.org"), recipient(text)],
        ..plain_envelope()
    };
    let all = |envelope: &Envelope| {
        [
            Command::Accept {
                envelope: envelope.clone(),
            },
            Command::Submit {
                account: "ann".to_owned(),
                envelope: envelope.clone(),
            },
            Command::Report {
                node: NodeId(1),
                epoch: 1,
                about: MessageId(1),
                kind: Kind::Failed,
                version: 1,
                envelope: envelope.clone(),
            },
        ]
    };
    for (envelope, level) in [
        (plain_envelope(), 1),
        (full_envelope(), 1),
        (from("joe@far.example"), 1),
        (from(&long), level::LOOSE_ADDRESSES),
        (from("joe.@far.example"), level::LOOSE_ADDRESSES),
        (to(&long), level::LOOSE_ADDRESSES),
        (to("a..b@example.org"), level::LOOSE_ADDRESSES),
    ] {
        for command in all(&envelope) {
            assert_eq!(command.level(), level, "{command:?}");
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
    }
}

/// Else a version between would be sent what it does not know.
#[test]
fn no_command_is_of_a_level_that_is_still_to_come() {
    for command in commands() {
        assert!(
            (1..=level::NEWEST).contains(&command.level()),
            "{command:?}"
        );
    }
}

#[test]
fn bytes_cut_short_are_an_error_and_no_panic() {
    for command in commands() {
        let whole = command.encode();
        for end in 0..whole.len() {
            assert_ne!(Command::decode(&whole[..end]).as_ref(), Ok(&command));
        }
    }
}

#[test]
fn neither_addresses_nor_keys_are_in_the_debug_text() {
    for command in commands() {
        assert_eq!(format!("{command:?}"), format!("<{}>", command.verb()));
    }
}

fn commands() -> Vec<Command> {
    let domain = || Domain::parse("example.org").unwrap();
    let node = NodeId(12);
    let member = Member {
        id: node,
        name: "oslo".to_owned(),
        region: "north".to_owned(),
        cluster_address: "192.0.2.1:7100".to_owned(),
        smtp_name: "mx1.holdfast.example".to_owned(),
        smtp_address: "192.0.2.1:25".to_owned(),
    };
    let set = |must_be_new, must_exist| Command::SetDomain {
        domain: domain(),
        primary: Primary {
            host: "mx.example.org".to_owned(),
            port: 65535,
        },
        must_be_new,
        must_exist,
    };
    vec![
        Command::Accept {
            envelope: plain_envelope(),
        },
        Command::Accept {
            envelope: full_envelope(),
        },
        Command::Cancel {
            message: MessageId(u128::MAX),
        },
        set(false, false),
        set(true, false),
        set(false, true),
        Command::RemoveDomain {
            domain: Domain::parse("[ipv6:2001:db8::1]").unwrap(),
        },
        Command::Bootstrap {
            cluster_id: [1; 16],
            ca_certificate: vec![2; 5],
            ca_key: vec![3; 5],
            first: member.clone(),
            level: 1,
        },
        Command::Bootstrap {
            cluster_id: [1; 16],
            ca_certificate: vec![2; 5],
            ca_key: vec![3; 5],
            first: member.clone(),
            level: 2,
        },
        Command::Invite {
            token_id: [4; 16],
            secret_hash: [5; 32],
            expires_at: Timestamp(6),
        },
        Command::Redeem {
            token_id: [4; 16],
            secret_hash: [5; 32],
            member,
        },
        Command::RemoveMember { node },
        Command::AcquireLease {
            domain: domain(),
            node,
            ttl_ms: 60_000,
        },
        Command::RenewLeases {
            node,
            leases: vec![(domain(), 7), (Domain::parse("a.example").unwrap(), 8)],
            ttl_ms: 60_000,
        },
        Command::ReleaseLease {
            domain: domain(),
            node,
            epoch: u64::MAX,
        },
        record(),
        Command::Flush {
            domain: domain(),
            via: "etrn".to_owned(),
        },
        Command::Sweep,
        settle(),
        Command::TakePost {
            node,
            ttl_ms: 60_000,
            epoch: 7,
        },
        report(Kind::Failed),
        report(Kind::Delayed),
        Command::SettleReports {
            node,
            epoch: 7,
            outcomes: [
                ReportFate::Delivered,
                ReportFate::Deferred,
                ReportFate::Dropped,
            ]
            .map(|fate| ReportOutcome {
                seq: Seq(8),
                fate,
                reply: "250 ok".to_owned(),
            })
            .to_vec(),
        },
        dispose(Disposal::Requeue, false),
        dispose(Disposal::Discard, true),
        dispose(Disposal::Bounce, true),
        dispose(Disposal::Hold, false),
        dispose(Disposal::Release, false),
        dispose(Disposal::Delete, false),
        dispose(Disposal::Undelete, false),
        Command::Review {
            domain: domain(),
            seqs: vec![Seq(1), Seq(u64::MAX)],
        },
        Command::SetPolicy {
            domain: domain(),
            change: PolicyChange::default(),
        },
        Command::SetPolicy {
            domain: domain(),
            change: PolicyChange {
                hold_ms: Some(0),
                delay_ms: Some(1),
                probation_ms: Some(u64::MAX),
                quota_bytes: Some(2),
                quota_messages: Some(3),
                full_for_good: Some(true),
                listed_only: Some(true),
                delimiter: Some(0),
                ..PolicyChange::default()
            },
        },
        Command::SetPolicy {
            domain: domain(),
            change: PolicyChange {
                attended: Some(true),
                ..PolicyChange::default()
            },
        },
        Command::SetPolicy {
            domain: domain(),
            change: PolicyChange {
                verify: Some(true),
                yes_ms: Some(4),
                no_ms: Some(5),
                probe_ms: Some(6),
                defer: Some(true),
                ..PolicyChange::default()
            },
        },
        Command::SetPolicy {
            domain: domain(),
            change: PolicyChange {
                ping: Some(true),
                atrn: Some(true),
                ..PolicyChange::default()
            },
        },
        Command::SetPolicy {
            domain: domain(),
            change: PolicyChange {
                attended: Some(true),
                at_host: Some(true),
                ..PolicyChange::default()
            },
        },
        Command::SetRecipients {
            domain: domain(),
            add: vec!["joe".to_owned(), "*".to_owned()],
            remove: vec!["ann".to_owned()],
            clear: true,
        },
        Command::Learn {
            domain: domain(),
            name: "joe".to_owned(),
            node,
            takes: true,
            reply: "250 ok".to_owned(),
        },
        Command::Observe {
            node,
            seen: vec![
                Seen {
                    domain: domain(),
                    down: None,
                },
                Seen {
                    domain: domain(),
                    down: Some("no connection".to_owned()),
                },
            ],
        },
        Command::Unlearn {
            domain: domain(),
            names: vec!["joe".to_owned()],
        },
        Command::BeginDrill {
            id: plain_envelope().id,
            plan: DrillPlan {
                kind: DrillKind::RegionLoss.into(),
                nodes: vec![2, 3],
                region: "eu".to_owned(),
                conductor: 1,
                duration_ms: 60_000,
                rate: 5,
            },
        },
        Command::TellDrill {
            id: plain_envelope().id,
            event: DrillEvent {
                at_ms: 7,
                what: "node n2 leads".to_owned(),
            },
        },
        Command::EndDrill {
            id: plain_envelope().id,
            report: DrillReport {
                verdict: DrillVerdict::Failed.into(),
                why: "one canary was lost".to_owned(),
                injected_ms: 5_000,
                healed_ms: 65_000,
                leader_ms: Some(900),
                accept_gap_ms: Some(0),
                takeover_ms: Some(1),
                drain_ms: Some(2),
                sent: 300,
                accepted: 299,
                delivered: 298,
                lost: 1,
                doubled: 2,
                put_off: 3,
                accepted_per_s: vec![5, 0],
                delivered_per_s: vec![0, 5],
                unknown: 4,
            },
        },
        Command::ScheduleDrill {
            name: "weekly".to_owned(),
            schedule: Some(DrillSchedule {
                kind: DrillKind::DiskFull.into(),
                region: "eu".to_owned(),
                every_ms: 1,
                next_at_ms: 2,
                duration_ms: 3,
                rate: 4,
            }),
        },
        Command::ScheduleDrill {
            name: "weekly".to_owned(),
            schedule: None,
        },
        Command::Submit {
            account: "ann@example.org".to_owned(),
            envelope: plain_envelope(),
        },
        Command::SetRoute {
            domain: domain(),
            route: Route {
                by_mx: true,
                lmtp: true,
                tls: RouteTls::Verified,
                login: Some(("backup".to_owned(), "secret".to_owned())),
                private: true,
                key: Some([7; 32]),
                direct: false,
            },
        },
        Command::SetRoute {
            domain: domain(),
            route: Route {
                direct: true,
                ..Route::default()
            },
        },
        Command::SetPlan {
            name: "basic".to_owned(),
            change: PlanChange::default(),
            must_be_new: false,
            must_exist: true,
        },
        Command::SetPlan {
            name: "basic".to_owned(),
            change: PlanChange {
                currency: Some("EUR".to_owned()),
                price: Some(1290),
                quota_bytes: Some(1),
                quota_messages: Some(0),
                step_bytes: Some(2),
                step_price: Some(300),
                mx_hosts: Some(3),
                hold_ms: Some(u64::MAX),
                full_for_good: Some(false),
                ..PlanChange::default()
            },
            must_be_new: true,
            must_exist: false,
        },
        Command::SetPlan {
            name: "basic".to_owned(),
            change: PlanChange {
                probe_ms: Some(900_000),
                ping: Some(true),
                ..PlanChange::default()
            },
            must_be_new: false,
            must_exist: true,
        },
        Command::RemovePlan {
            name: "basic".to_owned(),
        },
        Command::Subscribe {
            domain: domain(),
            plan: Some(String::new()),
            extra_steps: Some(0),
            follow: true,
        },
        Command::Subscribe {
            domain: domain(),
            plan: None,
            extra_steps: None,
            follow: false,
        },
        Command::SetAskers {
            domain: domain(),
            askers: Askers::Anybody,
        },
        Command::SetAskers {
            domain: domain(),
            askers: Askers::Networks(vec![]),
        },
        Command::SetAskers {
            domain: domain(),
            askers: Askers::Networks(vec![Network::parse("2001:db8::/32").unwrap()]),
        },
        of_account(AccountChange::Add {
            password: "$argon2id$".to_owned(),
            domains: vec![domain()],
        }),
        of_account(AccountChange::Remove),
        of_account(AccountChange::SendLimits {
            recipients: 3,
            bytes: 4,
        }),
        of_account(AccountChange::Password("$argon2id$".to_owned())),
        of_account(AccountChange::SecondFactor(Some(vec![1, 2, 3]))),
        of_account(AccountChange::SecondFactor(None)),
        of_account(AccountChange::Domains(vec![domain()])),
        of_account(AccountChange::SignOut),
        of_account(AccountChange::Unlock),
        of_account(AccountChange::SignIn {
            good: true,
            step: 60_000_000,
            from: "192.0.2.1".to_owned(),
        }),
        of_account(AccountChange::AddToken(AccessToken {
            id: [1; 16],
            secret_hash: [2; 32],
            scopes: Scopes {
                read: true,
                deliver: false,
                mail: false,
                settings: true,
                send: false,
                fetch: false,
            },
            label: "backup".to_owned(),
            expires_at: Some(Timestamp(1_800_000_000_000)),
        })),
        of_account(AccountChange::AddToken(AccessToken {
            id: [1; 16],
            secret_hash: [2; 32],
            scopes: Scopes {
                fetch: true,
                ..Scopes::default()
            },
            label: "fetchmail".to_owned(),
            expires_at: None,
        })),
        of_account(AccountChange::RemoveToken([1; 16])),
        Command::Attend {
            domain: domain(),
            session: [3; 16],
            account: "ann@example.org".to_owned(),
            to: "[2001:db8::1]:25".parse().unwrap(),
            over: None,
            ttl_ms: 10_000,
        },
        Command::Attend {
            domain: domain(),
            session: [3; 16],
            account: "ann@example.org".to_owned(),
            to: "192.0.2.1:1024".parse().unwrap(),
            over: Some(node),
            ttl_ms: 10_000,
        },
        Command::Leave {
            domain: domain(),
            session: [3; 16],
        },
        Command::OfferAuthority {
            authority: [6; 32],
            certificate: vec![1, 2],
            key: vec![3, 4],
            cross: vec![5, 6],
        },
        Command::RetireAuthority { authority: [6; 32] },
        Command::TrustAuthority {
            node,
            authority: [6; 32],
            used: true,
        },
        Command::Grant {
            name: "ann".to_owned(),
            role: Role::Operator,
            certificate: [7; 32],
            authority: [6; 32],
            expires_at: Timestamp(9),
        },
        Command::Revoke {
            name: "ann".to_owned(),
        },
        acme(AcmeChange::Use(AcmeDirectory {
            url: "https://ca.example/dir".to_owned(),
            contacts: vec!["mailto:ann@example.org".to_owned()],
            authorities: "PEM".to_owned(),
        })),
        acme(AcmeChange::Stop),
        acme(AcmeChange::Try { tries: 2 }),
        acme(AcmeChange::Failed {
            why: "no address".to_owned(),
        }),
        acme(AcmeChange::Account {
            directory: "https://ca.example/dir".to_owned(),
            credentials: vec![1, 2],
        }),
        acme(AcmeChange::Answer {
            token: "abc".to_owned(),
            key_authorization: "abc.def".to_owned(),
        }),
        acme(AcmeChange::Issued(AcmeIssued {
            directory: "https://ca.example/dir".to_owned(),
            chain: "chain".to_owned(),
            key: "key".to_owned(),
            names: vec!["mx1.example".to_owned(), "mx2.example".to_owned()],
        })),
        Command::Note,
        Command::SetDrained {
            node,
            drained: true,
        },
        Command::RaiseLevel {
            level: 3,
            members: vec![node, NodeId(9)],
        },
        Command::By {
            who: "operator".to_owned(),
            from: "192.0.2.1".to_owned(),
            says: "sweep".to_owned(),
            command: Box::new(Command::Sweep),
        },
    ]
}

fn acme(change: AcmeChange) -> Command {
    Command::Acme { change }
}

fn of_account(change: AccountChange) -> Command {
    Command::OfAccount {
        name: "ann@example.org".to_owned(),
        change,
    }
}

fn settle() -> Command {
    let Command::Record {
        domain,
        node,
        epoch,
        outcomes,
    } = record()
    else {
        unreachable!()
    };
    Command::Settle {
        domain,
        node,
        epoch,
        outcomes,
    }
}

fn report(kind: Kind) -> Command {
    Command::Report {
        node: NodeId(12),
        epoch: 7,
        about: MessageId(9),
        kind,
        version: 8,
        envelope: plain_envelope(),
    }
}

fn dispose(how: Disposal, held: bool) -> Command {
    Command::Dispose {
        domain: Domain::parse("example.org").unwrap(),
        how,
        messages: if held { vec![MessageId(9)] } else { vec![] },
        held,
        by: "ann".to_owned(),
    }
}

fn record() -> Command {
    let outcome = |recipient, verdict| Outcome {
        message: MessageId(9),
        recipient,
        verdict,
        reply: "250 2.0.0 ok".to_owned(),
    };
    Command::Record {
        domain: Domain::parse("example.org").unwrap(),
        node: NodeId(12),
        epoch: 7,
        outcomes: vec![
            outcome(1, Verdict::Delivered),
            outcome(2, Verdict::Deferred),
            outcome(u32::MAX, Verdict::Refused),
        ],
    }
}

fn plain_envelope() -> Envelope {
    let id = MessageId(10);
    Envelope {
        id,
        reverse_path: ReversePath::Null,
        recipients: vec![recipient("Postmaster")],
        body: BodyRef {
            id,
            len: 0,
            digest: [0; 32],
        },
        received_at: Timestamp(0),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        helo: String::new(),
        client: String::new(),
    }
}

fn full_envelope() -> Envelope {
    let id = MessageId::new(Timestamp(1_800_000_000_000), 11);
    let notify = Notify {
        success: true,
        failure: false,
        delay: true,
    };
    Envelope {
        id,
        reverse_path: ReversePath::Mailbox(
            Address::parse("\"a @ b\"@Example.COM.", false).unwrap(),
        ),
        recipients: vec![
            Recipient {
                notify: Some(notify),
                orcpt: Some("rfc822;joe+2Bx@example.org".to_owned()),
                ..recipient("joe@Example.ORG")
            },
            Recipient {
                notify: Some(Notify::default()),
                ..recipient("jürgen@straße.example")
            },
            recipient("joe@[192.0.2.1]"),
        ],
        body: BodyRef {
            id,
            len: u64::MAX,
            digest: [0xd1; 32],
        },
        received_at: Timestamp(u64::MAX),
        body_type: BodyType::EightBitMime,
        smtputf8: true,
        ret: Some(Ret::Headers),
        envid: Some(String::new()),
        helo: "client.example".to_owned(),
        client: "2001:db8::7".to_owned(),
    }
}

fn recipient(text: &str) -> Recipient {
    Recipient {
        address: Address::parse(text, true).unwrap(),
        notify: None,
        orcpt: None,
    }
}

fn replies() -> Vec<Reply> {
    use Refusal as R;
    let until = Timestamp(1_800_000_000_000);
    let mut replies = vec![
        Reply::Done,
        Reply::Accepted { seq: Seq(0) },
        Reply::Accepted { seq: Seq(u64::MAX) },
        Reply::Cancelled,
        Reply::AlreadyAccepted,
        Reply::Lease { epoch: 1, until },
        Reply::LeaseHeld {
            node: NodeId(2),
            until,
        },
        Reply::Renewed { epochs: vec![] },
        Reply::Renewed { epochs: vec![0, 3] },
        Reply::Member(NodeId(4)),
        Reply::Flushed { messages: 0 },
        Reply::Swept { more: false },
        Reply::Swept { more: true },
    ];
    replies.extend(
        [
            R::UnknownDomain,
            R::DomainExists,
            R::MailHeld,
            R::Cancelled,
            R::Stale,
            R::Malformed,
            R::Fenced,
            R::BadToken,
            R::TooManyInvitations,
            R::NameTaken,
            R::TryAgain,
            R::AlreadyBootstrapped,
            R::UnknownNode,
            R::LastMember,
        ]
        .map(Reply::Refused),
    );
    replies
        .extend([R::NotOwed, R::FullForNow, R::FullForGood, R::TooManyKnown].map(Reply::Refused));
    replies.extend(
        [
            R::UnknownPlan,
            R::PlanExists,
            R::PlanInUse,
            R::TooManyPlans,
            R::NoSteps,
        ]
        .map(Reply::Refused),
    );
    replies.extend(
        [
            R::UnknownAccount,
            R::AccountExists,
            R::AccountLocked,
            R::CodeUsed,
            R::TooManyTokens,
            R::NotAttended,
            R::AttendedElsewhere,
            R::DrillUnderWay,
            R::UnknownDrill,
            R::TooManySchedules,
            R::TooManyRecipients,
            R::RotationUnderWay,
            R::NoRotation,
            R::AuthorityInUse,
            R::NotGranted,
            R::TooManyGranted,
            R::NoAcme,
            R::WouldStop,
            R::NotFinalized,
        ]
        .map(Reply::Refused),
    );
    replies.push(Reply::Disposed {
        messages: 3,
        more: true,
    });
    replies
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
