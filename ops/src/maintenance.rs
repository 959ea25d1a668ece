//! `holdfast node drain|undrain`, `cluster transfer-leader` and `cluster finalize-upgrade`: nodes are
//! stopped, upgraded and started again, and no sender notices.

use holdfast_proto::admin::{FinalizeRequest, NodeRequest, TransferRequest};
use serde_json::json;

use crate::cli::{Global, Node};
use crate::client::{self, Client};
use crate::cluster::{follow, on_stderr};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::{replace, status};

pub(crate) async fn run(global: &Global, command: Node, output: Output) -> Result<Exit, Failure> {
    match command {
        Node::Replace(asked) => replace::run(global, asked, output).await,
        Node::Drain { node, dry_run } => {
            drain(&mut client::connect(global).await?, node, dry_run, output).await
        }
        Node::Undrain { node, dry_run } => {
            undrain(&mut client::connect(global).await?, node, dry_run, output).await
        }
    }
}

async fn drain(
    client: &mut Client,
    node: String,
    dry_run: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let failed = format!("{node} was not drained");
    let asked = client::request(NodeRequest {
        node: node.clone(),
        dry_run,
    });
    let steps = async { follow(&failed, client.node_drain(asked).await, on_stderr).await };
    tokio::select! {
        ended = steps => ended?,
        _ = tokio::signal::ctrl_c() => {
            let why = "the command was interrupted; the node goes on giving its duties away, and is not safe to stop yet";
            return Err(Failure::new(format!("{node} is not known to be free"), why).fix(format!(
                "`holdfast node drain {node}` waits again; `holdfast node undrain {node}` takes it back"
            )));
        }
    };
    if output.is_json() {
        let safe = !dry_run;
        output.json(
            "node-drain/v1",
            &json!({"node": node, "dry_run": dry_run, "safe_to_stop": safe}),
        )?;
    } else if dry_run {
        output.line(format!("{node} could be drained. Nothing was changed."))?;
    } else {
        output.line(format!(
            "{node} is safe to stop; when it is back: holdfast node undrain {node}"
        ))?;
    }
    Ok(Exit::Done)
}

async fn undrain(
    client: &mut Client,
    node: String,
    dry_run: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let failed = format!("{node} may still be drained");
    let asked = client::request(NodeRequest {
        node: node.clone(),
        dry_run,
    });
    let mut last = String::new();
    follow(&failed, client.node_undrain(asked).await, |line| {
        on_stderr(line);
        line.clone_into(&mut last);
    })
    .await?;
    if output.is_json() {
        output.json(
            "node-undrain/v1",
            &json!({"node": node, "dry_run": dry_run, "says": last}),
        )?;
    } else if dry_run {
        output.line("Nothing was changed.")?;
    } else {
        output.line(format!("{node} is not drained any more."))?;
    }
    Ok(Exit::Done)
}

pub(crate) async fn transfer(
    client: &mut Client,
    node: Option<String>,
    dry_run: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let asked = client::request(TransferRequest {
        node: node.unwrap_or_default(),
        dry_run,
    });
    let failed = "leadership was not handed over";
    follow(failed, client.transfer_leader(asked).await, on_stderr).await?;
    let status = status::ask(client).await?;
    let leader = status::leader(&status).map(|node| node.name.as_str());
    if output.is_json() {
        output.json(
            "cluster-transfer-leader/v1",
            &json!({"leader": leader, "dry_run": dry_run}),
        )?;
    } else if dry_run {
        output.line("Nothing was changed.")?;
    } else {
        output.line(format!(
            "The leader is {}.",
            leader.unwrap_or("not known yet")
        ))?;
    }
    Ok(Exit::Done)
}

pub(crate) async fn finalize(
    client: &mut Client,
    dry_run: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let asked = client::request(FinalizeRequest { dry_run });
    let failed = "the upgrade was not finalized";
    let made = client::answer(failed, client.finalize_upgrade(asked)).await?;
    let (before, level) = (made.before, made.level);
    if output.is_json() {
        output.json(
            "cluster-finalize-upgrade/v1",
            &json!({"before": before, "level": level, "dry_run": dry_run}),
        )?;
    } else if before == level {
        output.line(format!(
            "There is nothing to finalize: the cluster is at feature level {level}, the highest that its nodes know."
        ))?;
    } else if dry_run {
        output.line(format!(
            "Every node knows feature level {level}; the cluster is at {before}. Nothing was changed."
        ))?;
    } else {
        output.line(format!(
            "The cluster is at feature level {level} now. Versions that know only {before} cannot run in it any more."
        ))?;
    }
    Ok(Exit::Done)
}
