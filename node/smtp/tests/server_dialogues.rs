//! Plays the dialogues in `dialogues/server/*.txt` against a session, whole, byte by byte and in
//! pieces: the outcome must be the same.
//!
//! ```text
//! C: line          the client sends the line and CRLF
//! R: text          the client sends the text (\r \n \0 \\ are understood)
//! X: count         the client sends that many letters x
//! S: line          the server sends the line
//! B: text          content is handed out (since the last B)
//! ? what           the session asks; the next line answers
//! A: code status text
//! reset, tls, closed
//! whole            (at the top) only played whole: waiting is what it is about
//! ```

use holdfast_smtp::reply::Reply;
use holdfast_smtp::server::{Options, Question, Session, Step};

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Server(String),
    Ask(String),
    Reset,
    Tls,
    Closed,
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            bytes.push(match chars.next() {
                Some('r') => b'\r',
                Some('n') => b'\n',
                Some('0') => 0,
                Some('\\') => b'\\',
                other => panic!("unknown escape {other:?}"),
            });
        } else {
            bytes.extend_from_slice(c.to_string().as_bytes());
        }
    }
    bytes
}

fn reply(text: &str) -> Reply {
    let (code, rest) = text.split_once(' ').unwrap();
    let (status, text) = rest.split_once(' ').unwrap();
    let mut numbers = status.split('.').skip(1).map(|n| n.parse().unwrap());
    Reply::new(
        code.parse().unwrap(),
        numbers.next().unwrap(),
        numbers.next().unwrap(),
        text,
    )
}

fn describe(question: &Question) -> String {
    match question {
        Question::Mail(mail) => format!("mail {}", mail.reverse_path),
        Question::Rcpt(recipient) => format!("rcpt {}", recipient.address),
        Question::Content => "content".into(),
        Question::Message => "message".into(),
        Question::Etrn(_) => "etrn".into(),
    }
}

/// What the session does with `input` in pieces of `cut`, until it needs more.
struct Played {
    session: Session,
    events: Vec<Event>,
    body: Vec<u8>,
    answers: Vec<Reply>,
}

impl Played {
    fn run(&mut self) {
        loop {
            match self.session.next() {
                Step::Write(bytes) => {
                    let text = String::from_utf8(bytes).unwrap();
                    assert!(text.ends_with("\r\n"), "{text:?}");
                    self.events
                        .extend(text.lines().map(|line| Event::Server(line.into())));
                }
                Step::Ask(question) => {
                    self.events.push(Event::Ask(describe(&question)));
                    if self.answers.is_empty() {
                        panic!("no answer for {question:?}");
                    }
                    self.session.answer(self.answers.remove(0));
                }
                Step::Body(bytes) => self.body.extend(bytes),
                Step::Reset => self.events.push(Event::Reset),
                Step::StartTls => {
                    self.events.push(Event::Tls);
                    self.session.tls_started();
                }
                Step::NeedInput => return,
                Step::Close => {
                    if self.events.last() != Some(&Event::Closed) {
                        self.events.push(Event::Closed);
                    }
                    return;
                }
            }
        }
    }
}

fn play(name: &str, text: &str, cut: usize) {
    let options = Options {
        name: "mx.holdfast.example".into(),
        message_bytes_max: 1000,
        tls: true,
    };
    let mut input: Vec<Vec<u8>> = Vec::new();
    let mut expected = Vec::new();
    let mut content = Vec::new();
    let mut answers = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && *line != "whole")
    {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("C:", text) => input.push([text.as_bytes(), b"\r\n"].concat()),
            ("R:", text) => input.push(unescape(text)),
            ("X:", count) => input.push(vec![b'x'; count.parse().unwrap()]),
            ("S:", text) => expected.push(Event::Server(text.into())),
            ("?", what) => expected.push(Event::Ask(what.into())),
            ("A:", text) => answers.push(reply(text)),
            ("B:", text) => content.extend(unescape(text)),
            ("reset", _) => expected.push(Event::Reset),
            ("tls", _) => expected.push(Event::Tls),
            ("closed", _) => expected.push(Event::Closed),
            _ => panic!("{name}: cannot read {line:?}"),
        }
    }
    let mut played = Played {
        session: Session::new(options),
        events: Vec::new(),
        body: Vec::new(),
        answers,
    };
    played.run();
    for sent in input {
        for part in sent.chunks(cut) {
            played.session.receive(part);
            played.run();
        }
    }
    // Replies and questions of one group may interleave differently when the bytes trickle in;
    // each kind keeps its order.
    let of = |events: &[Event], asks: bool| -> Vec<String> {
        events
            .iter()
            .filter(|event| matches!(event, Event::Ask(_)) == asks)
            .map(|event| format!("{event:?}"))
            .collect()
    };
    assert_eq!(
        of(&played.events, false),
        of(&expected, false),
        "{name}, pieces of {cut}"
    );
    assert_eq!(
        of(&played.events, true),
        of(&expected, true),
        "{name}, pieces of {cut}"
    );
    assert_eq!(played.body, content, "{name}, pieces of {cut}");
    assert!(
        played.answers.is_empty(),
        "{name}: {} answers were not asked for",
        played.answers.len()
    );
}

#[test]
fn every_dialogue_ends_the_same_however_the_bytes_arrive() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/dialogues/server");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        play(&name, &text, usize::MAX);
        if !text.lines().any(|line| line == "whole") {
            for cut in 1..12 {
                play(&name, &text, cut);
            }
        }
        count += 1;
    }
    assert!(count >= 13, "only {count} dialogues were found");
}
