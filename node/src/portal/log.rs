//! Who did what with a domain and its mail, and who signed in to look after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use holdfast_ledger::query::{self, Audited};

use super::Portal;
use super::door::SignedIn;
use super::page::{Frame, Problem, count, render};
use crate::person;

/// The latest that are shown.
const SHOWN_MAX: usize = 200;

struct Line {
    at: String,
    by: String,
    from: String,
    what: String,
}

#[derive(Template)]
#[template(path = "log.html")]
struct Page {
    frame: Frame,
    lines: Vec<Line>,
}

pub(super) async fn show(
    State(portal): State<Arc<Portal>>,
    who: SignedIn,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let record = who.domain(&portal, &name)?;
    let view = portal.cluster.view();
    let all = query::audit(&view)?;
    // Who looks after it now, of those who tried to sign in.
    let mut looks_after = BTreeMap::new();
    let mut lines = Vec::new();
    for entry in all.iter().rev() {
        if entry.domain == record.name.as_str() {
            lines.push(line(entry));
        } else if let Some(what) = person::signed_in(entry) {
            let is_theirs = match looks_after.get(&entry.by) {
                Some(known) => *known,
                None => {
                    let account = query::account(&view, &entry.by)?;
                    let is_theirs = account.is_some_and(|it| it.domains.contains(&record.name));
                    looks_after.insert(entry.by.clone(), is_theirs);
                    is_theirs
                }
            };
            if is_theirs {
                let what = what.to_owned();
                lines.push(Line {
                    what,
                    ..line(entry)
                });
            }
        }
        if lines.len() == SHOWN_MAX {
            break;
        }
    }
    render(&Page {
        frame: Frame::of(&who, record.name.as_str(), "log"),
        lines,
    })
}

fn line(entry: &Audited) -> Line {
    Line {
        at: entry.at.minute(),
        by: entry.by.clone(),
        from: entry.from.clone(),
        what: match entry.messages.len() {
            0 => entry.what.clone(),
            number => format!("{} {}", entry.what, count(number as u64, "message")),
        },
    }
}
