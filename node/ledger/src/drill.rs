//! Drills: failures rehearsed on purpose, and what they came to.
//!
//! The ledger knows of a drill so that there is one at a time, so that every node can tell of it, and
//! so that its report outlives whoever conducted it. It fails nothing by itself: the conductor asks
//! the nodes, and each mends itself when its time is over.

use std::time::Duration;

use holdfast_mail::{MessageId, Timestamp};
use holdfast_proto::ledger as proto;

use crate::{KvError, KvRead, Undecodable, row, tables};

pub use proto::{DrillEvent, DrillKind, DrillPlan, DrillReport, DrillSchedule, DrillVerdict};

/// Whose mail canaries are: nobody's, for the name never exists (RFC 2606 section 2).
pub const DRILL_DOMAIN: &str = "drill.invalid";

/// How long a drill's failure may last: long enough for every time-out to run out, and short
/// enough that an operator watches to the end.
pub const DRILL_TIME_MAX: Duration = Duration::from_secs(30 * 60);

/// How long a drill may take besides: canaries before, catching up and counting after. A drill
/// that was not ended by then has lost its conductor.
pub const DRILL_REST_MAX: Duration = Duration::from_secs(5 * 60);

/// Canaries a second: enough to measure a gap of 20 ms, and nothing beside real mail.
pub const DRILL_RATE_MAX: u32 = 50;

/// Drills that are remembered with their reports: a weekly one for a year.
pub const DRILLS_KEPT: usize = 52;

/// Events of one drill, and octets of each.
pub const DRILL_EVENTS_MAX: usize = 200;
pub const DRILL_EVENT_OCTETS_MAX: usize = 200;

/// Schedules: one for each kind and region, and some to spare.
pub const SCHEDULES_MAX: usize = 50;

/// The shortest time between two drills of a schedule.
pub const SCHEDULE_EVERY_MIN: Duration = Duration::from_secs(3600);

/// A drill as the cluster knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Drill {
    /// Drawn by whoever began it; sorts by time.
    pub id: MessageId,
    pub plan: DrillPlan,
    pub began_at: Timestamp,
    pub events: Vec<DrillEvent>,
    /// Once it has ended.
    pub report: Option<DrillReport>,
}

impl Drill {
    /// Whether it goes on at `now`. One whose conductor was lost does not for ever.
    #[must_use]
    pub fn is_under_way(&self, now: Timestamp) -> bool {
        self.report.is_none() && now < self.over_at()
    }

    /// When it must have ended.
    #[must_use]
    pub fn over_at(&self) -> Timestamp {
        let lasts = Duration::from_millis(self.plan.duration_ms);
        self.began_at.plus(lasts + DRILL_REST_MAX)
    }
}

/// Drills that are remembered, the oldest first.
///
/// # Errors
/// The rows cannot be read.
pub fn drills(kv: &dyn KvRead) -> Result<Vec<Drill>, KvError> {
    let rows = kv.scan(tables::DRILLS, &[], usize::MAX)?;
    rows.iter()
        .map(|(key, value)| {
            let row: proto::DrillRow = row::decode(key, value)?;
            Ok(Drill {
                id: tables::drill_of(key)?,
                plan: row.plan.unwrap_or_default(),
                began_at: Timestamp(row.began_at_ms),
                events: row.events,
                report: row.report,
            })
        })
        .collect()
}

/// Drills that begin by themselves, by name.
///
/// # Errors
/// The rows cannot be read.
pub fn schedules(kv: &dyn KvRead) -> Result<Vec<(String, DrillSchedule)>, KvError> {
    let rows = kv.scan(tables::SCHEDULES, &[], usize::MAX)?;
    rows.iter()
        .map(|(key, value)| Ok((tables::schedule_of(key)?, row::decode(key, value)?)))
        .collect()
}

/// A kind that this version does not know would be rehearsed by some nodes only.
pub(crate) fn known_kind(kind: i32) -> Result<(), Undecodable> {
    match DrillKind::try_from(kind) {
        Ok(kind) if kind != DrillKind::Unspecified => Ok(()),
        _ => Err(Undecodable::unknown("drill")),
    }
}

/// Whether a failure may last so long, with so many canaries a second.
pub(crate) fn is_within_limits(duration_ms: u64, rate: u32) -> bool {
    let longest = u64::try_from(DRILL_TIME_MAX.as_millis()).unwrap_or(u64::MAX);
    (1..=longest).contains(&duration_ms) && (1..=DRILL_RATE_MAX).contains(&rate)
}
