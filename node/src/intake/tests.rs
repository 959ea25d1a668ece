//! Port 25 of a cluster of one, over real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_ledger::{Askers, Command, Member, Primary, Reply as LedgerReply, level, query};
use holdfast_mail::{BodyType, Domain, Envelope, Network, NodeId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;
use crate::config::WanProfile;
use crate::net::dns::Memory;
use crate::net::{connect, tls};
use crate::replica;

struct House {
    cluster: Cluster,
    options: Arc<ArcSwap<Options>>,
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    intake: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn any_port() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

impl House {
    async fn open() -> Self {
        Self::open_at(level::NEWEST).await
    }

    /// In a cluster that an older version began.
    async fn open_at(feature_level: u32) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let dir = tempfile::tempdir().unwrap();
        let cluster_listener = any_port();
        let member = Member {
            id: NodeId(0),
            name: format!("n{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            region: "here".into(),
            cluster_address: cluster_listener.address().unwrap().to_string(),
            smtp_name: "mx.holdfast.example".into(),
            smtp_address: "127.0.0.1:25".into(),
        };
        let options = replica::Options {
            data_dir: dir.path().to_owned(),
            member,
            profile: WanProfile::Lan,
            snapshot_every: crate::config::SNAPSHOT_EVERY,
            disk_free_min: 0,
            fatal: Arc::new(|why| panic!("{why}")),
            flush_times: crate::store::FlushTimes::default(),
        };
        let (identity, mut bootstrap) = replica::found(&options.member).unwrap();
        if let Command::Bootstrap { level, .. } = &mut bootstrap {
            *level = feature_level;
        }
        let stores = replica::create(&options, identity).await.unwrap();
        let cluster = replica::start(options, stores, cluster_listener, Some(bootstrap))
            .await
            .unwrap();
        let listener = any_port();
        let address = listener.address().unwrap();
        let options = Arc::new(ArcSwap::from_pointee(Options {
            name: "mx.holdfast.example".into(),
            postmaster: None,
            message_bytes_max: 4 << 20,
            connections_max: 10,
            connections_per_client_max: 3,
            tls: tls::smtp_server(tls::Identity::self_signed("mx.holdfast.example").unwrap())
                .unwrap(),
        }));
        let (stop, mut stopped) = watch::channel(false);
        let intake = tokio::spawn(run(
            options.clone(),
            super::House {
                cluster: cluster.clone(),
                release: Arc::default(),
                resolver: Resolver::new(&[], Memory::Kept).unwrap(),
                doorkeeper: Arc::default(),
                metrics: Metrics::default(),
            },
            vec![(Door::Exchange, listener)],
            async move {
                let _sender_gone = stopped.wait_for(|stop| *stop).await;
            },
        ));
        let house = Self {
            cluster,
            options,
            address,
            stop,
            intake,
            _dir: dir,
        };
        house.configure("foo.example").await;
        house
    }

    fn set(&self, change: impl FnOnce(&mut Options)) {
        let mut options = Options::clone(&self.options.load());
        change(&mut options);
        self.options.store(Arc::new(options));
    }

    async fn configure(&self, domain: &str) {
        let command = Command::SetDomain {
            domain: Domain::parse(domain).unwrap(),
            primary: Primary {
                host: "127.0.0.1".into(),
                port: 1,
            },
            must_be_new: false,
            must_exist: false,
        };
        self.propose(command).await;
    }

    async fn propose(&self, command: Command) {
        let deadline = Instant::now() + Duration::from_secs(20);
        assert_eq!(
            self.cluster.propose(command, deadline).await.unwrap(),
            LedgerReply::Done
        );
    }

    fn held(&self, domain: &str) -> Vec<query::Held> {
        query::held(
            &self.cluster.view(),
            &Domain::parse(domain).unwrap(),
            None,
            100,
        )
        .unwrap()
    }

    /// Of the message that the reply was given for.
    fn envelope(&self, reply: &str) -> Envelope {
        let id = reply.split(' ').nth(3).unwrap().parse().unwrap();
        query::envelope(&self.cluster.view(), id).unwrap().unwrap()
    }

    async fn guest(&self) -> Client {
        let stream = connect::tcp(self.address, Duration::from_secs(5))
            .await
            .unwrap();
        let mut client = Client(stream);
        assert_eq!(
            client.hear().await,
            "220 mx.holdfast.example ESMTP Holdfast"
        );
        assert!(client.ask("EHLO c.example").await.starts_with("250"));
        client
    }

    async fn close(self) {
        self.stop.send_replace(true);
        self.intake.await.unwrap();
        self.cluster.stop().await;
    }
}

struct Client(TcpStream);

impl Client {
    /// The last line of a reply; empty at the end of the connection.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        let mut byte = [0];
        while self.0.read(&mut byte).await.unwrap() > 0 {
            line.push(char::from(byte[0]));
            if line.ends_with("\r\n") {
                if line.as_bytes()[3] == b' ' {
                    return line.trim_end().to_owned();
                }
                line.clear();
            }
        }
        line
    }

    async fn ask(&mut self, line: &str) -> String {
        self.0
            .write_all(format!("{line}\r\n").as_bytes())
            .await
            .unwrap();
        self.hear().await
    }

    async fn send(&mut self, recipients: &[&str], content: &str) -> String {
        assert_eq!(
            self.ask("MAIL FROM:<joe@sender.example>").await,
            "250 2.1.0 Ok"
        );
        for recipient in recipients {
            let reply = self.ask(&format!("RCPT TO:<{recipient}>")).await;
            assert_eq!(reply, "250 2.1.5 Ok", "{recipient}");
        }
        assert!(self.ask("DATA").await.starts_with("354"));
        self.ask(&format!("{content}.")).await
    }
}

#[test]
fn whoever_fills_one_door_does_not_keep_others_out_of_the_other() {
    let client: IpAddr = "192.0.2.1".parse().unwrap();
    let doors = [Door::Exchange, Door::Submission { tls: true }];
    for (has_both_doors, expected) in [(true, [8, 2]), (false, [10, 10])] {
        let hall = Hall {
            strangers: Guests::default(),
            customers: Guests::default(),
            has_both_doors,
        };
        let took = doors.map(|door| {
            let entered = (0..20).map(|_| hall.enter(door, client, (10, 10)));
            entered.filter_map(Result::ok).collect::<Vec<_>>()
        });
        // What one door took is still taken while the other is filled.
        assert_eq!(took.map(|guests| guests.len()), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_250_is_held_byte_for_byte_behind_our_trace_line() {
    let house = House::open().await;
    let mut client = house.guest().await;
    let content = format!(
        "Subject: hi\r\n\r\n..dots\r\n{}",
        "a line\r\n".repeat(200_000)
    );
    for (number, recipients) in [&["a@foo.example"][..], &["a@foo.example", "b@FOO.example"]]
        .into_iter()
        .enumerate()
    {
        let reply = client.send(recipients, &content).await;
        let (head, tail) = (
            reply.split(' ').take(3).collect::<Vec<_>>().join(" "),
            reply.ends_with("held on 1 of 1 nodes"),
        );
        assert!(head == "250 2.0.0 Ok:" && tail, "{reply}");
        let id = reply.split(' ').nth(3).unwrap().parse().unwrap();
        let held = house.held("foo.example");
        assert_eq!(held.len(), number + 1);
        assert_eq!(held[number].message, id);
        let envelope = query::envelope(&house.cluster.view(), id).unwrap().unwrap();
        assert_eq!(envelope.recipients.len(), recipients.len());
        assert_eq!(envelope.reverse_path.to_string(), "<joe@sender.example>");
        let mut reader = house.cluster.bodies().read(&envelope.body).await.unwrap();
        let mut body = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        let body = String::from_utf8(body).unwrap();
        let (trace, rest) = body.split_at(body.len() - content.len() + 1);
        assert_eq!(rest, content.replacen("..dots", ".dots", 1));
        assert!(
            trace.starts_with(
                "Received: from c.example ([127.0.0.1])\r\n\tby mx.holdfast.example with ESMTP id "
            ),
            "{trace}"
        );
        // RFC 5321 section 7.6: one recipient must not learn of another.
        assert_eq!(
            trace.contains("for <a@foo.example>"),
            recipients.len() == 1,
            "{trace}"
        );
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_relays_through_us_whatever_the_address_looks_like() {
    let house = House::open().await;
    let mut client = house.guest().await;
    client.ask("MAIL FROM:<joe@sender.example>").await;
    for recipient in [
        "<a@elsewhere.example>",
        "<@foo.example:a@elsewhere.example>",
        "<@mx.holdfast.example,@foo.example:a@elsewhere.example>",
        "<a%elsewhere.example@foo.example>",
        "<elsewhere.example!a@foo.example>",
        "<\"a@elsewhere.example\"@foo.example>",
        "<a@[127.0.0.1]>",
        "<a@[IPv6:::1]>",
        "<a@sub.foo.example>",
        "<a@foo.example.elsewhere.example>",
        "<a@mx.holdfast.example>",
        "<postmaster>",
    ] {
        let reply = client.ask(&format!("RCPT TO:{recipient}")).await;
        assert!(reply.starts_with("550 5."), "{recipient}: {reply}");
    }
    assert_eq!(client.ask("DATA").await, "554 5.5.1 no valid recipients");
    assert_eq!(house.held("foo.example").len(), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmaster_without_a_domain_is_the_operators_mailbox_once_it_is_set() {
    let house = House::open().await;
    let mut early = house.guest().await;
    house.set(|options| options.postmaster = Address::parse("ops@foo.example", false).ok());
    let mut client = house.guest().await;
    for recipient in ["postmaster", "PostMaster", "postmaster@mx.holdfast.example"] {
        let reply = client.send(&[recipient], "x\r\n").await;
        assert!(reply.starts_with("250 "), "{recipient}: {reply}");
    }
    let held = house.held("foo.example");
    assert_eq!(held.len(), 3);
    for row in held {
        let envelope = query::envelope(&house.cluster.view(), row.message).unwrap();
        let recipients = envelope.unwrap().recipients;
        assert_eq!(recipients[0].address.as_str(), "ops@foo.example");
    }
    // A session keeps what was in force when it began.
    early.ask("MAIL FROM:<>").await;
    let reply = early.ask("RCPT TO:<postmaster>").await;
    assert!(reply.starts_with("550 5.1.1"), "{reply}");
    house.close().await;
}

/// Or senders whose messages do not end would fill what is kept for the log, on every node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_gets_nearly_full_takes_no_more_of_a_message_that_has_begun() {
    let house = House::open().await;
    let mut client = house.guest().await;
    client.ask("MAIL FROM:<a@b.example>").await;
    client.ask("RCPT TO:<a@foo.example>").await;
    assert!(client.ask("DATA").await.starts_with("354"));
    house.cluster.set_disk_free_min(u64::MAX);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !house.cluster.disk_low() {
        assert!(Instant::now() < deadline, "the disk is never looked at");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reply = client.ask("x\r\n.").await;
    assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    assert_eq!(house.held("foo.example").len(), 0);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_nearly_full_refuses_at_mail_until_there_is_room() {
    let house = House::open().await;
    let mut client = house.guest().await;
    house.cluster.set_disk_free_min(u64::MAX);
    let deadline = Instant::now() + Duration::from_secs(30);
    let full =
        "452 4.3.1 not enough disk space; please try again later or another of our mail exchangers";
    while client.ask("MAIL FROM:<a@b.example>").await != full {
        assert!(Instant::now() < deadline, "the disk is never looked at");
        assert!(client.ask("RSET").await.starts_with("250"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    house.cluster.set_disk_free_min(0);
    while client.ask("MAIL FROM:<a@b.example>").await == full {
        assert!(Instant::now() < deadline, "room is never noticed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(client.ask("RSET").await.starts_with("250"));
    let reply = client.send(&["a@foo.example"], "x\r\n").await;
    assert!(reply.starts_with("250 "), "{reply}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_goes_round_is_refused() {
    let house = House::open().await;
    let mut client = house.guest().await;
    let hop = "Received: from a by b.example; now\r\n";
    let ours = "Received: from a\r\n\tby mx.holdfast.example; now\r\n";
    for (header, refused) in [
        (hop.repeat(100), false),
        (hop.repeat(101), true),
        (ours.repeat(4), false),
        (ours.repeat(5), true),
        (format!("Subject: x\r\n\r\n{}", ours.repeat(5)), false),
    ] {
        let reply = client.send(&["a@foo.example"], &header).await;
        assert_eq!(reply.starts_with("554 5.4.6 "), refused, "{reply}");
        assert_eq!(reply.starts_with("250 "), !refused, "{reply}");
    }
    assert_eq!(house.held("foo.example").len(), 3);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etrn_tells_the_truth_and_starts_a_domain_once_in_a_while() {
    let house = House::open().await;
    house.configure("sub.bar.example").await;
    let mut client = house.guest().await;
    assert_eq!(
        client.ask("ETRN elsewhere.example").await,
        "459 4.7.1 node elsewhere.example not allowed: this server delivers it for nobody at your address"
    );
    // A name that is no domain of ours would start everybody's below it.
    assert_eq!(
        client.ask("ETRN @example").await,
        "459 4.7.1 node @example not allowed: this server delivers it for nobody at your address"
    );
    house.configure("bar.example").await;
    assert_eq!(
        client.ask("ETRN @bar.example").await.split(' ').next(),
        Some("251")
    );
    assert_eq!(
        client.ask("ETRN #sub.bar.example").await,
        "251 2.0.0 OK, no messages waiting for node sub.bar.example"
    );
    // One's own, another's and nobody's are answered alike.
    house
        .propose(Command::SetAskers {
            domain: Domain::parse("sub.bar.example").unwrap(),
            askers: Askers::Networks(vec![Network::parse("192.0.2.0/24").unwrap()]),
        })
        .await;
    assert_eq!(
        client.ask("ETRN sub.bar.example").await,
        "459 4.7.1 node sub.bar.example not allowed: this server delivers it for nobody at your address"
    );
    client.send(&["a@foo.example"], "x\r\n").await;
    client
        .send(&["a@foo.example", "b@foo.example"], "x\r\n")
        .await;
    assert_eq!(
        client.ask("ETRN foo.example").await,
        "253 2.0.0 OK, 2 pending messages for node foo.example started"
    );
    // It was started a moment ago.
    assert_eq!(
        client.ask("ETRN @foo.example").await,
        "252 2.0.0 OK, pending messages for node @foo.example started"
    );
    for _ in 0..25 {
        client.ask("ETRN foo.example").await;
    }
    assert_eq!(
        client.ask("ETRN foo.example").await,
        "458 4.3.2 unable to queue messages for node foo.example: you ask too often"
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etrn_counts_nothing_where_not_all_is_started() {
    let house = House::open().await;
    house.configure("many.example").await;
    for number in 0..100 {
        house.configure(&format!("d{number}.many.example")).await;
    }
    let mut client = house.guest().await;
    assert_eq!(
        client.ask("ETRN @many.example").await,
        "250 2.0.0 OK, queuing for node @many.example started"
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_too_many_is_told_421_and_a_stop_says_goodbye() {
    let house = House::open().await;
    let mut guests = Vec::new();
    for _ in 0..3 {
        guests.push(house.guest().await);
    }
    let mut fourth = Client(
        connect::tcp(house.address, Duration::from_secs(5))
            .await
            .unwrap(),
    );
    assert!(
        fourth
            .hear()
            .await
            .starts_with("421 4.7.0 too many connections from your address")
    );
    drop(guests.pop());
    house.stop.send_replace(true);
    for guest in &mut guests {
        assert!(guest.hear().await.starts_with("421 4.3.2 "));
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_with_held_mail_is_known_by_its_address() {
    let house = House::open().await;
    for (domain, host) in [
        ("held.example", "127.0.0.9"),
        ("empty.example", "127.0.0.8"),
    ] {
        house
            .propose(Command::SetDomain {
                domain: Domain::parse(domain).unwrap(),
                primary: Primary {
                    host: host.into(),
                    port: 1,
                },
                must_be_new: true,
                must_exist: false,
            })
            .await;
    }
    let mut client = house.guest().await;
    client
        .send(&["a@held.example", "a@foo.example"], "x\r\n")
        .await;
    let primaries = Primaries::default();
    let keeping = primaries.clone();
    let keeping = keeping.keep(
        house.cluster.clone(),
        Resolver::new(&[], Memory::Kept).unwrap(),
    );
    let keeping = tokio::spawn(keeping);
    let at = |text: &str| primaries.at(text.parse().unwrap());
    while at("127.0.0.9").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        at("::ffff:127.0.0.9"),
        [Domain::parse("held.example").unwrap()]
    );
    assert_eq!(at("127.0.0.8"), []);
    // Its primary is on loopback, from where every program here connects.
    assert_eq!(at("127.0.0.1"), []);
    keeping.abort();
    house.close().await;
}

/// A primary without 8BITMIME or SMTPUTF8 never gets what needs them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_announced_and_did_not_come_is_not_kept() {
    let house = House::open().await;
    let mut client = house.guest().await;
    let both = "BODY=8BITMIME SMTPUTF8";
    for (parameters, to, content, expected) in [
        (both, "a", "x", (BodyType::SevenBit, false)),
        (both, "a", "\u{fc}", (BodyType::EightBitMime, true)),
        ("BODY=8BITMIME", "a", "x", (BodyType::SevenBit, false)),
        (
            "BODY=8BITMIME",
            "a",
            "\u{fc}",
            (BodyType::EightBitMime, false),
        ),
        // It is in our trace line, too.
        (both, "\u{fc}", "x", (BodyType::EightBitMime, true)),
        // What was not announced, is not added.
        ("", "a", "\u{fc}", (BodyType::SevenBit, false)),
    ] {
        let what = format!("{parameters} {to} {content}");
        let mail = format!("MAIL FROM:<joe@sender.example> {parameters}");
        assert_eq!(client.ask(mail.trim_end()).await, "250 2.1.0 Ok", "{what}");
        let orcpt = match parameters == both {
            true => " ORCPT=utf-8;\u{fc}@foo.example",
            false => "",
        };
        let rcpt = format!("RCPT TO:<{to}@foo.example>{orcpt}");
        assert_eq!(client.ask(&rcpt).await, "250 2.1.5 Ok", "{what}");
        assert!(client.ask("DATA").await.starts_with("354"), "{what}");
        let reply = client
            .ask(&format!("Subject: x\r\n\r\n{content}\r\n."))
            .await;
        assert!(reply.starts_with("250 "), "{what}: {reply}");
        let envelope = house.envelope(&reply);
        assert_eq!((envelope.body_type, envelope.smtputf8), expected, "{what}");
        assert_eq!(envelope.recipients[0].orcpt.is_some(), parameters == both);
    }
    house.close().await;
}

/// VERP and SRS, and dots where RFC 5321 has none: versions before read them nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_older_nodes_cannot_read_wait_until_there_are_none() {
    let house = House::open_at(level::LOOSE_ADDRESSES - 1).await;
    let mut client = house.guest().await;
    let long = format!("bounce+{}@sender.example", "a".repeat(64));
    let wait = "451 4.3.0 our servers are being upgraded and cannot take this address yet; please try again later";
    let mut ask = async |command: String| client.ask(&command).await;
    for from in [&*long, "joe.@sender.example"] {
        assert_eq!(ask(format!("MAIL FROM:<{from}>")).await, wait);
    }
    let strict = ask("MAIL FROM:<joe@sender.example>".to_owned()).await;
    assert_eq!(strict, "250 2.1.0 Ok");
    assert_eq!(ask("RCPT TO:<a..b@foo.example>".to_owned()).await, wait);

    house
        .propose(Command::RaiseLevel {
            level: level::LOOSE_ADDRESSES,
            members: vec![NodeId(1)],
        })
        .await;
    let rcpt = ask("RCPT TO:<a..b@foo.example>".to_owned()).await;
    assert_eq!(rcpt, "250 2.1.5 Ok");
    ask("RSET".to_owned()).await;
    assert_eq!(ask(format!("MAIL FROM:<{long}>")).await, "250 2.1.0 Ok");
    let rcpt = ask("RCPT TO:<a..b@foo.example>".to_owned()).await;
    assert_eq!(rcpt, "250 2.1.5 Ok");
    assert!(ask("DATA".to_owned()).await.starts_with("354"));
    let reply = ask("x\r\n.".to_owned()).await;
    assert!(reply.starts_with("250 "), "{reply}");
    let envelope = house.envelope(&reply);
    assert_eq!(envelope.reverse_path.as_str(), long);
    assert_eq!(envelope.recipients[0].address.as_str(), "a..b@foo.example");
    house.close().await;
}

/// Answers RCPT by what is in the table; a name that is not there gets 550. Counts the questions.
async fn scripted_primary(
    answers: &'static [(&'static str, &'static str)],
) -> (u16, Arc<AtomicUsize>) {
    let listener = any_port();
    let port = listener.address().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await;
            let mut session = tokio::io::BufReader::new(stream);
            let mut answer = "220 primary.example";
            let mut line = String::new();
            while session
                .write_all(format!("{answer}\r\n").as_bytes())
                .await
                .is_ok()
                && session.read_line(&mut line).await.is_ok_and(|len| len > 0)
            {
                answer = "250 ok";
                if line.starts_with("EHLO") {
                    answer = "250-primary.example\r\n250 SMTPUTF8";
                } else if line.starts_with("RCPT") {
                    count.fetch_add(1, Ordering::Relaxed);
                    let found = answers.iter().find(|(name, _)| line.contains(name));
                    answer = found.map_or("550 5.1.1 no such user", |(_, answer)| answer);
                }
                line.clear();
            }
        }
    });
    (port, asked)
}

#[tokio::test]
async fn a_primary_is_asked_once_about_a_recipient_and_known_ones_are_taken_when_it_is_down() {
    let house = House::open().await;
    let (port, asked) =
        scripted_primary(&[("<joe@", "250 ok"), ("<grey@", "450 4.2.0 later")]).await;
    let domain = Domain::parse("foo.example").unwrap();
    let primary = |port| Command::SetDomain {
        domain: domain.clone(),
        primary: Primary {
            host: "127.0.0.1".into(),
            port,
        },
        must_be_new: false,
        must_exist: true,
    };
    house.propose(primary(port)).await;
    let change = holdfast_ledger::PolicyChange {
        verify: Some(true),
        yes_ms: Some(1),
        ..holdfast_ledger::PolicyChange::default()
    };
    let (name, keep_a_day) = (domain.clone(), Some(24 * 3_600_000));
    house
        .propose(Command::SetPolicy {
            domain: name,
            change: holdfast_ledger::PolicyChange {
                yes_ms: keep_a_day,
                ..change
            },
        })
        .await;
    let mut client = house.guest().await;
    assert!(
        client
            .ask("MAIL FROM:<a@b.example>")
            .await
            .starts_with("250")
    );
    for (name, answer) in [
        ("joe", "250"),
        ("JOE", "250"),
        ("ann", "550 5.1.1"),
        ("ann", "550 5.1.1"),
        ("grey", "451 4.4.1"),
        ("postmaster", "250"),
    ] {
        let reply = client.ask(&format!("RCPT TO:<{name}@foo.example>")).await;
        assert!(reply.starts_with(answer), "{name}: {reply}");
    }
    // Joe, a name that nobody has, Ann, and the one it did not tell about.
    assert_eq!(asked.load(Ordering::Relaxed), 4);
    let known = query::knowns(&house.cluster.view(), &domain, None, 10).unwrap();
    let known: Vec<_> = known.iter().map(|(n, k)| (n.as_str(), k.takes)).collect();
    assert_eq!(known, [("ann", false), ("joe", true)]);

    // The primary is gone, and what it said is to be asked again.
    house.propose(primary(1)).await;
    let domain = domain.clone();
    house.propose(Command::SetPolicy { domain, change }).await;
    for (name, answer) in [("joe", "250"), ("ann", "451 4.4.1")] {
        let reply = client.ask(&format!("RCPT TO:<{name}@foo.example>")).await;
        assert!(reply.starts_with(answer), "{name}: {reply}");
    }
    house.close().await;
}

/// A stranger who writes a recipient's name as only they do could have its mail refused everywhere.
#[tokio::test]
async fn what_a_primary_says_of_one_spelling_is_no_word_about_another() {
    let house = House::open().await;
    let (port, _) = scripted_primary(&[("<karl@", "250 ok")]).await;
    let domain = Domain::parse("foo.example").unwrap();
    let commands = [
        Command::SetDomain {
            domain: domain.clone(),
            primary: Primary {
                host: "127.0.0.1".into(),
                port,
            },
            must_be_new: false,
            must_exist: true,
        },
        Command::SetPolicy {
            domain: domain.clone(),
            change: holdfast_ledger::PolicyChange {
                verify: Some(true),
                ..holdfast_ledger::PolicyChange::default()
            },
        },
    ];
    for command in commands {
        house.propose(command).await;
    }
    let mut client = house.guest().await;
    let reply = client.ask("MAIL FROM:<a@b.example> SMTPUTF8").await;
    assert!(reply.starts_with("250"), "{reply}");
    // With KELVIN SIGN, which is a `k` in lower case.
    for (name, answer) in [
        ("\u{212a}arl", "550 5.1.1"),
        ("KARL", "550 5.1.1"),
        ("karl", "250"),
    ] {
        let reply = client.ask(&format!("RCPT TO:<{name}@foo.example>")).await;
        assert!(reply.starts_with(answer), "{name}: {reply}");
    }
    let known = query::knowns(&house.cluster.view(), &domain, None, 10).unwrap();
    let known: Vec<_> = known.iter().map(|(n, k)| (n.as_str(), k.takes)).collect();
    assert_eq!(known, [("karl", true)]);
    house.close().await;
}

#[tokio::test]
async fn a_message_that_no_domain_could_ever_take_is_refused_at_mail() {
    let house = House::open().await;
    let quota = |name: &str, bytes: u64| Command::SetPolicy {
        domain: Domain::parse(name).unwrap(),
        change: holdfast_ledger::PolicyChange {
            quota_bytes: Some(bytes),
            ..holdfast_ledger::PolicyChange::default()
        },
    };
    let mut client = house.guest().await;
    let mut mail = async |size: u64| {
        let command = format!("MAIL FROM:<a@b.example> SIZE={size}");
        let reply = client.ask(&command).await;
        client.ask("RSET").await;
        reply
    };
    assert!(mail(3_000).await.starts_with("250"), "there is no quota");
    house.propose(quota("foo.example", 1_000)).await;
    assert!(mail(1_000).await.starts_with("250"), "it may have room");
    assert!(mail(1_001).await.starts_with("552 5.3.4"));

    // Whose it is, is not known yet.
    house.configure("large.example").await;
    house.propose(quota("large.example", 2_000)).await;
    assert!(mail(2_000).await.starts_with("250"), "it may be for them");
    assert!(mail(2_001).await.starts_with("552 5.3.4"));

    // More domains than are looked at.
    for number in 0..63 {
        let name = format!("d{number}.example");
        house.configure(&name).await;
        house.propose(quota(&name, 1_000)).await;
    }
    assert!(mail(2_001).await.starts_with("250"), "nothing is said yet");
    let command = "MAIL FROM:<a@b.example> SIZE=2001";
    assert!(client.ask(command).await.starts_with("250"));
    let reply = client.ask("RCPT TO:<joe@foo.example>").await;
    assert!(reply.starts_with("552 5.2.2"), "{reply}");
    house.close().await;
}

#[tokio::test]
async fn a_primary_that_takes_everybody_is_asked_once() {
    let house = House::open().await;
    let (port, asked) = scripted_primary(&[("@", "250 ok")]).await;
    let domain = Domain::parse("foo.example").unwrap();
    house
        .propose(Command::SetDomain {
            domain: domain.clone(),
            primary: Primary {
                host: "127.0.0.1".into(),
                port,
            },
            must_be_new: false,
            must_exist: true,
        })
        .await;
    let change = holdfast_ledger::PolicyChange {
        verify: Some(true),
        ..holdfast_ledger::PolicyChange::default()
    };
    let name = domain.clone();
    house
        .propose(Command::SetPolicy {
            domain: name,
            change,
        })
        .await;
    let mut client = house.guest().await;
    assert!(
        client
            .ask("MAIL FROM:<a@b.example>")
            .await
            .starts_with("250")
    );
    for name in ["joe", "ann", "nobody"] {
        let reply = client.ask(&format!("RCPT TO:<{name}@foo.example>")).await;
        assert!(reply.starts_with("250"), "{name}: {reply}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let view = house.cluster.view();
    assert!(query::known(&view, &domain, "").unwrap().unwrap().takes);
    assert_eq!(query::knowns(&view, &domain, None, 10).unwrap(), []);
    house.close().await;
}
