//! Which message of a domain goes next.
//!
//! Pure: rows of the view and times go in, the next message comes out. The queue itself is
//! the ledger's; here is only one page of it, what is under way, and when to try again what
//! the primary deferred. Memory does not grow with the mail held.
//!
//! The words: a message is *busy* from when it is taken until its outcome is recorded; it
//! *waits* when the primary deferred it; it is *forgotten* when there were too many waits to
//! remember its own, and then comes again with the next *pass* over the whole queue.
//!
//! Nothing is settled here before the view shows what was recorded, so that a row that is read
//! is always a row to act on.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use holdfast_ledger::Seq;
use holdfast_ledger::query::Held;
use tokio::time::Instant;

/// Rows read from the view at a time.
pub(super) const PAGE_ROWS: usize = 256;

/// Messages under way whose outcome is not recorded. If this node dies, these are the ones
/// that may arrive twice.
pub(super) const BUSY_MAX: usize = 512;

/// How long an outcome may wait to be recorded before no further message is begun: by then the leader
/// is gone or this node is cut off, and whatever it still delivers may arrive twice. More than a
/// record takes between continents.
pub(super) const RECORD_TIME: Duration = Duration::from_secs(1);

/// Deferred messages whose time of retry is remembered: about 2 MiB for a domain.
pub(super) const WAITS_MAX: usize = 16_384;

/// When there were more, how long until all of the queue is tried again.
pub(super) const PASS_INTERVAL: Duration = Duration::from_secs(60);

/// Retries for the connection's sake that the primary's return brings forward. A message that
/// breaks the connection each time must not be the first one again each time.
const BROUGHT_FORWARD_MAX: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Read, not taken yet; in the order of acceptance, retries first.
    page: VecDeque<Held>,
    /// The last row of the pages read so far.
    cursor: Option<Seq>,
    /// There was nothing behind the cursor when last looked.
    at_end: bool,
    /// What is known of each message that is in `page` as a retry, busy or waiting.
    known: HashMap<Seq, Known>,
    busy: usize,
    /// Busy messages whose attempt is over, and since when.
    unrecorded: BTreeSet<(Instant, Seq)>,
    waits: BTreeSet<(Instant, Seq)>,
    /// When to begin the next pass, if messages were forgotten.
    next_pass: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    /// When it is tried again; `None` while it is busy or in `page`.
    due: Option<Instant>,
    busy: bool,
    /// When the attempt was over, while it is busy.
    ended: Option<Instant>,
    /// Attempts by this node under this lease.
    attempts: u32,
    /// It waits for the connection's sake only.
    until_back: bool,
}

/// What to do to get at the next message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// `take` gives one.
    Ready,
    /// Read [`PAGE_ROWS`] rows behind this one, then `add_page`.
    Page { after: Option<Seq> },
    /// Read this row, then `add_row`.
    Row(Seq),
    /// Nothing can be taken, at least until then or until something is recorded or added.
    Nothing { until: Option<Instant> },
}

/// A message to be delivered.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) held: Held,
    /// Attempts before this one, by whichever node.
    pub(super) attempts: u32,
}

/// What comes after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Every recipient of this domain is settled.
    Done,
    Wait {
        delay: Duration,
        /// Only the connection failed: the primary's return brings the retry forward.
        until_back: bool,
    },
}

impl Queue {
    pub(super) fn look(&mut self, now: Instant) -> Look {
        let is_late = |(ended, _): &(Instant, Seq)| now - *ended >= RECORD_TIME;
        if self.busy >= BUSY_MAX || self.unrecorded.first().is_some_and(is_late) {
            return Look::Nothing { until: None };
        }
        let due = self.waits.first().copied();
        if let Some((at, seq)) = due
            && at <= now
        {
            return Look::Row(seq);
        }
        if !self.page.is_empty() {
            return Look::Ready;
        }
        if self.at_end && self.next_pass.is_some_and(|at| at <= now) {
            self.begin_pass();
        }
        if !self.at_end {
            return Look::Page { after: self.cursor };
        }
        let until = [due.map(|(at, _)| at), self.next_pass];
        Look::Nothing {
            until: until.into_iter().flatten().min(),
        }
    }

    /// The rows that [`Look::Page`] asked for.
    pub(super) fn add_page(&mut self, rows: Vec<Held>) {
        self.at_end = rows.len() < PAGE_ROWS;
        if let Some(last) = rows.last() {
            self.cursor = Some(last.seq);
        }
        let known = &self.known;
        self.page
            .extend(rows.into_iter().filter(|row| !known.contains_key(&row.seq)));
    }

    /// The row that [`Look::Row`] asked for; `None` if it is gone.
    pub(super) fn add_row(&mut self, seq: Seq, row: Option<Held>) {
        let Some(known) = self.known.get_mut(&seq) else {
            return;
        };
        if let Some(due) = known.due.take() {
            self.waits.remove(&(due, seq));
        }
        match row {
            Some(row) => self.page.push_front(row),
            None => {
                self.known.remove(&seq);
            }
        }
    }

    pub(super) fn take(&mut self) -> Option<Job> {
        let held = self.page.pop_front()?;
        let known = self.known.entry(held.seq).or_default();
        known.busy = true;
        self.busy += 1;
        Some(Job {
            attempts: held.attempts.max(known.attempts),
            held,
        })
    }

    /// The attempt at a busy message is over, and its outcome is on its way to be recorded.
    pub(super) fn ended(&mut self, seq: Seq, now: Instant) {
        if let Some(known) = self.known.get_mut(&seq).filter(|known| known.busy) {
            known.ended = Some(now);
            self.unrecorded.insert((now, seq));
        }
    }

    /// The attempt at a busy message is over, and its outcome recorded if there was one.
    pub(super) fn settle(&mut self, seq: Seq, after: After, now: Instant) {
        let Some(known) = self.known.get_mut(&seq).filter(|known| known.busy) else {
            return;
        };
        known.busy = false;
        if let Some(ended) = known.ended.take() {
            self.unrecorded.remove(&(ended, seq));
        }
        self.busy -= 1;
        let After::Wait { delay, until_back } = after else {
            self.known.remove(&seq);
            return;
        };
        if self.waits.len() >= WAITS_MAX {
            self.known.remove(&seq);
            self.next_pass.get_or_insert(now + PASS_INTERVAL);
            return;
        }
        known.attempts += 1;
        known.until_back = until_back;
        let due = now + delay;
        known.due = Some(due);
        self.waits.insert((due, seq));
    }

    /// There may be new rows.
    pub(super) fn more(&mut self) {
        self.at_end = false;
    }

    /// Everything is to be tried now, whatever it waits for.
    pub(super) fn flush(&mut self, now: Instant) {
        self.bring_forward(now, |_| true);
        self.begin_pass();
    }

    /// There may be rows before the cursor that were not there when it passed.
    pub(super) fn again(&mut self) {
        self.begin_pass();
    }

    /// The primary is back: what waits only because it was away is tried now.
    pub(super) fn primary_is_back(&mut self, now: Instant) {
        self.bring_forward(now, |known| {
            known.until_back && known.attempts <= BROUGHT_FORWARD_MAX
        });
    }

    /// Messages read and not taken.
    pub(super) fn ready(&self) -> usize {
        self.page.len()
    }

    /// Nothing is left: not read, not under way, not waiting.
    pub(super) fn is_drained(&self) -> bool {
        self.at_end && self.page.is_empty() && self.known.is_empty() && self.next_pass.is_none()
    }

    fn begin_pass(&mut self) {
        self.page.retain(|row| self.known.contains_key(&row.seq));
        self.cursor = None;
        self.at_end = false;
        self.next_pass = None;
    }

    fn bring_forward(&mut self, now: Instant, which: impl Fn(&Known) -> bool) {
        for (at, seq) in std::mem::take(&mut self.waits) {
            let Some(known) = self.known.get_mut(&seq) else {
                continue;
            };
            let due = if which(known) { at.min(now) } else { at };
            known.due = Some(due);
            self.waits.insert((due, seq));
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::MessageId;

    use super::*;

    fn row(seq: u64, pending: &[u32]) -> Held {
        Held {
            seq: Seq(seq),
            message: MessageId(u128::from(seq)),
            pending: pending.to_vec(),
            attempts: 0,
            last_reply: String::new(),
            retry_at: None,
            delay_told: false,
            kept_back: false,
            discard_at: None,
        }
    }

    /// Reads what the queue asks for from `rows`.
    fn next(queue: &mut Queue, rows: &[Held], now: Instant) -> Result<Job, Option<Instant>> {
        loop {
            match queue.look(now) {
                Look::Ready => return Ok(queue.take().unwrap()),
                Look::Page { after } => {
                    let page = rows.iter().filter(|row| Some(row.seq) > after);
                    queue.add_page(page.take(PAGE_ROWS).map(copy).collect());
                }
                Look::Row(seq) => {
                    let found = rows.iter().find(|row| row.seq == seq).map(copy);
                    queue.add_row(seq, found);
                }
                Look::Nothing { until } => return Err(until),
            }
        }
    }

    fn copy(row: &Held) -> Held {
        Held {
            attempts: row.attempts,
            ..self::row(row.seq.0, &row.pending)
        }
    }

    fn wait(seconds: u64) -> After {
        After::Wait {
            delay: Duration::from_secs(seconds),
            until_back: false,
        }
    }

    #[test]
    fn messages_come_once_in_the_order_of_acceptance_however_many_pages_it_takes() {
        let rows: Vec<_> = (1..=600).map(|seq| row(seq, &[0])).collect();
        let (mut queue, now) = (Queue::default(), Instant::now());
        for seq in 1..=600 {
            let job = next(&mut queue, &rows, now).unwrap();
            assert_eq!(job.held.seq, Seq(seq));
            // The view may go on showing the row: it is never taken again.
            queue.settle(Seq(seq), After::Done, now);
        }
        assert_eq!(next(&mut queue, &rows, now).err(), Some(None));
        assert!(queue.is_drained());
        let rows: Vec<_> = (1..=601).map(|seq| row(seq, &[0])).collect();
        queue.more();
        assert_eq!(next(&mut queue, &rows, now).unwrap().held.seq, Seq(601));
        assert!(!queue.is_drained());
    }

    #[test]
    fn no_more_is_taken_than_may_arrive_twice() {
        let rows: Vec<_> = (1..=600).map(|seq| row(seq, &[0])).collect();
        let (mut queue, now) = (Queue::default(), Instant::now());
        for _ in 0..BUSY_MAX {
            next(&mut queue, &rows, now).unwrap();
        }
        assert_eq!(next(&mut queue, &rows, now).err(), Some(None));
        queue.settle(Seq(7), After::Done, now);
        assert!(next(&mut queue, &rows, now).is_ok());
    }

    #[test]
    fn while_an_outcome_waits_too_long_to_be_recorded_no_message_is_begun() {
        let rows: Vec<_> = (1..=9).map(|seq| row(seq, &[0])).collect();
        let (mut queue, start) = (Queue::default(), Instant::now());
        for _ in 0..2 {
            let job = next(&mut queue, &rows, start).unwrap();
            queue.ended(job.held.seq, start);
        }
        let soon = start + RECORD_TIME / 2;
        let job = next(&mut queue, &rows, soon).unwrap();
        queue.ended(job.held.seq, soon);
        let late = start + RECORD_TIME;
        assert_eq!(next(&mut queue, &rows, late).err(), Some(None));
        queue.settle(Seq(1), After::Done, late);
        assert!(next(&mut queue, &rows, late).is_err(), "one is still late");
        queue.settle(Seq(2), After::Done, late);
        assert!(next(&mut queue, &rows, late).is_ok());
    }

    #[test]
    fn a_deferred_message_comes_again_when_it_is_due() {
        let rows = [row(1, &[0, 1, 2]), row(2, &[0])];
        let (mut queue, start) = (Queue::default(), Instant::now());
        next(&mut queue, &rows, start).unwrap();
        queue.settle(Seq(1), wait(2), start);
        assert_eq!(next(&mut queue, &rows, start).unwrap().held.seq, Seq(2));
        queue.settle(Seq(2), After::Done, start);
        let due = start + Duration::from_secs(2);
        assert_eq!(next(&mut queue, &rows, start).err(), Some(Some(due)));
        let job = next(&mut queue, &[row(1, &[1])], due).unwrap();
        assert_eq!((job.held.pending, job.attempts), (vec![1], 1));
        queue.settle(Seq(1), wait(2), due);
        // Somebody removed it meanwhile.
        assert!(next(&mut queue, &[], due + Duration::from_secs(2)).is_err());
        assert!(queue.is_drained());
    }

    #[test]
    fn a_flush_makes_everything_due_and_reads_the_queue_from_its_start() {
        let rows = [row(1, &[0]), row(2, &[0])];
        let (mut queue, now) = (Queue::default(), Instant::now());
        for seq in 1..=2 {
            next(&mut queue, &rows, now).unwrap();
            queue.settle(Seq(seq), wait(600), now);
        }
        assert!(next(&mut queue, &rows, now).is_err());
        let rows = [row(0, &[0]), row(1, &[0]), row(2, &[0])];
        queue.flush(now);
        let mut seen: Vec<_> = (0..3)
            .map(|_| next(&mut queue, &rows, now).unwrap().held.seq.0)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
        assert!(next(&mut queue, &rows, now).is_err(), "each comes once");
    }

    #[test]
    fn mail_that_is_back_at_its_old_place_is_found() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        next(&mut queue, &[row(1, &[0]), row(2, &[0])], now).unwrap();
        next(&mut queue, &[row(1, &[0]), row(2, &[0])], now).unwrap();
        queue.settle(Seq(1), After::Done, now);
        assert!(next(&mut queue, &[row(2, &[0])], now).is_err());
        queue.again();
        let rows = [row(1, &[0]), row(2, &[0])];
        assert_eq!(next(&mut queue, &rows, now).unwrap().held.seq, Seq(1));
        assert!(next(&mut queue, &rows, now).is_err(), "the other is busy");
    }

    #[test]
    fn the_primarys_return_brings_forward_what_only_the_connection_failed() {
        let rows = [row(1, &[0]), row(2, &[0])];
        let (mut queue, now) = (Queue::default(), Instant::now());
        for seq in 1..=2 {
            next(&mut queue, &rows, now).unwrap();
            let after = After::Wait {
                delay: Duration::from_secs(600),
                until_back: seq == 2,
            };
            queue.settle(Seq(seq), after, now);
        }
        queue.primary_is_back(now);
        assert_eq!(next(&mut queue, &rows, now).unwrap().held.seq, Seq(2));
        assert!(next(&mut queue, &rows, now).is_err());
    }

    #[test]
    fn a_message_that_breaks_every_connection_waits_longer_each_time() {
        let rows = [row(1, &[0])];
        let (mut queue, now) = (Queue::default(), Instant::now());
        for _ in 0..=BROUGHT_FORWARD_MAX {
            next(&mut queue, &rows, now).unwrap();
            let after = After::Wait {
                delay: Duration::from_secs(600),
                until_back: true,
            };
            queue.settle(Seq(1), after, now);
            queue.primary_is_back(now);
        }
        assert!(next(&mut queue, &rows, now).is_err());
    }

    #[test]
    fn too_many_waits_are_forgotten_and_come_again_with_the_next_pass() {
        let many = WAITS_MAX as u64 + 10;
        let rows: Vec<_> = (1..=many).map(|seq| row(seq, &[0])).collect();
        let (mut queue, now) = (Queue::default(), Instant::now());
        for seq in 1..=many {
            assert_eq!(next(&mut queue, &rows, now).unwrap().held.seq, Seq(seq));
            queue.settle(Seq(seq), wait(600), now);
        }
        let pass = now + PASS_INTERVAL;
        assert_eq!(next(&mut queue, &rows, now).err(), Some(Some(pass)));
        for seq in WAITS_MAX as u64 + 1..=many {
            assert_eq!(next(&mut queue, &rows, pass).unwrap().held.seq, Seq(seq));
        }
        assert!(next(&mut queue, &rows, pass).is_err());
    }
}
