//! What this node saw of messages: who brought them, what was refused, how each attempt at delivery
//! went. For `mail trace`, and for nothing else: no decision rests on it.
//!
//! ```text
//!   rooms ── note ─► queue, bounded ─► one thread ─► files, bounded by size and age
//!                      full: counted as lost, nobody waits
//! ```
//!
//! Files are not synced: a power cut may lose the last moments of the story, and never mail.

mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_mail::MessageId;
use holdfast_proto::cluster::{Happening, TraceReply, TraceRequest};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::world;
use files::Files;

/// Happenings that wait for the disk; what comes on top is lost.
const QUEUE_MAX: usize = 8192;

/// And their octets: strangers choose how long the list of recipients is that a happening names.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// Letters of a reply that are kept. Clients and primaries choose them.
const TEXT_CHARS_MAX: usize = 500;

/// How long to leave a disk alone that took no write.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Happenings in one answer, the latest.
pub const FOUND_MAX: usize = 5000;

/// Bytes of one answer: it shares a connection with the log.
const FOUND_BYTES_MAX: usize = 1 << 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    queue: SyncSender<Happening>,
    /// Octets that wait in it.
    waiting: Arc<AtomicUsize>,
    lost: Counter,
    /// Searches take turns: each reads the disk as fast as it can.
    searching: Mutex<()>,
}

impl History {
    /// Begins a new file in `dir`, and writes until the last clone is dropped.
    ///
    /// # Errors
    /// The folder cannot be made, or no thread be started.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (queue, incoming) = sync_channel(QUEUE_MAX);
        let lost = Counter::default();
        let waiting = Arc::new(AtomicUsize::new(0));
        let inner = Inner {
            dir: dir.to_owned(),
            queue,
            waiting: waiting.clone(),
            lost: lost.clone(),
            searching: Mutex::default(),
        };
        let files = Files::new(dir);
        std::thread::Builder::new()
            .name("history".into())
            .spawn(move || {
                let taken = |happening: Happening| {
                    waiting.fetch_sub(octets(&happening), Ordering::Relaxed);
                    happening
                };
                write(files, &incoming, taken, &lost);
            })?;
        Ok(Self(Arc::new(inner)))
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "history_lost",
            "Happenings that `mail trace` cannot tell of: they came faster than the disk, or it was full",
            self.0.lost.clone(),
        );
    }

    /// Never waits.
    pub fn note(&self, mut happening: Happening) {
        if happening.at_ms == 0 {
            happening.at_ms = world::now().0;
        }
        if happening.text.chars().count() > TEXT_CHARS_MAX {
            happening.text = happening.text.chars().take(TEXT_CHARS_MAX).collect();
        }
        let (octets, waiting) = (octets(&happening), &self.0.waiting);
        let before = waiting.fetch_add(octets, Ordering::Relaxed);
        let has_room = before + octets <= QUEUE_BYTES_MAX;
        if !has_room || self.0.queue.try_send(happening).is_err() {
            waiting.fetch_sub(octets, Ordering::Relaxed);
            self.0.lost.inc();
        }
    }

    /// What is asked for, oldest first; reads files, so it may take seconds.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn search(&self, asked: &TraceRequest) -> io::Result<TraceReply> {
        let inner = &self.0;
        let _turn = inner
            .searching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = Latest::default();
        let since_ms = files::read(&inner.dir, asked.since_ms, asked.until_ms, |happening| {
            if is_asked_for(asked, &happening) {
                found.add(happening);
            }
        })?;
        Ok(TraceReply {
            more: found.more,
            found: found.all.into(),
            lost: inner.lost.get(),
            since_ms,
        })
    }
}

/// The latest, as many as fit an answer.
#[derive(Default)]
struct Latest {
    all: std::collections::VecDeque<Happening>,
    bytes: usize,
    more: bool,
}

impl Latest {
    fn add(&mut self, happening: Happening) {
        use prost::Message;
        self.bytes += happening.encoded_len();
        self.all.push_back(happening);
        while self.all.len() > FOUND_MAX || self.bytes > FOUND_BYTES_MAX {
            let Some(oldest) = self.all.pop_front() else {
                return;
            };
            self.bytes -= oldest.encoded_len();
            self.more = true;
        }
    }
}

fn is_asked_for(asked: &TraceRequest, happening: &Happening) -> bool {
    let has = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
    let is_about = |id: &[u8]| asked.messages.iter().any(|message| message[..] == *id);
    let within = happening.at_ms >= asked.since_ms
        && (asked.until_ms == 0 || happening.at_ms < asked.until_ms);
    if !asked.domains.is_empty() {
        let is_of_none = happening.message.is_empty();
        return within && is_of_none && asked.domains.contains(&happening.domain);
    }
    within
        && (asked.messages.is_empty() || is_about(&happening.message) || is_about(&happening.other))
        && (asked.from.is_empty()
            || happening
                .from
                .as_deref()
                .is_some_and(|from| has(from, &asked.from)))
        && (asked.to.is_empty() || happening.to.iter().any(|to| has(to, &asked.to)))
        && (asked.client.is_empty() || happening.client == asked.client)
        && (asked.header_id.is_empty() || happening.header_id == asked.header_id)
}

/// The one thread that writes.
/// About what a happening occupies while it waits: each recipient is a string of its own.
fn octets(happening: &Happening) -> usize {
    use prost::Message;
    happening.encoded_len() + happening.to.len() * size_of::<String>()
}

fn write(
    mut files: Files,
    incoming: &Receiver<Happening>,
    taken: impl Fn(Happening) -> Happening,
    lost: &Counter,
) {
    /// How often the age of files is looked at while nothing happens.
    const TIDY: Duration = Duration::from_secs(60);
    let mut failed: Option<Instant> = None;
    loop {
        let first = match incoming.recv_timeout(TIDY) {
            Ok(happening) => taken(happening),
            Err(RecvTimeoutError::Timeout) => {
                files.tidy();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if failed.is_some_and(|at| at.elapsed() < AFTER_FAILURE) {
            lost.inc();
            continue;
        }
        // One flush for all that came meanwhile.
        let mut wrote = files.add(&first);
        while let Ok(next) = incoming.try_recv() {
            let next = taken(next);
            wrote = wrote.and_then(|()| files.add(&next));
        }
        failed = None;
        if let Err(error) = wrote.and_then(|()| files.flush()) {
            tracing::warn!("the history cannot be written, `mail trace` will have a gap: {error}");
            files.close();
            lost.inc();
            failed = Some(Instant::now());
        }
    }
}

/// A happening of this kind; the rest is filled in by whoever knows it.
#[must_use]
pub fn happening(kind: &str) -> Happening {
    Happening {
        kind: kind.into(),
        ..Happening::default()
    }
}

/// The same about a message.
#[must_use]
pub fn about(kind: &str, message: MessageId) -> Happening {
    Happening {
        message: message.to_bytes().to_vec().into(),
        ..happening(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> MessageId {
        MessageId(n)
    }

    fn wait_for(history: &History, asked: &TraceRequest, count: usize) -> TraceReply {
        let begin = Instant::now();
        loop {
            let reply = history.search(asked).unwrap();
            if reply.found.len() >= count || begin.elapsed() > Duration::from_secs(10) {
                return reply;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A flood of refusals with long lists of recipients must not fill the memory.
    #[test]
    fn what_waits_is_bounded_in_octets_too() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let long = Happening {
            to: vec!["x".repeat(1000); 1000],
            ..happening("refused")
        };
        for _ in 0..200 {
            history.note(long.clone());
            let waiting = history.0.waiting.load(Ordering::Relaxed);
            assert!(waiting <= QUEUE_BYTES_MAX, "{waiting}");
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while history.0.waiting.load(Ordering::Relaxed) > 0 {
            assert!(Instant::now() < deadline, "all is written in the end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_was_noted_is_found_by_message_address_client_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(dir.path()).unwrap();
        let begin = world::now().0;
        for n in 1..=20_u64 {
            history.note(Happening {
                at_ms: begin + n,
                from: Some(format!("From{n}@sender.example")),
                to: vec![format!("to{}@example.org", n % 2)],
                client: format!("192.0.2.{n}"),
                ..about("accepted", id(n.into()))
            });
        }
        history.note(Happening {
            at_ms: begin + 30,
            other: id(3).to_bytes().to_vec().into(),
            ..about("notified", id(99))
        });
        let all = TraceRequest::default();
        assert_eq!(wait_for(&history, &all, 21).found.len(), 21);
        let times = |asked: TraceRequest| -> Vec<u64> {
            let reply = history.search(&asked).unwrap();
            assert!(!reply.more);
            let found = reply.found.iter();
            found.map(|found| found.at_ms - begin).collect()
        };
        let of_message = TraceRequest {
            messages: vec![id(3).to_bytes().to_vec().into()],
            ..all.clone()
        };
        assert_eq!(times(of_message), [3, 30], "its notification too");
        let from = TraceRequest {
            from: "from2@".to_owned(),
            ..all.clone()
        };
        assert_eq!(times(from), [2]);
        let to_within = TraceRequest {
            to: "TO1@".to_owned(),
            since_ms: begin + 2,
            until_ms: begin + 6,
            ..all.clone()
        };
        assert_eq!(times(to_within), [3, 5]);
        let client = TraceRequest {
            client: "192.0.2.1".to_owned(),
            ..all.clone()
        };
        assert_eq!(times(client), [1]);
        for domain in ["example.org", "example.net"] {
            history.note(Happening {
                at_ms: begin + 40,
                domain: domain.to_owned(),
                ..happening("away")
            });
        }
        assert_eq!(wait_for(&history, &all, 23).found.len(), 23);
        let primaries = TraceRequest {
            domains: vec!["example.net".to_owned()],
            ..all
        };
        assert_eq!(
            times(primaries),
            [40],
            "of this domain, and about no message"
        );
    }

    #[test]
    fn a_queue_that_is_full_loses_happenings_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (queue, _nobody_reads) = sync_channel(1);
        let history = History(Arc::new(Inner {
            dir: dir.path().to_owned(),
            queue,
            waiting: Arc::default(),
            lost: Counter::default(),
            searching: Mutex::default(),
        }));
        for _ in 0..5 {
            history.note(happening("connected"));
        }
        assert_eq!(history.search(&TraceRequest::default()).unwrap().lost, 4);
    }

    #[test]
    fn an_answer_holds_the_latest_and_says_that_there_was_more() {
        let mut found = Latest::default();
        for n in 0..=FOUND_MAX as u64 {
            found.add(Happening {
                at_ms: n,
                ..happening("refused")
            });
        }
        assert!(found.more);
        assert_eq!(found.all.len(), FOUND_MAX);
        assert_eq!(found.all[0].at_ms, 1);
    }
}
