//! The list of a domain's recipients.

use holdfast_ledger::{Refusal, query};
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, domains, refused};
use crate::recipients;

/// Names sent at a time.
const PAGE: usize = 1_000;

pub(super) async fn set(
    admin: &Admin,
    request: wire::RecipientsSetRequest,
) -> Result<wire::Empty, Status> {
    let domain = domains::parse(&request.domain)?;
    let names = |list: &[String]| {
        let parse = |text: &String| recipients::parse(text, &domain);
        let parsed = list.iter().map(parse).collect::<Result<Vec<_>, _>>();
        parsed.map_err(|why| Status::invalid_argument(why.to_string()))
    };
    let (add, remove) = (names(&request.add)?, names(&request.remove)?);
    let view = admin.cluster()?.view();
    let commands =
        recipients::commands(&view, &domain, add, remove, request.clear).map_err(broken)?;
    for command in commands {
        admin.propose(command).await?;
    }
    Ok(wire::Empty {})
}

pub(super) fn list(
    admin: &Admin,
    name: &str,
) -> Result<mpsc::Receiver<Result<wire::Recipients, Status>>, Status> {
    let view = admin.cluster()?.view();
    let domain = domains::parse(name)?;
    if query::domain(&view, &domain).map_err(broken)?.is_none() {
        return Err(refused(&Refusal::UnknownDomain));
    }
    let (out, pages) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut after: Option<String> = None;
        loop {
            let page = query::recipients(&view, &domain, after.as_deref(), PAGE).map_err(broken);
            let names = match page {
                Ok(names) => names,
                Err(status) => {
                    let _gone = out.send(Err(status)).await;
                    return;
                }
            };
            let full = names.len() == PAGE;
            after = names.last().cloned();
            if out.send(Ok(wire::Recipients { names })).await.is_err() || !full {
                return;
            }
        }
    });
    Ok(pages)
}
