//! What changes in the cluster, as it changes: for an operator who watches.
//!
//! Every second the node that is asked looks at the whole cluster and tells what is other than a
//! moment ago. The first look tells what is not well.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_ledger::drill::{self, DrillVerdict};
use holdfast_ledger::query::{self, DomainRecord};
use holdfast_mail::Timestamp;
use holdfast_mail::checkup::Leaves;
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::{Admin, broken, drills, status};
use crate::reach;
use crate::replica::{Cluster, now};
use crate::store::View;

/// How often the cluster is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Of all time at most one part in so many is spent on looking at domains.
const SHARE: u32 = 20;

/// Mail that waits longer is held; what is younger may be on its way through.
const HELD_AFTER: Duration = Duration::from_secs(15);

/// As the alert HoldfastMailHeldLong.
const HELD_LONG: Duration = Duration::from_secs(3 * 86_400);

/// Free parts in a hundred of a disk below which operators are told: the alerts say the same.
const DISK_FREE_MIN: u64 = 15;

/// As the alerts say.
const CLOCK_OFF_MAX_MS: u64 = 1000;
const ENTRIES_BEHIND_MAX: u64 = 1000;

/// Domains read at once.
const PAGE: usize = 256;

#[derive(Clone, Debug, Default, PartialEq)]
struct Sight {
    at: Timestamp,
    leader: String,
    term: u64,
    quorum: bool,
    nodes_may_fail: u32,
    /// The feature level, and the one that could be finalized.
    level: u32,
    next_level: Option<u32>,
    authority: Authority,
    /// All that are remembered, by their ids: the newest come last.
    drills: BTreeMap<String, Drill>,
    nodes: BTreeMap<String, Node>,
    domains: BTreeMap<String, Domain>,
}

/// The certificate authority.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Authority {
    #[default]
    Stays,
    /// Nodes move to another one.
    Moves,
    /// All have moved; the old one is trusted still.
    HasMoved,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Drill {
    kind: String,
    /// When something was last noted of it.
    at: Timestamp,
    /// What fails, in words.
    what: String,
    /// How it ended, and why it is said so; `None`: it is under way, or nobody knows.
    ended: Option<(DrillVerdict, String)>,
    under_way: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    is_voter: bool,
    /// Why it does not answer.
    silent: Option<String>,
    /// It takes no new mail.
    disk_is_full: bool,
    disk_fills: bool,
    clock_is_wrong: bool,
    is_drained: bool,
    is_behind: bool,
    /// It should have renewed its certificate long ago.
    certificate_is_late: bool,
    version: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Domain {
    /// Since when its oldest mail has waited.
    held: Option<Timestamp>,
    is_held_long: bool,
    messages: u64,
    /// Why its primary cannot be reached, and since when.
    down: Option<(String, Timestamp)>,
    is_full: bool,
    refuses: bool,
}

pub(super) fn events(
    admin: &Admin,
    follow: bool,
) -> Result<mpsc::Receiver<Result<wire::Event, Status>>, Status> {
    let cluster = admin.cluster()?;
    let (out, events) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut before: Option<Sight> = None;
        loop {
            let began = Instant::now();
            let sight = match look(&cluster).await {
                Ok(sight) => sight,
                Err(status) => {
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            };
            let known = before.unwrap_or_else(|| sight.if_all_were_well());
            for event in differences(&known, &sight) {
                if out.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            before = Some(sight);
            if !follow {
                return;
            }
            tokio::select! {
                () = sleep(LOOK_EVERY.max(began.elapsed() * SHARE)) => {}
                () = out.closed() => return,
            }
        }
    });
    Ok(events)
}

async fn look(cluster: &Cluster) -> Result<Sight, Status> {
    let status = status::status(cluster).await?;
    let leader = status.nodes.iter().find(|node| node.id == status.leader);
    let leader = leader.map(|node| node.name.clone()).unwrap_or_default();
    let nodes = status.nodes.iter();
    let mut sight = Sight {
        at: now(),
        leader,
        term: status.term,
        quorum: status.quorum,
        nodes_may_fail: status.nodes_may_fail,
        level: status.level,
        next_level: next_level(&status),
        authority: authority(status.rotation.as_ref()),
        drills: remembered(cluster)?,
        nodes: nodes
            .map(|node| (node.name.clone(), of_node(node)))
            .collect(),
        domains: BTreeMap::new(),
    };
    let mut after = None;
    loop {
        let view = cluster.view();
        let page = query::domains(&view, after.as_ref(), PAGE).map_err(broken)?;
        for record in &page {
            let domain = of_domain(&view, record, sight.at).map_err(broken)?;
            sight.domains.insert(record.name.to_string(), domain);
        }
        if page.len() < PAGE {
            return Ok(sight);
        }
        after = page.into_iter().next_back().map(|record| record.name);
        tokio::task::yield_now().await;
    }
}

/// The level above the cluster's that every node knows, if there is one.
fn next_level(status: &wire::StatusReply) -> Option<u32> {
    let known = status.nodes.iter().map(|node| node.level).min()?;
    (known > status.level).then_some(known)
}

fn authority(rotation: Option<&wire::Rotation>) -> Authority {
    match rotation {
        None => Authority::Stays,
        Some(it) if it.not_trusting.is_empty() && it.not_using.is_empty() => Authority::HasMoved,
        Some(_) => Authority::Moves,
    }
}

fn remembered(cluster: &Cluster) -> Result<BTreeMap<String, Drill>, Status> {
    let all = drill::drills(&cluster.view()).map_err(broken)?.into_iter();
    let told = all.map(|drill| drills::told(cluster, drill));
    Ok(told.map(|drill| of_drill(&drill)).collect())
}

fn of_drill(drill: &wire::Drill) -> (String, Drill) {
    let whom = match drill.nodes.is_empty() {
        true => String::new(),
        false => format!(" of {}", drill.nodes.join(", ")),
    };
    let report = drill.report.as_ref();
    let noted_ms = drill.events.last().map_or(0, |event| event.at_ms);
    let known = Drill {
        kind: drill.kind.clone(),
        at: Timestamp(drill.began_at_ms.saturating_add(noted_ms)),
        what: format!("{}{whom}", drill.kind),
        ended: report.map(|report| (report.verdict(), report.why.clone())),
        under_way: drill.under_way,
    };
    (drill.id.clone(), known)
}

fn of_node(node: &wire::NodeStatus) -> Node {
    Node {
        is_voter: node.role != "learner",
        silent: (!node.reachable).then(|| node.error.clone()),
        disk_is_full: node.disk_low,
        disk_fills: node.disk_total_bytes > 0
            && node.disk_free_bytes.saturating_mul(100)
                < node.disk_total_bytes.saturating_mul(DISK_FREE_MIN),
        clock_is_wrong: node.clock_ahead_ms.unsigned_abs() > CLOCK_OFF_MAX_MS,
        is_drained: node.drained,
        is_behind: node.lag > ENTRIES_BEHIND_MAX,
        certificate_is_late: node.certificate_late,
        version: node.version.clone(),
    }
}

fn of_domain(
    view: &View,
    record: &DomainRecord,
    at: Timestamp,
) -> Result<Domain, holdfast_ledger::KvError> {
    let name = &record.name;
    let counts = query::counts(view, name)?;
    let policy = query::policy(view, name)?;
    let reach = query::reach(view, name)?;
    // Nobody expects to reach a customer who calls: that mail waits is told of besides.
    let reach = reach.filter(|_| reach::leaves(&policy) == Leaves::Delivered);
    let mut domain = Domain {
        messages: counts.messages,
        down: reach.and_then(|reach| Some((reach.down?, reach.since))),
        ..Domain::default()
    };
    if counts.messages > 0 {
        let oldest = query::held(view, name, None, 1)?.pop();
        let oldest = oldest.map(|held| held.message.at());
        domain.held = oldest.filter(|since| at.since(*since) >= HELD_AFTER);
        domain.is_held_long = oldest.is_some_and(|since| at.since(since) >= HELD_LONG);
        domain.refuses = !query::refused(view, name, 1)?.is_empty();
        domain.is_full = !policy.has_room(counts.messages, counts.bytes, 1);
    }
    Ok(domain)
}

impl Sight {
    /// What is to be compared with what is seen first.
    fn if_all_were_well(&self) -> Self {
        let well = |node: &Node| Node {
            is_voter: node.is_voter,
            version: node.version.clone(),
            ..Node::default()
        };
        let nodes = self.nodes.iter();
        let domains = self.domains.keys();
        let failed = self.failed_last();
        let mut drills = self.drills.clone();
        drills.retain(|id, drill| !drill.under_way && !failed.contains(&id.as_str()));
        Self {
            quorum: true,
            drills,
            nodes_may_fail: self.nodes_may_fail.max(1),
            nodes: nodes
                .map(|(name, node)| (name.clone(), well(node)))
                .collect(),
            domains: domains
                .map(|name| (name.clone(), Domain::default()))
                .collect(),
            ..self.clone()
        }
    }

    /// The drills that failed, where none of their kind has run to its end since: as the alert
    /// HoldfastDrillFailed.
    fn failed_last(&self) -> Vec<&str> {
        let mut last: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
        for (id, drill) in &self.drills {
            let failed = match drill.ended {
                Some((DrillVerdict::Failed, _)) => true,
                Some((DrillVerdict::Passed, _)) => false,
                _ => continue,
            };
            last.insert(drill.kind.as_str(), (id.as_str(), failed));
        }
        let failed = last.into_values().filter(|(_, failed)| *failed);
        failed.map(|(id, _)| id).collect()
    }
}

/// Collects what is to be told.
struct Telling {
    at: Timestamp,
    events: Vec<wire::Event>,
}

impl Telling {
    fn tell(&mut self, kind: &str, is_good: bool, text: String) -> &mut wire::Event {
        self.events.push(wire::Event {
            at_ms: self.at.0,
            kind: kind.into(),
            good: is_good,
            text,
            ..wire::Event::default()
        });
        let last = self.events.len() - 1;
        &mut self.events[last]
    }

    fn of_node(&mut self, name: &str, was: &Node, is: &Node) {
        let mut say = |kind: &str, good: bool, alert: &str, text: String| {
            let event = self.tell(kind, good, text);
            event.node = name.into();
            event.alert = alert.into();
        };
        match (&was.silent, &is.silent) {
            (None, Some(why)) => say(
                "node_unreachable",
                false,
                "HoldfastNodeDown",
                format!("{name} does not answer: {why}"),
            ),
            (Some(_), None) => say("node_reachable", true, "", format!("{name} answers again")),
            _ => {}
        }
        match (was.is_drained, is.is_drained) {
            (false, true) => say(
                "node_drained",
                false,
                "HoldfastDrained",
                format!("{name} is drained: it takes no mail and has no duties"),
            ),
            (true, false) => say(
                "node_undrained",
                true,
                "",
                format!("{name} has its duties back"),
            ),
            _ => {}
        }
        // A node that does not answer says nothing of its disk, its clock or its version.
        if is.silent.is_some() || was.silent.is_some() {
            return;
        }
        if !was.is_voter && is.is_voter {
            say("node_voter", true, "", format!("{name} is a voter now"));
        }
        match (was.disk_is_full, is.disk_is_full) {
            (false, true) => say(
                "disk_full",
                false,
                "HoldfastDiskFull",
                format!("{name} takes no new mail: its disk is nearly full; delivery goes on"),
            ),
            (true, false) => say("accepts", true, "", format!("{name} takes mail again")),
            _ => {}
        }
        match (was.disk_fills, is.disk_fills) {
            (false, true) => say(
                "disk_filling",
                false,
                "HoldfastDiskFilling",
                format!("{name} has less than {DISK_FREE_MIN}% of its disk free"),
            ),
            (true, false) => say(
                "disk_free",
                true,
                "",
                format!("{name} has disk space again"),
            ),
            _ => {}
        }
        match (was.clock_is_wrong, is.clock_is_wrong) {
            (false, true) => say(
                "clock_wrong",
                false,
                "HoldfastClockWrong",
                format!("the clock of {name} differs by more than {CLOCK_OFF_MAX_MS} ms"),
            ),
            (true, false) => say(
                "clock_right",
                true,
                "",
                format!("the clock of {name} is right again"),
            ),
            _ => {}
        }
        match (was.is_behind, is.is_behind) {
            (false, true) => say(
                "node_behind",
                false,
                "HoldfastApplyLag",
                format!("{name} is more than {ENTRIES_BEHIND_MAX} entries behind"),
            ),
            (true, false) => say("node_level", true, "", format!("{name} has caught up")),
            _ => {}
        }
        match (was.certificate_is_late, is.certificate_is_late) {
            (false, true) => say(
                "certificate_late",
                false,
                "HoldfastCertificateNotRenewed",
                format!("{name} should have renewed its certificate long ago"),
            ),
            (true, false) => say(
                "certificate_renewed",
                true,
                "",
                format!("{name} has a new certificate"),
            ),
            _ => {}
        }
        if was.version != is.version {
            say(
                "node_version",
                true,
                "",
                format!("{name} runs version {} (was {})", is.version, was.version),
            );
        }
    }

    fn of_domain(&mut self, name: &str, was: &Domain, is: &Domain) {
        let mut say = |kind: &str, good: bool, alert: &str, at: Option<Timestamp>, text: String| {
            let event = self.tell(kind, good, text);
            event.domain = name.into();
            event.alert = alert.into();
            event.at_ms = at.map_or(event.at_ms, |at| at.0);
        };
        match (&was.down, &is.down) {
            (None, Some((why, since))) => say(
                "primary_down",
                false,
                "",
                Some(*since),
                format!("the primary of {name} cannot be reached: {why}"),
            ),
            (Some(_), None) => say(
                "primary_up",
                true,
                "",
                None,
                format!("the primary of {name} can be reached again"),
            ),
            _ => {}
        }
        match (was.held, is.held) {
            (None, Some(since)) => say(
                "mail_held",
                false,
                match is.is_held_long {
                    true => "HoldfastMailHeldLong",
                    false => "",
                },
                Some(since),
                format!("mail of {name} is held: {} so far", is.messages),
            ),
            (Some(_), Some(_)) if is.is_held_long && !was.is_held_long => say(
                "mail_held_long",
                false,
                "HoldfastMailHeldLong",
                None,
                format!("mail of {name} has been held for three days"),
            ),
            (Some(_), None) => say(
                "mail_drained",
                true,
                "",
                None,
                format!("no mail of {name} waits for delivery any more"),
            ),
            _ => {}
        }
        match (was.is_full, is.is_full) {
            (false, true) => say(
                "quota_full",
                false,
                "",
                None,
                format!("{name} has no room for more mail: its quota is full"),
            ),
            (true, false) => say(
                "quota_free",
                true,
                "",
                None,
                format!("{name} has room for mail again"),
            ),
            _ => {}
        }
        match (was.refuses, is.refuses) {
            (false, true) => say(
                "mail_refused",
                false,
                "HoldfastPrimaryRefuses",
                None,
                format!(
                    "the primary of {name} refuses mail, which is kept: `holdfast mail list --domain {name} --refused`"
                ),
            ),
            (true, false) => say(
                "mail_refused_no_more",
                true,
                "",
                None,
                format!("no refused mail of {name} is kept any more"),
            ),
            _ => {}
        }
    }

    fn of_drill(&mut self, was: Option<&Drill>, is: &Drill) {
        let what = &is.what;
        if is.under_way && was.is_none() {
            let text = format!("a drill is on, {what}: what fails may only pretend to");
            self.tell("drill_begun", false, text);
        }
        let (Some((verdict, why)), true) = (&is.ended, was.is_none_or(|was| was.ended.is_none()))
        else {
            return;
        };
        let (word, good, alert) = match verdict {
            DrillVerdict::Passed => ("has passed", true, ""),
            DrillVerdict::Failed => ("failed", false, "HoldfastDrillFailed"),
            DrillVerdict::Stopped => ("was stopped", true, ""),
            DrillVerdict::Unknown | DrillVerdict::Unspecified => ("came to no end", false, ""),
        };
        let text = format!("the drill is over; {what} {word}: {why}");
        let event = self.tell("drill_ended", good, text);
        event.alert = alert.into();
        if was.is_none() {
            event.at_ms = is.at.0;
        }
    }

    /// The feature level and the certificate authority.
    fn of_versions(&mut self, was: &Sight, is: &Sight) {
        if was.level != is.level {
            let text = format!("the cluster uses feature level {} now", is.level);
            self.tell("level", true, text);
        }
        if let Some(next) = is.next_level
            && was.next_level != is.next_level
        {
            let text = format!(
                "every node knows feature level {next}, and the cluster uses {}: `holdfast cluster \
                 finalize-upgrade`, once you will not go back",
                is.level
            );
            self.tell("level_to_finalize", true, text);
        }
        if was.authority == is.authority {
            return;
        }
        let (kind, text) = match is.authority {
            Authority::Moves => (
                "authority_rotates",
                "the certificate authority is being replaced: `holdfast cluster rotate-ca` follows it",
            ),
            Authority::HasMoved => (
                "authority_may_go",
                "every node has a certificate of the new authority: `holdfast cluster rotate-ca --finish` drops the \
                 old one",
            ),
            Authority::Stays => (
                "authority_rotated",
                "the old certificate authority is trusted no more",
            ),
        };
        self.tell(kind, true, text.into());
    }
}

/// What is other than before, the cluster's first.
fn differences(before: &Sight, after: &Sight) -> Vec<wire::Event> {
    let mut told = Telling {
        at: after.at,
        events: Vec::new(),
    };
    match (before.quorum, after.quorum) {
        (true, false) => {
            let text = "no quorum: no mail is accepted, nothing acknowledged is lost";
            told.tell("quorum_lost", false, text.into()).alert = "HoldfastNoQuorum".into();
        }
        (false, true) => {
            let text = "there is a quorum again: mail is accepted";
            told.tell("quorum", true, text.into());
        }
        _ => {}
    }
    if before.leader != after.leader && !after.leader.is_empty() {
        let text = format!("{} leads (term {})", after.leader, after.term);
        told.tell("leader", true, text).node = after.leader.clone();
    }
    match (before.nodes_may_fail, after.nodes_may_fail) {
        (1.., 0) if after.quorum => {
            let text = "no further node may fail: bring back a node, or add one";
            told.tell("no_tolerance", false, text.into()).alert =
                "HoldfastNoFailureTolerance".into();
        }
        (0, 1..) => {
            let text = format!("{} node(s) may fail again", after.nodes_may_fail);
            told.tell("tolerance", true, text);
        }
        _ => {}
    }
    told.of_versions(before, after);
    for (id, is) in &after.drills {
        told.of_drill(before.drills.get(id), is);
    }
    for (name, is) in &after.nodes {
        match before.nodes.get(name) {
            Some(was) => told.of_node(name, was, is),
            None => {
                told.tell("node_joined", true, format!("{name} has joined"))
                    .node = name.clone()
            }
        }
    }
    for name in before
        .nodes
        .keys()
        .filter(|name| !after.nodes.contains_key(*name))
    {
        told.tell("node_left", true, format!("{name} has left for good"))
            .node = name.clone();
    }
    for (name, is) in &after.domains {
        match before.domains.get(name) {
            Some(was) => told.of_domain(name, was, is),
            None => {
                let text = format!("{name} is protected from now on");
                told.tell("domain_added", true, text).domain = name.clone();
            }
        }
    }
    for name in before
        .domains
        .keys()
        .filter(|name| !after.domains.contains_key(*name))
    {
        told.tell(
            "domain_removed",
            true,
            format!("{name} is protected no more"),
        )
        .domain = name.clone();
    }
    told.events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight() -> Sight {
        let node = || Node {
            is_voter: true,
            version: "0.1.0".into(),
            ..Node::default()
        };
        let names = ["n1", "n2", "n3"].map(str::to_owned);
        Sight {
            at: Timestamp(1000),
            leader: "n1".into(),
            term: 1,
            quorum: true,
            nodes_may_fail: 1,
            level: 1,
            next_level: None,
            authority: Authority::Stays,
            drills: BTreeMap::new(),
            nodes: names.into_iter().map(|name| (name, node())).collect(),
            domains: BTreeMap::from([("example.org".to_owned(), Domain::default())]),
        }
    }

    fn kinds(before: &Sight, after: &Sight) -> Vec<String> {
        let events = differences(before, after);
        events.into_iter().map(|event| event.kind).collect()
    }

    #[test]
    fn what_stays_as_it_is_is_not_told() {
        let mut later = sight();
        later.at = Timestamp(2000);
        assert!(kinds(&sight(), &later).is_empty());
        assert!(kinds(&later.if_all_were_well(), &later).is_empty());
    }

    #[test]
    fn a_node_that_dies_and_comes_back_is_told_once_each_way() {
        let mut down = sight();
        down.nodes.get_mut("n1").unwrap().silent = Some("no answer within 2 s".into());
        // It says nothing of its version either.
        down.nodes.get_mut("n1").unwrap().version = String::new();
        (down.leader, down.term, down.nodes_may_fail) = ("n2".into(), 2, 0);
        let told = differences(&sight(), &down);
        let said: Vec<(&str, &str, &str)> = told
            .iter()
            .map(|event| {
                (
                    event.kind.as_str(),
                    event.text.as_str(),
                    event.alert.as_str(),
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                ("leader", "n2 leads (term 2)", ""),
                (
                    "no_tolerance",
                    "no further node may fail: bring back a node, or add one",
                    "HoldfastNoFailureTolerance"
                ),
                (
                    "node_unreachable",
                    "n1 does not answer: no answer within 2 s",
                    "HoldfastNodeDown"
                ),
            ]
        );
        let mut back = sight();
        (back.leader, back.term) = ("n2".into(), 2);
        assert_eq!(kinds(&down, &back), ["tolerance", "node_reachable"]);
        // Whoever looks only now is told what is not well.
        assert_eq!(
            kinds(&down.if_all_were_well(), &down),
            ["no_tolerance", "node_unreachable"]
        );
    }

    #[test]
    fn a_disk_that_fills_and_a_clock_that_is_wrong_are_told_with_their_pages() {
        let mut bad = sight();
        let node = bad.nodes.get_mut("n2").unwrap();
        (node.disk_is_full, node.disk_fills, node.clock_is_wrong) = (true, true, true);
        let told = differences(&sight(), &bad);
        let alerts: Vec<&str> = told.iter().map(|event| event.alert.as_str()).collect();
        assert_eq!(
            alerts,
            [
                "HoldfastDiskFull",
                "HoldfastDiskFilling",
                "HoldfastClockWrong"
            ]
        );
        assert!(told.iter().all(|event| event.node == "n2" && !event.good));
        assert_eq!(
            kinds(&bad, &sight()),
            ["accepts", "disk_free", "clock_right"]
        );
    }

    #[test]
    fn a_domains_outage_is_told_from_its_beginning_to_its_end() {
        let mut down = sight();
        let domain = down.domains.get_mut("example.org").unwrap();
        domain.down = Some(("connection refused".into(), Timestamp(400)));
        let told = differences(&sight(), &down);
        assert_eq!(told[0].at_ms, 400, "when the cluster found it so");
        assert_eq!(told[0].domain, "example.org");
        let mut held = down.clone();
        let domain = held.domains.get_mut("example.org").unwrap();
        (domain.held, domain.messages, domain.is_full) = (Some(Timestamp(500)), 3, true);
        assert_eq!(kinds(&down, &held), ["mail_held", "quota_full"]);
        let mut long = held.clone();
        long.domains.get_mut("example.org").unwrap().is_held_long = true;
        let alerts = |before: &Sight| -> Vec<(String, String)> {
            let told = differences(before, &long).into_iter();
            let held = told.filter(|event| event.kind.starts_with("mail_held"));
            held.map(|event| (event.kind, event.alert)).collect()
        };
        let with = |kind: &str| vec![(kind.to_owned(), "HoldfastMailHeldLong".to_owned())];
        assert_eq!(alerts(&held), with("mail_held_long"));
        assert_eq!(alerts(&long.if_all_were_well()), with("mail_held"));
        assert!(alerts(&long).is_empty());
        let mut refused = sight();
        refused.domains.get_mut("example.org").unwrap().refuses = true;
        assert_eq!(
            kinds(&held, &refused),
            ["primary_up", "mail_drained", "quota_free", "mail_refused"]
        );
        assert_eq!(kinds(&refused, &sight()), ["mail_refused_no_more"]);
    }

    #[test]
    fn maintenance_is_told_by_whom_it_takes_and_when_it_is_over() {
        let mut other = sight();
        let node = other.nodes.get_mut("n3").unwrap();
        (node.is_drained, node.is_behind, node.certificate_is_late) = (true, true, true);
        let told = differences(&sight(), &other);
        let alerts: Vec<&str> = told.iter().map(|event| event.alert.as_str()).collect();
        assert_eq!(
            alerts,
            [
                "HoldfastDrained",
                "HoldfastApplyLag",
                "HoldfastCertificateNotRenewed"
            ]
        );
        assert!(told.iter().all(|event| event.node == "n3" && !event.good));
        assert_eq!(
            kinds(&other, &sight()),
            ["node_undrained", "node_level", "certificate_renewed"]
        );
        // Stopped, as it is meant to be: that it was drained is known all the same.
        let node = other.nodes.get_mut("n3").unwrap();
        node.silent = Some("no answer within 2 s".into());
        assert_eq!(
            kinds(&other.if_all_were_well(), &other),
            ["node_unreachable", "node_drained"]
        );

        let at = |level, next_level| Sight {
            level,
            next_level,
            ..sight()
        };
        let (old, ready, done) = (at(2, None), at(2, Some(3)), at(3, None));
        assert_eq!(kinds(&old, &ready), ["level_to_finalize"]);
        assert_eq!(kinds(&ready, &done), ["level"]);

        let with = |authority| Sight {
            authority,
            ..sight()
        };
        let (begun, moved) = (with(Authority::Moves), with(Authority::HasMoved));
        assert_eq!(kinds(&sight(), &begun), ["authority_rotates"]);
        assert_eq!(kinds(&begun, &moved), ["authority_may_go"]);
        assert_eq!(kinds(&moved, &sight()), ["authority_rotated"]);
    }

    #[test]
    fn a_drill_is_told_when_it_begins_and_what_it_came_to() {
        let with = |verdict: Option<DrillVerdict>| {
            let drill = Drill {
                kind: "node-loss".into(),
                at: Timestamp(700),
                what: "node-loss of n2".into(),
                ended: verdict.map(|verdict| (verdict, "every canary arrived, once".into())),
                under_way: verdict.is_none(),
            };
            Sight {
                drills: BTreeMap::from([("01J".to_owned(), drill)]),
                ..sight()
            }
        };
        let on = with(None);
        assert_eq!(kinds(&sight(), &on), ["drill_begun"]);
        // To whoever looks only now, too: other things may only seem to be wrong.
        assert_eq!(kinds(&on.if_all_were_well(), &on), ["drill_begun"]);
        for (verdict, alert, good) in [
            (DrillVerdict::Passed, "", true),
            (DrillVerdict::Failed, "HoldfastDrillFailed", false),
            (DrillVerdict::Stopped, "", true),
        ] {
            let over = with(Some(verdict));
            let told = differences(&on, &over);
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0].kind, "drill_ended");
            assert_eq!((told[0].alert.as_str(), told[0].good), (alert, good));
            assert!(kinds(&over, &over).is_empty());
            // One that failed is told to whoever looks only now, too, until its kind passes.
            let told = differences(&over.if_all_were_well(), &over);
            let told: Vec<_> = told.iter().map(|it| (it.kind.as_str(), it.at_ms)).collect();
            match good {
                true => assert!(told.is_empty()),
                false => assert_eq!(told, [("drill_ended", 700)]),
            }
        }
        let mut again = with(Some(DrillVerdict::Failed));
        let after = |verdict| with(Some(verdict)).drills["01J"].clone();
        let stopped = after(DrillVerdict::Stopped);
        again.drills.insert("01K".into(), stopped);
        assert_eq!(kinds(&again.if_all_were_well(), &again), ["drill_ended"]);
        let passed = after(DrillVerdict::Passed);
        again.drills.insert("01L".into(), passed);
        assert!(kinds(&again.if_all_were_well(), &again).is_empty());
    }

    #[test]
    fn who_comes_and_goes_is_told() {
        let mut other = sight();
        let node = other.nodes.remove("n3").unwrap();
        other.nodes.insert(
            "n4".into(),
            Node {
                is_voter: false,
                ..node
            },
        );
        other.domains.clear();
        other
            .domains
            .insert("example.net".into(), Domain::default());
        assert_eq!(
            kinds(&sight(), &other),
            ["node_joined", "node_left", "domain_added", "domain_removed"]
        );
        let mut voter = other.clone();
        voter.nodes.get_mut("n4").unwrap().is_voter = true;
        voter.quorum = false;
        assert_eq!(kinds(&other, &voter), ["quorum_lost", "node_voter"]);
        assert_eq!(
            kinds(
                &voter,
                &Sight {
                    quorum: true,
                    ..voter.clone()
                }
            ),
            ["quorum"]
        );
    }
}
