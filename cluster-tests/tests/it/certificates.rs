//! The cluster's certificates end, and its authority is replaced, while mail flows; and people use it
//! from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use holdfast_cluster_tests::harness::{Run, apart, free_port, node_binary, wait_for};
use holdfast_cluster_tests::history::Fault;

use crate::{ALWAYS_TRIED, beside_others};

const TIME_MAX: Duration = Duration::from_secs(60);

/// Nodes' certificates are good for so long: a renewal every twenty seconds.
const LIFE_SECONDS: u64 = 30;

/// Starts each node again, one after another, with more in its file.
fn configure(run: &mut Run, more: impl Fn(&str) -> (String, String)) {
    for node in run.sandbox.names() {
        let file = run.sandbox.node(&node).config.clone();
        let text = fs::read_to_string(&file).expect("its file");
        let (before, behind) = more(&node);
        fs::write(&file, format!("{before}\n{text}\n{behind}\n")).expect("it is written");
        run.kill(&node);
        run.restart(&node);
        run.sandbox.wait_until_healthy(TIME_MAX);
    }
}

/// When the certificate of each node ends.
fn ends(run: &Run) -> BTreeMap<String, String> {
    let status = run.sandbox.status().unwrap_or_default();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes
        .iter()
        .filter_map(|node| {
            let ends = node["certificate_ends_at"].as_str()?;
            Some((node["name"].as_str()?.to_owned(), ends.to_owned()))
        })
        .collect()
}

fn not_using(run: &Run) -> Option<Vec<String>> {
    let rotation = run.sandbox.status()?["rotation"].clone();
    let list = rotation["not_using"].as_array()?.clone();
    Some(
        list.iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect(),
    )
}

fn errors(ran: &Output) -> String {
    String::from_utf8_lossy(&ran.stderr).into_owned()
}

#[test]
fn the_authority_is_replaced_under_load_while_the_leader_dies_and_then_certificates_end() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        configure(&mut run, |_| {
            let life = format!("sandbox_certificate_life_seconds = {LIFE_SECONDS}");
            (life, String::new())
        });
        run.send(4);
        run.wait_for_acknowledged(20);

        // Begun at one node; the leader dies before it has moved, and whoever watches goes away.
        let leader = run.leader();
        let other = run.sandbox.alive().into_iter().find(|name| *name != leader);
        let other = other.expect("three nodes");
        run.sandbox
            .must(&other, &["cluster", "rotate-ca", "--dry-run"]);
        assert_eq!(not_using(&run), None, "a dry run changes nothing");
        let mut watching = Command::new(node_binary())
            .args(["cluster", "rotate-ca", "--config"])
            .arg(&run.sandbox.node(&other).config)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        wait_for("the rotation's beginning", TIME_MAX, || not_using(&run));
        run.kill(&leader);
        watching.kill().expect("it is ours");
        watching.wait().expect("it is ours");
        run.wait_for_recovery(Fault::Kill, TIME_MAX);

        // Nobody is locked out, by this or by anything that takes its time.
        std::thread::sleep(Duration::from_secs(5));
        let finish = ["cluster", "rotate-ca", "--finish"];
        let ran = run.sandbox.ask(&other, &finish);
        assert_eq!(ran.status.code(), Some(5), "{}", errors(&ran));
        assert!(errors(&ran).contains(&leader), "{}", errors(&ran));
        run.restart(&leader);
        // Typed again, it follows what goes on by itself.
        run.sandbox.must(&other, &["cluster", "rotate-ca"]);
        assert_eq!(not_using(&run), Some(vec![]));
        run.sandbox.must(&other, &finish);
        assert_eq!(not_using(&run), None);
        run.sandbox.wait_until_healthy(TIME_MAX);

        // From here on what the nodes joined with is of no use, and what they have ends soon.
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        wait_for("three certificates for each node", TIME_MAX * 2, || {
            for (node, ends) in ends(&run) {
                seen.entry(node).or_default().insert(ends);
            }
            (seen.len() == 3 && seen.values().all(|ends| ends.len() >= 3)).then_some(())
        });
        run.kill(&other);
        run.wait_for_recovery(Fault::Kill, TIME_MAX);
        run.restart(&other);
        run.sandbox.wait_until_healthy(TIME_MAX);
        run.wait_for_acknowledged(40);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

#[test]
fn people_elsewhere_may_do_what_their_role_says_until_they_are_revoked() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        let mut ports = BTreeMap::new();
        for node in run.sandbox.names() {
            ports.insert(node, SocketAddr::from(([127, 0, 0, 1], free_port())));
        }
        configure(&mut run, |node| {
            let listen = format!("[admin]\nlisten = \"{}\"", ports[node]);
            (String::new(), listen)
        });
        let folder = run.sandbox.folder().expect("a folder").to_owned();
        let grant = |name: &str, role: &str| {
            let out = folder.join(format!("{name}-{role}.pem"));
            let file = out.to_str().expect("it is").to_owned();
            let granted = ["access", "grant", name, "--role", role, "--out", &file];
            run.sandbox.must("n1", &granted);
            file
        };
        // A node and what to ask it, from elsewhere.
        let ask = |file: &str, node: &str, command: &[&str]| {
            let address = ports[node].to_string();
            let afar = ["--node", &address, "--identity", file];
            let ran = run.sandbox.ask(node, &[command, &afar[..]].concat());
            (ran.status.code(), errors(&ran))
        };
        let (ann, joe) = (grant("ann", "viewer"), grant("joe", "admin"));
        assert_eq!(ask(&ann, "n2", &["status"]).0, Some(0));
        let remove = ["domain", "remove", "nobody.example"];
        let (code, errors) = ask(&ann, "n2", &remove);
        assert_eq!(code, Some(5), "{errors}");
        assert!(errors.contains("ann is viewer"), "{errors}");
        // An operator gets as far as the ledger.
        let liz = grant("liz", "operator");
        assert_eq!(ask(&liz, "n3", &remove).0, Some(6));
        assert_eq!(ask(&liz, "n3", &["cluster", "invite"]).0, Some(5));
        assert_eq!(ask(&joe, "n3", &["cluster", "invite"]).0, Some(0));

        // Another file for the same name: the one from before is void.
        let ann_again = grant("ann", "operator");
        wait_for("the void of the old file", TIME_MAX, || {
            (ask(&ann, "n2", &["status"]).0 == Some(5)).then_some(())
        });
        assert_eq!(ask(&ann_again, "n2", &["status"]).0, Some(0));
        assert_eq!(ask(&joe, "n1", &["access", "revoke", "ann"]).0, Some(0));
        for node in ["n1", "n2", "n3"] {
            wait_for("ann's end everywhere", TIME_MAX, || {
                (ask(&ann_again, node, &["status"]).0 == Some(5)).then_some(())
            });
        }

        // Who did it, and from where.
        let audit = run.sandbox.ask("n1", &["audit"]);
        let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
        let told = |words: [&str; 3]| {
            let has = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(audit.lines().any(has), "{words:?}: {audit}");
        };
        told(["joe (admin)", "127.0.0.1", "access of ann revoked"]);
        told(["joe (admin)", "via n3", "a node invited to join"]);
        told([
            "uid",
            "the admin socket of n1",
            "access granted to liz as operator",
        ]);
    });
}
