//! `holdfast status` and `holdfast cluster status`.

use holdfast_proto::admin::{DomainStatus, Empty, NodeStatus, StatusReply};
use serde_json::json;

use crate::client::{self, Client};
use crate::drill;
use crate::failure::{Exit, Failure};
use crate::output::{self, Now, Output};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Nodes and held mail.
    All,
    /// Nodes only.
    Nodes,
}

pub(crate) async fn run(client: &mut Client, output: Output, part: Part) -> Result<Exit, Failure> {
    let status = ask(client).await?;
    if output.is_json() {
        output.json("status/v1", &as_json(&status))?;
    } else {
        as_text(&status, output, part)?;
    }
    Ok(if is_healthy(&status) {
        Exit::Done
    } else {
        Exit::Unhealthy
    })
}

pub(crate) async fn ask(client: &mut Client) -> Result<StatusReply, Failure> {
    client::answer(
        "the status is not known",
        client.status(client::request(Empty {})),
    )
    .await
}

/// What the node's replicated rows come to.
pub(crate) async fn state_hash(client: &mut Client, output: Output) -> Result<Exit, Failure> {
    let state = client::answer(
        "the state's hash is not known",
        client.state_hash(client::request(Empty {})),
    )
    .await?;
    if output.is_json() {
        output.json(
            "state-hash/v1",
            &json!({
                "node_id": state.node_id,
                "applied": state.applied,
                "rows": state.rows,
                "hash": state.hash,
            }),
        )?;
    } else {
        output.line(format!(
            "{} after entry {}, in {} rows",
            state.hash, state.applied, state.rows
        ))?;
    }
    Ok(Exit::Done)
}

/// Every member answers, there is a quorum, and mail is taken.
pub(crate) fn is_healthy(status: &StatusReply) -> bool {
    !status.cluster_id.is_empty()
        && status.quorum
        && !status.no_room
        && status.nodes.iter().all(|node| node.reachable)
}

pub(crate) fn leader(status: &StatusReply) -> Option<&NodeStatus> {
    status.nodes.iter().find(|node| node.id == status.leader)
}

fn as_text(status: &StatusReply, output: Output, part: Part) -> Result<(), Failure> {
    if status.cluster_id.is_empty() {
        output.line("This node belongs to no cluster yet.")?;
        eprintln!(
            "Start one with `holdfast cluster init`, or join one with `holdfast cluster join TOKEN`."
        );
        return Ok(());
    }
    for line in screen(status, part) {
        output.line(line)?;
    }
    Ok(())
}

/// Columns of a terminal, at the least.
const COLUMNS: usize = 80;

/// What is told, line by line.
fn screen(status: &StatusReply, part: Part) -> Vec<String> {
    let mut lines = output::wrapped(&output::plain(&status.health), COLUMNS);
    lines.push(match leader(status) {
        Some(node) => format!(
            "Leader {} (term {}). {}",
            node.name,
            status.term,
            may_fail(status)
        ),
        None => format!("No leader is known (term {}).", status.term),
    });
    lines.push(format!("Cluster {}", status.cluster_id));
    if !status.placement_safe && status.nodes.len() > 1 {
        let unsafe_ = "One region holds a majority of the nodes: losing it stops the cluster.";
        lines.push(unsafe_.to_owned());
    }
    if let Some(says) = behind(status) {
        lines.extend(output::wrapped(&says, COLUMNS));
    }
    lines.push(String::new());
    lines.extend(table_lines(&nodes(status, part), COLUMNS));
    for node in status.nodes.iter().filter(|node| !node.reachable) {
        let why = output::plain(&node.error);
        lines.extend(output::wrapped(&format!("{}: {why}", node.name), COLUMNS));
    }
    for drill in &status.drills {
        lines.push(format!(
            "Drill {}{}{}: {} {} ago.",
            drill.kind,
            if drill.region.is_empty() { "" } else { " " },
            output::plain(&drill.region),
            drill::standing(drill),
            Now(status.now_ms).age(drill.began_at_ms)
        ));
    }
    if part == Part::Nodes {
        return lines;
    }
    lines.push(String::new());
    if status.held_messages == 0 {
        lines.push("Nothing is held.".to_owned());
        return lines;
    }
    lines.push(format!(
        "Held: {}, {}.",
        output::count(status.held_messages, "message"),
        output::bytes(status.held_bytes)
    ));
    if !status.domains.is_empty() {
        lines.extend(table_lines(&domains(status), COLUMNS));
    }
    if status.domains_more > 0 {
        lines.push(format!(
            "And {} whose mail is younger: holdfast domain list",
            output::count(status.domains_more, "domain")
        ));
    }
    lines
}

pub(crate) fn table_lines(table: &comfy_table::Table, columns: usize) -> Vec<String> {
    let cut = |line: &str| output::cut(line.trim_end(), columns);
    table.trim_fmt().lines().map(cut).collect()
}

/// Who is a member, and how each stands. Where each takes mail is told with the nodes alone: one
/// screen has no room for it.
fn nodes(status: &StatusReply, part: Part) -> comfy_table::Table {
    let numbers = ["ID", "LAG", "RTT", "HELD", "FREE"];
    let columns = match part {
        Part::All => vec![
            "NODE", "REGION", "ROLE", "STATE", "LAG", "RTT", "HELD", "FREE", "VERSION",
        ],
        Part::Nodes => vec![
            "NODE", "ID", "REGION", "ROLE", "STATE", "LAG", "RTT", "FREE", "VERSION", "SMTP",
        ],
    };
    let mut table = output::table(&columns, &numbers);
    for node in &status.nodes {
        let of = |column: &&str| match *column {
            "NODE" => node.name.clone(),
            "ID" => node.id.to_string(),
            "REGION" => node.region.clone(),
            "ROLE" => node.role.clone(),
            "STATE" => state(node),
            // Of a node that does not answer the rest is not known.
            "LAG" | "RTT" | "HELD" | "FREE" | "VERSION" if !node.reachable => "-".to_owned(),
            "LAG" => node.lag.to_string(),
            "RTT" => rtt(node.rtt_micros),
            "HELD" => node.held.to_string(),
            "FREE" => disk(node),
            "VERSION" => node.version.clone(),
            _ => node.smtp_address.clone(),
        };
        table.add_row(columns.iter().map(of).collect::<Vec<_>>());
    }
    table
}

pub(crate) fn domains(status: &StatusReply) -> comfy_table::Table {
    let now = Now(status.now_ms);
    let columns = [
        "DOMAIN",
        "HELD",
        "BYTES",
        "OLDEST",
        "BY",
        "NEXT",
        "LAST REPLY",
    ];
    let mut table = output::table(&columns, &["HELD", "BYTES", "OLDEST", "NEXT"]);
    for domain in &status.domains {
        let mut nodes = status.nodes.iter();
        let by = nodes.find(|node| node.id == domain.lease_node);
        table.add_row(vec![
            domain.domain.clone(),
            domain.messages.to_string(),
            output::bytes(domain.bytes),
            now.age(domain.oldest_ms),
            by.map_or_else(|| "-".to_owned(), |node| node.name.clone()),
            next(domain, now),
            output::plain(&domain.last_reply),
        ]);
    }
    table
}

/// When the domain is tried next.
fn next(domain: &DomainStatus, now: Now) -> String {
    match (domain.next_try_ms, domain.lease_node) {
        (0, 0) => "-".to_owned(),
        (0, _) => "now".to_owned(),
        (at, _) => now.until(at),
    }
}

/// What an upgrade still waits for.
fn behind(status: &StatusReply) -> Option<String> {
    let newest = status.nodes.iter().map(|node| node.level).max()?;
    if newest <= status.level {
        return None;
    }
    let old: Vec<&str> = status
        .nodes
        .iter()
        .filter(|node| node.level < newest)
        .map(|node| node.name.as_str())
        .collect();
    let next = match old.is_empty() {
        true => "every node knows it: holdfast cluster finalize-upgrade".to_owned(),
        false => format!("not known to know it: {}", old.join(", ")),
    };
    Some(format!(
        "An upgrade is under way: the cluster is at feature level {}, the newest version has {newest}; {next}",
        status.level
    ))
}

fn may_fail(status: &StatusReply) -> String {
    if status.nodes_may_fail == 0 {
        return "No node may fail.".to_owned();
    }
    format!(
        "{} or {} may fail.",
        output::count(status.nodes_may_fail.into(), "node"),
        output::count(status.regions_may_fail.into(), "region")
    )
}

pub(crate) fn state(node: &NodeStatus) -> String {
    if !node.reachable {
        return "unreachable".to_owned();
    }
    match node.bodies_missing {
        0 if node.drained => "drained".to_owned(),
        0 if node.disk_low => "disk full".to_owned(),
        0 => "ready".to_owned(),
        missing => format!(
            "fetching {}",
            output::count(missing, "body").replace("bodys", "bodies")
        ),
    }
}

pub(crate) fn rtt(micros: u64) -> String {
    match micros {
        0 => "-".to_owned(),
        1..10_000 => format!("{:.1} ms", micros as f64 / 1000.0),
        _ => format!("{} ms", micros / 1000),
    }
}

pub(crate) fn disk(node: &NodeStatus) -> String {
    match node.disk_total_bytes {
        0 => "-".to_owned(),
        total => format!("{}%", node.disk_free_bytes.saturating_mul(100) / total),
    }
}

fn as_json(status: &StatusReply) -> serde_json::Value {
    json!({
        "cluster_id": (!status.cluster_id.is_empty()).then_some(&status.cluster_id),
        "node_id": status.node_id,
        "now": (status.now_ms > 0).then(|| output::rfc3339(status.now_ms)),
        "health": status.health,
        "healthy": is_healthy(status),
        "quorum": status.quorum,
        "leader": leader(status).map(|node| &node.name),
        "leader_id": status.leader,
        "term": status.term,
        "nodes_may_fail": status.nodes_may_fail,
        "regions_may_fail": status.regions_may_fail,
        "placement_safe": status.placement_safe,
        "drills": status.drills.iter().map(drill::as_json).collect::<Vec<_>>(),
        "rotation": status.rotation.as_ref().map(|rotation| json!({
            "since": output::rfc3339(rotation.since_ms),
            "not_trusting": rotation.not_trusting,
            "not_using": rotation.not_using,
        })),
        "level": status.level,
        "held_messages": status.held_messages,
        "held_bytes": status.held_bytes,
        "nodes": status.nodes.iter().map(|node| json!({
            "id": node.id,
            "name": node.name,
            "region": node.region,
            "role": node.role,
            "reachable": node.reachable,
            "error": (!node.error.is_empty()).then_some(&node.error),
            "last_log": node.last_log,
            "applied": node.applied,
            "lag": node.lag,
            "rtt_micros": node.rtt_micros,
            "disk_free_bytes": node.disk_free_bytes,
            "disk_total_bytes": node.disk_total_bytes,
            "bodies_missing": node.bodies_missing,
            "held": node.held,
            "disk_low": node.disk_low,
            "accepted": node.accepted,
            "delivered": node.delivered,
            "version": node.version,
            "level": node.level,
            "drained": node.drained,
            "smtp_name": node.smtp_name,
            "smtp_address": node.smtp_address,
            "cluster_address": node.cluster_address,
            "certificate_ends_at": output::rfc3339(node.certificate_ends_ms),
            "certificate_late": node.certificate_late,
            "clock_ahead_ms": node.clock_ahead_ms,
        })).collect::<Vec<_>>(),
        "domains": status.domains.iter().map(|domain| json!({
            "domain": domain.domain,
            "messages": domain.messages,
            "bytes": domain.bytes,
            "oldest_at": output::rfc3339(domain.oldest_ms),
            "lease_node": domain.lease_node,
            "lease_epoch": domain.lease_epoch,
            "last_reply": domain.last_reply,
            "next_try_at": (domain.next_try_ms != 0).then(|| output::rfc3339(domain.next_try_ms)),
        })).collect::<Vec<_>>(),
        "domains_more": status.domains_more,
        "no_room": status.no_room,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, reachable: bool) -> NodeStatus {
        NodeStatus {
            id,
            name: format!("n{id}"),
            reachable,
            ..Default::default()
        }
    }

    #[test]
    fn a_cluster_is_healthy_when_every_member_answers_and_there_is_a_quorum() {
        let good = StatusReply {
            cluster_id: "c".into(),
            quorum: true,
            leader: 2,
            nodes: vec![node(1, true), node(2, true)],
            ..Default::default()
        };
        assert!(is_healthy(&good));
        assert_eq!(leader(&good).map(|node| node.id), Some(2));
        for bad in [
            StatusReply {
                cluster_id: String::new(),
                ..good.clone()
            },
            StatusReply {
                quorum: false,
                ..good.clone()
            },
            StatusReply {
                nodes: vec![node(1, true), node(2, false)],
                ..good.clone()
            },
        ] {
            assert!(!is_healthy(&bad), "{bad:?}");
        }
    }

    #[test]
    fn one_screen_of_eighty_columns_tells_how_the_cluster_stands() {
        let node = |id: u64, region: &str, role: &str| NodeStatus {
            region: region.into(),
            role: role.into(),
            lag: id - 1,
            rtt_micros: (id - 1) * 40_500,
            held: 318,
            disk_free_bytes: 71,
            disk_total_bytes: 100,
            version: "0.1.0".into(),
            smtp_address: "192.0.2.1:25".into(),
            ..node(id, true)
        };
        let domain = |name: &str, reply: &str| DomainStatus {
            domain: name.into(),
            messages: 159,
            bytes: 20_600_000,
            oldest_ms: 1_000_000,
            lease_node: 2,
            next_try_ms: 9_042_000,
            last_reply: reply.into(),
            ..DomainStatus::default()
        };
        let status = StatusReply {
            cluster_id: "7671bdee530af5a13b365cc1c58102c9".into(),
            quorum: true,
            leader: 1,
            term: 4,
            now_ms: 9_040_000,
            nodes: vec![
                node(1, "eu", "leader"),
                node(2, "us", "voter"),
                NodeStatus {
                    reachable: false,
                    error: "no answer within 2 s".into(),
                    ..node(3, "ap", "voter")
                },
            ],
            health: "Degraded: n3 not answering. No further node may fail; add or bring back one."
                .into(),
            held_messages: 318,
            held_bytes: 41_200_000,
            placement_safe: true,
            domains: vec![
                domain("example.org", ""),
                domain(
                    "customer.example",
                    "451 4.7.1 greylisted \u{1b}[2J, come back in five minutes",
                ),
            ],
            ..StatusReply::default()
        };
        let lines = screen(&status, Part::All);
        assert_eq!(
            lines.join("\n"),
            "\
Degraded: n3 not answering. No further node may fail; add or bring back one.
Leader n1 (term 4). No node may fail.
Cluster 7671bdee530af5a13b365cc1c58102c9

NODE  REGION  ROLE    STATE        LAG    RTT  HELD  FREE  VERSION
n1    eu      leader  ready          0      -   318   71%  0.1.0
n2    us      voter   ready          1  40 ms   318   71%  0.1.0
n3    ap      voter   unreachable    -      -     -     -  -
n3: no answer within 2 s

Held: 318 messages, 41.2 MB.
DOMAIN            HELD    BYTES  OLDEST  BY  NEXT  LAST REPLY
example.org        159  20.6 MB   2h14m  n2    2s
customer.example   159  20.6 MB   2h14m  n2    2s  451 4.7.1 greylisted  [2J, c…"
        );
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS));
        let nodes = screen(&status, Part::Nodes).join("\n");
        assert!(nodes.contains("192.0.2.1:25") && !nodes.contains("Held"));
    }

    #[test]
    fn an_upgrade_under_way_is_told_with_what_it_waits_for() {
        let at = |level, levels: [u32; 2]| StatusReply {
            level,
            nodes: (1..)
                .zip(levels)
                .map(|(id, level)| NodeStatus {
                    level,
                    ..node(id, level > 0)
                })
                .collect(),
            ..Default::default()
        };
        assert_eq!(behind(&at(3, [3, 3])), None);
        assert_eq!(behind(&at(3, [3, 0])), None);
        let waits = behind(&at(2, [3, 2])).unwrap();
        assert!(waits.ends_with("not known to know it: n2"), "{waits}");
        let done = behind(&at(2, [3, 3])).unwrap();
        assert!(
            done.ends_with("holdfast cluster finalize-upgrade"),
            "{done}"
        );
    }

    #[test]
    fn a_nodes_state_is_told_in_a_word() {
        assert_eq!(state(&node(1, true)), "ready");
        assert_eq!(state(&node(1, false)), "unreachable");
        let missing = NodeStatus {
            bodies_missing: 2,
            ..node(1, true)
        };
        assert_eq!(state(&missing), "fetching 2 bodies");
        let drained = NodeStatus {
            drained: true,
            ..node(1, true)
        };
        assert_eq!(state(&drained), "drained");
        let full = NodeStatus {
            disk_low: true,
            ..node(1, true)
        };
        assert_eq!(state(&full), "disk full");
        assert_eq!(rtt(0), "-");
        assert_eq!(rtt(1_234), "1.2 ms");
        assert_eq!(rtt(81_999), "81 ms");
    }
}
