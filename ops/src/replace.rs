//! `holdfast node replace`: a dead node's place goes to another.

use holdfast_proto::admin::NodeReplaceRequest;
use serde_json::json;

use crate::cli::{Global, Replace};
use crate::client;
use crate::cluster::{follow, on_stderr};
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(crate) async fn run(global: &Global, asked: Replace, output: Output) -> Result<Exit, Failure> {
    let Replace {
        dead,
        with,
        dry_run,
    } = asked;
    let mut client = client::connect(global).await?;
    let failed = format!("{dead} was not replaced");
    let request = NodeReplaceRequest {
        dead: dead.clone(),
        with: with.clone(),
        dry_run,
    };
    let begun = client.node_replace(client::request(request)).await;
    let mut has_begun = dry_run;
    let show = |line: &str| {
        if !has_begun {
            on_stderr(
                "interrupting this command stops nothing; type it again to see how far it is",
            );
            has_begun = true;
        }
        on_stderr(line);
    };
    follow(&failed, begun, show).await?;
    if output.is_json() {
        output.json(
            "node-replace/v1",
            &json!({"dead": dead, "with": with, "dry_run": dry_run}),
        )?;
    } else if dry_run {
        output.line(format!("{with} could replace {dead}. Nothing was changed."))?;
    } else {
        output.line(format!("{with} has replaced {dead}."))?;
    }
    Ok(Exit::Done)
}
