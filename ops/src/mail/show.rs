//! `holdfast mail show`: everything about one message.

use holdfast_proto::admin::{MailBody, MailName, MailRecipient, MailShown};
use serde_json::{Value, json};

use crate::client::{self, Client};
use crate::failure::Failure;
use crate::output::{self, Now, Output};

pub(super) async fn run(client: &mut Client, id: String, output: Output) -> Result<(), Failure> {
    let failed = "the message cannot be shown";
    let asked = client.mail_show(client::request(MailName { id }));
    let mail = client::answer(failed, asked).await?;
    if output.is_json() {
        output.json("message/v1", &as_json(&mail))?;
    } else {
        for line in as_lines(&mail) {
            output.line(line)?;
        }
    }
    Ok(())
}

fn as_lines(mail: &MailShown) -> Vec<String> {
    let now = Now(mail.now_ms);
    let mut lines = vec![format!("Message {}", mail.id)];
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {name:<10} {}", output::plain(&value)));
        }
    };
    say("received", received(mail, now));
    say("size", output::bytes(mail.bytes));
    say(
        "from",
        match mail.reverse_path.as_str() {
            "" => "<> (a notification)".to_owned(),
            path => path.to_owned(),
        },
    );
    for header in &mail.headers {
        say(&format!("{}:", header.name), header.value.clone());
    }
    if !mail.unread.is_empty() {
        say("header", format!("cannot be read now: {}", mail.unread));
    }
    say("options", options(mail));
    say("body on", bodies(&mail.bodies));
    for owed in &mail.owed {
        say(
            "owed",
            format!(
                "its sender will be told: {} {}",
                owed.kind,
                owed.recipients.join(", ")
            ),
        );
    }
    for to in &mail.recipients {
        lines.push(String::new());
        lines.push(format!("To {}", output::plain(&to.address)));
        for line in recipient(to, now) {
            lines.push(format!("  {}", output::plain(&line)));
        }
    }
    lines
}

fn received(mail: &MailShown, now: Now) -> String {
    let at = output::rfc3339(mail.received_at_ms).unwrap_or_default();
    let age = now.age(mail.received_at_ms);
    let mut text = format!("{at} ({age} ago)");
    if !mail.client.is_empty() {
        text.push_str(&format!(" from {}", mail.client));
    }
    if !mail.helo.is_empty() {
        text.push_str(&format!(", which calls itself {}", mail.helo));
    }
    text
}

fn options(mail: &MailShown) -> String {
    let mut said = vec![mail.body_type.clone()];
    if mail.smtputf8 {
        said.push("SMTPUTF8".to_owned());
    }
    for (name, value) in [("RET", &mail.ret), ("ENVID", &mail.envid)] {
        if !value.is_empty() {
            said.push(format!("{name}={value}"));
        }
    }
    said.join(" ")
}

fn bodies(bodies: &[MailBody]) -> String {
    let names = |which: &dyn Fn(&MailBody) -> bool| {
        let names = bodies.iter().filter(|body| which(body));
        names
            .map(|body| body.node.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let has = names(&|body| body.has);
    let lacks = names(&|body| !body.has && body.error.is_empty());
    let silent = names(&|body| !body.error.is_empty());
    let mut text = if has.is_empty() {
        "no node that answers".to_owned()
    } else {
        has
    };
    if !lacks.is_empty() {
        text.push_str(&format!("; not on {lacks}"));
    }
    if !silent.is_empty() {
        text.push_str(&format!("; no answer from {silent}"));
    }
    text
}

/// How it stands with one recipient, and why.
fn recipient(to: &MailRecipient, now: Now) -> Vec<String> {
    let mut lines = vec![match to.state.as_str() {
        "held" => match (to.next_try_ms, to.lease_node.as_str()) {
            (0, "") => "held: waits for delivery".to_owned(),
            (0, node) => format!("held: {node} delivers"),
            (at, node) => format!("held: {node} tries again in {}", now.until(at)),
        },
        "refused" => match to.retry_at_ms {
            0 => "refused: kept until somebody decides (`mail requeue`, `bounce` or `discard`)"
                .to_owned(),
            at => format!("refused: on probation, tried again in {}", now.until(at)),
        },
        "kept back" => "kept back until somebody releases it (`mail release`)".to_owned(),
        "deleted" => format!(
            "deleted; can be had back for {} (`mail undelete`)",
            now.until(to.discard_at_ms)
        ),
        "notification" => format!(
            "a notification on its way; tried again in {}",
            now.until(to.next_try_ms)
        ),
        _ => "done: delivered, given back or discarded (`mail trace` tells which)".to_owned(),
    }];
    if to.expires_at_ms != 0 {
        lines.push(format!("given up in {}", now.until(to.expires_at_ms)));
    }
    if !to.primary_down.is_empty() {
        lines.push(format!(
            "its primary cannot be reached: {}",
            to.primary_down
        ));
    }
    match (to.attempts, to.last_reply.as_str()) {
        (0, _) if to.state == "done" => {}
        (0, _) => lines.push("never tried".to_owned()),
        (tries, reply) => lines.push(format!(
            "tried {}; last reply: {reply}",
            match tries {
                1 => "once".to_owned(),
                tries => format!("{tries} times"),
            }
        )),
    }
    for (name, value) in [("NOTIFY", &to.notify), ("ORCPT", &to.orcpt)] {
        if !value.is_empty() {
            lines.push(format!("{name}={value}"));
        }
    }
    lines
}

fn as_json(mail: &MailShown) -> Value {
    let time = |ms: u64| (ms != 0).then(|| output::rfc3339(ms));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": mail.id,
        "now": output::rfc3339(mail.now_ms),
        "from": mail.reverse_path,
        "received_at": output::rfc3339(mail.received_at_ms),
        "client": text(&mail.client),
        "helo": text(&mail.helo),
        "bytes": mail.bytes,
        "body_digest": mail.body_digest,
        "body_type": mail.body_type,
        "smtputf8": mail.smtputf8,
        "ret": text(&mail.ret),
        "envid": text(&mail.envid),
        "headers": mail.headers.iter().map(|header| json!({
            "name": header.name,
            "value": header.value,
        })).collect::<Vec<_>>(),
        "headers_unread": text(&mail.unread),
        "bodies": mail.bodies.iter().map(|body| json!({
            "node": body.node,
            "has": body.error.is_empty().then_some(body.has),
            "error": text(&body.error),
        })).collect::<Vec<_>>(),
        "owed": mail.owed.iter().map(|owed| json!({
            "kind": owed.kind,
            "recipients": owed.recipients,
        })).collect::<Vec<_>>(),
        "recipients": mail.recipients.iter().map(|to| json!({
            "address": to.address,
            "state": to.state,
            "attempts": to.attempts,
            "last_reply": text(&to.last_reply),
            "next_try_at": time(to.next_try_ms),
            "retry_at": time(to.retry_at_ms),
            "discard_at": time(to.discard_at_ms),
            "expires_at": time(to.expires_at_ms),
            "lease_node": text(&to.lease_node),
            "primary_down": text(&to.primary_down),
            "notify": text(&to.notify),
            "orcpt": text(&to.orcpt),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use holdfast_proto::admin::MailHeader;

    use super::*;

    #[test]
    fn a_message_is_told_in_words_and_its_text_cannot_steer_the_terminal() {
        let to = |address: &str, state: &str| MailRecipient {
            address: address.to_owned(),
            state: state.to_owned(),
            ..MailRecipient::default()
        };
        let mail = MailShown {
            id: "01ABC".to_owned(),
            now_ms: 10_000_000,
            reverse_path: "a@sender.example".to_owned(),
            received_at_ms: 2_800_000,
            client: "192.0.2.1".to_owned(),
            helo: "x\u{1b}[2J".to_owned(),
            bytes: 41_200,
            body_type: "7BIT".to_owned(),
            ret: "HDRS".to_owned(),
            headers: vec![MailHeader {
                name: "Subject".to_owned(),
                value: "Invoice\u{9b}2J 7".to_owned(),
            }],
            bodies: vec![
                MailBody {
                    node: "n1".to_owned(),
                    has: true,
                    ..MailBody::default()
                },
                MailBody {
                    node: "n2".to_owned(),
                    ..MailBody::default()
                },
                MailBody {
                    node: "n3".to_owned(),
                    error: "no answer within 2 s".to_owned(),
                    ..MailBody::default()
                },
            ],
            recipients: vec![
                MailRecipient {
                    lease_node: "n2".to_owned(),
                    next_try_ms: 10_002_000,
                    expires_at_ms: 100_000_000,
                    primary_down: "connection refused".to_owned(),
                    attempts: 2,
                    last_reply: "451 later".to_owned(),
                    notify: "NEVER".to_owned(),
                    ..to("b@example.org", "held")
                },
                to("c@example.org", "done"),
            ],
            ..MailShown::default()
        };
        assert_eq!(
            as_lines(&mail).join("\n"),
            "\
Message 01ABC
  received   1970-01-01T00:46:40Z (2h00m ago) from 192.0.2.1, which calls itself x [2J
  size       41.2 kB
  from       a@sender.example
  Subject:   Invoice 2J 7
  options    7BIT RET=HDRS
  body on    n1; not on n2; no answer from n3

To b@example.org
  held: n2 tries again in 2s
  given up in 1d01h
  its primary cannot be reached: connection refused
  tried 2 times; last reply: 451 later
  NOTIFY=NEVER

To c@example.org
  done: delivered, given back or discarded (`mail trace` tells which)"
        );
    }
}
