//! Replays `dialogues/client/*.txt` against the client, and drives it through every stage at
//! which a primary can fail.
//!
//! A dialogue is read line by line:
//!
//! | line | meaning |
//! |---|---|
//! | `# …` | a comment |
//! | `option no-tls`, `tls-required`, `lmtp`, `login NAME SECRET` | before anything else |
//! | `S: …` / `S<: …` | the primary sends this with / without CRLF; `\r \n \0 \\ \e` are escapes |
//! | `C: …` | the client has written exactly this line by now |
//! | `send from=… to=a,b [8bit] [utf8] [len=n] [ret=…] [envid=…] [notify=…] [orcpt=…] [content=…]` | |
//! | `send only-ask …` | the same, and no content is to be sent |
//! | `content` | the client asks for the content of `send` and gets it; small content leaves with its end |
//! | `feed …` / `feed-end` | the same in pieces |
//! | `tls`, `idle`, `needs-content` | the client asks for that step; `tls` grants it |
//! | `wait …` | the timeout that applies now |
//! | `recipients-max n` | |
//! | `quit`, `timeout`, `disconnect`, `abandon …` | the shell says so |
//! | `outcome [not-asked] [in-doubt] [connection-failed]` | with one indented line for each recipient |
//! | `closed …` | the session is over, for this reason |
//!
//! Each dialogue is replayed whole, byte by byte, and with every group of `S:` lines cut at
//! every place.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_mail::{
    Address, BodyRef, BodyType, Envelope, MessageId, Notify, Recipient, Ret, ReversePath, Timestamp,
};
use holdfast_smtp::client::{Fate, Mail, Options, Outcome, Protocol, Session, Step, Tls};
use holdfast_smtp::login::Login;

#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Bytes,
    At(usize),
}

struct Replay {
    name: String,
    cut: Cut,
    session: Session,
    written: Vec<u8>,
    outcomes: Vec<Outcome>,
    content: Vec<u8>,
}

#[test]
fn every_dialogue_goes_as_written_however_the_bytes_are_cut() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 20, "the dialogues are missing");
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        let longest = script.len();
        replay(&file, &script, Cut::Whole);
        replay(&file, &script, Cut::Bytes);
        for at in 1..longest {
            replay(&file, &script, Cut::At(at));
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dialogues/client")
}

fn replay(file: &Path, script: &str, cut: Cut) {
    let mut options = Options::new("mx1.holdfast.example", Tls::Opportunistic);
    for line in script
        .lines()
        .filter_map(|line| line.strip_prefix("option "))
    {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["no-tls"] => options.tls = Tls::Never,
            ["tls-required"] => options.tls = Tls::Required,
            ["lmtp"] => options.protocol = Protocol::Lmtp,
            ["login", user, secret] => {
                let (user, secret) = (user.to_owned(), secret.to_owned());
                options.login = Some(Login { user, secret });
            }
            _ => panic!("not an option: {line}"),
        }
    }
    let mut replay = Replay {
        name: file.file_name().unwrap().to_string_lossy().into_owned(),
        cut,
        session: Session::new(options),
        written: Vec::new(),
        outcomes: Vec::new(),
        content: Vec::new(),
    };
    let mut lines = script.lines().enumerate().peekable();
    let mut incoming = Vec::new();
    while let Some((number, line)) = lines.next() {
        replay.name = format!(
            "{}:{} ({cut:?})",
            file.file_name().unwrap().to_string_lossy(),
            number + 1
        );
        if let Some(text) = line.strip_prefix("S: ").or(line.strip_prefix("S<: ")) {
            incoming.extend(unescaped(text));
            if line.starts_with("S:") {
                incoming.extend(b"\r\n");
            }
            let more = lines.peek().is_some_and(|(_, next)| next.starts_with('S'));
            if !more {
                replay.receive(&std::mem::take(&mut incoming));
            }
            continue;
        }
        let mut results = Vec::new();
        while let Some((_, result)) = lines.next_if(|(_, next)| next.starts_with("  ")) {
            results.push(result.trim().to_owned());
        }
        replay.directive(line, &results);
    }
    replay.drain();
    assert_eq!(
        text(&replay.written),
        "",
        "{}: written at the end",
        replay.name
    );
    assert!(
        replay.outcomes.is_empty(),
        "{}: {:?}",
        replay.name,
        replay.outcomes
    );
}

impl Replay {
    /// Takes steps until one needs the shell.
    fn drain(&mut self) -> Step {
        loop {
            match self.session.next() {
                Step::Write(bytes) => self.written.extend(bytes),
                Step::Outcome(outcome) => self.outcomes.push(outcome),
                step => return step,
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.drain();
        assert_eq!(text(&self.written), "", "{}: written too early", self.name);
        for piece in self.pieces(bytes) {
            self.session.receive(piece);
            self.drain();
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        assert_eq!(self.drain(), Step::NeedBody, "{}", self.name);
        for piece in self.pieces(bytes) {
            self.session.body(piece);
            self.drain();
        }
    }

    fn pieces<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        match self.cut {
            Cut::Whole => vec![bytes],
            Cut::Bytes => bytes.chunks(1).collect(),
            Cut::At(at) => {
                let (head, tail) = bytes.split_at(at.min(bytes.len()));
                vec![head, tail]
            }
        }
    }

    fn directive(&mut self, line: &str, results: &[String]) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let name = self.name.clone();
        match word {
            "" | "#" | "option" => {}
            "C:" => {
                self.drain();
                let mut expected = unescaped(rest);
                expected.extend(b"\r\n");
                assert!(
                    self.written.starts_with(&expected),
                    "{name}: written is {:?}",
                    text(&self.written)
                );
                self.written.drain(..expected.len());
            }
            "send" => {
                assert_eq!(self.drain(), Step::Idle, "{name}");
                let (mail, content) = mail(rest);
                self.content = content;
                self.session.send(mail).unwrap();
            }
            "content" => {
                let content = self.content.clone();
                self.feed(&content);
                self.session.body_end();
            }
            "feed" => self.feed(&unescaped(rest)),
            "feed-end" => self.session.body_end(),
            "needs-content" => assert_eq!(self.drain(), Step::NeedBody, "{name}"),
            "idle" => assert_eq!(self.drain(), Step::Idle, "{name}"),
            "tls" => {
                assert_eq!(self.drain(), Step::StartTls, "{name}");
                self.session.tls_started();
                assert!(self.session.is_encrypted());
            }
            "wait" => {
                self.drain();
                let timeout = self
                    .session
                    .wait()
                    .map(|wait| format!("{:?}", wait.timeout));
                assert_eq!(timeout.as_deref(), Some(rest), "{name}");
            }
            "recipients-max" => {
                assert_eq!(self.session.recipients_max().to_string(), rest, "{name}");
            }
            "quit" => self.session.quit(),
            "timeout" => self.session.timed_out(),
            "disconnect" => self.session.disconnected(),
            "abandon" => self.session.abandon(rest),
            "outcome" => {
                self.drain();
                assert!(!self.outcomes.is_empty(), "{name}: no outcome yet");
                let outcome = self.outcomes.remove(0);
                assert_eq!(
                    described(&outcome),
                    (rest.to_owned(), results.to_vec()),
                    "{name}"
                );
            }
            "closed" => match self.drain() {
                Step::Closed(why) => assert_eq!(why.to_string(), rest, "{name}"),
                step => panic!("{name}: {step:?}"),
            },
            _ => panic!("{name}: not a line of a dialogue: {line}"),
        }
    }
}

fn session(tls: Tls) -> Session {
    Session::new(Options::new("mx1.holdfast.example", tls))
}

fn described(outcome: &Outcome) -> (String, Vec<String>) {
    let mut flags = Vec::new();
    if !outcome.asked {
        flags.push("not-asked");
    }
    if outcome.in_doubt {
        flags.push("in-doubt");
    }
    if outcome.connection_failed {
        flags.push("connection-failed");
    }
    let results = outcome
        .results
        .iter()
        .map(|result| format!("{} {:?} {}", result.recipient, result.fate, result.reply))
        .collect();
    (flags.join(" "), results)
}

fn mail(words: &str) -> (Mail, Vec<u8>) {
    let (words, content) = words.split_once("content=").unwrap_or((words, ""));
    let content = unescaped(content);
    let mut envelope = envelope(content.len() as u64);
    let mut only_ask = false;
    let words: Vec<_> = words.split_ascii_whitespace().collect();
    let utf8 = words.contains(&"utf8") || words.contains(&"raw-utf8");
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "from" if value.is_empty() => envelope.reverse_path = ReversePath::Null,
            "from" => {
                envelope.reverse_path = ReversePath::Mailbox(Address::parse(value, utf8).unwrap());
            }
            "to" => {
                envelope.recipients = value.split(',').map(|to| recipient(to, utf8)).collect();
            }
            "len" => envelope.body.len = value.parse().unwrap(),
            "8bit" => envelope.body_type = BodyType::EightBitMime,
            "utf8" => envelope.smtputf8 = true,
            "raw-utf8" => {}
            "ret" if value == "full" => envelope.ret = Some(Ret::Full),
            "ret" => envelope.ret = Some(Ret::Headers),
            "envid" => envelope.envid = Some(text(&unescaped(value))),
            "notify" => {
                envelope.recipients[0].notify = Some(Notify {
                    success: value.contains("success"),
                    failure: value.contains("failure"),
                    delay: value.contains("delay"),
                });
            }
            "only-ask" => only_ask = true,
            "orcpt" => envelope.recipients[0].orcpt = Some(text(&unescaped(value))),
            _ => panic!("{word}"),
        }
    }
    let recipients = (0..envelope.recipients.len() as u32).collect();
    let envelope = Arc::new(envelope);
    (
        Mail {
            envelope,
            recipients,
            only_ask,
        },
        content,
    )
}

fn envelope(len: u64) -> Envelope {
    let id = MessageId::new(Timestamp(1_795_400_000_000), 7);
    Envelope {
        id,
        reverse_path: ReversePath::Null,
        recipients: Vec::new(),
        body: BodyRef {
            id,
            len,
            digest: [0; 32],
        },
        received_at: Timestamp(1_795_400_000_000),
        body_type: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        helo: "sender.example".to_owned(),
        client: "192.0.2.1".to_owned(),
    }
}

fn recipient(address: &str, utf8: bool) -> Recipient {
    Recipient {
        address: Address::parse(address, utf8).unwrap(),
        notify: None,
        orcpt: None,
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('r') => '\r',
                Some('n') => '\n',
                Some('0') => '\0',
                Some('e') => '\x1b',
                Some('\\') => '\\',
                other => panic!("no such escape: {other:?}"),
            },
            c => c,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What becomes of a message to two recipients when the primary fails at one stage, in one
/// way. `D` deferred, `R` refused, `+` delivered; `?` marks doubt, `x` a lost connection.
/// A `rcpt` failure hits the first of the two recipients. At `idle` no message is under way.
const STAGES: &str = "
stage   451    550    421    close    garbage
banner  -x     -x     -x     -x       -x
ehlo    -x     HELO   -x     -x       -x
idle    -x     -x     -x     -x       -x
mail    DD     RR     DDx    DDx      DDx
rcpt    D+     R+     DDx    DDx      DDx
data    DD     RR     DDx    DDx      DDx
body    DDx    RRx    DDx    DDx      DDx
end     DD     RR     DDx    DD?x     DD?x
";

#[test]
fn a_failure_at_any_stage_touches_no_more_than_it_must() {
    for (modes, extensions) in [
        ("plain", ""),
        ("pipelining", "PIPELINING"),
        ("chunking", "CHUNKING"),
        ("chunking and pipelining", "CHUNKING,PIPELINING"),
    ] {
        let mut rows = STAGES.trim().lines();
        let failures: Vec<_> = rows.next().unwrap().split_whitespace().skip(1).collect();
        for row in rows {
            let mut cells = row.split_whitespace();
            let stage = cells.next().unwrap();
            if stage == "data" && extensions.contains("CHUNKING") {
                continue;
            }
            for (failure, expected) in failures.iter().zip(cells) {
                let seen = fail_at(stage, failure, extensions);
                assert_eq!(seen, expected, "{modes}: {failure} at {stage}");
            }
        }
    }
}

/// A primary that does all as it should but fails once. Says what became of the message.
fn fail_at(stage: &str, failure: &str, extensions: &str) -> String {
    let mut session = session(Tls::Opportunistic);
    let mut replies = vec![answer("banner", stage, failure, "220 primary.example")];
    let mut content = Vec::new();
    let mut sent = false;
    let mut helo = false;
    for _ in 0..100 {
        match session.next() {
            Step::NeedInput => {
                assert!(!replies.is_empty(), "{failure} at {stage}: nothing to say");
                match replies.remove(0) {
                    Some(reply) => session.receive(reply.as_bytes()),
                    None => session.disconnected(),
                }
            }
            Step::Write(bytes) => {
                for line in text(&bytes).split_inclusive("\r\n") {
                    let (verb, _) = line.trim_end().split_once([' ', ':']).unwrap_or((line, ""));
                    let (at, good) = match verb.trim_end() {
                        "EHLO" => ("ehlo", ehlo_reply(extensions)),
                        "HELO" => {
                            helo = true;
                            ("helo", "250 primary.example".to_owned())
                        }
                        "MAIL" => ("mail", "250 ok".to_owned()),
                        "RCPT" if line.contains("first") => ("rcpt", "250 ok".to_owned()),
                        "RCPT" | "RSET" => ("", "250 ok".to_owned()),
                        "DATA" => ("data", "354 go on".to_owned()),
                        "." => ("end", "250 taken".to_owned()),
                        "BDAT" => {
                            content.clear();
                            continue;
                        }
                        "QUIT" => ("", "221 bye".to_owned()),
                        _ => {
                            content.extend(line.bytes());
                            if content.ends_with(b"bye\r\n") && extensions.contains("CHUNKING") {
                                ("end", "250 taken".to_owned())
                            } else {
                                continue;
                            }
                        }
                    };
                    replies.push(answer(at, stage, failure, &good));
                }
            }
            Step::NeedBody => {
                session.body(b"hi\r\n");
                if stage == "body" {
                    match answer("body", stage, failure, "") {
                        Some(reply) => session.receive(reply.as_bytes()),
                        None => session.disconnected(),
                    }
                }
                session.body(b"bye\r\n");
                session.body_end();
            }
            Step::Idle if helo => return "HELO".to_owned(),
            Step::Idle if stage == "idle" => match answer("idle", stage, failure, "") {
                Some(reply) => session.receive(reply.as_bytes()),
                None => session.disconnected(),
            },
            Step::Idle if sent => return "nothing".to_owned(),
            Step::Idle => {
                sent = true;
                let mut envelope = envelope(9);
                for to in ["first@x.y", "second@x.y"] {
                    envelope.recipients.push(recipient(to, false));
                }
                session
                    .send(Mail {
                        envelope: Arc::new(envelope),
                        recipients: vec![0, 1],
                        only_ask: false,
                    })
                    .unwrap();
            }
            Step::Outcome(outcome) => {
                let mut seen = String::new();
                for result in &outcome.results {
                    seen.push(match result.fate {
                        Fate::Delivered => '+',
                        Fate::Deferred => 'D',
                        Fate::Known => unreachable!("nobody only asked"),
                        Fate::Refused => 'R',
                    });
                }
                if outcome.in_doubt {
                    seen.push('?');
                }
                if outcome.connection_failed {
                    seen.push('x');
                }
                return seen;
            }
            Step::Closed(_) => return "-x".to_owned(),
            Step::StartTls => panic!("not offered"),
        }
    }
    panic!("{failure} at {stage} does not end");
}

fn ehlo_reply(extensions: &str) -> String {
    let mut reply = "250-primary.example\r\n".to_owned();
    for extension in extensions.split(',').filter(|name| !name.is_empty()) {
        let _ = write!(reply, "250-{extension}\r\n");
    }
    reply + "250 SIZE"
}

/// `None` where the primary closes.
fn answer(at: &str, stage: &str, failure: &str, good: &str) -> Option<String> {
    if at != stage {
        return Some(format!("{good}\r\n"));
    }
    match failure {
        "close" => None,
        "garbage" => Some("<html>\r\n".to_owned()),
        code => Some(format!("{code} as the test wants\r\n")),
    }
}

/// Whatever a primary sends, in whatever order: nothing panics, nothing is endless, and no
/// recipient is delivered before the whole message and its end were written.
#[test]
fn no_babble_makes_a_message_count_as_delivered_that_was_not_sent() {
    const WORDS: [&str; 16] = [
        "220 x\r\n",
        "250 x\r\n",
        "250-x\r\n",
        "250-PIPELINING\r\n",
        "250 CHUNKING\r\n",
        "354 x\r\n",
        "451 x\r\n",
        "550 x\r\n",
        "421 x\r\n",
        "250-STARTTLS\r\n",
        "250",
        "\r\n",
        "\n",
        "\0",
        "2",
        "250 LIMITS RCPTMAX=1 MAILMAX=2\r\n",
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut delivered = 0;
    for _ in 0..50_000 {
        let mut session = session(Tls::Opportunistic);
        let mut fed = 0;
        for _ in 0..60 {
            match session.next() {
                Step::Write(_) => {}
                Step::NeedInput => {
                    // Mostly what would do, so that the later stages are reached too.
                    let words = if draw(3) == 0 { WORDS.len() } else { 6 };
                    let word = draw(words);
                    session.receive(WORDS[word].as_bytes());
                }
                Step::NeedBody if draw(8) == 0 => {
                    session.receive(WORDS[draw(WORDS.len())].as_bytes());
                }
                Step::NeedBody => {
                    fed += 1;
                    session.body(b".\r\n");
                    if fed == 2 {
                        session.body_end();
                    }
                }
                Step::StartTls => session.tls_started(),
                Step::Idle => {
                    let mut envelope = envelope(6);
                    for to in ["first@x.y", "second@x.y"] {
                        envelope.recipients.push(recipient(to, false));
                    }
                    fed = 0;
                    session
                        .send(Mail {
                            envelope: Arc::new(envelope),
                            recipients: vec![0, 1],
                            only_ask: false,
                        })
                        .unwrap();
                }
                Step::Outcome(outcome) => {
                    assert_eq!(outcome.results.len(), 2);
                    for result in outcome.results {
                        if result.fate == Fate::Delivered {
                            assert_eq!(fed, 2);
                            delivered += 1;
                        }
                    }
                }
                Step::Closed(_) => break,
            }
        }
    }
    assert!(
        delivered > 100,
        "the babble never got anywhere: {delivered}"
    );
}
