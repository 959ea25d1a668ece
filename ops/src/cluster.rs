//! `holdfast cluster …`: who belongs to the cluster.

use std::io::Read;

use holdfast_proto::admin::{
    InitRequest, InviteRequest, JoinRequest, LeaveRequest, Progress, RotateCaRequest,
};
use serde_json::json;
use tonic::{Response, Status, Streaming};

use crate::cli::{Cluster, Global};
use crate::client;
use crate::failure::{Exit, Failure};
use crate::maintenance;
use crate::output::{self, Output};
use crate::{acme, snapshot, status};

pub(crate) async fn run(
    global: &Global,
    command: Cluster,
    output: Output,
) -> Result<Exit, Failure> {
    // Of a node that is stopped.
    if let Cluster::Recover(command) = command {
        return snapshot::recover(global, command, output).await;
    }
    let mut client = client::connect(global).await?;
    match command {
        // Done before a node was asked.
        Cluster::Recover(_) => {}
        Cluster::Status => return status::run(&mut client, output, status::Part::Nodes).await,
        Cluster::Init => {
            let made = client::answer(
                "no cluster was made",
                client.init(client::request(InitRequest {})),
            )
            .await?;
            if output.is_json() {
                output.json(
                    "cluster-init/v1",
                    &json!({"cluster_id": made.cluster_id, "node_id": made.node_id}),
                )?;
            } else {
                output.line(format!(
                    "Cluster {} made; this node is its first, with id {}.",
                    made.cluster_id, made.node_id
                ))?;
                eprintln!(
                    "No node may fail yet. Add two more, in other regions: holdfast cluster invite"
                );
            }
        }
        Cluster::Invite { ttl } => {
            let ttl_seconds = ttl.as_secs();
            let made = client::answer(
                "no invitation was made",
                client.invite(client::request(InviteRequest { ttl_seconds })),
            )
            .await?;
            let expires_at = output::rfc3339(made.expires_at_ms);
            if output.is_json() {
                output.json(
                    "cluster-invite/v1",
                    &json!({"token": made.token, "expires_at": expires_at}),
                )?;
            } else {
                output.line(&made.token)?;
                eprintln!(
                    "On the new node run: holdfast cluster join TOKEN\nThe token works once, until {}, and pins this cluster's certificate authority. Keep it secret.",
                    expires_at.unwrap_or_default()
                );
            }
        }
        Cluster::Join { token } => {
            let token = read_token(token)?;
            let failed = "this node did not join";
            let node_id = follow(
                failed,
                client.join(client::request(JoinRequest { token })).await,
                on_stderr,
            )
            .await?;
            if output.is_json() {
                output.json("cluster-join/v1", &json!({"node_id": node_id}))?;
            } else {
                output.line(format!("This node has joined with id {node_id}."))?;
            }
        }
        Cluster::Leave { node, dry_run } => {
            let failed = format!("{node} stays in the cluster");
            let asked = LeaveRequest {
                node: node.clone(),
                dry_run,
            };
            follow(
                &failed,
                client.leave(client::request(asked)).await,
                on_stderr,
            )
            .await?;
            if output.is_json() {
                output.json(
                    "cluster-leave/v1",
                    &json!({"node": node, "dry_run": dry_run}),
                )?;
            } else if dry_run {
                output.line(format!("{node} could leave. Nothing was changed."))?;
            } else {
                output.line(format!("{node} has left."))?;
            }
        }
        Cluster::RotateCa { finish, dry_run } => {
            let failed = if finish {
                "the old certificate authority stays"
            } else {
                "the certificate authority is not known to be replaced"
            };
            let asked = RotateCaRequest { dry_run, finish };
            let mut last = String::new();
            let shown = |line: &str| {
                on_stderr(line);
                last = line.to_owned();
            };
            follow(
                failed,
                client.rotate_ca(client::request(asked)).await,
                shown,
            )
            .await?;
            if output.is_json() {
                output.json(
                    "cluster-rotate-ca/v1",
                    &json!({"finished": finish && !dry_run, "dry_run": dry_run, "says": last}),
                )?;
            } else if dry_run {
                output.line("Nothing was changed.")?;
            } else if finish {
                output.line("The new certificate authority is the only one.")?;
            } else {
                output.line("Both certificate authorities are trusted.")?;
            }
        }
        Cluster::Acme(command) => return acme::run(&mut client, command, output).await,
        Cluster::TransferLeader { node, dry_run } => {
            return maintenance::transfer(&mut client, node, dry_run, output).await;
        }
        Cluster::FinalizeUpgrade { dry_run } => {
            return maintenance::finalize(&mut client, dry_run, output).await;
        }
    }
    Ok(Exit::Done)
}

pub(crate) fn on_stderr(line: &str) {
    eprintln!("  {line}");
}

/// Waits for long work, giving each new line of its progress to `show`; gives the node's id.
pub(crate) async fn follow(
    failed: &str,
    begun: Result<Response<Streaming<Progress>>, Status>,
    mut show: impl FnMut(&str),
) -> Result<u64, Failure> {
    let mut steps = begun
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let mut shown = String::new();
    loop {
        let step = steps
            .message()
            .await
            .map_err(|status| Failure::from_status(failed, &status))?;
        let Some(step) = step else {
            return Err(
                Failure::new(failed, "the node ended its report before the work was done")
                    .exit(Exit::Unreachable)
                    .fix("look at `holdfast cluster status`: the work may go on"),
            );
        };
        let line = progress_line(&step);
        if line != shown && !line.is_empty() {
            show(&line);
            shown = line;
        }
        if step.done {
            return Ok(step.node_id);
        }
    }
}

fn progress_line(step: &Progress) -> String {
    let text = output::plain(&step.step);
    match step.all_units {
        0 => text,
        all => format!("{text}: {} of {all} {}", step.done_units, step.unit),
    }
}

/// Longest token read from standard input; a real one is a few hundred bytes.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

fn read_token(argument: String) -> Result<String, Failure> {
    if argument != "-" {
        return Ok(argument);
    }
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new("the token could not be read", error))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_with_its_units() {
        let step = Progress {
            step: "copying bodies".into(),
            done_units: 3,
            all_units: 12,
            unit: "bodies".into(),
            ..Default::default()
        };
        assert_eq!(progress_line(&step), "copying bodies: 3 of 12 bodies");
        let step = Progress {
            step: "voter".into(),
            ..Default::default()
        };
        assert_eq!(progress_line(&step), "voter");
    }
}
