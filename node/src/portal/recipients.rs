//! The list of a domain's recipients.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use holdfast_ledger::{Command, query};

use super::Portal;
use super::door::{Posted, SignedIn};
use super::page::{Frame, Problem, count, render};
use crate::recipients::{self, Mode};

/// Names that are shown; all are in the file.
const SHOWN_MAX: usize = 500;

#[derive(serde::Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    done: String,
}

#[derive(Template)]
#[template(path = "recipients.html")]
struct Page {
    frame: Frame,
    mode: &'static str,
    names: Vec<String>,
    total: String,
    has_more: bool,
    said: &'static str,
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
    Query(said): Query<Said>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let view = portal.cluster.view();
    let mut names = query::recipients(&view, &record.name, None, usize::MAX)?;
    let total = names.len();
    names.truncate(SHOWN_MAX);
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "recipients"),
        mode: Mode::of(&query::policy(&view, &record.name)?).name(),
        total: count(total as u64, "name"),
        has_more: total > names.len(),
        names,
        said: match said.done.as_str() {
            "list" => "The list was changed. It holds on every node from now on.",
            "nothing" => "Nothing was changed: no name was added or removed.",
            "mode" => "Changed. It holds on every node from now on.",
            _ => "",
        },
    })
}

/// The whole list, one a line, as it can be imported again.
pub(super) async fn export(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let view = portal.cluster.view();
    let names = query::recipients(&view, &record.name, None, usize::MAX)?;
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{}-recipients.txt\"", record.name),
        ),
    ];
    Ok((headers, text).into_response())
}

pub(super) async fn change(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let record = posted.who.domain(&portal, &name)?;
    let domain = record.name;
    let person = posted.who.person();
    let fields = &posted.fields;
    if fields.get("do") == "mode" {
        let wrong = || Problem::Wrong("choose whose mail is taken".to_owned());
        let change = Mode::named(fields.get("mode")).ok_or_else(wrong)?.change();
        let command = Command::SetPolicy { domain, change };
        portal.change(&person, command).await?;
        return Ok(Redirect::to(&format!("/d/{name}/recipients?done=mode")).into_response());
    }
    let names = |field: &str| {
        fields
            .get(field)
            .split([',', ';', '\n'])
            .map(str::trim)
            // As files of addresses have them, the first mark of some editors'.
            .map(|line| line.trim_start_matches('\u{feff}'))
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|text| recipients::parse(text, &domain))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| Problem::Wrong(why.to_string()))
    };
    let (mut add, remove) = (names("add")?, names("remove")?);
    add.extend(names("file")?);
    let clear = fields.get("replace") == "yes";
    if clear && add.is_empty() {
        let why = "name those who are to be on the list; an empty list would refuse nobody";
        return Err(Problem::Wrong(why.to_owned()));
    }
    let commands = recipients::commands(&portal.cluster.view(), &domain, add, remove, clear)?;
    let done = match commands.is_empty() {
        true => "nothing",
        false => "list",
    };
    for command in commands {
        portal.change(&person, command).await?;
    }
    Ok(Redirect::to(&format!("/d/{name}/recipients?done={done}")).into_response())
}
