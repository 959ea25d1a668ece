//! `holdfast mail trace`: the story of messages.

use holdfast_proto::admin::{MailTraceReply, MailTraceRequest, Traced};
use serde_json::{Value, json};

use crate::cli::TraceMail;
use crate::client::{self, Client};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

/// How far back a story goes that is asked for by an address.
const SINCE_DEFAULT_MS: u64 = 24 * 3600 * 1000;

pub(super) async fn run(
    client: &mut Client,
    asked: TraceMail,
    output: Output,
) -> Result<(), Failure> {
    let since_ms = match asked.since_ms {
        Some(since) => since,
        None if asked.ids.is_empty() => SINCE_DEFAULT_MS,
        None => 0,
    };
    let request = MailTraceRequest {
        ids: asked.ids,
        from: asked.whose.from.unwrap_or_default(),
        to: asked.whose.to.unwrap_or_default(),
        client: asked
            .whose
            .client
            .map_or_else(String::new, |ip| ip.to_string()),
        header_id: asked.whose.message_id.unwrap_or_default(),
        since_ms,
        until_ms: asked.until_ms.unwrap_or_default(),
    };
    let failed = "the story cannot be told";
    let told = client::answer(failed, client.mail_trace(client::request(request))).await?;
    if output.is_json() {
        for one in &told.story {
            output.json("trace/v1", &as_json(one))?;
        }
        output.json("trace-end/v1", &end_as_json(&told))?;
    } else {
        for one in &told.story {
            output.line(line(one))?;
        }
        for note in notes(&told) {
            eprintln!("{note}");
        }
    }
    if told.story.is_empty() {
        return Err(
            Failure::new(failed, "no node that answered saw anything of it")
                .exit(Exit::NotFound)
                .fix("look further back with --since; a history goes back 30 days at most"),
        );
    }
    Ok(())
}

/// What a reader must know to trust the story.
fn notes(told: &MailTraceReply) -> Vec<String> {
    let mut notes = Vec::new();
    for silent in &told.silent {
        notes.push(format!(
            "{} did not answer, its part of the story is missing: {}",
            silent.node,
            output::plain(&silent.why)
        ));
    }
    if !told.cut.is_empty() {
        notes.push(format!(
            "{} saw more than can be told at once; narrow it down with --since and --until",
            told.cut.join(", ")
        ));
    }
    if told.lost > 0 {
        notes.push(format!(
            "{} could not be written down since the nodes started; the story may have gaps",
            output::count(told.lost, "happening")
        ));
    }
    notes
}

fn line(told: &Traced) -> String {
    let at = output::rfc3339(told.at_ms).unwrap_or_default();
    let node = match told.node.as_str() {
        "" => "-",
        node => node,
    };
    let id = match told.id.as_str() {
        "" => "-",
        id => id,
    };
    output::plain(&format!("{at:<24}  {node:<8}  {id:<26}  {}", words(told)))
}

/// What happened, in words.
fn words(told: &Traced) -> String {
    let from = match told.from.as_deref() {
        None => String::new(),
        Some("") => " from <>".to_owned(),
        Some(path) => format!(" from {path}"),
    };
    let to = match told.to.as_slice() {
        [] => String::new(),
        [only] => format!(" to {only}"),
        [first, rest @ ..] => format!(" to {first} and {} more", rest.len()),
    };
    let client = match told.client.as_str() {
        "" => String::new(),
        client => format!(", client {client}"),
    };
    let server = match (told.primary.as_str(), told.domain.as_str()) {
        ("", "") => String::new(),
        ("", domain) => format!(" for {domain}"),
        (primary, _) => format!(" by {primary}"),
    };
    let text = match told.text.as_str() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    match told.kind.as_str() {
        "connected" => format!("connected: {}", told.client),
        "turned_away" => format!("turned away: {}{text}", told.client),
        "broken_off" => format!("broken off before its end{from}{to}{client}{text}"),
        "refused" => format!("refused{from}{to}{client}{text}"),
        "accepted" => format!(
            "accepted{from}{to}{client}, {}{text}",
            output::bytes(told.bytes)
        ),
        "cancelled" => "cancelled: its sender was told to try again, it is never delivered".into(),
        "unanswered" => format!(
            "left without an answer{from}{to}{client}: its sender tries again, it may come twice"
        ),
        "away" => format!("the primary of {} is away{text}", told.domain),
        "back" => format!("the primary of {} is back at {}", told.domain, told.primary),
        "delivered" => format!("delivered{to}{server}{text}"),
        "deferred" => format!("put off{to}{server}{text}"),
        "in_doubt" => format!("in doubt{to}{server}, it may have been taken{text}"),
        "rejected" => format!("refused{to}{server}{text}"),
        "kept" => format!("on probation{to}{text}"),
        "given_up" => format!("given up{to}{text}"),
        "requeued" => format!("in the queue again{to}{text}"),
        "expired" => format!("expired{to}{text}"),
        "delayed" => format!("late{to}{text}"),
        "notified" => format!("a notification about {}{to}{text}", told.other),
        "dropped" => format!("dropped{to}{text}"),
        "completed" => "completed: nothing of it is left to do".into(),
        // Done by hand, or told by a later version.
        what if !told.by.is_empty() => format!("{what} by hand{server}, by {}", told.by),
        what => format!("{what}{from}{to}{client}{server}{text}"),
    }
}

fn as_json(told: &Traced) -> Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "at": output::rfc3339(told.at_ms),
        "node": some(&told.node),
        "kind": told.kind,
        "id": some(&told.id),
        "from": told.from,
        "to": told.to,
        "client": some(&told.client),
        "text": some(&told.text),
        "bytes": (told.bytes > 0).then_some(told.bytes),
        "domain": some(&told.domain),
        "primary": some(&told.primary),
        "other": some(&told.other),
        "by": some(&told.by),
        "message_id": some(&told.header_id),
    })
}

fn end_as_json(told: &MailTraceReply) -> Value {
    json!({
        "now": output::rfc3339(told.now_ms),
        "silent": told.silent.iter().map(|silent| json!({
            "node": silent.node,
            "why": silent.why,
        })).collect::<Vec<_>>(),
        "cut": told.cut,
        "lost": told.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_happening_is_a_line_in_words_that_cannot_steer_the_terminal() {
        let told = |kind: &str| Traced {
            at_ms: 1_709_210_096_789,
            node: "n1".to_owned(),
            kind: kind.to_owned(),
            ..Traced::default()
        };
        let to = || vec!["b@example.org".to_owned()];
        let cases = [
            (
                Traced {
                    client: "192.0.2.1".to_owned(),
                    from: Some("a@sender.example".to_owned()),
                    to: to(),
                    text: "550 5.1.1 no\u{1b}[2J".to_owned(),
                    ..told("refused")
                },
                "2024-02-29T12:34:56.789Z  n1        -                           refused from a@sender.example to b@example.org, client 192.0.2.1: 550 5.1.1 no [2J",
            ),
            (
                Traced {
                    id: "01ABC".to_owned(),
                    from: Some(String::new()),
                    to: vec!["b@example.org".to_owned(), "c@example.org".to_owned()],
                    bytes: 1200,
                    ..told("accepted")
                },
                "2024-02-29T12:34:56.789Z  n1        01ABC                       accepted from <> to b@example.org and 1 more, 1.2 kB",
            ),
            (
                Traced {
                    to: to(),
                    primary: "192.0.2.7:25".to_owned(),
                    domain: "example.org".to_owned(),
                    text: "250 ok".to_owned(),
                    ..told("delivered")
                },
                "2024-02-29T12:34:56.789Z  n1        -                           delivered to b@example.org by 192.0.2.7:25: 250 ok",
            ),
            (
                Traced {
                    domain: "example.org".to_owned(),
                    primary: "192.0.2.7:25".to_owned(),
                    ..told("back")
                },
                "2024-02-29T12:34:56.789Z  n1        -                           the primary of example.org is back at 192.0.2.7:25",
            ),
            (
                Traced {
                    node: String::new(),
                    by: "ops, at n1".to_owned(),
                    domain: "example.org".to_owned(),
                    ..told("release")
                },
                "2024-02-29T12:34:56.789Z  -         -                           release by hand for example.org, by ops, at n1",
            ),
        ];
        for (one, text) in cases {
            assert_eq!(line(&one), text);
        }
    }

    #[test]
    fn a_story_with_gaps_says_so() {
        let told = MailTraceReply {
            silent: vec![holdfast_proto::admin::Silent {
                node: "n3".to_owned(),
                why: "no answer in time".to_owned(),
            }],
            cut: vec!["n1".to_owned()],
            lost: 1,
            ..MailTraceReply::default()
        };
        assert_eq!(
            notes(&told),
            [
                "n3 did not answer, its part of the story is missing: no answer in time",
                "n1 saw more than can be told at once; narrow it down with --since and --until",
                "1 happening could not be written down since the nodes started; the story may have gaps",
            ]
        );
        assert_eq!(end_as_json(&told)["silent"][0]["node"], "n3");
    }
}
