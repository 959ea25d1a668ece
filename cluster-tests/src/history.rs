//! What was seen from outside, in the order in which it was seen.

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Event {
    /// A sender begins to hand over a message.
    Attempt {
        attempt: AttemptId,
        letter: u64,
        node: String,
        reverse_path: String,
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
    Closed { attempt: AttemptId, stage: Stage },
    /// A primary took a message.
    Delivered {
        /// Which try it comes from, by its own bytes; `None`: no try of ours.
        attempt: Option<AttemptId>,
        /// The domain whose primary took it.
        primary: String,
        reverse_path: String,
        recipients: Vec<String>,
        /// Of the bytes behind the `Received` lines.
        digest: Digest,
    },
    /// Something that explains the rest to a reader: a kill, a restart.
    Note { text: String },
}

/// Shared by all that send and receive.
#[derive(Debug)]
pub struct Recorder {
    begun: Instant,
    events: Mutex<Vec<(f64, Event)>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            events: Mutex::default(),
        }
    }
}

impl Recorder {
    pub fn record(&self, event: Event) {
        let at = self.begun.elapsed().as_secs_f64();
        self.lock().push((at, event));
    }

    pub fn note(&self, text: impl Into<String>) {
        self.record(Event::Note { text: text.into() });
    }

    /// What has been seen so far.
    #[must_use]
    pub fn history(&self) -> History {
        History {
            events: self.lock().iter().map(|(_, event)| event.clone()).collect(),
        }
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
    pub events: Vec<Event>,
}

/// A try and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Try<'a> {
    pub attempt: AttemptId,
    pub letter: u64,
    pub node: &'a str,
    pub reverse_path: &'a str,
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
    pub attempt: Option<AttemptId>,
    pub primary: &'a str,
    pub reverse_path: &'a str,
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
                    recipients,
                    digest,
                } => {
                    let (end, code) = ends.get(attempt).copied().unwrap_or((End::Unknown, None));
                    Some(Try {
                        attempt: *attempt,
                        letter: *letter,
                        node,
                        reverse_path,
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
                    attempt,
                    primary,
                    reverse_path,
                    recipients,
                    digest,
                } => Some(Delivery {
                    attempt: *attempt,
                    primary,
                    reverse_path,
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

    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.tries()
            .iter()
            .filter(|a_try| a_try.end == End::Acknowledged)
            .count()
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
            recipients: to.iter().map(ToString::to_string).collect(),
            digest: digest(attempt),
        }
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
            attempt: Some(AttemptId(attempt)),
            primary: to[0].split('@').nth(1).unwrap().into(),
            reverse_path: "s@sender.test".into(),
            recipients: to.iter().map(ToString::to_string).collect(),
            digest: digest(attempt),
        }
    }

    pub(crate) fn history(events: &[Event]) -> History {
        History {
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
