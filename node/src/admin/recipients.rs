//! The list of a domain's recipients.

use std::collections::BTreeSet;

use holdfast_ledger::{Command, RECIPIENTS_PER_COMMAND_MAX, Refusal, query};
use holdfast_mail::{Address, Domain};
use holdfast_proto::admin as wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Admin, broken, domains, refused};

/// Names sent at a time.
const PAGE: usize = 1_000;

pub(super) async fn set(
    admin: &Admin,
    request: wire::RecipientsSetRequest,
) -> Result<wire::Empty, Status> {
    let domain = domains::parse(&request.domain)?;
    let names = |list: &[String]| {
        list.iter()
            .map(|text| name(text, &domain))
            .collect::<Result<Vec<_>, _>>()
    };
    let (add, mut remove) = (names(&request.add)?, names(&request.remove)?);
    let mut clear = request.clear;
    if clear && add.len() > RECIPIENTS_PER_COMMAND_MAX {
        // Too many for one step: between two, nobody who is on both lists may be shut out.
        let view = admin.cluster()?.view();
        let new: BTreeSet<String> = add.iter().map(|name| name.to_lowercase()).collect();
        let old = query::recipients(&view, &domain, None, usize::MAX).map_err(broken)?;
        remove.extend(old.into_iter().filter(|name| !new.contains(name)));
        clear = false;
    }
    let mut pieces: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    pieces.extend(
        add.chunks(RECIPIENTS_PER_COMMAND_MAX)
            .map(|list| (list.to_vec(), vec![])),
    );
    pieces.extend(
        remove
            .chunks(RECIPIENTS_PER_COMMAND_MAX)
            .map(|list| (vec![], list.to_vec())),
    );
    if pieces.is_empty() {
        pieces.push((vec![], vec![]));
    }
    for (add, remove) in pieces {
        let domain = domain.clone();
        admin
            .propose(Command::SetRecipients {
                domain,
                add,
                remove,
                clear: std::mem::take(&mut clear),
            })
            .await?;
    }
    Ok(wire::Empty {})
}

/// A local part, an address of the domain, or `*`.
fn name(text: &str, domain: &Domain) -> Result<String, Status> {
    let wrong = || {
        Status::invalid_argument(format!(
            "{text:?} is neither a name, an address of {domain}, nor `*` for everyone"
        ))
    };
    if text == "*" {
        return Ok(text.to_owned());
    }
    let whole = if text.contains('@') {
        text.to_owned()
    } else {
        format!("{text}@{domain}")
    };
    let address = Address::parse(&whole, true).map_err(|_| wrong())?;
    if address.domain() != Some(domain) {
        return Err(wrong());
    }
    Ok(address.local().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_is_named_with_or_without_the_domain() {
        let domain = Domain::parse("a.example").unwrap();
        for (text, expected) in [("joe", "joe"), ("joe@A.example", "joe"), ("*", "*")] {
            assert_eq!(name(text, &domain).unwrap(), expected);
        }
        for text in ["joe@b.example", "", "a b", "@a.example"] {
            assert!(name(text, &domain).is_err(), "{text}");
        }
    }
}
