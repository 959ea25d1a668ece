//! Replays `dialogues/server/*.txt` against a session.
//!
//! | line | meaning |
//! |---|---|
//! | `# …` | a comment |
//! | `option no-tls`, `submission`, `on-demand`, `secure` | before anything else |
//! | `whole` | before anything else: only played whole, because waiting is what it is about |
//! | `C: …` | the client sends this line and CRLF |
//! | `R: …` | the client sends exactly this; `\r \n \0 \t \\` and `\xHH` are understood |
//! | `X: count` | the client sends that many letters x |
//! | `S: …` | the server sends this line |
//! | `one write` | … and all its lines since the client last spoke in one write |
//! | `? …` / `A: code class.subject.detail text` | the session asks / is answered |
//! | `B: …` | content is handed out (since the last `B`) |
//! | `reset`, `tls`, `turn`, `closed` | the session says so; `tls` is granted |
//! | `timeout`, `shut down`, `handshake lost` | the shell says so |
//! | `timer …` | what is waited for now |
//!
//! `C*20:` is the same line twenty times, and so on for the others. What the client says in one
//! go, up to the next line of another kind than `?` and `A`, arrives whole, byte by byte, and cut
//! at every place: the outcome must be the same.

use std::collections::VecDeque;

use holdfast_smtp::limits::PIECE_BYTES;
use holdfast_smtp::reply::Reply;
use holdfast_smtp::request::Etrn;
use holdfast_smtp::server::{Options, Question, Service, Session, Step};

#[test]
fn every_dialogue_goes_as_written_however_the_bytes_are_cut() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/dialogues/server");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(
        files.len() > 30,
        "only {} dialogues were found",
        files.len()
    );
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let script = Script::read(&name, &std::fs::read_to_string(&path).unwrap());
        script.play(Cut::Whole);
        if script.only_whole {
            continue;
        }
        script.play(Cut::Bytes);
        for place in 1..script.longest() {
            script.play(Cut::At(place));
        }
    }
}

/// What a shell makes room for.
#[test]
fn no_piece_of_content_is_larger_than_it_may_be_wherever_its_lines_end() {
    for letters in PIECE_BYTES - 3..=PIECE_BYTES + 1 {
        let mut player = Player {
            session: Session::new(Options::new("mx.example", 1 << 20, false)),
            answers: [(); 4].map(|()| reply("250 2.0.0 ok")).into(),
            seen: Scene::default(),
            body: Vec::new(),
            writes: 0,
            closed: false,
        };
        let line = [&vec![b'x'; letters][..], b"\r\n"].concat();
        let said = "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n";
        for bytes in [said.as_bytes(), &line, b".\r\n"] {
            player.session.receive(bytes);
            player.run(&format!("{letters} letters"));
        }
        assert_eq!(player.body, line);
    }
}

/// What a script cannot say a hundred times.
#[test]
fn content_that_is_always_refused_ends_the_session() {
    let answers = ["250 2.1.0 ok", "250 2.1.5 ok", "451 4.3.2 no quorum"];
    let mut player = Player {
        session: Session::new(Options::new("mx.example", 1000, false)),
        answers: answers.repeat(100).into_iter().map(reply).collect(),
        seen: Scene::default(),
        body: Vec::new(),
        writes: 0,
        closed: false,
    };
    let mail = "MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n";
    player.session.receive(b"HELO c\r\n");
    player.run("HELO");
    for number in 0..=100 {
        assert!(!player.closed, "{number}");
        player.session.receive(mail.as_bytes());
        player.run(&format!("message {number}"));
    }
    assert!(player.closed && player.answers.is_empty());
}

/// What happened, or must happen, after one group of the client's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scene {
    client: Vec<u8>,
    server: Vec<String>,
    asks: Vec<String>,
    events: Vec<&'static str>,
    body: Option<Vec<u8>>,
    one_write: bool,
    shell: Option<String>,
    timer: Option<String>,
}

struct Script {
    name: String,
    options: Options,
    only_whole: bool,
    answers: VecDeque<Reply>,
    scenes: Vec<Scene>,
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Bytes,
    At(usize),
}

impl Script {
    fn read(name: &str, text: &str) -> Self {
        let mut script = Self {
            name: name.into(),
            options: Options::new("mx.holdfast.example", 1000, true),
            only_whole: false,
            answers: VecDeque::new(),
            scenes: vec![Scene::default()],
        };
        let mut client_speaks = false;
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (word, times) = match word.split_once('*') {
                Some((kind, times)) => {
                    let times = times.trim_end_matches(':').parse().unwrap();
                    (
                        if kind == "?" {
                            kind.into()
                        } else {
                            format!("{kind}:")
                        },
                        times,
                    )
                }
                None => (word.to_owned(), 1),
            };
            for _ in 0..times {
                let from_client = matches!(word.as_str(), "C:" | "R:" | "X:");
                let from_shell = matches!(line, "timeout" | "shut down" | "handshake lost");
                if (from_client && !client_speaks) || from_shell {
                    script.scenes.push(Scene::default());
                }
                client_speaks =
                    from_client || (client_speaks && matches!(word.as_str(), "?" | "A:"));
                let scene = script.scenes.last_mut().unwrap();
                match (word.as_str(), rest) {
                    ("C:", text) => scene.client.extend([text.as_bytes(), b"\r\n"].concat()),
                    ("R:", text) => scene.client.extend(unescape(text)),
                    ("X:", count) => scene.client.extend(vec![b'x'; count.parse().unwrap()]),
                    ("S:", text) => scene.server.push(text.into()),
                    ("?", text) => scene.asks.push(text.into()),
                    ("A:", text) => script.answers.push_back(reply(text)),
                    ("B:", text) => scene.body.get_or_insert_default().extend(unescape(text)),
                    ("reset", "") => scene.events.push("reset"),
                    ("tls", "") => scene.events.push("tls"),
                    ("closed", "") => scene.events.push("closed"),
                    ("turn", "") => scene.events.push("turn"),
                    ("one", "write") => scene.one_write = true,
                    ("timer", text) => scene.timer = Some(text.into()),
                    ("option", "no-tls") => script.options.tls = false,
                    ("option", "submission") => script.options.service = Service::Submission,
                    ("option", "on-demand") => script.options.service = Service::OnDemand,
                    ("option", "secure") => {
                        script.options.secure = true;
                        script.options.tls = false;
                    }
                    ("whole", "") => script.only_whole = true,
                    _ if from_shell => scene.shell = Some(line.into()),
                    _ => panic!("{name}: cannot read {line:?}"),
                }
            }
        }
        script
    }

    fn longest(&self) -> usize {
        self.scenes
            .iter()
            .map(|scene| scene.client.len())
            .max()
            .unwrap_or(0)
    }

    fn play(&self, cut: Cut) {
        let mut player = Player {
            session: Session::new(self.options.clone()),
            answers: self.answers.clone(),
            seen: Scene::default(),
            body: Vec::new(),
            writes: 0,
            closed: false,
        };
        for (number, scene) in self.scenes.iter().enumerate() {
            let context = format!("{}, scene {number}, {cut:?}", self.name);
            assert!(!player.closed, "{context}: nothing follows the end");
            match scene.shell.as_deref() {
                Some("timeout") => player.session.timed_out(),
                Some("shut down") => player.session.shut_down("going down"),
                Some(_) => player.session.receive(b"\x16\x03\x01"),
                None => {}
            }
            player.run(&context);
            for part in parts(&scene.client, cut) {
                player.session.receive(part);
                player.run(&context);
            }
            let seen = std::mem::take(&mut player.seen);
            let writes = std::mem::take(&mut player.writes);
            assert_eq!(seen.server, scene.server, "{context}");
            assert_eq!(seen.asks, scene.asks, "{context}");
            assert_eq!(seen.events, scene.events, "{context}");
            if let Some(body) = &scene.body {
                let body_seen = std::mem::take(&mut player.body);
                assert_eq!(
                    body_seen.escape_ascii().to_string(),
                    body.escape_ascii().to_string(),
                    "{context}"
                );
            }
            if scene.one_write && matches!(cut, Cut::Whole) {
                assert_eq!(writes, 1, "{context}");
            }
            if let Some(what) = &scene.timer {
                assert_eq!(player.session.timer().what, what, "{context}");
            }
        }
        assert!(
            player.body.is_empty(),
            "{}: content nobody asked for",
            self.name
        );
        assert_eq!(
            player.answers.len(),
            0,
            "{}: answers that were not asked for",
            self.name
        );
    }
}

fn parts(bytes: &[u8], cut: Cut) -> Vec<&[u8]> {
    match cut {
        Cut::Whole => vec![bytes],
        Cut::Bytes => bytes.chunks(1).collect(),
        Cut::At(place) if place < bytes.len() => vec![&bytes[..place], &bytes[place..]],
        Cut::At(_) => vec![bytes],
    }
}

struct Player {
    session: Session,
    answers: VecDeque<Reply>,
    seen: Scene,
    body: Vec<u8>,
    writes: usize,
    closed: bool,
}

impl Player {
    fn run(&mut self, context: &str) {
        let mut refused: VecDeque<Reply> = VecDeque::new();
        while !self.closed {
            match self.session.next() {
                Step::Write(bytes) => {
                    let text = String::from_utf8(bytes).unwrap();
                    assert!(text.ends_with("\r\n"), "{context}: {text:?}");
                    self.seen.server.extend(text.lines().map(String::from));
                    self.writes += 1;
                    for reply in refused.drain(..) {
                        let told = String::from_utf8(reply.to_bytes()).unwrap();
                        assert!(text.contains(&told), "{context}: {told:?} was not written");
                    }
                }
                Step::Ask(question) => {
                    self.seen.asks.push(describe(&question));
                    let answer = self.answers.pop_front();
                    self.session.answer(
                        answer.unwrap_or_else(|| panic!("{context}: no answer for {question:?}")),
                    );
                }
                Step::Body(bytes) => {
                    assert!(bytes.len() <= PIECE_BYTES, "{context}");
                    self.body.extend(bytes);
                }
                Step::Refused(reply) => {
                    assert!(reply.code >= 400, "{context}");
                    refused.push_back(reply);
                }
                Step::Reset => {
                    self.seen.events.push("reset");
                    self.body.clear();
                }
                Step::StartTls => {
                    self.seen.events.push("tls");
                    self.session.tls_started();
                }
                Step::NeedInput => break,
                Step::Close => {
                    self.seen.events.push("closed");
                    self.closed = true;
                }
                Step::Turn => {
                    self.seen.events.push("turn");
                    break;
                }
            }
        }
        assert!(
            refused.is_empty(),
            "{context}: refusals without a word: {refused:?}"
        );
    }
}

fn describe(question: &Question) -> String {
    match question {
        Question::Mail(mail) => {
            let mut text = format!("mail {}", mail.reverse_path);
            for (name, value) in [
                ("size", mail.size.map(|size| size.to_string())),
                ("ret", mail.ret.map(|ret| format!("{ret:?}"))),
                ("envid", mail.envid.clone()),
            ] {
                text.extend(value.map(|value| format!(" {name}={value}")));
            }
            if mail.smtputf8 {
                text.push_str(" utf8");
            }
            text
        }
        Question::Rcpt(recipient) => {
            let mut text = format!("rcpt {}", recipient.address);
            if let Some(notify) = recipient.notify {
                let flags = [
                    (notify.success, 's'),
                    (notify.failure, 'f'),
                    (notify.delay, 'd'),
                ];
                text.push_str(" notify=");
                text.extend(
                    flags
                        .iter()
                        .filter(|(set, _)| *set)
                        .map(|(_, letter)| letter),
                );
            }
            text.extend(
                recipient
                    .orcpt
                    .iter()
                    .map(|orcpt| format!(" orcpt={orcpt}")),
            );
            text
        }
        Question::Content => "content".into(),
        Question::Message => "message".into(),
        Question::Login(login) => format!("login {} {}", login.user, login.secret),
        Question::Atrn(domains) => {
            let names: Vec<_> = domains.iter().map(ToString::to_string).collect();
            format!("atrn {}", names.join(",")).trim_end().to_owned()
        }
        Question::Etrn(Etrn::Domain(domain)) => format!("etrn {domain}"),
        Question::Etrn(Etrn::Below(domain)) => format!("etrn below {domain}"),
        Question::Etrn(Etrn::Queue(queue)) => format!("etrn queue {queue}"),
    }
}

fn reply(text: &str) -> Reply {
    let mut words = text.splitn(3, ' ');
    let code = words.next().unwrap().parse().unwrap();
    let mut status = words
        .next()
        .unwrap()
        .split('.')
        .skip(1)
        .map(|number| number.parse().unwrap());
    Reply::new(
        code,
        status.next().unwrap(),
        status.next().unwrap(),
        words.next().unwrap(),
    )
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, byte == &b'\\') {
            (byte, false) => *byte,
            (_, true) => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let hex: String = rest
                        .by_ref()
                        .take(2)
                        .map(|digit| char::from(*digit))
                        .collect();
                    u8::from_str_radix(&hex, 16).unwrap()
                }
                other => panic!("unknown escape {other:?}"),
            },
        });
    }
    bytes
}
