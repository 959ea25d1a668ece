//! What happens at the named limits, and when the world breaks.

use holdfast_ledger::account::AccountChange;
use holdfast_ledger::query;
use holdfast_ledger::{
    Askers, Batch, COMMANDS_PER_BATCH_MAX, Command, Effect, Kv, KvError, KvRead, MARK_KEPT,
    MemoryKv, Month, NETWORKS_MAX, PLANS_MAX, PlanChange, Primary, RECIPIENTS_MAX,
    RECIPIENTS_PER_COMMAND_MAX, Refusal, Reply, Row, SWEEP_MARKS_MAX, SWEEP_USAGE_MAX, TOKENS_MAX,
    USAGE_MONTHS, apply_batch,
};
use holdfast_mail::{Domain, MessageId, Network, Timestamp};

const START: Timestamp = Timestamp(1_800_000_000_000);

#[test]
fn a_domain_has_a_bounded_number_of_networks_that_may_ask() {
    let mut kv = MemoryKv::new();
    let domain = || Domain::parse("example.org").unwrap();
    let add = Command::SetDomain {
        domain: domain(),
        primary: Primary {
            host: "mx.example.org".to_owned(),
            port: 25,
        },
        must_be_new: true,
        must_exist: false,
    };
    let network = Network::parse("192.0.2.0/24").unwrap();
    let ask = |number| Command::SetAskers {
        domain: domain(),
        askers: Askers::Networks(vec![network; number]),
    };
    let commands = vec![add, ask(NETWORKS_MAX), ask(NETWORKS_MAX + 1)];
    assert_eq!(
        enter(&mut kv, 1, START, commands),
        [Reply::Done, Reply::Done, Reply::Refused(Refusal::Malformed)]
    );
    let kept = query::askers(&kv, &domain());
    assert_eq!(kept, Ok(Askers::Networks(vec![network; NETWORKS_MAX])));
}

#[test]
fn one_sweep_does_a_bounded_piece_and_says_that_more_is_left() {
    let mut kv = MemoryKv::new();
    let marks = SWEEP_MARKS_MAX as u128 + 1;
    let cancels = (0..marks).map(|n| Command::Cancel {
        message: MessageId::new(START, n),
    });
    enter(&mut kv, 1, START, cancels.collect());
    let later = Timestamp(START.plus(MARK_KEPT).0 + 1);
    for more in [true, false, false] {
        let replies = enter(&mut kv, 2, later, vec![Command::Sweep]);
        assert_eq!(replies, [Reply::Swept { more }]);
    }
    for n in 0..marks {
        let id = MessageId::new(START, n);
        assert_eq!(query::is_cancelled(&kv, id), Ok(false), "{n}");
    }
}

fn offer(name: String) -> Command {
    Command::SetPlan {
        name,
        change: PlanChange {
            currency: Some("EUR".to_owned()),
            ..PlanChange::default()
        },
        must_be_new: true,
        must_exist: false,
    }
}

#[test]
fn there_are_only_so_many_plans_and_one_that_was_removed_is_one_for_two_years() {
    let mut kv = MemoryKv::new();
    let plans = (0..=PLANS_MAX).map(|n| offer(n.to_string()));
    let replies = enter(&mut kv, 1, START, plans.collect());
    let (last, others) = replies.split_last().unwrap();
    assert!(others.iter().all(|reply| *reply == Reply::Done));
    assert_eq!(*last, Reply::Refused(Refusal::TooManyPlans));

    let remove = || Command::RemovePlan {
        name: "0".to_owned(),
    };
    let again = || vec![remove(), Command::Sweep, offer("new".to_owned())];
    let replies = enter(&mut kv, 2, START, again());
    assert_eq!(replies[0], Reply::Done);
    assert_eq!(replies[2], Reply::Refused(Refusal::TooManyPlans));
    let later = Month::of(START).0 + USAGE_MONTHS;
    let replies = enter(&mut kv, 3, Month(later).start(), again());
    assert_eq!(replies[0], Reply::Refused(Refusal::UnknownPlan));
    assert_eq!(replies[2], Reply::Done);
}

#[test]
fn usage_of_two_years_ago_is_forgotten_piece_by_piece() {
    let mut kv = MemoryKv::new();
    let domain = |n: usize| Domain::parse(&format!("d{n}.example")).unwrap();
    let number = SWEEP_USAGE_MAX + 1;
    let mut commands = vec![offer("basic".to_owned())];
    for n in 0..number {
        commands.push(Command::SetDomain {
            domain: domain(n),
            primary: Primary {
                host: "mx.example".to_owned(),
                port: 25,
            },
            must_be_new: true,
            must_exist: false,
        });
        let subscribe = |plan: &str| Command::Subscribe {
            domain: domain(n),
            plan: Some(plan.to_owned()),
            extra_steps: None,
            follow: false,
        };
        commands.extend([subscribe("basic"), subscribe("")]);
    }
    enter(&mut kv, 1, START, commands);
    let month = Month::of(START);
    assert!(query::usage(&kv, &domain(0), month).unwrap().is_some());
    let last = Month(month.0 + USAGE_MONTHS - 1).start();
    let replies = enter(&mut kv, 2, last, vec![Command::Sweep]);
    assert_eq!(replies, [Reply::Swept { more: false }]);
    let bill = query::usage(&kv, &domain(0), month).unwrap().unwrap().bill;
    assert_eq!(bill.unwrap().plan, "basic");
    for more in [true, false] {
        let later = Month(month.0 + USAGE_MONTHS).start();
        let replies = enter(&mut kv, 3, later, vec![Command::Sweep]);
        assert_eq!(replies, [Reply::Swept { more }]);
    }
    for n in 0..number {
        assert_eq!(query::usage(&kv, &domain(n), month), Ok(None));
    }
}

#[test]
fn only_so_many_invitations_are_open_at_a_time() {
    let mut kv = MemoryKv::new();
    let invite = |n: usize| Command::Invite {
        token_id: (n as u128).to_be_bytes(),
        secret_hash: [0; 32],
        expires_at: Timestamp(START.0 + 1),
    };
    let replies = enter(&mut kv, 1, START, (0..=TOKENS_MAX).map(invite).collect());
    let (last, others) = replies.split_last().unwrap();
    assert!(others.iter().all(|reply| *reply == Reply::Done));
    assert_eq!(*last, Reply::Refused(Refusal::TooManyInvitations));

    let expired = Timestamp(START.0 + 1);
    let replies = enter(
        &mut kv,
        2,
        expired,
        vec![Command::Sweep, invite(TOKENS_MAX)],
    );
    assert_eq!(replies[1], Reply::Done);
}

#[test]
fn a_command_past_the_last_place_of_an_entry_is_to_be_proposed_again() {
    let mut kv = MemoryKv::new();
    let commands = vec![Command::Sweep; COMMANDS_PER_BATCH_MAX + 1];
    let replies = enter(&mut kv, 1, START, commands);
    let (last, others) = replies.split_last().unwrap();
    assert!(others.iter().all(|r| *r == Reply::Swept { more: false }));
    assert_eq!(*last, Reply::Refused(Refusal::TryAgain));
}

#[test]
fn domains_are_listed_page_by_page() {
    let mut kv = MemoryKv::new();
    let domain = |n: u32| Domain::parse(&format!("d{n:04}.example")).unwrap();
    let set = (0..600).map(|n| Command::SetDomain {
        domain: domain(n),
        primary: Primary {
            host: "mx.example".to_owned(),
            port: 25,
        },
        must_be_new: true,
        must_exist: false,
    });
    enter(&mut kv, 1, START, set.collect());
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = query::domains(&kv, after.as_ref(), 250).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        found.extend(page.into_iter().map(|record| record.name));
    }
    assert!(found.into_iter().eq((0..600).map(domain)));
}

#[test]
fn state_of_a_newer_format_is_left_alone() {
    let mut kv = MemoryKv::new();
    enter(&mut kv, 1, START, vec![Command::Sweep]);
    let clock = kv.get(&[0x01]).unwrap().unwrap();
    assert_eq!(clock[..2], [0x08, 0x01], "the format is the first field");
    let newer = [&[0x08, 0x02], &clock[2..]].concat();
    kv.put(&[0x01], &newer);
    let before = kv.clone();
    assert!(apply_batch(&mut kv, 2, &batch(START, vec![Command::Sweep]), &mut vec![]).is_err());
    assert_eq!(kv, before);
}

#[test]
fn a_row_that_cannot_be_read_is_no_refusal() {
    let cancel = || {
        vec![Command::Cancel {
            message: MessageId::new(START, 1),
        }]
    };
    let mut kv = MemoryKv::new();
    enter(&mut kv, 1, START, cancel());
    let (key, _) = kv.scan(&[0x33], &[], 1).unwrap().remove(0);
    kv.put(&key, b"\xff");
    assert!(apply_batch(&mut kv, 2, &batch(START, cancel()), &mut vec![]).is_err());

    let broken = KvError("the disk is on fire".to_owned());
    let result = apply_batch(&mut Broken, 1, &batch(START, cancel()), &mut vec![]);
    assert_eq!(result, Err(broken));
}

struct Broken;

impl KvRead for Broken {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Err(KvError("the disk is on fire".to_owned()))
    }
    fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<Row>, KvError> {
        Err(KvError("the disk is on fire".to_owned()))
    }
}

impl Kv for Broken {
    fn put(&mut self, _: &[u8], _: &[u8]) {}
    fn delete(&mut self, _: &[u8]) {}
}

#[test]
fn a_domain_lists_a_bounded_number_of_recipients() {
    let mut kv = MemoryKv::new();
    let domain = || Domain::parse("example.org").unwrap();
    let set = |add: Vec<String>, remove: Vec<String>| Command::SetRecipients {
        domain: domain(),
        add,
        remove,
        clear: false,
    };
    let names = |from: usize, number: usize| (from..from + number).map(|n| n.to_string()).collect();
    let mut commands = vec![Command::SetDomain {
        domain: domain(),
        primary: Primary {
            host: "mx.example.org".to_owned(),
            port: 25,
        },
        must_be_new: true,
        must_exist: false,
    }];
    let step = RECIPIENTS_PER_COMMAND_MAX;
    let pieces = (0..RECIPIENTS_MAX).step_by(step);
    commands.extend(pieces.map(|from| set(names(from, step), vec![])));
    let replies = enter(&mut kv, 1, START, commands);
    assert!(replies.iter().all(|reply| *reply == Reply::Done));

    let one = |name: &str| vec![name.to_owned()];
    let replies = enter(
        &mut kv,
        2,
        START,
        vec![
            set(one("one-more"), vec![]),
            set(one("7"), one("no-such")),
            set(vec!["one-more".to_owned(), "ONE-more".to_owned()], one("7")),
            set(one("7"), vec![]),
            set(one("7"), one("7")),
            set(vec![], one("8")),
            set(one("7"), vec![]),
        ],
    );
    let refused = Reply::Refused(Refusal::TooManyRecipients);
    assert_eq!(
        replies,
        [
            refused.clone(),
            Reply::Done,
            Reply::Done,
            refused.clone(),
            refused,
            Reply::Done,
            Reply::Done
        ]
    );
    let listed = query::recipients(&kv, &domain(), None, usize::MAX).unwrap();
    assert_eq!(listed.len(), RECIPIENTS_MAX);
}

fn by(who: &str, says: String, command: Command) -> Command {
    Command::By {
        who: who.to_owned(),
        from: "192.0.2.1".to_owned(),
        says,
        command: Box::new(command),
    }
}

fn account(name: &str, change: AccountChange) -> Command {
    Command::OfAccount {
        name: name.to_owned(),
        change,
    }
}

#[test]
fn what_one_customer_does_again_and_again_makes_nobody_forget_what_others_did() {
    let mut kv = MemoryKv::new();
    let person = || AccountChange::Add {
        password: "hash".to_owned(),
        domains: vec![],
    };
    let note = |who, says: &str| by(who, says.to_owned(), Command::Note);
    let mut commands = vec![
        account("ann", person()),
        account("joe", person()),
        note("operator", "first"),
        note("joe", "joe's"),
    ];
    for n in 0..11_000 {
        let sign_in = AccountChange::SignIn {
            good: true,
            step: 0,
            from: "192.0.2.1".to_owned(),
        };
        commands.push(by("ann", format!("in {n}"), account("ann", sign_in)));
        commands.push(note("ann", &n.to_string()));
    }
    enter(&mut kv, 1, START, commands);
    let audit = query::audit(&kv).unwrap();
    let said = |who: &str| -> Vec<&str> {
        let of = audit.iter().filter(|entry| entry.by == who);
        of.map(|entry| entry.what.as_str()).collect()
    };
    assert_eq!(
        (said("operator"), said("joe")),
        (vec!["first"], vec!["joe's"])
    );
    let ann = said("ann");
    assert_eq!(ann.len(), 1_000, "500 sign-ins and 500 others, the last");
    assert_eq!((ann[0], ann[999]), ("in 10500", "10999"));
}

#[test]
fn the_audit_is_bounded_whoever_writes_it_and_shares_go_with_their_rows() {
    let mut kv = MemoryKv::new();
    let person = AccountChange::Add {
        password: "hash".to_owned(),
        domains: vec![],
    };
    let note = |who, n: usize| by(who, n.to_string(), Command::Note);
    let mut commands = vec![account("ann", person)];
    commands.extend((0..10).map(|n| note("ann", n)));
    commands.extend((0..10_000).map(|n| note("operator", n)));
    enter(&mut kv, 1, START, commands);
    let audit = query::audit(&kv).unwrap();
    assert_eq!(audit.len(), 10_000);
    assert!(audit.iter().all(|entry| entry.by == "operator"));
    let shares = kv.rows().filter(|(key, _)| key[0] == 0x39).count();
    assert_eq!(shares, 0);
}

fn enter(kv: &mut MemoryKv, index: u64, at: Timestamp, commands: Vec<Command>) -> Vec<Reply> {
    let mut effects: Vec<Effect> = Vec::new();
    apply_batch(kv, index, &batch(at, commands), &mut effects).unwrap()
}

fn batch(at: Timestamp, commands: Vec<Command>) -> Batch {
    Batch { at, commands }
}
