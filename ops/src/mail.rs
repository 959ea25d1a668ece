//! `holdfast mail …`: the mail that is held.

use holdfast_proto::admin::{
    DeliverRequest, Empty, Mail as Shown, MailDisposeRequest, MailListRequest,
};
use serde_json::json;

use crate::cli::{Global, Mail, Which, WhichHeld};
use crate::client::{self, Client};
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
        Mail::Requeue(which) => dispose(&mut client, "requeue", which, false, output).await?,
        Mail::Discard(WhichHeld { which, held }) => {
            dispose(&mut client, "discard", which, held, output).await?;
        }
        Mail::Bounce(WhichHeld { which, held }) => {
            dispose(&mut client, "bounce", which, held, output).await?;
        }
        Mail::Audit => audit(&mut client, output).await?,
    }
    Ok(Exit::Done)
}

async fn dispose(
    client: &mut Client,
    how: &str,
    which: Which,
    held: bool,
    output: Output,
) -> Result<(), Failure> {
    let named = which.ids.len();
    let asked = MailDisposeRequest {
        how: how.to_owned(),
        ids: which.ids,
        domain: which.domain.unwrap_or_default(),
        held,
        dry_run: which.dry_run,
        by: std::env::var("SUDO_USER")
            .or_else(|_| std::env::var("USER"))
            .unwrap_or_default(),
    };
    let failed = format!(
        "the mail could not be {how}ed",
        how = how.trim_end_matches('e')
    );
    let reply = client::answer(&failed, client.mail_dispose(client::request(asked))).await?;
    if output.is_json() {
        let value = json!({"how": how, "messages": reply.messages, "dry_run": which.dry_run});
        output.json("mail-dispose/v1", &value)?;
        return Ok(());
    }
    let count = output::count(reply.messages, "message");
    if reply.messages == 0 && named > 0 {
        return Err(Failure::new(failed, "nothing of it is kept as refused")
            .exit(Exit::NotFound)
            .fix("see `holdfast mail list --domain D --refused`; --held means what waits too"));
    }
    if which.dry_run {
        output.line(format!("It would be {count}. Nothing was changed."))?;
    } else {
        output.line(match how {
            "requeue" => format!("{count} will be tried again now."),
            "discard" => format!("{count} discarded; nobody is told."),
            _ => format!("{count} will be given back to the sender."),
        })?;
    }
    Ok(())
}

async fn audit(client: &mut Client, output: Output) -> Result<(), Failure> {
    let list = client::answer(
        "the decisions could not be listed",
        client.audit(client::request(Empty {})),
    )
    .await?;
    let mut table = output::table(&["WHEN", "WHAT", "DOMAIN", "MESSAGES", "BY"], &["MESSAGES"]);
    for entry in &list.entries {
        if output.is_json() {
            output.json(
                "audit/v1",
                &json!({
                    "at": output::rfc3339(entry.at_ms),
                    "by": entry.by,
                    "what": entry.what,
                    "domain": entry.domain,
                    "messages": entry.ids,
                }),
            )?;
        } else {
            table.add_row(vec![
                output::rfc3339(entry.at_ms).unwrap_or_default(),
                entry.what.clone(),
                entry.domain.clone(),
                entry.ids.len().to_string(),
                output::plain(&entry.by),
            ]);
        }
    }
    if !output.is_json() {
        if table.is_empty() {
            eprintln!("Nothing was decided by hand yet.");
        } else {
            output.table(&table)?;
        }
    }
    Ok(())
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
        match mail.retry_at_ms {
            0 => mail.state.clone(),
            at => format!("{}, again in {}", mail.state, output::until(at)),
        },
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
        "retry_at": (mail.retry_at_ms != 0).then(|| output::rfc3339(mail.retry_at_ms)),
    })
}
