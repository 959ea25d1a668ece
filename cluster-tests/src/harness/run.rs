//! One run: a cluster, its senders, the primaries of two domains, and the judgement at the end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::primary::Primary;
use super::sandbox::Sandbox;
use super::sender::Load;
use super::wait_for;
use crate::history::Recorder;
use crate::invariants::{self, Verdict, acknowledged_mail_lost};
use crate::random::{SEED_VARIABLE, seed};

/// Two, so that a message can go to both.
pub const DOMAINS: [&str; 2] = ["example.test", "other.test"];

const ACKNOWLEDGE_TIME_MAX: Duration = Duration::from_secs(60);
const DELIVER_TIME_MAX: Duration = Duration::from_secs(300);
/// For what should not come any more.
const LINGER: Duration = Duration::from_secs(2);

pub struct Run {
    pub sandbox: Sandbox,
    pub recorder: Arc<Recorder>,
    pub load: Arc<Load>,
    pub seed: u64,
    primaries: Vec<Primary>,
    senders: Vec<JoinHandle<()>>,
}

impl Run {
    /// Three nodes, two protected domains, both primaries down, nobody sending yet.
    #[must_use]
    pub fn start() -> Self {
        let seed = seed();
        let recorder = Arc::new(Recorder::default());
        let primaries: Vec<Primary> = DOMAINS
            .iter()
            .zip(seed..)
            .map(|(domain, seed)| Primary::new(domain, seed, Arc::clone(&recorder)))
            .collect();
        let sandbox = Sandbox::start(3, DOMAINS[0], primaries[0].address());
        let other = primaries[1].address().to_string();
        sandbox.must("n1", &["domain", "add", DOMAINS[1], "--primary", &other]);
        let nodes = sandbox
            .nodes()
            .iter()
            .map(|node| (node.name.clone(), node.smtp))
            .collect();
        let load = Arc::new(Load::new(nodes, &DOMAINS, seed, Arc::clone(&recorder)));
        Self {
            sandbox,
            recorder,
            load,
            seed,
            primaries,
            senders: Vec::new(),
        }
    }

    pub fn send(&mut self, senders: usize) {
        self.senders = self.load.start(senders);
    }

    /// Waits until `count` more messages have been acknowledged than now.
    pub fn wait_for_acknowledged(&self, count: usize) {
        let wanted = self.recorder.history().acknowledged() + count;
        wait_for(
            &format!("{count} more acknowledgements"),
            ACKNOWLEDGE_TIME_MAX,
            || (self.recorder.history().acknowledged() >= wanted).then_some(()),
        );
    }

    /// Lets the senders finish what they are at.
    pub fn stop_sending(&mut self) {
        self.load.stop();
        for sender in self.senders.drain(..) {
            assert!(sender.join().is_ok(), "a sender panicked");
        }
    }

    pub fn kill(&mut self, node: &str) {
        self.recorder.note(format!("kill -9 {node}"));
        self.sandbox.kill(node);
    }

    pub fn restart(&mut self, node: &str) {
        self.recorder.note(format!("start {node}"));
        self.sandbox.restart(node);
    }

    /// The leader, once there is one.
    #[must_use]
    pub fn leader(&self) -> String {
        wait_for("a leader", ACKNOWLEDGE_TIME_MAX, || self.sandbox.leader())
    }

    pub fn primaries_come_up(&mut self) {
        self.primaries.iter_mut().for_each(Primary::come_up);
    }

    pub fn primaries_go_down(&mut self) {
        self.primaries.iter_mut().for_each(Primary::go_down);
    }

    /// Waits until nothing acknowledged is missing, every node has caught up and none holds
    /// anything, and a little longer. If that never comes, the judgement will say what is
    /// missing.
    ///
    /// # Panics
    /// If all has been delivered and a node still lags or holds mail.
    pub fn drain(&self) {
        let begun = Instant::now();
        loop {
            let lost = acknowledged_mail_lost::check(&self.recorder.history());
            let delivered = !matches!(lost, Verdict::Broken { .. });
            let status = self.sandbox.status().unwrap_or_default();
            if delivered && is_at_rest(&status) {
                thread::sleep(LINGER);
                return;
            }
            if begun.elapsed() > DELIVER_TIME_MAX {
                self.recorder.note("gave up waiting for the deliveries");
                assert!(
                    !delivered,
                    "all is delivered, but the cluster is not at rest: {status:#}"
                );
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Holds the history against every rule; those named in `tried` must have been tried.
    ///
    /// # Panics
    /// If a rule is broken, or one of `tried` was not tried.
    pub fn judge(&self, tried: &[&str]) {
        let report = invariants::check(&self.recorder.history());
        eprintln!("{report}");
        let untried: Vec<_> = tried.iter().filter(|rule| !report.is_tried(rule)).collect();
        if !report.is_broken() && untried.is_empty() {
            return;
        }
        panic!("broken or untried ({untried:?}):\n{report}");
    }
}

/// Every node answers and has applied all, and nothing is held.
fn is_at_rest(status: &Value) -> bool {
    let nodes = status["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    status["healthy"] == true
        && status["held_messages"] == 0
        && nodes
            .iter()
            .all(|node| node["lag"] == 0 && node["bodies_missing"] == 0)
}

impl Drop for Run {
    fn drop(&mut self) {
        self.load.stop();
        if !thread::panicking() {
            return;
        }
        eprintln!("repeat this run with {SEED_VARIABLE}={}", self.seed);
        if let Some(folder) = self.sandbox.folder() {
            let file = folder.join("history.jsonl");
            match std::fs::write(&file, self.recorder.json_lines()) {
                Ok(()) => eprintln!("what was seen is in {}", file.display()),
                Err(error) => eprintln!("what was seen could not be written: {error}"),
            }
        }
    }
}
