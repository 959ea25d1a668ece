//! What the primary said about its recipients when it was asked.

use holdfast_ledger::{Command, RECIPIENTS_PER_COMMAND_MAX, Refusal, Standing, query};
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, domains, refused};
use crate::recipients;
use crate::replica::now;

/// Names sent at a time.
const PAGE: usize = 500;

pub(super) fn list(
    admin: &Admin,
    domain: &str,
) -> Result<mpsc::Receiver<Result<wire::Knowns, Status>>, Status> {
    let cluster = admin.cluster()?;
    let view = cluster.view();
    let domain = domains::parse(domain)?;
    if query::domain(&view, &domain).map_err(broken)?.is_none() {
        return Err(refused(&Refusal::UnknownDomain));
    }
    let policy = query::policy(&view, &domain).map_err(broken)?;
    let members = cluster.members();
    let shown = move |(name, known): (String, holdfast_ledger::Known)| wire::Known {
        name,
        takes: known.takes,
        at_ms: known.at.0,
        node: members
            .iter()
            .find(|member| member.id == known.node)
            .map_or_else(|| known.node.to_string(), |member| member.name.clone()),
        standing: match known.standing(&policy, now()) {
            Standing::Taken => "taken",
            Standing::Refused => "refused",
            Standing::TakenUnlessRefused => "taken, to be asked again",
            Standing::Unknown => "to be asked again",
        }
        .to_owned(),
        reply: known.reply,
    };
    let anyone = query::known(&view, &domain, "").map_err(broken)?;
    let (out, pages) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut list: Vec<_> = anyone
            .map(|known| (String::new(), known))
            .into_iter()
            .collect();
        let mut after: Option<String> = None;
        loop {
            let page = match query::knowns(&view, &domain, after.as_deref(), PAGE) {
                Ok(page) => page,
                Err(error) => {
                    let _gone = out.send(Err(broken(error))).await;
                    return;
                }
            };
            let full = page.len() == PAGE;
            after = page.last().map(|(name, _)| name.clone());
            list.extend(page);
            let now_ms = now().0;
            let list = std::mem::take(&mut list).into_iter().map(&shown).collect();
            if out.send(Ok(wire::Knowns { list, now_ms })).await.is_err() || !full {
                return;
            }
        }
    });
    Ok(pages)
}

pub(super) async fn forget(
    admin: &Admin,
    request: wire::UnlearnRequest,
) -> Result<wire::Empty, Status> {
    let domain = domains::parse(&request.domain)?;
    let names = request.names.iter();
    let names = names.map(|text| recipients::parse(text, &domain));
    let names = names.collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|why| Status::invalid_argument(why.to_string()))?;
    if names.len() > RECIPIENTS_PER_COMMAND_MAX {
        return Err(Status::invalid_argument(format!(
            "more than {RECIPIENTS_PER_COMMAND_MAX} names at once; nothing was forgotten"
        )));
    }
    let what = match names.len() {
        0 => format!("{domain}: all that the primary said of recipients forgotten"),
        count => format!("{domain}: what the primary said of {count} recipients forgotten"),
    };
    let command = Command::Unlearn { domain, names };
    admin.propose_and_note(command, what).await?;
    Ok(wire::Empty {})
}
