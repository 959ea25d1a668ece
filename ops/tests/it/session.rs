//! What operators type and read, as it is on their screens: sessions/*.txt. Each is one node's, alone in
//! its cluster.
//!
//! ```text
//! # a remark
//! $ holdfast WORD…             what it wrote to standard output, `! ` before what it wrote to standard
//!                              error, `= N` if it ended with another exit code than 0
//! $ until TEXT | holdfast …    once TEXT is in what it wrote
//! $ send FROM TO SUBJECT       a message, handed in by SMTP: the last reply
//! $ write FILE WORD…           a file with those lines
//! $ stop                       the node is killed
//! ```
//!
//! What is new at each run has a name instead: a message's id is ID1 wherever it is told, and what is typed
//! may say so too.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::alone::{Alone, text};
use crate::golden;
use crate::masks::Masks;

#[test]
fn domains_are_added_changed_looked_at_and_removed() {
    play("domains");
}

#[test]
fn plans_are_offered_and_usage_is_billed() {
    play("plans");
}

#[test]
fn accounts_and_access_are_given_and_taken_and_the_audit_tells_it() {
    play("people");
}

#[test]
fn mail_is_seen_delivered_kept_back_deleted_and_given_back() {
    play("mail");
}

#[test]
fn a_cluster_of_one_is_looked_at_and_refuses_what_would_end_it() {
    play("cluster");
}

#[test]
fn a_stopped_node_is_copied_and_founded_anew() {
    play("offline");
}

fn play(name: &str) {
    let file = format!("sessions/{name}.txt");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(&file);
    let script = fs::read_to_string(path).expect("a session");
    let mut session = Session::begin(name);
    let mut told = String::new();
    let mut after_remark = true;
    for line in script.lines() {
        let is_remark = line.starts_with("# ");
        if !is_remark && !line.starts_with("$ ") {
            continue;
        }
        if !after_remark {
            told.push('\n');
        }
        told.push_str(line);
        told.push('\n');
        after_remark = is_remark;
        if let Some(command) = line.strip_prefix("$ ") {
            told.push_str(&session.run(command));
        }
    }
    golden::is_as_in(&file, &told);
}

struct Session {
    node: Alone,
    masks: Masks,
}

impl Session {
    fn begin(name: &str) -> Self {
        let dns = format!("[dns]\nservers = [\"{}\"]\n", no_names());
        let node = Alone::begin(&format!("session-{name}"), &dns);
        let masks = Masks::new(&[(node.folder(), "DIR"), (&node.socket_path(), "SOCKET")]);
        Self { node, masks }
    }

    fn run(&mut self, command: &str) -> String {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match verb {
            "holdfast" => self.holdfast(rest),
            "until" => {
                let (wanted, command) = rest.split_once(" | holdfast ").expect("a command");
                let found = (0..600).find_map(|_| {
                    let said = self.holdfast(command);
                    if !said.contains(wanted) {
                        sleep(Duration::from_millis(100));
                    }
                    said.contains(wanted).then_some(said)
                });
                found.unwrap_or_else(|| panic!("{wanted}: {}", self.holdfast(command)))
            }
            "send" => {
                let mut words = rest.splitn(3, ' ');
                let mut word = || words.next().expect("FROM TO SUBJECT");
                let reply = self.node.send(word(), word(), word());
                self.masks.hide(&format!("{reply}\n"))
            }
            "write" => {
                let (file, lines) = rest.split_once(' ').expect("FILE WORD");
                let lines = lines.replace(' ', "\n") + "\n";
                fs::write(self.node.folder().join(file), lines).expect("written");
                String::new()
            }
            "stop" => {
                self.node.kill();
                String::new()
            }
            _ => panic!("{verb} is nothing that a session does"),
        }
    }

    fn holdfast(&mut self, words: &str) -> String {
        let words = self.masks.show(words);
        let ran = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(split(&words))
            .current_dir(self.node.folder())
            .env("HOLDFAST_SOCKET", self.node.socket_path())
            .env("HOME", self.node.folder())
            .env("USER", "ops")
            .env_remove("SUDO_USER")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("HOLDFAST_NODE")
            .env_remove("HOLDFAST_IDENTITY")
            .output()
            .expect("the binary runs");
        let mut said = text(&ran.stdout);
        for line in text(&ran.stderr).lines() {
            said.push_str(&format!("! {line}\n"));
        }
        match ran.status.code() {
            Some(0) => {}
            code => said.push_str(&format!("= {}\n", code.expect("an exit code"))),
        }
        self.masks.hide(&said)
    }
}

/// A DNS server that knows no name (RFC 1035): what the world's says is not of this test.
fn no_names() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // The question again, as a response (QR) with NXDOMAIN.
            query[2] |= 0x80;
            query[3] = 0x83;
            let _gone = socket.send_to(&query[..length], from);
        }
    });
    address
}

/// Into words, of which some stand in double quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('"').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// What no session shows, and why.
const NOT_SHOWN: [(&str, &str); 10] = [
    ("cluster-join/v1", "needs a second node"),
    ("cluster-leave/v1", "a cluster of one refuses it"),
    ("demo/v1", "runs three nodes"),
    ("dev.clock/v1", "moves the clock of a sandbox"),
    ("dev/v1", "goes on until it is interrupted"),
    ("doctor/v1", "tells of the machine that the test runs on"),
    ("drill/v1", "a cluster of one refuses it"),
    ("node-drain/v1", "a cluster of one refuses it"),
    ("node-replace/v1", "needs three nodes"),
    ("verdict/v1", "needs a primary that was asked"),
];

/// JSON is for programs, which break when it changes.
#[test]
fn every_schema_is_shown_by_a_session_or_is_known_not_to_be() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    schemas(&here.join("src"), "\"", &mut named);
    let mut shown = BTreeSet::new();
    schemas(
        &here.join("tests/it/sessions"),
        "\"schema\":\"holdfast.",
        &mut shown,
    );
    assert!(named.len() > 50, "{named:?}");
    let excused: BTreeSet<String> = NOT_SHOWN
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let missing: Vec<_> = named.difference(&shown).cloned().collect();
    assert_eq!(missing, excused.into_iter().collect::<Vec<_>>());
}

/// The names with a version that follow `before` in the files of a folder.
fn schemas(folder: &Path, before: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("it").path();
        if path.is_dir() {
            schemas(&path, before, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        for piece in text.split(before).skip(1) {
            let name = piece.split('"').next().unwrap_or_default();
            let is_name = |name: &str| {
                !name.starts_with("holdfast.")
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'.')
            };
            if name.strip_suffix("/v1").is_some_and(is_name) {
                found.insert(name.to_owned());
            }
        }
    }
}
