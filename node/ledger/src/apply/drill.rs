//! BeginDrill, TellDrill, EndDrill and ScheduleDrill.

use holdfast_mail::MessageId;
use holdfast_proto::ledger as proto;

use super::{Logged, refuse};
use crate::drill::{
    DRILL_EVENT_OCTETS_MAX, DRILL_EVENTS_MAX, DRILLS_KEPT, DrillEvent, DrillKind, DrillPlan,
    DrillReport, DrillSchedule, SCHEDULE_EVERY_MIN, SCHEDULES_MAX, drills, is_within_limits,
};
use crate::plan::is_name;
use crate::{Effect, Kv, KvError, Refusal, Reply, row, tables};

/// Seconds of a report: those of the longest drill, before and after.
const SECONDS_MAX: usize = 3_600;

pub(super) fn begin(
    kv: &mut dyn Kv,
    when: Logged,
    id: MessageId,
    plan: &DrillPlan,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let nodes_fail = plan.kind() != DrillKind::PrimaryOutage;
    if !is_within_limits(plan.duration_ms, plan.rate)
        || plan.nodes.is_empty() == nodes_fail
        || plan.nodes.contains(&plan.conductor)
    {
        return refuse(Refusal::Malformed);
    }
    let known = drills(kv)?;
    if known.iter().any(|drill| drill.id == id) {
        return refuse(Refusal::Malformed);
    }
    if known.iter().any(|drill| drill.is_under_way(when.at)) {
        return refuse(Refusal::DrillUnderWay);
    }
    let unneeded = (known.len() + 1).saturating_sub(DRILLS_KEPT);
    for old in &known[..unneeded] {
        kv.delete(&tables::drill(old.id));
    }
    let row = proto::DrillRow {
        plan: Some(plan.clone()),
        began_at_ms: when.at.0,
        ..proto::DrillRow::default()
    };
    row::put(kv, &tables::drill(id), &row);
    effects.push(Effect::DrillChanged);
    Ok(Reply::Done)
}

pub(super) fn tell(
    kv: &mut dyn Kv,
    id: MessageId,
    event: &DrillEvent,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let Some(mut row) = under_way(kv, id)? else {
        return refuse(Refusal::UnknownDrill);
    };
    if row.events.len() >= DRILL_EVENTS_MAX || event.what.len() > DRILL_EVENT_OCTETS_MAX {
        return refuse(Refusal::Malformed);
    }
    row.events.push(event.clone());
    row::put(kv, &tables::drill(id), &row);
    effects.push(Effect::DrillChanged);
    Ok(Reply::Done)
}

/// Whoever comes first: the conductor, or a node that noticed that the conductor was lost.
pub(super) fn end(
    kv: &mut dyn Kv,
    id: MessageId,
    report: &DrillReport,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    let Some(mut row) = under_way(kv, id)? else {
        return refuse(Refusal::UnknownDrill);
    };
    let is_long = |seconds: &Vec<u32>| seconds.len() > SECONDS_MAX;
    if report.why.len() > DRILL_EVENT_OCTETS_MAX
        || is_long(&report.accepted_per_s)
        || is_long(&report.delivered_per_s)
    {
        return refuse(Refusal::Malformed);
    }
    row.report = Some(report.clone());
    row::put(kv, &tables::drill(id), &row);
    effects.push(Effect::DrillChanged);
    Ok(Reply::Done)
}

pub(super) fn schedule(
    kv: &mut dyn Kv,
    name: &str,
    schedule: Option<&DrillSchedule>,
    effects: &mut Vec<Effect>,
) -> Result<Reply, KvError> {
    if !is_name(name) {
        return refuse(Refusal::Malformed);
    }
    let key = tables::schedule(name);
    match schedule {
        None if !row::exists(kv, &key)? => return refuse(Refusal::UnknownDrill),
        None => kv.delete(&key),
        Some(schedule) => {
            let often = u128::from(schedule.every_ms) < SCHEDULE_EVERY_MIN.as_millis();
            if often || !is_within_limits(schedule.duration_ms, schedule.rate) {
                return refuse(Refusal::Malformed);
            }
            let is_full = kv.scan(tables::SCHEDULES, &[], SCHEDULES_MAX)?.len() == SCHEDULES_MAX;
            if is_full && !row::exists(kv, &key)? {
                return refuse(Refusal::TooManySchedules);
            }
            row::put(kv, &key, schedule);
        }
    }
    effects.push(Effect::DrillChanged);
    Ok(Reply::Done)
}

fn under_way(kv: &dyn Kv, id: MessageId) -> Result<Option<proto::DrillRow>, KvError> {
    let row: Option<proto::DrillRow> = row::get(kv, &tables::drill(id))?;
    Ok(row.filter(|row| row.report.is_none()))
}
