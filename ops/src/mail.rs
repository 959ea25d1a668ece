//! `holdfast mail …`: the mail that is held.

mod show;
mod trace;

use std::io::{IsTerminal, Write};

use holdfast_proto::admin::{DeliverRequest, Mail as Shown, MailDisposeRequest, MailListRequest};
use serde_json::json;

use crate::cli::{Filter, Global, ListMail, Mail, Which, WhichDomains, WhichHeld};
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Now, Output};

/// Rows of a table, where nobody says otherwise.
const ROWS_DEFAULT: u64 = 100;

pub(crate) async fn run(global: &Global, command: Mail, output: Output) -> Result<Exit, Failure> {
    let mut client = client::connect(global).await?;
    match command {
        Mail::List(which) => list(&mut client, which, output).await?,
        Mail::Show { id } => show::run(&mut client, id, output).await?,
        Mail::Trace(asked) => trace::run(&mut client, asked, output).await?,
        Mail::Deliver(which) => deliver(&mut client, which, output).await?,
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

async fn list(client: &mut Client, which: ListMail, output: Output) -> Result<(), Failure> {
    let failed = "the mail could not be listed";
    let limit = match which.limit {
        Some(limit) => limit,
        None if output.is_json() => 0,
        None => ROWS_DEFAULT,
    };
    let asked = MailListRequest {
        limit,
        ..MailListRequest::from(which)
    };
    let mut list = client
        .mail_list(client::request(asked))
        .await
        .map_err(|status| Failure::from_status(failed, &status))?
        .into_inner();
    let columns = [
        "ID",
        "AGE",
        "BYTES",
        "FROM",
        "TO",
        "TRIES",
        "STATE",
        "LAST REPLY",
    ];
    let mut table = output::table(&columns, &["AGE", "BYTES", "TRIES"]);
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
        return Ok(());
    }
    if table.is_empty() {
        eprintln!("There is no such mail.");
    } else {
        output.table(&table)?;
    }
    if u64::try_from(table.row_count()).is_ok_and(|rows| rows == limit) {
        eprintln!("There may be more: --limit N, or --json for all");
    }
    Ok(())
}

async fn deliver(client: &mut Client, which: WhichDomains, output: Output) -> Result<(), Failure> {
    let asked = DeliverRequest {
        ids: which.ids,
        which: Some(MailListRequest::from(&which.filter)),
        dry_run: which.dry_run,
        domain: String::new(),
    };
    let failed = "delivery was not started";
    let reply = client::answer(failed, client.deliver(client::request(asked))).await?;
    if output.is_json() {
        output.json(
            "mail-deliver/v1",
            &json!({
                "domains": reply.domains,
                "messages": reply.messages,
                "dry_run": which.dry_run,
            }),
        )?;
        return Ok(());
    }
    let domains = match reply.domains.as_slice() {
        [] => {
            output.line("No such mail waits for delivery.")?;
            return Ok(());
        }
        [only] => only.clone(),
        more => output::count(more.len() as u64, "domain"),
    };
    let messages = output::count(reply.messages, "message");
    output.line(if which.dry_run {
        format!("It would be {messages} for {domains}. Nothing was changed.")
    } else {
        format!("Delivery of {messages} for {domains} begins now.")
    })?;
    Ok(())
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
            states: states.map(|(_, name)| name.to_owned()).collect(),
            ..Self::from(&which.filter)
        }
    }
}

impl From<&Filter> for MailListRequest {
    fn from(which: &Filter) -> Self {
        Self {
            domain: which.domain.clone().unwrap_or_default(),
            from: which.from.clone().unwrap_or_default(),
            to: which.to.clone().unwrap_or_default(),
            older_than_ms: which.older_ms.unwrap_or_default(),
            newer_than_ms: which.newer_ms.unwrap_or_default(),
            larger_than: which.larger.unwrap_or_default(),
            smaller_than: which.smaller.unwrap_or_default(),
            reply: which.reply.clone().unwrap_or_default(),
            ..Self::default()
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
    let mut asked = MailDisposeRequest {
        how: how.to_owned(),
        ids: which.ids,
        which: Some(MailListRequest::from(&which.filter)),
        held,
        dry_run: which.dry_run,
        by: std::env::var("SUDO_USER")
            .or_else(|_| std::env::var("USER"))
            .unwrap_or_default(),
        ..MailDisposeRequest::default()
    };
    let done = match how {
        "hold" => "kept back".to_owned(),
        how => format!("{}ed", how.trim_end_matches('e')),
    };
    let failed = format!("the mail could not be {done}");
    if named == 0 && !which.dry_run && !which.yes {
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Err(
                Failure::new(failed, "nobody can be asked whether it is meant")
                    .exit(Exit::Refused)
                    .fix("see with --dry-run what it would be, then say --yes"),
            );
        }
        let look = MailDisposeRequest {
            dry_run: true,
            ..asked.clone()
        };
        let reply = client::answer(&failed, client.mail_dispose(client::request(look))).await?;
        if reply.messages > 0 && !confirmed(how, reply.messages, reply.bytes)? {
            output.line("Nothing was changed.")?;
            return Ok(());
        }
        // What came in since is not what was said yes to.
        if let Some(which) = &mut asked.which {
            which.received_before_ms = reply.now_ms;
        }
    }
    let reply = client::answer(&failed, client.mail_dispose(client::request(asked))).await?;
    if output.is_json() {
        let value = json!({
            "how": how,
            "messages": reply.messages,
            "bytes": reply.bytes,
            "dry_run": which.dry_run,
        });
        output.json("mail-dispose/v1", &value)?;
        return Ok(());
    }
    let count = output::count(reply.messages, "message");
    if reply.messages == 0 && named > 0 {
        return Err(Failure::new(failed, "nothing of it is in a state for that")
            .exit(Exit::NotFound)
            .fix("see its state in `holdfast mail show ID`; discard and bounce take what waits only with --held"));
    }
    if reply.messages == 0 && !which.dry_run {
        output.line("There is no such mail in a state for that. Nothing was changed.")?;
    } else if which.dry_run {
        output.line(format!(
            "It would be {count}, {}. Nothing was changed.",
            output::bytes(reply.bytes)
        ))?;
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

/// Asks whoever sits at the terminal.
fn confirmed(how: &str, messages: u64, bytes: u64) -> Result<bool, Failure> {
    let consequence = match how {
        "delete" => "It can be had back for 24 h. ",
        "discard" => "It is gone for good, and nobody is told. ",
        "bounce" => "Its senders are told that it was not delivered. ",
        _ => "",
    };
    eprint!(
        "{}, {}: {how}? {consequence}Type yes: ",
        output::count(messages, "message"),
        output::bytes(bytes)
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

fn as_row(mail: &Shown) -> Vec<String> {
    let now = Now(mail.now_ms);
    let to = match mail.recipients.as_slice() {
        [] => String::new(),
        [only] => output::plain(only),
        [first, rest @ ..] => format!("{} and {} more", output::plain(first), rest.len()),
    };
    vec![
        mail.id.clone(),
        now.age(mail.received_at_ms),
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
            (0, at) => format!("{}, gone in {}", mail.state, now.until(at)),
            (at, _) => format!("{}, again in {}", mail.state, now.until(at)),
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
        "age_ms": mail.now_ms.saturating_sub(mail.received_at_ms),
        "attempts": mail.attempts,
        "last_reply": mail.last_reply,
        "state": mail.state,
        "discard_at": (mail.discard_at_ms != 0).then(|| output::rfc3339(mail.discard_at_ms)),
        "retry_at": (mail.retry_at_ms != 0).then(|| output::rfc3339(mail.retry_at_ms)),
    })
}
