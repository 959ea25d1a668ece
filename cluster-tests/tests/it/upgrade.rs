//! Two versions run together: nodes of the binary of the version before are upgraded to this one.
//! `ops/upgrade-from REV` builds that binary, and runs these tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use holdfast_cluster_tests::harness::{Run, Sandbox, apart, node_binary, wait_for};
use holdfast_cluster_tests::random::{Random, seed};
use holdfast_cluster_tests::story::{Mailbox, Web, send};

use crate::maintenance::{Sender, exchangers, send_over_kept_lines};
use crate::{ALWAYS_TRIED, beside_others};

const DOMAIN: &str = "example.test";
const SOON: Duration = Duration::from_secs(60);

/// Names the binary of the version before.
const OLD_VARIABLE: &str = "HOLDFAST_OLD_BIN";

fn old_binary() -> Option<PathBuf> {
    let old = std::env::var_os(OLD_VARIABLE).map(PathBuf::from);
    if old.is_none() {
        eprintln!(
            "NOT RUN: {OLD_VARIABLE} names no binary of the version before; ops/upgrade-from does"
        );
    }
    old
}

/// Which binary each node runs, beside the cluster.
struct Fleet {
    old: PathBuf,
    new: PathBuf,
    runs: BTreeMap<String, PathBuf>,
}

impl Fleet {
    /// All nodes are of the version before.
    fn of(old: PathBuf, sandbox: &Sandbox) -> Self {
        let names = sandbox.names().into_iter();
        Self {
            runs: names.map(|name| (name, old.clone())).collect(),
            new: node_binary(),
            old,
        }
    }

    /// The nodes in the order in which they are upgraded: another for each seed.
    fn order(&self, random: &mut Random) -> Vec<String> {
        let mut names: Vec<String> = self.runs.keys().cloned().collect();
        for last in (1..names.len()).rev() {
            names.swap(last, random.between(0, last as u64) as usize);
        }
        names
    }

    /// As README's "Maintenance and upgrades" says.
    fn exchange(&mut self, sandbox: &mut Sandbox, name: &str, binary: &Path) {
        let other = self.runs.keys().find(|other| *other != name);
        let other = other.expect("three nodes").clone();
        let drained = sandbox.must(&other, &["node", "drain", name]);
        assert_eq!(drained["safe_to_stop"], true, "{drained}");
        sandbox.terminate(name);
        sandbox.restart_as(name, binary, &[]);
        self.runs.insert(name.to_owned(), binary.to_owned());
        sandbox.wait_until_healthy(SOON);
        sandbox.must(&other, &["node", "undrain", name]);
        wait_for(&format!("{name}'s duties"), SOON, || {
            let status = sandbox.status_of(name)?;
            let mut nodes = status["nodes"].as_array()?.iter();
            let node = nodes.find(|node| node["name"] == name)?;
            (node["drained"] == false).then_some(())
        });
    }

    fn upgrade(&mut self, sandbox: &mut Sandbox, name: &str) {
        let new = self.new.clone();
        self.exchange(sandbox, name, &new);
    }

    fn go_back(&mut self, sandbox: &mut Sandbox, name: &str) {
        let old = self.old.clone();
        self.exchange(sandbox, name, &old);
    }
}

/// Hands leadership to a node.
fn lead(sandbox: &Sandbox, name: &str) {
    wait_for(&format!("{name} to lead"), SOON, || {
        let leader = sandbox.leader()?;
        if leader == name {
            return Some(());
        }
        // Refused while the cluster is busy with something else.
        let asked = ["cluster", "transfer-leader", name];
        drop(sandbox.ask(&leader, &asked));
        None
    });
}

/// All nodes know this version's level, and the cluster is at the one before.
fn finalize(sandbox: &Sandbox, by: &str) {
    let done = sandbox.must(by, &["cluster", "finalize-upgrade"]);
    let (before, level) = (done["before"].as_u64(), done["level"].as_u64());
    assert_eq!(before.map(|before| before + 1), level, "{done}");
    for name in sandbox.names() {
        wait_for(&format!("the level at {name}"), SOON, || {
            (sandbox.status_of(&name)?["level"].as_u64() == level).then_some(())
        });
    }
}

#[test]
fn a_cluster_of_the_version_before_is_upgraded_without_a_failed_transaction() {
    let _turn = beside_others();
    let Some(old) = old_binary() else { return };
    apart(|| {
        let mut random = Random::new(seed());
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        let mut sandbox = Sandbox::start_by(&old, 3, DOMAIN, mailbox.address(), &[]);
        let mut fleet = Fleet::of(old, &sandbox);
        let exchangers = exchangers(&sandbox);
        let stop = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..3)
            .map(|at| {
                let (exchangers, stop) = (exchangers.clone(), stop.clone());
                thread::spawn(move || send_over_kept_lines(at, &exchangers, &stop))
            })
            .collect();
        let newcomer = Sender::start(exchangers);
        let order = fleet.order(&mut random);
        for (at, name) in order.iter().enumerate() {
            fleet.upgrade(&mut sandbox, name);
            if at == 0 {
                fleet.go_back(&mut sandbox, name);
                fleet.upgrade(&mut sandbox, name);
            }
            if at + 1 < order.len() {
                let refused = sandbox.ask(name, &["cluster", "finalize-upgrade"]);
                assert_eq!(refused.status.code(), Some(5), "{refused:?}");
            }
            for leader in fleet.order(&mut random) {
                lead(&sandbox, &leader);
                sleep(Duration::from_secs(1));
            }
        }
        finalize(&sandbox, &order[0]);
        sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let mut sent = newcomer.stop();
        for sender in senders {
            sent.extend(sender.join().expect("no transaction fails"));
        }
        assert!(sent.len() > 100, "{} were sent", sent.len());
        let received = mailbox.wait_for(sent.len(), SOON);
        for subject in &sent {
            let times = received
                .iter()
                .filter(|it| it.subject() == subject.as_str());
            assert_eq!(times.count(), 1, "{subject}");
        }
    });
}

const PASSWORD: &str = "correct horse battery staple";

/// Changes rows of many kinds, so that a version that applies one of these otherwise
/// than the other has other rows than it. Each round has names of its own.
fn change_much(sandbox: &Sandbox, by: &str, round: usize) {
    let (domain, account) = (format!("round{round}.test"), format!("ann{round}"));
    let (domain, account) = (domain.as_str(), account.as_str());
    let plan = format!("plan{round}");
    let node = sandbox.node(by);
    let file = sandbox.folder().expect("a folder").join("password");
    std::fs::write(&file, PASSWORD).expect("a file");
    let file = file.to_str().expect("a path");
    // Nobody listens there: what is held stays. The node that is asked may hear a moment later than the
    // leader that there is such a domain, and then cannot show it yet.
    let add = ["domain", "add", domain, "--primary", "127.0.0.1:9"];
    drop(sandbox.ask(by, &add));
    wait_for(&format!("{domain} at {by}"), SOON, || {
        let shown = sandbox.ask(by, &["domain", "show", domain]);
        shown.status.success().then_some(())
    });
    for command in [
        &["domain", "recipients", domain, "--add", "joe,ann,bob"][..],
        &["domain", "recipients", domain, "--remove", "bob"],
        &["domain", "recipients", domain, "--clear", "--add", "joe"],
        &["domain", "askers", domain, "nobody"],
        &["domain", "set", domain, "--atrn", "yes"],
        &[
            "plan", "add", &plan, "--price", "5.00 EUR", "--quota", "1GB",
        ],
        &["domain", "set", domain, "--plan", &plan],
        &[
            "account",
            "add",
            account,
            "--domain",
            domain,
            "--password-file",
            file,
        ],
        &[
            "account",
            "token",
            "add",
            account,
            "--scope",
            "read,deliver",
        ],
        &["account", "set", account, "--send-recipients", "7"],
    ] {
        sandbox.must(by, command);
    }
    let portal = Web::new(node.portal.expect("a portal"));
    let sign_in = |password| {
        let fields = [("name", account), ("password", password)];
        let reply = portal.send_form("/sign-in", &fields);
        reply.head.to_ascii_lowercase().contains("set-cookie:")
    };
    for _ in 0..6 {
        assert!(!sign_in("wrong"), "a wrong password");
    }
    assert!(!sign_in(PASSWORD), "it is locked");
    sandbox.must(by, &["account", "unlock", account]);
    wait_for("it to be unlocked", SOON, || {
        sign_in(PASSWORD).then_some(())
    });
    assert!(!sign_in("wrong"), "a wrong password");
    let to = format!("joe@{domain}");
    for subject in ["one", "two"] {
        wait_for("mail taken", SOON, || {
            (send(node.smtp, "bob@sender.test", &to, subject).code == 250).then_some(())
        });
    }
    for what in [
        &["mail", "hold", "--domain", domain, "--yes"][..],
        &["mail", "release", "--domain", domain, "--yes"],
        &["mail", "delete", "--domain", domain, "--yes"],
        &["mail", "undelete", "--domain", domain, "--yes"],
        &["mail", "discard", "--domain", domain, "--yes", "--held"],
    ] {
        sandbox.must(by, what);
    }
    // Some stay, some go.
    if round.is_multiple_of(2) {
        sandbox.must(by, &["account", "remove", account]);
        sandbox.must(by, &["domain", "remove", domain]);
    }
}

/// What the two versions do with one another, whichever of them leads.
fn live_together(run: &mut Run, fleet: &Fleet, random: &mut Random, round: &mut usize) {
    let order = fleet.order(random);
    for (at, leader) in order.iter().enumerate() {
        run.primaries_go_down();
        lead(&run.sandbox, leader);
        *round += 1;
        let by = &order[random.between(0, 2) as usize];
        change_much(&run.sandbox, by, *round);
        // A node that was away fetches entries and bodies of what came meanwhile.
        let away = &order[(at + 1) % order.len()];
        run.kill(away);
        run.wait_for_acknowledged(10);
        run.restart_as(away, &fleet.runs[away], &[]);
        run.sandbox.wait_until_healthy(SOON);
        run.wait_for_acknowledged(10);
        run.primaries_come_up();
        run.wait_for_acknowledged(10);
    }
}

#[test]
fn two_versions_that_lead_in_turn_lose_nothing_and_agree() {
    let _turn = beside_others();
    let Some(old) = old_binary() else { return };
    apart(|| {
        let mut random = Random::new(seed());
        let mut run = Run::start_by(&old);
        let mut fleet = Fleet::of(old, &run.sandbox);
        run.watch();
        run.send(4);
        run.primaries_come_up();
        run.wait_for_acknowledged(20);
        let mut round = 0;
        for (at, name) in fleet.order(&mut random).iter().enumerate() {
            run.primaries_go_down();
            run.wait_for_acknowledged(10);
            run.recorder.note(format!("{name} is upgraded"));
            fleet.upgrade(&mut run.sandbox, name);
            live_together(&mut run, &fleet, &mut random, &mut round);
            if at == 0 {
                run.recorder.note(format!("{name} goes back"));
                fleet.go_back(&mut run.sandbox, name);
                run.wait_for_acknowledged(10);
                fleet.upgrade(&mut run.sandbox, name);
            }
        }
        finalize(&run.sandbox, "n1");
        run.recorder.note("the upgrade is finalized");
        live_together(&mut run, &fleet, &mut random, &mut round);
        run.stop_sending();
        run.drain();
        // Kills may excuse every duplicate there is.
        let tried = ["replicas disagree", "two lease holders"];
        run.judge(&[ALWAYS_TRIED, &tried].concat());
    });
}

#[test]
fn a_node_of_the_version_before_joins_until_the_upgrade_is_finalized() {
    let _turn = beside_others();
    let Some(old) = old_binary() else { return };
    apart(|| {
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        let mut sandbox = Sandbox::start_by(&old, 3, DOMAIN, mailbox.address(), &[]);
        let mut fleet = Fleet::of(old.clone(), &sandbox);
        for name in sandbox.names() {
            fleet.upgrade(&mut sandbox, &name);
        }
        sandbox.add_beside_as("n4", "n1", &old);
        sandbox.join("n4", "n2");
        sandbox.wait_until_healthy(SOON);
        let early = sandbox.ask("n1", &["cluster", "finalize-upgrade"]);
        assert_eq!(early.status.code(), Some(5), "{early:?}");
        sandbox.must("n1", &["cluster", "leave", "n4"]);
        sandbox.forget("n4");
        finalize(&sandbox, "n1");

        sandbox.add_beside_as("n5", "n1", &old);
        let invited = sandbox.must("n2", &["cluster", "invite"]);
        let token = invited["token"].as_str().expect("a token");
        let refused = sandbox.ask("n5", &["cluster", "join", token]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{refused:?}");
        assert!(said.contains("feature level"), "{said}");
        sandbox.forget("n5");
        // Nor does one start that was a member.
        sandbox.kill("n3");
        sandbox.restart_as("n3", &old, &[]);
        wait_for("its end", SOON, || sandbox.ended("n3").map(drop));
        assert!(sandbox.log("n3").contains("feature level"));
        sandbox.kill("n3");
        sandbox.restart("n3");
        sandbox.wait_until_healthy(SOON);
    });
}
