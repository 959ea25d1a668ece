//! `holdfast mail …`: the mail that is held.

use holdfast_proto::admin::{DeliverRequest, Mail as Shown, MailListRequest};
use serde_json::json;

use crate::cli::{Global, Mail};
use crate::client;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(global: &Global, command: Mail, output: Output) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Mail::List {
            domain,
            refused,
            limit,
        } => {
            let failed = "the mail could not be listed";
            let asked = MailListRequest {
                domain: domain.clone(),
                limit,
                refused,
            };
            let mut list = client
                .mail_list(client::request(asked))
                .await
                .map_err(|status| Failure::from_status(failed, &status))?
                .into_inner();
            let mut table = output::table(
                &[
                    "ID",
                    "AGE",
                    "BYTES",
                    "FROM",
                    "TO",
                    "TRIES",
                    "STATE",
                    "LAST REPLY",
                ],
                &["AGE", "BYTES", "TRIES"],
            );
            while let Some(mail) = list
                .message()
                .await
                .map_err(|status| Failure::from_status(failed, &status))?
            {
                if output.is_json() {
                    // Line by line, as they come: a queue may be longer than memory.
                    output.json("mail/v1", &as_json(&mail))?;
                } else {
                    table.add_row(as_row(&mail));
                }
            }
            if output.is_json() {
                return Ok(Exit::Done);
            }
            if table.is_empty() {
                eprintln!(
                    "Nothing is {} for {domain}.",
                    if refused { "kept as refused" } else { "held" }
                );
            } else {
                output.table(&table)?;
            }
            if u64::try_from(table.row_count()).is_ok_and(|rows| rows == limit) {
                eprintln!("There may be more: --limit N");
            }
        }
        Mail::Deliver { domain } => {
            let asked = DeliverRequest {
                domain: domain.clone(),
            };
            let reply = client::answer(
                "delivery was not started",
                client.deliver(client::request(asked)),
            )
            .await?;
            if output.is_json() {
                output.json(
                    "mail-deliver/v1",
                    &json!({"domain": domain, "messages": reply.messages}),
                )?;
            } else {
                output.line(format!(
                    "Delivery of {} for {domain} begins now.",
                    output::count(reply.messages, "message")
                ))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn as_row(mail: &Shown) -> Vec<String> {
    let to = match mail.recipients.as_slice() {
        [] => String::new(),
        [only] => output::plain(only),
        [first, rest @ ..] => format!("{} and {} more", output::plain(first), rest.len()),
    };
    vec![
        mail.id.clone(),
        output::age(mail.received_at_ms),
        output::bytes(mail.bytes),
        if mail.reverse_path.is_empty() {
            "<>".to_owned()
        } else {
            output::plain(&mail.reverse_path)
        },
        to,
        mail.attempts.to_string(),
        mail.state.clone(),
        output::plain(&mail.last_reply),
    ]
}

fn as_json(mail: &Shown) -> serde_json::Value {
    json!({
        "id": mail.id,
        "domain": mail.domain,
        "from": mail.reverse_path,
        "to": mail.recipients,
        "bytes": mail.bytes,
        "received_at": output::rfc3339(mail.received_at_ms),
        "attempts": mail.attempts,
        "last_reply": mail.last_reply,
        "state": mail.state,
    })
}
