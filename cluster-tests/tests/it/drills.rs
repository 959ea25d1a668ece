//! Failures are rehearsed on a live cluster, and end whatever happens.

use std::process::Output;
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, pass, send};
use serde_json::Value;

use crate::beside_others;

const DOMAIN: &str = "example.test";
const JOE: &str = "joe@example.test";
const BOB: &str = "bob@sender.test";
const SOON: Duration = Duration::from_secs(60);

/// What a command prints as objects, one a line.
fn objects(sandbox: &Sandbox, node: &str, command: &[&str]) -> Vec<Value> {
    let printed = sandbox.ask(node, command).stdout;
    let lines = printed
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).expect("an object"))
        .collect()
}

/// The report of a drill in which nothing was lost.
fn passed(ran: &Output) -> Value {
    let done: Value = serde_json::from_slice(&ran.stdout).expect("a report");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(done["state"], "passed", "{done}");
    let report = &done["report"];
    assert_eq!(report["lost"], 0, "{done}");
    assert_eq!(report["sent"], report["delivered"], "{done}");
    done
}

/// Waits for the failure of the drill after `before` others, as `node` says.
fn wait_for_the_failure(sandbox: &Sandbox, node: &str, before: usize) {
    wait_for("a failure to begin", SOON, || {
        let status = sandbox.status_of(node)?;
        let listed = objects(sandbox, node, &["drill", "list"]);
        let last = listed.get(before)?;
        let has_begun = last["events"].as_array()?.len() >= 2 && last["state"] == "under way";
        (has_begun && status["quorum"] == true).then_some(())
    });
}

#[test]
fn every_kind_of_failure_can_be_rehearsed_and_costs_no_mail() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let leader = sandbox.leader().expect("a leader");
    let other = sandbox.names().into_iter().find(|name| *name != leader);
    let other = other.expect("three nodes");

    let command = ["drill", "run", "--kind", "leader-loss", "--duration", "12s"];
    let running = sandbox.begin_asking(&other, &command);
    wait_for_the_failure(&sandbox, &other, 0);
    // Customers' mail goes the way it would if the leader were lost.
    let answer = send(sandbox.node(&other).smtp, BOB, JOE, "meanwhile");
    assert_eq!(answer.code, 250, "{answer:?}");
    mailbox.wait_for(1, SOON);
    let lost = passed(&running.wait_with_output().expect("a drill"));
    assert_eq!(lost["nodes"], serde_json::json!([leader]));
    let report = &lost["report"];
    let led = report["leader_ms"].as_u64().expect("another led");
    let gap = report["accept_gap_ms"].as_u64().expect("a gap");
    // Whoever waited for the one that was cut off does not wait for longer than that.
    assert!(gap < led + 4_000, "{lost}");
    assert_ne!(sandbox.leader().as_ref(), None);

    for (kind, duration) in [
        ("partition", "6s"),
        ("region-loss", "6s"),
        ("primary-outage", "6s"),
        ("disk-full", "3s"),
    ] {
        let command = ["drill", "run", "--kind", kind, "--duration", duration];
        let done = passed(&sandbox.ask("n1", &command));
        assert_eq!(done["kind"], kind);
    }
    // Every node tells of them, and none of the canaries is left.
    for name in sandbox.names() {
        let status = sandbox.status_of(&name).expect("a status");
        assert_eq!(
            status["drills"].as_array().map(Vec::len),
            Some(5),
            "{status}"
        );
        assert_eq!(status["held_messages"], 0, "{status}");
    }
    let domains = sandbox.ask("n2", &["domain", "list"]).stdout;
    assert!(!String::from_utf8_lossy(&domains).contains("drill.invalid"));
    let told = sandbox.ask("n3", &["audit"]).stdout;
    assert!(String::from_utf8_lossy(&told).contains("drill leader-loss begun, for 12 s"));
}

#[test]
fn a_drill_ends_by_hand_and_by_itself_when_its_conductor_dies_and_never_adds_to_a_real_failure() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let leader = sandbox.leader().expect("a leader");
    let others: Vec<String> = sandbox
        .names()
        .into_iter()
        .filter(|name| *name != leader)
        .collect();
    let [lost, conductor] = &others[..] else {
        panic!("three nodes: {others:?}");
    };

    let run = |duration| {
        let wish = [
            "--kind",
            "node-loss",
            "--target",
            lost,
            "--duration",
            duration,
        ];
        [&["drill", "run"][..], &wish].concat()
    };

    // By hand: long before its time.
    let running = sandbox.begin_asking(conductor, &run("10m"));
    wait_for_the_failure(&sandbox, conductor, 0);
    // Another cannot begin meanwhile, and nobody is taken out.
    for command in [
        &["drill", "run", "--kind", "primary-outage"][..],
        &["cluster", "leave", lost],
        &["cluster", "leave", lost, "--dry-run"],
        &["node", "drain", &leader],
    ] {
        let refused = sandbox.ask(conductor, command);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(5), "{command:?}: {said}");
        assert!(said.contains("drill"), "{command:?}: {said}");
    }
    let status = sandbox.status_of(conductor).expect("a status");
    let health = status["health"].as_str().expect("a text");
    let told = format!("A drill is on, node-loss of {lost}");
    assert!(health.contains(&told), "{health}");
    // For longer than anybody pretends unasked.
    sleep(Duration::from_secs(20));
    assert!(
        !sandbox.status_of(conductor).expect("a status")["healthy"]
            .as_bool()
            .expect("a word")
    );
    // The node that is cut off can end it too.
    sandbox.must(lost, &["drill", "stop"]);
    let stopped = running.wait_with_output().expect("a drill");
    assert_eq!(stopped.status.code(), Some(3), "{stopped:?}");
    let report: Value = serde_json::from_slice(&stopped.stdout).expect("a report");
    assert_eq!(report["state"], "stopped", "{report}");
    assert_eq!(report["report"]["lost"], 0, "{report}");
    let told = sandbox.ask(&leader, &["audit"]).stdout;
    assert!(String::from_utf8_lossy(&told).contains("drill node-loss stopped"));

    // By itself, long before its time: whoever conducts it dies.
    let running = sandbox.begin_asking(conductor, &run("10m"));
    wait_for_the_failure(&sandbox, &leader, 1);
    sandbox.kill(conductor);
    let broken = running.wait_with_output().expect("a drill");
    assert_eq!(broken.status.code(), Some(4), "{broken:?}");
    // The node that pretended to be lost is back in time, and two of three take mail.
    let answer = wait_for("mail to be taken", SOON, || {
        let answer = send(sandbox.node(&leader).smtp, BOB, JOE, "after");
        (answer.code == 250).then_some(answer)
    });
    assert_eq!(answer.code, 250);
    // It is not on any more, whoever was to tell of it.
    let ended = || {
        let shown = sandbox.ask(&leader, &["drill", "show"]).stdout;
        let shown: Value = serde_json::from_slice(&shown).ok()?;
        (shown["state"] == "unknown").then_some(())
    };
    wait_for("the end of the drill", SOON, ended);
    // With one node really lost there is no drill.
    let refused = sandbox.ask(&leader, &["drill", "run", "--kind", "primary-outage"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(said.contains("does not answer"), "{said}");
    // Back again, it conducts it no more.
    sandbox.restart(conductor);
    sandbox.wait_until_healthy(SOON);
}

/// Elements that are opened and not closed, or the other way round, apart from those whose end HTML lets
/// out. Only what our pages use: no comments, and scripts nowhere.
fn unbalanced(page: &str) -> Vec<String> {
    const WITHOUT_END: [&str; 8] = [
        "!doctype", "meta", "p", "tr", "td", "rect", "line", "polyline",
    ];
    let mut open: Vec<String> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("every tag ends");
        let name = tag.split([' ', '/']).find(|word| !word.is_empty());
        let name = name.expect("a tag has a name").to_owned();
        if tag.ends_with('/') || WITHOUT_END.contains(&name.as_str()) {
            continue;
        }
        match (tag.starts_with('/'), open.last() == Some(&name)) {
            (true, true) => drop(open.pop()),
            (true, false) => open.push(tag.to_owned()),
            (false, _) => open.push(name),
        }
    }
    open
}

#[test]
fn a_drill_outlives_the_terminal_that_began_it_and_its_page_shows_what_was_measured() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let command = ["drill", "run", "--kind", "node-loss", "--duration", "6s"];
    let mut running = sandbox.begin_asking("n1", &command);
    wait_for_the_failure(&sandbox, "n1", 0);
    running.kill().expect("it runs");
    running.wait().expect("its end");
    let done = wait_for("the report", SOON, || {
        let shown = objects(&sandbox, "n1", &["drill", "show"]).pop()?;
        shown["report"].is_object().then_some(shown)
    });
    assert_eq!(done["state"], "passed", "{done}");
    assert_eq!(done["report"]["lost"], 0, "{done}");

    let file = sandbox.folder().expect("a folder").join("drill.html");
    let path = file.to_str().expect("a path");
    sandbox.must("n2", &["drill", "show", "--html", path]);
    let page = std::fs::read_to_string(&file).expect("a page");
    assert_eq!(unbalanced(&page), Vec::<String>::new(), "{page}");
    assert!(page.contains("<title>Drill: node-loss of "), "{page}");
    assert!(
        !page.contains("<script") && !page.contains("http"),
        "{page}"
    );
    let (_, chart) = page.split_once("<svg ").expect("a chart");
    let (chart, _) = chart.split_once("</svg>").expect("its end");
    let seconds = done["report"]["accepted_per_s"].as_array().expect("counts");
    assert_eq!(chart.matches("class=in").count(), seconds.len(), "{chart}");
    for part in ["class=shade", "class=out", "class=mark"] {
        assert!(chart.contains(part), "{part}: {chart}");
    }
}

#[test]
fn a_node_that_is_killed_while_it_pretends_goes_on_when_it_is_back_and_is_whole_when_it_is_over() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let leader = sandbox.leader().expect("a leader");
    let lost = sandbox.names().into_iter().find(|name| *name != leader);
    let lost = lost.expect("three nodes");
    let run = ["drill", "run", "--kind", "node-loss", "--target", &lost];
    let running = sandbox.begin_asking(&leader, &[&run[..], &["--duration", "10m"]].concat());
    wait_for_the_failure(&sandbox, &leader, 0);
    sandbox.kill(&lost);
    sandbox.restart(&lost);
    wait_for("its last word on it", SOON, || {
        let log = sandbox.log(&lost);
        (log.matches("this node pretends a failure").count() == 2).then_some(())
    });
    sandbox.must(&leader, &["drill", "stop"]);
    let stopped = running.wait_with_output().expect("a drill");
    let report: Value = serde_json::from_slice(&stopped.stdout).expect("a report");
    assert_eq!(report["state"], "stopped", "{report}");
    assert_eq!(report["report"]["lost"], 0, "{report}");
    sandbox.wait_until_healthy(SOON);
    let answer = wait_for("mail to be taken", SOON, || {
        let answer = send(sandbox.node(&lost).smtp, BOB, JOE, "it serves");
        (answer.code == 250).then_some(answer)
    });
    assert_eq!(answer.code, 250);
    mailbox.wait_for(1, SOON);
}

#[test]
fn a_drill_begins_by_the_calendar_and_one_that_cannot_begin_says_why() {
    let _turn = beside_others();
    let mut mailbox = Mailbox::new();
    mailbox.come_up();
    let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
    let set = ["drill", "schedule", "set", "weekly", "--duration", "2s"];
    for (wish, exit, why) in [
        (
            &["--kind", "node-loss", "--region", "eu", "--every", "7d"][..],
            2,
            "only region-loss and partition have a region",
        ),
        (
            &["--kind", "region-loss", "--region", "mars", "--every", "7d"],
            2,
            "the regions are ap, eu, us",
        ),
        (
            &["--kind", "region-loss", "--every", "30m"],
            2,
            "must be at least 1h",
        ),
        (&["--kind", "primary-outage", "--every", "7d"], 0, ""),
    ] {
        let asked = sandbox.ask("n1", &[&set[..], wish].concat());
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert_eq!(asked.status.code(), Some(exit), "{wish:?}: {said}");
        assert!(said.contains(why), "{wish:?}: {said}");
    }
    let removed = sandbox.ask("n1", &["drill", "schedule", "remove", "monthly"]);
    assert_eq!(removed.status.code(), Some(6), "{removed:?}");

    pass(&sandbox, "7d");
    let done = wait_for("the drill that is due", SOON, || {
        let done = objects(&sandbox, "n2", &["drill", "list"]).pop()?;
        done["report"].is_object().then_some(done)
    });
    assert_eq!(done["kind"], "primary-outage", "{done}");
    assert_eq!(done["state"], "passed", "{done}");

    sandbox.kill("n3");
    pass(&sandbox, "7d");
    wait_for("the reason", SOON, || {
        let told = sandbox.ask("n1", &["audit"]).stdout;
        let told = String::from_utf8_lossy(&told).into_owned();
        let says = told.contains("schedule weekly") && told.contains("n3 does not answer");
        says.then_some(())
    });
    assert_eq!(objects(&sandbox, "n1", &["drill", "list"]).len(), 1);
    // It is tried again.
    sandbox.restart("n3");
    sandbox.wait_until_healthy(SOON);
    pass(&sandbox, "1h");
    wait_for("the drill that waited", SOON, || {
        let listed = objects(&sandbox, "n3", &["drill", "list"]);
        (listed.get(1)?["state"] == "passed").then_some(())
    });
}
