//! Every page of `ops/runbooks` is done as it is written: what it is about is made, each line is typed in its
//! order where the page says, and it is over.
//!
//! `holdfast` is the real one. What belongs to the machine (systemctl, journalctl, timedatectl) are scripts
//! that are found first: they tell of the sandbox's nodes, and note what they were told to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{Sandbox, node_binary, wait_for};
use holdfast_cluster_tests::story::{Mailbox, pass, send};
use serde_json::Value;

use crate::{alone, is_left_to_soak};

const DOMAIN: &str = "example.test";
const JOE: &str = "joe@example.test";
const BOB: &str = "bob@sender.test";
const SOON: Duration = Duration::from_secs(60);

type Act = fn(&mut Stage);

/// A page, and what makes it true.
struct Page {
    name: &'static str,
    /// Makes what the page is about.
    begin: Act,
    /// What the page says in words, right before a line that begins so.
    before: &'static [(&'static str, Act)],
    /// Waits until it is over.
    end: Act,
}

const PAGES: [Page; 22] = [
    Page {
        name: "HoldfastApplyLag",
        begin: lag,
        before: &[],
        end: is_level,
    },
    // What no disk can read is not made by hand; a node is replaced as if it were.
    Page {
        name: "HoldfastBodiesUnreadable",
        begin: nothing,
        before: &[("holdfast node drain", let_another_join)],
        end: it_was_replaced,
    },
    Page {
        name: "HoldfastClockWrong",
        begin: put_a_clock_wrong,
        before: &[],
        end: clock_is_right,
    },
    Page {
        name: "HoldfastDeliveryStalled",
        begin: greylist,
        before: &[("holdfast mail deliver", exempt)],
        end: all_is_delivered,
    },
    Page {
        name: "HoldfastDiskFilling",
        begin: nothing,
        before: &[],
        end: is_well,
    },
    Page {
        name: "HoldfastDiskFull",
        begin: fill_the_disk,
        before: &[("holdfast mail deliver", primary_is_back)],
        end: disk_is_enlarged,
    },
    Page {
        name: "HoldfastFlushSlow",
        begin: leader_is_slow,
        before: &[
            ("holdfast cluster invite", another_leads),
            ("holdfast node drain", let_another_join),
        ],
        end: it_was_replaced,
    },
    Page {
        name: "HoldfastLeaderFlapping",
        begin: leader_is_sick,
        before: &[],
        end: the_named_one_leads,
    },
    Page {
        name: "HoldfastMailHeldLong",
        begin: hold_mail,
        before: &[("holdfast mail deliver", primary_is_back)],
        end: all_is_delivered,
    },
    Page {
        name: "HoldfastMayArriveTwice",
        begin: nothing,
        before: &[],
        end: is_well,
    },
    Page {
        name: "HoldfastNotAccepting",
        begin: cut_one_off,
        before: &[
            ("holdfast node drain", end_the_drill),
            ("systemctl start", others_take_mail),
        ],
        end: it_takes_mail,
    },
    Page {
        name: "HoldfastPrimaryRefuses",
        begin: refuse,
        before: &[("holdfast mail release", restore_the_users)],
        end: all_is_delivered,
    },
    Page {
        name: "HoldfastTurnedAway",
        begin: leave_no_room,
        before: &[("holdfast config check", make_room)],
        end: there_is_room,
    },
    Page {
        name: "HoldfastDrained",
        begin: forget_a_drain,
        before: &[],
        end: it_takes_mail,
    },
    Page {
        name: "HoldfastDrillFailed",
        begin: fail_a_drill,
        before: &[],
        end: last_drill_passed,
    },
    Page {
        name: "HoldfastDrillOverdue",
        begin: forget_drills,
        before: &[],
        end: drills_go_on,
    },
    Page {
        name: "HoldfastNoQuorum",
        begin: kill_two,
        before: &[("systemctl stop", lose_them_for_good)],
        end: all_are_back,
    },
    Page {
        name: "HoldfastNoFailureTolerance",
        begin: kill_one,
        before: &[
            ("holdfast cluster invite", lose_it_for_good),
            ("holdfast node replace", let_another_join),
        ],
        end: it_was_replaced,
    },
    Page {
        name: "HoldfastNodeDown",
        begin: kill_one,
        before: &[("holdfast cluster invite", lose_it_and_bring_another)],
        end: it_was_replaced,
    },
    Page {
        name: "HoldfastCertificateEnds",
        begin: kill_one,
        before: &[("holdfast cluster invite", bring_another)],
        end: it_was_replaced,
    },
    Page {
        name: "HoldfastAuthorityEnds",
        begin: four_of_them,
        before: &[("holdfast cluster leave", kill_the_fourth)],
        end: authority_was_replaced,
    },
    Page {
        name: "HoldfastCertificateNotRenewed",
        begin: nothing,
        before: &[],
        end: is_well,
    },
];

/// Lines from which on a page is done by another test: `recovery.rs` loses machines for good, and in
/// `certificates.rs` certificates end within a minute.
const ELSEWHERE: [(&str, &str); 2] = [
    ("HoldfastNoQuorum", "holdfast snapshot save --stopped"),
    ("HoldfastCertificateNotRenewed", "journalctl"),
];

/// Lines that only look: they may find that something is not well, and say so by their exit code.
const LOOKS: [&str; 17] = [
    "holdfast access list",
    "holdfast audit",
    "holdfast cluster acme show",
    "holdfast cluster recover inspect",
    "holdfast cluster status",
    "holdfast doctor",
    "holdfast domain check",
    "holdfast domain show",
    "holdfast drill list",
    "holdfast drill schedule list",
    "holdfast drill show",
    "holdfast events",
    "holdfast mail list",
    "holdfast mail trace",
    "holdfast status",
    "systemctl status",
    "timedatectl",
];

/// The cluster that the pages are tried on, one after the other.
struct Stage {
    sandbox: Sandbox,
    mailbox: Mailbox,
    greylister: Option<Greylister>,
    /// Whom the page is about: what is not asked of the cluster is typed on its machine.
    sick: String,
    /// A node that becomes a member.
    new: String,
    /// How many nodes there have been.
    count: usize,
    /// What stands for the words in capitals.
    words: BTreeMap<&'static str, String>,
    /// What the last line printed.
    said: String,
    sent: usize,
    /// One that is under way, and how many there were before.
    drill: Option<Child>,
    drills_before: usize,
}

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/runbooks")
}

#[test]
fn every_page_ends_what_it_is_about() {
    if is_left_to_soak(3) {
        return;
    }
    let _alone = alone();
    let there: BTreeSet<String> = fs::read_dir(pages())
        .expect("the pages")
        .map(|page| {
            let name = page.expect("a page").file_name();
            let name = name.into_string().expect("a name");
            name.trim_end_matches(".md").to_owned()
        })
        .collect();
    let tried: BTreeSet<String> = PAGES.iter().map(|page| page.name.to_owned()).collect();
    assert_eq!(tried, there);

    let mut stage = Stage::new();
    for page in &PAGES {
        let begun = Instant::now();
        stage.play(page);
        eprintln!("{:<32} {:>5.1} s", page.name, begun.elapsed().as_secs_f64());
    }
}

impl Stage {
    fn new() -> Self {
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let stage = Self {
            sandbox,
            mailbox,
            greylister: None,
            sick: String::new(),
            new: String::new(),
            count: 3,
            words: BTreeMap::new(),
            said: String::new(),
            sent: 0,
            drill: None,
            drills_before: 0,
        };
        stage.make_scripts();
        stage
    }

    fn play(&mut self, page: &Page) {
        self.sick = self.follower();
        self.words = BTreeMap::from([("DOMAIN", DOMAIN.to_owned())]);
        self.words.insert("NODE", self.sick.clone());
        (page.begin)(self);
        let text = fs::read_to_string(pages().join(page.name).with_extension("md"));
        let text = text.expect("the page");
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("    "))
            .collect();
        assert!(!lines.is_empty(), "{} says what to type", page.name);
        let mut before = page.before.iter().peekable();
        for line in lines {
            let is_elsewhere =
                |(name, first): &(&str, &str)| *name == page.name && line.starts_with(first);
            if ELSEWHERE.iter().any(is_elsewhere) {
                break;
            }
            if let Some((_, act)) = before.next_if(|(first, _)| line.starts_with(first)) {
                act(self);
            }
            self.enter(page.name, line);
        }
        assert!(before.next().is_none(), "{} says nothing of it", page.name);
        (page.end)(self);
    }

    /// Types a line and looks how it ends.
    fn enter(&mut self, page: &str, line: &str) {
        let at = self.place(line);
        let typed = self.in_full(page, line, &at);
        let node = self.sandbox.node(&at);
        let path = std::env::var("PATH").unwrap_or_default();
        // Somebody sits there who says yes.
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &typed, "/dev/null"]);
        let mut running = command
            .env("PATH", format!("{}:{path}", self.scripts().display()))
            .env("HOLDFAST_SOCKET", node.data_dir.join("admin.sock"))
            .env("SANDBOX_LOG", &node.log)
            .env("SANDBOX_TOLD", self.told())
            .env("SANDBOX_RUNS", if self.is_dead(&at) { "" } else { "yes" })
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("script(1) runs");
        let mut keys = running.stdin.take().expect("a terminal");
        // It may ask nothing.
        drop(keys.write_all(b"yes\n"));
        let ended = running.wait_with_output().expect("its end");
        drop(keys);
        self.said = String::from_utf8_lossy(&ended.stdout).into_owned();
        let is_look = LOOKS.iter().any(|look| line.starts_with(look));
        let code = ended.status.code();
        assert!(
            code == Some(0) || is_look && code == Some(3),
            "{page}, on {at}: {typed}\nended with {code:?}:\n{}",
            self.said
        );
        self.obey(&at);
        if line == "holdfast cluster invite" {
            let token = self.said.split_whitespace();
            let token = token
                .into_iter()
                .find(|word| word.starts_with("holdfast1."));
            self.words
                .insert("TOKEN", token.expect("a token").to_owned());
        }
    }

    /// Where a line is typed.
    fn place(&self, line: &str) -> String {
        let of_the_machine = [
            "holdfast doctor",
            "holdfast config",
            "holdfast cluster recover",
        ];
        if line.starts_with("holdfast cluster join") {
            return self.new.clone();
        }
        let is_of_it = of_the_machine.iter().any(|first| line.starts_with(first));
        match is_of_it || !line.starts_with("holdfast ") {
            true => self.sick.clone(),
            false => self.member(),
        }
    }

    /// With what stands for the words in capitals.
    fn in_full(&self, page: &str, line: &str, at: &str) -> String {
        let is_word = |text: &str| text.len() > 1 && text.bytes().all(|b| b.is_ascii_uppercase());
        let config = self.sandbox.node(at).config.display().to_string();
        let words = line.split(' ').map(|word| match word {
            "/etc/holdfast/holdfast.toml" => config.clone(),
            // A minute of a drill is for people to watch; an election on a busy machine needs this long.
            "1m" => "12s".to_owned(),
            word if is_word(word) => {
                let known = self.words.get(word).cloned();
                known.unwrap_or_else(|| panic!("{page}: what is {word}?"))
            }
            word => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Does what systemctl was told.
    fn obey(&mut self, at: &str) {
        let told = fs::read_to_string(self.told()).unwrap_or_default();
        fs::write(self.told(), "").expect("a file");
        for order in told.lines() {
            match order.split_once(' ') {
                Some(("start", "holdfast")) => self.start(at),
                Some(("stop", _)) => self.sandbox.terminate(at),
                Some(("reload", "holdfast")) => self.sandbox.reload(at),
                Some(("restart", "systemd-timesyncd")) => self.set_clock(at, 0),
                _ => panic!("systemctl {order}: what is that?"),
            }
        }
    }

    fn start(&mut self, name: &str) {
        self.sandbox.restart(name);
        wait_for(&format!("an answer of {name}"), SOON, || {
            self.sandbox.status_of(name).map(drop)
        });
    }

    fn folder(&self) -> &Path {
        self.sandbox.folder().expect("a folder")
    }

    fn scripts(&self) -> PathBuf {
        self.folder().join("scripts")
    }

    fn told(&self) -> PathBuf {
        self.folder().join("told")
    }

    fn make_scripts(&self) {
        fs::create_dir(self.scripts()).expect("a folder");
        symlink(node_binary(), self.scripts().join("holdfast")).expect("a link");
        for (name, text) in [
            (
                "systemctl",
                // The sandbox has no sockets that systemd holds.
                "case $1 in\nstatus) [ \"$SANDBOX_RUNS\" ] || exit 3 ;;\nis-*) exit 3 ;;\n\
                 *) echo \"$*\" >>\"$SANDBOX_TOLD\" ;;\nesac\n",
            ),
            (
                "journalctl",
                "while [ $# -gt 1 ]; do [ \"$1\" = --grep ] && wanted=$2; shift; done\n\
                 grep -e \"${wanted:-.}\" \"$SANDBOX_LOG\"\n",
            ),
            ("timedatectl", "echo 'System clock synchronized: no'\n"),
        ] {
            let file = self.scripts().join(name);
            fs::write(&file, format!("#!/bin/sh\n{text}")).expect("a script");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&file, mode).expect("a script");
        }
    }

    fn is_dead(&self, name: &str) -> bool {
        self.sandbox.dead().iter().any(|dead| dead == name)
    }

    /// A node that is not the one the page is about, if another lives.
    fn member(&self) -> String {
        let alive = self.sandbox.alive();
        let other = alive
            .iter()
            .find(|name| **name != self.sick && **name != self.new);
        other.unwrap_or(&alive[0]).clone()
    }

    fn leader(&self) -> String {
        wait_for("a leader", SOON, || self.sandbox.leader())
    }

    fn follower(&self) -> String {
        let leader = self.leader();
        let alive = self.sandbox.alive().into_iter();
        let mut others = alive.filter(|name| *name != leader);
        others.next().expect("another node")
    }

    fn post(&mut self, at: &str) {
        let subject = format!("number {}", self.sent);
        let answer = send(self.sandbox.node(at).smtp, BOB, JOE, &subject);
        assert_eq!(answer.code, 250, "{answer:?}");
        self.sent += 1;
    }

    /// A line of a node's configuration, by its key.
    fn set(&self, name: &str, key: &str, value: &str) {
        let file = &self.sandbox.node(name).config;
        let text = fs::read_to_string(file).expect("a configuration");
        let lines = text.lines().map(|line| match line.starts_with(key) {
            true => format!("{key} = {value}\n"),
            false => format!("{line}\n"),
        });
        fs::write(file, lines.collect::<String>()).expect("a configuration");
    }

    /// Of one that has a clock of its own.
    fn set_clock(&self, name: &str, off_ms: u64) {
        let clock = self.folder().join("clock");
        let ahead = fs::read_to_string(clock).unwrap_or_default();
        let ahead = ahead.trim().parse().unwrap_or(0) + off_ms;
        let file = self.folder().join(format!("clock-{name}"));
        fs::write(file, ahead.to_string()).expect("a clock");
    }

    /// What is told of a node.
    fn node(&self, name: &str) -> Option<Value> {
        let status = self.sandbox.status_of(&self.member())?;
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|node| node["name"] == name).cloned()
    }

    /// Waits until it is no more among what is not well.
    fn wait_for_the_end_of(&self, event: &str) {
        wait_for(&format!("the end of {event}"), SOON, || {
            let told = self.sandbox.ask(&self.member(), &["events"]);
            let says = String::from_utf8_lossy(&told.stdout).contains(event);
            (matches!(told.status.code(), Some(0 | 3)) && !says).then_some(())
        });
    }

    fn drills(&self) -> Vec<Value> {
        let listed = self.sandbox.ask(&self.member(), &["drill", "list"]).stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let drills = listed.lines().map(serde_json::from_str);
        drills.collect::<Result<_, _>>().expect("drills")
    }
}

fn nothing(stage: &mut Stage) {
    stage.post(&stage.member());
}

fn is_well(stage: &mut Stage) {
    stage.sandbox.wait_until_healthy(SOON);
}

fn lag(stage: &mut Stage) {
    stage.sandbox.pause(&stage.sick.clone());
    for _ in 0..3 {
        stage.post(&stage.leader());
    }
    stage.sandbox.resume(&stage.sick.clone());
}

fn is_level(stage: &mut Stage) {
    wait_for("nothing to apply", SOON, || {
        (stage.node(&stage.sick)?["lag"] == 0).then_some(())
    });
}

fn put_a_clock_wrong(stage: &mut Stage) {
    let sick = stage.sick.clone();
    stage.set_clock(&sick, 5_000);
    stage.set(&sick, "sandbox_clock", &format!("\"clock-{sick}\""));
    stage.sandbox.terminate(&sick);
    stage.start(&sick);
}

fn clock_is_right(stage: &mut Stage) {
    let sick = stage.sick.clone();
    stage.wait_for_the_end_of("clock_wrong");
    stage.set(&sick, "sandbox_clock", "\"clock\"");
    stage.sandbox.terminate(&sick);
    stage.start(&sick);
    is_well(stage);
}

fn greylist(stage: &mut Stage) {
    stage.mailbox.go_away();
    stage.greylister = Some(Greylister::at(stage.mailbox.address()));
    stage.post(&stage.member());
    wait_for("a refusal", SOON, || {
        let status = stage.sandbox.status()?.to_string();
        status.contains("come again later").then_some(())
    });
}

fn exempt(stage: &mut Stage) {
    stage.greylister = None;
    stage.mailbox.come_up();
}

fn all_is_delivered(stage: &mut Stage) {
    stage.mailbox.wait_for(stage.sent, SOON);
    wait_for("nothing held", SOON, || {
        (stage.sandbox.status()?["held_messages"] == 0).then_some(())
    });
}

fn fill_the_disk(stage: &mut Stage) {
    hold_mail(stage);
    let sick = stage.sick.clone();
    stage.set(&sick, "disk_free_min_bytes", "1152921504606846976");
    stage.sandbox.reload(&sick);
    wait_for("452", SOON, || {
        let answer = send(stage.sandbox.node(&sick).smtp, BOB, JOE, "too much");
        stage.sent += usize::from(answer.code == 250);
        (answer.code == 452).then_some(())
    });
}

fn disk_is_enlarged(stage: &mut Stage) {
    all_is_delivered(stage);
    let sick = stage.sick.clone();
    stage.set(&sick, "disk_free_min_bytes", "67108864");
    stage.sandbox.reload(&sick);
    it_takes_mail(stage);
}

fn it_takes_mail(stage: &mut Stage) {
    let smtp = stage.sandbox.node(&stage.sick).smtp;
    wait_for("250", SOON, || {
        let answer = send(smtp, BOB, JOE, "at last");
        (answer.code == 250).then_some(())
    });
    stage.sent += 1;
    all_is_delivered(stage);
}

fn leader_is_sick(stage: &mut Stage) {
    let follower = stage.follower();
    stage.sick = stage.leader();
    stage.words.insert("NODE", follower);
}

fn leader_is_slow(stage: &mut Stage) {
    stage.sick = stage.leader();
    stage.words.insert("NODE", stage.sick.clone());
}

fn another_leads(stage: &mut Stage) {
    assert_ne!(stage.leader(), stage.sick);
}

fn the_named_one_leads(stage: &mut Stage) {
    assert_eq!(stage.leader(), stage.words["NODE"]);
}

fn hold_mail(stage: &mut Stage) {
    stage.mailbox.go_away();
    stage.post(&stage.member());
    wait_for("a try in vain", SOON, || {
        let status = stage.sandbox.status()?;
        (status["held_messages"].as_u64()? > 0).then_some(())
    });
}

fn primary_is_back(stage: &mut Stage) {
    stage.mailbox.come_up();
}

fn cut_one_off(stage: &mut Stage) {
    let node = stage.node(&stage.sick).expect("a node");
    let region = node["region"].as_str().expect("a region");
    let drill = ["drill", "run", "--kind", "partition", "--region", region];
    let asked = [&drill[..], &["--duration", "10m"]].concat();
    stage.drill = Some(stage.sandbox.begin_asking(&stage.leader(), &asked));
    wait_for("the failure", SOON, || {
        let last = stage.drills().pop()?;
        (last["events"].as_array()?.len() >= 2 && last["state"] == "under way").then_some(())
    });
    // Until it has noticed that it hears no leader.
    sleep(Duration::from_secs(4));
    let answer = send(stage.sandbox.node(&stage.sick).smtp, BOB, JOE, "too early");
    assert_eq!(answer.code, 451, "{answer:?}");
}

/// Who only pretends is not drained: for the rest of the page it is as if it were ill.
fn end_the_drill(stage: &mut Stage) {
    stage.sandbox.must(&stage.leader(), &["drill", "stop"]);
    if let Some(mut drill) = stage.drill.take() {
        drop(drill.wait());
    }
    wait_for("the end of the drill", SOON, || {
        (stage.drills().pop()?["state"] != "under way").then_some(())
    });
    is_well(stage);
}

fn others_take_mail(stage: &mut Stage) {
    assert!(TcpStream::connect(stage.sandbox.node(&stage.sick).smtp).is_err());
    stage.post(&stage.leader());
    all_is_delivered(stage);
}

fn refuse(stage: &mut Stage) {
    stage.mailbox.has_only(&[]);
    stage.post(&stage.member());
    let refused = ["mail", "list", "--domain", DOMAIN, "--refused"];
    let id = wait_for("a refusal", SOON, || {
        let listed = stage.sandbox.ask(&stage.member(), &refused).stdout;
        let first: Value = serde_json::from_slice(listed.split(|b| *b == b'\n').next()?).ok()?;
        first["id"].as_str().map(str::to_owned)
    });
    stage.words.insert("ID", id);
}

fn restore_the_users(stage: &mut Stage) {
    stage.mailbox.has_only(&[JOE]);
}

/// A connection is kept, and the next is turned away.
fn leave_no_room(stage: &mut Stage) {
    let sick = stage.sick.clone();
    stage.set(&sick, "connections_per_client_max", "1");
    stage.sandbox.reload(&sick);
    wait_for("421", SOON, || (greetings(stage)[1] == 421).then_some(()));
}

fn make_room(stage: &mut Stage) {
    stage.set(&stage.sick, "connections_per_client_max", "1000");
}

fn there_is_room(stage: &mut Stage) {
    wait_for("room for two", SOON, || {
        (greetings(stage) == [220, 220]).then_some(())
    });
}

/// What two clients at once are greeted with.
fn greetings(stage: &Stage) -> [u16; 2] {
    let smtp = stage.sandbox.node(&stage.sick).smtp;
    let clients = [(); 2].map(|()| TcpStream::connect(smtp).expect("it listens"));
    clients.each_ref().map(|client| {
        let (mut client, mut code) = (client, [0; 3]);
        client.set_read_timeout(Some(SOON)).expect("a socket");
        client.read_exact(&mut code).expect("a greeting");
        let code = std::str::from_utf8(&code).expect("a code");
        code.parse().expect("a code")
    })
}

fn forget_a_drain(stage: &mut Stage) {
    let drain = ["node", "drain", &stage.sick];
    stage.sandbox.must(&stage.member(), &drain);
}

/// No election is over within a second.
fn fail_a_drill(stage: &mut Stage) {
    let drill = ["drill", "run", "--kind", "leader-loss", "--duration", "1s"];
    let ended = stage.sandbox.ask(&stage.member(), &drill);
    assert_eq!(ended.status.code(), Some(3), "{ended:?}");
    let last = stage.drills().pop().expect("a drill");
    assert_eq!(last["state"], "failed", "{last}");
    let id = last["id"].as_str().expect("an id").to_owned();
    stage.words.insert("ID", id);
}

fn last_drill_passed(stage: &mut Stage) {
    let last = stage.drills().pop().expect("a drill");
    assert_eq!(last["state"], "passed", "{last}");
    is_well(stage);
}

fn forget_drills(stage: &mut Stage) {
    pass(&stage.sandbox, "36d");
    stage.drills_before = stage.drills().len();
}

fn drills_go_on(stage: &mut Stage) {
    assert_eq!(stage.drills().len(), stage.drills_before + 1);
    last_drill_passed(stage);
    let remove = ["drill", "schedule", "remove", "weekly"];
    stage.sandbox.must(&stage.member(), &remove);
}

fn kill_one(stage: &mut Stage) {
    stage.sandbox.kill(&stage.sick.clone());
    stage.words.insert("DEAD", stage.sick.clone());
}

/// Not the leader alone, and one more: a majority.
fn kill_two(stage: &mut Stage) {
    let leader = stage.leader();
    stage.sandbox.kill(&leader);
    kill_one(stage);
}

/// It came back; now it does not.
fn lose_it_for_good(stage: &mut Stage) {
    is_well(stage);
    kill_one(stage);
}

fn lose_them_for_good(stage: &mut Stage) {
    wait_for("a quorum", SOON, || stage.sandbox.leader());
    let survivor = stage.member();
    kill_one(stage);
    stage.sick = survivor;
}

fn all_are_back(stage: &mut Stage) {
    for name in stage.sandbox.dead() {
        stage.sandbox.restart(&name);
    }
    is_well(stage);
}

/// A machine with a node that belongs to nobody, where the one was that is lost.
fn bring_another(stage: &mut Stage) {
    stage.count += 1;
    stage.new = format!("n{}", stage.count);
    stage.sandbox.add_beside(&stage.new, &stage.sick);
    stage.words.insert("NEW", stage.new.clone());
}

/// The page says it in words, behind the invitation.
fn let_another_join(stage: &mut Stage) {
    bring_another(stage);
    let join = ["cluster", "join", &stage.words["TOKEN"]];
    stage.sandbox.must(&stage.new, &join);
}

fn lose_it_and_bring_another(stage: &mut Stage) {
    lose_it_for_good(stage);
    bring_another(stage);
}

fn it_was_replaced(stage: &mut Stage) {
    stage.sandbox.forget(&stage.sick.clone());
    stage.new.clear();
    is_well(stage);
    let status = stage.sandbox.status().expect("a status");
    assert_eq!(
        status["nodes"].as_array().map(Vec::len),
        Some(3),
        "{status}"
    );
}

fn four_of_them(stage: &mut Stage) {
    bring_another(stage);
    stage.sandbox.join(&stage.new, &stage.leader());
    stage.sick = stage.new.clone();
    is_well(stage);
    let file = stage.folder().join("ann.pem").display().to_string();
    stage.words.insert("NODE", stage.sick.clone());
    stage.words.insert("NAME", "ann".to_owned());
    stage.words.insert("FILE", file);
}

fn kill_the_fourth(stage: &mut Stage) {
    kill_one(stage);
}

fn authority_was_replaced(stage: &mut Stage) {
    it_was_replaced(stage);
    let status = stage.sandbox.status().expect("a status");
    assert_eq!(status["rotation"], Value::Null, "{status}");
}

/// A primary that puts everybody off.
struct Greylister {
    stop: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Greylister {
    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the primary's port");
        listener.set_nonblocking(true).expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let listening = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client may go at any time.
                    Ok((client, _)) => drop(put_off(&client)),
                    Err(_) => sleep(Duration::from_millis(20)),
                }
            }
        });
        Self {
            stop,
            listening: Some(listening),
        }
    }
}

impl Drop for Greylister {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            drop(listening.join());
        }
    }
}

/// Answers whatever is said with the same: it is enough for a client that says EHLO first.
fn put_off(mut client: &TcpStream) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    client.write_all(b"220 primary.test ESMTP\r\n")?;
    let mut heard = [0; 4096];
    loop {
        match client.read(&mut heard)? {
            0 => return Ok(()),
            _ if heard.starts_with(b"EHLO") => client.write_all(b"250 primary.test\r\n")?,
            _ if heard.starts_with(b"MAIL") => client.write_all(b"250 2.1.0 ok\r\n")?,
            _ => client.write_all(b"451 4.7.1 greylisted, come again later\r\n")?,
        }
    }
}

/// What a node tells Prometheus.
fn metrics(sandbox: &Sandbox, name: &str) -> String {
    let text = fs::read_to_string(&sandbox.node(name).config).expect("a configuration");
    let (_, section) = text.split_once("[metrics]").expect("a section");
    let address = section.split('"').nth(1).expect("an address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).expect("a socket");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    page
}

#[test]
fn every_series_is_explained_and_its_name_says_what_it_is() {
    let _alone = alone();
    let sandbox = Sandbox::start(1, DOMAIN, Mailbox::new().address());
    let drill = [
        "drill",
        "run",
        "--kind",
        "primary-outage",
        "--duration",
        "1s",
    ];
    sandbox.must("n1", &drill);
    let page = metrics(&sandbox, "n1");
    for line in [
        "holdfast_drained 0.0",
        "holdfast_drill_pretends 0.0",
        "holdfast_drill_last_passed{kind=\"primary-outage\"} 1.0",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    let help: BTreeMap<&str, &str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .collect();
    let kinds = page.lines();
    let kinds = kinds.filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut seen = 0;
    for (name, kind) in kinds {
        seen += 1;
        let told = help.get(name).copied().unwrap_or_default();
        assert!(told.len() > 10, "{name} is not explained: {told:?}");
        assert!(name.starts_with("holdfast_"), "{name}");
        // OpenMetrics has the names of counters without their _total here.
        let misleads = ["_total", "_sum", "_count", "_bucket"];
        assert!(!misleads.iter().any(|end| name.ends_with(end)), "{name}");
        let series: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line[name.len()..].split([' ', '{']).next())
            .collect();
        match kind {
            "counter" => assert!(!series.contains(&""), "{name}: {series:?}"),
            "gauge" => assert!(!series.contains(&"_total"), "{name}: {series:?}"),
            "histogram" => assert!(
                name.ends_with("_seconds") || name.ends_with("_bytes"),
                "{name} says no unit"
            ),
            _ => panic!("{name} is a {kind}"),
        }
    }
    assert!(seen > 30, "{seen} series\n{page}");
}
