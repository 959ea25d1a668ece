//! Plays `scenarios/*.txt` and compares what happens with what is written there.
//!
//! A scenario is a transcript. Lines that begin with `->` (replies), `=>` (effects) or `|`
//! (answers to questions) are what is expected; every other line is what is done:
//!
//! ```text
//! # a comment
//! @90s                      the proposer's clock from here on, from the scenario's start
//! bootstrap oslo [as 3] [at level 1]   its first member, number 1 unless said otherwise
//! domain add|change|set DOMAIN HOST:PORT
//! domain remove DOMAIN
//! message NAME born TIME    an id made at another time than the command that first names it
//! submit NAME to ADDRESS,… by ACCOUNT [as accept]
//! accept NAME to ADDRESS,… [size N] [from ADDRESS] [notify never|failure|delay]
//! cancel NAME
//! invite TOKEN secret WORD until TIME
//! redeem TOKEN secret WORD as NAME
//! leave NODE
//! drain NODE   undrain NODE   raise to LEVEL by NODE,…
//! acquire DOMAIN by NODE for TIME
//! renew by NODE for TIME: DOMAIN EPOCH, …
//! release DOMAIN by NODE epoch EPOCH
//! record DOMAIN by NODE epoch EPOCH: MESSAGE/RECIPIENT VERDICT TEXT, …
//! settle …                  as record, and refusals are judged
//! flush DOMAIN via WHO
//! recipients DOMAIN [clear] [add NAME,…] [remove NAME,…]
//! learn DOMAIN NAME|nobody yes|no   unlearn DOMAIN NAME,…|all
//! observe DOMAIN by NODE up|WHY-NOT
//! policy DOMAIN [recipients any|listed|verify] [yes|no TIME] [delimiter CHAR|none] [hold|delay|probation TIME] [bytes|messages N] [full later|never] [probe TIME] [ping yes|no]
//! review DOMAIN: SEQ, …
//! requeue|discard|bounce|hold|release|delete|undelete DOMAIN [held] [MESSAGE,…]
//! post by NODE for TIME [epoch EPOCH]
//! report NAME by NODE epoch EPOCH about MESSAGE failed|delayed version SEQ to ADDRESS
//! reports by NODE epoch EPOCH: SEQ delivered|deferred|dropped TEXT, …
//! route DOMAIN [mx] [lmtp] [required|verified] [login] [key] [private]
//! askers DOMAIN anybody|nobody|NETWORK,…
//! plan add|change|set NAME [price CURRENCY N] [bytes|messages N] [step BYTES PRICE] [hosts N] [hold TIME] [full later|never] [probe TIME] [ping yes|no]
//! plan remove NAME
//! subscribe DOMAIN [to PLAN|nothing] [steps N] [follow]
//! offer AUTHORITY   retire AUTHORITY   trust AUTHORITY by NODE [used]
//! grant NAME viewer|operator|admin   revoke NAME   note
//! acme use URL [to CONTACT]   acme stop|failed|account|issued [URL]   acme try N   acme answer TOKEN
//! sweep
//! together                  the indented commands that follow are one entry of the log
//! ? held|refused|aside|counts|lease|domain DOMAIN   ? envelope|cancelled MESSAGE   ? removed NODE|as NAME
//! ? recipients DOMAIN   ? takes ADDRESS   ? standing ADDRESS   ? known DOMAIN
//! ? askers DOMAIN from CLIENT   ? account NAME [from CLIENT]
//! ? plans   ? quota DOMAIN   ? usage MONTH
//! ? policy|health|reach|route DOMAIN   ? owed   ? reports   ? post   ? audit
//! ? total   ? domains   ? held domains   ? members   ? bodies   ? cluster   ? now   ? marks
//! ? invitations   ? rotation   ? grants   ? acme   ? level   ? on duty
//! ```
//!
//! Entries are numbered from 1, one for each command (or `together`). After each, whatever the
//! scenario says, the state is audited, a refused entry must have changed nothing but the
//! clock, and a second replica that decodes the entry must arrive at the same rows.
//!
//! `BLESS=1` writes what happened into the files, to be read before it is committed.

mod audit;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use holdfast_ledger::account::{AccessToken, AccountChange, Scopes};
use holdfast_ledger::acme::{AcmeChange, AcmeDirectory, AcmeIssued};
use holdfast_ledger::drill::{
    self, DrillEvent, DrillKind, DrillPlan, DrillReport, DrillSchedule, DrillVerdict,
};
use holdfast_ledger::query::{self, Held};
use holdfast_ledger::{
    Amount, Askers, Batch, Command, Disposal, Effect, KvRead, Member, MemoryKv, Outcome,
    PlanChange, PolicyChange, Primary, Reply, ReportFate, ReportOutcome, Role, Route, RouteTls,
    Seen, Seq, Usage, Verdict, apply_batch, level,
};
use holdfast_mail::dsn::Kind;
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, Network, NodeId, Notify, Recipient,
    ReversePath, Timestamp,
};

/// 2027-01-15T08:00:00Z, the start of every scenario.
const START: u64 = 1_800_000_000_000;

#[test]
fn every_scenario_goes_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "the scenarios are missing");
    let bless = env::var_os("BLESS").is_some();
    let mut wrong = String::new();
    for path in paths {
        let written = fs::read_to_string(&path).unwrap();
        let happened = play(&written);
        if bless {
            fs::write(&path, happened).unwrap();
        } else if let Some(difference) = first_difference(&written, &happened) {
            writeln!(wrong, "{}:{difference}", path.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn first_difference(written: &str, happened: &str) -> Option<String> {
    let (mut written, mut happened) = (written.lines(), happened.lines());
    for number in 1.. {
        let pair = (written.next(), happened.next());
        match pair {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => {
                let (a, b) = (a.unwrap_or("the end"), b.unwrap_or("the end"));
                return Some(format!("{number}\n  written:  {a}\n  happened: {b}"));
            }
        }
    }
    None
}

/// The transcript with what really happens in it.
fn play(text: &str) -> String {
    let mut stage = Stage::default();
    let mut out = String::new();
    let mut lines = text
        .lines()
        .filter(|line| !["->", "=>", "|"].iter().any(|sign| line.starts_with(sign)))
        .peekable();
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").unwrap();
        if let Some(question) = line.strip_prefix("? ") {
            stage.answer(question, &mut out);
        } else if let Some(time) = line.strip_prefix('@') {
            stage.clock = at(time);
        } else if line == "together" {
            let mut commands = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
                writeln!(out, "{line}").unwrap();
                commands.push(stage.command(line.trim()));
            }
            stage.enter(commands, &mut out);
        } else if let Some(rest) = line.strip_prefix("message ") {
            let (name, born) = rest.split_once(" born ").expect(rest);
            stage.name(name, at(born));
        } else if !line.is_empty() && !line.starts_with('#') {
            let command = stage.command(line);
            stage.enter(vec![command], &mut out);
        }
    }
    out
}

struct Stage {
    kv: MemoryKv,
    twin: MemoryKv,
    clock: Timestamp,
    index: u64,
    messages: BTreeMap<String, MessageId>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            kv: MemoryKv::new(),
            twin: MemoryKv::new(),
            clock: Timestamp(START),
            index: 0,
            messages: BTreeMap::new(),
        }
    }
}

impl Stage {
    fn enter(&mut self, commands: Vec<Command>, out: &mut String) {
        self.index += 1;
        let at = self.clock;
        let batch = Batch { at, commands };
        let before = self.kv.clone();
        let mut effects = Vec::new();
        let replies = apply_batch(&mut self.kv, self.index, &batch, &mut effects).unwrap();

        audit::audit(&self.kv);
        let refused = |reply: &Reply| matches!(reply, Reply::Refused(_));
        if replies.iter().all(refused) {
            assert!(effects.is_empty(), "a refused entry has no effects");
            assert!(
                state(&before).eq(state(&self.kv)),
                "a refused entry changes nothing"
            );
        }
        let again = Batch::decode(&batch.encode()).unwrap();
        let twin = apply_batch(&mut self.twin, self.index, &again, &mut Vec::new());
        assert_eq!(twin, Ok(replies.clone()));
        assert_eq!(self.twin, self.kv, "replicas agree");

        for reply in &replies {
            writeln!(out, "-> {}", told(reply)).unwrap();
        }
        for effect in effects {
            let effect = match effect {
                Effect::MailHeld { domain } => format!("mail held for {domain}"),
                Effect::FlushRequested { domain } => format!("flush {domain}"),
                Effect::LeaseChanged { domain } => format!("lease of {domain} changed"),
                Effect::DomainChanged { domain } => format!("domain {domain} changed"),
                Effect::BodyReleased { body } => format!("body of {} released", self.called(body)),
                Effect::MembersChanged => "members changed".to_owned(),
                Effect::PolicyChanged { domain } => format!("policy of {domain} changed"),
                Effect::Requeued { domain } => format!("requeued for {domain}"),
                Effect::ReportDue => "report due".to_owned(),
                Effect::DrillChanged => "drill changed".to_owned(),
            };
            writeln!(out, "=> {effect}").unwrap();
        }
    }

    fn command(&mut self, line: &str) -> Command {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (verb, words.as_slice()) {
            ("bootstrap", [name]) => bootstrap(member(1, name), level::NEWEST),
            ("bootstrap", [name, "as", id]) => bootstrap(member(node(id).0, name), level::NEWEST),
            ("bootstrap", [name, "at", "level", level]) => {
                bootstrap(member(1, name), level.parse().expect(line))
            }
            ("drain" | "undrain", [id]) => Command::SetDrained {
                node: node(id),
                drained: verb == "drain",
            },
            ("raise", ["to", level, "by", ids]) => Command::RaiseLevel {
                level: level.parse().expect(line),
                members: ids.split(',').map(node).collect(),
            },
            ("domain", ["remove", name]) => Command::RemoveDomain {
                domain: domain(name),
            },
            ("domain", [how @ ("add" | "change" | "set"), name, primary]) => {
                let (host, port) = primary.split_once(':').expect(line);
                Command::SetDomain {
                    domain: domain(name),
                    primary: Primary {
                        host: host.to_owned(),
                        port: port.parse().expect(line),
                    },
                    must_be_new: *how == "add",
                    must_exist: *how == "change",
                }
            }
            ("accept", [name, "to", to, options @ ..]) => self.accept(name, to, options),
            ("submit", [name, "to", to, "by", account, options @ ..]) => {
                let Command::Accept { envelope } = self.accept(name, to, options) else {
                    panic!("{line}")
                };
                Command::Submit {
                    account: (*account).to_owned(),
                    envelope,
                }
            }
            ("cancel", [name]) => Command::Cancel {
                message: self.name(name, self.clock),
            },
            ("invite", [token, "secret", secret, "until", time]) => Command::Invite {
                token_id: padded(token),
                secret_hash: padded(secret),
                expires_at: at(time),
            },
            ("redeem", [token, "secret", secret, "as", name]) => Command::Redeem {
                token_id: padded(token),
                secret_hash: padded(secret),
                member: member(0, name),
            },
            ("leave", [id]) => Command::RemoveMember { node: node(id) },
            ("acquire", [name, "by", id, "for", time]) => Command::AcquireLease {
                domain: domain(name),
                node: node(id),
                ttl_ms: millis(time),
            },
            ("renew", ["by", id, "for", time, ..]) => Command::RenewLeases {
                node: node(id),
                leases: listed(rest)
                    .map(|lease| {
                        let (name, number) = lease.split_once(' ').expect(line);
                        (domain(name), epoch(number))
                    })
                    .collect(),
                ttl_ms: millis(time.trim_end_matches(':')),
            },
            ("release", [name, "by", id, "epoch", number]) => Command::ReleaseLease {
                domain: domain(name),
                node: node(id),
                epoch: epoch(number),
            },
            ("record" | "settle", [name, "by", id, "epoch", number, ..]) => {
                let (domain, node) = (domain(name), node(id));
                let epoch = epoch(number.trim_end_matches(':'));
                let outcomes = listed(rest).map(|text| self.outcome(text)).collect();
                if verb == "record" {
                    Command::Record {
                        domain,
                        node,
                        epoch,
                        outcomes,
                    }
                } else {
                    Command::Settle {
                        domain,
                        node,
                        epoch,
                        outcomes,
                    }
                }
            }
            ("recipients", [name, options @ ..]) => {
                let clear = options.first() == Some(&"clear");
                let list = |word: &str| {
                    let at = options.iter().position(|option| *option == word);
                    let names = at.map_or("", |at| options[at + 1]);
                    names
                        .split(',')
                        .filter(|n| !n.is_empty())
                        .map(str::to_owned)
                        .collect()
                };
                Command::SetRecipients {
                    domain: domain(name),
                    add: list("add"),
                    remove: list("remove"),
                    clear,
                }
            }
            ("policy", [name, options @ ..]) => Command::SetPolicy {
                domain: domain(name),
                change: change(options),
            },
            ("learn", [name, who, says]) => Command::Learn {
                domain: domain(name),
                name: who.trim_start_matches("nobody").to_owned(),
                node: NodeId(1),
                takes: *says == "yes",
                reply: "as it says".to_owned(),
            },
            ("observe", [name, "by", node, what]) => Command::Observe {
                node: self::node(node),
                seen: vec![Seen {
                    domain: domain(name),
                    down: (*what != "up").then(|| (*what).to_owned()),
                }],
            },
            ("unlearn", [name, names]) => Command::Unlearn {
                domain: domain(name),
                names: match *names {
                    "all" => vec![],
                    names => names.split(',').map(str::to_owned).collect(),
                },
            },
            ("route", [name, words @ ..]) => Command::SetRoute {
                domain: domain(name),
                route: Route {
                    by_mx: words.contains(&"mx"),
                    lmtp: words.contains(&"lmtp"),
                    tls: match (words.contains(&"required"), words.contains(&"verified")) {
                        (_, true) => RouteTls::Verified,
                        (true, false) => RouteTls::Required,
                        _ => RouteTls::Opportunistic,
                    },
                    login: (words.contains(&"login")).then(|| ("us".into(), "secret".into())),
                    private: words.contains(&"private"),
                    key: words.contains(&"key").then_some([0xab; 32]),
                    direct: words.contains(&"direct"),
                },
            },
            ("plan", ["remove", name]) => Command::RemovePlan {
                name: (*name).to_owned(),
            },
            ("plan", [how @ ("add" | "change" | "set"), name, options @ ..]) => Command::SetPlan {
                name: (*name).to_owned(),
                change: plan_change(options),
                must_be_new: *how == "add",
                must_exist: *how == "change",
            },
            ("subscribe", [name, options @ ..]) => {
                let after = |word: &str| {
                    let at = options.iter().position(|option| *option == word);
                    at.map(|at| options[at + 1])
                };
                Command::Subscribe {
                    domain: domain(name),
                    plan: after("to").map(|plan| match plan {
                        "nothing" => String::new(),
                        plan => plan.to_owned(),
                    }),
                    extra_steps: after("steps").map(|number| number.parse().expect(number)),
                    follow: options.contains(&"follow"),
                }
            }
            ("askers", [name, who]) => Command::SetAskers {
                domain: domain(name),
                askers: match *who {
                    "anybody" => Askers::Anybody,
                    "nobody" => Askers::Networks(vec![]),
                    list => Askers::Networks(
                        list.split(',')
                            .map(|text| Network::parse(text).expect(line))
                            .collect(),
                    ),
                },
            },
            ("review", [name, ..]) => Command::Review {
                domain: domain(name.trim_end_matches(':')),
                seqs: listed(rest).map(|seq| Seq(epoch(seq))).collect(),
            },
            (
                "requeue" | "discard" | "bounce" | "hold" | "release" | "delete" | "undelete",
                [name, options @ ..],
            ) => Command::Dispose {
                domain: domain(name),
                how: match verb {
                    "requeue" => Disposal::Requeue,
                    "discard" => Disposal::Discard,
                    "hold" => Disposal::Hold,
                    "release" => Disposal::Release,
                    "delete" => Disposal::Delete,
                    "undelete" => Disposal::Undelete,
                    _ => Disposal::Bounce,
                },
                held: options.first() == Some(&"held"),
                messages: options
                    .iter()
                    .filter(|word| **word != "held")
                    .flat_map(|list| list.split(','))
                    .map(|name| self.name(name, self.clock))
                    .collect(),
                by: "ann".to_owned(),
            },
            ("post", ["by", id, "for", time, rest @ ..]) => Command::TakePost {
                node: node(id),
                ttl_ms: millis(time),
                epoch: match rest {
                    ["epoch", number] => epoch(number),
                    _ => 0,
                },
            },
            (
                "report",
                [
                    name,
                    "by",
                    id,
                    "epoch",
                    number,
                    "about",
                    about,
                    kind,
                    "version",
                    version,
                    "to",
                    to,
                ],
            ) => {
                let Command::Accept { envelope } = self.accept(name, to, &[]) else {
                    unreachable!()
                };
                Command::Report {
                    node: node(id),
                    epoch: epoch(number),
                    about: self.name(about, self.clock),
                    kind: match *kind {
                        "failed" => Kind::Failed,
                        "delayed" => Kind::Delayed,
                        _ => panic!("no such kind: {line}"),
                    },
                    version: epoch(version),
                    envelope,
                }
            }
            ("reports", ["by", id, "epoch", number, ..]) => Command::SettleReports {
                node: node(id),
                epoch: epoch(number.trim_end_matches(':')),
                outcomes: listed(rest)
                    .map(|text| {
                        let mut words = text.splitn(3, ' ');
                        ReportOutcome {
                            seq: Seq(epoch(words.next().expect(text))),
                            fate: match words.next() {
                                Some("delivered") => ReportFate::Delivered,
                                Some("deferred") => ReportFate::Deferred,
                                Some("dropped") => ReportFate::Dropped,
                                _ => panic!("no such fate: {text}"),
                            },
                            reply: words.next().unwrap_or_default().to_owned(),
                        }
                    })
                    .collect(),
            },
            ("flush", [name, "via", who]) => Command::Flush {
                domain: domain(name),
                via: (*who).to_owned(),
            },
            ("sweep", []) => Command::Sweep,
            (
                "attend",
                [
                    name,
                    "by",
                    account,
                    "at",
                    to,
                    "as",
                    session,
                    "for",
                    time,
                    over @ ..,
                ],
            ) => Command::Attend {
                domain: domain(name),
                session: padded(session),
                account: (*account).to_owned(),
                to: to.parse().expect(line),
                over: match over {
                    [] => None,
                    ["over", node] => Some(self::node(node)),
                    _ => panic!("{line}"),
                },
                ttl_ms: millis(time),
            },
            ("leave", [name, "as", session]) => Command::Leave {
                domain: domain(name),
                session: padded(session),
            },
            ("drill", ["begin", id, kind, "at", nodes, "by", conductor, "for", time]) => {
                Command::BeginDrill {
                    id: self.name(id, self.clock),
                    plan: DrillPlan {
                        kind: drill_kind(kind).into(),
                        nodes: match *nodes {
                            "none" => Vec::new(),
                            nodes => nodes.split(',').map(|id| node(id).0).collect(),
                        },
                        conductor: node(conductor).0,
                        duration_ms: millis(time),
                        rate: 5,
                        ..DrillPlan::default()
                    },
                }
            }
            ("drill", ["tell", id, what @ ..]) => Command::TellDrill {
                id: self.name(id, self.clock),
                event: DrillEvent {
                    at_ms: 100,
                    what: what.join(" "),
                },
            },
            ("drill", ["end", id, why @ ..]) => Command::EndDrill {
                id: self.name(id, self.clock),
                report: DrillReport {
                    verdict: DrillVerdict::Passed.into(),
                    why: why.join(" "),
                    ..DrillReport::default()
                },
            },
            ("drill", ["schedule", name, kind, "every", time]) => Command::ScheduleDrill {
                name: (*name).to_owned(),
                schedule: Some(DrillSchedule {
                    kind: drill_kind(kind).into(),
                    every_ms: millis(time),
                    duration_ms: 60_000,
                    rate: 5,
                    ..DrillSchedule::default()
                }),
            },
            ("drill", ["unschedule", name]) => Command::ScheduleDrill {
                name: (*name).to_owned(),
                schedule: None,
            },
            ("account", [name, change @ ..]) => Command::OfAccount {
                name: (*name).to_owned(),
                change: account_change(change).expect(line),
            },
            ("offer", [name]) => Command::OfferAuthority {
                authority: padded(name),
                certificate: name.as_bytes().to_vec(),
                key: vec![1],
                cross: vec![2],
            },
            ("retire", [name]) => Command::RetireAuthority {
                authority: padded(name),
            },
            ("trust", [name, "by", id, used @ ..]) => Command::TrustAuthority {
                node: node(id),
                authority: padded(name),
                used: used == ["used"],
            },
            ("grant", [name, role]) => Command::Grant {
                name: (*name).to_owned(),
                role: Role::parse(role).expect(line),
                certificate: [1; 32],
                authority: [2; 32],
                expires_at: Timestamp(START),
            },
            ("revoke", [name]) => Command::Revoke {
                name: (*name).to_owned(),
            },
            ("acme", [verb, rest @ ..]) => Command::Acme {
                change: acme_change(verb, rest).expect(line),
            },
            ("note", []) => Command::Note,
            ("by", [who, ..]) => Command::By {
                who: (*who).to_owned(),
                from: "192.0.2.7".to_owned(),
                says: "change what is held".to_owned(),
                command: Box::new(self.command(rest.split_once(' ').expect(line).1)),
            },
            _ => panic!("no such command: {line}"),
        }
    }

    fn accept(&mut self, name: &str, to: &str, options: &[&str]) -> Command {
        let id = self.name(name, self.clock);
        let (mut len, mut from, mut notify) = (100, ReversePath::Null, None);
        for option in options.chunks(2) {
            match *option {
                ["size", number] => len = number.parse().expect(number),
                ["from", address] => {
                    from = ReversePath::Mailbox(Address::parse(address, true).expect(address));
                }
                ["notify", when] => {
                    notify = Some(Notify {
                        success: false,
                        failure: when == "failure",
                        delay: when == "delay",
                    });
                }
                _ => panic!("no such option: {option:?}"),
            }
        }
        let recipients = to
            .split(',')
            .filter(|text| *text != "nobody")
            .map(|text| Recipient {
                address: Address::parse(text, true).expect(text),
                notify,
                orcpt: None,
            })
            .collect();
        let digest = [1; 32];
        let envelope = Envelope {
            id,
            reverse_path: from,
            recipients,
            body: BodyRef { id, len, digest },
            received_at: self.clock,
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: "client.example".to_owned(),
            client: "192.0.2.7".to_owned(),
        };
        Command::Accept { envelope }
    }

    fn outcome(&mut self, text: &str) -> Outcome {
        let mut words = text.splitn(3, ' ');
        let (message, recipient) = words.next().and_then(|w| w.split_once('/')).expect(text);
        Outcome {
            message: self.name(message, self.clock),
            recipient: recipient.parse().expect(text),
            verdict: match words.next() {
                Some("delivered") => Verdict::Delivered,
                Some("deferred") => Verdict::Deferred,
                Some("refused") => Verdict::Refused,
                _ => panic!("no such verdict: {text}"),
            },
            reply: words.next().unwrap_or_default().to_owned(),
        }
    }

    /// The id that goes by a name, made at `born` where the name is new.
    fn name(&mut self, name: &str, born: Timestamp) -> MessageId {
        let number = self.messages.len() as u128;
        *self
            .messages
            .entry(name.to_owned())
            .or_insert_with(|| MessageId::new(born, number))
    }

    fn called(&self, id: MessageId) -> &str {
        let mut names = self.messages.iter();
        names
            .find(|(_, known)| **known == id)
            .map_or("?", |(name, _)| name)
    }

    fn answer(&mut self, question: &str, out: &mut String) {
        let mut lines = self.answers(question);
        if lines.is_empty() {
            lines.push("nothing".to_owned());
        }
        for line in lines {
            writeln!(out, "| {line}").unwrap();
        }
    }

    fn answers(&mut self, question: &str) -> Vec<String> {
        let kv = &self.kv;
        let all = usize::MAX;
        let words: Vec<&str> = question.split_whitespace().collect();
        let counts = |counts: query::Counts| {
            vec![format!(
                "{} messages, {} bytes",
                counts.messages, counts.bytes
            )]
        };
        match words.as_slice() {
            ["held", "domains"] => query::held_domains(kv, None, all)
                .unwrap()
                .iter()
                .map(Domain::to_string)
                .collect(),
            ["held", name] => self.queue(query::held(kv, &domain(name), None, all).unwrap()),
            ["refused", name] => self.queue(query::refused(kv, &domain(name), all).unwrap()),
            ["aside", name] => self.queue(query::aside(kv, &domain(name), None, all).unwrap()),
            ["counts", name] => counts(query::counts(kv, &domain(name)).unwrap()),
            ["charged", name] => counts(query::charged(kv, &domain(name)).unwrap()),
            ["below", name] => {
                let (held, hosts) = query::below(kv, &domain(name)).unwrap();
                vec![format!(
                    "{} messages, {} bytes at {hosts} hosts",
                    held.messages, held.bytes
                )]
            }
            ["recipients", name] => query::recipients(kv, &domain(name), None, all).unwrap(),
            ["takes", text] => {
                let address = Address::parse(text, true).expect(text);
                let of = address.domain().expect(text);
                vec![yes_no(
                    query::takes_mail_for(kv, of, address.local()).unwrap(),
                )]
            }
            ["standing", text] => {
                let address = Address::parse(text, true).expect(text);
                let of = address.domain().expect(text);
                let standing = query::standing(kv, of, address.local(), self.clock);
                vec![format!("{:?}", standing.unwrap())]
            }
            ["known", name] => query::knowns(kv, &domain(name), None, all)
                .unwrap()
                .iter()
                .map(|(name, known)| format!("{name} {}", yes_no(known.takes)))
                .collect(),
            ["route", name] => vec![format!("{:?}", query::route(kv, &domain(name)).unwrap())],
            ["reach", name] => query::reach(kv, &domain(name))
                .unwrap()
                .iter()
                .map(|reach| {
                    let state = reach.down.as_deref().unwrap_or("up");
                    format!(
                        "{state} since {}, at {}",
                        since(reach.since),
                        since(reach.at)
                    )
                })
                .collect(),
            ["askers", name, "from", client] => {
                let askers = query::askers(kv, &domain(name)).unwrap();
                let may = askers.include(client.parse().expect(client));
                vec![if may { "may" } else { "may not" }.to_owned()]
            }
            ["plans"] => query::plans(kv)
                .unwrap()
                .iter()
                .map(|plan| {
                    format!(
                        "{} for {} {}, {}, {}, {}, {} domains",
                        plan.name,
                        plan.currency,
                        plan.price,
                        match plan.quota_bytes {
                            Some(bytes) => format!("{bytes} bytes"),
                            None => "no quota".to_owned(),
                        },
                        match plan.step_bytes {
                            0 => "no steps".to_owned(),
                            bytes => format!("steps of {bytes} for {}", plan.step_price),
                        },
                        match plan.mx_hosts {
                            0 => "any hosts".to_owned(),
                            hosts => format!("{hosts} hosts"),
                        },
                        plan.domains
                    )
                })
                .collect(),
            ["quota", name] => {
                let policy = query::policy(kv, &domain(name)).unwrap();
                let number = |limit: Option<u64>| limit.map_or("any".to_owned(), |n| n.to_string());
                vec![format!(
                    "{} bytes, {} messages, held for {:?}, {}",
                    number(policy.quota_bytes),
                    number(policy.quota_messages),
                    policy.hold,
                    if policy.full_for_good { "552" } else { "452" }
                )]
            }
            ["usage", month] => {
                let month = month.parse().expect(month);
                query::used_domains(kv, month, None, all)
                    .unwrap()
                    .iter()
                    .filter_map(|domain| query::usage(kv, domain, month).unwrap())
                    .map(|usage| usage_line(&usage))
                    .collect()
            }
            ["policy", name] => vec![format!("{:?}", query::policy(kv, &domain(name)).unwrap())],
            ["health", name] => {
                let health = query::health(kv, &domain(name)).unwrap();
                if health.taken == 0 && health.refused == 0 {
                    return vec![];
                }
                vec![format!(
                    "taken {} and refused {} since {}, last {}",
                    health.taken,
                    health.refused,
                    if health.taken == 0 {
                        "ever".to_owned()
                    } else {
                        since(health.since)
                    },
                    if health.taken == 0 {
                        "never".to_owned()
                    } else {
                        since(health.last)
                    }
                )]
            }
            ["owed"] => query::owed(kv, None, all)
                .unwrap()
                .into_iter()
                .map(|owed| {
                    let who: Vec<_> = owed
                        .recipients
                        .iter()
                        .map(|who| format!("{} {:?} {}", who.recipient, who.why, who.reply))
                        .collect();
                    format!(
                        "{} {:?} version {} from {}: {}",
                        self.called(owed.about),
                        owed.kind,
                        Seq(owed.version),
                        since(owed.not_before),
                        who.join(", ")
                    )
                    .trim_end()
                    .to_owned()
                })
                .collect(),
            ["reports"] => query::reports(kv, None, all)
                .unwrap()
                .into_iter()
                .map(|report| {
                    format!(
                        "{} {} attempts {} next {} until {} {}",
                        report.seq,
                        self.called(report.message),
                        report.attempts,
                        since(report.next_at),
                        since(report.give_up_at),
                        report.last_reply
                    )
                    .trim_end()
                    .to_owned()
                })
                .collect(),
            ["post"] => query::post(kv)
                .unwrap()
                .map(|post| {
                    let epoch = Seq(post.epoch);
                    format!(
                        "node {} epoch {epoch} until {}",
                        post.node,
                        since(post.until)
                    )
                })
                .into_iter()
                .collect(),
            ["audit"] => query::audit(kv)
                .unwrap()
                .into_iter()
                .map(|done| {
                    let names: Vec<_> = done.messages.iter().map(|id| self.called(*id)).collect();
                    let list = names.join(", ");
                    format!(
                        "{} {}{} {} {}: {list}",
                        since(done.at),
                        done.by,
                        if done.from.is_empty() {
                            String::new()
                        } else {
                            format!(" from {}", done.from)
                        },
                        done.what,
                        done.domain
                    )
                })
                .collect(),
            ["attended", name] => query::attended(kv, &domain(name))
                .unwrap()
                .map(|row| {
                    let (since, until) = (since(row.since), since(row.until));
                    format!("{} at {} since {since}, until {until}", row.account, row.to)
                })
                .into_iter()
                .collect(),
            ["drills"] => drill::drills(kv)
                .unwrap()
                .into_iter()
                .map(|drill| {
                    let events: Vec<_> = drill.events.iter().map(|e| e.what.as_str()).collect();
                    format!(
                        "{:?} of {:?} since {}, [{}], {}",
                        drill.plan.kind(),
                        drill.plan.nodes,
                        since(drill.began_at),
                        events.join(", "),
                        match &drill.report {
                            Some(report) => format!("{:?}: {}", report.verdict(), report.why),
                            None if drill.is_under_way(self.clock) => "under way".to_owned(),
                            None => "without an end".to_owned(),
                        }
                    )
                })
                .collect(),
            ["schedules"] => drill::schedules(kv)
                .unwrap()
                .into_iter()
                .map(|(name, schedule)| {
                    format!(
                        "{name}: {:?} every {} ms",
                        schedule.kind(),
                        schedule.every_ms
                    )
                })
                .collect(),
            ["account", name] => query::account(kv, name)
                .unwrap()
                .map(|account| {
                    let domains: Vec<_> = account.domains.iter().map(Domain::as_str).collect();
                    let tokens: Vec<_> = account.tokens.iter().map(|t| t.label.as_str()).collect();
                    format!(
                        "{} for [{}] epoch {}, {}, second factor {}, tokens [{}], signed in {}",
                        account.password,
                        domains.join(", "),
                        account.epoch,
                        if account.is_locked(self.clock) {
                            "locked"
                        } else {
                            "open"
                        },
                        yes_no(account.second_factor.is_some()),
                        tokens.join(", "),
                        account.signed_in_at.map_or("never".to_owned(), since),
                    )
                })
                .into_iter()
                .collect(),
            ["account", name, "from", client] => query::account(kv, name)
                .unwrap()
                .map(|account| match account.is_locked_for(client, self.clock) {
                    true => "locked".to_owned(),
                    false => "open".to_owned(),
                })
                .into_iter()
                .collect(),
            ["token", id] => query::access_token(kv, &padded(id))
                .unwrap()
                .map(|(account, token)| format!("{} of {}", token.label, account.name))
                .into_iter()
                .collect(),
            ["token", id, "scopes"] => query::access_token(kv, &padded(id))
                .unwrap()
                .map(|(_, token)| token.scopes.names().collect::<Vec<_>>().join(", "))
                .into_iter()
                .collect(),
            ["total"] => counts(query::total(kv).unwrap()),
            ["lease", name] => query::lease(kv, &domain(name))
                .unwrap()
                .map(|lease| {
                    let epoch = Seq(lease.epoch);
                    format!(
                        "node {} epoch {epoch} until {}",
                        lease.node,
                        since(lease.until)
                    )
                })
                .into_iter()
                .collect(),
            ["domain", name] => query::domain(kv, &domain(name))
                .unwrap()
                .iter()
                .map(record_line)
                .collect(),
            ["domains"] => query::domains(kv, None, all)
                .unwrap()
                .iter()
                .map(record_line)
                .collect(),
            ["envelope", name] => query::envelope(kv, self.messages[*name])
                .unwrap()
                .iter()
                .flat_map(|envelope| &envelope.recipients)
                .map(|recipient| format!("to {}", recipient.address))
                .collect(),
            ["cancelled", name] => {
                vec![yes_no(
                    query::is_cancelled(kv, self.messages[*name]).unwrap(),
                )]
            }
            ["members"] => query::members(kv)
                .unwrap()
                .iter()
                .map(|member| format!("{} {}", member.id, member.name))
                .collect(),
            ["removed", "as", name] => vec![
                query::removed_as(kv, name)
                    .unwrap()
                    .map_or_else(|| "nobody".to_owned(), |node| node.to_string()),
            ],
            ["removed", id] => vec![yes_no(query::is_removed(kv, node(id)).unwrap())],
            ["bodies"] => query::bodies(kv, None, all)
                .unwrap()
                .iter()
                .map(|body| format!("{} {} bytes", self.called(body.id), body.len))
                .collect(),
            ["cluster"] => query::cluster(kv)
                .unwrap()
                .map(|cluster| String::from_utf8(cluster.ca_certificate).unwrap())
                .into_iter()
                .collect(),
            ["rotation"] => query::rotation(kv)
                .unwrap()
                .map(|rotation| {
                    let names = |members: &[Member]| {
                        let names: Vec<_> = members.iter().map(|m| m.name.clone()).collect();
                        names.join(" ")
                    };
                    format!(
                        "{} not trusted by [{}] not used by [{}]",
                        String::from_utf8(rotation.certificate).unwrap(),
                        names(&rotation.not_trusting),
                        names(&rotation.not_using)
                    )
                })
                .into_iter()
                .collect(),
            ["grants"] => query::all_granted(kv)
                .unwrap()
                .into_iter()
                .map(|granted| format!("{} {}", granted.name, granted.role))
                .collect(),
            ["acme"] => {
                let mut lines = Vec::new();
                if let Some(acme) = query::acme(kv).unwrap() {
                    let tried = acme.tried_at.map_or("never".to_owned(), since);
                    lines.push(format!(
                        "{} {:?} account {} tries {} at {tried} {}",
                        acme.directory.url,
                        acme.directory.contacts,
                        yes_no(acme.credentials.is_some()),
                        acme.tries,
                        acme.why
                    ));
                }
                // No query lists them; the table of tables.rs does.
                for (key, _) in kv.scan(&[0x5a], &[], all).unwrap() {
                    let token = String::from_utf8_lossy(&key[1..]).into_owned();
                    let answer = query::acme_answer(kv, &token).unwrap().unwrap();
                    lines.push(format!("{token} is answered {answer}"));
                }
                if let Some((issued, at)) = query::ordered(kv).unwrap() {
                    let names = issued.names.join(" ");
                    lines.push(format!(
                        "issued by {} for {names} at {}",
                        issued.directory,
                        since(at)
                    ));
                }
                lines
            }
            ["now"] => vec![since(query::now(kv).unwrap())],
            // No query tells of marks or tokens; the tables of tables.rs do.
            ["marks"] => vec![kv.scan(&[0x33], &[], all).unwrap().len().to_string()],
            ["invitations"] => vec![kv.scan(&[0x12], &[], all).unwrap().len().to_string()],
            ["level"] => vec![query::level(kv).unwrap().to_string()],
            ["on", "duty"] => query::on_duty(kv)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect(),
            _ => panic!("no such question: {question}"),
        }
    }

    fn queue(&self, rows: Vec<Held>) -> Vec<String> {
        rows.into_iter()
            .map(|row| {
                let name = self.called(row.message);
                let Held {
                    seq,
                    pending,
                    attempts,
                    last_reply,
                    retry_at,
                    delay_told,
                    kept_back,
                    discard_at,
                    message: _,
                } = row;
                let mut line = format!("{seq} {name} {pending:?} attempts {attempts} {last_reply}");
                if let Some(at) = retry_at {
                    write!(line, " (again at {})", since(at)).unwrap();
                }
                if delay_told {
                    line.push_str(" (told)");
                }
                if kept_back {
                    line.push_str(" (kept back)");
                }
                if let Some(at) = discard_at {
                    write!(line, " (gone at {})", since(at)).unwrap();
                }
                line.trim_end().to_owned()
            })
            .collect()
    }
}

fn told(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".to_owned(),
        Reply::Accepted { seq } => format!("accepted {seq}"),
        Reply::Cancelled => "cancelled".to_owned(),
        Reply::AlreadyAccepted => "already accepted".to_owned(),
        Reply::Lease { epoch, until } => format!("lease {} until {}", Seq(*epoch), since(*until)),
        Reply::LeaseHeld { node, until } => format!("held by {node} until {}", since(*until)),
        Reply::Renewed { epochs } => {
            let epochs: Vec<_> = epochs.iter().map(|e| Seq(*e).to_string()).collect();
            format!("renewed [{}]", epochs.join(", "))
        }
        Reply::Member(node) => format!("member {node}"),
        Reply::Flushed { messages } => format!("flushed {messages}"),
        Reply::Swept { more } => format!("swept, more: {}", yes_no(*more)),
        Reply::Disposed { messages, more } => {
            format!("did {messages}, more: {}", yes_no(*more))
        }
        Reply::Refused(refusal) => format!("refused {refusal:?}"),
    }
}

/// All rows but the clock's.
fn state(kv: &MemoryKv) -> impl Iterator<Item = (&[u8], &[u8])> {
    kv.rows().filter(|(key, _)| *key != [0x01])
}

fn record_line(record: &query::DomainRecord) -> String {
    let query::DomainRecord {
        name,
        primary,
        created_at,
    } = record;
    format!(
        "{name} at {}:{}, since {}",
        primary.host,
        primary.port,
        since(*created_at)
    )
}

fn acme_change(verb: &str, rest: &[&str]) -> Option<AcmeChange> {
    let directory = |url: &str| url.to_owned();
    Some(match (verb, rest) {
        ("use", [url, contacts @ ..]) => AcmeChange::Use(AcmeDirectory {
            url: directory(url),
            contacts: contacts.iter().skip(1).map(|it| (*it).to_owned()).collect(),
            authorities: String::new(),
        }),
        ("stop", []) => AcmeChange::Stop,
        ("try", [tries]) => AcmeChange::Try {
            tries: tries.parse().ok()?,
        },
        ("failed", why) => AcmeChange::Failed { why: why.join(" ") },
        ("account", [url]) => AcmeChange::Account {
            directory: directory(url),
            credentials: vec![1],
        },
        ("answer", [token]) => AcmeChange::Answer {
            token: (*token).to_owned(),
            key_authorization: format!("{token}.key"),
        },
        ("issued", [url, names @ ..]) => AcmeChange::Issued(AcmeIssued {
            directory: directory(url),
            chain: "chain".to_owned(),
            key: "key".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }),
        _ => return None,
    })
}

fn account_change(words: &[&str]) -> Option<AccountChange> {
    let domains = |list: &str| list.split(',').map(domain).collect();
    Some(match words {
        ["add", password, "for", list] => AccountChange::Add {
            password: (*password).to_owned(),
            domains: domains(list),
        },
        ["remove"] => AccountChange::Remove,
        ["password", hash] => AccountChange::Password((*hash).to_owned()),
        ["codes", secret] => {
            AccountChange::SecondFactor((*secret != "off").then(|| secret.as_bytes().to_vec()))
        }
        ["domains", list] => AccountChange::Domains(domains(list)),
        ["signs", "out"] => AccountChange::SignOut,
        ["unlock"] => AccountChange::Unlock,
        ["signs", "in", rest @ ..] => {
            let (rest, from) = match rest {
                [rest @ .., "from", client] => (rest, *client),
                rest => (rest, "192.0.2.7"),
            };
            AccountChange::SignIn {
                good: rest != ["badly"],
                step: match rest {
                    ["code", step] => step.parse().ok()?,
                    _ => 0,
                },
                from: from.to_owned(),
            }
        }
        ["token", id, label, rest @ ..] => AccountChange::AddToken(AccessToken {
            id: padded(id),
            secret_hash: [1; 32],
            scopes: match rest {
                [] => Scopes::ALL,
                ["may", list] => Scopes::from_names(list.split(',')).ok()?,
                _ => return None,
            },
            label: (*label).to_owned(),
            expires_at: None,
        }),
        ["token", id] => AccountChange::RemoveToken(padded(id)),
        ["sends", recipients, bytes] => AccountChange::SendLimits {
            recipients: recipients.parse().ok()?,
            bytes: bytes.parse().ok()?,
        },
        _ => return None,
    })
}

fn change(options: &[&str]) -> PolicyChange {
    let mut change = PolicyChange::default();
    for option in options.chunks(2) {
        match *option {
            ["hold", "ever"] => change.hold_ms = Some(0),
            ["hold", time] => change.hold_ms = Some(millis(time)),
            ["delay", time] => change.delay_ms = Some(millis(time)),
            ["probation", "ever"] => change.probation_ms = Some(u64::MAX),
            ["probation", time] => change.probation_ms = Some(millis(time)),
            ["bytes", number] => change.quota_bytes = Some(number.parse().expect(number)),
            ["messages", number] => change.quota_messages = Some(number.parse().expect(number)),
            ["recipients", which] => {
                change.listed_only = Some(which == "listed");
                change.verify = Some(which == "verify");
            }
            ["yes", time] => change.yes_ms = Some(millis(time)),
            ["no", time] => change.no_ms = Some(millis(time)),
            ["attended", which] => change.attended = Some(which == "yes"),
            ["delimiter", "none"] => change.delimiter = Some(0),
            ["delimiter", text] => change.delimiter = text.chars().next().map(u32::from),
            ["full", how] => change.full_for_good = Some(how == "never"),
            ["probe", time] => change.probe_ms = Some(millis(time)),
            ["ping", which] => change.ping = Some(which == "yes"),
            _ => panic!("no such policy: {option:?}"),
        }
    }
    change
}

fn plan_change(mut options: &[&str]) -> PlanChange {
    let number = |text: &str| text.parse::<u64>().expect(text);
    let mut change = PlanChange::default();
    while !options.is_empty() {
        options = match options {
            ["price", currency, price, rest @ ..] => {
                change.currency = Some((*currency).to_owned());
                change.price = Some(number(price));
                rest
            }
            ["step", bytes, price, rest @ ..] => {
                change.step_bytes = Some(number(bytes));
                change.step_price = Some(number(price));
                rest
            }
            ["bytes", bytes, rest @ ..] => {
                change.quota_bytes = Some(number(bytes));
                rest
            }
            ["messages", messages, rest @ ..] => {
                change.quota_messages = Some(number(messages));
                rest
            }
            ["hosts", hosts, rest @ ..] => {
                change.mx_hosts = hosts.parse().ok();
                rest
            }
            ["hold", time, rest @ ..] => {
                change.hold_ms = Some(millis(time));
                rest
            }
            ["probe", time, rest @ ..] => {
                change.probe_ms = Some(millis(time));
                rest
            }
            ["ping", which, rest @ ..] => {
                change.ping = Some(*which == "yes");
                rest
            }
            ["full", how, rest @ ..] => {
                change.full_for_good = Some(*how == "never");
                rest
            }
            _ => panic!("no such offer: {options:?}"),
        };
    }
    change
}

fn usage_line(usage: &Usage) -> String {
    let amounts = [
        (usage.accepted, "in"),
        (usage.delivered, "delivered"),
        (usage.returned, "returned"),
        (usage.discarded, "discarded"),
    ];
    let mut line = usage.domain.to_string();
    for (Amount { messages, bytes }, word) in amounts {
        if messages > 0 {
            write!(line, " {word} {messages}/{bytes},").unwrap();
        }
    }
    let (peak, days) = (usage.peak_bytes, usage.byte_days);
    write!(line, " peak {peak}, {days} byte-days").unwrap();
    if let Some(bill) = &usage.bill {
        let (plan, steps) = (&bill.plan, bill.extra_steps);
        let (currency, amount) = (&bill.currency, bill.amount);
        write!(line, "; {plan} and {steps} steps: {currency} {amount}").unwrap();
    }
    line
}

fn bootstrap(first: Member, level: u32) -> Command {
    Command::Bootstrap {
        cluster_id: [7; 16],
        ca_certificate: b"certificate".to_vec(),
        ca_key: b"key".to_vec(),
        first,
        level,
    }
}

fn member(id: u64, name: &str) -> Member {
    Member {
        id: NodeId(id),
        name: name.to_owned(),
        region: "north".to_owned(),
        cluster_address: format!("{name}.example:7100"),
        smtp_name: format!("{name}.example"),
        smtp_address: format!("{name}.example:25"),
    }
}

fn domain(text: &str) -> Domain {
    Domain::parse(text).expect(text)
}

fn node(text: &str) -> NodeId {
    NodeId(text.parse().expect(text))
}

fn epoch(text: &str) -> u64 {
    let (index, position) = text.split_once('.').expect(text);
    Seq::new(index.parse().expect(text), position.parse().expect(text)).0
}

/// What follows the colon, parted by commas.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    let (_, list) = text.split_once(": ").expect(text);
    list.split(", ")
}

fn padded<const N: usize>(word: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..word.len()].copy_from_slice(word.as_bytes());
    bytes
}

/// A time from the scenario's start: `90s`, `-2h`.
fn at(text: &str) -> Timestamp {
    match text.strip_prefix('-') {
        Some(earlier) => Timestamp(START - millis(earlier)),
        None => Timestamp(START + millis(text)),
    }
}

fn millis(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => panic!("no such time: {text}"),
    };
    digits.parse::<u64>().expect(text) * unit
}

fn since(time: Timestamp) -> String {
    let millis = time.0 - START;
    if millis.is_multiple_of(1000) {
        format!("{}s", millis / 1000)
    } else {
        format!("{millis}ms")
    }
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn drill_kind(text: &str) -> DrillKind {
    match text {
        "leader-loss" => DrillKind::LeaderLoss,
        "node-loss" => DrillKind::NodeLoss,
        "region-loss" => DrillKind::RegionLoss,
        "partition" => DrillKind::Partition,
        "primary-outage" => DrillKind::PrimaryOutage,
        "disk-full" => DrillKind::DiskFull,
        _ => panic!("no such drill: {text}"),
    }
}
