//! A cluster of real node processes, started by `holdfast dev`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::ports;
use super::wait_for;

/// Overrides where the binary is looked for.
const BINARY_VARIABLE: &str = "HOLDFAST_BIN";
const START_TIME_MAX: Duration = Duration::from_secs(90);
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
const DEATH_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    pub pid: u32,
    pub smtp: SocketAddr,
    pub cluster: SocketAddr,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
}

#[derive(Deserialize)]
struct Announcement {
    nodes: Vec<Node>,
}

/// Stops, and removes its folder, when dropped; after a panic the folder is kept.
pub struct Sandbox {
    folder: Option<TempDir>,
    dev: Child,
    nodes: Vec<Node>,
    /// Nodes that we started again; the others are children of `dev`.
    ours: HashMap<String, Child>,
    dead: HashMap<String, ()>,
}

impl Sandbox {
    /// Starts a cluster of `count` nodes for `domain`.
    ///
    /// # Panics
    /// If it does not come up: the test cannot go on.
    #[must_use]
    pub fn start(count: u16, domain: &str, primary: SocketAddr) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-test-")
            .tempdir()
            .expect("a temporary folder");
        let errors = folder.path().join("dev.err");
        let mut dev = Command::new(binary())
            .arg("dev")
            .arg("--dir")
            .arg(folder.path())
            .args(["--nodes", &count.to_string()])
            .args(["--smtp-port", &ports::free(count).to_string()])
            .args([
                "--domain",
                domain,
                "--primary",
                &primary.to_string(),
                "--json",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file for errors"))
            .spawn()
            .expect("the holdfast binary starts");
        let stdout = dev.stdout.take().expect("a pipe");
        let (said, hear) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // The test may have given up.
            drop(
                BufReader::new(stdout)
                    .read_line(&mut line)
                    .map(|_| said.send(line)),
            );
        });
        let line = hear.recv_timeout(START_TIME_MAX).unwrap_or_default();
        let nodes = match serde_json::from_str::<Announcement>(&line) {
            Ok(announced) => announced.nodes,
            Err(_) => {
                drop(dev.kill());
                let kept = folder.keep();
                let errors = std::fs::read_to_string(errors).unwrap_or_default();
                panic!("no cluster came up in {}:\n{errors}", kept.display());
            }
        };
        Self {
            folder: Some(folder),
            dev,
            nodes,
            ours: HashMap::new(),
            dead: HashMap::new(),
        }
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .expect("a node of the sandbox")
    }

    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// For files that explain a failure.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(TempDir::path)
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Panics
    /// If it does not go.
    pub fn kill(&mut self, name: &str) {
        self.dead.insert(name.to_owned(), ());
        if let Some(mut child) = self.ours.remove(name) {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
            return;
        }
        let pid = self.node(name).pid;
        signal("KILL", pid);
        wait_for(&format!("the death of {name}"), DEATH_TIME_MAX, || {
            (!is_running(pid)).then_some(())
        });
    }

    /// Starts a node with what lies in its data directory.
    ///
    /// # Panics
    /// If the binary cannot be started.
    pub fn restart(&mut self, name: &str) {
        let node = self.node(name);
        let log = File::options()
            .append(true)
            .create(true)
            .open(&node.log)
            .expect("the node's log");
        let child = Command::new(binary())
            .args(["serve", "--config"])
            .arg(&node.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the node's log"))
            .stderr(log)
            .spawn()
            .expect("the holdfast binary starts");
        self.dead.remove(name);
        self.ours.insert(name.to_owned(), child);
    }

    /// The exit code of a node that was started again and has ended.
    pub fn ended(&mut self, name: &str) -> Option<i32> {
        let how = self.ours.get_mut(name)?.try_wait().ok()??;
        Some(how.code().unwrap_or(-1))
    }

    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(&self.node(name).log).unwrap_or_default()
    }

    /// Runs a client command against one node.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[must_use]
    pub fn ask(&self, node: &str, command: &[&str]) -> Output {
        Command::new(binary())
            .args(command)
            .arg("--json")
            .arg("--config")
            .arg(&self.node(node).config)
            .output()
            .expect("the holdfast binary starts")
    }

    /// As `ask`, for what must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn must(&self, node: &str, command: &[&str]) -> Value {
        let ran = self.ask(node, command);
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{command:?} through {node}: {errors}");
        serde_json::from_slice(&ran.stdout).unwrap_or(Value::Null)
    }

    /// What one node knows of the cluster; `None` if it does not answer.
    #[must_use]
    pub fn status_of(&self, node: &str) -> Option<Value> {
        serde_json::from_slice(&self.ask(node, &["status"]).stdout).ok()
    }

    /// What the first node that answers knows.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        self.nodes
            .iter()
            .filter(|node| !self.dead.contains_key(&node.name))
            .find_map(|node| self.status_of(&node.name))
    }

    /// The node that leads with a quorum behind it.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        let status = self.status()?;
        (status["quorum"] == true).then(|| status["leader"].as_str().map(str::to_owned))?
    }

    /// Waits until every member answers.
    ///
    /// # Panics
    /// If one does not within `limit`.
    pub fn wait_until_healthy(&self, limit: Duration) {
        wait_for("a healthy cluster", limit, || {
            (self.status()?["healthy"] == true).then_some(())
        });
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for child in self.ours.values_mut() {
            drop(child.kill());
            drop(child.wait());
        }
        // `dev` stops its own nodes; if it is too slow they die with it.
        signal("TERM", self.dev.id());
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIME_MAX && matches!(self.dev.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(50));
        }
        drop(self.dev.kill());
        drop(self.dev.wait());
        if thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!(
                "the nodes' logs and data are kept in {}",
                folder.keep().display()
            );
        }
    }
}

/// Signals a process that is not our child; std offers that only for children.
fn signal(name: &str, pid: u32) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status();
    assert!(sent.is_ok(), "sh cannot be run");
}

/// A zombie that its parent has not looked at yet does not run any more.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().next());
        !matches!(state, Some("Z" | "X"))
    })
}

/// The binary under test: beside the folder that this test's executable is in.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return path.into();
    }
    let test = std::env::current_exe().expect("this test's path");
    let binary = test
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("holdfast"))
        .expect("a target folder");
    assert!(
        binary.exists(),
        "{} is not built: run `cargo build -p holdfast` first, or set {BINARY_VARIABLE}",
        binary.display()
    );
    binary
}
