//! A cluster of real node processes: started by `holdfast dev` on this machine, or each on a
//! machine of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
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

use super::machines::{self, Machine, Size};
use super::memory::{self, Memory};
use super::network::{Network, level_setting};
use super::newcomer::Newcomer;
use super::ports;
use super::wait_for;
use super::world::attempt;

/// Overrides where the binary is looked for.
const BINARY_VARIABLE: &str = "HOLDFAST_BIN";
const START_TIME_MAX: Duration = Duration::from_secs(90);
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// A node looks at its clock's file several times a second.
const CLOCK_NOTICED: Duration = Duration::from_secs(1);
const DEATH_TIME_MAX: Duration = Duration::from_secs(10);
/// That the configuration of one of `dev` names.
const PORTS_OF_A_NODE: u16 = 7;
const LOOPBACK: &str = "127.0.0.1:";

#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    pub pid: u32,
    pub smtp: SocketAddr,
    pub cluster: SocketAddr,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    /// None: it serves none.
    #[serde(default)]
    pub portal: Option<SocketAddr>,
    /// None: it answers no finger.
    #[serde(default)]
    pub finger: Option<SocketAddr>,
    /// None: nobody can fetch mail over a connection of their own.
    pub atrn: Option<SocketAddr>,
    /// None: no customer can send mail through it.
    pub submission: Option<SocketAddr>,
    /// None: it shares this one with the test.
    #[serde(skip)]
    pub machine: Option<Machine>,
}

#[derive(Deserialize)]
struct Announcement {
    nodes: Vec<Node>,
}

/// Stops, and removes its folder, when dropped; after a panic the folder is kept.
pub struct Sandbox {
    folder: Option<TempDir>,
    dev: Option<Child>,
    nodes: Vec<Node>,
    /// Nodes that we started; the others are children of `dev`.
    ours: HashMap<String, Child>,
    dead: BTreeSet<String>,
    /// Whose disk has no power.
    dark: BTreeSet<String>,
    paused: BTreeSet<String>,
    /// Where the nodes of machines send notifications.
    relay_via: Option<SocketAddr>,
    /// What each node on a machine may use.
    memory_bytes: Option<u64>,
    /// Of nodes whose memory is limited, or why it could not be.
    memories: BTreeMap<String, Result<Memory, String>>,
}

impl Sandbox {
    /// Starts a cluster of `count` nodes for `domain`.
    ///
    /// # Panics
    /// If it does not come up: the test cannot go on.
    #[must_use]
    pub fn start(count: u16, domain: &str, primary: SocketAddr) -> Self {
        Self::start_with(count, domain, primary, &[])
    }

    /// The same, with more options of `holdfast dev`.
    ///
    /// # Panics
    /// If it does not come up: the test cannot go on.
    #[must_use]
    pub fn start_with(count: u16, domain: &str, primary: SocketAddr, options: &[&str]) -> Self {
        Self::start_by(&binary(), count, domain, primary, options)
    }

    /// The same with nodes of another binary, which writes their configurations, too.
    ///
    /// # Panics
    /// If it does not come up: the test cannot go on.
    #[must_use]
    pub fn start_by(
        binary: &Path,
        count: u16,
        domain: &str,
        primary: SocketAddr,
        options: &[&str],
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-test-")
            .tempdir()
            .expect("a temporary folder");
        let errors = folder.path().join("dev.err");
        let mut dev = Command::new(binary)
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
            .args(options)
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
                let errors = fs::read_to_string(errors).unwrap_or_default();
                panic!("no cluster came up in {}:\n{errors}", kept.display());
            }
        };
        Self {
            folder: Some(folder),
            dev: Some(dev),
            nodes,
            ours: HashMap::new(),
            dead: BTreeSet::new(),
            dark: BTreeSet::new(),
            paused: BTreeSet::new(),
            relay_via: None,
            memory_bytes: None,
            memories: BTreeMap::new(),
        }
    }

    /// Starts a cluster with each of its nodes on a machine of its own in `network`, which send
    /// notifications to `relay_via`. It needs a world of its own.
    ///
    /// # Panics
    /// If it does not come up: the test cannot go on.
    #[must_use]
    pub fn on_machines(count: u8, network: &Network, size: Size, relay_via: SocketAddr) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-test-")
            .tempdir()
            .expect("a temporary folder");
        machines::prepare(folder.path());
        let mut sandbox = Self {
            folder: Some(folder),
            dev: None,
            nodes: Vec::new(),
            ours: HashMap::new(),
            dead: BTreeSet::new(),
            dark: BTreeSet::new(),
            paused: BTreeSet::new(),
            relay_via: Some(relay_via),
            memory_bytes: size.memory_bytes,
            memories: BTreeMap::new(),
        };
        for number in 1..=count {
            sandbox.add_machine(number, network, size.disk_bytes);
        }
        sandbox.wait_until_healthy(START_TIME_MAX);
        sandbox
    }

    /// A new machine with an empty disk, whose node joins the cluster, or begins it.
    ///
    /// # Panics
    /// If it does not.
    pub fn add_machine(&mut self, number: u8, network: &Network, disk_bytes: u64) {
        let name = self.start_machine(number, network, disk_bytes);
        if self.nodes.len() > 1 {
            self.enter(&name);
            return;
        }
        self.wait_for_answer(&name);
        self.must(&name, &["cluster", "init"]);
    }

    /// A node that is dead and no member any more starts with an empty data directory, and joins.
    ///
    /// # Panics
    /// If it does not.
    pub fn begin_anew(&mut self, name: &str) {
        self.restore_power(name);
        fs::remove_dir_all(&self.node(name).data_dir).expect("the old data goes");
        self.restart(name);
        self.enter(name);
    }

    fn wait_for_answer(&self, name: &str) {
        let what = format!("the first answer of {name}");
        wait_for(&what, START_TIME_MAX, || self.status_of(name).map(drop));
    }

    fn enter(&self, name: &str) {
        self.wait_for_answer(name);
        wait_for(&format!("{name} in the cluster"), START_TIME_MAX, || {
            let_in(self.node(name), &self.members_without(name)).then_some(())
        });
    }

    /// A new machine with an empty disk, whose node joins and leaves while the test goes on.
    pub(super) fn add_newcomer(
        &mut self,
        number: u8,
        network: &Network,
        disk_bytes: u64,
    ) -> Newcomer {
        let members = self.nodes.clone();
        let name = self.start_machine(number, network, disk_bytes);
        Newcomer::start(self.node(&name).clone(), members)
    }

    /// The name of its node, which belongs to no cluster yet.
    fn start_machine(&mut self, number: u8, network: &Network, disk_bytes: u64) -> String {
        let folder = self.folder().expect("the sandbox's folder").to_owned();
        let settings = network.settings();
        let relay_via = self.relay_via.expect("a sandbox of machines");
        let node = machines::new(&folder, number, &settings, disk_bytes, relay_via);
        let name = node.name.clone();
        self.nodes.push(node);
        if self.memory_bytes.is_some() {
            memory::take_before(self.machine(&name).disk.image(), disk_bytes)
                .expect("memory for a disk");
        }
        self.restart(&name);
        name
    }

    /// The others that run.
    fn members_without(&self, name: &str) -> Vec<Node> {
        let mut members = self.alive();
        members.retain(|member| member != name);
        members
            .iter()
            .map(|member| self.node(member).clone())
            .collect()
    }

    /// Starts a node beside those of `dev`, in the region of `model` and on ports of its own. It belongs to
    /// no cluster yet.
    ///
    /// # Panics
    /// If it does not come up, or has a machine of its own.
    pub fn add_beside(&mut self, name: &str, model: &str) {
        self.add_beside_as(name, model, &binary());
    }

    /// The same with another binary.
    ///
    /// # Panics
    /// As `add_beside`.
    pub fn add_beside_as(&mut self, name: &str, model: &str, binary: &Path) {
        let model = self.node(model).clone();
        let folder = self.folder().expect("the sandbox's folder").to_owned();
        let text = fs::read_to_string(&model.config).expect("a configuration");
        let first = ports::free(PORTS_OF_A_NODE);
        let (text, ports) = on_other_ports(&text, first);
        let text = text
            .replace(&format!("\"{}\"", model.name), &format!("\"{name}\""))
            .replace(&format!("\"{}.", model.name), &format!("\"{name}."));
        let config = folder.join(format!("{name}.toml"));
        fs::write(&config, text).expect("a configuration");
        let other = |address: SocketAddr| {
            let at = ports.iter().position(|port| *port == address.port());
            let at = at.expect("a port of the configuration");
            SocketAddr::new(address.ip(), first + at as u16)
        };
        self.nodes.push(Node {
            name: name.to_owned(),
            pid: 0,
            smtp: other(model.smtp),
            cluster: other(model.cluster),
            data_dir: folder.join(name),
            config,
            log: folder.join(format!("{name}.log")),
            portal: model.portal.map(other),
            finger: model.finger.map(other),
            atrn: model.atrn.map(other),
            submission: model.submission.map(other),
            machine: None,
        });
        self.restart_as(name, binary, &[]);
        wait_for(
            &format!("the first answer of {name}"),
            START_TIME_MAX,
            || self.status_of(name).map(drop),
        );
    }

    /// Lets a node that belongs to no cluster in, at an invitation of `member`.
    ///
    /// # Panics
    /// If it does not join.
    pub fn join(&self, name: &str, member: &str) {
        let invited = self.must(member, &["cluster", "invite"]);
        let token = invited["token"].as_str().expect("a token");
        self.must(name, &["cluster", "join", token]);
    }

    /// Those that run, as far as we know.
    #[must_use]
    pub fn alive(&self) -> Vec<String> {
        let is_alive = |name: &String| !self.dead.contains(name) && !self.paused.contains(name);
        self.names().into_iter().filter(is_alive).collect()
    }

    /// Those that we killed.
    #[must_use]
    pub fn dead(&self) -> Vec<String> {
        self.dead.iter().cloned().collect()
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

    /// Sets a node's clock so far off, in milliseconds, and waits until it has noticed. Only for
    /// nodes on machines.
    ///
    /// # Panics
    /// If its file cannot be written.
    pub fn set_clock(&self, name: &str, ahead_ms: i64) {
        self.turn_clock(name, ahead_ms);
        thread::sleep(CLOCK_NOTICED);
    }

    /// The same without waiting.
    ///
    /// # Panics
    /// If its file cannot be written.
    pub fn turn_clock(&self, name: &str, ahead_ms: i64) {
        let file = machines::clock_file(&self.node(name).config);
        // At once: the node must not read half of it.
        let fresh = file.with_extension("new");
        fs::write(&fresh, ahead_ms.to_string())
            .and_then(|()| fs::rename(&fresh, &file))
            .expect("a clock's file");
    }

    /// SIGKILL, and waits until the process is gone.
    ///
    /// # Panics
    /// If it does not go.
    pub fn kill(&mut self, name: &str) {
        let was_dead = !self.dead.insert(name.to_owned());
        self.paused.remove(name);
        if let Some(mut child) = self.ours.remove(name) {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
            return;
        }
        if was_dead {
            return;
        }
        let pid = self.node(name).pid;
        signal("KILL", pid);
        wait_for(&format!("the death of {name}"), DEATH_TIME_MAX, || {
            (!is_running(pid)).then_some(())
        });
    }

    /// SIGHUP: the node reads its configuration again.
    pub fn reload(&self, name: &str) {
        signal("HUP", self.pid(name));
    }

    /// SIGTERM, and waits until the node has stopped in its own order.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn terminate(&mut self, name: &str) {
        let pid = self.pid(name);
        signal("TERM", pid);
        wait_for(&format!("the end of {name}"), STOP_TIME_MAX, || {
            (!is_running(pid)).then_some(())
        });
        self.dead.insert(name.to_owned());
        // Of a child of ours nothing may be left.
        self.kill(name);
    }

    /// Cuts the power of these nodes' machines, of all at one moment: they are stopped before the
    /// first disk goes, so that none sees another fail.
    ///
    /// # Panics
    /// If one has no machine of its own.
    pub fn cut_power(&mut self, names: &[String]) {
        for name in names {
            signal("STOP", self.pid(name));
        }
        for name in names {
            self.machine(name).disk.cut_power();
            self.dark.insert(name.clone());
        }
        for name in names {
            self.kill(name);
        }
    }

    /// Makes every write and sync of a running node fail.
    pub fn fail_disk(&mut self, name: &str) {
        // Not in the middle of a sync: Linux may call one done that met the failure half-way, and what
        // the node then acknowledges is gone. Disks that lie so are another fault.
        self.pause(name);
        wait_for(&format!("{name} to stand still"), DEATH_TIME_MAX, || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid(name))).ok()?;
            let is_still =
                |thread: fs::DirEntry| state_of(&thread.path()).is_none_or(|it| it == "T");
            threads.flatten().all(is_still).then_some(())
        });
        self.machine(name).disk.cut_power();
        self.resume(name);
        self.dark.insert(name.to_owned());
    }

    /// A member that is no more: it is not expected, asked or compared.
    pub fn forget(&mut self, name: &str) {
        self.kill(name);
        self.nodes.retain(|node| node.name != name);
        self.dead.remove(name);
    }

    /// SIGSTOP: the node stands still, and its connections with it.
    pub fn pause(&mut self, name: &str) {
        signal("STOP", self.pid(name));
        self.paused.insert(name.to_owned());
    }

    /// Lets a paused node go on, as if no time had passed.
    pub fn resume(&mut self, name: &str) {
        signal("CONT", self.pid(name));
        self.paused.remove(name);
    }

    /// # Panics
    /// If it shares the test's.
    #[must_use]
    pub fn machine(&self, name: &str) -> &Machine {
        let machine = self.node(name).machine.as_ref();
        machine.expect("a machine of its own")
    }

    #[must_use]
    pub fn pid(&self, name: &str) -> u32 {
        let ours = self.ours.get(name).map(Child::id);
        ours.unwrap_or_else(|| self.node(name).pid)
    }

    /// The most memory that the process has had at once.
    #[must_use]
    pub fn resident_bytes(&self, name: &str) -> u64 {
        let file = format!("/proc/{}/status", self.pid(name));
        let status = fs::read_to_string(file).unwrap_or_default();
        let kibibytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.unwrap_or(0) << 10
    }

    /// The limit of a node's memory, if it was to have one, or why it has none.
    #[must_use]
    pub fn memory(&self, name: &str) -> Option<&Result<Memory, String>> {
        self.memories.get(name)
    }

    /// Gives a machine's disk its power back, if it was cut.
    pub fn restore_power(&mut self, name: &str) {
        if self.dark.remove(name) {
            self.machine(name).disk.restore_power();
        }
    }

    /// Starts a node with what lies in its data directory.
    ///
    /// # Panics
    /// If the binary cannot be started.
    pub fn restart(&mut self, name: &str) {
        self.restart_as(name, &binary(), &[]);
    }

    /// The same with another binary, or in another environment.
    ///
    /// # Panics
    /// If the binary cannot be started.
    pub fn restart_as(&mut self, name: &str, binary: &Path, environment: &[(&str, String)]) {
        self.restore_power(name);
        let node = self.node(name);
        let log = File::options()
            .append(true)
            .create(true)
            .open(&node.log)
            .expect("the node's log");
        let mut command = match &node.machine {
            None => Command::new(binary),
            Some(machine) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{}", machine.namespace));
                command.arg(binary);
                command
            }
        };
        let child = command
            // A test that is killed leaves nobody behind.
            .args(["serve", "--die-with-parent", "--config"])
            .arg(&node.config)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the node's log"))
            .stderr(log)
            .spawn()
            .expect("the holdfast binary starts");
        if let Some(bytes) = self.memory_bytes {
            let limited = Memory::limit(child.id(), bytes);
            self.memories.insert(name.to_owned(), limited);
        }
        self.dead.remove(name);
        self.ours.insert(name.to_owned(), child);
    }

    /// What a node that is stopped knows when it starts again: a feature level, or all there is.
    ///
    /// # Panics
    /// If its configuration cannot be written.
    pub fn set_level(&self, name: &str, level: Option<u32>) {
        let file = &self.node(name).config;
        let text = fs::read_to_string(file).expect("a configuration");
        let others = text
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("sandbox_level"));
        let text = level_setting(level) + &others.collect::<String>();
        fs::write(file, text).expect("a configuration");
    }

    /// Whether it stands still, by a signal or by itself.
    #[must_use]
    pub fn is_halted(&self, name: &str) -> bool {
        state_of(Path::new(&format!("/proc/{}", self.pid(name)))).is_some_and(|state| state == "T")
    }

    /// The exit code of a node that was started again and has ended.
    pub fn ended(&mut self, name: &str) -> Option<i32> {
        let how = self.ours.get_mut(name)?.try_wait().ok()??;
        Some(how.code().unwrap_or(-1))
    }

    #[must_use]
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(&self.node(name).log).unwrap_or_default()
    }

    /// Runs a client command against one node.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[must_use]
    pub fn ask(&self, node: &str, command: &[&str]) -> Output {
        ask(self.node(node), command)
    }

    /// As `ask`, while the test goes on.
    ///
    /// # Panics
    /// If the binary cannot be started.
    #[must_use]
    pub fn begin_asking(&self, node: &str, command: &[&str]) -> Child {
        begin_asking(self.node(node), command)
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
        status_of(self.node(node))
    }

    /// What the first node that answers knows.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        self.nodes
            .iter()
            .filter(|node| !self.dead.contains(&node.name) && !self.paused.contains(&node.name))
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
        if let Some(dev) = &mut self.dev {
            signal("TERM", dev.id());
            let begun = Instant::now();
            while begun.elapsed() < STOP_TIME_MAX && matches!(dev.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(50));
            }
            drop(dev.kill());
            drop(dev.wait());
        }
        let is_failing = thread::panicking();
        for node in &self.nodes {
            let (Some(machine), Some(folder)) = (&node.machine, &self.folder) else {
                continue;
            };
            if is_failing {
                // Its disk is memory; what is kept must lie elsewhere.
                let kept = folder.path().join(format!("{}.data", node.name));
                drop(attempt("cp", &["-a".as_ref(), machine.disk.path(), &kept]));
            }
            drop(attempt("umount", &[machine.disk.path()]));
        }
        if self.dev.is_none()
            && let Some(folder) = &self.folder
        {
            drop(attempt("umount", &[folder.path().join("disks")]));
        }
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

/// A configuration with its ports on loopback replaced by those from `first` on, and what they were.
fn on_other_ports(text: &str, first: u16) -> (String, Vec<u16>) {
    let mut pieces = text.split(LOOPBACK);
    let mut other = pieces.next().unwrap_or_default().to_owned();
    let mut ports = Vec::new();
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (port, rest) = piece.split_at(digits);
        let port: u16 = port.parse().expect("a port");
        let known = ports.iter().position(|known| *known == port);
        let at = known.unwrap_or_else(|| {
            ports.push(port);
            ports.len() - 1
        });
        other += &format!("{LOOPBACK}{}{rest}", usize::from(first) + at);
    }
    assert!(
        ports.len() <= usize::from(PORTS_OF_A_NODE),
        "a sandbox whose nodes have no other ports: {ports:?}"
    );
    (other, ports)
}

fn begin_asking(node: &Node, command: &[&str]) -> Child {
    Command::new(binary())
        .args(command)
        .arg("--json")
        .arg("--config")
        .arg(&node.config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the holdfast binary starts")
}

pub(super) fn ask(node: &Node, command: &[&str]) -> Output {
    let asked = begin_asking(node, command);
    asked.wait_with_output().expect("the command's end")
}

fn status_of(node: &Node) -> Option<Value> {
    serde_json::from_slice(&ask(node, &["status"]).stdout).ok()
}

/// Lets a new node in by an invitation of any member; true once it is one.
pub(super) fn let_in(newcomer: &Node, members: &[Node]) -> bool {
    // An earlier call may have let it in and not lived to hear of it.
    if status_of(newcomer).is_some_and(|status| status["cluster_id"].is_string()) {
        return true;
    }
    let token = members.iter().find_map(|member| {
        let invited = ask(member, &["cluster", "invite"]).stdout;
        let invitation: Value = serde_json::from_slice(&invited).ok()?;
        invitation["token"].as_str().map(str::to_owned)
    });
    token.is_some_and(|token| ask(newcomer, &["cluster", "join", &token]).status.success())
}

/// Signals a process that is not our child; std offers that only for children.
pub(crate) fn signal(name: &str, pid: u32) {
    assert_ne!(pid, 0, "0 would be all processes of the test itself");
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status();
    assert!(sent.is_ok(), "sh cannot be run");
}

/// A zombie that its parent has not looked at yet does not run any more, once the last of its threads
/// is gone: until then its listeners are open, and nobody else can have their ports.
fn is_running(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads
        .flatten()
        .filter_map(|thread| state_of(&thread.path()))
        .any(|state| state != "Z" && state != "X")
}

/// The kernel's letter for it: T is stopped, Z a zombie.
fn state_of(process: &Path) -> Option<String> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let behind_its_name = stat.rsplit(')').next()?;
    let state = behind_its_name.split_whitespace().next()?;
    Some(state.to_owned())
}

/// The binary under test: beside the folder that this test's executable is in.
///
/// # Panics
/// If it is not there: the test cannot go on.
#[must_use]
pub fn binary() -> PathBuf {
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
