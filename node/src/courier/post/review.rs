//! Finds the messages that the time has come for. The ledger looks at each again, so what is
//! found here too early, or by a clock that is wrong, does no harm.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_ledger::query::{self, Held};
use holdfast_ledger::{Command, KvError, KvRead, Policy, REVIEW_MAX, Seq};
use holdfast_mail::{Domain, Timestamp};
use tokio::time::Instant;

use super::super::office::clock;

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
    /// Up to where the senders of each domain's mail were told that it is late.
    told: HashMap<Domain, Seq>,
}

impl Reviewer {
    /// What to ask the ledger to review; `None`: it is not time to look again.
    pub(super) fn due(&mut self, view: &dyn KvRead) -> Result<Option<Vec<Command>>, KvError> {
        if self
            .last
            .is_some_and(|last| last.elapsed() < REVIEW_INTERVAL)
        {
            return Ok(None);
        }
        self.last = Some(Instant::now());
        let now = clock();
        let mut commands = Vec::new();
        let mut after = None;
        loop {
            let page = query::domains_with_mail(view, after.as_ref(), PAGE)?;
            for domain in &page {
                let seqs = self.of_domain(view, domain, now)?;
                commands.extend(seqs.chunks(REVIEW_MAX).map(|seqs| Command::Review {
                    domain: domain.clone(),
                    seqs: seqs.to_vec(),
                }));
            }
            if page.len() < PAGE {
                return Ok(Some(commands));
            }
            after = page.into_iter().next_back();
        }
    }

    fn of_domain(
        &mut self,
        view: &dyn KvRead,
        domain: &Domain,
        now: Timestamp,
    ) -> Result<Vec<Seq>, KvError> {
        let policy = query::policy(view, domain)?;
        // The oldest are in front: where one is not due, those behind it are not.
        let mut due = walk(
            None,
            |after| query::held(view, domain, after, PAGE),
            |row| Some(expired(&policy, row, now)),
        )?;
        if let Some(delay) = policy.delay {
            let from = self.told.get(domain).copied();
            let mut last = from;
            let late = walk(
                from,
                |after| query::held(view, domain, after, PAGE),
                |row| {
                    let late = row.message.at().plus(delay) <= now;
                    if late && row.delay_told {
                        last = Some(row.seq);
                        return None;
                    }
                    Some(late)
                },
            )?;
            due.extend(late);
            if let Some(last) = last {
                self.told.insert(domain.clone(), last);
            }
        } else {
            self.told.remove(domain);
        }
        // Of what was refused each has a time of its own.
        due.extend(walk(
            None,
            |after| query::refused_after(view, domain, after, PAGE),
            |row| {
                let again = row.retry_at.is_some_and(|at| at <= now);
                (again || expired(&policy, row, now)).then_some(true)
            },
        )?);
        due.extend(walk(
            None,
            |after| query::aside(view, domain, after, PAGE),
            |row| row.discard_at.is_some_and(|at| at <= now).then_some(true),
        )?);
        due.sort_unstable();
        due.dedup();
        Ok(due)
    }
}

fn expired(policy: &Policy, row: &Held, now: Timestamp) -> bool {
    policy
        .expires_at(row.message.at())
        .is_some_and(|end| end <= now)
}

/// Collects rows for which `which` says yes, until it says no; `None` is neither.
fn walk(
    from: Option<Seq>,
    read: impl Fn(Option<Seq>) -> Result<Vec<Held>, KvError>,
    mut which: impl FnMut(&Held) -> Option<bool>,
) -> Result<Vec<Seq>, KvError> {
    let (mut found, mut after, mut looked) = (Vec::new(), from, 0);
    loop {
        let page = read(after)?;
        for row in &page {
            match which(row) {
                Some(true) => found.push(row.seq),
                Some(false) => return Ok(found),
                None => {}
            }
        }
        looked += page.len();
        if page.len() < PAGE || looked >= ROWS_MAX {
            return Ok(found);
        }
        after = page.last().map(|row| row.seq);
    }
}
