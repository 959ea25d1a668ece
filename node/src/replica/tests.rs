//! openraft's own suite for stores, on ours; and what a cluster of one can tell.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_ledger::{Batch, Command, Member, Primary, Reply};
use holdfast_mail::{
    Address, BodyRef, BodyType, Domain, Envelope, MessageId, NodeId, Recipient, ReversePath,
    Timestamp,
};
use holdfast_proto::cluster as wire;
use openraft::StorageError;
use openraft::storage::RaftStateMachine;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::log_storage::LogStorage;
use super::snapshot::Snapshots;
use super::state_machine::StateMachine;
use super::types::{Entry, LeaderId, LogId, Payload, Proposal, Seat, Types};
use super::{Cluster, ProposeError, gate, propose};
use crate::config::WanProfile;
use crate::net::listen::Listener;
use crate::store::{Options, Store};

struct Builder;

impl StoreBuilder<Types, LogStorage, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStorage, StateMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            fatal: Arc::new(|why| panic!("{why}")),
            flush_times: crate::store::FlushTimes::default(),
            failures: crate::store::Failures::default(),
        };
        let store = Arc::new(Store::open(&dir.path().join("ledger"), options).unwrap());
        let snapshots = Snapshots::open(dir.path().join("snapshots")).unwrap();
        let (effects, _) = broadcast::channel(16);
        let machine =
            StateMachine::open(store.clone(), snapshots, effects, Arc::default()).unwrap();
        Ok((dir, LogStorage::new(store), machine))
    }
}

#[test]
fn openrafts_own_suite_passes_on_our_stores() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

fn fatal() -> Options {
    Options {
        fatal: Arc::new(|why| panic!("{why}")),
        flush_times: crate::store::FlushTimes::default(),
        failures: crate::store::Failures::default(),
    }
}

fn set_domain(name: &str) -> Command {
    Command::SetDomain {
        domain: Domain::parse(name).unwrap(),
        primary: Primary {
            host: "127.0.0.1".into(),
            port: 1,
        },
        must_be_new: false,
        must_exist: false,
    }
}

fn accept(body: BodyRef) -> Command {
    Command::Accept {
        envelope: Envelope {
            id: body.id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: Address::parse("a@b.example", false).unwrap(),
                notify: None,
                orcpt: None,
            }],
            body,
            received_at: Timestamp(1),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        },
    }
}

fn entry(index: u64, at: u64, command: Command) -> Entry {
    let batch = Batch {
        at: Timestamp(at),
        commands: vec![command],
    };
    Entry {
        log_id: LogId {
            leader_id: LeaderId {
                term: 1,
                node_id: 1,
            },
            index,
        },
        payload: Payload::Normal(Proposal::new(batch).unwrap()),
    }
}

/// All rows after these entries, and how far the machine says, opened again, that it is.
async fn rows_of(entries: Vec<Entry>) -> (Vec<(Vec<u8>, Vec<u8>)>, Option<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("ledger"), fatal()).unwrap());
    let snapshots = Snapshots::open(dir.path().join("snapshots")).unwrap();
    let (effects, _) = broadcast::channel(16);
    let open = || {
        StateMachine::open(
            store.clone(),
            snapshots.clone(),
            effects.clone(),
            Arc::default(),
        )
        .unwrap()
    };
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    open().apply(futures::stream::iter(entries)).await.unwrap();
    let rows = store.view().rows().map(Result::unwrap).collect();
    let (applied, _) = open().applied_state().await.unwrap();
    (rows, applied.map(|id| id.index))
}

#[tokio::test]
async fn replicas_that_apply_the_same_entries_at_different_times_hold_the_same_rows() {
    let entries = vec![
        entry(3, 1_800_000_000_000, set_domain("a.example")),
        entry(4, 1_800_000_000_700, set_domain("b.example")),
    ];
    let first = rows_of(entries.clone()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(rows_of(entries).await, first);
    assert_eq!(first.1, Some(4), "and know what they have applied");
}

/// A cluster of one.
pub(super) struct Alone {
    pub(super) cluster: Cluster,
    dir: tempfile::TempDir,
}

impl Alone {
    fn options(dir: &Path, listener: &Listener) -> super::Options {
        super::Options {
            data_dir: dir.to_owned(),
            member: Member {
                id: NodeId(0),
                name: "alone".into(),
                region: "here".into(),
                cluster_address: listener.address().unwrap().to_string(),
                smtp_name: "mx.example".into(),
                smtp_address: "127.0.0.1:25".into(),
            },
            profile: WanProfile::Lan,
            snapshot_every: crate::config::SNAPSHOT_EVERY,
            disk_free_min: 0,
            fatal: Arc::new(|why| panic!("{why}")),
            flush_times: crate::store::FlushTimes::default(),
        }
    }

    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = Self::options(dir.path(), &listener);
        let (identity, bootstrap) = super::found(&options.member).unwrap();
        let stores = super::create(&options, identity).await.unwrap();
        let cluster = super::start(options, stores, listener, Some(bootstrap))
            .await
            .unwrap();
        Self { cluster, dir }
    }

    async fn propose(&self, command: Command, seconds: u64) -> Result<Reply, ProposeError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.cluster.propose(command, deadline).await
    }

    /// Without looking for another leader.
    pub(super) async fn close(&self) {
        self.cluster.0.raft.shutdown().await.unwrap();
        self.cluster.0.store.flush().await.unwrap();
    }

    async fn body(&self, content: &'static [u8]) -> BodyRef {
        let id = MessageId::new(super::clock::now(), super::random_id());
        let mut writer = self.cluster.bodies().begin(id);
        writer.write(content.into()).await.unwrap();
        writer.finish().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_the_one_its_envelope_names_is_not_delivered_but_fetched() {
    let alone = Alone::start().await;
    let bodies = alone.cluster.bodies();
    let body = alone.body(b"somebody else's\r\n").await;
    assert!(bodies.read(&body).await.is_ok());
    for wrong in [
        BodyRef {
            len: body.len + 1,
            ..body
        },
        BodyRef {
            digest: [7; 32],
            ..body
        },
    ] {
        let body = alone.body(b"somebody else's\r\n").await;
        let wrong = BodyRef {
            id: body.id,
            ..wrong
        };
        // There is no other node that has the right one.
        let read = bodies.read(&wrong);
        let read = tokio::time::timeout(Duration::from_millis(700), read).await;
        assert!(!matches!(read, Ok(Ok(_))), "the wrong body was handed out");
        assert!(!bodies.present(body.id).unwrap(), "and is forgotten");
    }
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_node_takes_no_streamed_bodies_and_still_fetches_those_it_needs() {
    let alone = Alone::start().await;
    let bodies = alone.cluster.bodies();
    let new = || MessageId::new(super::clock::now(), super::random_id());
    assert!(bodies.bring(new(), b"streamed", false).await);
    let room = &alone.cluster.0.room;
    // The disk is looked at meanwhile.
    let free = alone.cluster.0.disk_free.load(Ordering::Relaxed);
    alone.cluster.set_disk_free_min(free / 4 * 5);
    room.look(free, free / 4 * 5);
    assert!(room.is_low() && !room.is_full());
    let refused = new();
    assert!(!bodies.bring(refused, b"streamed", false).await);
    assert!(!bodies.present(refused).unwrap());
    assert!(bodies.bring(refused, b"streamed", true).await);
    alone.cluster.set_disk_free_min(0);
    room.look(free, 0);
    assert!(bodies.bring(new(), b"streamed", false).await);
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_a_peer_begins_and_does_not_end_take_no_memory_without_bounds() {
    let alone = Alone::start().await;
    let [at_once, later] = alone.cluster.bodies().begin_many(1_000);
    assert_eq!(at_once, (256, 256));
    assert_eq!(later, (1, 1));
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_entry_passes_the_gate_without_its_body() {
    let alone = Alone::start().await;
    let bodies = alone.cluster.bodies();
    let here = alone.body(b"here\r\n").await;
    let passed = gate::before_append(bodies, &[entry(9, 1, accept(here))], 1).await;
    assert!(passed.is_ok());
    let nowhere = BodyRef {
        id: MessageId::new(super::clock::now(), 1),
        ..here
    };
    let entries = [entry(9, 1, accept(nowhere))];
    let passed = gate::before_append(bodies, &entries, 1);
    let passed = tokio::time::timeout(Duration::from_millis(500), passed).await;
    assert!(!matches!(passed, Ok(Ok(()))));
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_repeat_of_what_is_over_passes_the_gate_without_its_body() {
    let alone = Alone::start().await;
    let bodies = alone.cluster.bodies();
    let id = MessageId::new(super::clock::now(), super::random_id());
    let gone = BodyRef {
        id,
        len: 1,
        digest: [0; 32],
    };
    // Behind everything that anybody has applied.
    let entries = [entry(1_000, 1, accept(gone))];
    let request = wire::PullRequest {
        index: 1_000,
        ..wire::PullRequest::default()
    };
    let asked = |applied| bodies.serve(id, &request, applied).unwrap_err().code();
    assert_eq!(asked(Some(900)), tonic::Code::NotFound);
    let cancelled = alone.propose(Command::Cancel { message: id }, 10).await;
    assert!(matches!(cancelled, Ok(Reply::Cancelled)), "{cancelled:?}");
    assert_eq!(asked(Some(900)), tonic::Code::FailedPrecondition);
    let passed = gate::before_append(bodies, &entries, 1);
    let passed = tokio::time::timeout(Duration::from_millis(500), passed).await;
    assert!(matches!(passed, Ok(Ok(()))), "{passed:?}");
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_whose_release_was_missed_is_found_when_its_minute_is_over() {
    let alone = Alone::start().await;
    let bodies = alone.cluster.bodies();
    let [over, waits] = [
        alone.body(b"over\r\n").await,
        alone.body(b"waits\r\n").await,
    ];
    let cancelled = alone
        .propose(Command::Cancel { message: over.id }, 10)
        .await;
    assert!(matches!(cancelled, Ok(Reply::Cancelled)), "{cancelled:?}");
    assert_eq!(bodies.sweep_orphans(|| true).unwrap(), 0);
    let store = alone.cluster.0.store.clone();
    let snapshots = Snapshots::open(alone.dir.path().join("snapshots")).unwrap();
    let (effects, _) = broadcast::channel(16);
    let mut machine = StateMachine::open(store, snapshots, effects, Arc::default()).unwrap();
    let later = super::clock::now().plus(Duration::from_secs(61));
    let later = Ok((entry(1_000, later.0, Command::Note), None));
    machine.apply(futures::stream::iter([later])).await.unwrap();
    assert_eq!(bodies.sweep_orphans(|| true).unwrap(), 1);
    let there = [over, waits].map(|body| bodies.present(body.id).unwrap());
    assert_eq!(there, [false, true]);
    alone.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_accepted_that_only_half_of_the_voters_have() {
    let alone = Alone::start().await;
    assert!(alone.propose(set_domain("b.example"), 10).await.is_ok());
    let raft = alone.cluster.0.raft.clone();
    let nobody = Seat {
        name: "nobody".into(),
        region: "nowhere".into(),
        cluster_address: "127.0.0.1:1".into(),
    };
    raft.add_learner(2, nobody, false).await.unwrap();
    // Needs the second voter's hand to be committed, which never comes.
    let change = tokio::spawn(async move { raft.change_membership([1, 2], true).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let Payload::Normal(proposal) = entry(0, 1, accept(alone.body(b"hi\r\n").await)).payload else {
        unreachable!("it is one");
    };
    // As a node that forwards it would ask; `propose` looks for a quorum first.
    let answer = propose::answer(&alone.cluster.0, proposal.bytes, 1);
    if let Ok(answer) = tokio::time::timeout(Duration::from_secs(2), answer).await {
        use wire::propose_reply::Outcome;
        let accepted = matches!(answer.outcome, Some(Outcome::Replies(_)));
        assert!(!accepted, "{answer:?}");
    }
    change.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_whose_database_is_gone_does_not_start() {
    let alone = Alone::start().await;
    alone.close().await;
    let Alone { cluster, dir } = alone;
    drop(cluster);
    for room in ["ledger", "bodies"] {
        let wiped = tempfile::tempdir().unwrap();
        copy(dir.path(), wiped.path());
        std::fs::remove_dir_all(wiped.path().join(room)).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = super::reopen(&Alone::options(wiped.path(), &listener)).err();
        let is_wiped = matches!(
            error,
            Some(super::StartError::Identity(
                super::IdentityError::Wiped { .. }
            ))
        );
        assert!(is_wiped, "{room}: {error:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_request_is_heard_only_from_a_member_that_means_this_node() {
    let ours = [1; 16];
    let envelope = |cluster: [u8; 16], from, to| wire::Envelope {
        cluster_id: cluster.to_vec().into(),
        from,
        to,
        ..wire::Envelope::default()
    };
    let good = envelope(ours, 5, 7);
    let peer = Some((NodeId(5), ours));
    let caller = |peer, envelope: Option<&wire::Envelope>| {
        super::service::caller(peer, envelope, ours, NodeId(7)).ok()
    };
    assert_eq!(caller(peer, Some(&good)), Some(NodeId(5)));
    for (peer, envelope) in [
        (None, Some(good.clone())),
        (peer, None),
        (Some((NodeId(5), [2; 16])), Some(good.clone())),
        (peer, Some(envelope([2; 16], 5, 7))),
        (Some((NodeId(5), [2; 16])), Some(envelope([2; 16], 5, 7))),
        (peer, Some(envelope(ours, 6, 7))),
        (peer, Some(envelope(ours, 5, 8))),
    ] {
        assert_eq!(
            caller(peer, envelope.as_ref()),
            None,
            "{peer:?} {envelope:?}"
        );
    }
}
