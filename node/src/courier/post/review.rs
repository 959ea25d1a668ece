//! Finds the messages that the time has come for. The ledger looks at each again, so what is
//! found here too early, or by a clock that is wrong, does no harm.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_ledger::query::{self, Held};
use holdfast_ledger::{Command, KvError, KvRead, REVIEW_MAX, Seq};
use holdfast_mail::{Domain, Timestamp};
use tokio::time::Instant;

/// How often all domains with mail are walked: how much later than its time a message may expire,
/// or be tried again.
const REVIEW_INTERVAL: Duration = Duration::from_secs(5);

/// Domains and rows read from the view at a time.
const PAGE: usize = 256;

/// Rows of one domain that are looked at in one walk.
const ROWS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Reviewer {
    last: Option<Instant>,
    places: HashMap<Domain, Places>,
}

/// From where the walks over a domain's mail go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    /// Up to there senders were told that their mail is late.
    told: Option<Seq>,
    /// `ROWS_MAX` rows were looked at up to there, and there are more.
    refused: Option<Seq>,
    aside: Option<Seq>,
}

impl Reviewer {
    /// What to ask the ledger to review; `None`: it is not time to look again.
    pub(super) fn due(
        &mut self,
        view: &dyn KvRead,
        now: Timestamp,
    ) -> Result<Option<Vec<Command>>, KvError> {
        if self
            .last
            .is_some_and(|last| last.elapsed() < REVIEW_INTERVAL)
        {
            return Ok(None);
        }
        self.last = Some(Instant::now());
        let mut commands = Vec::new();
        // Those of domains without mail are forgotten.
        let mut places = HashMap::new();
        let mut after = None;
        loop {
            let page = query::domains_with_mail(view, after.as_ref(), PAGE)?;
            for domain in &page {
                let mut place = self.places.get(domain).copied().unwrap_or_default();
                let seqs = of_domain(&mut place, view, domain, now)?;
                if place != Places::default() {
                    places.insert(domain.clone(), place);
                }
                commands.extend(seqs.chunks(REVIEW_MAX).map(|seqs| Command::Review {
                    domain: domain.clone(),
                    seqs: seqs.to_vec(),
                }));
            }
            if page.len() < PAGE {
                self.places = places;
                return Ok(Some(commands));
            }
            after = page.into_iter().next_back();
        }
    }
}

fn of_domain(
    places: &mut Places,
    view: &dyn KvRead,
    domain: &Domain,
    now: Timestamp,
) -> Result<Vec<Seq>, KvError> {
    let policy = query::policy(view, domain)?;
    let has_waited = |row: &Held, time: Option<Duration>| {
        let Some(time) = time else { return Ok(false) };
        // Not the time in the message's id: the clock of the node that took it may have been wrong,
        // and the mail behind would wait for it.
        let envelope = query::envelope(view, row.message)?;
        Ok(envelope.is_some_and(|envelope| envelope.received_at.plus(time) <= now))
    };
    let held = |after| query::held(view, domain, after, PAGE);
    // The oldest are in front: where one is not due, those behind it are not.
    let (mut due, _) = walk(None, held, |row| Ok(Some(has_waited(row, policy.hold)?)))?;
    if policy.delay.is_some() {
        let mut told = places.told;
        let (late, _) = walk(places.told, held, |row| {
            let late = has_waited(row, policy.delay)?;
            if late && row.delay_told {
                told = Some(row.seq);
                return Ok(None);
            }
            Ok(Some(late))
        })?;
        due.extend(late);
        places.told = told;
    } else {
        places.told = None;
    }
    // Of what was refused each has a time of its own to be tried again, but they expire in order.
    let mut may_expire = true;
    let (refused, more) = walk(
        places.refused,
        |after| query::refused_after(view, domain, after, PAGE),
        |row| {
            may_expire = may_expire && has_waited(row, policy.hold)?;
            let again = row.retry_at.is_some_and(|at| at <= now);
            Ok((again || may_expire).then_some(true))
        },
    )?;
    due.extend(refused);
    places.refused = more;
    let (aside, more) = walk(
        places.aside,
        |after| query::aside(view, domain, after, PAGE),
        |row| {
            let discard = row.discard_at.is_some_and(|at| at <= now);
            Ok(discard.then_some(true))
        },
    )?;
    due.extend(aside);
    places.aside = more;
    due.sort_unstable();
    due.dedup();
    Ok(due)
}

/// Collects rows for which `which` says yes, until it says no; `None` is neither. And where the next
/// walk goes on, if this one looked at `ROWS_MAX` and there may be more.
fn walk(
    from: Option<Seq>,
    read: impl Fn(Option<Seq>) -> Result<Vec<Held>, KvError>,
    mut which: impl FnMut(&Held) -> Result<Option<bool>, KvError>,
) -> Result<(Vec<Seq>, Option<Seq>), KvError> {
    let (mut found, mut after, mut looked) = (Vec::new(), from, 0);
    loop {
        let page = read(after)?;
        for row in &page {
            match which(row)? {
                Some(true) => found.push(row.seq),
                Some(false) => return Ok((found, None)),
                None => {}
            }
        }
        looked += page.len();
        if page.len() < PAGE {
            return Ok((found, None));
        }
        after = page.last().map(|row| row.seq);
        if looked >= ROWS_MAX {
            return Ok((found, after));
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_ledger::{Batch, Disposal, MemoryKv, PolicyChange, Primary, Reply, apply_batch};
    use holdfast_mail::{Address, BodyRef, BodyType, Envelope, MessageId, Recipient, ReversePath};

    use super::*;

    const START: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn domain() -> Domain {
        Domain::parse("example.org").unwrap()
    }

    struct World {
        kv: MemoryKv,
        index: u64,
        now: u64,
        reviewer: Reviewer,
    }

    impl World {
        fn new(policy: PolicyChange) -> Self {
            let mut world = Self {
                kv: MemoryKv::new(),
                index: 0,
                now: START,
                reviewer: Reviewer::default(),
            };
            world.enter(Command::SetDomain {
                domain: domain(),
                primary: Primary {
                    host: "mx.example".to_owned(),
                    port: 25,
                },
                must_be_new: true,
                must_exist: false,
            });
            world.enter(Command::SetPolicy {
                domain: domain(),
                change: policy,
            });
            world
        }

        fn enter(&mut self, command: Command) -> Reply {
            self.index += 1;
            let batch = Batch {
                at: Timestamp(self.now),
                commands: vec![command],
            };
            let replies = apply_batch(&mut self.kv, self.index, &batch, &mut Vec::new());
            replies.unwrap().remove(0)
        }

        /// A message, taken by a node whose clock is so far ahead.
        fn accept(&mut self, ahead_ms: u64) -> MessageId {
            let id = MessageId::new(Timestamp(self.now + ahead_ms), u128::from(self.index));
            let accepted = self.enter(Command::Accept {
                envelope: Envelope {
                    id,
                    reverse_path: ReversePath::Null,
                    recipients: vec![Recipient {
                        address: Address::parse("joe@example.org", false).unwrap(),
                        notify: None,
                        orcpt: None,
                    }],
                    body: BodyRef {
                        id,
                        len: 1,
                        digest: [0; 32],
                    },
                    received_at: Timestamp(self.now + ahead_ms),
                    body_type: BodyType::SevenBit,
                    smtputf8: false,
                    ret: None,
                    envid: None,
                    helo: String::new(),
                    client: String::new(),
                },
            });
            assert!(matches!(accepted, Reply::Accepted { .. }), "{accepted:?}");
            id
        }

        fn dispose(&mut self, how: Disposal, id: MessageId) {
            let disposed = self.enter(Command::Dispose {
                domain: domain(),
                how,
                messages: vec![id],
                held: false,
                by: String::new(),
            });
            assert!(
                matches!(disposed, Reply::Disposed { messages: 1, .. }),
                "{disposed:?}"
            );
        }

        /// Has what is due reviewed; how many were.
        fn review(&mut self) -> usize {
            self.reviewer.last = None;
            let found = self.reviewer.due(&self.kv, Timestamp(self.now));
            let commands = found.unwrap().unwrap();
            let mut count = 0;
            for command in commands {
                if let Command::Review { seqs, .. } = &command {
                    count += seqs.len();
                }
                self.enter(command);
            }
            count
        }
    }

    #[tokio::test]
    async fn one_message_dated_by_a_wrong_clock_keeps_none_behind_it_from_expiring() {
        for ahead in [0, 30 * DAY] {
            let mut world = World::new(PolicyChange {
                hold_ms: Some(DAY),
                ..PolicyChange::default()
            });
            world.accept(ahead);
            world.accept(0);
            world.now += HOUR;
            world.accept(0);
            assert_eq!(world.review(), 0);
            world.now += DAY - HOUR;
            assert_eq!(world.review(), 2, "{ahead} ms ahead");
            world.now += HOUR;
            assert_eq!(world.review(), 1, "{ahead} ms ahead");
        }
    }

    #[tokio::test]
    async fn the_notice_of_a_delay_waits_for_no_wrong_clock() {
        let mut world = World::new(PolicyChange {
            delay_ms: Some(HOUR),
            ..PolicyChange::default()
        });
        world.accept(30 * DAY);
        world.accept(0);
        world.now += HOUR;
        assert_eq!(world.review(), 2);
        assert_eq!(world.review(), 0, "they were told");
    }

    #[tokio::test]
    async fn deleted_mail_is_dropped_however_much_is_kept_back_before_it() {
        let mut world = World::new(PolicyChange::default());
        for _ in 0..ROWS_MAX + PAGE {
            let id = world.accept(0);
            world.dispose(Disposal::Hold, id);
        }
        let deleted = world.accept(0);
        world.dispose(Disposal::Delete, deleted);
        world.now += 2 * DAY;
        let reviewed = world.review() + world.review();
        assert_eq!(reviewed, 1);
        let aside = query::aside(&world.kv, &domain(), None, ROWS_MAX * 2).unwrap();
        assert!(aside.iter().all(|row| row.message != deleted));
    }
}
