//! A node that is not a member any more, or never was, is told so and takes no mail.

use std::time::Duration;

use holdfast_cluster_tests::harness::{Load, Run, Sandbox, Session, apart, wait_for};
use holdfast_cluster_tests::story::send;
use serde_json::Value;

use crate::beside_others;

const TIME_MAX: Duration = Duration::from_secs(60);
const JOE: &str = "joe@example.test";
/// For a stranger to do harm in, if it can.
const LINGER: Duration = Duration::from_secs(5);

/// Tries to hand a letter to `node`; true if it was acknowledged.
fn takes_mail(sandbox: &Sandbox, load: &Load, node: &str) -> bool {
    let Ok(session) = Session::open(node, sandbox.node(node).smtp) else {
        return false;
    };
    session
        .give(load, &load.letter(), false)
        .is_some_and(|(code, _)| code < 400)
}

fn member<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["nodes"]
        .as_array()?
        .iter()
        .find(|node| node["name"] == name)
}

#[test]
fn a_removed_node_is_refused() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        run.sandbox.must("n1", &["cluster", "leave", "n3"]);
        let status = wait_for("n3's departure", TIME_MAX, || {
            let status = run.sandbox.status_of("n1")?;
            (member(&status, "n3").is_none() && status["healthy"] == true).then_some(status)
        });
        assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2));

        // It comes back with everything it had.
        run.kill("n3");
        run.restart("n3");
        wait_for("the news that n3 was removed", TIME_MAX, || {
            run.sandbox
                .log("n3")
                .contains("removed from its cluster")
                .then_some(())
        });
        wait_for("the end of n3", TIME_MAX, || {
            run.sandbox.ended("n3").filter(|code| *code != 0)
        });
        assert!(!takes_mail(&run.sandbox, &run.load, "n3"));

        // The others go on without it.
        assert!(takes_mail(&run.sandbox, &run.load, "n1"));
        let status = run.sandbox.status_of("n1").expect("n1 answers");
        assert_eq!(status["healthy"], true);
        assert!(member(&status, "n3").is_none());
    });
}

#[test]
fn a_wiped_node_is_refused() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        run.kill("n3");
        let data = run.sandbox.node("n3").data_dir.clone();

        // Its database is gone, its identity is not: it may have acknowledged what it no longer has.
        for entry in std::fs::read_dir(&data)
            .expect("a data directory")
            .flatten()
        {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "identity"
            {
                std::fs::remove_dir_all(entry.path()).expect("removed");
            }
        }
        run.restart("n3");
        let code = wait_for("the end of n3", TIME_MAX, || run.sandbox.ended("n3"));
        assert_ne!(code, 0);
        assert!(!takes_mail(&run.sandbox, &run.load, "n3"));

        // Everything is gone: it is a stranger with a member's address.
        run.kill("n3");
        std::fs::remove_dir_all(&data).expect("removed");
        run.restart("n3");
        wait_for("n3 without a cluster", TIME_MAX, || {
            run.sandbox.status_of("n3")?["cluster_id"]
                .is_null()
                .then_some(())
        });
        std::thread::sleep(LINGER);
        // A sender that finds it in the DNS goes on to the next one at once.
        let told = send(run.sandbox.node("n3").smtp, "bob@sender.test", JOE, "hello");
        assert_eq!(told.code, 421, "{told:?}");
        let status = run.sandbox.status_of("n1").expect("n1 answers");
        let n3 = member(&status, "n3").expect("n3 is a member until it is removed");
        assert_eq!(n3["reachable"], false);
        assert_eq!(status["quorum"], true);
        assert!(takes_mail(&run.sandbox, &run.load, "n1"));
    });
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        let mut other = Sandbox::start(
            1,
            "elsewhere.test",
            "127.0.0.1:9".parse().expect("an address"),
        );
        let other_cluster = other.status().expect("it answers")["cluster_id"].clone();

        // It takes the address of a member that is dead.
        run.kill("n3");
        other.kill("n1");
        let config = other.node("n1").config.clone();
        let text = std::fs::read_to_string(&config).expect("a configuration");
        let (theirs, ours) = (
            other.node("n1").cluster.to_string(),
            run.sandbox.node("n3").cluster.to_string(),
        );
        assert!(text.contains(&theirs));
        std::fs::write(&config, text.replace(&theirs, &ours)).expect("written");
        other.restart("n1");
        wait_for("the stranger", TIME_MAX, || {
            (other.status_of("n1")?["cluster_id"] == other_cluster).then_some(())
        });
        std::thread::sleep(LINGER);

        let status = run.sandbox.status_of("n1").expect("n1 answers");
        assert_ne!(status["cluster_id"], other_cluster);
        let n3 = member(&status, "n3").expect("n3 is a member");
        assert_eq!(n3["reachable"], false);
        assert!(!n3["error"].is_null(), "the reason is told: {n3}");
        // Neither has taken the other's members or domains.
        let theirs = other.status_of("n1").expect("it answers");
        assert_eq!(theirs["nodes"].as_array().map(Vec::len), Some(1));
        assert!(
            !takes_mail(&other, &run.load, "n1"),
            "example.test is no domain of that cluster"
        );
        assert!(takes_mail(&run.sandbox, &run.load, "n2"));
    });
}

/// Somebody puts a machine back to an older state of its disk, or the disk lied when it said that
/// entries were on it: what the node acknowledged since is gone there.
#[test]
fn a_node_put_back_to_an_older_disk_is_noticed_and_holds_nobody_up() {
    let _turn = beside_others();
    apart(|| {
        let mut run = Run::start();
        let leader = run.leader();
        let names = run.sandbox.names();
        let victim = names.iter().find(|name| **name != leader);
        let victim = victim.expect("a follower").clone();
        let data = run.sandbox.node(&victim).data_dir.clone();
        let older = data.with_extension("older");
        let copy = |from: &std::path::Path, to: &std::path::Path| {
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .args([from, to])
                .status();
            assert!(copied.expect("cp").success());
        };
        run.kill(&victim);
        copy(&data, &older);
        run.restart(&victim);
        run.sandbox.wait_until_healthy(TIME_MAX);
        for _ in 0..5 {
            assert!(takes_mail(&run.sandbox, &run.load, &victim));
        }
        run.kill(&victim);
        std::fs::remove_dir_all(&data).expect("removed");
        copy(&older, &data);
        run.restart(&victim);
        wait_for("the news that it lost entries", TIME_MAX, || {
            let log = run.sandbox.log(&leader);
            log.contains("lost entries of the log").then_some(())
        });
        // The others have all of it, and go on.
        assert!(takes_mail(&run.sandbox, &run.load, &leader));
    });
}
