//! What became of the canaries, and what that says of the drill.

use std::collections::BTreeMap;

use holdfast_ledger::drill::{DrillKind, DrillReport, DrillVerdict};

/// A message that a drill sends. Times are milliseconds since the drill began.
#[derive(Clone, Debug, Default)]
struct Canary {
    accepted: Option<u64>,
    /// Attempts that failed.
    put_off: u64,
}

/// The canaries of one drill, by number.
#[derive(Debug, Default)]
pub(super) struct Tally(Vec<Canary>);

/// How the drill went, apart from the canaries. Times are milliseconds since it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    pub(super) kind: DrillKind,
    pub(super) injected: Option<u64>,
    pub(super) healed: Option<u64>,
    /// Another node led.
    pub(super) led: Option<u64>,
    /// A new leader was needed.
    pub(super) leader_failed: bool,
    pub(super) taken_over: Option<u64>,
    pub(super) drained: Option<u64>,
    /// Canaries held in the end.
    pub(super) held: u64,
    /// Nodes whose receipts are not known.
    pub(super) silent: Vec<String>,
    /// Why it ended before its time.
    pub(super) stopped: Option<String>,
}

/// What remains of the failure's effects is looked at for so long.
const AFTERMATH_MS: u64 = 3_000;

impl Tally {
    /// The number of the next.
    pub(super) fn send(&mut self) -> u64 {
        self.0.push(Canary::default());
        self.0.len() as u64 - 1
    }

    pub(super) fn accept(&mut self, number: u64, at: u64) {
        if let Some(canary) = self.canary(number) {
            canary.accepted = Some(at);
        }
    }

    pub(super) fn put_off(&mut self, number: u64) {
        if let Some(canary) = self.canary(number) {
            canary.put_off += 1;
        }
    }

    fn canary(&mut self, number: u64) -> Option<&mut Canary> {
        self.0.get_mut(usize::try_from(number).ok()?)
    }

    pub(super) fn accepted(&self) -> usize {
        self.0
            .iter()
            .filter(|canary| canary.accepted.is_some())
            .count()
    }

    /// The longest time without an accepted canary between two moments.
    fn gap(&self, from: u64, to: u64) -> u64 {
        let within = |at: &u64| (from..=to).contains(at);
        let mut times: Vec<u64> = self
            .0
            .iter()
            .filter_map(|c| c.accepted)
            .filter(within)
            .collect();
        times.extend([from, to]);
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(0)
    }

    /// `receipts`: the number of a canary, and when it came, for each time that one came.
    pub(super) fn report(&self, receipts: &[(u64, u64)], course: &Course) -> DrillReport {
        let mut came: BTreeMap<u64, u64> = BTreeMap::new();
        for (number, _) in receipts {
            *came.entry(*number).or_default() += 1;
        }
        let sent = self.0.len() as u64;
        let accepted = self.accepted() as u64;
        let arrived = (0..)
            .zip(&self.0)
            .filter(|(n, c)| c.accepted.is_some() && came.contains_key(n));
        let missing = (accepted - arrived.count() as u64).saturating_sub(course.held);
        let (lost, unknown) = match course.silent.is_empty() {
            true => (missing, 0),
            false => (0, missing),
        };
        let doubled = came.values().filter(|times| **times > 1).count() as u64;
        let (verdict, why) = verdict(course, sent - accepted, lost, unknown, doubled);
        let since = |at: Option<u64>| Some(at?.saturating_sub(course.injected?));
        let drained = course.drained.zip(course.healed);
        DrillReport {
            verdict: verdict.into(),
            why,
            injected_ms: course.injected.unwrap_or(0),
            healed_ms: course.healed.unwrap_or(0),
            leader_ms: since(course.led),
            accept_gap_ms: course
                .injected
                .zip(course.healed)
                .map(|(from, to)| self.gap(from, to + AFTERMATH_MS)),
            takeover_ms: since(course.taken_over),
            drain_ms: drained.map(|(drained, healed)| drained.saturating_sub(healed)),
            sent,
            accepted,
            delivered: came.len() as u64,
            lost,
            doubled,
            put_off: self.0.iter().map(|canary| canary.put_off).sum(),
            accepted_per_s: per_second(self.0.iter().filter_map(|canary| canary.accepted)),
            delivered_per_s: per_second(receipts.iter().map(|(_, at)| *at)),
            unknown,
        }
    }
}

fn verdict(
    course: &Course,
    refused: u64,
    lost: u64,
    unknown: u64,
    doubled: u64,
) -> (DrillVerdict, String) {
    let failed = |why: String| (DrillVerdict::Failed, why);
    if lost > 0 {
        return failed(format!(
            "{lost} canaries were acknowledged and did not arrive"
        ));
    }
    if let Some(why) = &course.stopped {
        return (DrillVerdict::Stopped, why.clone());
    }
    if course.leader_failed && course.led.is_none() {
        let lasted = course
            .healed
            .unwrap_or(0)
            .saturating_sub(course.injected.unwrap_or(0));
        return failed(format!(
            "no other node came to lead within {} s; an election over long lines may take longer than that",
            lasted / 1000
        ));
    }
    if refused > 0 {
        return failed(format!(
            "{refused} canaries were taken by no node, even afterwards"
        ));
    }
    if course.held > 0 {
        return failed(format!("{} canaries are still held", course.held));
    }
    if unknown > 0 {
        let silent = course.silent.join(", ");
        let why =
            format!("{unknown} canaries may have gone through {silent}, which does not answer");
        return (DrillVerdict::Unknown, why);
    }
    let why = match doubled {
        0 => "every canary arrived, once".to_owned(),
        _ => format!(
            "every canary arrived, {doubled} of them twice: they were under way when the failure began"
        ),
    };
    (DrillVerdict::Passed, why)
}

/// How many of `times` fall into each second, up to the last of them.
fn per_second(times: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut counts: Vec<u32> = Vec::new();
    for at in times {
        let second = usize::try_from(at / 1000).unwrap_or(usize::MAX);
        // A clock that is far off must not make a page of a year.
        if second > 3_000 {
            continue;
        }
        if counts.len() <= second {
            counts.resize(second + 1, 0);
        }
        counts[second] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five canaries a second for ten seconds, of which those from 2.0 to 3.4 s were put off.
    fn tally() -> Tally {
        let mut tally = Tally::default();
        for number in 0..50 {
            assert_eq!(tally.send(), number);
            let at = number * 200;
            if (2_000..3_400).contains(&at) {
                tally.put_off(number);
                tally.accept(number, 3_400);
            } else {
                tally.accept(number, at);
            }
        }
        tally
    }

    fn course() -> Course {
        Course {
            kind: DrillKind::LeaderLoss,
            injected: Some(2_000),
            healed: Some(6_000),
            led: Some(3_300),
            leader_failed: true,
            drained: Some(6_050),
            ..Course::default()
        }
    }

    fn all() -> Vec<(u64, u64)> {
        (0..50).map(|number| (number, number * 200 + 50)).collect()
    }

    #[test]
    fn a_drill_in_which_every_canary_arrives_has_passed() {
        let report = tally().report(&all(), &course());
        assert_eq!(report.verdict(), DrillVerdict::Passed, "{}", report.why);
        assert_eq!(
            (report.sent, report.accepted, report.delivered),
            (50, 50, 50)
        );
        assert_eq!((report.lost, report.doubled, report.put_off), (0, 0, 7));
        assert_eq!(report.leader_ms, Some(1_300));
        assert_eq!(report.accept_gap_ms, Some(1_400));
        assert_eq!(report.takeover_ms, None);
        assert_eq!(report.drain_ms, Some(50));
        assert_eq!(report.accepted_per_s[..4], [5, 5, 0, 10]);
        assert_eq!(report.delivered_per_s[..2], [5, 5]);
    }

    #[test]
    fn one_acknowledged_canary_that_does_not_arrive_fails_the_drill_however_it_ended() {
        let stopped = Course {
            stopped: Some("by hand".to_owned()),
            ..course()
        };
        for course in [course(), stopped] {
            let report = tally().report(&all()[1..], &course);
            assert_eq!(report.verdict(), DrillVerdict::Failed);
            assert_eq!(report.lost, 1, "{}", report.why);
        }
    }

    #[test]
    fn what_a_node_keeps_to_itself_is_not_known() {
        let course = Course {
            silent: vec!["n2".to_owned()],
            ..course()
        };
        let report = tally().report(&all()[1..], &course);
        assert_eq!(report.verdict(), DrillVerdict::Unknown);
        assert_eq!((report.lost, report.unknown), (0, 1));
        // What is held is not lost.
        let course = Course { held: 1, ..course };
        let report = tally().report(&all()[1..], &course);
        assert_eq!((report.lost, report.unknown), (0, 0));
        assert_eq!(report.verdict(), DrillVerdict::Failed, "{}", report.why);
    }

    #[test]
    fn canaries_that_come_twice_are_told_of() {
        let mut receipts = all();
        receipts.push((7, 9_000));
        let report = tally().report(&receipts, &course());
        assert_eq!(report.verdict(), DrillVerdict::Passed);
        assert_eq!((report.delivered, report.doubled), (50, 1));
        assert!(report.why.contains("1 of them twice"), "{}", report.why);
    }

    #[test]
    fn a_drill_without_what_it_was_for_has_failed() {
        let leaderless = Course {
            led: None,
            ..course()
        };
        let report = tally().report(&all(), &leaderless);
        assert_eq!(report.verdict(), DrillVerdict::Failed, "{}", report.why);
        let mut refused = tally();
        refused.send();
        let report = refused.report(&all(), &course());
        assert!(
            report.why.starts_with("1 canaries were taken by no node"),
            "{}",
            report.why
        );
    }
}
