//! `holdfast status` and `holdfast cluster status`.

use holdfast_proto::admin::{Empty, NodeStatus, StatusReply};
use serde_json::json;

use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

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

/// Every member answers and there is a quorum.
pub(crate) fn is_healthy(status: &StatusReply) -> bool {
    !status.cluster_id.is_empty() && status.quorum && status.nodes.iter().all(|node| node.reachable)
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
    output.line(format!(
        "Cluster {}: {}",
        status.cluster_id,
        output::plain(&status.health)
    ))?;
    output.line(match leader(status) {
        Some(node) => format!(
            "Leader {} (term {}). {}",
            node.name,
            status.term,
            may_fail(status)
        ),
        None => format!("No leader is known (term {}).", status.term),
    })?;
    if !status.placement_safe && status.nodes.len() > 1 {
        output.line("One region holds a majority of the nodes: losing it stops the cluster.")?;
    }
    output.line("")?;
    let mut nodes = output::table(
        &[
            "NODE",
            "ID",
            "REGION",
            "ROLE",
            "STATE",
            "LAG",
            "RTT",
            "DISK FREE",
            "VERSION",
            "SMTP",
        ],
        &["ID", "LAG", "RTT", "DISK FREE"],
    );
    for node in &status.nodes {
        nodes.add_row(vec![
            node.name.clone(),
            node.id.to_string(),
            node.region.clone(),
            node.role.clone(),
            state(node),
            node.lag.to_string(),
            rtt(node.rtt_micros),
            disk(node),
            node.version.clone(),
            node.smtp_address.clone(),
        ]);
    }
    output.table(&nodes)?;
    if part == Part::Nodes {
        return Ok(());
    }
    output.line("")?;
    if status.held_messages == 0 {
        output.line("Nothing is held.")?;
        return Ok(());
    }
    output.line(format!(
        "Held: {}, {}.",
        output::count(status.held_messages, "message"),
        output::bytes(status.held_bytes)
    ))?;
    let mut domains = output::table(
        &[
            "DOMAIN",
            "MESSAGES",
            "BYTES",
            "OLDEST",
            "DELIVERED BY",
            "LAST REPLY",
        ],
        &["MESSAGES", "BYTES", "OLDEST"],
    );
    for domain in &status.domains {
        let by = status
            .nodes
            .iter()
            .find(|node| node.id == domain.lease_node);
        domains.add_row(vec![
            domain.domain.clone(),
            domain.messages.to_string(),
            output::bytes(domain.bytes),
            output::age(domain.oldest_ms),
            by.map_or_else(|| "-".to_owned(), |node| node.name.clone()),
            output::plain(&domain.last_reply),
        ]);
    }
    output.table(&domains)?;
    Ok(())
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

fn state(node: &NodeStatus) -> String {
    if !node.reachable {
        return match output::plain(&node.error) {
            error if error.is_empty() => "unreachable".to_owned(),
            error => format!("unreachable: {error}"),
        };
    }
    match node.bodies_missing {
        0 => "ready".to_owned(),
        missing => format!(
            "fetching {}",
            output::count(missing, "body").replace("bodys", "bodies")
        ),
    }
}

fn rtt(micros: u64) -> String {
    match micros {
        0 => "-".to_owned(),
        1..10_000 => format!("{:.1} ms", micros as f64 / 1000.0),
        _ => format!("{} ms", micros / 1000),
    }
}

fn disk(node: &NodeStatus) -> String {
    match node.disk_total_bytes {
        0 => "-".to_owned(),
        total => format!("{}%", node.disk_free_bytes.saturating_mul(100) / total),
    }
}

fn as_json(status: &StatusReply) -> serde_json::Value {
    json!({
        "cluster_id": (!status.cluster_id.is_empty()).then_some(&status.cluster_id),
        "node_id": status.node_id,
        "health": status.health,
        "healthy": is_healthy(status),
        "quorum": status.quorum,
        "leader": leader(status).map(|node| &node.name),
        "leader_id": status.leader,
        "term": status.term,
        "nodes_may_fail": status.nodes_may_fail,
        "regions_may_fail": status.regions_may_fail,
        "placement_safe": status.placement_safe,
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
            "version": node.version,
            "smtp_name": node.smtp_name,
            "smtp_address": node.smtp_address,
            "cluster_address": node.cluster_address,
        })).collect::<Vec<_>>(),
        "domains": status.domains.iter().map(|domain| json!({
            "domain": domain.domain,
            "messages": domain.messages,
            "bytes": domain.bytes,
            "oldest_at": output::rfc3339(domain.oldest_ms),
            "lease_node": domain.lease_node,
            "lease_epoch": domain.lease_epoch,
            "last_reply": domain.last_reply,
        })).collect::<Vec<_>>(),
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
    fn a_nodes_state_is_told_in_a_word() {
        assert_eq!(state(&node(1, true)), "ready");
        assert_eq!(state(&node(1, false)), "unreachable");
        let missing = NodeStatus {
            bodies_missing: 2,
            ..node(1, true)
        };
        assert_eq!(state(&missing), "fetching 2 bodies");
        assert_eq!(rtt(0), "-");
        assert_eq!(rtt(1_234), "1.2 ms");
        assert_eq!(rtt(81_999), "81 ms");
    }
}
