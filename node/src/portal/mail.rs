//! The list of a domain's mail, and what its owner may do with it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use holdfast_ledger::{Command, DISPOSE_MAX, Disposal, Reply, Seq, query};
use holdfast_mail::{MessageId, ReversePath, Timestamp};

use super::door::{Posted, SignedIn};
use super::find::{Search, find};
use super::page::{Frame, Problem, bytes, count, render, span};
use super::{Portal, overview};
use crate::listing::{Listed, State as MailState};

/// Messages on a page. The beginning of each is read for its subject.
const PAGE: usize = 25;

/// Letters of a search.
const SEARCH_OCTETS_MAX: usize = 200;

#[derive(serde::Deserialize, Default)]
pub(super) struct Asked {
    #[serde(default)]
    state: String,
    #[serde(default)]
    q: String,
    #[serde(default)]
    after: Option<u64>,
    /// What was done a moment ago, to how many, and which.
    #[serde(default)]
    done: String,
    #[serde(default)]
    n: u64,
    #[serde(default)]
    ids: String,
}

/// A message as a line shows it.
struct Line {
    id: MessageId,
    from: String,
    to: String,
    subject: String,
    size: String,
    age: String,
    /// When something happens to it by itself.
    next: String,
    note: String,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct Page {
    frame: Frame,
    tabs: Vec<Tab>,
    asked_state: String,
    asked_text: String,
    lines: Vec<Line>,
    /// What happens next by itself.
    next_title: &'static str,
    /// Where the next page begins; empty: this is the last.
    next: String,
    said: String,
    /// The verb that has back what was done.
    undo: &'static str,
    undo_ids: String,
    acts: &'static [Act],
}

struct Tab {
    state: &'static str,
    name: &'static str,
    is_open: bool,
}

/// A button below the list.
struct Act {
    verb: &'static str,
    name: &'static str,
    is_danger: bool,
}

const TABS: [(&str, &str); 4] = [
    ("held", "Waiting"),
    ("refused", "Refused"),
    ("aside", "Kept back"),
    ("deleted", "Deleted"),
];

const DELETE: Act = Act {
    verb: "delete",
    name: "Delete",
    is_danger: true,
};
const HOLD: Act = Act {
    verb: "hold",
    name: "Keep back",
    is_danger: false,
};
const RETRY: Act = Act {
    verb: "requeue",
    name: "Try again",
    is_danger: false,
};
const BOUNCE: Act = Act {
    verb: "bounce",
    name: "Give back to sender",
    is_danger: true,
};
const RELEASE: Act = Act {
    verb: "release",
    name: "Release",
    is_danger: false,
};
const UNDELETE: Act = Act {
    verb: "undelete",
    name: "Have back",
    is_danger: false,
};

fn acts(state: MailState) -> &'static [Act] {
    match state {
        MailState::Held => &[HOLD, DELETE],
        MailState::Refused => &[RETRY, HOLD, BOUNCE, DELETE],
        MailState::Aside => &[RELEASE, DELETE],
        MailState::Deleted => &[UNDELETE],
    }
}

pub(super) fn state(word: &str) -> MailState {
    match word {
        "refused" => MailState::Refused,
        "aside" => MailState::Aside,
        "deleted" => MailState::Deleted,
        _ => MailState::Held,
    }
}

pub(super) async fn list(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let state = state(&asked.state);
    let word = word(state);
    let text: String = asked.q.chars().take(SEARCH_OCTETS_MAX).collect();
    let search = Search {
        states: vec![state],
        text: text.trim().to_owned(),
        after: asked.after.map(Seq),
        limit: PAGE,
    };
    let found = find(&portal, &record.name, &search).await?;
    let view = portal.cluster.view();
    let now = query::now(&view)?;
    let held_until = match query::policy(&view, &record.name)?.attended {
        true => "when you receive it".to_owned(),
        false => overview::until_next(&portal, &record.name),
    };
    let lines = found
        .mail
        .into_iter()
        .map(|(mail, subject)| line(&mail, subject, &held_until, now))
        .collect();
    let next = found.next.map_or_else(String::new, |seq| seq.0.to_string());
    let (said, undo) = told(&asked);
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "mail"),
        tabs: TABS
            .iter()
            .map(|(state, name)| Tab {
                state,
                name,
                is_open: *state == word,
            })
            .collect(),
        asked_state: word.to_owned(),
        asked_text: text,
        lines,
        next,
        said,
        undo,
        undo_ids: asked.ids,
        acts: acts(state),
        next_title: match state {
            MailState::Deleted => "Gone for good",
            _ => "Next try",
        },
    })
}

fn word(state: MailState) -> &'static str {
    match state {
        MailState::Held => "held",
        MailState::Refused => "refused",
        MailState::Aside => "aside",
        MailState::Deleted => "deleted",
    }
}

/// What was done, and the verb that undoes it.
fn told(asked: &Asked) -> (String, &'static str) {
    let messages = count(asked.n, "message");
    match asked.done.as_str() {
        "hold" => (
            format!("{messages} kept back until you release."),
            "release",
        ),
        "delete" => (
            format!("{messages} deleted. You can have back what was deleted for 24 hours."),
            "undelete",
        ),
        "release" => (format!("{messages} will be delivered."), "hold"),
        "undelete" => (format!("{messages} had back."), "delete"),
        "requeue" => (format!("{messages} will be tried again now."), ""),
        "bounce" => (format!("{messages} will be given back to the sender."), ""),
        _ => (String::new(), ""),
    }
}

/// `held_until`: when what waits is tried next.
fn line(mail: &Listed, subject: String, held_until: &str, now: Timestamp) -> Line {
    let recipients: Vec<String> = mail.recipients().collect();
    let row = &mail.row;
    let next = match (mail.state, row.discard_at.or(row.retry_at)) {
        (MailState::Held, _) => held_until.to_owned(),
        (_, Some(at)) => format!("in {}", span(at.since(now))),
        (_, None) => "when you say so".to_owned(),
    };
    Line {
        id: row.message,
        from: match &mail.envelope.reverse_path {
            ReversePath::Null => "(no sender)".to_owned(),
            ReversePath::Mailbox(address) => address.to_string(),
        },
        to: match recipients.as_slice() {
            [first, rest @ ..] if !rest.is_empty() => format!("{first} and {} more", rest.len()),
            _ => recipients.join(""),
        },
        subject,
        size: bytes(mail.envelope.body.len),
        age: span(now.since(mail.envelope.received_at)),
        next,
        note: row.last_reply.clone(),
    }
}

pub(super) fn disposal(verb: &str) -> Option<Disposal> {
    Some(match verb {
        "hold" => Disposal::Hold,
        "release" => Disposal::Release,
        "delete" => Disposal::Delete,
        "undelete" => Disposal::Undelete,
        "requeue" => Disposal::Requeue,
        "bounce" => Disposal::Bounce,
        _ => return None,
    })
}

pub(super) async fn dispose(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let record = posted.who.domain(&portal, &name)?;
    let verb = posted.fields.get("do");
    let how = disposal(verb).ok_or_else(|| Problem::Wrong("the form names no act".to_owned()))?;
    let given = posted.fields.all("id").flat_map(|ids| ids.split(','));
    let ids: Vec<MessageId> = given
        .filter(|id| !id.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| Problem::Wrong("the form names no message".to_owned()))?;
    let back = word(state(posted.fields.get("state")));
    if ids.is_empty() {
        return Ok(Redirect::to(&format!("/d/{name}/mail?state={back}")).into_response());
    }
    let messages = ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let done = put(&portal, &posted.who, &record.name, how, ids).await?;
    let ids = messages.join(",");
    let to = format!("/d/{name}/mail?state={back}&done={verb}&n={done}&ids={ids}");
    Ok(Redirect::to(&to).into_response())
}

/// Does it, and says with how many messages something was done.
async fn put(
    portal: &Portal,
    who: &SignedIn,
    domain: &holdfast_mail::Domain,
    how: Disposal,
    messages: Vec<MessageId>,
) -> Result<u64, Problem> {
    // None would be all of the domain.
    if messages.is_empty() || messages.len() > DISPOSE_MAX {
        return Err(Problem::Wrong(format!("name 1 to {DISPOSE_MAX} messages")));
    }
    let person = who.person();
    let command = Command::Dispose {
        domain: domain.clone(),
        how,
        messages,
        held: false,
        by: person.who.clone(),
    };
    match portal.change(&person, command).await? {
        Reply::Disposed { messages, .. } => Ok(messages),
        other => Err(Problem::Unable(format!("unexpected: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_undone_is_undone_by_its_opposite() {
        for (verb, undo) in [
            ("hold", "release"),
            ("release", "hold"),
            ("delete", "undelete"),
            ("undelete", "delete"),
            ("bounce", ""),
            ("<script>", ""),
        ] {
            let asked = Asked {
                done: verb.to_owned(),
                ..Asked::default()
            };
            assert_eq!(told(&asked).1, undo);
            assert!(undo.is_empty() || disposal(undo).is_some());
        }
    }
}
