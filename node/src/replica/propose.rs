//! Carries commands to the leader, many in one batch.
//!
//! Commands that arrive while batches are under way travel together in the next one, so a busy
//! node costs the leader one entry and one reply for many messages. Every command but a few is
//! safe to repeat: the ledger answers a repeated one as it answered the first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_ledger::{Batch, Command, Reply};
use holdfast_mail::{NodeId, mutant};
use holdfast_proto::cluster as wire;
use holdfast_proto::ledger as ledger_wire;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::handle::{Cluster, Inner, ProposeError};
use super::log_storage::REPLICATE_BYTES_MAX;
use super::peers::MESSAGE_BYTES_MAX;
use super::types::{Proposal, Replies};
use super::{clock, gate};
use crate::world::select;

/// Commands in one batch. A batch is one log entry: it is decoded, applied and answered whole,
/// and must not hold up the state machine for long.
const BATCH_COMMANDS_MAX: usize = 256;

/// Bytes of the commands in one batch, unless it is a single one. Senders choose how long an envelope
/// is, and an entry that does not fit into one message to a follower would hold up the log for ever.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The longest command, bytes: several times an envelope with as many and as long recipients as SMTP
/// takes. With one entry as long as that, a message to a follower is still below
/// `MESSAGE_BYTES_MAX`.
const COMMAND_BYTES_MAX: usize = 4 << 20;

/// The longest batch that enters the log, bytes: one command, and what is around it.
const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + 1024;

// An append request holds as much as is replicated at once and one entry more, and its frame.
const _: () = assert!(ENTRY_BYTES_MAX + REPLICATE_BYTES_MAX + (1 << 20) < MESSAGE_BYTES_MAX);

/// Batches under way at a time: enough to overlap a slow round trip with the next fsync, few
/// enough that commands gather.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// Commands that may wait here; beyond it `submit` waits.
const QUEUE_COMMANDS_MAX: usize = 4096;

/// One try at one leader. After it the outcome is unknown, and the batch is tried again.
const TRY_TIME_MAX: Duration = Duration::from_secs(8);

/// Between tries while there is no leader.
const PAUSE: Duration = Duration::from_millis(100);

const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// A command on its way.
pub(crate) struct Waiting {
    /// The command.
    bytes: Bytes,
    /// Its effect is not the same when it is applied twice.
    once_only: bool,
    /// It has a batch of its own.
    alone: bool,
    /// It brings a message. A refusal of one try may come before another try of it is accepted.
    mail: bool,
    deadline: Instant,
    /// QUEUED until the batcher takes it; WITHDRAWN when its proposer gave up before.
    stage: Arc<AtomicU8>,
    reply: oneshot::Sender<Result<Reply, ProposeError>>,
    /// A try ended without telling whether the command entered a log.
    ambiguous: bool,
}

pub(crate) fn queue() -> (mpsc::Sender<Waiting>, mpsc::Receiver<Waiting>) {
    mpsc::channel(QUEUE_COMMANDS_MAX)
}

/// Hands `command` to the batcher and waits for its reply.
pub(crate) async fn submit(
    queue: &mpsc::Sender<Waiting>,
    command: Command,
    deadline: Instant,
) -> Result<Reply, ProposeError> {
    let (reply, answer) = oneshot::channel();
    let waiting = Waiting::new(&command, deadline, reply);
    if waiting.bytes.len() > COMMAND_BYTES_MAX {
        return Err(ProposeError::NotProposed(format!(
            "the command is {} bytes long, and {COMMAND_BYTES_MAX} are the most: make it smaller",
            waiting.bytes.len()
        )));
    }
    let stage = Arc::clone(&waiting.stage);
    let stopped = || ProposeError::NotProposed("this node is stopping".into());
    match tokio::time::timeout_at(deadline, queue.send(waiting)).await {
        Ok(sent) => sent.map_err(|_| stopped())?,
        Err(_) => {
            return Err(ProposeError::NotProposed(
                "too many commands wait already".into(),
            ));
        }
    }
    // The batcher answers at the deadline by itself; the margin covers a busy machine.
    match tokio::time::timeout_at(deadline + TRY_TIME_MAX * 2, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => {
            let withdrawn = stage
                .compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
            Err(if withdrawn {
                stopped()
            } else {
                ProposeError::Unknown("the node stopped while the command was under way".into())
            })
        }
    }
}

impl Waiting {
    fn new(
        command: &Command,
        deadline: Instant,
        reply: oneshot::Sender<Result<Reply, ProposeError>>,
    ) -> Self {
        Self {
            bytes: command.encode().into(),
            once_only: once_only(command),
            alone: travels_alone(command),
            mail: matches!(command, Command::Accept { .. } | Command::Submit { .. }),
            deadline,
            stage: Arc::new(AtomicU8::new(QUEUED)),
            reply,
            ambiguous: false,
        }
    }
}

impl Waiting {
    /// What the reply to the last of several tries means. One before it may be on its way into the log
    /// yet: to say that the message was refused, and have it accepted then, would deliver mail
    /// that its sender keeps. Whoever hears that it is unknown cancels it first.
    fn judged(&self, reply: Reply) -> Result<Reply, ProposeError> {
        match reply {
            Reply::Refused(why) if self.ambiguous && self.mail => Err(ProposeError::Unknown(
                format!("{why}, and an earlier try may be committed yet"),
            )),
            reply => Ok(reply),
        }
    }
}

/// Commands whose effect is not the same when they are applied twice.
fn once_only(command: &Command) -> bool {
    match command {
        Command::Redeem { .. } | Command::Bootstrap { .. } | Command::Invite { .. } => true,
        Command::By { command, .. } => once_only(command),
        _ => false,
    }
}

/// A node id is the index of its entry, so the command that allocates one has an entry of its
/// own.
fn travels_alone(command: &Command) -> bool {
    matches!(command, Command::Redeem { .. })
}

/// Runs until every sender of `queue` is gone.
pub(crate) async fn run(cluster: Arc<Inner>, mut queue: mpsc::Receiver<Waiting>) {
    let in_flight = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT_MAX));
    let mut next: VecDeque<Waiting> = VecDeque::new();
    loop {
        if next.is_empty() {
            match queue.recv().await {
                Some(waiting) => next.push_back(waiting),
                None => return,
            }
        }
        let Ok(permit) = in_flight.clone().acquire_owned().await else {
            return;
        };
        while next.len() < BATCH_COMMANDS_MAX {
            match queue.try_recv() {
                Ok(waiting) => next.push_back(waiting),
                Err(_) => break,
            }
        }
        let mut batch = first_batch(&mut next);
        batch.retain(|waiting| {
            waiting
                .stage
                .compare_exchange(QUEUED, TAKEN, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        });
        let cluster = cluster.clone();
        tokio::spawn(async move {
            carry(&cluster, batch).await;
            drop(permit);
        });
    }
}

/// Takes from the front what travels together.
fn first_batch(next: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut batch: Vec<Waiting> = Vec::new();
    let mut bytes = 0;
    while let Some(waiting) = next.front() {
        bytes += waiting.bytes.len();
        let full = batch.len() >= BATCH_COMMANDS_MAX || bytes > BATCH_BYTES_MAX;
        let alone = waiting.alone;
        if !batch.is_empty() && (full || alone) {
            break;
        }
        batch.extend(next.pop_front());
        if alone {
            break;
        }
    }
    batch
}

/// One try's outcome.
enum Try {
    Done(Vec<Reply>),
    /// Nothing entered a log.
    Not(String),
    /// It may have.
    Unknown(String),
}

/// Tries a batch until it is answered or everyone in it gave up.
async fn carry(cluster: &Arc<Inner>, mut batch: Vec<Waiting>) {
    while !batch.is_empty() {
        let commands = batch.iter().map(|waiting| waiting.bytes.clone());
        let proposal = Proposal::of(clock::now(), commands.collect());
        let outcome = match &proposal {
            Ok(proposal) => attempt(cluster, proposal).await,
            Err(error) => {
                tracing::error!(
                    "a batch of commands cannot be read back, so it is not proposed: {error}"
                );
                Try::Not(error.to_string())
            }
        };
        let (why, unknown) = match outcome {
            Try::Done(replies) if replies.len() == batch.len() => {
                for (waiting, reply) in batch.drain(..).zip(replies) {
                    let judged = waiting.judged(reply);
                    let _gone = waiting.reply.send(judged);
                }
                return;
            }
            Try::Done(_) => ("the leader's replies do not fit the batch".to_owned(), true),
            Try::Not(why) => (why, false),
            Try::Unknown(why) => (why, true),
        };
        tracing::debug!(
            commands = batch.len(),
            unknown,
            "a batch was not committed: {why}"
        );
        let now = Instant::now();
        let mut kept = Vec::with_capacity(batch.len());
        for mut waiting in batch {
            waiting.ambiguous |= unknown;
            let over = now >= waiting.deadline;
            if waiting.ambiguous && (over || waiting.once_only) {
                let _gone = waiting.reply.send(Err(ProposeError::Unknown(why.clone())));
            } else if over {
                let _gone = waiting
                    .reply
                    .send(Err(ProposeError::NotProposed(why.clone())));
            } else {
                kept.push(waiting);
            }
        }
        batch = kept;
        let soonest = batch.iter().map(|waiting| waiting.deadline).min();
        tokio::time::sleep_until(soonest.unwrap_or(now).min(now + PAUSE)).await;
    }
}

async fn attempt(cluster: &Arc<Inner>, proposal: &Proposal) -> Try {
    // A leader that nobody hears any more is still the last one known: asking it would make the
    // outcome unknown where it is plain that nothing was proposed.
    if !Cluster(cluster.clone()).has_quorum() {
        return Try::Not("no quorum of the nodes can be reached".into());
    }
    let leader = cluster.raft.metrics().borrow_watched().current_leader;
    let outcome = match leader {
        None => return Try::Not("no leader is elected: too few nodes can reach each other".into()),
        Some(me) if me == cluster.me.id.0 => {
            tokio::time::timeout(TRY_TIME_MAX, lead(cluster, proposal.clone(), me)).await
        }
        Some(leader) => {
            let forwarded = async {
                // A leader that was cut off never answers, and there is another long before the
                // time is over. Whether the old one committed it is not known.
                select! {
                    outcome = forward(cluster, proposal, leader) => outcome,
                    () = led_by_another(cluster, leader) => {
                        Try::Unknown("another node leads now".into())
                    }
                }
            };
            tokio::time::timeout(TRY_TIME_MAX, forwarded).await
        }
    };
    outcome.unwrap_or_else(|_| Try::Unknown("no quorum answered in time".into()))
}

/// Resolves when this node knows of another leader than `leader`.
async fn led_by_another(cluster: &Arc<Inner>, leader: u64) {
    let mut metrics = cluster.raft.metrics();
    loop {
        let now = metrics.borrow_watched().current_leader;
        if now.is_some_and(|now| now != leader) {
            return;
        }
        if metrics.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn forward(cluster: &Arc<Inner>, proposal: &Proposal, leader: u64) -> Try {
    let Some(mut client) = cluster.peers.members(leader) else {
        return Try::Not("the leader's address is not known".into());
    };
    let request = wire::ProposeRequest {
        envelope: cluster.peers.envelope(leader),
        batch: proposal.bytes.clone(),
    };
    use wire::propose_reply::Outcome;
    match client
        .propose(request)
        .await
        .map(|reply| reply.into_inner().outcome)
    {
        Ok(Some(Outcome::Replies(bytes))) => match decode_replies(bytes) {
            Some(replies) => Try::Done(replies),
            None => Try::Unknown("the leader's replies cannot be read".into()),
        },
        Ok(Some(Outcome::NotLeader(_))) => Try::Not("leadership is moving".into()),
        Ok(Some(Outcome::NotProposed(why))) => Try::Not(why),
        Ok(Some(Outcome::Unknown(why))) => Try::Unknown(why),
        Ok(None) => Try::Unknown("the leader's reply has no outcome".into()),
        Err(status) => Try::Unknown(format!("the leader does not answer: {}", status.message())),
    }
}

/// Proposes on this node, which leads; `sender` is the node the commands came from.
async fn lead(cluster: &Arc<Inner>, mut proposal: Proposal, sender: u64) -> Try {
    // Whoever forwarded it: followers would refuse the entry, and all that comes after it.
    if proposal.bytes.len() > ENTRY_BYTES_MAX {
        return Try::Not(format!(
            "the batch is {} bytes long, and {ENTRY_BYTES_MAX} are the most",
            proposal.bytes.len()
        ));
    }
    let stamp = proposal.batch.at;
    if let Some(at) = cluster.peers.clock.correction(stamp, NodeId(sender)) {
        let commands = proposal.batch.commands.clone();
        proposal = match Proposal::new(Batch { at, commands }) {
            Ok(proposal) => proposal,
            Err(error) => return Try::Not(error.to_string()),
        };
    }
    // The leader's own log is behind the gate too.
    if let Err(status) = gate::before_proposal(&cluster.bodies, &proposal, sender).await {
        return Try::Not(status.message().to_owned());
    }
    if mutant("acknowledged-before-quorum") && proposal.batch.commands.iter().all(is_of_senders) {
        return lie(cluster, proposal);
    }
    match cluster.raft.client_write(proposal).await {
        Ok(response) => {
            let Replies(replies) = response.data;
            Try::Done(replies)
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            Try::Not(format!("this node does not lead now ({:?})", to.reason))
        }
        Err(other) => Try::Unknown(other.to_string()),
    }
}

/// What a sender waits for, and nobody else: of the rest the mutant tells the truth, so that it lives
/// until a sender is deceived.
fn is_of_senders(command: &Command) -> bool {
    matches!(command, Command::Accept { .. } | Command::Cancel { .. })
}

/// A mutant's answer, before anything is committed.
fn lie(cluster: &Arc<Inner>, proposal: Proposal) -> Try {
    let replies = proposal
        .batch
        .commands
        .iter()
        .map(|command| match command {
            Command::Accept { .. } => Reply::Accepted {
                seq: holdfast_ledger::Seq::default(),
            },
            _ => Reply::Cancelled,
        })
        .collect();
    let raft = cluster.raft.clone();
    tokio::spawn(async move { drop(raft.client_write(proposal).await) });
    Try::Done(replies)
}

/// Answers a batch that another node forwarded.
pub(crate) async fn answer(cluster: &Arc<Inner>, bytes: Bytes, sender: u64) -> wire::ProposeReply {
    use wire::propose_reply::Outcome;
    let outcome = match super::codec::proposal(bytes) {
        Err(error) => Outcome::NotProposed(error.to_string()),
        Ok(proposal) => {
            let leader = cluster.raft.metrics().borrow_watched().current_leader;
            if leader == Some(cluster.me.id.0) {
                match lead(cluster, proposal, sender).await {
                    Try::Done(replies) => Outcome::Replies(encode_replies(&replies)),
                    Try::Not(why) => Outcome::NotProposed(why),
                    Try::Unknown(why) => Outcome::Unknown(why),
                }
            } else {
                Outcome::NotLeader(leader.unwrap_or(0))
            }
        }
    };
    wire::ProposeReply {
        outcome: Some(outcome),
    }
}

fn encode_replies(replies: &[Reply]) -> Bytes {
    let replies = replies
        .iter()
        .map(|reply| Bytes::from(reply.encode()))
        .collect();
    Bytes::from(ledger_wire::Replies { replies }.encode_to_vec())
}

fn decode_replies(bytes: Bytes) -> Option<Vec<Reply>> {
    let replies = ledger_wire::Replies::decode(bytes).ok()?.replies;
    replies
        .iter()
        .map(|bytes| Reply::decode(bytes).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use holdfast_mail::Domain;

    use super::*;

    fn waiting(command: &Command) -> Waiting {
        let (reply, _) = oneshot::channel();
        Waiting::new(command, Instant::now(), reply)
    }

    fn long(bytes: usize) -> Command {
        Command::SetDomain {
            domain: Domain::parse("example.org").unwrap(),
            primary: holdfast_ledger::Primary {
                host: "h".repeat(bytes),
                port: 25,
            },
            must_be_new: false,
            must_exist: false,
        }
    }

    /// A thousand recipients with long ORCPT each, from fifty sessions at once.
    #[tokio::test]
    async fn no_batch_is_longer_than_a_message_to_a_follower_however_long_its_commands_are() {
        let mut next: VecDeque<Waiting> = (0..256).map(|_| waiting(&long(600_000))).collect();
        let mut count = 0;
        while !next.is_empty() {
            let batch = first_batch(&mut next);
            count += batch.len();
            assert!(!batch.is_empty());
            let commands = batch.iter().map(|waiting| waiting.bytes.clone());
            let proposal = Proposal::of(clock::now(), commands.collect()).unwrap();
            assert!(proposal.bytes.len() <= BATCH_BYTES_MAX + 1024);
        }
        assert_eq!(count, 256);
    }

    #[tokio::test]
    async fn short_commands_travel_together_up_to_a_number() {
        let mut next: VecDeque<Waiting> = (0..300).map(|_| waiting(&long(10))).collect();
        assert_eq!(first_batch(&mut next).len(), BATCH_COMMANDS_MAX);
        assert_eq!(first_batch(&mut next).len(), 300 - BATCH_COMMANDS_MAX);
    }

    #[tokio::test]
    async fn a_long_command_travels_alone_and_one_that_is_too_long_not_at_all() {
        let mut next: VecDeque<Waiting> = [long(10), long(COMMAND_BYTES_MAX - 100), long(10)]
            .iter()
            .map(waiting)
            .collect();
        assert_eq!(first_batch(&mut next).len(), 1);
        let batch = first_batch(&mut next);
        let commands = batch.iter().map(|waiting| waiting.bytes.clone());
        let proposal = Proposal::of(clock::now(), commands.collect()).unwrap();
        assert!(batch.len() == 1 && proposal.bytes.len() <= ENTRY_BYTES_MAX);
        let (queue, _receiver) = queue();
        let refused = submit(&queue, long(COMMAND_BYTES_MAX), Instant::now()).await;
        assert!(
            matches!(refused, Err(ProposeError::NotProposed(_))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn mail_that_was_refused_after_a_try_in_doubt_is_in_doubt() {
        let full = || Reply::Refused(holdfast_ledger::Refusal::FullForNow);
        let (mut message, other) = (waiting(&long(1)), waiting(&long(1)));
        message.mail = true;
        assert_eq!(message.judged(full()).ok(), Some(full()));
        message.ambiguous = true;
        let judged = message.judged(full());
        assert!(
            matches!(judged, Err(ProposeError::Unknown(_))),
            "{judged:?}"
        );
        assert_eq!(message.judged(Reply::Done).ok(), Some(Reply::Done));
        assert!(!other.mail && other.judged(full()).is_ok());
    }
}
