//! `holdfast mail …`: the mail that is held.

use holdfast_proto::admin::{DeliverRequest, Mail as Shown, MailDisposeRequest, MailListRequest};
use serde_json::json;

use crate::cli::{Global, ListMail, Mail, Which, WhichHeld};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) async fn run(global: &Global, command: Mail, output: Output) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Mail::List(which) => {
            let failed = "the mail could not be listed";
            let (domain, limit) = (which.domain.clone(), which.limit);
            let asked = MailListRequest::from(which);
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
                eprintln!("There is no such mail for {domain}.");
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
        Mail::Hold(which) => dispose(&mut client, "hold", which, false, output).await?,
        Mail::Release(which) => dispose(&mut client, "release", which, false, output).await?,
        Mail::Delete(which) => dispose(&mut client, "delete", which, false, output).await?,
        Mail::Undelete(which) => dispose(&mut client, "undelete", which, false, output).await?,
        Mail::Requeue(which) => dispose(&mut client, "requeue", which, false, output).await?,
        Mail::Discard(WhichHeld { which, held }) => {
            dispose(&mut client, "discard", which, held, output).await?;
        }
        Mail::Bounce(WhichHeld { which, held }) => {
            dispose(&mut client, "bounce", which, held, output).await?;
        }
    }
    Ok(Exit::Done)
}

impl From<ListMail> for MailListRequest {
    fn from(which: ListMail) -> Self {
        let states = [
            (which.held, "held"),
            (which.refused, "refused"),
            (which.aside, "aside"),
            (which.deleted, "deleted"),
        ];
        let states = states.into_iter().filter(|(wanted, _)| *wanted);
        Self {
            domain: which.domain,
            limit: which.limit,
            states: states.map(|(_, name)| name.to_owned()).collect(),
            from: which.from.unwrap_or_default(),
            to: which.to.unwrap_or_default(),
            older_than_ms: which.older_ms.unwrap_or_default(),
            larger_than: which.larger.unwrap_or_default(),
        }
    }
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
    let done = match how {
        "hold" => "kept back".to_owned(),
        how => format!("{}ed", how.trim_end_matches('e')),
    };
    let failed = format!("the mail could not be {done}");
    let reply = client::answer(&failed, client.mail_dispose(client::request(asked))).await?;
    if output.is_json() {
        let value = json!({"how": how, "messages": reply.messages, "dry_run": which.dry_run});
        output.json("mail-dispose/v1", &value)?;
        return Ok(());
    }
    let count = output::count(reply.messages, "message");
    if reply.messages == 0 && named > 0 {
        return Err(Failure::new(failed, "nothing of it is in a state for that")
            .exit(Exit::NotFound)
            .fix("see STATE in `holdfast mail list --domain D`; discard and bounce take what waits only with --held"));
    }
    if which.dry_run {
        output.line(format!("It would be {count}. Nothing was changed."))?;
    } else {
        output.line(match how {
            "hold" => format!("{count} kept back until released; never given back by itself."),
            "release" => format!("{count} will be delivered."),
            "delete" => format!("{count} deleted; `mail undelete` has it back for 24 h."),
            "undelete" => format!("{count} had back."),
            "requeue" => format!("{count} will be tried again now."),
            "discard" => format!("{count} discarded; nobody is told."),
            _ => format!("{count} will be given back to the sender."),
        })?;
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
        match (mail.retry_at_ms, mail.discard_at_ms) {
            (0, 0) => mail.state.clone(),
            (0, at) => format!("{}, gone in {}", mail.state, output::until(at)),
            (at, _) => format!("{}, again in {}", mail.state, output::until(at)),
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
        "discard_at": (mail.discard_at_ms != 0).then(|| output::rfc3339(mail.discard_at_ms)),
        "retry_at": (mail.retry_at_ms != 0).then(|| output::rfc3339(mail.retry_at_ms)),
    })
}
