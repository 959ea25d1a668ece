//! What can be done with a node's data while the node is stopped: copy it, and found a cluster anew
//! from a copy.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use holdfast_ledger::anew::{
    Founding, Sorted, Taken, first_node, found_anew, sort_mail, take_messages,
};
use holdfast_ledger::{Command, Kv, KvError, Logged, Member, MemoryKv, apply_batch, level, query};
use holdfast_mail::{BodyRef, MessageId, NodeId};
use holdfast_proto::cluster as wire;
use openraft::EntryPayload;

use super::copy::{self, Item, Reader};
use super::snapshot;
use super::state_machine::{APPLIED, StateMachine};
use super::types::{LeaderId, LogId, Membership, Seat, StoredMembership};
use super::{Identity, Options, SEAL, StartError, codec, found, now, open_stores, reopen};
use crate::store::{BodyStore, Store};

/// Octets of log read at a time.
const LOG_BYTES: usize = 16 << 20;

/// What a node has in its data directory. Where any of it is, nothing is founded: it may be the last of
/// its kind.
const DATA: [&str; 4] = ["ledger", "bodies", "identity", "snapshots/current"];

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0} holds no node's data; nothing was changed")]
    Nobody(PathBuf),
    #[error(
        "{0} holds data already; nothing was changed. A cluster is founded anew in an empty directory only: move the \
         old one away, and keep it until all is well"
    )]
    NotEmpty(PathBuf),
    #[error("the rows cannot be read: {0}; nothing was changed")]
    Rows(String),
    #[error("{0} is of another cluster; nothing was changed")]
    Stranger(PathBuf),
    #[error(
        "{node} goes further, to entry {index} of term {term}; nothing was changed. Begin there, with a copy of this \
         node: what {node} knows, the cluster may have agreed on"
    )]
    Further { node: String, term: u64, index: u64 },
    #[error("a log entry cannot be read: {0}; nothing was changed")]
    Entry(String),
}

impl From<KvError> for OfflineError {
    fn from(error: KvError) -> Self {
        Self::Rows(error.0)
    }
}

/// The data of a node that is stopped, as of the last entry in its log.
pub struct Stopped {
    pub identity: Identity,
    rows: MemoryKv,
    bodies: Arc<BodyStore>,
    pub head: wire::CopyHead,
}

/// Reads what a stopped node has; nothing of it is changed. Entries that are in its log and were not
/// known to be committed count: one of them may have been acknowledged.
///
/// # Errors
/// There is nothing, the node runs, or its data is damaged.
pub fn read(options: &Options) -> Result<Stopped, OfflineError> {
    let dir = &options.data_dir;
    let stores = reopen(options)?.ok_or_else(|| OfflineError::Nobody(dir.clone()))?;
    let ledger: Arc<Store> = stores.ledger;
    let mut rows = MemoryKv::new();
    let view = ledger.view();
    for row in view.rows() {
        let (key, value) = row?;
        rows.put(&key, &value);
    }
    let applied = match view.meta(APPLIED)? {
        Some(bytes) => {
            let read = <wire::LogId as prost::Message>::decode(&bytes[..]);
            Some(read.map_err(|error| OfflineError::Entry(error.to_string()))?)
        }
        None => None,
    };
    let applied_index = applied.as_ref().map_or(0, |id| id.index);
    let mut index = applied_index;
    let mut term = applied.as_ref().map_or(0, |id| id.term);
    let mut membership = copy::membership(&view)?;
    loop {
        let page = ledger.log_limited(index + 1, u64::MAX, LOG_BYTES)?;
        if page.is_empty() {
            break;
        }
        for (at, bytes) in page {
            let entry = codec::entry(Bytes::from(bytes));
            let entry = entry.map_err(|error| OfflineError::Entry(error.to_string()))?;
            (index, term) = (at, entry.log_id.leader_id.term);
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    apply_batch(&mut rows, at, &proposal.batch, &mut Vec::new())?;
                }
                // It counts from its place in the log on, committed or not.
                EntryPayload::Membership(changed) => {
                    membership = Some(codec::membership_to_wire(changed));
                }
            }
        }
    }
    Ok(Stopped {
        head: wire::CopyHead {
            cluster_id: stores.identity.cluster_id.to_vec().into(),
            node: options.member.name.clone(),
            at_ms: now().0,
            index,
            applied: applied_index,
            term,
            membership,
        },
        identity: stores.identity,
        bodies: stores.bodies,
        rows,
    })
}

impl Stopped {
    /// Messages that wait, and octets.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn held(&self) -> Result<query::Counts, OfflineError> {
        Ok(query::total(&self.rows)?)
    }

    /// What a new cluster would begin with; nothing is written.
    ///
    /// # Errors
    /// As of [`restore`].
    pub fn merge(self, others: &[PathBuf], keep_queued: bool) -> Result<Merged, OfflineError> {
        let mut bodies = BTreeSet::new();
        for body in query::bodies(&self.rows, None, usize::MAX)? {
            if is_there(&self.bodies, &body)? {
                bodies.insert(body.id);
            }
        }
        let name = self.head.node.clone();
        let known = Known {
            head: self.head,
            rows: self.rows,
            bodies,
        };
        merge(known, others, &name, keep_queued)
    }

    /// Writes a copy of it, durably.
    ///
    /// # Errors
    /// It cannot be read, or not be written.
    pub fn save(&self, path: &Path) -> Result<(), OfflineError> {
        let file = private_file(path).map_err(|error| {
            let text = format!("{}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })?;
        let rows = self.rows.rows();
        let rows = rows.map(|(key, value)| Ok((key.to_vec(), value.to_vec())));
        let read = |body: &BodyRef| body_of(&self.bodies, body);
        let out = copy::write(BufWriter::new(file), &self.head, rows, &self.rows, read)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(file.sync_all()?)
    }
}

/// The content of a body, if it is there and is what its envelope says. A body that is deleted, or rots,
/// while it is read is not there either: one message without content must not cost all the others their
/// copy.
pub(crate) fn body_of(bodies: &BodyStore, body: &BodyRef) -> io::Result<Option<Vec<Bytes>>> {
    match chunks_of(bodies, body) {
        Err(error) if is_gone(&error) => Ok(None),
        read => read,
    }
}

fn chunks_of(bodies: &BodyStore, body: &BodyRef) -> io::Result<Option<Vec<Bytes>>> {
    if !is_there(bodies, body)? {
        return Ok(None);
    }
    let mut reader = bodies.reader(body.id)?;
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next()? {
        chunks.push(chunk);
    }
    Ok(Some(chunks))
}

/// Whether there is an end of it; what is before that may be damaged.
fn is_there(bodies: &BodyStore, body: &BodyRef) -> io::Result<bool> {
    match bodies.end(body.id) {
        Ok(end) => Ok(end.is_some_and(|end| end.len == body.len && end.digest == body.digest)),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    )
}

/// A new file that only its owner reads: mail is in it.
fn private_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// What one node or one copy has.
struct Known {
    head: wire::CopyHead,
    rows: MemoryKv,
    bodies: BTreeSet<MessageId>,
}

impl Known {
    /// All of it is read and found sound before any of it is used.
    fn of(file: &Path) -> Result<Self, OfflineError> {
        let damaged = |error: io::Error| {
            let text = format!("{}: {error}", file.display());
            OfflineError::Io(io::Error::new(error.kind(), text))
        };
        let read = || -> io::Result<Self> {
            let contents = copy::inspect(&File::open(file)?)?;
            let mut rows = MemoryKv::new();
            for item in Reader::open(io::BufReader::new(File::open(file)?))? {
                if let Item::Row(row) = item? {
                    rows.put(&row.key, &row.value);
                }
            }
            Ok(Self {
                head: contents.head,
                rows,
                bodies: contents.bodies,
            })
        };
        read().map_err(damaged)
    }

    /// How far it goes: Raft's order of logs, by which the one that goes furthest has all that any of
    /// them knows to be agreed on.
    fn end(&self) -> (u64, u64) {
        (self.head.term, self.head.index)
    }
}

/// What a new cluster begins with.
#[derive(Clone, Debug)]
pub struct Merged {
    pub head: wire::CopyHead,
    rows: MemoryKv,
    /// The first entry of the new log, whose state they are, and its only node's id.
    first: NodeId,
    /// What waited for delivery.
    pub held: query::Counts,
    /// Nodes of the old cluster of which nothing is there.
    pub unheard: Vec<String>,
    /// Whether what is there is known to be of a majority of the old cluster's voters.
    pub is_majority: bool,
    /// Bodies that only another copy has.
    pub foreign_bodies: u64,
    pub taken: Taken,
    pub sorted: Sorted,
}

/// Adds what other survivors have, and sorts the mail.
fn merge(
    known: Known,
    others: &[PathBuf],
    by: &str,
    keep_queued: bool,
) -> Result<Merged, OfflineError> {
    let end = known.end();
    let Known {
        head,
        mut rows,
        mut bodies,
    } = known;
    let mut when = Logged {
        index: first_node(head.index).0,
        position: 0,
        at: now(),
    };
    let own = bodies.clone();
    let mut heard = BTreeSet::from([head.node.clone()]);
    let mut taken = Taken::default();
    for file in others {
        let other = Known::of(file)?;
        if other.head.cluster_id != head.cluster_id {
            return Err(OfflineError::Stranger(file.clone()));
        }
        if other.end() > end {
            return Err(OfflineError::Further {
                node: other.head.node,
                term: other.head.term,
                index: other.head.index,
            });
        }
        let more = take_messages(&mut rows, &mut when, &other.rows)?;
        taken.taken += more.taken;
        taken.refused += more.refused;
        bodies.extend(other.bodies);
        heard.insert(other.head.node);
    }
    let members = query::members(&rows)?;
    let mut unheard: Vec<String> = members.into_iter().map(|member| member.name).collect();
    unheard.retain(|name| !heard.contains(name));
    let held = query::total(&rows)?;
    let by = format!("restored on {by}");
    let has_body = |id: MessageId| bodies.contains(&id);
    let sorted = sort_mail(&mut rows, &mut when, &by, keep_queued, &has_body)?;
    let needed = all_bodies(&rows)?;
    Ok(Merged {
        is_majority: is_majority(head.membership.as_ref(), &heard),
        head,
        first: NodeId(when.index),
        held,
        unheard,
        foreign_bodies: needed.difference(&own).count() as u64,
        taken,
        sorted,
        rows,
    })
}

/// Whether those heard are a majority of the voters; of the old and of the new ones, while some take the
/// place of others. Whoever does not vote counts for nothing: entries are agreed on without them. Where
/// nobody knows who voted, nobody knows of a majority.
fn is_majority(membership: Option<&wire::Membership>, heard: &BTreeSet<String>) -> bool {
    let Some(membership) = membership else {
        return false;
    };
    let nodes = membership.nodes.iter();
    let heard: BTreeSet<u64> = nodes
        .filter(|node| heard.contains(&node.name))
        .map(|node| node.id)
        .collect();
    let are_most_heard = |voters: &wire::VoterSet| {
        let here = voters.ids.iter().filter(|id| heard.contains(*id));
        here.count() * 2 > voters.ids.len()
    };
    !membership.configs.is_empty() && membership.configs.iter().all(are_most_heard)
}

/// What a restore came to.
#[derive(Clone, Debug)]
pub struct Restored {
    pub cluster_id: [u8; 16],
    pub node: NodeId,
    pub bodies: u64,
    pub merged: Merged,
}

/// Founds a cluster anew from a copy, in an empty data directory, with this node as its only member;
/// `others` are copies of nodes of the same cluster that do not go further, and may have what it lacks.
/// The identity is written last: until then the node does not start, and the directory can be emptied
/// and this begun again.
///
/// # Errors
/// A copy is damaged, or of another cluster, or goes further; the directory is not empty, or it cannot
/// be written.
pub async fn restore(
    options: &Options,
    file: &Path,
    others: &[PathBuf],
    keep_queued: bool,
) -> Result<Restored, OfflineError> {
    let dir = &options.data_dir;
    if DATA.iter().any(|name| dir.join(name).exists()) {
        return Err(OfflineError::NotEmpty(dir.clone()));
    }
    let mut merged = merge(Known::of(file)?, others, &options.member.name, keep_queued)?;
    let (mut identity, bootstrap) = found(&options.member)?;
    let Command::Bootstrap {
        ca_certificate,
        ca_key,
        ..
    } = bootstrap
    else {
        return Err(OfflineError::Rows("a cluster begins otherwise".to_owned()));
    };
    let node = merged.first;
    // The certificate names the node.
    let (key, request) = crate::net::authority::request().map_err(tls)?;
    identity.certificate = crate::net::authority::sign(
        &ca_certificate,
        &ca_key,
        &request,
        node,
        identity.cluster_id,
    )
    .map_err(tls)?;
    (identity.key, identity.node_id) = (key, node);
    let level = query::level(&merged.rows)?.min(level::NEWEST);
    let first = Member {
        id: node,
        ..options.member.clone()
    };
    let founding = Founding {
        cluster_id: identity.cluster_id,
        ca_certificate,
        ca_key,
        first: first.clone(),
        level,
    };
    found_anew(&mut merged.rows, founding)?;

    let (ledger, bodies) = open_stores(options)?;
    let mut needed = all_bodies(&merged.rows)?;
    let mut stored = 0;
    for file in std::iter::once(file).chain(others.iter().map(PathBuf::as_path)) {
        stored += write_bodies(&bodies, file, &mut needed)?;
    }
    let applied = LogId {
        leader_id: LeaderId {
            term: 1,
            node_id: node.0,
        },
        index: node.0,
    };
    let seat = Seat {
        name: first.name,
        region: first.region,
        cluster_address: first.cluster_address,
    };
    let membership = Membership::new(
        vec![BTreeSet::from([node.0])],
        std::collections::BTreeMap::from([(node.0, seat)]),
    )
    .map_err(|error| OfflineError::Rows(error.to_string()))?;
    let membership = StoredMembership::new(Some(applied), membership);
    let mut meta = StateMachine::meta_rows(applied, Some(&membership));
    meta.push((SEAL, identity.seal()));
    let all = merged
        .rows
        .rows()
        .map(|(key, value)| Ok((key.to_vec(), value.to_vec())));
    ledger.replace_state(all, &meta)?;
    snapshot::forget(dir)?;
    identity.write(dir)?;
    Ok(Restored {
        cluster_id: identity.cluster_id,
        node,
        bodies: stored,
        merged,
    })
}

fn tls(error: impl std::fmt::Display) -> OfflineError {
    StartError::Tls(error.to_string()).into()
}

fn all_bodies(rows: &MemoryKv) -> Result<BTreeSet<MessageId>, OfflineError> {
    let bodies = query::bodies(rows, None, usize::MAX)?;
    Ok(bodies.into_iter().map(|body| body.id).collect())
}

/// Those that are needed, which then are needed no more; returns once they are durable.
fn write_bodies(
    bodies: &BodyStore,
    file: &Path,
    needed: &mut BTreeSet<MessageId>,
) -> io::Result<u64> {
    let (done, results) = mpsc::channel();
    let mut begun = 0;
    let mut open: Option<(wire::CopyBody, crate::store::Writer)> = None;
    let mut finish = |open: &mut Option<(wire::CopyBody, crate::store::Writer)>| -> io::Result<()> {
        if let Some((told, writer)) = open.take() {
            let digest = told.digest[..].try_into().map_err(io::Error::other)?;
            let done = done.clone();
            begun += 1;
            writer.finish(told.len, digest, move |result| {
                // Whoever waits is there until all are done.
                let _gone = done.send(result);
            });
        }
        Ok(())
    };
    for item in Reader::open(io::BufReader::new(File::open(file)?))? {
        match item? {
            Item::Body(told) => {
                finish(&mut open)?;
                let id = MessageId::from_bytes(&told.id).filter(|id| needed.remove(id));
                open = id.map(|id| (told, bodies.begin(id)));
            }
            Item::Chunk(chunk) => {
                if let Some((_, writer)) = &mut open {
                    writer.write(&chunk)?;
                }
            }
            Item::Head(_) | Item::Row(_) => {}
        }
    }
    finish(&mut open)?;
    for _ in 0..begun {
        results.recv().map_err(io::Error::other)??;
    }
    Ok(begun)
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::{Disposal, Primary, Reply, apply};
    use holdfast_mail::dsn::Kind;
    use holdfast_mail::{Address, BodyType, Domain, Envelope, Recipient, ReversePath, Timestamp};

    use super::*;

    const CONTENT: &[u8] = b"Subject: kept\r\n\r\n";

    fn envelope(number: u128) -> Envelope {
        let id = MessageId::new(now(), number);
        Envelope {
            id,
            reverse_path: ReversePath::Null,
            recipients: vec![Recipient {
                address: Address::parse("joe@example.org", false).unwrap(),
                notify: None,
                orcpt: None,
            }],
            body: BodyRef {
                id,
                len: CONTENT.len() as u64,
                digest: *blake3::hash(CONTENT).as_bytes(),
            },
            received_at: Timestamp(1_000),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            helo: String::new(),
            client: String::new(),
        }
    }

    fn member(id: u64) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            region: String::new(),
            cluster_address: String::new(),
            smtp_name: String::new(),
            smtp_address: String::new(),
        }
    }

    fn options(dir: &Path) -> Options {
        Options {
            data_dir: dir.join("data"),
            member: member(1),
            profile: crate::replica::WanProfile::Lan,
            snapshot_every: crate::config::SNAPSHOT_EVERY,
            disk_free_min: 0,
            fatal: Arc::new(|why| panic!("{why}")),
            flush_times: crate::store::FlushTimes::default(),
        }
    }

    /// A copy that a node wrote: it knows `messages` up to entry `index`, and has the content of those
    /// marked so.
    fn copy_of(
        dir: &Path,
        node: u64,
        cluster: u8,
        index: u64,
        messages: &[(&Envelope, bool)],
    ) -> PathBuf {
        copy_with(dir, (node, cluster, index), messages, None)
    }

    /// The same, where a message was given back and its notification is on its way.
    fn copy_with(
        dir: &Path,
        (node, cluster, index): (u64, u8, u64),
        messages: &[(&Envelope, bool)],
        report: Option<(&Envelope, &Envelope)>,
    ) -> PathBuf {
        let head = wire::CopyHead {
            cluster_id: vec![cluster; 16].into(),
            node: format!("n{node}"),
            index,
            applied: index,
            term: 3,
            ..wire::CopyHead::default()
        };
        copy_by(dir, head, messages, report)
    }

    /// The same, where who votes is known.
    fn copy_by(
        dir: &Path,
        head: wire::CopyHead,
        messages: &[(&Envelope, bool)],
        report: Option<(&Envelope, &Envelope)>,
    ) -> PathBuf {
        let cluster = head.cluster_id[0];
        let mut rows = MemoryKv::new();
        let mut when = Logged {
            index: 1,
            position: 0,
            at: now(),
        };
        let mut commands = vec![
            Command::Bootstrap {
                cluster_id: [cluster; 16],
                ca_certificate: vec![1],
                ca_key: vec![1],
                first: member(1),
                level: level::NEWEST,
            },
            Command::SetDomain {
                domain: Domain::parse("example.org").unwrap(),
                primary: Primary {
                    host: "mx.example.org".to_owned(),
                    port: 25,
                },
                must_be_new: true,
                must_exist: false,
            },
        ];
        commands.extend(messages.iter().map(|(envelope, _)| Command::Accept {
            envelope: (*envelope).clone(),
        }));
        let mut enter = |command| {
            when.index += 1;
            let reply = apply(&mut rows, when, &command, &mut Vec::new()).unwrap();
            assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
            holdfast_ledger::Seq::new(when.index, 0).0
        };
        for command in commands {
            enter(command);
        }
        if let Some((about, notification)) = report {
            let version = enter(Command::Dispose {
                domain: Domain::parse("example.org").unwrap(),
                how: Disposal::Bounce,
                messages: vec![about.id],
                held: true,
                by: String::new(),
            });
            let epoch = enter(Command::TakePost {
                node: NodeId(1),
                ttl_ms: 60_000,
                epoch: 0,
            });
            enter(Command::Report {
                node: NodeId(1),
                epoch,
                about: about.id,
                kind: Kind::Failed,
                version,
                envelope: notification.clone(),
            });
        }
        let path = dir.join(format!("copy-{cluster}-{}", head.node));
        let there: BTreeSet<MessageId> = messages
            .iter()
            .filter(|(_, has_content)| *has_content)
            .map(|(envelope, _)| envelope.id)
            .collect();
        let all = rows
            .rows()
            .map(|(key, value)| Ok((key.to_vec(), value.to_vec())));
        copy::write(File::create(&path).unwrap(), &head, all, &rows, |body| {
            let is_there = there.contains(&body.id);
            Ok(is_there.then(|| vec![Bytes::from_static(CONTENT)]))
        })
        .unwrap();
        path
    }

    #[tokio::test]
    async fn content_and_messages_that_another_survivor_has_are_taken_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let [own, elsewhere, nowhere, unknown] = [1, 2, 3, 4].map(envelope);
        let first = copy_of(
            dir.path(),
            1,
            7,
            50,
            &[(&own, true), (&elsewhere, false), (&nowhere, false)],
        );
        let second = copy_of(
            dir.path(),
            2,
            7,
            40,
            &[(&own, true), (&elsewhere, true), (&unknown, true)],
        );
        let options = options(dir.path());
        let restored = restore(&options, &first, &[second], false).await.unwrap();
        let merged = &restored.merged;
        assert_eq!((merged.foreign_bodies, merged.taken.taken), (2, 1));
        let lost = &merged.sorted.without_content;
        assert_eq!(
            lost.iter().map(|it| it.id).collect::<Vec<_>>(),
            [nowhere.id]
        );
        assert_eq!((merged.sorted.set_aside, restored.bodies), (3, 3));
        let stopped = read(&options).unwrap();
        for id in [own.id, elsewhere.id, unknown.id] {
            assert!(query::envelope(&stopped.rows, id).unwrap().is_some());
            assert!(
                body_of(&stopped.bodies, &envelope_body(id))
                    .unwrap()
                    .is_some()
            );
        }
    }

    #[tokio::test]
    async fn a_notification_that_went_while_the_copy_was_made_holds_up_no_restore() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = Address::parse("ann@stranger.example", false).unwrap();
        let about = Envelope {
            reverse_path: ReversePath::Mailbox(stranger.clone()),
            ..envelope(1)
        };
        let mut notification = envelope(2);
        notification.recipients[0].address = stranger;
        let own = envelope(3);
        let copy = copy_with(
            dir.path(),
            (1, 7, 50),
            &[(&about, false), (&own, true)],
            Some((&about, &notification)),
        );
        let options = options(dir.path());
        let restored = restore(&options, &copy, &[], false).await.unwrap();
        let lost = &restored.merged.sorted.without_content;
        let lost: Vec<MessageId> = lost.iter().map(|it| it.id).collect();
        assert_eq!(lost, [notification.id]);
        let stopped = read(&options).unwrap();
        let left = query::bodies(&stopped.rows, None, 9).unwrap();
        assert_eq!(left, [own.body]);
    }

    #[tokio::test]
    async fn a_body_that_rots_is_missing_in_a_copy_and_spoils_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [sound, rotten] = [1, 2].map(envelope);
        let copy = copy_of(dir.path(), 1, 7, 50, &[(&sound, true), (&rotten, true)]);
        let options = options(dir.path());
        restore(&options, &copy, &[], false).await.unwrap();
        let stopped = read(&options).unwrap();
        stopped.bodies.spoil(rotten.id);
        let again = dir.path().join("again");
        stopped.save(&again).unwrap();
        let contents = copy::inspect(&File::open(&again).unwrap()).unwrap();
        assert_eq!(contents.bodies, BTreeSet::from([sound.id]));
    }

    /// A cluster of which `voters` vote, in one set or in two, and five are members.
    fn membership(voters: &[&[u64]]) -> wire::Membership {
        let configs = voters
            .iter()
            .map(|ids| wire::VoterSet { ids: ids.to_vec() });
        let nodes = (1..=5).map(|id| wire::Member {
            id,
            name: format!("n{id}"),
            ..wire::Member::default()
        });
        wire::Membership {
            configs: configs.collect(),
            nodes: nodes.collect(),
        }
    }

    #[test]
    fn only_what_most_voters_had_is_known_to_be_all() {
        let dir = tempfile::tempdir().unwrap();
        let is_majority = |membership: Option<wire::Membership>, of: &[u64]| {
            let copies: Vec<PathBuf> = of
                .iter()
                .map(|node| {
                    let head = wire::CopyHead {
                        cluster_id: vec![7; 16].into(),
                        node: format!("n{node}"),
                        index: 50,
                        applied: 50,
                        term: 3,
                        membership: membership.clone(),
                        ..wire::CopyHead::default()
                    };
                    copy_by(dir.path(), head, &[], None)
                })
                .collect();
            let (first, others) = copies.split_first().unwrap();
            let merged = merge(Known::of(first).unwrap(), others, "n3", false);
            merged.unwrap().is_majority
        };
        // Two are still joining, and have what one of three voters had.
        let joining = || Some(membership(&[&[1, 2, 3]]));
        assert!(!is_majority(joining(), &[3, 4, 5]));
        assert!(!is_majority(joining(), &[3]));
        assert!(is_majority(joining(), &[3, 2]));
        assert!(is_majority(joining(), &[3, 1, 4]));
        // Some take the place of others: both have a say.
        let changing = || Some(membership(&[&[1, 2, 3], &[3, 4, 5]]));
        assert!(!is_majority(changing(), &[3, 4, 5]));
        assert!(is_majority(changing(), &[3, 2, 5]));
        // An older version wrote the copy.
        assert!(!is_majority(None, &[1, 2, 3, 4, 5]));
        assert!(!is_majority(Some(membership(&[])), &[1, 2, 3, 4, 5]));
    }

    #[tokio::test]
    async fn a_copy_says_who_votes_as_of_the_last_entry_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let copy = copy_of(dir.path(), 1, 7, 50, &[]);
        let options = options(dir.path());
        let node = restore(&options, &copy, &[], false).await.unwrap().node;
        let voters = |stopped: &Stopped| stopped.head.membership.clone().unwrap().configs;
        let alone = wire::VoterSet { ids: vec![node.0] };
        assert_eq!(voters(&read(&options).unwrap()), [alone]);

        // A change that is in the log, and was not known to be agreed on.
        let changed = membership(&[&[1, 2, 3]]);
        let entry = super::super::types::Entry {
            log_id: LogId {
                leader_id: LeaderId {
                    term: 2,
                    node_id: node.0,
                },
                index: node.0 + 1,
            },
            payload: EntryPayload::Membership(codec::membership(changed.clone()).unwrap()),
        };
        let stores = reopen(&options).unwrap().unwrap();
        let bytes = codec::entry_to_bytes(&entry);
        let (done, is_durable) = mpsc::channel();
        let append = stores
            .ledger
            .append(vec![(node.0 + 1, bytes)], move |result| {
                done.send(result).unwrap();
            });
        append.unwrap();
        is_durable.recv().unwrap().unwrap();
        drop(stores);
        let stopped = read(&options).unwrap();
        assert_eq!((stopped.head.index, stopped.head.term), (node.0 + 1, 2));
        assert_eq!(voters(&stopped), changed.configs);
        let saved = dir.path().join("saved");
        stopped.save(&saved).unwrap();
        let contents = copy::inspect(&File::open(&saved).unwrap()).unwrap();
        assert_eq!(contents.head, stopped.head);
    }

    #[tokio::test]
    async fn no_snapshot_of_the_old_cluster_is_left_to_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = envelope(1);
        let copy = copy_of(dir.path(), 1, 7, 50, &[(&own, true)]);
        let options = options(dir.path());
        let snapshots = options.data_dir.join("snapshots");
        std::fs::create_dir_all(&snapshots).unwrap();
        // It may be the last that is left of the rows.
        let current = snapshots.join("current");
        std::fs::write(&current, b"rows").unwrap();
        let refused = restore(&options, &copy, &[], false).await;
        assert!(matches!(refused, Err(OfflineError::NotEmpty(_))));
        assert!(current.exists() && !options.data_dir.join("ledger").exists());
        // Somebody moved it away, and left the folder.
        std::fs::rename(&current, snapshots.join("old")).unwrap();
        restore(&options, &copy, &[], false).await.unwrap();
        assert!(!snapshots.exists());
    }

    fn envelope_body(id: MessageId) -> BodyRef {
        BodyRef {
            id,
            ..envelope(0).body
        }
    }

    #[tokio::test]
    async fn a_copy_of_another_cluster_or_one_that_goes_further_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let own = envelope(1);
        let less = copy_of(dir.path(), 1, 7, 40, &[(&own, true)]);
        let more = copy_of(dir.path(), 2, 7, 50, &[(&own, true)]);
        let stranger = copy_of(dir.path(), 3, 8, 10, &[]);
        let options = options(dir.path());
        let further = restore(&options, &less, std::slice::from_ref(&more), false).await;
        assert!(matches!(further, Err(OfflineError::Further { .. })));
        let strange = restore(&options, &more, &[stranger], false).await;
        assert!(matches!(strange, Err(OfflineError::Stranger(_))));
        assert!(!options.data_dir.join("ledger").exists());
        restore(&options, &more, &[less], false).await.unwrap();
    }
}
