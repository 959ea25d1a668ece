//! What was seen from outside, in the order in which it was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// One try to hand over a letter. Tries of the same letter differ in their bytes, so that a
/// delivery tells which of them it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct AttemptId(pub u64);

/// BLAKE3 of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&blake3::Hash::from_bytes(self.0))
    }
}

/// How far a try had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Stage {
    /// The message had not been sent in full: nobody may have taken it.
    BeforeTheDot,
    /// The final dot, or the last chunk, had been sent in full.
    AfterTheDot,
}

/// How a message's content is told from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Framing {
    /// DATA, up to a final dot.
    Dot,
    /// BDAT, in chunks of a length that is said first.
    Chunks,
}

/// What a primary says when it is asked whether it has a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Answer {
    Yes,
    No,
    /// Neither: it is to be asked another time.
    Later,
}

/// What is done to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Fault {
    Kill,
    Pause,
    PowerCut,
    /// Some nodes do not hear some others.
    Partition,
    /// The lines between the nodes are long, jittery or stall.
    BadLines,
    DiskFull,
    /// A sync or write fails.
    DiskFails,
    SlowDisk,
    /// A byte on disk changes.
    BitRot,
    /// A node is lost for good, and another takes its place.
    Replaced,
    /// Members come or go.
    Membership,
    /// More clients, or worse ones, than anybody serves.
    Flood,
    /// A wall clock is set to another time.
    ClockJump,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::Pause,
        Self::PowerCut,
        Self::Partition,
        Self::BadLines,
        Self::DiskFull,
        Self::DiskFails,
        Self::SlowDisk,
        Self::BitRot,
        Self::Replaced,
        Self::Membership,
        Self::Flood,
        Self::ClockJump,
    ];
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Event {
    /// A sender has a letter to hand over.
    Letter {
        letter: u64,
        recipients: Vec<String>,
    },
    /// A sender begins to hand over a message.
    Attempt {
        attempt: AttemptId,
        letter: u64,
        node: String,
        reverse_path: String,
        /// What MAIL says of the message behind the path, as `BODY=8BITMIME`.
        parameters: Vec<String>,
        recipients: Vec<String>,
        digest: Digest,
    },
    /// The try ended with this reply.
    Replied {
        attempt: AttemptId,
        stage: Stage,
        code: u16,
    },
    /// The try ended without a reply.
    Closed {
        attempt: AttemptId,
        stage: Stage,
    },
    /// A primary took a message.
    Delivered {
        /// Tells deliveries apart.
        number: u64,
        /// Which try it comes from, by its own bytes; `None`: no try of ours.
        attempt: Option<AttemptId>,
        /// The domain whose primary took it.
        primary: String,
        /// The node that brought it, as it calls itself.
        by: String,
        reverse_path: String,
        parameters: Vec<String>,
        recipients: Vec<String>,
        /// Of the bytes behind the `Received` lines.
        digest: Digest,
    },
    /// A primary was sent a message's content. `cut`: it hung up in the middle.
    Content {
        framing: Framing,
        cut: bool,
    },
    /// The node that brought a message has gone on after the primary's 250, so it knows of it.
    Confirmed {
        number: u64,
    },
    FaultBegan {
        fault: Fault,
        nodes: Vec<String>,
    },
    FaultEnded {
        fault: Fault,
        nodes: Vec<String>,
    },
    /// From now on, until the next of these, exactly these nodes can reach no quorum.
    Minority {
        nodes: Vec<String>,
    },
    /// A new cluster was founded from a copy of the one before: its entries are others.
    Founded,
    /// What a node's replicated rows come to after the entry `applied`.
    State {
        node: String,
        applied: u64,
        hash: String,
    },
    /// Mail was acknowledged again so long after the fault.
    Recovered {
        from: Fault,
        seconds: f64,
    },
    /// According to `told_by`, `holder` delivers for `domain`, since the entry `epoch`.
    Lease {
        told_by: String,
        domain: String,
        holder: String,
        epoch: u64,
    },
    /// From now on no more than so many messages may be held for the domain.
    Quota {
        domain: String,
        messages: usize,
    },
    /// The reply to this try, which follows, says that a domain's quota is used up.
    OverQuota {
        attempt: AttemptId,
    },
    /// From now on recipients of the domain are those that its primary says it has; what it said
    /// counts for so many seconds.
    Verify {
        domain: String,
        keep_yes: f64,
        keep_no: f64,
    },
    /// A primary was asked for a recipient: RCPT for the null sender, and no content after it.
    Asked {
        recipient: String,
        /// The node that asked, as it calls itself.
        by: String,
        answer: Answer,
    },
    /// The reply to this try, which follows, says that the primary cannot be asked about a
    /// recipient.
    Unverified {
        attempt: AttemptId,
    },
    /// A domain's primary has gone, or is about to come. It begins away.
    Primary {
        domain: String,
        is_up: bool,
    },
    /// The domain holds mail for so long, from the beginning.
    Hold {
        domain: String,
        seconds: f64,
    },
    /// `sender` was told that a message was not delivered to `recipient`.
    Bounced {
        /// By the bytes of the message that came with it.
        attempt: Option<AttemptId>,
        sender: String,
        recipient: String,
    },
    /// Something that explains the rest to a reader: a kill, a restart.
    Note {
        text: String,
    },
}

/// Shared by all that send and receive.
#[derive(Debug)]
pub struct Recorder {
    begun: Instant,
    events: Mutex<Vec<(f64, Event)>>,
    deliveries: AtomicU64,
    acknowledged: AtomicUsize,
    newest_acknowledged: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            events: Mutex::default(),
            deliveries: AtomicU64::default(),
            acknowledged: AtomicUsize::default(),
            newest_acknowledged: AtomicU64::default(),
        }
    }
}

impl Recorder {
    pub fn record(&self, event: Event) {
        if let Event::Replied {
            stage: Stage::AfterTheDot,
            code: 0..400,
            attempt,
        } = event
        {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            self.newest_acknowledged
                .fetch_max(attempt.0, Ordering::Relaxed);
        }
        let mut events = self.lock();
        events.push((self.now(), event));
    }

    /// Seconds since the beginning.
    #[must_use]
    pub fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Records what was seen at that time, and understood only by what came after it.
    pub fn record_at(&self, at: f64, event: Event) {
        let mut events = self.lock();
        let place = events.partition_point(|(then, _)| *then <= at);
        events.insert(place, (at, event));
    }

    /// A number for a delivery.
    #[must_use]
    pub fn next_delivery(&self) -> u64 {
        self.deliveries.fetch_add(1, Ordering::Relaxed)
    }

    pub fn note(&self, text: impl Into<String>) {
        self.record(Event::Note { text: text.into() });
    }

    /// Messages acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The try that began last of those that were acknowledged.
    #[must_use]
    pub fn newest_acknowledged(&self) -> AttemptId {
        AttemptId(self.newest_acknowledged.load(Ordering::Relaxed))
    }

    /// What has been seen so far.
    #[must_use]
    pub fn history(&self) -> History {
        let (times, events) = self.lock().iter().cloned().unzip();
        History { times, events }
    }

    /// One JSON object a line, with the seconds since the beginning, for people who look for the
    /// cause of a failure.
    #[must_use]
    pub fn json_lines(&self) -> String {
        self.lock()
            .iter()
            .map(|(at, event)| format!("{}\n", serde_json::json!({"at": at, "event": event})))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(f64, Event)>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A finished record, with the questions that several rules ask of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Seconds since the beginning, one for each event.
    pub times: Vec<f64>,
    pub events: Vec<Event>,
}

/// A try and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Try<'a> {
    pub attempt: AttemptId,
    pub letter: u64,
    pub node: &'a str,
    pub reverse_path: &'a str,
    pub parameters: &'a [String],
    pub recipients: &'a [String],
    pub digest: Digest,
    pub end: End,
    /// Of the reply that ended it, if one did.
    pub code: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// 2xx to the final dot.
    Acknowledged,
    /// 4xx or 5xx to the final dot: a promise not to deliver.
    RefusedAfterTheDot,
    /// No reply to the final dot: either is right.
    Unknown,
    /// It never came to the final dot.
    BeforeTheDot,
}

/// A message that a primary took.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    pub number: u64,
    pub attempt: Option<AttemptId>,
    pub primary: &'a str,
    pub by: &'a str,
    pub reverse_path: &'a str,
    pub parameters: &'a [String],
    pub recipients: &'a [String],
    pub digest: Digest,
}

impl History {
    /// Every try. One without an end in the record counts as unanswered after the dot, which
    /// forbids nothing: the run was stopped while it was under way.
    #[must_use]
    pub fn tries(&self) -> Vec<Try<'_>> {
        let ends: std::collections::HashMap<AttemptId, (End, Option<u16>)> = self
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Replied {
                    attempt,
                    stage,
                    code,
                } => {
                    let end = match (stage, code) {
                        (Stage::BeforeTheDot, _) => End::BeforeTheDot,
                        (Stage::AfterTheDot, 0..400) => End::Acknowledged,
                        (Stage::AfterTheDot, _) => End::RefusedAfterTheDot,
                    };
                    Some((*attempt, (end, Some(*code))))
                }
                Event::Closed {
                    attempt,
                    stage: Stage::AfterTheDot,
                } => Some((*attempt, (End::Unknown, None))),
                Event::Closed {
                    attempt,
                    stage: Stage::BeforeTheDot,
                } => Some((*attempt, (End::BeforeTheDot, None))),
                _ => None,
            })
            .collect();
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Attempt {
                    attempt,
                    letter,
                    node,
                    reverse_path,
                    parameters,
                    recipients,
                    digest,
                } => {
                    let (end, code) = ends.get(attempt).copied().unwrap_or((End::Unknown, None));
                    Some(Try {
                        attempt: *attempt,
                        letter: *letter,
                        node,
                        reverse_path,
                        parameters,
                        recipients,
                        digest: *digest,
                        end,
                        code,
                    })
                }
                _ => None,
            })
            .collect()
    }

    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery<'_>> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Delivered {
                    number,
                    attempt,
                    primary,
                    by,
                    reverse_path,
                    parameters,
                    recipients,
                    digest,
                } => Some(Delivery {
                    number: *number,
                    attempt: *attempt,
                    primary,
                    by,
                    reverse_path,
                    parameters,
                    recipients,
                    digest: *digest,
                }),
                _ => None,
            })
            .collect()
    }

    /// Each delivery with the try that it comes from.
    #[must_use]
    pub fn deliveries_of_tries(&self) -> Vec<(Delivery<'_>, Try<'_>)> {
        let tries: std::collections::HashMap<AttemptId, Try<'_>> = self
            .tries()
            .into_iter()
            .map(|a_try| (a_try.attempt, a_try))
            .collect();
        self.deliveries()
            .into_iter()
            .filter_map(|delivery| Some((delivery, *tries.get(&delivery.attempt?)?)))
            .collect()
    }

    /// Every event with its time, in seconds since the beginning.
    pub fn timed(&self) -> impl Iterator<Item = (f64, &Event)> {
        self.times.iter().copied().zip(&self.events)
    }

    /// When faults were at work.
    #[must_use]
    pub fn disturbances(&self) -> Disturbances {
        self.disturbances_where(|_| true)
    }

    /// When faults were at work at this node.
    #[must_use]
    pub fn disturbances_at(&self, node: &str) -> Disturbances {
        self.disturbances_where(|nodes| nodes.iter().any(|name| name == node))
    }

    fn disturbances_where(&self, concerns: impl Fn(&[String]) -> bool) -> Disturbances {
        let mut spans: Vec<(f64, f64)> = Vec::new();
        let mut open: BTreeMap<(Fault, &[String]), f64> = BTreeMap::new();
        for (at, event) in self.timed() {
            match event {
                Event::FaultBegan { fault, nodes } if concerns(nodes) => {
                    open.entry((*fault, nodes)).or_insert(at);
                }
                Event::FaultEnded { fault, nodes } => {
                    let begun = open.remove(&(*fault, nodes.as_slice()));
                    spans.extend(begun.map(|begun| (begun, at)));
                }
                _ => {}
            }
        }
        spans.extend(open.into_values().map(|begun| (begun, f64::INFINITY)));
        Disturbances(spans)
    }

    /// Seconds from the beginning to the 250, for tries from `first` on.
    #[must_use]
    pub fn waits_since(&self, first: AttemptId) -> Vec<f64> {
        let mut begun = BTreeMap::new();
        let mut waits = Vec::new();
        for (at, event) in self.timed() {
            match event {
                Event::Attempt { attempt, .. } if *attempt >= first => {
                    begun.insert(*attempt, at);
                }
                Event::Replied {
                    attempt,
                    stage: Stage::AfterTheDot,
                    code: 0..400,
                } => waits.extend(begun.remove(attempt).map(|begun| at - begun)),
                _ => {}
            }
        }
        waits
    }

    /// Seconds that letters for nobody but `domain`, since `from`, waited for their 250; those that
    /// have none, until now.
    #[must_use]
    pub fn waits_of(&self, domain: &str, from: f64) -> Vec<f64> {
        let mut begun: BTreeMap<u64, f64> = BTreeMap::new();
        let mut letters: BTreeMap<AttemptId, u64> = BTreeMap::new();
        let mut waits = Vec::new();
        for (at, event) in self.timed() {
            match event {
                Event::Letter { letter, recipients }
                    if at >= from && recipients.iter().all(|to| domain_of(to) == domain) =>
                {
                    begun.insert(*letter, at);
                }
                Event::Attempt {
                    attempt, letter, ..
                } => {
                    letters.insert(*attempt, *letter);
                }
                Event::Replied {
                    attempt,
                    stage: Stage::AfterTheDot,
                    code: 0..400,
                } => {
                    let begun = letters.get(attempt).and_then(|it| begun.remove(it));
                    waits.extend(begun.map(|begun| at - begun));
                }
                _ => {}
            }
        }
        let now = self.times.last().copied().unwrap_or_default();
        waits.extend(begun.into_values().map(|begun| now - begun));
        waits
    }

    /// When each try began.
    #[must_use]
    pub fn begun(&self) -> BTreeMap<AttemptId, f64> {
        self.timed()
            .filter_map(|(at, event)| match event {
                Event::Attempt { attempt, .. } => Some((*attempt, at)),
                _ => None,
            })
            .collect()
    }

    /// Seconds that the domain holds mail, where the run has set that.
    #[must_use]
    pub fn hold(&self, domain: &str) -> Option<f64> {
        self.events.iter().find_map(|event| match event {
            Event::Hold {
                domain: held,
                seconds,
            } if held == domain => Some(*seconds),
            _ => None,
        })
    }

    /// How often each fault began.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<Fault, usize> {
        let mut counts = BTreeMap::new();
        for event in &self.events {
            if let Event::FaultBegan { fault, .. } = event {
                *counts.entry(*fault).or_default() += 1;
            }
        }
        counts
    }

    /// Contents that primaries were sent in that framing, in full or until they hung up.
    #[must_use]
    pub fn contents(&self, framing: Framing, cut: bool) -> usize {
        let wanted = Event::Content { framing, cut };
        self.events.iter().filter(|event| **event == wanted).count()
    }

    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.tries()
            .iter()
            .filter(|a_try| a_try.end == End::Acknowledged)
            .count()
    }
}

/// The domain of an address.
#[must_use]
pub fn domain_of(address: &str) -> &str {
    address.rsplit('@').next().unwrap_or_default()
}

/// The times at which what a node has seen may not have been recorded by its cluster.
#[derive(Clone, Debug)]
pub struct Disturbances(Vec<(f64, f64)>);

/// Seconds before a fault: what was seen then may still be on its way to a quorum.
const UNRECORDED: f64 = 10.0;
/// Seconds after its end: leases run out and nodes catch up.
const RECOVERY: f64 = 30.0;

impl Disturbances {
    #[must_use]
    pub fn cover(&self, at: f64) -> bool {
        self.0
            .iter()
            .any(|(begun, ended)| (begun - UNRECORDED..=ended + RECOVERY).contains(&at))
    }
}

/// Histories for the tests of the rules.
#[cfg(test)]
pub(crate) mod sketch {
    use super::*;

    /// Try `attempt` of letter `letter` from `s@sender.test` to `to`.
    pub(crate) fn attempt(attempt: u64, letter: u64, to: &[&str]) -> Event {
        Event::Attempt {
            attempt: AttemptId(attempt),
            letter,
            node: "n1".into(),
            reverse_path: "s@sender.test".into(),
            parameters: vec!["BODY=8BITMIME".into()],
            recipients: to.iter().map(ToString::to_string).collect(),
            digest: digest(attempt),
        }
    }

    /// A try at another node than `n1`.
    pub(crate) fn attempt_at(node: &str, attempt: u64, to: &[&str]) -> Event {
        let mut event = self::attempt(attempt, attempt, to);
        if let Event::Attempt { node: at, .. } = &mut event {
            *at = node.into();
        }
        event
    }

    pub(crate) fn replied(attempt: u64, code: u16) -> Event {
        Event::Replied {
            attempt: AttemptId(attempt),
            stage: Stage::AfterTheDot,
            code,
        }
    }

    pub(crate) fn closed(attempt: u64, stage: Stage) -> Event {
        Event::Closed {
            attempt: AttemptId(attempt),
            stage,
        }
    }

    pub(crate) fn delivered(attempt: u64, to: &[&str]) -> Event {
        Event::Delivered {
            number: attempt,
            attempt: Some(AttemptId(attempt)),
            primary: to[0].split('@').nth(1).unwrap().into(),
            by: "n1".into(),
            reverse_path: "s@sender.test".into(),
            parameters: vec!["BODY=8BITMIME".into()],
            recipients: to.iter().map(ToString::to_string).collect(),
            digest: digest(attempt),
        }
    }

    pub(crate) fn asked(recipient: &str, answer: Answer) -> Event {
        Event::Asked {
            recipient: recipient.into(),
            by: "n1".into(),
            answer,
        }
    }

    pub(crate) fn began(fault: Fault) -> Event {
        Event::FaultBegan {
            fault,
            nodes: vec!["n1".into()],
        }
    }

    /// One event a second.
    pub(crate) fn history(events: &[Event]) -> History {
        History {
            times: (0..events.len()).map(|at| at as f64).collect(),
            events: events.to_vec(),
        }
    }

    fn digest(attempt: u64) -> Digest {
        Digest::of(&attempt.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_can_be_read_by_people_and_programs() {
        let recorder = Recorder::default();
        recorder.note("kill n1");
        recorder.record(sketch::attempt(1, 1, &["a@example.test"]));
        let lines = recorder.json_lines();
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first["event"]["Note"]["text"], "kill n1");
        assert!(
            lines.contains("\"recipients\":[\"a@example.test\"]"),
            "{lines}"
        );
        assert_eq!(recorder.history().tries().len(), 1);
    }

    #[test]
    fn a_letter_waits_from_the_moment_that_its_sender_has_it() {
        let letter = |letter, to: &str| Event::Letter {
            letter,
            recipients: vec![to.into()],
        };
        let history = sketch::history(&[
            letter(1, "a@example.test"),
            letter(2, "b@other.test"),
            letter(3, "c@example.test"),
            sketch::attempt(1, 1, &["a@example.test"]),
            sketch::replied(1, 451),
            sketch::attempt(2, 1, &["a@example.test"]),
            sketch::replied(2, 250),
        ]);
        assert_eq!(history.waits_of("example.test", 0.0), [6.0, 4.0]);
        assert_eq!(history.waits_of("example.test", 1.0), [4.0]);
        assert_eq!(history.waits_of("other.test", 0.0), [5.0]);
    }

    #[test]
    fn what_is_understood_late_stands_where_it_was_seen() {
        let recorder = Recorder::default();
        let before = recorder.now();
        recorder.note("later");
        recorder.record_at(before, sketch::asked("a@example.test", Answer::No));
        let history = recorder.history();
        assert!(matches!(history.events[0], Event::Asked { .. }));
        assert!(history.times.is_sorted());
    }

    #[test]
    fn a_try_ends_as_the_record_says() {
        let cases = [
            (vec![sketch::replied(1, 250)], End::Acknowledged),
            (vec![sketch::replied(1, 451)], End::RefusedAfterTheDot),
            (vec![sketch::replied(1, 554)], End::RefusedAfterTheDot),
            (vec![sketch::closed(1, Stage::AfterTheDot)], End::Unknown),
            (
                vec![sketch::closed(1, Stage::BeforeTheDot)],
                End::BeforeTheDot,
            ),
            (vec![], End::Unknown),
        ];
        for (mut events, end) in cases {
            events.insert(0, sketch::attempt(1, 1, &["a@example.test"]));
            assert_eq!(sketch::history(&events).tries()[0].end, end);
        }
    }
}
