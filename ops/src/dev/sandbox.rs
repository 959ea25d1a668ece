//! A cluster of node processes in one folder.
//!
//! The nodes are real: this binary started again with `serve`, so that killing one with SIGKILL
//! is what it would be on a machine of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use holdfast_proto::admin::{DomainName, InitRequest, InviteRequest, JoinRequest, StatusReply};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::DomainChange;
use crate::client::{self, Client};
use crate::cluster::follow;
use crate::dev::layout::{self, Plan};
use crate::domain;
use crate::failure::{Exit, Failure};
use crate::status;

/// A node that has not answered by then will not.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A node that was asked to stop hands over its work first; then it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);
const POLL_EVERY: Duration = Duration::from_millis(50);
/// The invitations of a sandbox are used at once.
const INVITATION_SECONDS: u64 = 600;
/// How much of a failed node's log is shown.
const LOG_LINES_SHOWN: usize = 15;

pub(crate) struct Sandbox {
    /// Absolute: the nodes and the reader of our output may be elsewhere.
    dir: PathBuf,
    plan: Plan,
    /// In the order of the plan; `None` once a death has been reported.
    children: Vec<Option<Child>>,
    /// Held as long as this sandbox runs: two on one folder would fight over its ports.
    _lock: File,
}

impl Sandbox {
    /// Starts the nodes of `plan` in `dir`, makes them one cluster if they are not one yet, and
    /// waits until every node answers.
    pub(crate) async fn start(dir: &Path, plan: Plan) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("{} cannot be used", dir.display()), error);
        fs::create_dir_all(dir).map_err(failed)?;
        let dir = dir.canonicalize().map_err(failed)?;
        let lock = File::create(layout::lock_file(&dir)).map_err(failed)?;
        if lock.try_lock().is_err() {
            return Err(Failure::new(
                "the sandbox was not started",
                format!("another process runs the one in {}", dir.display()),
            )
            .exit(Exit::Refused));
        }
        plan.save(&dir)?;
        let mut sandbox = Self {
            children: plan.nodes.iter().map(|_| None).collect(),
            dir,
            plan,
            _lock: lock,
        };
        for at in 0..sandbox.plan.nodes.len() {
            sandbox.spawn(at)?;
        }
        sandbox.gather().await?;
        sandbox.protect().await?;
        sandbox.wait_until_ready().await?;
        Ok(sandbox)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn config(&self, node: &str) -> PathBuf {
        layout::config_file(&self.dir, node)
    }

    pub(crate) fn log(&self, node: &str) -> PathBuf {
        layout::log_file(&self.dir, node)
    }

    pub(crate) fn data_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    pub(crate) fn admin_socket(&self, node: &str) -> PathBuf {
        self.data_dir(node).join("admin.sock")
    }

    pub(crate) fn pid(&self, node: &str) -> Option<u32> {
        let at = self.position(node).ok()?;
        self.children[at].as_ref()?.id()
    }

    /// SIGKILL: the node gets no chance to finish anything.
    pub(crate) async fn kill(&mut self, node: &str) -> Result<(), Failure> {
        let at = self.position(node)?;
        if let Some(mut child) = self.children[at].take() {
            child
                .kill()
                .await
                .map_err(|error| Failure::new(format!("{node} was not killed"), error))?;
        }
        Ok(())
    }

    /// Starts a node that was killed, with what it left behind.
    pub(crate) fn restart(&mut self, node: &str) -> Result<(), Failure> {
        let at = self.position(node)?;
        self.spawn(at)
    }

    /// Asks the nodes in turn and gives the first answer.
    pub(crate) async fn status(&self) -> Result<StatusReply, Failure> {
        let mut last = Failure::new("the sandbox's status is not known", "no node runs")
            .exit(Exit::Unreachable);
        for (node, child) in self.plan.nodes.iter().zip(&self.children) {
            if child.is_none() {
                continue;
            }
            match self.status_of(&node.name).await {
                Ok(status) => return Ok(status),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// The nodes that have ended since the last call, and how.
    pub(crate) fn newly_dead(&mut self) -> Vec<(String, String)> {
        let mut dead = Vec::new();
        for (node, child) in self.plan.nodes.iter().zip(&mut self.children) {
            let Some(running) = child else { continue };
            if let Ok(Some(how)) = running.try_wait() {
                dead.push((node.name.clone(), how.to_string()));
                *child = None;
            }
        }
        dead
    }

    /// Asks every node to stop and waits; kills what does not. Tells who did not end well.
    pub(crate) async fn stop(mut self) {
        for child in self.children.iter().flatten() {
            let pid = child
                .id()
                .and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
            if let Some(pid) = pid {
                // Fails only for a process that has just ended, which is what was asked for.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        for (node, child) in self.plan.nodes.iter().zip(&mut self.children) {
            let Some(child) = child else { continue };
            match tokio::time::timeout_at(deadline, child.wait()).await {
                Ok(Ok(how)) if how.success() => {}
                Ok(Ok(how)) => eprintln!("{} did not stop well ({how})", node.name),
                Ok(Err(error)) => eprintln!("{} cannot be waited for: {error}", node.name),
                Err(_) => {
                    eprintln!(
                        "{} did not stop within {} s and was killed",
                        node.name,
                        STOP_TIME_MAX.as_secs()
                    );
                    // Fails only for a process that has just ended.
                    let _ = child.kill().await;
                }
            }
        }
    }

    fn position(&self, node: &str) -> Result<usize, Failure> {
        self.plan
            .nodes
            .iter()
            .position(|known| known.name == node)
            .ok_or_else(|| {
                Failure::new(
                    format!("{node} is no node of this sandbox"),
                    "its name is not in the plan",
                )
            })
    }

    fn spawn(&mut self, at: usize) -> Result<(), Failure> {
        let node = &self.plan.nodes[at];
        let failed = |error| Failure::new(format!("{} was not started", node.name), error);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(&node.name))
            .map_err(failed)?;
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("serve")
            .arg("--die-with-parent")
            .arg("--config")
            .arg(self.config(&node.name))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Ctrl-C in the terminal is for us; we stop the nodes in our own order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.children[at] = Some(child);
        Ok(())
    }

    /// Makes the nodes members of one cluster.
    async fn gather(&mut self) -> Result<(), Failure> {
        let names: Vec<String> = self
            .plan
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect();
        let mut alone = Vec::new();
        for name in &names {
            let status = self.first_status(name).await?;
            if status.cluster_id.is_empty() {
                alone.push(name);
            }
        }
        // A sandbox is made from its first node on: whoever has no cluster either makes it or
        // joins the first one's.
        let first = &names[0];
        for name in alone {
            let mut client = self.client(name).await?;
            if name == first {
                client::answer(
                    "no cluster was made",
                    client.init(client::request(InitRequest {})),
                )
                .await?;
                continue;
            }
            let mut inviting = self.client(first).await?;
            let ttl_seconds = INVITATION_SECONDS;
            let token = client::answer(
                "no invitation was made",
                inviting.invite(client::request(InviteRequest { ttl_seconds })),
            )
            .await?
            .token;
            let failed = format!("{name} did not join");
            let joining = timeout(START_TIME_MAX, async {
                follow(
                    &failed,
                    client.join(client::request(JoinRequest { token })).await,
                    |_| {},
                )
                .await
            });
            match joining.await {
                Ok(joined) => joined?,
                Err(_) => return Err(self.too_slow(&failed, name)),
            };
        }
        Ok(())
    }

    /// Tells the cluster the sandbox's domain.
    async fn protect(&self) -> Result<(), Failure> {
        let asked = DomainChange {
            name: self.plan.domain.clone(),
            primary: Some(self.plan.primary.clone()),
            policy: crate::cli::Policy::default(),
            subscription: crate::cli::Subscription::default(),
            dry_run: false,
        };
        let deadline = Instant::now() + START_TIME_MAX;
        // Nodes that come back need a moment to elect a leader.
        loop {
            let mut client = self.client(&self.plan.nodes[0].name).await?;
            match domain::set(&mut client, &asked, domain::Known::Either).await {
                Ok(_) => return Ok(()),
                Err(failure) if !failure.is_passing() || Instant::now() > deadline => {
                    return Err(failure);
                }
                Err(_) => sleep(POLL_EVERY).await,
            }
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_TIME_MAX;
        for name in self
            .plan
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect::<Vec<_>>()
        {
            loop {
                if let Ok(status) = self.status_of(&name).await
                    && is_ready(&status)
                    && self.knows_domain(&name).await
                {
                    break;
                }
                self.check_alive(&name)?;
                if Instant::now() > deadline {
                    return Err(self.too_slow("the cluster is not ready", &name));
                }
                sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    /// Whether the node has heard of the sandbox's domain; until then it takes no mail for it.
    async fn knows_domain(&self, node: &str) -> bool {
        let Ok(mut client) = self.client(node).await else {
            return false;
        };
        let asked = DomainName {
            name: self.plan.domain.clone(),
            dry_run: false,
        };
        client.domain_get(client::request(asked)).await.is_ok()
    }

    async fn client(&self, node: &str) -> Result<Client, Failure> {
        client::at(&self.admin_socket(node)).await
    }

    async fn status_of(&self, node: &str) -> Result<StatusReply, Failure> {
        status::ask(&mut self.client(node).await?).await
    }

    /// The first answer of a node that has just been started.
    async fn first_status(&mut self, node: &str) -> Result<StatusReply, Failure> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            if let Ok(status) = self.status_of(node).await {
                return Ok(status);
            }
            self.check_alive(node)?;
            if Instant::now() > deadline {
                return Err(self.too_slow(&format!("{node} does not answer"), node));
            }
            sleep(POLL_EVERY).await;
        }
    }

    fn check_alive(&mut self, node: &str) -> Result<(), Failure> {
        let at = self.position(node)?;
        let ended = self.children[at]
            .as_mut()
            .and_then(|child| child.try_wait().ok()?);
        match ended {
            None => Ok(()),
            Some(how) => Err(Failure::new(
                format!("{node} ended while it started ({how})"),
                self.log_tail(node),
            )),
        }
    }

    fn too_slow(&self, what: &str, node: &str) -> Failure {
        Failure::new(
            what,
            format!(
                "{} s have passed; {}",
                START_TIME_MAX.as_secs(),
                self.log_tail(node)
            ),
        )
        .exit(Exit::Unreachable)
    }

    fn log_tail(&self, node: &str) -> String {
        let file = self.log(node);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        format!(
            "the end of {} is:\n    {}",
            file.display(),
            tail.join("\n    ")
        )
    }
}

/// Every member votes and answers.
fn is_ready(status: &StatusReply) -> bool {
    status::is_healthy(status)
        && status::leader(status).is_some()
        && status.nodes.iter().all(|node| node.role != "learner")
}
