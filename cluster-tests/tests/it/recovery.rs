//! A cluster is founded anew: from a copy in a file, and from what is left when a quorum is lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, node_binary, wait_for};
use holdfast_cluster_tests::story::{Mailbox, send};
use serde_json::Value;

use crate::beside_others;

const DOMAIN: &str = "example.test";
const JOE: &str = "joe@example.test";
const BOB: &str = "bob@sender.test";
const SOON: Duration = Duration::from_secs(60);
const HELD: usize = 20;
/// Several elections.
const A_WHILE: Duration = Duration::from_secs(8);

fn hold_mail(sandbox: &Sandbox) {
    for number in 0..HELD {
        let answer = send(
            sandbox.node("n1").smtp,
            BOB,
            JOE,
            &format!("number {number}"),
        );
        assert_eq!(answer.code, 250, "{answer:?}");
    }
}

/// On the data of a node that is stopped.
fn offline(config: &Path, command: &[&str]) -> Output {
    Command::new(node_binary())
        .args(command)
        .arg("--json")
        .arg("--config")
        .arg(config)
        .output()
        .expect("the binary runs")
}

fn must(config: &Path, command: &[&str]) -> Value {
    let mut ran = offline(config, command);
    wait_for("the lock of a node that was killed", SOON, || {
        let is_locked = String::from_utf8_lossy(&ran.stderr).contains("LOCK");
        if is_locked {
            ran = offline(config, command);
        }
        (!is_locked).then_some(())
    });
    assert!(
        ran.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    serde_json::from_slice(&ran.stdout).expect("an answer")
}

fn subjects(mailbox: &Mailbox, count: usize) -> Vec<String> {
    let received = mailbox.wait_for(count, SOON);
    let mut subjects: Vec<String> = received.iter().map(|it| it.subject().to_owned()).collect();
    subjects.sort_unstable();
    subjects
}

fn all() -> Vec<String> {
    let mut all: Vec<String> = (0..HELD).map(|number| format!("number {number}")).collect();
    all.sort_unstable();
    all
}

#[test]
fn what_one_survivor_has_becomes_a_new_cluster_and_the_lost_nodes_never_come_back() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    hold_mail(&sandbox);
    let old = sandbox.status().expect("a status")["cluster_id"].clone();
    sandbox.kill("n3");
    let last = send(sandbox.node("n2").smtp, BOB, JOE, "of n1 and n2 alone");
    assert_eq!(last.code, 250, "{last:?}");
    for name in ["n1", "n2"] {
        sandbox.kill(name);
    }
    let file = sandbox.node("n2").config.clone();
    let other = sandbox.node("n3").config.clone();
    let folder = sandbox.folder().expect("a folder").to_owned();
    let [copy_2, copy_3] = ["copy-2", "copy-3"].map(|name| {
        let path = folder.join(name);
        path.to_str().expect("a path").to_owned()
    });
    let seen = must(&file, &["cluster", "recover", "inspect"]);
    assert_eq!(seen["held_messages"], HELD + 1, "{seen}");
    must(&file, &["snapshot", "save", "--stopped", &copy_2]);
    must(&other, &["snapshot", "save", "--stopped", &copy_3]);
    // Begun at the one that knows less, it would lose what the other knows.
    let less = ["cluster", "recover", "start", "--with", &copy_2];
    let refused = offline(&other, &less);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let start = ["cluster", "recover", "start", "--with", &copy_3];
    let would = must(&file, &[&start[..], &["--dry-run"]].concat());
    assert_eq!(would["nodes_unheard"], serde_json::json!(["n1"]), "{would}");
    assert_eq!(would["is_majority"], true, "{would}");
    assert_eq!(would["taken"], 0, "{would}");
    let made = must(&file, &start);
    assert_ne!(made["cluster_id"], old, "{made}");
    assert_eq!(made["missing_content"], would["missing_content"]);
    assert_eq!(made["set_aside"], HELD + 1, "{made}");
    // Nobody does it twice by mistake.
    let twice = offline(&file, &["cluster", "recover", "start"]);
    assert_eq!(twice.status.code(), Some(5), "{twice:?}");
    assert!(file.with_file_name("n2.before-recovery").is_dir());

    sandbox.restart("n2");
    mailbox.come_up();
    wait_for("the new cluster", SOON, || {
        (sandbox.status_of("n2")?["quorum"] == true).then_some(())
    });
    let status = sandbox.status_of("n2").expect("a status");
    assert_eq!(status["cluster_id"], made["cluster_id"], "{status}");
    assert_eq!(
        status["nodes"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
    // It takes new mail and delivers it; what may have been delivered before waits for a word.
    let answer = send(sandbox.node("n2").smtp, BOB, JOE, "new");
    assert_eq!(answer.code, 250, "{answer:?}");
    assert_eq!(subjects(&mailbox, 1), ["new"]);
    // A lost node that comes back finds nobody who knows it.
    sandbox.restart("n1");
    wait_for("n1 to answer", SOON, || sandbox.status_of("n1").map(drop));
    sleep(A_WHILE);
    let alone = sandbox.status_of("n1").expect("a status");
    assert_eq!(alone["quorum"], false, "{alone}");
    let status = sandbox.status_of("n2").expect("a status");
    assert_eq!(status["healthy"], true, "{status}");
    sandbox.kill("n1");

    sandbox.must("n2", &["mail", "release", "--domain", DOMAIN, "--yes"]);
    let mut expected = all();
    expected.extend(["new", "of n1 and n2 alone"].map(str::to_owned));
    expected.sort_unstable();
    assert_eq!(subjects(&mailbox, HELD + 2), expected);
    // Others join as to any cluster.
    let n3 = sandbox.node("n3").clone();
    fs::remove_dir_all(&n3.data_dir).expect("the old data goes");
    sandbox.restart("n3");
    wait_for("n3 to answer", SOON, || sandbox.status_of("n3").map(drop));
    sandbox.join("n3", "n2");
    let status = sandbox.status_of("n3").expect("a status");
    assert_eq!(
        status["nodes"].as_array().map(Vec::len),
        Some(2),
        "{status}"
    );
}

#[test]
fn a_copy_of_a_running_cluster_is_restored_elsewhere_and_a_damaged_one_is_not() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    hold_mail(&sandbox);
    let folder = sandbox.folder().expect("a folder").to_owned();
    let copy = folder.join("copy");
    let copy = copy.to_str().expect("a path");
    let saved = sandbox.must("n3", &["snapshot", "save", copy]);
    assert_eq!(saved["bodies"], HELD, "{saved}");
    let again = sandbox.ask("n3", &["snapshot", "save", copy]);
    assert!(!again.status.success(), "a copy is not written over");

    let damaged = folder.join("damaged");
    let mut bytes = fs::read(copy).expect("the copy");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).expect("a file");
    let damaged = damaged.to_str().expect("a path");
    let refused = sandbox.ask("n3", &["snapshot", "inspect", damaged]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");

    // A node without the others may lack what they have: nobody takes its copy for a whole one.
    sandbox.kill("n1");
    sandbox.kill("n2");
    let other = folder.join("other");
    wait_for("the refusal of a copy", SOON, || {
        let _of_before = fs::remove_file(&other);
        let command = ["snapshot", "save", other.to_str()?];
        let refused = sandbox.ask("n3", &command);
        (refused.status.code() == Some(5)).then_some(())
    });
    assert!(!folder.join("other.part").exists());
    sandbox.kill("n3");
    let node = sandbox.node("n1").clone();
    let not_empty = offline(&node.config, &["snapshot", "restore", copy]);
    assert_eq!(not_empty.status.code(), Some(5), "{not_empty:?}");
    fs::rename(&node.data_dir, folder.join("n1.old")).expect("the old data moves");
    let not_whole = offline(&node.config, &["snapshot", "restore", damaged]);
    assert!(!not_whole.status.success());
    assert!(!node.data_dir.join("identity").exists());
    let made = must(&node.config, &["snapshot", "restore", copy, "--deliver"]);
    assert_eq!(made["bodies"], HELD, "{made}");
    sandbox.restart("n1");
    mailbox.come_up();
    assert_eq!(subjects(&mailbox, HELD), all());
}
