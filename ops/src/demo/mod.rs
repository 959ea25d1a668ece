//! `holdfast demo`: what the product is for, in half a minute and on real mail.
//!
//! Three node processes, a primary that is down, senders, a leader killed with SIGKILL while the
//! mail flows, the primary's return, and then the count of what arrived. It is also the first
//! check after a build: the exit code is 0 only if nothing acknowledged was lost or changed.

mod letter;
mod primary;
mod sender;
mod tally;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::admin::StatusReply;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::cli::{self, Demo};
use crate::dev::{Plan, Sandbox, free_ports};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::status;

use tally::{Summary, Tally};

const DOMAIN: &str = "example.test";
const NODES: usize = 3;
const SESSIONS: usize = 12;
/// The share of letters, in percent, that is acknowledged when the leader is killed.
const KILL_AT_PERCENT: usize = 40;
/// Something is wrong with what takes longer; it usually takes a tenth of this.
const TIME_MAX: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How often the delivery's progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: Demo, output: Output) -> Result<Exit, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("holdfast-demo-")
        .tempdir()
        .map_err(|error| Failure::new("the demo was not started", error))?;
    let story = Story::new(output);
    let tally = Arc::new(Tally::new(args.messages));
    let ended = tokio::select! {
        ended = play(&args, folder.path(), &story, &tally) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new("the demo did not end", "it was interrupted")),
    };
    let summary = tally.summary();
    story.last_line(&summary)?;
    if ended.is_ok() && summary.is_good() {
        return Ok(Exit::Done);
    }
    let kept = folder.keep();
    let failure = match ended {
        Err(failure) => failure,
        Ok(()) => Failure::new("the demo did not go well", "it played to its end"),
    };
    Err(failure
        .because(reasons(&summary))
        .fix(format!("look at the nodes' logs in {}", kept.display())))
}

async fn play(
    args: &Demo,
    folder: &std::path::Path,
    story: &Story,
    tally: &Arc<Tally>,
) -> Result<(), Failure> {
    let ports = free_ports(NODES + 1)?;
    let primary = cli::loopback(ports[NODES]);
    let plan = Plan::new(&ports[..NODES], DOMAIN, &primary.to_string())?;
    let nodes = plan
        .nodes
        .iter()
        .map(|node| {
            format!(
                "{} ({}) on {}",
                node.name,
                node.region,
                cli::loopback(node.smtp_port)
            )
        })
        .collect::<Vec<_>>()
        .join(", ");
    story.tell(format!("starting three nodes: {nodes}"))?;
    let mut scene = Scene {
        sandbox: Sandbox::start(folder, plan).await?,
        story,
        tally,
        deadline: story.begun + TIME_MAX,
    };
    let played = scene.play(args.messages, primary).await;
    story.stop_clock();
    scene.sandbox.stop().await;
    played
}

struct Scene<'a> {
    sandbox: Sandbox,
    story: &'a Story,
    tally: &'a Arc<Tally>,
    deadline: Instant,
}

impl Scene<'_> {
    async fn play(&mut self, letters: u32, primary: SocketAddr) -> Result<(), Failure> {
        let status = self.sandbox.status().await?;
        let leader = leader_name(&status).ok_or_else(|| {
            Failure::new("there is nobody to kill", "the cluster knows no leader")
        })?;
        self.story.tell(format!(
            "the cluster is ready: {leader} leads, {} may fail",
            output::count(status.nodes_may_fail.into(), "node")
        ))?;
        self.story.tell(format!(
            "the primary of {DOMAIN} is down: this is what a backup MX is for"
        ))?;

        let mut senders = self.send(letters)?;
        let enough = self.tally.summary().sent * KILL_AT_PERCENT / 100;
        self.until("the first messages", |summary| {
            summary.accepted >= enough || summary.all_answered()
        })
        .await?;
        self.sandbox.kill(&leader).await?;
        let killed_at = Instant::now();
        self.story.tell(format!(
            "kill -9 {leader}, the leader, with {} of {letters} acknowledged and the rest on their way",
            self.tally.summary().accepted
        ))?;
        let successor = self.await_leader_other_than(&leader).await?;
        self.story.tell(format!(
            "{successor} leads after {:.1} s",
            killed_at.elapsed().as_secs_f64()
        ))?;

        self.until("the acknowledgements", Summary::all_answered)
            .await?;
        while senders.join_next().await.is_some() {}
        let summary = self.tally.summary();
        self.story.tell(format!(
            "{} of {letters} acknowledged; {} had to be made again",
            summary.accepted,
            output::count(summary.tried_again, "try").replace("trys", "tries")
        ))?;

        // Ends with this function: the primary must outlive the last delivery, no longer.
        let mut open = JoinSet::new();
        open.spawn(primary::serve(self.bind(primary).await?, self.counter()));
        self.sandbox.restart(&leader)?;
        self.story.tell(format!(
            "the primary is back, and {leader} is started again with what it left on disk"
        ))?;
        let delivered = self
            .until("the deliveries", |summary| summary.lost == 0)
            .await;
        let caught_up = self.await_return_of(&leader).await;
        delivered?;
        caught_up
    }

    fn send(&self, letters: u32) -> Result<JoinSet<()>, Failure> {
        let exchangers: Vec<SocketAddr> = self
            .sandbox
            .plan()
            .nodes
            .iter()
            .map(|node| cli::loopback(node.smtp_port))
            .collect();
        self.story.tell(format!(
            "{SESSIONS} senders give {letters} messages of {} KiB to {} MiB to all three nodes",
            letter::BYTES_MIN >> 10,
            letter::BYTES_MAX >> 20
        ))?;
        let outbox = Arc::new(sender::Outbox::new(letters, DOMAIN, exchangers));
        let mut senders = JoinSet::new();
        for at in 0..SESSIONS {
            senders.spawn(sender::run(
                Arc::clone(&outbox),
                Arc::clone(self.tally),
                at % NODES,
            ));
        }
        Ok(senders)
    }

    fn counter(&self) -> primary::Arrived {
        let tally = Arc::clone(self.tally);
        Arc::new(move |recipient, text| {
            let number = letter::number(recipient);
            let intact = number.is_some_and(|number| letter::is_intact(number, DOMAIN, text));
            tally.delivered(number, intact);
        })
    }

    async fn bind(&self, primary: SocketAddr) -> Result<TcpListener, Failure> {
        TcpListener::bind(primary)
            .await
            .map_err(|error| Failure::new("the primary could not come back", error))
    }

    /// Waits until `done`, telling how the delivery goes and which node died on its own.
    async fn until(&mut self, what: &str, done: impl Fn(&Summary) -> bool) -> Result<(), Failure> {
        let mut told = Instant::now();
        loop {
            let summary = self.tally.summary();
            if done(&summary) {
                return Ok(());
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.story.tell(format!(
                    "{} acknowledged, {} delivered",
                    summary.accepted, summary.delivered
                ))?;
            }
            self.pause(what).await?;
        }
    }

    async fn await_leader_other_than(&mut self, old: &str) -> Result<String, Failure> {
        loop {
            if let Ok(status) = self.sandbox.status().await
                && let Some(leader) = leader_name(&status)
                && leader != old
                && status.quorum
            {
                return Ok(leader);
            }
            self.pause("a new leader").await?;
        }
    }

    /// Waits until every node answers, nothing is held any more, and nobody lags behind.
    async fn await_return_of(&mut self, node: &str) -> Result<(), Failure> {
        loop {
            if let Ok(status) = self.sandbox.status().await
                && status::is_healthy(&status)
                && status.held_messages == 0
                && status
                    .nodes
                    .iter()
                    .all(|node| node.lag == 0 && node.bodies_missing == 0)
            {
                return self
                    .story
                    .tell(format!("{node} has caught up; nothing is held any more"));
            }
            self.pause("the killed node's return").await?;
        }
    }

    async fn pause(&mut self, what: &str) -> Result<(), Failure> {
        for (name, how) in self.sandbox.newly_dead() {
            self.story.tell(format!("{name} ended by itself ({how})"))?;
        }
        if Instant::now() > self.deadline {
            return Err(Failure::new(
                "the demo was given up",
                format!(
                    "{what} did not come within {} s of the start",
                    TIME_MAX.as_secs()
                ),
            ));
        }
        sleep(POLL_EVERY).await;
        Ok(())
    }
}

fn leader_name(status: &StatusReply) -> Option<String> {
    status::leader(status).map(|node| node.name.clone())
}

/// What the count shows to be wrong.
fn reasons(summary: &Summary) -> Vec<String> {
    let mut reasons = Vec::new();
    if summary.lost > 0 {
        let some: Vec<String> = summary
            .missing
            .iter()
            .take(10)
            .map(ToString::to_string)
            .collect();
        reasons.push(format!(
            "{} acknowledged but never delivered (letters {} …)",
            summary.lost,
            some.join(", ")
        ));
    }
    if summary.damaged > 0 {
        reasons.push(format!(
            "{} arrived that are not what was sent",
            summary.damaged
        ));
    }
    if let Some(first) = summary.refusals.first() {
        reasons.push(format!(
            "{} refused for good, first with: {}",
            summary.refusals.len(),
            output::plain(first)
        ));
    }
    if !summary.all_answered() {
        reasons.push(format!(
            "only {} of {} were acknowledged",
            summary.accepted, summary.sent
        ));
    }
    reasons
}

/// Tells what happens, with the time since the beginning: to people on standard output, and
/// beside the data on standard error when the data is for a program.
struct Story {
    begun: Instant,
    ended: std::cell::Cell<Option<Instant>>,
    output: Output,
}

impl Story {
    fn new(output: Output) -> Self {
        Self {
            begun: Instant::now(),
            ended: std::cell::Cell::new(None),
            output,
        }
    }

    fn seconds(&self) -> f64 {
        let now = self.ended.get().unwrap_or_else(Instant::now);
        now.duration_since(self.begun).as_secs_f64()
    }

    /// The story is over; clearing away is not part of it.
    fn stop_clock(&self) {
        self.ended.set(Some(Instant::now()));
    }

    fn tell(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let line = format!("[{:5.1}s] {}", self.seconds(), text.as_ref());
        if self.output.is_json() {
            eprintln!("{line}");
            return Ok(());
        }
        Ok(self.output.line(line)?)
    }

    fn last_line(&self, summary: &Summary) -> Result<(), Failure> {
        let seconds = self.seconds();
        if self.output.is_json() {
            let fields = json!({
                "sent": summary.sent,
                "accepted": summary.accepted,
                "delivered": summary.delivered,
                "lost": summary.lost,
                "duplicated": summary.duplicated,
                "damaged": summary.damaged,
                "seconds": (seconds * 1000.0).round() / 1000.0,
            });
            return Ok(self.output.json("demo/v1", &fields)?);
        }
        Ok(self.output.line(format!(
            "{} sent, {} accepted, {} delivered, {} lost, {} delivered twice ({seconds:.1} s)",
            summary.sent, summary.accepted, summary.delivered, summary.lost, summary.duplicated
        ))?)
    }
}
